"""FITS stamps: one file is one (bands, height, width) float32 array, stored unscaled."""

from __future__ import annotations

import bz2
import gzip
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.listing import MAX_FILE_BYTES
from sciencessl.errors import DataError, MissingExtraError
from sciencessl.spec import FieldSpec

Shape = tuple[int, ...]


def _fits() -> Any:
    try:
        from astropy.io import fits
    except ImportError as error:
        raise MissingExtraError(
            "reading FITS stamps needs astropy; install it with: pip install 'sciencessl[galaxy]'"
        ) from error
    return fits


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
    fits = _fits()
    try:
        with fits.open(io.BytesIO(_unpacked(raw)), memmap=False) as units:
            found = next((unit.data for unit in units if unit.is_image and unit.data is not None), None)
    except Refused:
        raise
    except Exception as error:  # hostile headers raise anything from KeyError to struct.error
        reason = "truncated" if isinstance(error, EOFError) or "truncated" in str(error).lower() else "corrupt"
        raise Refused(reason, f"{type(error).__name__}: {error}"[:200]) from error
    if found is None:
        raise Refused("not-an-image", "a FITS file without an image")
    return _checked(np.asarray(found), min_px)


def _unpacked(raw: bytes) -> bytes:
    """The file without gzip or bzip2 around it, as long as it is no bomb."""
    if not raw:
        raise Refused("truncated", "the file is empty")
    opener: Any = gzip.open if raw.startswith(b"\x1f\x8b") else bz2.open if raw.startswith(b"BZh") else None
    if opener is None:
        return raw
    with opener(io.BytesIO(raw)) as stream:
        plain: bytes = stream.read(MAX_FILE_BYTES + 1)
    if len(plain) > MAX_FILE_BYTES:
        raise Refused("too-large", f"more than {MAX_FILE_BYTES} bytes unpacked")
    return plain


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
