"""Regression of features at the cells of a map. Source: CNN-JEPA (arXiv 2408.07514)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision


def cell_regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (beta 1) of unit vectors, summed over their channels: `sum_c s(p_c / |p| - h_c / |h|)`.

    `s(d)` is `d^2 / 2` for |d| < 1, so where no channel differs by more, as of features of a ReLU none does, this is
    half the squared distance, `1 - cos(p, h)`. The stop-gradient belongs to the loss: `target` never receives one.

    Args:
        prediction: (..., C), any floating dtype.
        target: (..., C), any floating dtype.

    Returns:
        (...), 0 or more, float32 at least.

    Raises:
        ConfigError: When the shapes differ.

    Source: the released code of CNN-JEPA; the paper describes a distance of this kind in words.
    """
    if prediction.shape != target.shape:
        raise ConfigError(
            f"cell regression: prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; they "
            "must be equal. Give the predictor the width of the target encoder."
        )
    wide = full_precision(prediction, target.detach())
    p, h = (functional.normalize(vectors, dim=-1) for vectors in wide)
    return functional.smooth_l1_loss(p, h, reduction="none").sum(dim=-1)


def over_cells(values: Tensor, wanted: Tensor) -> Tensor:
    """Sum of the values of cells that are wanted: exactly nothing of the others, nor of their gradient.

    Args:
        values: Any shape.
        wanted: The same shape, bool.
    """
    return torch.where(wanted, values, 0.0).sum()
