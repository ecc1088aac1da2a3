"""TriBYOL: three views and two targets beside one online network, for small batches. Source: arXiv 2206.03012."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import negative_cosine
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.optim.target import TargetUpdater

VIEWS = 3
"""Large views; those after them are predicted from alone."""


@dataclass(frozen=True)
class TribyolOptions(ByolOptions):
    """Settings of TriBYOL. The defaults are those of re-implementations (second hand): the paper's are not recovered.

    Attributes:
        hidden: Width of the hidden layer of projector and predictor; re-implementations take 512 or 2048.
        out: Width of a projection.
        targets: `alternate` moves the first target after even steps and the second after odd ones; `both` moves both
            after each step. Which one the paper does is not verified.
        symmetric: Each target also predicts the first view's projection; False is the one-way form of another
            re-implementation, in which the online network sees the first view alone.
    """

    hidden: int = 512
    out: int = 128
    targets: Literal["alternate", "both"] = "alternate"
    symmetric: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets not in ("alternate", "both"):
            raise ConfigError(f"options.targets is {self.targets!r}; it must be 'alternate' or 'both'.")


class Tribyol(Byol):
    """BYOL between views 1 and 2 with one target, and between views 1 and 3 with another, by one online network.

    With D = 2 - 2 cos(p, sg z), a the first target's projections and b the second one's,
    `L = mean_B 1/2 [D(p1, a2) + D(p2, a1) + D(p1, b3) + D(p3, b1)]`: BYOL's loss where all cosines are equal, in
    [0, 8]. The one-way form is `D(p1, a2) + D(p1, b3)`. The idea is the abstract's, the loss that of two
    re-implementations, which disagree on the form: reconstructed, not verified. Small views predict each target and
    are never predicted (ours).

    Targets start as equal copies, so that moving both each step keeps them equal for ever, and the second one useless;
    moving them in turn is what makes them differ. Each then moves every other step, and lags like a BYOL target of
    momentum sqrt(tau): take tau_base ** 2 for BYOL's lag. Which target is next is counted in updates and kept in the
    checkpoint, since the step's index skips where batches grow.
    """

    title: ClassVar[str] = "TriBYOL: predict two targets, moved in turn, from three views"
    paper: ClassVar[str] = "arXiv 2206.03012"
    status: ClassVar[str] = "reconstructed"
    cost: ClassVar[float] = (3 * VIEWS + 4) / 8
    n_views: ClassVar[int] = VIEWS
    Options: ClassVar[type] = TribyolOptions
    _second_pairs: Sequence[tuple[nn.Module, nn.Module]] = ()

    def __init__(self, encoder: nn.Module, options: TribyolOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        self.second_target_encoder = copy.deepcopy(self.target_encoder)
        self.second_target_projector = copy.deepcopy(self.target_projector)
        self._second_pairs = [
            (self.second_target_encoder, self.encoder), (self.second_target_projector, self.projector),
        ]
        self._updaters = [self._updater, TargetUpdater(self._second_pairs, buffers="own")]
        self._updates = 0

    def online(self, views: Sequence[Tensor]) -> Online:
        """y, z and p of every view; in the one-way form of all but the second and third."""
        return super().online(views if self.options.symmetric else [views[0], *views[VIEWS:]])

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """a1, a2, b1 and b3; in the one-way form a2 and b3."""
        first, second, third = views[:VIEWS]
        if not self.options.symmetric:
            return [self._first(second), self._second(third)]
        return [self._first(first), self._first(second), self._second(first), self._second(third)]

    def _first(self, view: Tensor) -> Tensor:
        z: Tensor = self.target_projector(self.target_encoder(view))
        return z

    def _second(self, view: Tensor) -> Tensor:
        z: Tensor = self.second_target_projector(self.second_target_encoder(view))
        return z

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder and projector of the first target, then of the second."""
        return [*super().target_pairs(), *self._second_pairs]

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Each target predicted from the large view beside it and all small ones, their mean; the label scale is the
        mean negative cosine."""
        beside = (1, 0, 2, 0) if self.options.symmetric else (0, 0)
        small = online.predictions[max(beside) + 1 :]
        cosines = torch.stack([
            torch.stack([negative_cosine(p, z) for p in (online.predictions[large], *small)]).mean(dim=0)
            for large, z in zip(beside, targets, strict=True)
        ])
        # Two directions count, as in BYOL: half of four, or both of two.
        rows = 2.0 * (2.0 + 2.0 * cosines).mean(dim=0)
        return PairLoss(rows.sum(), cosines.mean(dim=0).detach().sum(), len(rows))

    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Move the target whose turn it is, or both, with the momentum of this step's index, scaled to the batch."""
        tau = self.momentum(step, total)
        turn = self._updaters[self._updates % 2]
        for updater in self._updaters if self.options.targets == "both" else [turn]:
            updater.update(tau)
        self._updates += 1
        return {"tau": tau}

    def get_extra_state(self) -> Tensor:
        """Updates done: on the host, where reading it waits for no device."""
        return torch.tensor([self._updates])

    def set_extra_state(self, state: Tensor) -> None:
        """What `get_extra_state` gave."""
        self._updates = int(state)
