"""DINO: a student learns the soft clusters that a slow copy of it sees in the large crops. Source: arXiv 2104.14294."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from sciencessl.backbones.norms import replace_norms
from sciencessl.errors import ConfigError
from sciencessl.losses.linear import uniform_linear
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.losses.swav import swapped_prediction
from sciencessl.methods.base import Method, Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.optim.target import TargetUpdater
from sciencessl.setting_groups import Norm

TEACHING = 2
"""Views that the teacher sees: the first two, which are large."""


@dataclass(frozen=True)
class DinoOptions(ByolOptions):
    """Settings of DINO, with BYOL's. Defaults are the released code's; what it counts in epochs is a share (ours).

    Attributes:
        hidden: Width of the two hidden layers of a head.
        out: Width of the bottleneck, which is normalised.
        norm: Batch norm after the hidden layers; off in the released code unless asked for.
        prototypes: Clusters, K.
        temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's softmax after its warm-up. 0.07 is that of the longer released recipe; the
            code's own default is 0.04 from first to last.
        teacher_temperature_start: Of the teacher's softmax at step 0, from where it moves in a line.
        warmup_share: Share of the run in which it moves. 30 of 300 epochs, with 0.07, in the released recipe, which
            moves it once an epoch.
        resting_share: Share of the run, from step 0 on, in which the prototypes stay as drawn. One of 100 epochs in the
            released code.
        centre_momentum: Share of the centre that each step keeps; 1 keeps it at 0: no centring.
        drop_path: Stochastic depth of the student's encoder; that of a transformer in the released code, where other
            networks have none. The teacher has none.
    """

    hidden: int = 2048
    norm: bool = False
    prototypes: int = 65536
    temperature: float = 0.1
    teacher_temperature: float = 0.07
    teacher_temperature_start: float = 0.04
    warmup_share: float = 0.1
    resting_share: float = 0.01
    centre_momentum: float = 0.9
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prototypes < 2:
            raise ConfigError(f"options.prototypes is {self.prototypes}; it must be 2 or more. The code has 65536.")
        for name in ("temperature", "teacher_temperature", "teacher_temperature_start"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be above 0, and is near 0.1.")
        for name in ("warmup_share", "resting_share", "centre_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be in [0, 1].")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"options.drop_path is {self.drop_path}; it must be in [0, 1). The code has 0.1.")


class Dino(Byol):
    """Student and teacher: encoder, head with a normalised bottleneck, and prototypes of length 1; no predictor.

    `L = mean over teacher views i in 1, 2 and views v != i of -sum_k q_ik log softmax(s_v / T)_k`, with
    `q_i = softmax((t_i - c) / T')` from the teacher's scores t of its two large views, and s the student's of all.
    Scores are cosines of bottleneck and prototypes. `c <- m c + (1 - m) mean t` after the step, over all its rows,
    large views and processes, in float32: the centre keeps one cluster from taking all, the low T' keeps all from being
    taken alike. The teacher follows the student after the optimiser, its momentum rising to 1. All of this was read in
    the released code.

    Views of one size share a forward and its batch statistics, as there. The teacher's encoder is evaluated there, and
    exported here. Bottleneck vectors are the projections; the label term is scaled by the mean negative cosine of
    student and teacher bottlenecks over the pairs of the loss (ours). Logged is the entropy of the teacher's rows: log
    K where it knows no cluster, 0 where each row has one; the loss less it is how far the student is from it.

    The recipe's other half belongs to the optimiser and is not set here: AdamW at 0.0005 for 256 images, weight decay
    that rises from 0.04 to 0.4 in a cosine, gradients clipped at norm 3; and multi-crop to the views: 2 large, 8 small.
    The last layer's length is fixed at 1; the released code can learn it as well.
    """

    title: ClassVar[str] = "DINO: predict the teacher's centred, sharpened clusters of the large crops from all others"
    paper: ClassVar[str] = "arXiv 2104.14294"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 1.0
    exports: ClassVar[str] = "target_encoder"
    Options: ClassVar[type] = DinoOptions
    centre: Tensor

    def __init__(self, encoder: nn.Module, options: DinoOptions, generator: torch.Generator) -> None:
        Method.__init__(self, encoder, options, generator)  # BYOL's own would build other heads, and a predictor
        widths = (self.features, options.hidden, options.hidden, options.out)
        self.projector = _head(widths, self.norm if options.norm else None, generator)
        self.prototypes = Prototypes(options.out, options.prototypes, generator)
        self.target_encoder = without_drop_path(copy.deepcopy(encoder)).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.target_prototypes = copy.deepcopy(self.prototypes).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(options.prototypes))
        self._first_batch, self._kappa = 0, 1.0
        self._updater = TargetUpdater(self.target_pairs(), buffers="own")
        self._share = 0.0  # of the run, that is over
        self._seen: Tensor | None = None  # sum of the teacher's scores in this step
        self._rows = 0

    def online(self, views: Sequence[Tensor]) -> Online:
        """y and the unit vector of the bottleneck of every view; scores belong to the loss."""
        representations: list[Tensor] = []
        for _, group in groupby(views, key=lambda view: view.shape[1:]):
            crops = list(group)
            representations += self.encoder(torch.cat(crops)).split([len(crop) for crop in crops])
        return Online(representations, _bottleneck(self.projector, representations), [])

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's unit vectors of the two large views."""
        large = views[:TEACHING]
        return _bottleneck(self.target_projector, self.target_encoder(torch.cat(list(large))).chunk(len(large)))

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder, head and prototypes."""
        return [
            (self.target_encoder, self.encoder),
            (self.target_projector, self.projector),
            (self.target_prototypes, self.prototypes),
        ]

    def resting(self) -> Sequence[nn.Parameter]:
        """The prototypes, in the first share of the run."""
        return [self.prototypes.weight] if self._share < self.options.resting_share else []

    @property
    def teacher_temperature(self) -> float:
        """T' of the step that is to be taken: in a line from its start to its end over the warm-up, then the end."""
        first, last = self.options.teacher_temperature_start, self.options.teacher_temperature
        done = self._share / self.options.warmup_share if self._share < self.options.warmup_share else 1.0
        return float(first + (last - first) * done)

    def at_step(self, step: int, total: int) -> None:
        """Where the run is decides the temperature of the teacher, and whether prototypes rest."""
        self._share = step / total

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """The teacher's clusters of each large view, predicted from every other view."""
        codes = self.teach(targets)
        rows = swapped_prediction(self.score(online.projections), codes, self.options.temperature)
        least = torch.finfo(codes[0].dtype).tiny  # 0 log 0 is 0; torch's own entr takes twice as long
        entropies = -torch.stack([(code * code.clamp(min=least).log()).sum() for code in codes])
        scale = cross_view_cosine(online.projections, targets).detach().sum()
        return PairLoss(rows.sum(), scale, len(rows), {"teacher_entropy": entropies.mean()})

    def score(self, units: Sequence[Tensor]) -> list[Tensor]:
        """(B, K) cosines of the student's bottlenecks and prototypes, one tensor a view."""
        return list(self.prototypes(torch.cat(list(units))).split([len(unit) for unit in units]))

    def teach(self, units: Sequence[Tensor]) -> list[Tensor]:
        """(B, K) probabilities of clusters by the teacher, no gradient; its scores are remembered for the centre."""
        learning = torch.is_grad_enabled()  # else the step is only surveyed
        with torch.no_grad():
            scores = self.target_prototypes(torch.cat(list(units)))
            if learning and self.options.centre_momentum < 1:
                total = scores.sum(dim=0)
                self._seen = total if self._seen is None else self._seen + total
                self._rows += len(scores)
            sharp = ((scores - self.centre) / self.teacher_temperature).softmax(dim=1)
        return list(sharp.split([len(unit) for unit in units]))

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Move teacher and centre."""
        told = super().after_step(step, total)
        if self._seen is not None:
            mean = self.ranks.sum(self._seen) / (self._rows * self.ranks.world)
            self.centre.lerp_(mean.to(self.centre), 1.0 - self.options.centre_momentum)
        self._seen, self._rows = None, 0
        return {**told, "teacher_temperature": self.teacher_temperature}


class Prototypes(nn.Module):
    """Unit vectors -> cosines with K directions: a linear layer whose rows have length 1, in float32 at least.

    In half precision the rounding of a score, divided by a temperature, would be seen in the probabilities.

    Args:
        width: D.
        prototypes: K.
        generator: Draws the (K, D) weights, U(-1/sqrt(D), 1/sqrt(D)): torch's rule, as in the released code.

    Source: arXiv 2104.14294; weight normalisation with a gain of 1 in its released code.
    """

    def __init__(self, width: int, prototypes: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(prototypes, width).uniform_(-bound, bound, generator=generator))

    def forward(self, unit: Tensor) -> Tensor:
        """(B, D) -> (B, K)."""
        with torch.autocast(unit.device.type, enabled=False):
            return linear(unit.to(self.weight.dtype), normalize(self.weight, dim=1))


def without_drop_path(encoder: nn.Module) -> nn.Module:
    """The encoder, its stochastic depth switched off in place: it drops no path in training mode either."""
    from timm.layers import DropPath

    for module in encoder.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return encoder


def _bottleneck(head: nn.Module, representations: Sequence[Tensor]) -> list[Tensor]:
    """Unit vectors of all views, in one forward of the head."""
    projected = head(torch.cat(list(representations)))
    with torch.autocast(projected.device.type, enabled=False):
        unit = normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=1)
    return list(unit.split_with_sizes([len(y) for y in representations]))


def _head(widths: Sequence[int], norm: Norm | None, generator: torch.Generator) -> nn.Sequential:
    """Linear layers with GELU between them, weights normal with spread 0.02, biases 0. Source: the released code."""
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        if layers:
            layers += [nn.BatchNorm1d(width), nn.GELU()] if norm else [nn.GELU()]
        layer = uniform_linear(width, following, 0.0, (0.0, 0.0), generator)
        nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
        layers.append(layer)
    head = nn.Sequential(*layers)
    return cast("nn.Sequential", replace_norms(head, norm)) if norm else head
