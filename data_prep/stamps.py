"""FITS stamps: one file is one (bands, height, width) float32 array, stored unscaled."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.fits_headers import astropy_fits, refusals, unpacked
from sciencessl.data_prep.listing import MAX_FILE_BYTES
from sciencessl.errors import DataError
from sciencessl.spec import FieldSpec

Shape = tuple[int, ...]


def read_stamp(raw: bytes, min_px: int = 1) -> np.ndarray:
    """The first image of a FITS file, scaled by BSCALE and BZERO; blank pixels are NaN.

    Args:
        raw: The file; gzip, bzip2 and tile compression are recognised by content.
        min_px: Smallest side in pixels.

    Returns:
        (C, H, W) float32 in native byte order; a two-dimensional image has one channel.

    Raises:
        Refused: With reason corrupt, truncated, not-an-image, too-small, shape or all-nan.
        MissingExtraError: When astropy is not installed.
    """
    fits = astropy_fits("reading FITS stamps")
    with refusals():
        plain = unpacked(io.BytesIO(raw), MAX_FILE_BYTES)
        with fits.open(io.BytesIO(plain), memmap=False) as units:
            found = next((unit.data for unit in units if unit.is_image and unit.data is not None), None)
    if found is None:
        raise Refused("not-an-image", "a FITS file without an image")
    return _checked(np.asarray(found), min_px)


def _checked(values: np.ndarray, min_px: int) -> np.ndarray:
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise Refused("shape", f"{values.ndim} dimensions, expected (height, width) or (bands, height, width)")
    if min(values.shape[1:]) < min_px:
        raise Refused("too-small", f"{values.shape[2]} x {values.shape[1]} px, min_px is {min_px}")
    stamp = np.ascontiguousarray(values, dtype=np.float32)
    if np.isnan(stamp).all():
        raise Refused("all-nan", "every pixel is NaN")
    return stamp


def stamp_field(shapes: Iterable[Shape], domain_field: FieldSpec) -> FieldSpec:
    """The `array` field for stamps of the shape that most have; ties go to the larger shape.

    Channels take the domain's names where their number is the same, else `band0`, `band1`...

    Raises:
        DataError: When not one stamp could be read.
    """
    counts = Counter(shapes)
    if not counts:
        raise DataError("none of the FITS files looked at holds an image of (height, width) or (bands, height, width).")
    channels, *spatial = max(counts, key=lambda shape: (counts[shape], shape))
    names = tuple(f"band{i}" for i in range(channels))
    if channels == len(domain_field.channels):
        names = domain_field.channels
    return replace(domain_field, kind="array", channels=names, dtype="float32", shape=tuple(spatial))
