"""Barlow Twins: the correlations of the features of two views should be the identity. No target, no negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.decorrelation import barlow_twins
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.methods.base import Method, Online, PairLoss, deep_mlp


@dataclass(frozen=True)
class BarlowTwinsOptions:
    """Settings of Barlow Twins; the defaults are those of the released code.

    Attributes:
        hidden: Width of the two hidden layers of the projector.
        out: Width of a projection: D features whose correlations count.
        redundancy: lambda, weight of the correlations of different features, 0 or more.
        loss_scale: Factor of the loss, above 0. The released code gives biases and norms a learning rate of 0.0048
            where weights have 0.2; under LARS, whose weights do not see the scale of a loss, one rate for all and this
            factor of 0.0048 / 0.2 are the same but for weight decay.
    """

    hidden: int = 8192
    out: int = 8192
    redundancy: float = 0.0051
    loss_scale: float = 0.024

    def __post_init__(self) -> None:
        for name in ("hidden", "out"):
            if getattr(self, name) < 1:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be 1 or more.")
        if not self.redundancy >= 0:
            raise ConfigError(f"options.redundancy is {self.redundancy}; it must be 0 or more. The paper's is 0.0051.")
        if not self.loss_scale > 0:
            raise ConfigError(f"options.loss_scale is {self.loss_scale}; it must be above 0.")


class BarlowTwins(Method):
    """Encoder and projector; the loss looks at features, over the batch of all processes.

    `L = sum_i (1 - C_ii)^2 + lambda sum over i != j of C_ij^2`, C the correlations over the batch of the features of
    two views (equation 1). With micro-batches, they are those of one micro-batch.

    More than two views count as pairs, the mean over those of which one is large (ours: the paper has two).
    """

    title: ClassVar[str] = "Barlow Twins: make the correlations of the features of two views the identity"
    paper: ClassVar[str] = "arXiv 2103.03230"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 0.75
    Options: ClassVar[type] = BarlowTwinsOptions

    def __init__(self, encoder: nn.Module, options: BarlowTwinsOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        widths = (self.features, options.hidden, options.hidden, options.out)
        self.projector = deep_mlp(widths, generator, self.norm, bias=False)

    def online(self, views: Sequence[Tensor]) -> Online:
        """y and z of every view."""
        representations = [self.encoder(view) for view in views]
        return Online(representations, [self.projector(y) for y in representations], [])

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """`barlow_twins` of the whole batch, once a row of this process; the label scale is the negative cosine of each
        large view and all others."""
        views = online.projections
        everyone = [self.ranks.gather_learning(z) for z in views]
        losses = [
            barlow_twins(everyone[large], z, self.options.redundancy)
            for large in range(self.n_views) for z in everyone[large + 1 :]
        ]
        loss = self.options.loss_scale * torch.stack(losses).mean()
        rows = len(views[0])
        return PairLoss(loss * rows, cross_view_cosine(views, views[: self.n_views]).detach().sum(), rows)
