"""ER: the entropy of the embeddings made explicit, as the loss of BYOL, SimCLR and DINO. Source: arXiv 2307.10907.

The bound `I(Z1; Z2) >= H(Z2) + E log q(Z2 | Z1)` takes the place of the host's loss; all else stays the host's. The
estimators are those of the released code (`losses.entropy`). It has no trainer: which tensors of a host they are given
is our reading. Entropies are those of the rows of a micro-batch on all processes, with gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sciencessl.errors import ConfigError, unknown_name
from sciencessl.losses.entropy import (
    ESTIMATORS,
    KAPPA,
    Estimator,
    discrete_entropy,
    discrete_reconstruction,
    sphere_entropy,
)
from sciencessl.losses.precision import full_precision
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.dino import Dino, DinoOptions
from sciencessl.methods.simclr import Simclr, SimclrOptions
from sciencessl.train.ranks import Ranks

LARGE = 2
"""Views that are reconstructed, and whose entropy counts: the first two."""


@dataclass(frozen=True)
class ErByolOptions(ByolOptions):
    """Settings of BYOL with the ER bound: BYOL's, and two more.

    Attributes:
        kappa: Concentration of the density around each point, an inverse temperature. The default is the released
            code's.
        estimator: Of the entropy: `expectation` (plug-in, the released code's default) or `average` (Joe's).
    """

    kappa: float = KAPPA
    estimator: Estimator = "expectation"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.kappa, self.estimator)


class ErByol(Byol):
    """BYOL's networks, views and target; the loss is kappa times BYOL's cosine, less an entropy.

    `L = mean over i of [mean over v != i of -kappa cos(p_v, sg z'_i) - H(z_i)]`, i the two large views. The entropy is
    that of the online projections, since the target's gives no gradient (our reading).
    """

    title: ClassVar[str] = "ER in BYOL: reconstruct the target's projection, and keep the entropy of projections up"
    paper: ClassVar[str] = "arXiv 2307.10907"
    status: ClassVar[str] = "ours"
    Options: ClassVar[type] = ErByolOptions

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Reconstruction error less entropy, both without the constant of the density."""
        cosine = cross_view_cosine(online.predictions, targets)
        return _bound(self.options.kappa * cosine, _entropy(online.projections, self.options, self.ranks), cosine)


@dataclass(frozen=True)
class ErSimclrOptions:
    """Settings of SimCLR with the ER bound, which has no temperature; the head's defaults are SimCLR's.

    Attributes:
        hidden: Width of the hidden layers of the projector.
        out: Width of a projection. 128 fits the entropies that the paper shows (inferred).
        layers: Linear layers of the projector, 2 or more.
        kappa: Concentration of the density around each point, an inverse temperature. The default is the released
            code's.
        estimator: Of the entropy: `expectation` (plug-in, the released code's default) or `average` (Joe's).
    """

    hidden: int = 2048
    out: int = 128
    layers: int = 2
    kappa: float = KAPPA
    estimator: Estimator = "expectation"

    def __post_init__(self) -> None:
        SimclrOptions(self.hidden, self.out, self.layers)
        _check(self.kappa, self.estimator)


class ErSimclr(Simclr):
    """SimCLR's encoder and projector, and the bound in place of its contrast.

    `L = mean over i of [mean over v != i of -kappa cos(z_v, z_i) - H(z_i)]`, i the two large views, with gradient on
    both sides (our reading). Small views are reconstructed from, and never reconstructed (ours).
    """

    title: ClassVar[str] = "ER in SimCLR: reconstruct the other view, and keep the entropy of projections up"
    paper: ClassVar[str] = "arXiv 2307.10907"
    status: ClassVar[str] = "ours"
    Options: ClassVar[type] = ErSimclrOptions

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Reconstruction error less entropy, both without the constant of the density."""
        cosine = cross_view_cosine(online.projections, online.projections[:LARGE])
        return _bound(self.options.kappa * cosine, _entropy(online.projections, self.options, self.ranks), cosine)


@dataclass(frozen=True)
class ErDinoOptions(DinoOptions):
    """Settings of DINO with the ER bound: DINO's, but for the centre, which is off.

    Attributes:
        centre_momentum: 1, no centring: the entropy term keeps clusters in use (our reading). Below 1 both do.
    """

    centre_momentum: float = 1.0


class ErDino(Dino):
    """DINO's networks, views, temperatures and teacher; the loss is the bound between two choices of a cluster.

    `L = mean over i of [mean over v != i of R(w_v, sg q_i) - H(mean w_i)]`, i the two large views, w the student's
    `softmax(s / T)` and q the teacher's; R is the cross-entropy of both directions, H of the mean over the batch (our
    reading).
    """

    title: ClassVar[str] = "ER in DINO: reconstruct the teacher's clusters, and keep all clusters in use"
    paper: ClassVar[str] = "arXiv 2307.10907"
    status: ClassVar[str] = "ours"
    Options: ClassVar[type] = ErDinoOptions

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Reconstruction error less entropy."""
        codes = self.teach(targets)
        chosen = [(scores / self.options.temperature).softmax(dim=1) for scores in self.score(online.projections)]
        errors = [
            discrete_reconstruction(w, q) for own, q in enumerate(codes) for v, w in enumerate(chosen) if v != own
        ]
        # Means of equal parts have the mean of all rows, and are a small message where there are many clusters.
        means = self.ranks.gather_learning(torch.stack([w.mean(dim=0) for w in chosen[:LARGE]])[None])
        entropy = torch.stack([discrete_entropy(view) for view in means.unbind(dim=1)]).mean()
        return _bound(torch.stack(errors).mean(dim=0), entropy, cross_view_cosine(online.projections, targets))


def _entropy(projections: Sequence[Tensor], options: ErByolOptions | ErSimclrOptions, ranks: Ranks) -> Tensor:
    """Mean over the large views of the entropy of their projections on all processes."""
    everyone = ranks.gather_learning(torch.stack(full_precision(*projections[:LARGE]), dim=1))
    views = everyone.unbind(dim=1)
    return torch.stack([sphere_entropy(view, options.kappa, options.estimator) for view in views]).mean()


def _bound(reconstruction: Tensor, entropy: Tensor, cosine: Tensor) -> PairLoss:
    """From (B,) errors, the entropy of the batch, and the (B,) negative cosines of what is compared."""
    rows = len(reconstruction)
    whole = entropy * rows
    logged = {"entropy": whole.detach(), "reconstruction": reconstruction.detach().sum()}
    return PairLoss(reconstruction.sum() - whole, cosine.detach().sum(), rows, logged)


def _check(kappa: float, estimator: str) -> None:
    if not kappa > 0:
        raise ConfigError(f"options.kappa is {kappa}; it must be above 0. The released code takes {KAPPA}.")
    if estimator not in ESTIMATORS:
        raise ConfigError(unknown_name("options.estimator", estimator, ESTIMATORS))
