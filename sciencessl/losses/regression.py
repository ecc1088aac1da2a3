"""Cosine regression of a target projection: negative cosine, and BYOL's 2 - 2 cos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision

SQUARED_NORM_FLOOR = 1e-12
"""Squared norms below this count as this: a zero vector has cosine 0 with everything and a finite gradient."""


def _normalise(vectors: Tensor) -> Tensor:
    return vectors * vectors.square().sum(dim=-1, keepdim=True).clamp(min=SQUARED_NORM_FLOOR).rsqrt()


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine of the angle between the rows of two matrices.

    Gradient reaches both arguments; detach the one that must not learn. float32 at least, under autocast too.

    Args:
        prediction: (B, D), any floating dtype.
        target: (B, D), any floating dtype.

    Returns:
        (B,) in [-1, 1]: -1 where the two point the same way. Rounding beyond that range is cut off.

    Raises:
        ConfigError: When the shapes differ (they would broadcast silently otherwise).

    Source: BYOL (arXiv 2006.07733); the l2 norm `x * rsqrt(max(|x|^2, 1e-12))` as in its released code.
    """
    if prediction.shape != target.shape:
        raise ConfigError(
            f"cosine loss: prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; they must "
            "be equal. Give predictor and target projector the same output width."
        )
    prediction, target = full_precision(prediction, target)
    return -(_normalise(prediction) * _normalise(target)).sum(dim=-1).clamp(min=-1.0, max=1.0)


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
