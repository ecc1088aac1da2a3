"""MSBReg: views as particles, pulled to their centre, spread evenly, and kicked at random. arXiv 2207.03552."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sciencessl.errors import ConfigError, unknown_name
from sciencessl.losses.particles import CENTROIDS, Centroid, brownian_kick, centroid_attraction, singular_spread
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions


@dataclass(frozen=True)
class MsbregOptions(ByolOptions):
    """Settings of MSBReg. Heads and momentum are BYOL's (our choice: the paper's are not recovered).

    Attributes:
        centroid: Form of the attraction: `ema`, `cos` or `squared`, as in `centroid_attraction`; our choice.
        weight_singular: Of the spread over dimensions, 0 or more; ours. It also acts against classes that fill few
            dimensions: keep it small.
        weight_brownian: Of the kick, 0 or more; that of a third-party implementation.
    """

    centroid: Centroid = "ema"
    weight_singular: float = 0.1
    weight_brownian: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.centroid not in CENTROIDS:
            raise ConfigError(unknown_name("options.centroid", self.centroid, CENTROIDS))
        for name in ("weight_singular", "weight_brownian"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be 0 or more, and finite.")


class Msbreg(Byol):
    """BYOL's networks, with each view of a sample pulled to the centre of the target's views of it.

    `L = L_M + w_S L_S + w_B L_B`: attraction to the centroid, evenness of singular values, and a Brownian kick (see
    `sciencessl.losses.particles`). The three terms and their roles are verified, the equations are not: L_M and L_B are
    those of a third-party implementation, L_S is ours. With `ema`, no other term and equal views, L is BYOL's loss of
    one direction: half of BYOL's total.

    Two large views or more (`views.large_views`; the abstract says several, the number is not verified). Small ones
    are online views like the others, and no part of the target's centre (ours). The singular values are those of a
    micro-batch of all processes. The kick is drawn once a sample and step, of torch's global generator.
    """

    title: ClassVar[str] = "MSBReg: pull views to their centre, spread all over the dimensions, kick each at random"
    paper: ClassVar[str] = "arXiv 2207.03552"
    status: ClassVar[str] = "reconstructed"
    Options: ClassVar[type] = MsbregOptions

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """z' of every large view: of those of the first one's size."""
        large = [view for view in views if view.shape == views[0].shape]
        return [self.target_projector(self.target_encoder(view)) for view in large]

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """The three terms; the label scale is the mean negative cosine of views and the target's centre."""
        options, rows = self.options, len(targets[0])
        particles, aims = torch.stack(online.predictions, dim=1), torch.stack(list(targets), dim=1)
        total = centroid_attraction(particles, aims, options.centroid).sum()
        logged = {}
        if options.weight_singular:
            spread = rows * singular_spread(self.ranks.gather_learning(particles.flatten(0, 1)))
            total, logged["singular"] = total + options.weight_singular * spread, spread.detach()
        if options.weight_brownian:
            kicks = torch.randn(rows, particles.shape[2], device=particles.device)
            kicked = brownian_kick(particles, kicks).sum()
            total, logged["brownian"] = total + options.weight_brownian * kicked, kicked.detach()
        scale = 0.5 * centroid_attraction(particles.detach(), aims, "ema").sum() - rows
        return PairLoss(total, scale, rows, logged)
