"""A slide that lies in memory, with any scale and any downsample, for tests of what needs no file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from sciencessl.data_prep.slides.slide import WHITE, Level, Mpp, SlideInfo

Pair = tuple[float, float]


def slide_info(
    size: tuple[int, int], mpp: float | Pair | None = 0.25, downsamples: Sequence[float | Pair] = (1.0,),
    tile_px: tuple[int, int] | None = (256, 256),
) -> SlideInfo:
    """Size (width, height) of level 0 -> what a file of such a slide says; a level's size is rounded down."""
    pairs = [down if isinstance(down, tuple) else (float(down), float(down)) for down in downsamples]
    levels = [Level(int(size[0] / x + 1e-9), int(size[1] / y + 1e-9), (x, y), tile_px) for x, y in pairs]
    x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    scale = None if x is None or y is None else Mpp(x, y, "the test")
    return SlideInfo("flat", "flat", tuple(levels), scale)


@dataclass
class SlideInMemory:
    """A reader of arrays that keeps account of what it was asked for.

    Attributes:
        info: What it says.
        pixels: (H, W, 3) uint8 of each level.
        reads: (level, x, y, width, height) of each call, in order.
    """

    info: SlideInfo
    pixels: list[np.ndarray]
    reads: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """As `SlideReader.read`."""
        assert all(type(value) is int for value in (level, x, y, width, height))
        self.reads.append((level, x, y, width, height))
        whole, out = self.pixels[level], np.full((height, width, 3), WHITE, np.uint8)
        left, upper = max(x, 0), max(y, 0)
        part = whole[upper : max(y + height, 0), left : max(x + width, 0)]
        out[upper - y : upper - y + part.shape[0], left - x : left - x + part.shape[1]] = part
        return out

    def native_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """Arrays have no native tiles."""
        return None

    def close(self) -> None:
        """Nothing to release."""


def slide_in_memory(
    pixels: np.ndarray, mpp: float | Pair | None = 0.25, downsamples: Sequence[float | Pair] = (1.0,),
    tile_px: tuple[int, int] | None = (256, 256),
) -> SlideInMemory:
    """(H, W, 3) uint8 of level 0 -> a slide whose other levels are area means of it."""
    info = slide_info((pixels.shape[1], pixels.shape[0]), mpp, downsamples, tile_px)
    levels = []
    for level in info.levels:
        # What lies on whole pixels of the level; the rest at the far edge is cut, as scanners do.
        right, lower = round(level.width * level.downsample[0]), round(level.height * level.downsample[1])
        part = pixels[:lower, :right]
        levels.append(cv2.resize(part, (level.width, level.height), interpolation=cv2.INTER_AREA))
    return SlideInMemory(info, levels)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 with detail on every scale, as tissue has: sums of noise of 1, 4, 16 and 64 px."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for side in (1, 4, 16, 64):
        coarse = rng.normal(0, 16, (-(-height // side), -(-width // side), 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total + 150, 0, 255).astype(np.uint8)
