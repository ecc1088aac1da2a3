"""Stored payload to pixels: channel order, grey, orientation, arrays, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sciencessl.data.decode import decode
from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec

RGB = FieldSpec("bytes", ("r", "g", "b"))
GREY = FieldSpec("bytes", ("i",))


def png(pixels: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **options)
    return out.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_lossless_bytes_come_back_in_rgb_order(pixels: np.ndarray) -> None:
    decoded = decode(png(pixels), RGB)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


def test_jpeg_is_close_to_an_independent_decoder() -> None:
    smooth = np.zeros((32, 48, 3), np.uint8)
    smooth[..., 0] = np.linspace(0, 255, 48)
    smooth[..., 2] = 200
    out = io.BytesIO()
    Image.fromarray(smooth).save(out, "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(out.getvalue())))
    assert np.abs(decode(out.getvalue(), RGB).astype(int) - expected).max() <= 2


def test_grey_file_fills_three_channels_and_one(pixels: np.ndarray) -> None:
    grey = pixels[..., 0]
    np.testing.assert_array_equal(decode(png(grey), RGB), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(decode(png(grey), GREY), grey[..., None])


def test_orientation_tag_is_not_applied_again() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (40, 20)).save(out, "JPEG", exif=exif.tobytes())
    assert decode(out.getvalue(), RGB).shape == (20, 40, 3)


def test_array_moves_channels_last_and_is_contiguous() -> None:
    stamp = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    decoded = decode(stamp, FieldSpec("array", ("g", "r"), "float32", shape=(3, 4)))
    assert decoded.shape == (3, 4, 2)
    assert decoded.flags.c_contiguous
    assert decoded[1, 2, 1] == stamp[1, 1, 2]


@pytest.mark.parametrize("payload", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut"])
def test_bytes_that_are_no_image_are_refused(payload: bytes) -> None:
    with pytest.raises(StoreError, match="no image"):
        decode(payload, RGB)


def test_wrong_kind_or_shape_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(StoreError, match=r"shape \(2, 3, 4\) cannot fill"):
        decode(np.zeros((2, 3, 4), np.float32), FieldSpec("array", ("g",), "float32", shape=(3, 4)))
    with pytest.raises(StoreError, match="2 channels"):
        decode(png(pixels), FieldSpec("bytes", ("a", "b")))
