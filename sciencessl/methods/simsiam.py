"""SimSiam: BYOL without a target network: what is predicted is the network's own output, held still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.methods.base import Method, Online, PairLoss, deep_mlp


@dataclass(frozen=True)
class SimsiamOptions:
    """Settings of SimSiam; the defaults are the paper's, for a ResNet-50.

    Attributes:
        hidden: Width of the two hidden layers of the projector; the paper's is that of the representation.
        out: Width of a projection.
        bottleneck: Width of the hidden layer of the predictor; the paper's is a quarter of `out`.
    """

    hidden: int = 2048
    out: int = 2048
    bottleneck: int = 512

    def __post_init__(self) -> None:
        for name in ("hidden", "out", "bottleneck"):
            if getattr(self, name) < 1:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be 1 or more.")


class Simsiam(Method):
    """Encoder, projector of three layers and a predictor with a bottleneck; nothing else.

    `L = mean_B [-cos(p1, sg z2) / 2 - cos(p2, sg z1) / 2]` (equations 1 to 4). Small views, where there are any, are
    predicted from but never predicted, as in BYOL here (ours).

    The predictor learns at the rate of everything else: the paper's better runs keep its rate constant, which belongs
    to the optimiser's schedule and is left out.
    """

    title: ClassVar[str] = "SimSiam: BYOL without a moving average, its own projection of the other view predicted"
    paper: ClassVar[str] = "arXiv 2011.10566"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 0.75
    Options: ClassVar[type] = SimsiamOptions

    def __init__(self, encoder: nn.Module, options: SimsiamOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        widths = [self.features, options.hidden, options.hidden, options.out]
        self.projector = deep_mlp(widths, generator, self.norm, bias=False, end="standardised")
        narrow = [options.out, options.bottleneck, options.out]
        self.predictor = deep_mlp(narrow, generator, self.norm, bias=False, end="biased")

    def online(self, views: Sequence[Tensor]) -> Online:
        """y, z and p of every view."""
        representations = [self.encoder(view) for view in views]
        projections = [self.projector(y) for y in representations]
        return Online(representations, projections, [self.predictor(z) for z in projections])

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """The negative cosine of each large view's z, without gradient, and the p of all other views."""
        aims = [z.detach() for z in online.projections[: self.n_views]]
        rows = cross_view_cosine(online.predictions, aims)
        return PairLoss(rows.sum(), rows.detach().sum(), len(rows))
