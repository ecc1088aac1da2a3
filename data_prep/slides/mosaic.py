"""Windows of a level put together from its tiles, each decoded once as long as a bounded cache holds it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

from sciencessl.data_prep.slides.slide import WHITE

CACHE_BYTES = 64 * 2**20
"""Decoded tiles that one open slide keeps. A row of 256 px tiles across 80,000 px takes 59 MiB."""


class TileCache:
    """The tiles used last, up to the bytes that were asked for or `CACHE_BYTES`, and one tile more."""

    def __init__(self) -> None:
        self._max_bytes = 0
        self._bytes = 0
        self._tiles: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def make_room(self, height: int, tile_px: tuple[int, int], width: int) -> None:
        """Ask for what rows of windows need so that each tile is decoded once: not more, since fresh memory is slow.

        Args:
            height: Of a window in pixels.
            tile_px: Width and height of a tile.
            width: Of the level in pixels.
        """
        # Tiles of the rows that a window touches, and of one more column, whose tiles come before others are done with.
        rows, columns = -(-height // tile_px[1]) + 1, -(-width // tile_px[0]) + 1
        needed = 3 * rows * columns * tile_px[0] * tile_px[1]
        if needed > self._max_bytes:
            self._max_bytes = min(needed, CACHE_BYTES)

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The tile of a key, made where it is not there. Not to be written to."""
        found = self._tiles.get(key)
        if found is not None:
            self._tiles.move_to_end(key)
            return found
        # Before the new one is made, so that it takes the memory of the old.
        while self._bytes >= self._max_bytes and self._tiles:
            self._bytes -= self._tiles.popitem(last=False)[1].nbytes
        tile = make()
        self._tiles[key] = tile
        self._bytes += tile.nbytes
        return tile

    def clear(self) -> None:
        """Forget every tile."""
        self._tiles.clear()
        self._bytes = 0


Box = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


def inside(box: Box, width: int, height: int) -> Box:
    """The part of a box that lies on an image of that size; width or height 0 where none does."""
    x, y, w, h = box
    left, upper = max(x, 0), max(y, 0)
    return left, upper, max(min(x + w, width) - left, 0), max(min(y + h, height) - upper, 0)


def framed(box: Box, size: tuple[int, int], read: Callable[[Box], np.ndarray]) -> np.ndarray:
    """A window that may reach over the edges of an image.

    Args:
        box: Window in pixels of the image.
        size: Width and height of the image.
        read: Pixels of a window inside the image, (height, width, 3) uint8 of the caller's own.

    Returns:
        (height, width, 3) uint8, white outside.
    """
    x, y, width, height = box
    part = inside(box, *size)
    if part == box and width and height:
        return read(part)
    out = np.full((height, width, 3), WHITE, np.uint8)
    if part[2] and part[3]:
        left, upper = part[0] - x, part[1] - y
        out[upper : upper + part[3], left : left + part[2]] = read(part)
    return out


def from_tiles(box: Box, tile_px: tuple[int, int], tile: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """A window inside an image made of tiles, in order of rows.

    Args:
        box: Window, wholly inside.
        tile_px: Width and height of a tile.
        tile: Column and row -> its pixels, (at least what lies inside the image, likewise, 3) uint8.

    Returns:
        (height, width, 3) uint8, a new array.
    """
    x, y, width, height = box
    across, down = tile_px
    if x % across == 0 and y % down == 0 and (width, height) == tile_px:
        return tile(x // across, y // down).copy()
    out = np.empty((height, width, 3), np.uint8)
    for row in range(y // down, (y + height - 1) // down + 1):
        upper, lower = max(row * down, y), min((row + 1) * down, y + height)
        for column in range(x // across, (x + width - 1) // across + 1):
            left, right = max(column * across, x), min((column + 1) * across, x + width)
            pixels = tile(column, row)[upper - row * down : lower - row * down,
                                       left - column * across : right - column * across]
            out[upper - y : lower - y, left - x : right - x] = pixels
    return out
