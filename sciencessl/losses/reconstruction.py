"""Patches of images, and how well those that were hidden are reconstructed. Source: MAE (arXiv 2111.06377)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision

FLAT = 1e-6
"""Added to the variance of a patch, so that one of a single value stays finite. Source: MAE's released code."""


def patchify(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, L, h w C): the patches of images, row by row, each pixel with its channels together.

    Args:
        images: H and W are multiples of the patch.
        patch: (h, w) of a patch in pixels.

    Raises:
        ConfigError: When they are not.
    """
    (count, channels, height, width), (h, w) = images.shape, patch
    if height % h or width % w:
        raise ConfigError(f"patches: images of {height} x {width} pixels are not cut into patches of {h} x {w}.")
    cut = images.reshape(count, channels, height // h, h, width // w, w)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: tuple[int, int], height: int, width: int) -> Tensor:
    """(B, L, h w C) -> (B, C, H, W): images of `height` x `width` pixels from what `patchify` makes of them."""
    h, w = patch
    cut = patches.unflatten(1, (height // h, width // w)).unflatten(3, (h, w, -1))
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def normalised(patches: Tensor) -> Tensor:
    """Each patch less its mean, over the root of its (unbiased) variance and `FLAT`; float32 at least.

    Args:
        patches: (B, L, P).
    """
    (patches,) = full_precision(patches)
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + FLAT).sqrt()


def hidden_square_error(predicted: Tensor, true: Tensor, hidden: Tensor) -> Tensor:
    """Mean square error of the patches that were hidden; exactly no gradient at the others.

    Args:
        predicted: (B, L, P), any floating dtype.
        true: (B, L, P); no gradient reaches it.
        hidden: (B, L) bool, one or more a row.

    Returns:
        (B,) mean over hidden patches of the mean over their values; float32 at least.

    Source: MAE (arXiv 2111.06377); where rows have equally many hidden patches, its mean is that of the released code.
    """
    predicted, true = full_precision(predicted, true.detach())
    return _over_hidden((predicted - true).square().mean(dim=-1), hidden)


def hidden_cosine(predicted: Tensor, true: Tensor, hidden: Tensor) -> Tensor:
    """(B,) mean cosine in [-1, 1] of predicted and true patches that were hidden; arguments as above. Source: ours."""
    return _over_hidden(cosine_similarity(*full_precision(predicted, true), dim=-1), hidden)


def _over_hidden(values: Tensor, hidden: Tensor) -> Tensor:
    return torch.where(hidden, values, 0.0).sum(dim=1) / hidden.sum(dim=1).clamp(min=1)
