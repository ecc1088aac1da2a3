"""Any mode as 8-bit grey or RGB, and profiles as sRGB, against rules worked by hand and LittleCMS."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from sciencessl.data_prep.colour import in_srgb, to_eight_bits
from sciencessl.data_prep.refused import Refused
from tests.data_prep.profiles import grey_profile, swapped_profile

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)


def reopened(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Image.open(out)


def eight(image: Image.Image) -> np.ndarray:
    return np.asarray(to_eight_bits(image))



def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.clip(curved, 0, 1) * 255


def test_sixteen_bits_lose_their_low_byte_and_twelve_their_low_four() -> None:
    deep = RNG.integers(0, 65_536, (12, 10)).astype(np.uint16)
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000"):
        np.testing.assert_array_equal(eight(reopened(Image.fromarray(deep), kind)), deep >> 8)
    # Three bytes hold two values of 12 bits.
    twelve = RNG.integers(0, 4096, (8, 10)).astype(np.uint16)
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in twelve.reshape(-1, 2).tolist())
    entries = [(256, 10), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8), (279, len(packed))]
    tiff = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    np.testing.assert_array_equal(eight(Image.open(io.BytesIO(tiff))), twelve >> 4)


def test_zero_is_white_where_a_tiff_says_so() -> None:
    deep = RNG.integers(0, 65_536, (12, 10)).astype(np.uint16)
    inverted = reopened(Image.fromarray(deep), "TIFF", tiffinfo={262: 0})
    assert inverted.tag_v2[262] == 0
    np.testing.assert_array_equal(eight(inverted), 255 - (deep >> 8))


def test_a_transparent_value_of_sixteen_bits_is_white() -> None:
    deep = RNG.integers(0, 65_536, (12, 10)).astype(np.uint16)
    image = reopened(Image.fromarray(deep), "PNG", transparency=int(deep[3, 4]))
    expected = np.where(deep == deep[3, 4], 255, deep >> 8)
    np.testing.assert_array_equal(eight(image), expected)


def test_integers_beyond_sixteen_bits_and_floats_are_unsupported() -> None:
    for values in (np.full((9, 9), 70_000, np.int32), np.full((9, 9), -1, np.int32), np.zeros((9, 9), np.float32)):
        with pytest.raises(Refused, match=r"unsupported: .*; store them as FITS stamps"):
            to_eight_bits(Image.fromarray(values))
    np.testing.assert_array_equal(eight(Image.fromarray(np.full((9, 9), 65_535, np.int32))), 255)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La"])
def test_alpha_lies_over_white(mode: str) -> None:
    alpha = RNG.integers(0, 256, (12, 10), dtype=np.uint8)
    grey = COLOURS[..., 0]
    straight = Image.fromarray(np.dstack([grey, grey, grey, alpha]))
    if mode in ("RGBA", "RGBa"):
        image = straight.convert(mode)
    else:
        image = Image.fromarray(np.dstack([grey, alpha]), "LA")
        image = image if mode == "LA" else image.convert(mode)
    share = alpha[..., None] / 255.0
    expected = grey[..., None] * share + 255 * (1 - share)
    # Colours that were multiplied by alpha are whole numbers, so faint ones are known roughly.
    np.testing.assert_allclose(eight(image).astype(float), np.repeat(expected, 3, axis=2), atol=2)


def test_cmyk_without_profile_is_what_ink_leaves_of_white() -> None:
    ink = RNG.integers(0, 256, (12, 10, 4), dtype=np.uint8)
    expected = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:].astype(float)) / 255
    np.testing.assert_allclose(eight(Image.fromarray(ink, "CMYK")), expected, atol=1)


def test_cmyk_jpeg_is_inverted_as_adobe_does() -> None:
    ink = np.broadcast_to(np.array([10, 60, 120, 30], np.uint8), (16, 16, 4))
    again = reopened(Image.fromarray(np.ascontiguousarray(ink), "CMYK"), "JPEG", quality=100)
    expected = (255 - np.array([10, 60, 120.0])) * (255 - 30) / 255
    np.testing.assert_allclose(eight(again)[8, 8], expected, atol=3)


def test_a_broken_profile_of_cmyk_is_as_good_as_none() -> None:
    ink = RNG.integers(0, 256, (12, 10, 4), dtype=np.uint8)
    image = Image.fromarray(ink, "CMYK")
    plain = eight(image)
    for profile in (b"no profile", swapped_profile(), b""):
        image.info["icc_profile"] = profile
        np.testing.assert_array_equal(eight(image), plain)


def test_lab_becomes_srgb() -> None:
    lab = np.zeros((9, 9, 3), np.uint8)
    lab[..., 0] = np.arange(9) * 31  # L* in 255ths of 100
    grey = eight(Image.fromarray(lab, "LAB"))
    lightness = np.arange(9) * 31 / 255 * 100
    linear = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    np.testing.assert_allclose(grey[0], np.repeat(srgb_from_linear(linear)[:, None], 3, axis=1), atol=2)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV"])
def test_other_spaces_become_rgb(mode: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    np.testing.assert_allclose(eight(image), COLOURS.astype(float), atol=6)


def test_a_profile_is_applied_by_its_matrix_and_curve() -> None:
    converted = in_srgb(COLOURS, swapped_profile())
    assert converted is not None
    # Red and green swap, and a straight curve becomes that of sRGB.
    expected = srgb_from_linear(COLOURS[..., [1, 0, 2]] / 255.0)
    np.testing.assert_allclose(converted, expected, atol=2)


def test_a_grey_profile_leaves_grey() -> None:
    grey = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    converted = in_srgb(grey, grey_profile(1.8))
    assert converted is not None
    assert converted.shape == (16, 16)
    # ICC keeps the exponent in 256ths.
    np.testing.assert_allclose(converted, srgb_from_linear((grey / 255.0) ** (round(1.8 * 256) / 256)), atol=2)


def test_srgb_broken_and_foreign_profiles_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"", b"broken", srgb[:200], grey_profile(1.0), b"\0" * 4000):
        assert in_srgb(COLOURS, profile) is None
    assert in_srgb(COLOURS[..., 0], swapped_profile()) is None
