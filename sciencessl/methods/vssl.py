"""VSSL: the projector gives a Gaussian, whose prior is the slow copy's Gaussian of the other view. arXiv 2504.04318."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.linear import uniform_linear
from sciencessl.losses.regression import negative_cosine
from sciencessl.losses.variational import cosine_divergence, gaussian_divergence, reparameterised, squared_error
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.optim.target import TargetUpdater

LOG_VARIANCE = (-8.0, 4.0)
"""Bounds of a log-variance; outside it has no gradient. Ours: nothing else holds it where online and target drift."""
FIRST_LOG_VARIANCE = -2.0
"""Every log-variance at the start. Ours."""


@dataclass(frozen=True)
class VsslOptions(ByolOptions):
    """Settings of VSSL. All defaults are ours, heads and momentum those of BYOL: the paper's are not recovered.

    Attributes:
        form: `gaussian` compares in nats, `cosine` by directions.
        beta: Weight of the divergence, 0 or more; it is summed over dimensions, so that beta belongs to `out`.
        gamma: Weight of the log-variances within the cosine form of the divergence, 0 or more.
        deviation: s, standard deviation of the Gaussian form's likelihood, above 0.
    """

    form: Literal["gaussian", "cosine"] = "gaussian"
    beta: float = 1.0
    gamma: float = 0.1
    deviation: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("gaussian", "cosine"):
            raise ConfigError(f"options.form is {self.form!r}; it must be 'gaussian' or 'cosine'.")
        for name in ("beta", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be 0 or more, and finite.")
        if not 0 < self.deviation < math.inf:
            raise ConfigError(f"options.deviation is {self.deviation}; it must be above 0, and finite.")


@dataclass(frozen=True)
class Posteriors(Online):
    """Online outputs of Gaussians: projections are their means, predictions those of a sample each.

    Attributes:
        log_variances: (B, D) within `LOG_VARIANCE`, one a view.
    """

    log_variances: list[Tensor]


class GaussianHead(nn.Module):
    """(B, H) -> (B, 2 D): means, then log-variances, which start at `FIRST_LOG_VARIANCE` for every input.

    Args:
        mean: (B, H) -> (B, D).
        hidden: H.
        out: D.
        generator: As for every layer; the weights of the log-variances are 0.
    """

    def __init__(self, mean: nn.Module, hidden: int, out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.mean = mean
        self.log_variance = uniform_linear(hidden, out, 0.0, (FIRST_LOG_VARIANCE, FIRST_LOG_VARIANCE), generator)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return torch.cat([self.mean(x), self.log_variance(x).clamp(*LOG_VARIANCE)], dim=1)


class Vssl(Byol):
    """A variational autoencoder without decoder: online Gaussian q, target Gaussian p of another view as its prior.

    `L = 1/2 sum over targets b of [beta KL(q(.|a) || p(.|b)) - E log N(h(z); m_p(b), s^2 I)]`, z a sample of q(.|a), h
    BYOL's predictor as the denoiser, constants left out; the mean over all views a != b where there are small ones,
    which are no target (ours). In the `cosine` form both terms are cosines, and with beta 0 and no noise L is a quarter
    of BYOL's. That the prior is the slow copy's Gaussian, and the order of the divergence, are second hand; the
    objective, the cosine forms and all defaults are our definition, to be replaced when the paper is at hand.

    A constant mean with equal variances costs nothing, as in BYOL; the divergence passes no predictor, so that a large
    beta pulls towards that. `log_variance` (mean over dimensions) and `divergence` are logged. Noise is of torch's
    global generator. The representation stays the encoder's output.
    """

    title: ClassVar[str] = "VSSL: Gaussian projections, with the target's Gaussian of the other view as their prior"
    paper: ClassVar[str] = "arXiv 2504.04318"
    status: ClassVar[str] = "ours"
    Options: ClassVar[type] = VsslOptions

    def __init__(self, encoder: nn.Module, options: VsslOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        self.projector[-1] = GaussianHead(self.projector[-1], options.hidden, options.out, generator)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self._updater = TargetUpdater(self.target_pairs(), buffers="own")

    def online(self, views: Sequence[Tensor]) -> Posteriors:
        """y, mean and log-variance of every view, and the prediction from a sample."""
        representations = [self.encoder(view) for view in views]
        moments = [self.projector(y).chunk(2, dim=1) for y in representations]
        means, logs = ([pair[part] for pair in moments] for part in (0, 1))
        samples = [reparameterised(mean, log, torch.randn_like(mean)) for mean, log in moments]
        return Posteriors(representations, means, [self.predictor(z) for z in samples], logs)

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Means of the two large views, then their log-variances."""
        moments = [z.chunk(2, dim=1) for z in super().target(views)]
        return [pair[part] for part in (0, 1) for pair in moments]

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Each target from every other view, their mean, and half of both; the label scale is the mean negative cosine
        of predictions and the target's means."""
        assert isinstance(online, Posteriors)
        means, logs = targets[:2], targets[2:]
        first, second = (self._against(online, own, means[own], logs[own]) for own in (0, 1))
        divergence, denoised, cosine = (0.5 * (first + second)).sum(dim=1)
        log_variance = torch.stack(online.log_variances).detach().float().mean(dim=(0, 2)).sum()
        logged = {"log_variance": log_variance, "divergence": divergence.detach()}
        return PairLoss(self.options.beta * divergence + denoised, cosine.detach(), len(means[0]), logged)

    def _against(self, online: Posteriors, own: int, mean: Tensor, log: Tensor) -> Tensor:
        """(3, B) divergence, denoising term and negative cosine of a target, mean over all views but its own."""
        options, found = self.options, []
        views = zip(online.projections, online.log_variances, online.predictions, strict=True)
        for view, (online_mean, online_log, prediction) in enumerate(views):
            if view == own:
                continue
            gaussians = (online_mean, online_log, mean, log)
            cosine = negative_cosine(prediction, mean.detach())
            if options.form == "cosine":
                terms = (cosine_divergence(*gaussians, options.gamma), 1.0 + cosine, cosine)
            else:
                terms = (gaussian_divergence(*gaussians), squared_error(prediction, mean, options.deviation), cosine)
            found.append(torch.stack(terms))
        return torch.stack(found).mean(dim=0)
