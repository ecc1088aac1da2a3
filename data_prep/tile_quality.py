"""What may be wrong with a tile of a slide, as numbers to be thresholded later: empty glass, ink, blur, folds."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from sciencessl.errors import DataError

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

GLASS = (245.0, 245.0, 245.0)
"""Colour of glass where a tile's own slide is not known."""
QUALITY_COLUMNS = {
    "background": "share of empty pixels",
    "pen": "share of pixels in colours of ink",
    "blur": "width of edges in um, higher is less sharp; NaN without edges",
    "fold": "share of areas twice as dense as the tile",
}
"""Columns of `tile_quality` -> what they are."""
EMPTY_LEVEL, EMPTY_RANGE = 180, 15
"""A pixel is empty if its darkest channel is at least, and its channels differ by at most, so many grey levels."""
PRESMOOTH_PX = 0.8
"""Standard deviation of the smoothing before edges are measured: keeps the noise of JPEG and camera out of them."""
LEAST_EDGES = 0.5
"""Mean squared step between neighbouring pixels, in grey levels, below which there are no edges to measure."""
LEAST_CONTRAST, SOFTEST_PX = 5.0, 4.0
"""With that standard deviation, in grey levels, a tile without edges is no glass: they are at least so soft."""
FOLD_CELL_UM = 8.0
"""Folds are looked for in cells as large as a nucleus, averaged over 3 x 3: nuclei alone are no folds."""
FOLD_TIMES, FOLD_DENSITY, FOLD_COLOUR = 1.5, 0.3, 0.15
"""A fold is denser than so many times the tile's median, and than that density, and has that much colour."""
FOLD_RED = 1.4
"""In a fold red has grown by at most so many times as much as green: where it has, there is more haematoxylin."""
TISSUE_DENSITY = 0.05
"""Cells paler than this do not enter that median."""


def optical_density(rgb: np.ndarray, glass: tuple[float, float, float] = GLASS) -> Float32:
    """How much each channel is absorbed: -log10((I + 1) / (glass + 1)).

    Args:
        rgb: (h, w, 3) uint8.
        glass: Colour of what absorbs nothing, 0 to 255 each.

    Returns:
        (h, w, 3) float32: 0 for glass, negative for what is brighter, at most 2.41.

    Source: Beer-Lambert law; one added so that black stays finite.
    """
    found: Float32 = cv2.LUT(rgb, _densities(glass))
    return found


@lru_cache(maxsize=8)
def _densities(glass: tuple[float, float, float]) -> Float32:
    """(1, 256, 3) density of each level of each channel."""
    levels = np.arange(1, 257, dtype=np.float64)
    return np.stack([-np.log10(levels / (white + 1)) for white in glass], axis=1).astype(np.float32)[None]


