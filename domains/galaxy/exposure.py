"""What a telescope makes of a patch of sky: PSF, stars, noise of sky and photons, and the defects that masks tell.

Fluxes are in nanomaggies, images in nanomaggies a pixel, positions in 0-based pixels. All numbers are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import oaconvolve

from sciencessl.domains.galaxy.morphology import BANDS

PIXEL_SCALE = 0.396
"""Arcseconds a pixel, as in SDSS imaging."""

BAD_COLUMN, SATURATED = 1, 2
"""Values of the mask's two bits: a dead or hot column; a saturated star and its bleed along columns."""

SATURATION = 60.0
"""Nanomaggies a pixel that a detector holds; a brighter pixel spills along its column."""

SKY_SIGMA = {"g": 0.006, "r": 0.010, "z": 0.018}
GAIN = 400.0
"""Photo-electrons a nanomaggy."""

_SEEING = {"g": 1.25, "r": 1.15, "z": 1.05}  # arcsec
_BETA = 3.5
_PSF_PX = 41
_STARS_A_PIXEL = 3e-4
_BLEED_FLUX = 40.0  # nanomaggies above saturation that make a bleed a pixel longer each way
_COLUMNS_PX = 600  # a bad column for so many
_NAN_PX = 12


@dataclass(frozen=True)
class Stars:
    """Positions (N, 2), x and y, and fluxes (N, 3) in g, r, z of N stars."""

    position: np.ndarray
    flux: np.ndarray


@dataclass(frozen=True)
class Exposure:
    """One tile as observed.

    Attributes:
        flux: (3, H, W) float32, with the defects; NaN where a block was lost.
        ivar: (3, H, W) float32, inverse variance; 0 where a pixel has a defect.
        mask: (3, H, W) int16, `BAD_COLUMN` and `SATURATED`; a lost block has no bit.
        clean: (3, H, W) float32, flux before the defects: what a picture with repaired pixels would show.
        seeing: Band -> full width at half maximum of the PSF, arcsec.
    """

    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    clean: np.ndarray
    seeing: dict[str, float]


def moffat(fwhm_px: float, offset: np.ndarray) -> np.ndarray:
    """Moffat profiles of exponent 3.5 and unit sum (Moffat 1969).

    Args:
        fwhm_px: Full width at half maximum.
        offset: (N, 2) x and y of the centre from the middle pixel.

    Returns:
        (N, 41, 41).
    """
    width = fwhm_px / (2 * np.sqrt(2 ** (1 / _BETA) - 1))
    grid = np.arange(_PSF_PX) - _PSF_PX // 2
    dx, dy = grid[None, None, :] - offset[:, 0, None, None], grid[None, :, None] - offset[:, 1, None, None]
    light = (1 + (dx * dx + dy * dy) / width**2) ** -_BETA
    unit: np.ndarray = light / light.sum(axis=(1, 2), keepdims=True)
    return unit


def draw_stars(width: int, height: int, bright: np.ndarray, rng: np.random.Generator) -> Stars:
    """Stars at random places, 3 in 10,000 pixels, r magnitudes of 20 to 24.5, and one bright star at each given place.

    Args:
        width: Of the sky in pixels.
        height: Of the sky.
        bright: (N, 2) x and y of stars of r magnitude 12 to 13, which saturate.
        rng: Source of the draws.
    """
    n = rng.poisson(_STARS_A_PIXEL * width * height)
    faint = rng.uniform(-0.5, np.array([width, height]) - 0.5, size=(n, 2))
    magnitude = np.concatenate([rng.uniform(20.0, 24.5, n), rng.uniform(12.0, 13.0, len(bright))])
    slope = rng.normal(0.6, 0.3, n + len(bright))
    colours = np.exp(np.array([-1.0, 0.0, 0.8]) * slope[:, None])
    return Stars(np.concatenate([faint, bright]), 10 ** (0.4 * (22.5 - magnitude[:, None])) * colours)


