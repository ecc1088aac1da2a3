"""One band of some stamps: cut as it lies in the tile, padded, or resampled onto the stored grid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sciencessl.data_prep import resample
from sciencessl.data_prep.cutouts import cut_stamps, origins
from sciencessl.data_prep.fits_planes import Planes
from sciencessl.data_prep.resample import north_up, reproject_stamps, resample_stamps
from sciencessl.data_prep.sky_tiles import Band, SkyTile, own_bits
from sciencessl.data_prep.sky_wcs import affine_wcs, pixel_scale_deg
from sciencessl.data_prep.survey_settings import SurveySettings

MARGIN_PX = 4
"""Pixels of the tile around a field that resampling needs."""
SIZE_STEP = 8
"""Windows for resampling have sides of a multiple of this, so that few sizes are read."""
SURVEY_BITS = (1 << 29) - 1
"""Bits of a mask that may be the survey's own; above them are ours."""
HIGHEST_BIT = 1 << 28
BATCH_PX = 2**21
"""Pixels of windows that are resampled at a time."""

Piece = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
"""(k, S, S) flux, mask and inverse variance; the last None where none is wanted."""


@dataclass(frozen=True)
class Frame:
    """Where the stored pixels of some stamps lie in the tile that owns them.

    Attributes:
        owner: The tile.
        first: (n, 2) x, y of the first stored pixel where pixels are the tile's own; whole numbers.
        x: (n,) position of the source in the owner, in 0-based pixels.
        y: (n,)
        ra: (n,) degrees.
        dec: (n,)
        field_px: (n,) side of the field in pixels of the owner.
        survey: The settings.
    """

    owner: SkyTile
    first: np.ndarray
    x: np.ndarray
    y: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    field_px: np.ndarray
    survey: SurveySettings

    @classmethod
    def of(
        cls, owner: SkyTile, x: np.ndarray, y: np.ndarray, field_px: np.ndarray, ra: np.ndarray, dec: np.ndarray,
        survey: SurveySettings,
    ) -> Frame:
        """The frame of stamps of one tile."""
        side = np.rint(field_px).astype(np.int64) if survey.fit == "pad" else np.full(len(x), survey.size_px)
        first = origins(x, y, side) - ((survey.size_px - side) // 2)[:, None]
        return cls(owner, first, x, y, ra, dec, field_px, survey)

    def only(self, rows: np.ndarray) -> Frame:
        """Some of the stamps."""
        arrays = {name: getattr(self, name)[rows] for name in ("first", "x", "y", "ra", "dec", "field_px")}
        return replace(self, **arrays)

    def columns(self) -> dict[str, list[Any]]:
        """What tells where stored pixels are: the first pixel in the tile, and the affine WCS where there is one."""
        side, n = self.survey.size_px, len(self.x)
        corner, sides = self.first.astype(np.float64), np.full(n, float(side))
        if self.survey.resamples:
            corner, sides = np.stack([self.x, self.y], 1) - (self.field_px[:, None] - 1) / 2, self.field_px
        columns: dict[str, list[Any]] = {"origin_x": corner[:, 0].tolist(), "origin_y": corner[:, 1].tolist()}
        wcs = self.owner.wcs
        if wcs is None:
            return columns
        columns |= {"ra": self.ra.tolist(), "dec": self.dec.tolist()}
        ratio = sides / side
        found = affine_wcs(wcs, corner, sides)
        scale = 3600 * pixel_scale_deg(wcs) * ratio
        for name, values in found.items():
            if name.startswith("wcs_cd"):
                found[name] = values * ratio
            elif name.startswith("wcs_crpix"):
                found[name] = np.where(np.isfinite(values), (side + 1) / 2, np.nan)
        if self.survey.reproject:
            found = north_up(self.ra, self.dec, scale, side)
        return {**columns, "scale_arcsec_px": scale.tolist(), **{name: v.tolist() for name, v in found.items()}}


def read_band(
    planes: Planes, tile: SkyTile, name: str, frame: Frame, x: np.ndarray, y: np.ndarray, mask_dtype: str, ivar: bool
) -> Piece:
    """One band of the stamps of a frame, as a tile has it.

    Args:
        planes: Opens files.
        tile: The owner of the frame, or another tile that shows its sources.
        name: Of the band.
        frame: k stamps.
        x: (k,) position of each source in this tile.
        y: (k,)
        mask_dtype: Of the stored mask.
        ivar: Whether inverse variances are wanted.

    Returns:
        Flux with NaN where nothing is known, the mask with our two bits, and inverse variances, 0 where unknown.

    Raises:
        Refused: As the files say.
    """
    if frame.survey.resamples:
        return _resampled(planes, tile, name, frame, x, y, mask_dtype, ivar)
    # Another tile on the same grid is shifted by whole pixels: its positions say by how many.
    shift = np.rint(np.stack([x - frame.x, y - frame.y], axis=1)).astype(np.int64)
    piece = cut_band(planes, tile.bands[name], tile.shape, frame.first + shift, frame.survey.size_px, mask_dtype, ivar,
                     frame.survey)
    if frame.survey.fit == "pad":
        _hide_beyond(piece, np.rint(frame.field_px).astype(np.int64), mask_dtype)
    return piece


def cut_band(
    planes: Planes, band: Band, shape: tuple[int, int], first: np.ndarray, side: int, mask_dtype: str, ivar: bool,
    survey: SurveySettings, sources: int = 1,
) -> Piece:
    """Windows of one band: flux, mask and inverse variance as they lie in the tile.

    Args:
        planes: Opens files.
        band: What to read.
        shape: (H, W) of the tile.
        first: (k, 2) x, y of each window's first pixel.
        side: Of the windows in pixels.
        mask_dtype: Of the mask.
        ivar: Whether inverse variances are wanted.
        survey: Which mask bits count.
        sources: How many windows will be cut from the tile in all, if more than these.
    """
    sources = max(sources, len(first))
    x, y = (first + side / 2).T  # a stamp's first pixel is ceil(position - side / 2)
    off, broken = own_bits(mask_dtype)
    image = cut_stamps(planes.windows(band.image, sources, side), x, y, side, np.nan,
                       np.empty((len(x), side, side), np.float32))
    mask = np.zeros(image.shape, mask_dtype)
    if band.mask is not None:
        bits = cut_stamps(planes.windows(band.mask, sources, side), x, y, side, 0)
        mask[:] = survey_bits(bits) & counted_bits(survey)
    outside = ~_on_tile(first, side, shape)
    mask[~np.isfinite(image) & ~outside] |= broken
    image[~np.isfinite(image)] = np.nan
    mask[outside] = off
    weight = None
    if band.weight is not None:
        weight = _ivar(cut_stamps(planes.windows(band.weight, sources, side), x, y, side, 0,
                                  np.empty(image.shape, np.float32)), band.weight.kind)
        mask[weight == 0] |= off
    if ivar and weight is None:
        weight = np.zeros(image.shape, np.float32)
    return image, mask, weight if ivar else None


def _resampled(
    planes: Planes, tile: SkyTile, name: str, frame: Frame, x: np.ndarray, y: np.ndarray, mask_dtype: str, ivar: bool
) -> Piece:
    """The band on the stored grid, with windows of one size at a time."""
    wide = frame.field_px
    if frame.survey.reproject:
        wide = frame.field_px * pixel_scale_deg(frame.owner.wcs) / pixel_scale_deg(tile.wcs) * np.sqrt(2)
    sides = SIZE_STEP * np.ceil((wide + 2 * MARGIN_PX) / SIZE_STEP).astype(np.int64)
    side, shape = frame.survey.size_px, (len(x), frame.survey.size_px, frame.survey.size_px)
    off, broken = own_bits(mask_dtype)
    image, mask = np.full(shape, np.nan, np.float32), np.full(shape, off, mask_dtype)
    weight = np.zeros(shape, np.float32) if ivar else None
    for size, rows in _batches(sides):
        first = origins(x[rows], y[rows], size)
        flux, bits, native = cut_band(planes, tile.bands[name], tile.shape, first, size, mask_dtype, ivar, frame.survey,
                                      len(x))
        good = (bits & (off | broken)) == 0
        has_weight = tile.bands[name].weight is not None
        window = resample.Planes(flux[:, None], good[:, None],
                                 native[:, None] if native is not None and has_weight else None,
                                 (bits & ~np.array(off | broken, bits.dtype))[:, None])
        new = _on_stored_grid(window, tile, name, frame.only(rows), first, np.stack([x[rows], y[rows]], 1), side)
        image[rows] = np.where(new.good, new.flux, np.nan)[:, 0]
        mask[rows] = np.where(new.good, np.asarray(new.mask), off)[:, 0]
        if weight is not None and new.ivar is not None:
            weight[rows] = np.where(new.good, new.ivar, 0)[:, 0]
    return image, mask, weight


def _batches(sides: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Sides, and some of the windows that have them: so few that they fit into memory."""
    for size in np.unique(sides).tolist():
        rows, most = np.flatnonzero(sides == size), max(1, BATCH_PX // size**2)
        for start in range(0, len(rows), most):
            yield size, rows[start : start + most]


def _on_stored_grid(
    window: resample.Planes, tile: SkyTile, name: str, frame: Frame, first: np.ndarray, xy: np.ndarray, side: int
) -> resample.Planes:
    per_pixel = not is_per_area(tile.bands[name].unit)
    if not frame.survey.reproject:
        return resample_stamps(window, xy - first, frame.field_px / side, side, flux_per_pixel=per_pixel)
    scale = 3600 * pixel_scale_deg(frame.owner.wcs) * frame.field_px / side
    target = north_up(frame.ra, frame.dec, scale, side)
    return reproject_stamps(window, tile.wcs, first, target, side, flux_per_pixel=per_pixel)


def is_per_area(unit: str) -> bool:
    """Whether a unit is a surface brightness, such as MJy/sr: values then stay as pixels change size, not sums."""
    return bool(re.search(r"(/|\bper\b)\s*\(?\s*(sr|arcsec|deg)|(sr|arcsec|deg)\s*(\*\*|\^)?\s*\(?-", unit.lower()))


def survey_bits(mask: np.ndarray) -> np.ndarray:
    """(...) int32 bits of a survey's mask of any type; bits above the 28th, and what is no number, become the 28th."""
    if mask.dtype.kind == "f":
        mask = np.nan_to_num(mask, nan=HIGHEST_BIT, posinf=HIGHEST_BIT, neginf=HIGHEST_BIT).astype(np.int64)
    bits = mask.astype(f"u{mask.itemsize}")  # a sign is the highest bit
    if bits.itemsize < 4:
        return bits.astype(np.int32)
    found = (bits & SURVEY_BITS).astype(np.int32)
    found[bits > SURVEY_BITS] |= HIGHEST_BIT
    return found


def counted_bits(survey: SurveySettings) -> int:
    """The survey's bits that make a pixel bad, as one number."""
    return sum(1 << bit for bit in survey.mask_bits) if survey.mask_bits else SURVEY_BITS


def _on_tile(first: np.ndarray, side: int, shape: tuple[int, int]) -> np.ndarray:
    """(k, side, side) bool: which pixels of the windows lie on the tile."""
    steps = np.arange(side)
    across, up = (first[:, axis, None] + steps for axis in (0, 1))
    inside = [(at >= 0) & (at < length) for at, length in ((across, shape[1]), (up, shape[0]))]
    return np.asarray(inside[1][:, :, None] & inside[0][:, None, :])


def _ivar(weight: np.ndarray, kind: str) -> np.ndarray:
    """Inverse variances, 0 where a weight says nothing."""
    known = np.isfinite(weight) & (weight > 0)
    if kind == "ivar":
        return np.where(known, weight, np.float32(0))
    power = 1 if kind == "variance" else 2
    found = np.zeros_like(weight)
    with np.errstate(over="ignore"):
        np.divide(1, weight**power, out=found, where=known)
    found[~np.isfinite(found)] = 0
    return found


def _hide_beyond(piece: Piece, sides: np.ndarray, mask_dtype: str) -> None:
    """Make pixels beyond each stamp's own field unknown."""
    image, mask, ivar = piece
    side, steps = image.shape[-1], np.arange(image.shape[-1])
    start = (side - sides) // 2
    inside = (steps >= start[:, None]) & (steps < (start + sides)[:, None])
    beyond = ~(inside[:, :, None] & inside[:, None, :])
    image[beyond], mask[beyond] = np.nan, own_bits(mask_dtype)[0]
    if ivar is not None:
        ivar[beyond] = 0
