"""BYOL: predict a slow copy's projection of the other view. No negatives. Source: arXiv 2006.07733."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.methods.base import Method, Online, PairLoss, mlp
from sciencessl.optim.scaling import scaled_momentum
from sciencessl.optim.schedules import target_momentum
from sciencessl.optim.target import TargetUpdater


@dataclass(frozen=True)
class ByolOptions:
    """Settings of BYOL; the defaults are the paper's.

    Attributes:
        hidden: Width of the hidden layer of projector and predictor.
        out: Width of a projection.
        tau_base: Target momentum at step 0, in [0, 1].
        tau_schedule: `cosine` rises from `tau_base` to 1 over the run, `constant` stays.
        tau_batch: Batch that the momentum belongs to: at another batch B, tau ** (B / tau_batch) is used, so that the
            target lags by as many samples. 0: the batch that the run begins with.
    """

    hidden: int = 4096
    out: int = 256
    tau_base: float = 0.996
    tau_schedule: Literal["cosine", "constant"] = "cosine"
    tau_batch: int = 0

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.out < 1:
            raise ConfigError(f"options.hidden is {self.hidden}, options.out is {self.out}; both must be 1 or more.")
        if not 0.0 <= self.tau_base <= 1.0:
            raise ConfigError(f"options.tau_base is {self.tau_base}; it must be in [0, 1]. The paper's is 0.996.")
        if self.tau_batch < 0:
            raise ConfigError(
                f"options.tau_batch is {self.tau_batch}; it must be 0 or more. The paper's momentum belongs to 4096; 0 "
                "is the batch that the run begins with."
            )


class Byol(Method):
    """Online encoder, projector and predictor; target encoder and projector, a moving average of the online ones.

    `L = mean_B [2 - 2 cos(q(g(f(v1))), sg z'_2) + 2 - 2 cos(q(g(f(v2))), sg z'_1)]` (equation 2, symmetrised). The
    target starts as a copy, runs in training mode on its own batch statistics, and moves after the optimiser. Small
    views, where there are any, are predicted from but never predicted, as in SwAV (ours).
    """

    title: ClassVar[str] = "BYOL: predict the target's projection of the other view"
    paper: ClassVar[str] = "arXiv 2006.07733"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 1.0
    Options: ClassVar[type] = ByolOptions

    def __init__(self, encoder: nn.Module, options: ByolOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        self.projector, self.predictor = self.heads(options, generator)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self._first_batch, self._kappa = 0, 1.0
        self._updater = TargetUpdater(self.target_pairs(), buffers="own")

    def heads(self, options: ByolOptions, generator: torch.Generator) -> tuple[nn.Sequential, nn.Module]:
        """Projector and predictor, drawn in this order; a subclass may have others."""
        projector = mlp(self.features, options.hidden, options.out, generator, self.norm)
        return projector, mlp(options.out, options.hidden, options.out, generator, self.norm)

    def online(self, views: Sequence[Tensor]) -> Online:
        """y, z and p of every view."""
        representations = [self.encoder(view) for view in views]
        projections = [self.projector(y) for y in representations]
        return Online(representations, projections, [self.predictor(z) for z in projections])

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """z' of the two large views."""
        return [self.target_projector(self.target_encoder(view)) for view in views[:2]]

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder and projector; the predictor has no target."""
        return [(self.target_encoder, self.encoder), (self.target_projector, self.projector)]

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Each target predicted from every other view, their mean, and both targets summed; the label scale is the
        mean negative cosine."""
        cosine = cross_view_cosine(online.predictions, targets)
        # 2 - 2 cos in each direction, written on the negative cosine that the label term needs as well.
        return PairLoss((4.0 + 4.0 * cosine).sum(), cosine.detach().sum(), len(cosine))

    def at_batch(self, batch: int) -> None:
        """Scale the momentum from `tau_batch` to this batch; the lowest one, at the start, decides what is refused."""
        first = self._first_batch or batch
        kappa = batch / (getattr(self.options, "tau_batch", 0) or first)  # a subclass may have options of its own
        scaled_momentum(self.options.tau_base, kappa)
        self._first_batch, self._kappa = first, kappa

    def momentum(self, step: int, total: int) -> float:
        """tau of a step's index, scaled to the batch (arXiv 2307.13813)."""
        tau = target_momentum(step, total, self.options.tau_base, self.options.tau_schedule)
        return scaled_momentum(tau, self._kappa)

    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Move the target with the momentum of this step's index."""
        tau = self.momentum(step, total)
        self._updater.update(tau)
        return {"tau": tau}
