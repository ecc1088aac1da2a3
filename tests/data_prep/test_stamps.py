"""FITS stamps: values, shapes, scaling, compression, NaN, and the field they make."""

from __future__ import annotations

import bz2
import gzip
import io
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.stamps import read_stamp, stamp_field
from sciencessl.errors import DataError
from sciencessl.spec import FieldSpec

fits = pytest.importorskip("astropy.io.fits")
RGB = FieldSpec("bytes", ("r", "g", "b"), scale_unit="arcsec/px")


def raw_of(*units: Any) -> bytes:
    out = io.BytesIO()
    fits.HDUList([units[0] if units else fits.PrimaryHDU(), *units[1:]]).writeto(out)
    return out.getvalue()


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 10, 12)).astype(np.float32)


def reason(raw: bytes, min_px: int = 1) -> str:
    with pytest.raises(Refused) as refused:
        read_stamp(raw, min_px)
    return refused.value.reason


def test_planes_come_back_in_native_order(values: np.ndarray) -> None:
    stamp = read_stamp(raw_of(fits.PrimaryHDU(values)))
    assert stamp.dtype == np.dtype("float32")
    assert stamp.dtype.isnative
    np.testing.assert_array_equal(stamp, values)


def test_one_plane_has_one_channel_and_later_units_are_found(values: np.ndarray) -> None:
    np.testing.assert_array_equal(read_stamp(raw_of(fits.PrimaryHDU(values[0]))), values[:1])
    np.testing.assert_array_equal(read_stamp(raw_of(fits.PrimaryHDU(), fits.ImageHDU(values))), values)


def test_compressed_files(values: np.ndarray) -> None:
    for pack in (gzip.compress, bz2.compress):
        np.testing.assert_array_equal(read_stamp(pack(raw_of(fits.PrimaryHDU(values)))), values)
    tiled = raw_of(fits.PrimaryHDU(), fits.CompImageHDU(values[0], compression_type="GZIP_2", quantize_level=0.0))
    np.testing.assert_array_equal(read_stamp(tiled), values[:1])


def test_scaled_integers_become_physical_values() -> None:
    unit = fits.PrimaryHDU(np.arange(12, dtype=np.int16).reshape(3, 4))
    unit.header["BSCALE"], unit.header["BZERO"] = 0.5, 10.0
    np.testing.assert_allclose(read_stamp(raw_of(unit))[0], 10 + 0.5 * np.arange(12).reshape(3, 4))


def test_nan_pixels_stay_unless_all_are(values: np.ndarray) -> None:
    values[0, 0, 0] = np.nan
    np.testing.assert_array_equal(read_stamp(raw_of(fits.PrimaryHDU(values))), values)
    assert reason(raw_of(fits.PrimaryHDU(np.full((5, 5), np.nan, np.float32)))) == "all-nan"


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_reasons(values: np.ndarray) -> None:
    whole = raw_of(fits.PrimaryHDU(np.tile(values, (1, 10, 10))))
    assert reason(whole[: len(whole) // 2]) in ("truncated", "corrupt")
    assert reason(b"") == "truncated"
    assert reason(b"no fits at all") == "corrupt"
    assert reason(raw_of(fits.PrimaryHDU())) == "not-an-image"
    assert reason(raw_of(fits.PrimaryHDU(np.zeros((2, 2, 9, 9))))) == "shape"
    assert reason(raw_of(fits.PrimaryHDU(values)), min_px=11) == "too-small"


def test_field_takes_the_shape_of_most_and_the_domains_names() -> None:
    field = stamp_field([(3, 8, 8), (3, 9, 9), (3, 8, 8)], RGB)
    assert field == FieldSpec("array", ("r", "g", "b"), "float32", scale_unit="arcsec/px", shape=(8, 8))
    assert stamp_field([(5, 8, 8)], RGB).channels == ("band0", "band1", "band2", "band3", "band4")
    assert stamp_field([(1, 8, 8), (1, 9, 9)], RGB).shape == stamp_field([(1, 9, 9), (1, 8, 8)], RGB).shape
    with pytest.raises(DataError, match="none of the FITS files"):
        stamp_field([], RGB)
