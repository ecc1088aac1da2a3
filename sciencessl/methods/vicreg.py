"""VICReg: views of a sample alike, features that vary, and no two that vary together. No target, no negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.decorrelation import vicreg_covariance, vicreg_invariance, vicreg_spread
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.methods.base import Method, Online, PairLoss, deep_mlp


@dataclass(frozen=True)
class VicregOptions:
    """Settings of VICReg; the defaults are the paper's.

    Attributes:
        hidden: Width of the two hidden layers of the expander.
        out: Width of its output: D features.
        invariance: Weight of the distance of the two views, 0 or more.
        spread: Weight of the hinge that keeps each feature varying, 0 or more.
        covariance: Weight of the squared covariances of different features, 0 or more.
    """

    hidden: int = 8192
    out: int = 8192
    invariance: float = 25.0
    spread: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("hidden", 1), ("out", 1), ("invariance", 0), ("spread", 0), ("covariance", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be {least} or more.")


class Vicreg(Method):
    """Encoder and expander; variances and covariances are those of the batch of all processes.

    `L = 25 MSE(z1, z2) + 25 (v(z1) + v(z2)) / 2 + c(z1) + c(z2)` with `v(z) = mean_d max(0, 1 - sd_d)` and
    `c(z) = 1 / D sum over i != j of Cov_ij^2`. This is the released code, whose distance is a mean over features and
    whose spread a mean over the two views, where equation 6 has sums. With micro-batches, the statistics are those of
    one micro-batch.

    More than two views (ours: the paper has two): the distance is a mean over the pairs of which one is large, spread
    and covariance a mean over all views, the latter twice that as in the formula.
    """

    title: ClassVar[str] = "VICReg: views alike, features that vary, and no two that vary together"
    paper: ClassVar[str] = "arXiv 2105.04906"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 0.75
    Options: ClassVar[type] = VicregOptions

    def __init__(self, encoder: nn.Module, options: VicregOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        widths = (self.features, options.hidden, options.hidden, options.out)
        self.projector = deep_mlp(widths, generator, self.norm)

    def online(self, views: Sequence[Tensor]) -> Online:
        """y and z of every view."""
        representations = [self.encoder(view) for view in views]
        return Online(representations, [self.projector(y) for y in representations], [])

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """The three terms, which are logged too; the label scale is the negative cosine of each large view and all
        others."""
        views, options = online.projections, self.options
        everyone = [self.ranks.gather_learning(z) for z in views]
        apart = torch.stack([
            vicreg_invariance(views[large], z) for large in range(self.n_views) for z in views[large + 1 :]
        ]).mean(dim=0)
        rows = len(apart)
        terms = {
            "invariance": apart.sum(),
            "spread": rows * torch.stack([vicreg_spread(z) for z in everyone]).mean(),
            "covariance": rows * 2 * torch.stack([vicreg_covariance(z) for z in everyone]).mean(),
        }
        total = torch.stack([getattr(options, name) * term for name, term in terms.items()]).sum()
        scale = cross_view_cosine(views, views[: self.n_views]).detach().sum()
        return PairLoss(total, scale, rows, {name: term.detach() for name, term in terms.items()})