def least_and_most(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest of three channels at each pixel: faster than along an axis of length 3."""
    return cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)


def pen_pixels(rgb: np.ndarray, faint: bool = False) -> Bool:
    """Which pixels have a colour that pens have and stained tissue has not.

    Haematoxylin, eosin and blood absorb green most: red ink alone is near them. With R, G, B the optical densities:

    - blue and green ink: R > 1.35 G and R > 0.2, or R > 1.05 G and R > 0.7 where it lies over tissue. Most tissue has
      R < 0.9 G; bluish haematoxylin of immunostains reaches R = 1.2 G, but is paler than that.
    - red ink: B > 0.72 G, R < 0.35 G and G > 0.4. Dense red blood cells have B = 0.6 to 0.8 G: up to 3 % of the pixels
      of tiles with many. Over dense stain red ink is seen in part.
    - black ink, and the black borders of scanners: all above 0.6 and within 25 % of each other, or all above 0.85.
      Carbon pigment too.

    Args:
        rgb: (h, w, 3) uint8.
        faint: Coloured ink down to a fifth of those densities: for looking around ink that is sure, since pale tissue
            may have these colours.

    Returns:
        (h, w) bool.

    Source: ours.
    """
    red, green, blue = cv2.split(optical_density(rgb))
    low, high = least_and_most(red, green, blue)
    least = 0.2 if faint else 1.0
    cold = ((red > 1.35 * green) & (red > 0.2 * least)) | ((red > 1.05 * green) & (red > 0.7))
    cold &= high < 1.6  # noise decides which channel of a nearly black pixel is largest
    warm = (blue > 0.72 * green) & (red < 0.35 * green) & (green > 0.4 * least)
    black = ((low > 0.6) & (high < 1.25 * low)) | (low > 0.85)
    found: Bool = cold | warm | black
    return found


def tile_quality(tile: np.ndarray, mpp: float) -> dict[str, float]:
    """What may be wrong with a tile: `QUALITY_COLUMNS`, cheap enough for every tile, no verdict by itself.

    - `background`, 0 to 1: pixels as bright and as neutral as glass, white or grey. Thresholds of 0.5 to 0.9 are usual.
      Unlike the `tissue` of a mask it counts lumina and the inside of fat cells.
    - `pen`, 0 to 1: `pen_pixels`. Take 0.1: stained tissue and blood reach 0.03. The ink that surgeons mark margins
      with counts too.
    - `blur`, um: standard deviation of a Gaussian that makes an edge as soft as the tile's edges are on average,
      weighted by their squared contrast, so that the strength of the stain does not matter. It is
      `sqrt(E[g^2] / (2 E[l^2]))` with gradient g and Laplacian l of the luminance: exactly that standard deviation
      for one straight edge. Tiles in focus have up to about 1 px, that is 0.5 um at 0.5 um/px; above 1.3 px they are
      visibly out of focus, and beyond 3 px noise keeps it from growing. Compare only tiles of one mpp: what is below
      a pixel is not seen. Tissue that is too soft to have edges gets 4 px; NaN is for what has no
      contrast either, as empty glass, which no threshold then meets.
    - `fold`, 0 to 1: areas of at least 24 um that are 1.5 times as dense as the median of the tile's tissue, much the
      same in colour, and dense and coloured. Take 0.15 to 0.2: dense epithelium beside pale stroma reaches 0.1, seldom
      0.2. A fold over half the tile is not seen.

    Args:
        tile: (h, w, 3) uint8 RGB.
        mpp: um a pixel of the tile, above 0.

    Raises:
        DataError: For a tile that is no such array, or an mpp that is no such number.

    Source: ours.
    """
    if tile.ndim != 3 or tile.shape[2] != 3 or tile.dtype != np.uint8 or not tile.size:
        raise DataError(f"tile_quality needs a (h, w, 3) uint8 tile; got {tile.dtype} of shape {tile.shape}.")
    if not (math.isfinite(mpp) and mpp > 0):
        raise DataError(f"tile_quality needs the tile's um a pixel, a number above 0; got {mpp}.")
    half = _shrunk(tile, 2.0)  # all but blur are about areas, and noise has fewer strange colours there
    return {
        "background": _background(half), "pen": float(pen_pixels(half).mean()),
        "blur": edge_width_px(cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)) * mpp, "fold": _fold(half, 2 * mpp),
    }


def _shrunk(rgb: np.ndarray, factor: float) -> np.ndarray:
    height, width = (max(round(side / factor), 1) for side in rgb.shape[:2])
    small: np.ndarray = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    return small


def edge_width_px(grey: np.ndarray) -> float:
    """The `blur` of `tile_quality` in pixels.

    Args:
        grey: (h, w) uint8.

    Returns:
        Standard deviation of the Gaussian, 0 or more; NaN where there is no edge.
    """
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), PRESMOOTH_PX, borderType=cv2.BORDER_REPLICATE)
    along, down = smooth[:, 1:] - smooth[:, :-1], smooth[1:] - smooth[:-1]
    steps = sum(float(cv2.norm(step, cv2.NORM_L2SQR)) / max(step.size, 1) for step in (along, down) if step.size)
    bends = float(cv2.norm(cv2.Laplacian(smooth, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE), cv2.NORM_L2SQR))
    if steps < LEAST_EDGES:
        return SOFTEST_PX if float(smooth.std()) >= LEAST_CONTRAST else math.nan
    return math.sqrt(max(steps / (2 * bends / smooth.size) - PRESMOOTH_PX**2, 0))


def _background(tile: np.ndarray) -> float:
    low, high = least_and_most(*cv2.split(cv2.blur(tile, (3, 3))))
    return float(((low >= EMPTY_LEVEL) & (high - low <= EMPTY_RANGE)).mean())


def _fold(tile: np.ndarray, mpp: float) -> float:
    cells = cv2.blur(_shrunk(tile, max(FOLD_CELL_UM / mpp, 1)), (3, 3))
    density = optical_density(cells)
    mean = density.mean(axis=2)
    tissue = mean > TISSUE_DENSITY
    if not tissue.any():
        return 0.0
    dense = mean > max(FOLD_TIMES * float(np.median(mean[tissue])), FOLD_DENSITY)
    red, green, _ = (density / np.maximum(np.median(density[tissue], axis=0), TISSUE_DENSITY)).transpose(2, 0, 1)
    return float((dense & (red < FOLD_RED * green) & (np.ptp(density, axis=2) > FOLD_COLOUR)).mean())
