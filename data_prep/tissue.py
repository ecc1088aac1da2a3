"""Where a slide holds tissue, found on its thumbnail, and how much of any box that covers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from sciencessl.data_prep.tile_quality import least_and_most, optical_density, pen_pixels
from sciencessl.errors import ConfigError, DataError

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

Method = Literal["auto", "otsu", "saturation", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Ways to tell tissue from glass; `auto` tries the others and keeps the mask with the highest score."""

GLASS_COLOUR = ("glass_red", "glass_green", "glass_blue")
"""Names of the glass's colour among the thresholds."""

WORK_UM = 8.0
"""Finer thumbnails are shrunk to this scale first, so that a mask does not depend on the size of the thumbnail."""
SPECK_UM2 = 5_000.0
"""Smaller pieces are dust: a 70 um square. The smallest biopsies are ten times as large."""
HOLE_UM2 = 40_000.0
"""Smaller gaps (lumina, fat cells, cracks) belong to the tissue around them: a 200 um square."""
PEN_UM2 = 10_000.0
"""Smaller pieces in colours of ink are blood, pigment or noise: pens are a few hundred um wide."""
GAP_UM = 64.0
"""Gaps up to this width are closed before pieces are counted, so that thin membranes of fat hold together."""
HALO_UM = 24.0
"""Half-dark rim of ink and black borders, which goes with them."""
WASH_UM = 200.0
"""How far ink that has run is looked for around ink that is sure."""
RIM = 0.25
"""Less than this part of the strongest within 2 px is the blurred outside of an edge."""
DENSITY = (0.015, 0.08)
"""Optical density above the glass, mean of the channels: least that can be tissue, most that can be glass."""
COLOUR = (0.012, 0.05)
"""The same for colour: the largest less the smallest optical density of the three channels."""
TEXTURE = (1.0, 1.8)
"""The same for local entropy, in bits."""
NEUTRAL_DENSITY = 0.15
LEAST_STAINED = 0.1
"""A piece is tissue only if this share of it has colour, or is denser than shadows and uneven light."""
WINDOW_PX = 9
"""Side of the window of the local entropy."""
GREY_BINS = 16
"""Values of the local entropy's histograms, equally wide in the square root of density."""
WHITE = (245.0, 245.0, 245.0)
"""Glass of thumbnails that show none."""
BLANK = 252
"""From here on a pixel may be what a reader fills gaps with, or saturated glass: nothing absorbs there."""
LEAST_GLASS = 0.002
"""Share of a thumbnail from which a colour can be that of the glass."""
CHUNK = 32_768
"""Boxes averaged at once: what the processor's cache holds."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Which pixels of a thumbnail are tissue, and how that was found.

    Attributes:
        mask: (h, w) bool, as large as the thumbnail. All False where the slide shows only glass.
        scale: (x, y) level-0 pixels to one pixel of the mask.
        method: The one whose mask this is: `otsu`, `saturation` or `entropy`.
        thresholds: Name -> value: one for each method that was tried (`otsu` and `saturation` in optical density above
            the glass, `entropy` in bits) and the colour of the glass (`glass_red`..., 0 to 255).
        scores: Method -> score of each that was tried, 0 to 1; see `find_tissue`.
    """

    mask: Bool
    scale: tuple[float, float]
    method: str
    thresholds: Mapping[str, float]
    scores: Mapping[str, float]

    @property
    def share(self) -> float:
        """Share of the thumbnail that is tissue, 0 to 1."""
        return float(self.mask.mean())

    @property
    def said(self) -> str:
        """How it was found, for people; why, if nothing was."""
        found = f"{self.share:.1%} of the slide is tissue ({self.method})"
        if self.mask.any() or not self.scores:
            return found
        tried = " or ".join(f"{name} above {self.thresholds[name]:.3g}" for name in self.scores)
        glass = ", ".join(f"{self.thresholds[name]:.0f}" for name in GLASS_COLOUR)
        return (f"{found}: beside glass of colour {glass}, ink and black borders nothing larger than "
                f"{SPECK_UM2:,.0f} um2 has {tried}")


@dataclass(frozen=True, eq=False)
class _Looks:
    """What is seen at each pixel of the shrunk thumbnail, (h, w) each; `barred` is ink and black border."""

    density: Float32
    colour: Float32
    texture: Float32
    barred: Bool
    glass: tuple[float, float, float]
    mpp: float


