"""SimCLR: find the other view of a sample among all samples of the batch. No target, no predictor, no queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.contrastive import nt_xent
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.methods.base import Method, Online, PairLoss, deep_mlp


@dataclass(frozen=True)
class SimclrOptions:
    """Settings of SimCLR; the defaults are the paper's, for a ResNet-50.

    Attributes:
        hidden: Width of the hidden layers of the projector; the paper's is that of the representation.
        out: Width of a projection.
        layers: Linear layers of the projector, 2 or more; SimCLR v2 (arXiv 2006.10029) has 3.
        temperature: T of the softmax, above 0.
    """

    hidden: int = 2048
    out: int = 128
    layers: int = 2
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("hidden", 1), ("out", 1), ("layers", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be {least} or more.")
        if not self.temperature > 0:
            raise ConfigError(f"options.temperature is {self.temperature}; it must be above 0. The paper's is 0.1.")


class Simclr(Method):
    """Encoder and projector; all other samples of the batch, on all processes, are negatives.

    `L = mean over i, (v, a) of -log [exp s(v_i, a_i) / sum over k != v_i of exp s(v_i, k)]`, s the cosine over T
    (equation 1). The projector is that of the released code: batch norm after each layer, the last without a shift.

    Small views, where there are any, look for the two large ones and are not looked for (ours, as in `nt_xent`). With
    micro-batches, the negatives of a row are those of its micro-batch.
    """

    title: ClassVar[str] = "SimCLR: find the other view among all samples of the batch"
    paper: ClassVar[str] = "arXiv 2002.05709"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 0.75
    Options: ClassVar[type] = SimclrOptions

    def __init__(self, encoder: nn.Module, options: SimclrOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        widths = (self.features, *[options.hidden] * (options.layers - 1), options.out)
        self.projector = deep_mlp(widths, generator, self.norm, bias=False, end="scaled")

    def online(self, views: Sequence[Tensor]) -> Online:
        """y and z of every view."""
        representations = [self.encoder(view) for view in views]
        return Online(representations, [self.projector(y) for y in representations], [])

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """`nt_xent` of all views with the two large ones as keys; the label scale is the negative cosine of the same
        pairs."""
        views = online.projections
        keys = [self.ranks.gather_learning(z) for z in views[: self.n_views]]
        rows = nt_xent(views, keys, self.options.temperature, self.ranks.rank * len(views[0]))
        return PairLoss(rows.sum(), cross_view_cosine(views, views[: self.n_views]).detach().sum(), len(rows))
