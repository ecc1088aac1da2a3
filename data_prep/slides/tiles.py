"""Pixels of the tiles of a grid: each native tile decoded once, shrunk by area, never the whole slide in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from sciencessl.data_prep.slides.grid import TileGrid
from sciencessl.data_prep.slides.mosaic import CACHE_BYTES
from sciencessl.data_prep.slides.slide import SlideInfo, SlideReader

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BAND_BYTES = CACHE_BYTES // 2
"""Level pixels of a row of tiles that is read before the next begins: half, as OpenSlide keeps four bytes a pixel."""
STRIP_BYTES = 4 * 2**20
"""Level pixels that are shrunk at once: a tile of a larger field is made from strips of its rows."""
_WHOLE = 1e-9  # a ratio this close to a whole number is one; across a slide that is no shift


def read_tiles(reader: SlideReader, grid: TileGrid, indices: npt.ArrayLike) -> Iterator[tuple[int, np.ndarray]]:
    """Tiles of a grid, as stored pixels.

    Where a level's pixels are stored as they are, nothing is computed. Shrinking is the mean over the area of each
    stored pixel, shares of level pixels at its border included, rounded to the nearest value: of whole blocks where the
    ratio is a whole number. Enlarging, which the grid does only where asked to, is linear between pixels. What lies
    outside the slide is white. A stored pixel has one value, whichever tile shows it and whatever else is read.

    Args:
        reader: The open slide.
        grid: Its tiles.
        indices: (k,) integers, which of them.

    Yields:
        Each index with (tile_px, tile_px, 3) uint8 RGB of the caller's own, in `reading_order`.

    Raises:
        Refused: As `SlideReader.read` does.
    """
    side = grid.tile_px
    _keep_freed_memory()
    for index in reading_order(reader.info, grid, indices).tolist():
        if grid.step == (1.0, 1.0):
            yield index, reader.read(grid.level, int(grid.x[index]), int(grid.y[index]), side, side)
        else:
            yield index, _resampled(reader, grid, index)


def reading_order(info: SlideInfo, grid: TileGrid, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Indices in the order in which a reader with a bounded cache decodes each native tile once.

    Rows of tiles one after another; a slide so wide that the native tiles of a row would not all stay in the cache is
    read in stripes, from left to right, and only native tiles that lie on two stripes are decoded twice.

    Args:
        info: The slide.
        grid: Its tiles.
        indices: (k,) integers.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    field, native = grid.tile_px * grid.step[1], info.levels[grid.level].tile_px
    rows = field + 2 * (native[1] if native else 0)  # the native tiles that a row of tiles lies on are higher than it
    stripe = np.floor(grid.x[chosen] / max(BAND_BYTES / (3 * rows), grid.tile_px * grid.step[0]))
    return chosen[np.lexsort((grid.x[chosen], grid.y[chosen], stripe))]


def is_native(info: SlideInfo, grid: TileGrid) -> bool:
    """Whether stored tiles have size and pixels of the file's tiles; `native_place` tells which of them are one."""
    return grid.step == (1.0, 1.0) and info.levels[grid.level].tile_px == (grid.tile_px, grid.tile_px)


def native_place(info: SlideInfo, grid: TileGrid, index: int) -> tuple[int, int] | None:
    """Column and row of the native tile that a stored tile is; None where it is none, as where tiles overlap."""
    x, y = int(grid.x[index]), int(grid.y[index])
    if not is_native(info, grid) or x % grid.tile_px or y % grid.tile_px:
        return None
    return x // grid.tile_px, y // grid.tile_px


def _keep_freed_memory() -> None:
    """Have the C library keep what a tile frees for the next one.

    Else glibc may hand each tile's buffers back to the system, which clears them anew: shrinking then takes up to four
    times as long. It keeps as much as twice the largest block that was ever freed.
    """
    np.empty(4 * STRIP_BYTES, np.uint8)


def _resampled(reader: SlideReader, grid: TileGrid, index: int) -> np.ndarray:
    """One tile, strip by strip."""
    side, steps = grid.tile_px, grid.step
    left, upper = (round(float(at[index]) / step) for at, step in zip((grid.x, grid.y), steps, strict=True))
    across = _axis(left, side, steps[0])
    out = np.empty((side, side, 3), np.uint8)
    count = min(max(int(STRIP_BYTES / (3 * across.length * steps[1])), 1), side)
    for row in range(0, side, count):
        rows = slice(row, min(row + count, side))
        down = _axis(upper + row, rows.stop - row, steps[1])
        region = reader.read(grid.level, across.start, down.start, across.length, down.length)
        out[rows] = _blocks(region, out[rows].shape) if _is_whole(steps) else _weighted(region, down, across)
    return out


def _is_whole(steps: tuple[float, float]) -> bool:
    return all(step > 1 - _WHOLE and abs(step - round(step)) < _WHOLE for step in steps)


def _blocks(region: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Means of whole blocks, which OpenCV has a short way for."""
    means: np.ndarray = cv2.resize(region, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return means


@dataclass(frozen=True, eq=False)
class _Axis:
    """Stored pixels along one axis as weighted means of the level's pixels.

    Attributes:
        start: First pixel of the level that has a weight.
        length: Number of them.
        weights: (stored, length) float32, rows sum to 1.
    """

    start: int
    length: int
    weights: csr_array


@lru_cache(maxsize=128)
def _axis(first: int, count: int, step: float) -> _Axis:
    """Weights of `count` stored pixels from the `first` of the slide, each `step` pixels of the level wide.

    A stored pixel has the same weights from whatever `first` it is reached.
    """
    from scipy.sparse import csr_array

    edges = np.arange(first, first + count + 1) * step
    if abs(step - round(step)) < _WHOLE:
        edges = np.rint(edges)
    low, high = edges[:-1, None], edges[1:, None]
    if step >= 1:
        pixels = np.floor(low) + np.arange(int(np.ceil(step)) + 1)
        weights = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    else:
        middle = (low + high) / 2 - 0.5  # in pixels whose centres are whole numbers
        pixels = np.floor(middle) + np.arange(2)
        weights = 1 - np.abs(middle - pixels)
    weights /= weights.sum(axis=1, keepdims=True)
    some = weights > _WHOLE
    start, stop = int(pixels[some].min()), int(pixels[some].max()) + 1
    places = (np.nonzero(some)[0], pixels[some].astype(np.int64) - start)
    return _Axis(start, stop - start, csr_array((weights[some].astype(np.float32), places), (count, stop - start)))


def _weighted(region: np.ndarray, down: _Axis, across: _Axis) -> np.ndarray:
    """Weighted means of (down.length, across.length, 3) uint8 along both axes, rounded to uint8."""
    rows = down.weights @ region.reshape(down.length, -1).astype(np.float32)
    columns = across.weights @ _swapped(rows, across.length).reshape(across.length, -1)
    return _swapped(cv2.convertScaleAbs(columns), down.weights.shape[0])


def _swapped(values: np.ndarray, width: int) -> np.ndarray:
    """(a, width * 3) -> (width, a, 3)."""
    swapped: np.ndarray = cv2.transpose(values.reshape(len(values), width, 3))
    return swapped
