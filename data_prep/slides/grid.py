"""The grid of tiles over a slide: where each lies, in pixels of its level and of level 0. No pixel is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.resolution import Target, serving_level
from sciencessl.data_prep.slides.slide import Mpp, SlideInfo
from sciencessl.data_prep.tiling import grid_starts
from sciencessl.errors import ConfigError

MOST_TILES = 50_000_000
"""Candidates of one slide: more are a mistake in a setting, and would fill the memory."""
_OVERLAP = re.compile(r"(?P<number>\d{1,9}(\.\d*)?|\.\d+) *(?P<unit>px|um|)")
_NOISE_PX = 1e-6  # of a stored pixel: what a ratio of floats may lack of a whole number

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one size over one level, row after row.

    Every edge lies on one lattice of stored pixels that begins at the slide's corner: `x / step` are whole numbers up
    to float noise. So tiles that overlap show the same pixels.

    Attributes:
        level: Index of the level that is read.
        tile_px: Side in stored pixels.
        step: (x, y) level pixels to a stored pixel; 1.0 where the level's pixels are stored as they are.
        mpp: (x, y) um a stored pixel.
        x: (n,) left edges in level pixels.
        y: (n,) upper edges in level pixels.
        x0: (n,) left edges in level-0 pixels.
        y0: (n,) upper edges in level-0 pixels.
        field0: (width, height) of a tile in level-0 pixels.
        valid: (n,) float32 share of the tile that lies on the slide, above 0 to 1.
    """

    level: int
    tile_px: int
    step: tuple[float, float]
    mpp: tuple[float, float]
    x: Float64
    y: Float64
    x0: Float64
    y0: Float64
    field0: tuple[float, float]
    valid: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: npt.ArrayLike) -> TileGrid:
        """Some of the tiles, in this order: (k,) integers, or (n,) bool."""
        rows = np.asarray(indices)
        names = ("x", "y", "x0", "y0", "valid")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @property
    def boxes0(self) -> Float64:
        """(n, 4) x, y, width, height in level-0 pixels."""
        width, height = (np.full(len(self), side) for side in self.field0)
        return np.stack([self.x0, self.y0, width, height], axis=1)


def tile_grid(
    info: SlideInfo, mpp: Mpp, target: Target, overlap: str = "0", edges: str = "skip", upsample: bool = False
) -> TileGrid:
    """All tiles of a slide, before any selection.

    Args:
        info: The slide.
        mpp: Scale of its level 0.
        target: Scale and side of stored tiles; see `serving_level` for what is stored as it is.
        overlap: Of neighbouring tiles: `32px` in stored pixels, `16um`, or `0.25` of the side, rounded to whole stored
            pixels; see `overlap_px`.
        edges: `skip` keeps whole tiles only; `pad` goes on until the slide is covered, with white beyond it, and
            `valid` tells how much; `shift` moves the last column and row back onto the slide.
        upsample: Enlarge slides that are coarser than the target instead of refusing them.

    Raises:
        ConfigError: For an overlap or edges that cannot be read, or an overlap of a side or more.
        Refused: With reason `too-coarse`; `too-small` where not one tile fits and edges are not padded; `too-large` for
            more than 50 million tiles.
    """
    serving = serving_level(info, mpp, target, upsample)
    level, side = info.levels[serving.level], target.tile_px
    stride = side - overlap_px(overlap, side, serving.mpp)
    sizes = (level.width, level.height)
    x, y = (_starts(size, step, side, stride, edges) for size, step in zip(sizes, serving.step, strict=True))
    if not len(x) * len(y):
        raise Refused("too-small", _too_small(info, mpp, side, serving.mpp))
    if len(x) * len(y) > MOST_TILES:
        raise Refused("too-large", f"overlap {overlap} gives {len(x)} x {len(y)} tiles of {side} px, at most "
                      f"{MOST_TILES} fit; ask for less overlap, larger tiles or a coarser scale")
    inside = [_share_inside(at, side * step, size) for at, step, size in zip((x, y), serving.step, sizes, strict=True)]
    columns, rows = np.tile(x, len(y)), np.repeat(y, len(x))
    down = level.downsample
    return TileGrid(
        serving.level, side, serving.step, serving.mpp, columns, rows, columns * down[0], rows * down[1],
        (side * serving.step[0] * down[0], side * serving.step[1] * down[1]),
        np.outer(inside[1], inside[0]).ravel().astype(np.float32),
    )  # fmt: skip


def _starts(size: int, step: float, side: int, stride: int, edges: str) -> Float64:
    """First edges along one axis in level pixels: whole stored pixels from the corner, whatever the ratio."""
    stored = size / step
    whole = np.ceil(stored - _NOISE_PX) if edges == "pad" else np.floor(stored + _NOISE_PX)
    return grid_starts(int(whole), side, stride, edges) * step


def _share_inside(starts: Float64, field: float, size: int) -> Float64:
    return np.clip((size - starts) / field, 0.0, 1.0)


def _too_small(info: SlideInfo, mpp: Mpp, side: int, stored: tuple[float, float]) -> str:
    level = info.levels[0]
    return (f"the slide has {level.width * mpp.x:.4g} x {level.height * mpp.y:.4g} um and a tile "
            f"{side * stored[0]:.4g} x {side * stored[1]:.4g}; ask for smaller tiles, or edges `pad`")


def overlap_px(text: str, side: int, mpp: tuple[float, float]) -> int:
    """Stored pixels that neighbouring tiles share.

    Args:
        text: `32px` or `32`, `16um`, or a share of the side below 1 such as `0.25`.
        side: Of the tile in stored pixels.
        mpp: (x, y) um a stored pixel; an overlap in um is by their mean.

    Raises:
        ConfigError: For another word, part of a pixel, or an overlap of a side or more.
    """
    word = _OVERLAP.fullmatch(text.strip().lower())
    number = float(word["number"]) if word else side
    if word and not word["unit"] and number < 1:
        number *= side
    elif word and word["unit"] == "um":
        number *= 2 / sum(mpp)
    elif number != int(number):
        number = side
    if round(number) >= side:
        raise ConfigError(f"overlap is {text!r} for tiles of {side} px; expected pixels such as `32px`, um such as "
                          "`16um`, or a share of the side such as `0.25`: less than the side.")
    return round(number)
