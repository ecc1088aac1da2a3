"""Stain jitter of a whole batch of tiles at once, on their device: the view of `sciencessl.views.stain` in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciencessl.errors import DataError
from sciencessl.views.density import GLASS, stain_basis


def draw_stain_jitter(batch: int, strength: float, generator: torch.Generator, p: float = 1.0) -> tuple[Tensor, Tensor]:
    """Factors U(1 - strength, 1 + strength) and shifts U(-strength, strength) of each stain of each tile.

    Args:
        batch: B, how many tiles.
        strength: As of `StainJitter`.
        generator: On the CPU; the same state gives the same draws whatever the device of the tiles.
        p: Probability that a tile changes at all.

    Returns:
        Two (B, 3) float32; 1 and 0 where a tile does not change.
    """
    drawn = (2 * torch.rand(batch, 6, generator=generator) - 1) * strength
    drawn *= torch.rand(batch, 1, generator=generator) < p
    return 1 + drawn[:, :3], drawn[:, 3:]


def stain_jitter(images: Tensor, factors: Tensor, shifts: Tensor) -> Tensor:
    """Each tile with its own amounts of haematoxylin, eosin and DAB; as `StainJitter.apply`, within one grey level.

    Args:
        images: (B, 3, H, W) RGB, uint8, or floating point in [0, 1]; on any device.
        factors: (B, 3).
        shifts: (B, 3), in decadic density.

    Returns:
        (B, 3, H, W) of the same dtype, rounded where that is uint8; without gradient.

    Raises:
        DataError: For another dtype or shape.
    """
    whole = images.dtype == torch.uint8
    if images.ndim != 4 or images.shape[1] != 3 or not (whole or images.is_floating_point()):
        raise DataError(f"stain jitter: expected (B, 3, H, W) RGB of uint8 or floats in [0, 1], got {images.dtype} of "
                        f"{tuple(images.shape)}.")
    if factors.shape != (len(images), 3) or shifts.shape != (len(images), 3):
        raise DataError(f"stain jitter: expected ({len(images)}, 3) factors and shifts, got {tuple(factors.shape)} and "
                        f"{tuple(shifts.shape)}.")
    # Densities span five units of which a hundredth is a grey level: half precision would show.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        known = torch.empty((len(images), 4, images[0, 0].numel()), device=images.device)
        density, tissue = known[:, :3], known[:, 3]
        density.copy_(images.flatten(2))
        density.mul_(1 / 256 if whole else 255 / 256).add_(1 / 256).log_().neg_()
        tissue.copy_(density.mean(dim=1)).div_(math.log(10) * GLASS).clamp_(max=1).square_()
        light = torch.bmm(_change(factors.to(known), shifts.to(known)), known).neg_().exp_().mul_(256).sub_(1)
    light = light.clamp_(0, 255).reshape(images.shape)
    return light.round_().to(torch.uint8) if whole else (light / 255).to(images.dtype)


def _change(factors: Tensor, shifts: Tensor) -> Tensor:
    """(B, 3, 4): see `jitter_matrix`."""
    basis = torch.as_tensor(stain_basis()).to(factors)
    scale = torch.einsum("ij,bj,jk->bki", torch.linalg.inv(basis), factors, basis)
    return torch.cat([scale, math.log(10) * (shifts @ basis)[..., None]], dim=2)
