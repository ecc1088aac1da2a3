"""Which cells of a grid are to be predicted: scattered ones, or the union of four blocks; the rest is the context.

Drawn from torch's global generator, a fixed count of numbers for a shape, and without waiting for a device. Source:
CNN-JEPA (arXiv 2408.07514) and the blocks of I-JEPA that it uses; what differs is said to be ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCKS = 4
AREA = (0.15, 0.2)
"""Share of the grid that a block should have."""
ASPECT = (0.75, 1.5)
"""Height of a block over its width."""
LEAST_CONTEXT = 6
"""Cells that are left as context at least."""


def mixed_masks(
    count: int, grid: tuple[int, int], blocks: float = 0.75, ratio: float = 0.6, device: torch.device | None = None
) -> Tensor:
    """Target masks of a batch: all of blocks with probability `blocks`, else all of scattered cells.

    Args:
        count: B, images of the batch.
        grid: Rows and columns of cells, 3 x 3 at least.
        blocks: In [0, 1].
        ratio: As in `scattered_masks`.
        device: Of the masks.

    Returns:
        (B, 1, rows, columns) bool, True at targets.
    """
    chosen = torch.rand((), device=device) < blocks
    return torch.where(chosen, block_masks(count, grid, device), scattered_masks(count, grid, ratio, device))


def scattered_masks(
    count: int, grid: tuple[int, int], ratio: float = 0.6, device: torch.device | None = None
) -> Tensor:
    """Cells drawn one by one: `round(n (1 - ratio))` of n are context and the others targets, one of either at least.

    >>> int(scattered_masks(1, (7, 7)).sum())
    29
    """
    cells = grid[0] * grid[1]
    context = min(max(round(cells * (1.0 - ratio)), 1), cells - 1)
    places = torch.rand(count, cells, device=device).argsort(dim=1).argsort(dim=1)
    return (places >= context).view(count, 1, *grid)


def block_masks(count: int, grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Union of four blocks of one size for the batch, each anywhere on the grid.

    A block of `k = int(n s)` cells, s in `AREA`, and of aspect a in `ASPECT` has `round(sqrt(k a))` rows and
    `round(sqrt(k / a))` columns, but one fewer than the grid at most. Its first row is one of the first H - h + 1, so
    that the last row of the grid is reached, which the reference code never does; columns likewise.

    Ours: a block that would leave fewer than `LEAST_CONTEXT` cells is left out, where the reference draws again; on
    7 x 7 that is rare. Blocks have six cells or more, as there, from 7 x 7 on; on smaller grids they have fewer.
    """
    rows, columns = grid
    scale, aspect = (low + (high - low) * torch.rand((), device=device) for low, high in (AREA, ASPECT))
    area = (rows * columns * scale).floor()
    height, width = (
        side.sqrt().round().clamp(1, most - 1) for side, most in ((area * aspect, rows), (area / aspect, columns))
    )
    corners = torch.rand(2, count, BLOCKS, device=device)
    across, down = (
        _spans(corner, size, most) for corner, size, most in ((corners[0], height, rows), (corners[1], width, columns))
    )
    blocks = across.unsqueeze(-1) & down.unsqueeze(-2)
    found = torch.zeros(count, rows, columns, dtype=torch.bool, device=device)
    for number in range(BLOCKS):
        wider = found | blocks[:, number]
        leaves = rows * columns - wider.sum(dim=(1, 2), keepdim=True)
        found = torch.where(leaves >= LEAST_CONTEXT, wider, found)
    return found.unsqueeze(1)


def _spans(corner: Tensor, size: Tensor, most: int) -> Tensor:
    """(B, blocks) in [0, 1) -> (B, blocks, most) bool: `size` places in a row from any of the `most - size + 1` on."""
    first = torch.minimum((corner * (most - size + 1)).floor(), most - size).unsqueeze(-1)
    places = torch.arange(most, device=corner.device)
    return (places >= first) & (places < first + size)
