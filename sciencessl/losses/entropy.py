"""The ER bound on the mutual information of two views: how spread the embeddings are, and how well one tells the other.

`I(Z1; Z2) >= H(Z2) + E log q(Z2 | Z1)`, so `reconstruction - entropy` is minimised. On the sphere both terms hold the
constant `vmf_constant`, which cancels and is left out of them. Source: arXiv 2307.10907 and its released estimators
(verified); which tensors of a method they are given is said where that is chosen.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sciencessl.errors import ConfigError, unknown_name
from sciencessl.losses.precision import full_precision
from sciencessl.losses.regression import negative_cosine

Estimator = Literal["expectation", "average"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)

KAPPA = 10.0
"""Default concentration of the von Mises-Fisher kernel, of the released code; a temperature of 0.1."""

EPSILON = 1e-7
"""Added to probabilities inside a logarithm, as in the released code."""


def sphere_entropy(points: Tensor, kappa: float = KAPPA, estimator: Estimator = "expectation") -> Tensor:
    """Entropy of directions by a kernel density of themselves, less the constant c: `H - vmf_constant(D, kappa)`.

    With `log p_i = LSE_j(kappa z_i . z_j) - log N - c`, the point itself among the j: `average` is the mean of -log p_i
    (Joe's estimator), `expectation` weighs it by softmax_i(log p_i) (the plug-in estimator); the weights learn too, as
    in the released code. -kappa where all directions are one, at most log N - kappa; N is the batch, so that values of
    different batches do not compare. At a full collapse the gradient is zero by symmetry: it prevents one and does not
    undo it. Reflections, rotations and the order of rows change nothing.

    Args:
        points: (N, D) vectors of any length, of which only the directions count; any floating dtype.
        kappa: Concentration of the kernel, above 0: the larger, the nearer a neighbour must be to count as one.
        estimator: One of the two.

    Returns:
        Scalar in nats, float32 at least (also under autocast).

    Raises:
        ConfigError: For a kappa that is not above 0, or an unknown estimator.

    Source: arXiv 2307.10907, its released code, verified; normalising here, and dropping c, are ours.
    """
    if not kappa > 0:
        raise ConfigError(f"entropy: kappa is {kappa}; it must be above 0. The released code takes {KAPPA}.")
    if estimator not in ESTIMATORS:
        raise ConfigError(unknown_name("entropy estimator", estimator, ESTIMATORS))
    (points,) = full_precision(points)
    unit = normalize(points, dim=1)
    with torch.autocast(points.device.type, enabled=False):
        kernel = (kappa * unit) @ unit.T
    surprise = math.log(len(unit)) - kernel.logsumexp(dim=1)
    if estimator == "average":
        return surprise.mean()
    return ((-surprise).softmax(dim=0) * surprise).sum()


def sphere_reconstruction(query: Tensor, target: Tensor, kappa: float = KAPPA) -> Tensor:
    """-log of a von Mises-Fisher density around the query at the target, less the constant c: `-kappa cos`.

    Gradient reaches both; detach what must not learn.

    Args:
        query: (B, D) vectors of any length.
        target: (B, D), likewise.
        kappa: Concentration.

    Returns:
        (B,) in [-kappa, kappa], float32 at least.

    Raises:
        ConfigError: When the shapes differ.

    Source: arXiv 2307.10907, its released code, verified; dropping c is ours.
    """
    return kappa * negative_cosine(query, target)


def discrete_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of the mean row: `-sum_k m_k log(m_k + 1e-7)`, how evenly clusters are used.

    Args:
        probabilities: (N, K), rows of sum 1; or, for N rows in equal parts, the mean of each part.

    Returns:
        Scalar in nats, float32 at least: 0 for one cluster, log K for all alike (less 1e-7 K).

    Source: arXiv 2307.10907, its released code (`expectation`), verified.
    """
    mean = full_precision(probabilities)[0].mean(dim=0)
    return -(mean * (mean + EPSILON).log()).sum()


def discrete_reconstruction(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of two distributions, mean of both directions, with 1e-7 inside the logarithms.

    Gradient reaches both; detach what must not learn.

    Args:
        first: (B, K), rows of sum 1.
        second: (B, K), likewise.

    Returns:
        (B,) in nats, float32 at least; 0 where both are the same one-hot row (less 1e-7).

    Raises:
        ConfigError: When the shapes differ.

    Source: arXiv 2307.10907, its released code, verified.
    """
    if first.shape != second.shape:
        raise ConfigError(
            f"reconstruction: {tuple(first.shape)} and {tuple(second.shape)} probabilities; their shapes must be equal."
        )
    first, second = full_precision(first, second)
    both = first * (second + EPSILON).log() + second * (first + EPSILON).log()
    return -0.5 * both.sum(dim=-1)


def vmf_constant(dimensions: int, kappa: float) -> float:
    """c = minus the log of what normalises the von Mises-Fisher density `exp(kappa mu . z)` on the unit sphere.

    `c = -(D/2 - 1) log kappa + (D/2) log 2 pi + log I_{D/2-1}(kappa)`: the entropy of a sphere is `sphere_entropy` + c,
    the reconstruction `sphere_reconstruction` + c. The released code adds 1e-7 to the Bessel function, which for many
    dimensions is far more than the function itself (log I_499(10) is -1802): its entropies are off by a constant.

    Args:
        dimensions: D, 2 or more.
        kappa: Above 0.

    Raises:
        ConfigError: For values outside their range.

    Source: the density's definition; the series is `log_bessel`'s.
    """
    half = dimensions / 2
    bessel = log_bessel(half - 1, kappa)
    return -(half - 1) * math.log(kappa) + half * math.log(2 * math.pi) + bessel


def log_bessel(order: float, x: float) -> float:
    """log I_v(x), the modified Bessel function of the first kind, where the function itself is out of range too.

    The logarithm of `sum_k (x/2)^(2k+v) / (k! Gamma(k+v+1))`, whose terms are positive and greatest before k = x / 2.

    Args:
        order: v, 0 or more.
        x: Above 0.

    Raises:
        ConfigError: For values outside their range.

    Source: the power series, DLMF 10.25.2.
    """
    if not (order >= 0 and 0 < x < math.inf):
        raise ConfigError(f"Bessel function: order {order} at {x}; the order must be 0 or more, x finite and above 0.")
    rise = math.log(x / 2)
    terms = [
        (2 * k + order) * rise - math.lgamma(k + 1) - math.lgamma(k + order + 1)
        for k in range(int(x) + 64)  # beyond x the terms fall by 4 or more each, from one that is small already
    ]
    greatest = max(terms)
    return greatest + math.log(math.fsum(math.exp(term - greatest) for term in terms))
