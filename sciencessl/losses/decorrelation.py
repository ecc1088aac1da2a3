"""Losses of features rather than samples: those of a batch should vary and say different things.

All of them look at the rows of the whole batch, compute in float32 at least, under autocast too, and count features
that say the same without a (D, D) matrix where the batch has fewer rows than that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision

NORM_EPS = 1e-5
"""Beside the variance where features are standardised: torch's batch norm, which the released code uses."""

SPREAD_EPS = 1e-4
"""Beside the variance in VICReg's spread, inside the root: a constant feature keeps a finite gradient."""


def barlow_twins(first: Tensor, second: Tensor, redundancy: float = 0.0051) -> Tensor:
    """Barlow Twins: the correlations C of the features of two views should be the identity.

    `sum_i (1 - C_ii)^2 + redundancy * sum over i != j of C_ij^2` with `C = U1' U2 / N`, U standardised over the batch:
    mean 0 and, but for an eps of 1e-5, biased variance 1. A constant feature correlates with nothing.

    Args:
        first: (N, D): projections of one view.
        second: (N, D): of the other.
        redundancy: lambda, 0 or more.

    Returns:
        Scalar, 0 or more but for rounding: 0 for the identity, D where all features are constant.

    Raises:
        ConfigError: When the shapes differ.

    Source: Barlow Twins (arXiv 2103.03230), equations 1 and 2, and its released code.
    """
    _check_pair(first, second)
    left, right = (_standardised(rows) for rows in full_precision(first, second))
    diagonal = (left * right).mean(dim=0)
    off_diagonal = _squared_products(left, right) - diagonal.square().sum()
    return (1.0 - diagonal).square().sum() + redundancy * off_diagonal


def vicreg_spread(rows: Tensor) -> Tensor:
    """VICReg's variance term: mean over features of `max(0, 1 - sqrt(var + 1e-4))`, with unbiased variances.

    Args:
        rows: (N, D): projections of one view.

    Returns:
        Scalar in [0, 0.99]: 0.99 for constant features, 0 where each has a variance of 1 or more.

    Source: VICReg (arXiv 2105.04906), equations 1 and 2; eps as in the released code.
    """
    (rows,) = full_precision(rows)
    variance = _centred(rows).square().sum(dim=0) / max(len(rows) - 1, 1)
    return (1.0 - (variance + SPREAD_EPS).sqrt()).clamp(min=0.0).mean()


def vicreg_covariance(rows: Tensor) -> Tensor:
    """VICReg's covariance term: `1 / D * sum over i != j of Cov_ij^2`, with the unbiased covariance of the batch.

    Args:
        rows: (N, D): projections of one view.

    Returns:
        Scalar, 0 or more but for rounding: 0 where no two features vary together.

    Source: VICReg (arXiv 2105.04906), equations 3 and 4.
    """
    (rows,) = full_precision(rows)
    centred = _centred(rows)
    freedom = max(len(rows) - 1, 1)
    variance = centred.square().sum(dim=0) / freedom
    return (_squared_products(centred, centred) * (len(rows) / freedom) ** 2 - variance.square().sum()) / rows.shape[1]


def vicreg_invariance(first: Tensor, second: Tensor) -> Tensor:
    """VICReg's invariance term of each row: the mean squared difference of the features of two views.

    Args:
        first: (B, D): projections of one view.
        second: (B, D): of the other.

    Returns:
        (B,), 0 or more.

    Raises:
        ConfigError: When the shapes differ.

    Source: VICReg (arXiv 2105.04906), its released code; equation 5 of the paper sums over the features.
    """
    _check_pair(first, second)
    first, second = full_precision(first, second)
    return (first - second).square().mean(dim=1)


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=0)


def _standardised(rows: Tensor) -> Tensor:
    centred = _centred(rows)
    return centred * (centred.square().mean(dim=0) + NORM_EPS).rsqrt()


def _squared_products(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the squares of all entries of `first' second / N`, by way of the smaller of (D, D) and (N, N)."""
    rows, width = first.shape
    with torch.autocast(first.device.type, enabled=False):
        if width <= rows:
            return (first.T @ second / rows).square().sum()
        # |A'B|^2 = tr(A'B B'A) = sum of (A A') * (B B'), here with the same factor on either side.
        return ((first @ first.T / rows) * (second @ second.T / rows)).sum()


def _check_pair(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ConfigError(
            f"decorrelation loss: projections have shapes {tuple(first.shape)} and {tuple(second.shape)}; they must be "
            "equal, a row a sample."
        )
