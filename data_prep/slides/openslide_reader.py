"""Slides through OpenSlide: exactly the pixels of a level, where that library would shift and smooth them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NoReturn

import numpy as np

from sciencessl.data_prep.slides.mosaic import CACHE_BYTES, Box, framed
from sciencessl.data_prep.slides.refusals import openslide_module, refusals
from sciencessl.data_prep.slides.slide import WHITE, Level, Mpp, SlideInfo

BLOCK_PX = 2048
"""Largest side that is asked for at once. OpenSlide cuts longer ones at places of its own, which round once more."""
MARGIN_PX = 128
"""How far to the left or up of a window a read may begin, in search of a place that is whole in both scales."""
WHOLE = 1 / 512
"""A shift that OpenSlide does not resample for: its drawing library rounds places to 1/256 pixel."""


def exact_start(at: int, downsample: float) -> tuple[int, int] | None:
    """Where to begin a read so that the pixels of a level come as they are.

    OpenSlide takes the place in level-0 pixels. Where that is no whole number of the level's pixels, it draws the level
    shifted by the rest, between its pixels. A window that begins a little earlier, at a place that is whole in both
    scales, has its pixels unchanged. Source: ours.

    Args:
        at: Pixel of the level, at least 0.
        downsample: As OpenSlide has it, which is a mean over both axes.

    Returns:
        (level-0 pixel, the level's pixel that it is), the latter at most `MARGIN_PX` before `at`; None where none is.
    """
    for pixel in range(at, max(at - MARGIN_PX, 0) - 1, -1):
        place = round(pixel * downsample)
        if abs(place / downsample - pixel) < WHOLE:
            return place, pixel
    return None


def pyramid(sizes: Sequence[tuple[int, int]], tiles: Sequence[tuple[int, int] | None]) -> tuple[Level, ...]:
    """Levels of these sizes and tiles, from fine to coarse, with the downsample that `Level` defines."""
    return tuple(
        Level(*size, _downsample(sizes[0], size), tile) for size, tile in zip(sizes, tiles, strict=True)
    )


def _downsample(first: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    ratio = (max(first[0] / size[0], 1.0), max(first[1] / size[1], 1.0))
    # The longer side was rounded least.
    whole = round(ratio[0] if size[0] >= size[1] else ratio[1])
    rounded = all(abs(long / whole - short) < 1 for long, short in zip(first, size, strict=True))
    return (float(whole), float(whole)) if rounded else ratio


class OpenSlideReader:
    """A slide that OpenSlide opens; opened anew where it is read after it was closed or met damage.

    Where a level's size is no whole fraction of level 0 and no exact start lies near (`exact_start`), pixels come from
    the nearest place that OpenSlide can be asked for, shifted by less than half a pixel of level 0.
    """

    def __init__(self, path: str, mpp: Mpp | None = None) -> None:
        """Open it and read a pixel of the middle and of the last corner of each level.

        Args:
            path: The file.
            mpp: Pixel scale for a file of which OpenSlide knows none.

        Raises:
            Refused: With reason `unreadable` where OpenSlide cannot open it; as `read` where its pixels are not there.
            MissingExtraError: When OpenSlide is not installed.
        """
        self._path = path
        self._slide: Any = self._opened()
        try:
            with refusals(path, "unreadable", "its properties cannot be read"):
                self._downsamples: tuple[float, ...] = self._slide.level_downsamples
                self.info = self._described(mpp)
            self._probe()
        except BaseException:
            self.close()
            raise

    def _opened(self) -> Any:
        module = openslide_module()
        with refusals(self._path, "unreadable", "OpenSlide cannot open it"):
            slide = module.OpenSlide(self._path)
        slide.set_cache(module.OpenSlideCache(CACHE_BYTES))
        return slide

    def _described(self, mpp: Mpp | None) -> SlideInfo:
        # One by one, by name: damaged ones raise when all are listed, and the others are none of our business.
        said = self._slide.properties
        tiles = [_tile_px(said, level) for level in range(self._slide.level_count)]
        levels = pyramid(self._slide.level_dimensions, tiles)
        power = _number(said.get("openslide.objective-power"))
        vendor = said.get("openslide.vendor", "unknown")
        return SlideInfo("openslide", vendor, levels, _mpp(said) or mpp, power, "read through OpenSlide")

    def _probe(self) -> None:
        for index, level in enumerate(self.info.levels):
            self.read(index, level.width // 2, level.height // 2, 1, 1)
            self.read(index, level.width - 1, level.height - 1, 1, 1)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """As `SlideReader.read`."""
        size = self.info.levels[level]
        return framed((x, y, width, height), (size.width, size.height), lambda box: self._blocks(level, box))

    def exact(self, level: int, at: np.ndarray) -> np.ndarray:
        """Which pixels along either axis can be read as they are in the file.

        Args:
            level: Index of the level.
            at: (n,) pixels of that level.

        Returns:
            (n,) bool.
        """
        return np.array([exact_start(pixel, self._downsamples[level]) is not None for pixel in at.tolist()], bool)

    def _blocks(self, level: int, box: Box) -> np.ndarray:
        x, y, width, height = box
        if max(width, height) <= BLOCK_PX:
            return self._block(level, box)
        out = np.empty((height, width, 3), np.uint8)
        for down, across in product(range(0, height, BLOCK_PX), range(0, width, BLOCK_PX)):
            w, h = min(BLOCK_PX, width - across), min(BLOCK_PX, height - down)
            out[down : down + h, across : across + w] = self._block(level, (x + across, y + down, w, h))
        return out

    def _block(self, level: int, box: Box) -> np.ndarray:
        x, y, width, height = box
        factor = self._downsamples[level]
        place_x, first_x = exact_start(x, factor) or (round(x * factor), x)
        place_y, first_y = exact_start(y, factor) or (round(y * factor), y)
        left, upper = x - first_x, y - first_y
        if self._slide is None:
            self._slide = self._opened()
        try:
            with refusals(self._path, "corrupt", "its pixels cannot be read"):
                region = self._slide.read_region((place_x, place_y), level, (left + width, upper + height))
        except BaseException:
            self.close()  # after one error OpenSlide answers nothing but that error
            raise
        return on_white(np.asarray(region)[upper:, left:])

    def native_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """None: OpenSlide gives no compressed tiles."""
        return None

    def close(self) -> None:
        """As `SlideReader.close`."""
        if self._slide is not None:
            self._slide.close()
        self._slide = None

    def __reduce__(self) -> NoReturn:
        raise unsendable(self)


def unsendable(reader: object) -> TypeError:
    """What a reader raises when it is pickled."""
    return TypeError(
        f"{type(reader).__name__} holds an open file and cannot be sent to another process; send the path and call "
        "open_slide there."
    )


def on_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 with straight alpha, laid over white: (H, W, 3) uint8, a new array."""
    alpha = rgba[..., 3:]
    if alpha.size == 0 or alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    share = alpha.astype(np.uint32)
    return ((rgba[..., :3] * share + WHITE * (255 - share) + 127) // 255).astype(np.uint8)


def _tile_px(said: Mapping[str, str], level: int) -> tuple[int, int] | None:
    sides = [_number(said.get(f"openslide.level[{level}].tile-{side}")) for side in ("width", "height")]
    return None if None in sides else (int(sides[0] or 0), int(sides[1] or 0))


def _mpp(said: Mapping[str, Any]) -> Mpp | None:
    for name, other in (("openslide.mpp-x", "openslide.mpp-y"), ("aperio.MPP", "aperio.MPP")):
        x, y = _number(said.get(name)), _number(said.get(other))
        if x is not None and y is not None:
            return Mpp(x, y, name)
    return None


def _number(text: str | None) -> float | None:
    """What a property says; None where it is no finite number. Some scanners write a decimal comma."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
