"""A small picture of a whole slide, from pixels of its pyramid: the thumbnails that scanners store are never read."""

from __future__ import annotations

import cv2
import numpy as np

from sciencessl.data_prep.slides.slide import SlideInfo, SlideReader

THUMBNAIL_PX = 2048
"""Longer side of a thumbnail, at most."""
STRIP_PIXELS = 4 * 2**20
"""Pixels of a level that are read at a time."""


def thumbnail(reader: SlideReader, most_px: int = THUMBNAIL_PX) -> tuple[np.ndarray, tuple[float, float]]:
    """The slide shrunk by area averaging from the coarsest level that is large enough.

    Memory is bounded: the level is read in strips. Shrinking is by whole numbers of level pixels, so that every pixel
    is the mean of a block; incomplete blocks at the right and lower edge are left out.

    Args:
        reader: The slide.
        most_px: Longer side of the result, at most.

    Returns:
        (h, w, 3) uint8, and the (x, y) level-0 pixels to one of its pixels.

    Raises:
        Refused: When pixels cannot be read.
    """
    level, factor = _served(reader.info, most_px)
    chosen = reader.info.levels[level]
    width, height = chosen.width // factor, chosen.height // factor
    rows = max(1, STRIP_PIXELS // (width * factor * factor))
    strips = []
    for top in range(0, height, rows):
        count = min(rows, height - top)
        pixels = reader.read(level, 0, top * factor, width * factor, count * factor)
        strips.append(pixels if factor == 1 else cv2.resize(pixels, (width, count), interpolation=cv2.INTER_AREA))
    return np.concatenate(strips), thumbnail_scale(reader.info, most_px)


def thumbnail_scale(info: SlideInfo, most_px: int = THUMBNAIL_PX) -> tuple[float, float]:
    """The (x, y) level-0 pixels to one pixel of a slide's thumbnail."""
    level, factor = _served(info, most_px)
    down = info.levels[level].downsample
    return down[0] * factor, down[1] * factor


def _served(info: SlideInfo, most_px: int) -> tuple[int, int]:
    """The level that is read, and by how much it is shrunk."""
    level = _level(info, most_px)
    chosen = info.levels[level]
    factor = max(1, -(-max(chosen.width, chosen.height) // most_px))
    return level, min(factor, chosen.width, chosen.height)


def _level(info: SlideInfo, most_px: int) -> int:
    """The coarsest level that need not be enlarged to half of `most_px`."""
    enough = [i for i, level in enumerate(info.levels) if max(level.width, level.height) >= most_px / 2]
    return enough[-1] if enough else 0