def find_tissue(
    thumbnail: np.ndarray, mpp: float, scale: tuple[float, float], method: Method = "auto"
) -> TissueMask:
    """Tissue on a thumbnail, by a threshold on one of three things seen relative to the slide's own glass.

    `otsu` splits the square roots of optical density, which pale stains survive, `saturation` takes what has more
    colour than the glass and its noise, `entropy` splits the local entropy of density. A threshold never leaves the
    range between the least that can be tissue and the most that can be glass (`DENSITY`, `COLOUR`, `TEXTURE`): so
    only glass gives an empty mask and only tissue a full one. Glass is the brightest neutral colour that is not
    pure white, which is what readers fill gaps with. Pen marks in four colours and black borders are never tissue.
    Then gaps are closed, pieces below `SPECK_UM2` dropped and holes below `HOLE_UM2` filled; pieces that show
    neither colour nor much density are dropped too, being shadows. On crops the two areas are at most 2 % of them.

    The score of a mask is its soft Dice overlap with the evidence e: `2 sum(m e) / (sum(m) + sum(e))`, where e is the
    mean over density, colour and texture of how far each is between its two bounds, cut to 0...1. It is 1 where
    everything inside is surely tissue and nothing outside is.

    Args:
        thumbnail: (h, w, 3) uint8 RGB.
        mpp: um a pixel of the thumbnail, above 0.
        scale: (x, y) level-0 pixels to one pixel of the thumbnail.
        method: Which threshold; `auto` keeps the mask with the highest score.

    Raises:
        DataError: For a thumbnail that is no such array, or an mpp that is no such number.
        ConfigError: For an unknown method.

    Source: Otsu (1979), IEEE Trans. SMC 9, 62; the ranges, cleaning and score are ours.
    """
    _check(thumbnail, mpp, method)
    looks = _looks(*_shrunk(thumbnail, mpp))
    tried = [name for name in _THRESHOLDS if method in ("auto", name)]
    thresholds = {name: _THRESHOLDS[name](looks) for name in tried}
    masks = {name: _cleaned(_above(_seen(looks, name), thresholds[name]), looks) for name in tried}
    evidence = _evidence(looks)
    scores = {name: _dice(mask, evidence) for name, mask in masks.items()}
    best = max(scores, key=lambda name: scores[name])  # the first of equals
    height, width = thumbnail.shape[:2]
    mask = cv2.resize(masks[best].view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
    glass = dict(zip(GLASS_COLOUR, looks.glass, strict=True))
    return TissueMask(mask, scale, best, {**thresholds, **glass}, scores)


def box_means(values: np.ndarray, boxes0: np.ndarray, scale: tuple[float, float]) -> Float32:
    """Mean of a map over boxes, borders inside a pixel counted by the part that lies within.

    Args:
        values: (h, w) bool or finite numbers; counts as 0 outside.
        boxes0: (n, 4) x, y of the upper left corner, width and height, in level-0 pixels; sizes above 0.
        scale: (x, y) level-0 pixels to one pixel of the map.

    Returns:
        (n,) float32. For a mask: the share of each box that it covers, 0 to 1.

    Raises:
        DataError: For boxes or a map of another shape, or that hold what is no finite number.

    Source: ours (a summed-area table read by bilinear interpolation, which is exact for a map of constant pixels).
    """
    if values.ndim != 2 or not np.isfinite(values).all():
        raise DataError(f"box_means needs a (h, w) map of finite numbers; this one is {_said(values)}.")
    if boxes0.ndim != 2 or boxes0.shape[1:] != (4,) or not np.isfinite(boxes0).all() or (boxes0[:, 2:] <= 0).any():
        raise DataError(f"box_means needs (n, 4) boxes x, y, width, height, sizes above 0; got {_said(boxes0)}.")
    table: Float64 = cv2.integral(values.astype(np.uint8 if values.dtype == bool else np.float64), sdepth=cv2.CV_64F)
    means = np.empty(len(boxes0), np.float32)
    for first in range(0, len(boxes0), CHUNK):
        x, y, width, height = np.asarray(boxes0[first : first + CHUNK], np.float64).T
        left, right = _places(x / scale[0], table.shape[1]), _places((x + width) / scale[0], table.shape[1])
        upper, lower = _places(y / scale[1], table.shape[0]), _places((y + height) / scale[1], table.shape[0])
        total = _at(table, lower, right) - _at(table, upper, right) - _at(table, lower, left) + _at(table, upper, left)
        means[first : first + CHUNK] = total * (scale[0] * scale[1]) / (width * height)
    if values.dtype == bool:
        np.clip(means, 0, 1, out=means)  # rounding may step over
    return means


def _said(array: np.ndarray) -> str:
    broken = "" if array.dtype == bool or np.isfinite(array).all() else " with NaN or infinite values"
    return f"{array.dtype} of shape {array.shape}{broken}"


def _places(at: Float64, corners: int) -> tuple[npt.NDArray[np.int64], Float64]:
    """Corner of the table at or before each place, and the way to the next one, 0 to 1."""
    at = np.clip(at, 0, corners - 1)
    before = np.minimum(at.astype(np.int64), corners - 2)
    return before, at - before


def _at(
    table: Float64, rows: tuple[npt.NDArray[np.int64], Float64], columns: tuple[npt.NDArray[np.int64], Float64]
) -> Float64:
    """The table between its corners."""
    (row, down), (column, along) = rows, columns
    flat, here = table.ravel(), row * table.shape[1] + column
    above, below = (flat.take(at) + (flat.take(at + 1) - flat.take(at)) * along for at in (here, here + table.shape[1]))
    found: Float64 = above + (below - above) * down
    return found


def _check(thumbnail: np.ndarray, mpp: float, method: str) -> None:
    if method not in METHODS:
        raise ConfigError(f"tissue method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8 or not thumbnail.size:
        raise DataError(
            f"find_tissue needs a thumbnail of shape (h, w, 3) and type uint8; got {thumbnail.dtype} of shape "
            f"{thumbnail.shape}."
        )
    if not (math.isfinite(mpp) and mpp > 0):
        raise DataError(f"find_tissue needs the thumbnail's um a pixel, a number above 0; got {mpp}.")


def _shrunk(thumbnail: np.ndarray, mpp: float) -> tuple[np.ndarray, float]:
    """The thumbnail at `WORK_UM` or coarser, and its um a pixel."""
    factor = max(WORK_UM / mpp, 1.0)
    height, width = (max(round(side / factor), 1) for side in thumbnail.shape[:2])
    if (height, width) == thumbnail.shape[:2]:
        return thumbnail, mpp
    return cv2.resize(thumbnail, (width, height), interpolation=cv2.INTER_AREA), mpp * factor


def _looks(rgb: np.ndarray, mpp: float) -> _Looks:
    smooth = cv2.GaussianBlur(rgb, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
    glass = _glass(smooth)
    red, green, blue = cv2.split(optical_density(smooth, glass))
    density = np.maximum((red + green + blue) / 3, 0)
    low, high = least_and_most(red, green, blue)
    # Windows reach over the edge of tissue; glass inside them has no texture of its own.
    texture = np.where(density > DENSITY[0], _entropy(density), np.float32(0))
    return _Looks(density, high - low, texture, _barred(smooth, mpp), glass, mpp)


def _barred(rgb: np.ndarray, mpp: float) -> Bool:
    """Ink with what has run from it, and black borders."""
    sure = _without_specks(pen_pixels(rgb), _area_px(PEN_UM2, mpp, rgb.shape))
    if not sure.any():
        return sure
    return _grown(sure | (_grown(sure, WASH_UM / mpp) & pen_pixels(rgb, faint=True)), HALO_UM / mpp)


def _grown(mask: Bool, reach_px: float) -> Bool:
    wide: Bool = cv2.dilate(mask.view(np.uint8), _square(2 * math.ceil(reach_px) + 1)).astype(bool)
    return wide


def _glass(rgb: np.ndarray) -> tuple[float, float, float]:
    """Colour of the glass, 0 to 255: of the brightest smooth neutral pixels short of pure white; else `WHITE`.

    Beside pure white, glass is the more neutral of what is left: pale tissue on glass that is white as well must not
    be taken for grey glass beside white gaps.
    """
    low, high = least_and_most(*cv2.split(rgb))
    white = (low >= BLANK).mean() >= LEAST_GLASS
    uneven = cv2.morphologyEx(rgb[:, :, 1], cv2.MORPH_GRADIENT, _square(5))
    smooth = (low >= 90) & (low < BLANK) & (high - low <= (8 if white else high // 8)) & (uneven <= 8)
    if smooth.mean() < LEAST_GLASS:
        return (255.0, 255.0, 255.0) if white else WHITE
    pixels = rgb[smooth]
    grey = pixels.mean(axis=1)
    near = np.abs(grey - np.percentile(grey, 98)) <= 6
    red, green, blue = np.median(pixels[near], axis=0)
    return float(red), float(green), float(blue)


def _entropy(density: Float32) -> Float32:
    """(h, w) entropy in bits of the densities in the window around each pixel."""
    level = np.minimum(np.rint(10 * np.sqrt(density)), GREY_BINS - 1).astype(np.uint8)
    share = np.arange(256) / WINDOW_PX**2
    bits = (-share * np.log2(np.maximum(share, 1e-9))).astype(np.float32)
    total = np.zeros(density.shape, np.float32)
    for value in np.unique(level):
        count = cv2.boxFilter((level == value).view(np.uint8), -1, (WINDOW_PX, WINDOW_PX), normalize=False,
                              borderType=cv2.BORDER_REPLICATE)
        total += cv2.LUT(count, bits)
    return total


def _otsu(values: Float32, top: float) -> float:
    """Otsu's threshold of values from 0 to `top`; 0 without any."""
    if not len(values):
        return 0.0
    levels = np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels.reshape(1, -1), 0, 255, cv2.THRESH_OTSU)
    return float((threshold + 0.5) * top / 255)


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _noise(values: Float32, most: float) -> float:
    """Median and four standard deviations (1.4826 times the median deviation) of what is no more than `most`."""
    glass = values[values <= most]
    if not len(glass):
        return 0.0
    middle = float(np.median(glass))
    return middle + 4 * 1.4826 * float(np.median(np.abs(glass - middle)))


def _otsu_threshold(looks: _Looks) -> float:
    return _within(_otsu(np.sqrt(looks.density[~looks.barred]), 1.2) ** 2, DENSITY)


def _saturation_threshold(looks: _Looks) -> float:
    return _within(_noise(looks.colour[~looks.barred & (looks.density <= DENSITY[0])], COLOUR[1]), COLOUR)


def _entropy_threshold(looks: _Looks) -> float:
    return _within(_otsu(looks.texture[~looks.barred], math.log2(GREY_BINS)), TEXTURE)


_THRESHOLDS: dict[str, Callable[[_Looks], float]] = {
    "otsu": _otsu_threshold, "saturation": _saturation_threshold, "entropy": _entropy_threshold,
}


def _seen(looks: _Looks, method: str) -> Float32:
    return {"otsu": looks.density, "saturation": looks.colour, "entropy": looks.texture}[method]


def _above(values: Float32, threshold: float) -> Bool:
    """What is above a threshold and above a part of the most around it: the blurred rim of dense tissue is not."""
    above: Bool = values > np.maximum(threshold, RIM * cv2.dilate(values, _square(5)))
    return above


def _evidence(looks: _Looks) -> Float32:
    ramps = [
        np.clip((values - low) / (high - low), 0, 1)
        for values, (low, high) in ((looks.density, DENSITY), (looks.colour, COLOUR), (looks.texture, TEXTURE))
    ]
    return np.where(looks.barred, np.float32(0), sum(ramps) / np.float32(len(ramps)))


def _dice(mask: Bool, evidence: Float32) -> float:
    total = float(mask.sum()) + float(evidence.sum(dtype=np.float64))
    return 2 * float(evidence[mask].sum(dtype=np.float64)) / total if total else 1.0


def _cleaned(mask: Bool, looks: _Looks) -> Bool:
    """Gaps closed, specks and shadows dropped, holes filled; ink and black borders out."""
    mask = mask & ~looks.barred
    reach = round(GAP_UM / 2 / looks.mpp)
    if reach:
        # Closing shrinks what touches the border of the image, unless the image goes on there.
        wide = np.pad(mask.view(np.uint8), 2 * reach, mode="edge")
        closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, _square(2 * reach + 1))
        mask = closed[2 * reach : -2 * reach, 2 * reach : -2 * reach].astype(bool) & ~looks.barred
    mask = _without_specks(mask, _area_px(SPECK_UM2, looks.mpp, mask.shape), looks)
    mask = ~_without_specks(~mask, _area_px(HOLE_UM2, looks.mpp, mask.shape))
    return mask & ~looks.barred


def _square(side: int) -> np.ndarray:
    return np.ones((side, side), np.uint8)


def _area_px(area_um2: float, mpp: float, shape: tuple[int, ...]) -> float:
    """An area in pixels, on small crops at most 2 % of them."""
    return min(area_um2 / mpp**2, 0.02 * shape[0] * shape[1])


def _without_specks(mask: Bool, least_px: float, looks: _Looks | None = None) -> Bool:
    """A mask without its small pieces (of neighbours by a side) and, with `looks`, without pieces that are shadows."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    kept = area >= least_px
    if looks is not None:
        stained = mask & ((looks.density >= NEUTRAL_DENSITY) | (looks.colour >= COLOUR[0]))
        kept &= np.bincount(labels[stained], minlength=count) >= LEAST_STAINED * area
    kept[0] = False
    pieces: Bool = kept[labels]
    return pieces
