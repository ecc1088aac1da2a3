"""Contact sheets: images of any size as equal tiles with a line of text below each, in one array."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sciencessl.errors import ConfigError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

GAP = 6
"""Pixels between tiles and around the sheet."""
LINE = 1.35
"""Height of a line of text, as a multiple of its size."""
INK, PAPER = (34, 34, 34), 255
SHORTEST = 12
"""Captions are cut to the width of their tile, but never below this many characters."""


def tile(image: np.ndarray, px: int) -> np.ndarray:
    """The image inside a white square, its aspect kept.

    Args:
        image: (H, W, 3) uint8.
        px: Side of the square.

    Returns:
        (px, px, 3) uint8.

    Raises:
        ConfigError: When the image is not RGB of 8 bits, or the side is below one pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ConfigError(f"a tile is made of (H, W, 3) uint8, got {image.shape} {image.dtype}; `display` gives that.")
    if px < 1:
        raise ConfigError(f"tile_px is {px}; a tile needs a side of 1 pixel or more.")
    scale = px / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    square = np.full((px, px, 3), PAPER, np.uint8)
    top, left = (px - height) // 2, (px - width) // 2
    square[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=method)
    return square


def contact_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str] = (), columns: int = 6, tile_px: int = 128
) -> np.ndarray:
    """Images as tiles, row after row, on white.

    Args:
        images: n arrays (H, W, 3) uint8 of any size; at least one.
        captions: n texts, lines separated by newlines; empty for none. A line wider than its tile is cut in the
            middle, so that the ends by which identifiers differ stay.
        columns: Tiles in a row.
        tile_px: Side of a tile in pixels.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ConfigError: Without images, with another number of captions, or for sizes below 1.
    """
    if not len(images) or columns < 1 or (captions and len(captions) != len(images)):
        raise ConfigError(
            f"a contact sheet needs images, one caption for each or none, and a column or more; got {len(images)} "
            f"images, {len(captions)} captions, columns={columns}."
        )
    columns = min(columns, len(images))
    size = max(10, tile_px // 9)
    text = round(size * LINE) * max((caption.count("\n") + 1 for caption in captions), default=0)
    cell = np.array([tile_px + text + GAP, tile_px + GAP])
    rows = -(-len(images) // columns)
    sheet = np.full((rows * cell[0] + GAP, columns * cell[1] + GAP, 3), PAPER, np.uint8)
    corners = [GAP + cell * divmod(number, columns) for number in range(len(images))]
    for image, (top, left) in zip(images, corners, strict=True):
        sheet[top : top + tile_px, left : left + tile_px] = tile(image, tile_px)
    return _written(sheet, captions, [(int(left), int(top) + tile_px) for top, left in corners], tile_px, size)


@lru_cache(maxsize=8)
def _font(size: int) -> FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: the same letters on every machine."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _written(
    sheet: np.ndarray, captions: Sequence[str], corners: Sequence[tuple[int, int]], width: int, size: int
) -> np.ndarray:
    from PIL import Image, ImageDraw

    if not captions:
        return sheet
    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    font = _font(size)
    for caption, (left, top) in zip(captions, corners, strict=True):
        for number, line in enumerate(caption.split("\n")):
            place = (left + width / 2, top + (number + 0.5) * size * LINE)
            draw.text(place, fitted(line, width, size), INK, font, anchor="mm")
    return np.asarray(image)


def fitted(text: str, width: int, size: int) -> str:
    """The text, cut in the middle until it fits `width` pixels at a font of `size` pixels."""
    font = _font(size)
    kept = len(text)
    short = text
    while font.getlength(short) > width and kept > SHORTEST // 2:
        kept -= 1
        short = shortened(text, kept)
    return short


def shortened(text: str, length: int = SHORTEST) -> str:
    """At most `length` characters, an ellipsis in the middle.

    >>> shortened("587722981742084144", 9)
    '5877…4144'
    """
    if len(text) <= length:
        return text
    head = max(length - 1, 1) // 2
    tail = max(length - 1, 1) - head
    return f"{text[:head]}…{text[-tail:]}"
