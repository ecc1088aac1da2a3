"""Unit vectors and cosines by one rule, and cosine regression of a target projection: BYOL's 2 - 2 cos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision

SQUARED_NORM_FLOOR = 1e-12
"""Squared norms below this count as this: a zero vector has cosine 0 with everything and a finite gradient."""


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1, (..., D) in their own dtype; a zero vector stays one.

    Source: BYOL (arXiv 2006.07733); `x * rsqrt(max(|x|^2, 1e-12))` as in its released code.
    """
    return vectors * vectors.square().sum(dim=-1, keepdim=True).clamp(min=SQUARED_NORM_FLOOR).rsqrt()


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each vector of one set with each of another; gradient reaches both.

    Args:
        first: (..., M, D), any floating dtype.
        second: (..., N, D), any floating dtype.

    Returns:
        (..., M, N) in [-1, 1] up to rounding, float32 at least, under autocast too: in bfloat16 the cosines of samples
        that are alike would be the same.

    Raises:
        ConfigError: When the widths differ.

    Source: ours.
    """
    if first.shape[-1] != second.shape[-1]:
        raise ConfigError(
            f"cosines: vectors have shapes {tuple(first.shape)} and {tuple(second.shape)}; the last numbers must be "
            "equal. Give predictor and target projector the same output width."
        )
    first, second = full_precision(first, second)
    with torch.autocast(first.device.type, enabled=False):
        return unit(first) @ unit(second).mT


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine of the angle between the vectors of two sets, one by one.

    Gradient reaches both arguments; detach the one that must not learn. float32 at least, under autocast too.

    Args:
        prediction: (..., D), any floating dtype.
        target: (..., D), any floating dtype.

    Returns:
        (...) in [-1, 1]: -1 where the two point the same way. Rounding beyond that range is cut off.

    Raises:
        ConfigError: When the shapes differ (they would broadcast silently otherwise).

    Source: BYOL (arXiv 2006.07733).
    """
    if prediction.shape != target.shape:
        raise ConfigError(
            f"cosine loss: prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; they must "
            "be equal. Give predictor and target projector the same output width."
        )
    prediction, target = full_precision(prediction, target)
    return -(unit(prediction) * unit(target)).sum(dim=-1).clamp(min=-1.0, max=1.0)


def cross_view_cosine(queries: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean negative cosine of each target and its queries: those of all views but its own.

    Args:
        queries: V entries, one a view, (B, D).
        targets: The first of the views, 1 to V, (B, D).

    Returns:
        (B,) in [-1, 1], mean over pairs; gradient reaches both sides.

    Raises:
        ConfigError: When shapes differ.

    Source: ours; for two views BYOL's two directions.
    """
    pairs = [(query, target) for own, target in enumerate(targets) for v, query in enumerate(queries) if v != own]
    return torch.stack([negative_cosine(query, target) for query, target in pairs]).mean(dim=0)


def byol_regression(prediction: Tensor, target: Tensor) -> Tensor:
    """BYOL's loss of one direction: the squared distance of the two unit vectors, 2 - 2 cos.

    The stop-gradient belongs to the loss: `target` never receives one.

    Args:
        prediction: (B, D) output of the predictor.
        target: (B, D) projection of the other view by the target network.

    Returns:
        (B,) in [0, 4], float32 at least. The symmetrised loss is the sum of both directions, in [0, 8].

    Raises:
        ConfigError: When the shapes differ.

    Source: BYOL (arXiv 2006.07733).
    """
    return 2.0 + 2.0 * negative_cosine(prediction, target.detach())