def expose(scene: np.ndarray, stars: Stars, rng: np.random.Generator) -> Exposure:
    """Observe a tile: blur, stars, noise, then defects. Seeing differs by up to 8 % between tiles.

    Args:
        scene: (3, H, W) extended light in g, r, z.
        stars: In pixels of the tile; those beyond its edge count as far as their light reaches.
        rng: Source of noise and defects.
    """
    seen = np.empty(scene.shape, dtype=np.float32)
    change = rng.uniform(0.92, 1.08)
    seeing = {band: round(change * fwhm, 4) for band, fwhm in _SEEING.items()}
    for i, band in enumerate(BANDS):
        fwhm_px = seeing[band] / PIXEL_SCALE
        seen[i] = oaconvolve(scene[i], moffat(fwhm_px, np.zeros((1, 2)))[0].astype(np.float32), mode="same")
        _add_stars(seen[i], stars.position, stars.flux[:, i], fwhm_px)
    sky = np.array([SKY_SIGMA[band] for band in BANDS], dtype=np.float32)[:, None, None]
    variance = sky**2 + np.maximum(seen, 0) / np.float32(GAIN)
    clean = seen + np.sqrt(variance) * rng.standard_normal(seen.shape, dtype=np.float32)
    flux, mask = clean.copy(), np.zeros(seen.shape, dtype=np.int16)
    for i in range(len(BANDS)):
        _spill(flux[i], mask[i])
        _spoil_columns(flux[i], mask[i], rng)
    _lose_block(flux, rng)
    ivar = np.where((mask == 0) & np.isfinite(flux), 1 / variance, np.float32(0))
    return Exposure(flux, ivar, mask, clean, seeing)


def _add_stars(plane: np.ndarray, position: np.ndarray, flux: np.ndarray, fwhm_px: float) -> None:
    height, width = plane.shape
    half = _PSF_PX // 2
    near = np.all((position > -half) & (position < np.array([width, height]) + half), axis=1)
    whole = np.rint(position[near]).astype(int)
    profiles = moffat(fwhm_px, position[near] - whole) * flux[near, None, None]
    for (x, y), light in zip(whole.tolist(), profiles, strict=True):
        paste(plane[None], light[None], x - half, y - half)


def paste(canvas: np.ndarray, light: np.ndarray, x: int, y: int) -> None:
    """Add (C, h, w) light to a (C, H, W) canvas with its first pixel at x, y; cut off at the rim."""
    (height, width), (tall, wide) = canvas.shape[1:], light.shape[1:]
    low_x, low_y, high_x, high_y = max(x, 0), max(y, 0), min(x + wide, width), min(y + tall, height)
    if low_x < high_x and low_y < high_y:
        canvas[:, low_y:high_y, low_x:high_x] += light[:, low_y - y : high_y - y, low_x - x : high_x - x]


def _spill(plane: np.ndarray, mask: np.ndarray) -> None:
    """Clip what is above saturation; what is too much makes a trail along the column, both ways alike."""
    rows, columns = np.nonzero(plane > SATURATION)
    for column in np.unique(columns).tolist():
        mine = rows[columns == column]
        length = int((plane[mine, column] - SATURATION).sum() / _BLEED_FLUX)
        trail = slice(max(mine.min() - length, 0), mine.max() + length + 1)
        plane[trail, column] = SATURATION
        mask[trail, column] |= SATURATED


def _spoil_columns(plane: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    n, width = max(plane.shape[1] // _COLUMNS_PX, 1), plane.shape[1]
    for column, level in zip(rng.integers(0, width, n), rng.choice((0.0, 0.5), n), strict=True):
        plane[:, column] = level
        mask[:, column] |= BAD_COLUMN


def _lose_block(flux: np.ndarray, rng: np.random.Generator) -> None:
    """A square of one band becomes NaN, as where an amplifier's readout failed."""
    band, y, x = (int(rng.integers(0, length)) for length in flux.shape)
    flux[band, y : y + _NAN_PX, x : x + _NAN_PX] = np.nan
