"""CCSL and CSSL: BYOL that also pulls together different samples which it already finds alike. arXiv 2204.04545.

Verified in the authors' repository are the thresholds, the heads and the momentum. The classes of both losses are
missing there, so the losses are our definition after the abstract.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import cosines
from sciencessl.losses.self_labelling import best_of_row, choose_pairs, chosen_mean
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions


@dataclass(frozen=True)
class CcslOptions(ByolOptions):
    """Settings of CCSL. Thresholds, heads and momentum are the authors' code's; all others are ours.

    Attributes:
        hidden: Width of the hidden layer of projector and predictor.
        out: Width of a projection.
        tau_schedule: As in BYOL; constant in the authors' code.
        theta_positive: Two samples with a score of this or more are taken to be alike; at most 1.
        theta_negative: Those with this or less to be unlike; below `theta_positive`, at least -1.
        weight_positive: Of the term that pulls alike samples together, 0 or more.
        weight_negative: Of the term that pushes unlike ones apart, 0 or more. The abstract claims attraction alone.
        top: Most alike samples of each sample, the best ones; 0 for no limit.
        warmup: Share of the run, in [0, 1], before either term takes part: at the start all samples look alike.
    """

    hidden: int = 512
    out: int = 512
    tau_schedule: Literal["cosine", "constant"] = "constant"
    theta_positive: float = 0.8
    theta_negative: float = 0.2
    weight_positive: float = 1.0
    weight_negative: float = 0.0
    top: int = 1
    warmup: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1.0 <= self.theta_negative < self.theta_positive <= 1.0:
            raise ConfigError(
                f"options.theta_negative is {self.theta_negative}, options.theta_positive is {self.theta_positive}; "
                "the first must be below the second, and both in [-1, 1]: a threshold outside is never met. The "
                "authors' are 0.2 and 0.8."
            )
        for name in ("weight_positive", "weight_negative"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be 0 or more, and finite.")
        if self.top < 0:
            raise ConfigError(f"options.top is {self.top}; it must be 0 or more, 0 for no limit.")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"options.warmup is {self.warmup}; it must be a share of the run, in [0, 1].")


@dataclass(frozen=True)
class CsslOptions(CcslOptions):
    """Settings of CSSL: those of CCSL, and

    Attributes:
        sharpness: a in the score sigmoid(a cos), above 0 and so large that both thresholds can be reached.
    """

    sharpness: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sharpness < math.inf:
            raise ConfigError(f"options.sharpness is {self.sharpness}; it must be above 0, and finite.")
        least, most = _sigmoid(-self.sharpness), _sigmoid(self.sharpness)
        if self.theta_negative < least or self.theta_positive > most:
            raise ConfigError(
                f"options.theta_negative is {self.theta_negative}, options.theta_positive is {self.theta_positive}, "
                f"but the sigmoid of {self.sharpness:g} times a cosine is in [{least:.6f}, {most:.6f}]: a threshold "
                "outside is never met. Raise options.sharpness; 0.2 and 0.8 need more than ln 4 = 1.386."
            )


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else 1.0 - _sigmoid(-x)


class Ccsl(Byol):
    """BYOL, and attraction between the predictions and targets of samples whose cosine is high.

    With S the cosines of the predictions of one view and the target's projections of the other,
    `M+ = {i != j: S_ij >= theta+}` and `M- = {i != j: S_ij <= theta-}`, each direction adds
    `w+ mean_M+ (2 - 2 S_ij) + w- mean_M- max(0, S_ij)` to BYOL's loss; a mean over no pair is 0. Masks are of values
    without gradient, and of each row of M+ the best `top` count. Our definition after the abstract: the authors'
    repository lacks the class. Pairs are those of a micro-batch of all processes, of large views.

    `alike` and `unlike` are logged: |M+| / B^2, before that limit, and |M-| / B^2. An `alike` near 1 says that
    everything is pulled into one point.
    """

    title: ClassVar[str] = "CCSL: BYOL that pulls together samples whose cosine is high"
    paper: ClassVar[str] = "arXiv 2204.04545"
    status: ClassVar[str] = "ours"
    Options: ClassVar[type] = CcslOptions
    _begun: bool | None = None

    def at_step(self, step: int, total: int) -> None:
        """Whether warm-up is over."""
        self._begun = step >= self.options.warmup * total

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """BYOL's loss, and after warm-up the pairs' of both directions; the label scale is BYOL's."""
        byol = super().pair_loss(online, targets)
        found = [self._pairs(online.predictions[0], targets[1]), self._pairs(online.predictions[1], targets[0])]
        logged = {name: 0.5 * (found[0][name] + found[1][name]) for name in ("alike", "unlike")}
        begun = self.options.warmup == 0 if self._begun is None else self._begun
        total = byol.total + found[0]["loss"] + found[1]["loss"] if begun else byol.total
        return PairLoss(total, byol.scale, byol.rows, logged)

    def _pairs(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Sums over rows of the pairs' loss and of the shares of pairs, of one direction."""
        options, ranks = self.options, self.ranks
        first = ranks.rank * len(targets)
        everyone = ranks.gather(targets)
        found = cosines(predictions, everyone.detach())
        scores = self._scores(found.detach())
        chosen = choose_pairs(scores, options.theta_positive, options.theta_negative, first)
        alike = best_of_row(scores, chosen.alike, options.top)
        counts = ranks.sum(torch.stack([alike.sum(), chosen.unlike.sum()]))
        pull, push = self._costs(found)
        loss = options.weight_positive * chosen_mean(pull, alike, counts[0])
        loss = loss + options.weight_negative * chosen_mean(push, chosen.unlike, counts[1])
        shares = {name: mask.sum() / len(everyone) for name, mask in zip(("alike", "unlike"), chosen, strict=True)}
        # A mean over the pairs of all counts once a row of all; each process adds what its own rows have of it.
        return {"loss": loss * len(everyone), **shares}

    def _scores(self, cosines: Tensor) -> Tensor:
        """What thresholds are of."""
        return cosines

    def _costs(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) costs of a pair as an alike one, and as an unlike one."""
        return 2.0 - 2.0 * cosines, cosines.clamp(min=0.0)


class Cssl(Ccsl):
    """As CCSL, with the probability `Q_ij = sigmoid(a S_ij)` that two samples are alike in place of their cosine.

    Each direction adds `w+ mean_M+ -log Q_ij + w- mean_M- -log(1 - Q_ij)`, with `M+ = {i != j: Q_ij >= theta+}` and
    `M- = {i != j: Q_ij <= theta-}`. Our definition, the sharpness a included: a sigmoid of the cosine alone is within
    [0.268941, 0.731059], so that neither of the authors' thresholds would ever be met.
    """

    title: ClassVar[str] = "CSSL: BYOL that pulls together samples which are alike with a high probability"
    Options: ClassVar[type] = CsslOptions

    def _scores(self, cosines: Tensor) -> Tensor:
        return torch.sigmoid(self.options.sharpness * cosines)

    def _costs(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.options.sharpness * cosines
        return -logsigmoid(logits), -logsigmoid(-logits)
