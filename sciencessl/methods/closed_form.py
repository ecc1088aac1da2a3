"""BYOL with a linear predictor that no gradient reaches: it is set after each step from statistics of the projections.

The target, its moving average, the loss and the projector (with its norm) are BYOL's. Source: arXiv 2102.06810 and
2110.04947 (DirectPred, DirectSet, DirectCopy), arXiv 2302.04817 (NE, Visser, NS, NS2, Stiefel, and the regression that
they stand in for). The rules are in `predictor_rules`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from sciencessl.errors import ConfigError
from sciencessl.methods import predictor_rules as rules
from sciencessl.methods.base import Online, PairLoss, mlp
from sciencessl.methods.byol import Byol, ByolOptions


@dataclass(frozen=True)
class DirectOptions(ByolOptions):
    """Settings of predictors set from a moving average F of the correlation of projections.

    The defaults are those of the released run on STL-10 (ResNet-18, 100 epochs); `hidden` and `out` are its projector,
    whose batch norm has no scale and shift there.

    Attributes:
        rho: What F keeps of itself at a step, in [0, 1); the first F is that of the first step.
        eps: Boost of all directions, against a largest eigenvalue of 1. 0 lets small directions die, a large one makes
            the predictor the identity, which is no predictor.
        freq: Steps from one predictor to the next; F is averaged in each. In between the predictor rests (ours: the
            released code takes gradient steps there).
        centred: Take each step's mean off its correlation (ours: the released code takes an averaged mean off F).
    """

    hidden: int = 512
    out: int = 128
    tau_schedule: Literal["cosine", "constant"] = "constant"
    rho: float = 0.3
    eps: float = 0.01
    freq: int = 1
    centred: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.rho < 1.0:
            raise ConfigError(f"options.rho is {self.rho}; it must be in [0, 1). The released run's is 0.3.")
        if not 0.0 <= self.eps < math.inf:
            raise ConfigError(f"options.eps is {self.eps}; it must be 0 or more and finite.")
        if self.freq < 1:
            raise ConfigError(f"options.freq is {self.freq}; it must be 1 or more: steps from predictor to predictor.")


@dataclass(frozen=True)
class DirectSetOptions(DirectOptions):
    """Settings of DirectSet.

    Attributes:
        alpha: Power of the eigenvalues, above 0: 1/2 is DirectPred, 1 DirectCopy. The default is half way (ours).
    """

    alpha: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.alpha < math.inf:
            raise ConfigError(f"options.alpha is {self.alpha}; it must be above 0 and finite.")


@dataclass(frozen=True)
class RegressionOptions(ByolOptions):
    """Settings of predictors made of one step's statistics.

    Attributes:
        ridge: alpha of the `P + alpha I` that keeps the predictor near the orthogonal matrices, 0 or more. Where it is
            not 0, the best of arXiv 2302.04817 at 300 epochs of ImageNet-1k.
        ridge_on: What P is scaled to before: `spectral`, to a largest singular value of 1 (ours); `raw`, not at all.
        momentum: What the predictor keeps of itself at a step, in [0, 1), from the identity on (ours: the paper
            averages the predictor and gives no rate).
    """

    ridge: float = 0.0
    ridge_on: rules.RidgeOn = "spectral"
    momentum: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.ridge < math.inf:
            raise ConfigError(f"options.ridge is {self.ridge}; it must be 0 or more and finite.")
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(f"options.momentum is {self.momentum}; it must be in [0, 1).")


@dataclass(frozen=True)
class NeOptions(RegressionOptions):
    """Settings of NE: as `RegressionOptions`."""

    ridge: float = 0.15


@dataclass(frozen=True)
class VisserOptions(RegressionOptions):
    """Settings of Visser.

    Attributes:
        iterations: n, 1 or more; the paper says several dozen (40 is ours).
    """

    iterations: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        rules.check_iterations(self.iterations, name="options.iterations")


@dataclass(frozen=True)
class NsOptions(RegressionOptions):
    """Settings of NS and Stiefel.

    Attributes:
        iterations: n, 1 to 20: float32 is lost beyond.
    """

    ridge: float = 0.3
    iterations: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        rules.check_iterations(self.iterations, rules.MOST_ITERATIONS, "options.iterations")


@dataclass(frozen=True)
class Ns2Options(NsOptions):
    """Settings of NS2.

    Attributes:
        iterations: n of each of the two roots, 1 to 20.
    """

    ridge: float = 0.6
    iterations: int = 7


class SetLinear(nn.Module):
    """`p = W z` with a W that is set and not learned: a buffer, the identity at first.

    Gradient reaches z alone. Computed in the dtype of W, under autocast too.

    Args:
        width: d.
    """

    weight: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(width))

    def forward(self, z: Tensor) -> Tensor:
        """(B, d) -> (B, d)."""
        with torch.autocast(z.device.type, enabled=False):
            return linear(z.to(self.weight.dtype), self.weight)


class ClosedForm(Byol):
    """What the family shares: statistics of a step, and a predictor that is set from them.

    The statistics are means over all rows of a step, of all micro-batches and processes, of the two large views' online
    projections z, stacked, and where `uses_targets` of the target's t of the opposite view. Small views are predicted
    from and not counted (ours). The predictor is set after the optimiser, so that each step's forward pass has the one
    of the step before; the first has the identity.
    """

    uses_targets: ClassVar[bool] = False
    predictor: SetLinear

    def __init__(self, encoder: nn.Module, options: ByolOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        self._sums: Tensor | None = None

    def heads(self, options: ByolOptions, generator: torch.Generator) -> tuple[nn.Sequential, nn.Module]:
        """BYOL's projector, and a predictor that has nothing to draw."""
        return mlp(self.features, options.hidden, options.out, generator, self.norm), SetLinear(options.out)

    @abstractmethod
    def renew(self, gram: Tensor, cross: Tensor, mean: Tensor) -> None:
        """Set the predictor, without gradient and on every rank alike.

        Args:
            gram: (d, d) mean of z z^T.
            cross: (d, d) mean of z t^T; (d, 0) without targets.
            mean: (d,) mean of z.
        """

    def prepared(self, rows: Tensor) -> Tensor:
        """(B, d) projections as the rule wants them: as they are."""
        return rows

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """BYOL's; keeps the statistics of the micro-batch until the step is done."""
        if torch.is_grad_enabled():  # else the step is only surveyed
            self._keep(online.projections[:2], [targets[1], targets[0]])
        return super().pair_loss(online, targets)

    @torch.no_grad()
    def _keep(self, projections: Sequence[Tensor], opposite: Sequence[Tensor]) -> None:
        dtype = self.predictor.weight.dtype
        with torch.autocast(projections[0].device.type, enabled=False):
            z, t = (self.prepared(torch.cat(list(rows)).to(dtype)) for rows in (projections, opposite))
            one = z.new_ones(len(z), 1)
            # All sums in one matrix: of products, of z in the last row, and of rows in its corner.
            right = torch.cat([z, t, one] if self.uses_targets else [z, one], dim=1)
            found = torch.cat([z, one], dim=1).mT @ right
        self._sums = found if self._sums is None else self._sums + found

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Set the predictor from the step's statistics; then BYOL's."""
        if self._sums is not None:
            sums = self.ranks.sum(self._sums)
            means, width = sums / sums[-1, -1], len(sums) - 1
            self.renew(means[:width, :width], means[:width, width:-1], means[-1, :width])
            self._sums = None
        return super().after_step(step, total)


class _Direct(ClosedForm):
    """From a moving average F of the correlation of projections, kept in the buffer `correlation`."""

    status: ClassVar[str] = "verified"
    correlation: Tensor

    def __init__(self, encoder: nn.Module, options: DirectOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        self.register_buffer("correlation", torch.zeros(options.out, options.out))
        self._taken = 0  # steps that F has seen

    @abstractmethod
    def rule(self, correlation: Tensor) -> Tensor:
        """F -> W, both (d, d)."""

    def renew(self, gram: Tensor, cross: Tensor, mean: Tensor) -> None:
        """Average F, and set W every `freq` steps, from the first one on."""
        found = gram - torch.outer(mean, mean) if self.options.centred else gram
        self.correlation.lerp_(found, 1.0 - self.options.rho if self._taken else 1.0)
        # Not by the index of the step, which passes over some where batches grow.
        if self._taken % self.options.freq == 0:
            self.predictor.weight.copy_(self.rule(self.correlation))
        self._taken += 1

    def get_extra_state(self) -> Tensor:
        """Steps that F has seen: on the host, where reading it waits for no device."""
        return torch.tensor([self._taken])

    def set_extra_state(self, state: Tensor) -> None:
        """What `get_extra_state` gave."""
        (self._taken,), self._sums = state.tolist(), None


class DirectPred(_Direct):
    """W has the eigenvectors of F and the square roots of its eigenvalues, plus eps."""

    title: ClassVar[str] = "DirectPred: BYOL's predictor set to the square root of the projections' correlation"
    paper: ClassVar[str] = "arXiv 2102.06810"
    Options: ClassVar[type] = DirectOptions

    def rule(self, correlation: Tensor) -> Tensor:
        """`direct_set` with alpha 1/2."""
        return rules.direct_set(correlation, 0.5, self.options.eps)


class DirectSet(_Direct):
    """As DirectPred with any power of the eigenvalues."""

    title: ClassVar[str] = "DirectSet: BYOL's predictor set to a power of the projections' correlation"
    paper: ClassVar[str] = "arXiv 2110.04947"
    Options: ClassVar[type] = DirectSetOptions

    def rule(self, correlation: Tensor) -> Tensor:
        """`direct_set`."""
        return rules.direct_set(correlation, self.options.alpha, self.options.eps)


class DirectCopy(_Direct):
    """W is F, scaled, plus eps.

    The update is that of the released code (its direct branch with exponent 1; the option named for the method cannot
    run there); dividing F by its spectral norm is ours.
    """

    title: ClassVar[str] = "DirectCopy: BYOL's predictor set to the projections' correlation, without eigenvectors"
    paper: ClassVar[str] = "arXiv 2110.04947"
    Options: ClassVar[type] = DirectOptions

    def rule(self, correlation: Tensor) -> Tensor:
        """`direct_copy`."""
        return rules.direct_copy(correlation, self.options.eps)


class _Edge(ClosedForm):
    """From one step's statistics, with a ridge; the predictor is what is averaged. W is the transpose of the paper's P.

    P is a constant of the loss (ours: the paper does not say).
    """

    paper: ClassVar[str] = "arXiv 2302.04817"
    status: ClassVar[str] = "reconstructed"

    @abstractmethod
    def rule(self, gram: Tensor, cross: Tensor) -> Tensor:
        """Statistics -> P, all (d, d)."""

    def renew(self, gram: Tensor, cross: Tensor, mean: Tensor) -> None:
        """P, its ridge, and the average."""
        found = rules.ridged(self.rule(gram, cross), self.options.ridge, self.options.ridge_on)
        self.predictor.weight.lerp_(found.mT, 1.0 - self.options.momentum)


class Lrp(_Edge):
    """The least-squares predictor of each step: the reference of the others, unstable while projections have low rank.
    It is cut off where that rank ends (ours); near there P hangs on rounding, and so on the number of processes."""

    title: ClassVar[str] = "LRP: BYOL's predictor set to the step's linear regression of targets on projections"
    uses_targets: ClassVar[bool] = True
    Options: ClassVar[type] = RegressionOptions

    def rule(self, gram: Tensor, cross: Tensor) -> Tensor:
        """`regression`."""
        return rules.regression(gram, cross)


class Ne(_Edge):
    """The regression with two terms of the Neumann series in place of its inverse, of projections of length 1.

    That length and the means bring the trace of Z^T Z to 1, and so its eigenvalues to where the series converges (ours:
    the paper asks for a well-chosen normalisation).
    """

    title: ClassVar[str] = "NE: BYOL's predictor set to a Neumann series of the step's regression"
    uses_targets: ClassVar[bool] = True
    Options: ClassVar[type] = NeOptions

    def prepared(self, rows: Tensor) -> Tensor:
        """Rows of length 1."""
        return normalize(rows, dim=1)

    def rule(self, gram: Tensor, cross: Tensor) -> Tensor:
        """`neumann`."""
        return rules.neumann(gram, cross)


class Visser(_Edge):
    """The square root of the step's correlation, by Visser's iteration."""

    title: ClassVar[str] = "Visser: BYOL's predictor set to the root of the step's correlation, by Visser's iteration"
    Options: ClassVar[type] = VisserOptions

    def rule(self, gram: Tensor, cross: Tensor) -> Tensor:
        """`visser` with our rate."""
        return rules.visser(gram, self.options.iterations)


class Ns(_Edge):
    """The square root of the step's correlation, by Newton-Schulz iterations."""

    title: ClassVar[str] = "NS: BYOL's predictor set to the root of the step's correlation, by Newton-Schulz iterations"
    Options: ClassVar[type] = NsOptions

    def rule(self, gram: Tensor, cross: Tensor) -> Tensor:
        """The root of `newton_schulz`."""
        return rules.newton_schulz(gram, self.options.iterations)[0]


class Ns2(_Edge):
    """The fourth root of the step's correlation, by Newton-Schulz iterations twice."""

    title: ClassVar[str] = "NS2: BYOL's predictor set to the fourth root of the step's correlation"
    Options: ClassVar[type] = Ns2Options

    def rule(self, gram: Tensor, cross: Tensor) -> Tensor:
        """`fourth_root`."""
        return rules.fourth_root(gram, self.options.iterations)


class Stiefel(_Edge):
    """The step's correlation made orthogonal on its range, softly, by Newton-Schulz iterations."""

    title: ClassVar[str] = "Stiefel: BYOL's predictor set to the step's correlation made orthogonal"
    Options: ClassVar[type] = NsOptions

    def rule(self, gram: Tensor, cross: Tensor) -> Tensor:
        """`stiefel`."""
        return rules.stiefel(gram, self.options.iterations)
