"""Stored payload to pixels: channel order, grey, orientation, arrays, and what is refused."""

from __future__ import annotations

import io
import math
import time
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sciencessl.data import decode as decoding
from sciencessl.data.decode import WORTH_PIXELS, decode, jpeg_size, reduction, takes_least_px
from sciencessl.domains.web.views import WebViews, web_views
from sciencessl.errors import StoreError
from sciencessl.samples import Sample
from sciencessl.spec import FieldSpec
from sciencessl.views.pipeline import Pipeline

RGB = FieldSpec("bytes", ("r", "g", "b"))
GREY = FieldSpec("bytes", ("i",))


def png(pixels: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **options)
    return out.getvalue()


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **{"quality": 95, **options})
    return out.getvalue()


def header(height: int, width: int, before: bytes = b"") -> bytes:
    """A JPEG up to its frame header."""
    frame = b"\xff\xc0\x00\x11\x08" + height.to_bytes(2) + width.to_bytes(2) + b"\x03" + bytes(9)
    return b"\xff\xd8" + before + frame


def smooth_photo(height: int, width: int, grain: int = 40) -> np.ndarray:
    """Clouds of light without detail below about `grain` pixels."""
    coarse = np.random.default_rng(0).uniform(20, 235, (height // grain, width // grain, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


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


@pytest.mark.parametrize(
    ("height", "width", "least_px", "factor"),
    [
        (3000, 4000, 224, 8), (3000, 4000, 375, 8), (3000, 4000, 375.1, 4), (3000, 4000, 914.4, 2),
        (4000, 3000, 1500, 2), (3000, 4000, 1501, 1), (3000, 4000, 10_000, 1), (3000, 4000, math.inf, 1),
        (1000, 1001, 501, 1), (1001, 1001, 500.5, 2),
        # 725 ** 2 is the first square from WORTH_PIXELS on.
        (725, 725, 64, 8), (724, 724, 64, 1), (300, 300, 8, 1), (256, 256, 8, 1),
    ],
)  # fmt: skip
def test_the_reduction_is_the_most_that_keeps_the_shorter_side(
    height: int, width: int, least_px: float, factor: int
) -> None:
    assert reduction(header(height, width), least_px) == factor


def test_any_jpeg_tells_its_size_without_being_decoded() -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    thumbnail = jpeg(np.zeros((16, 24, 3), np.uint8))
    for height, width in ((17, 31), (64, 8), (300, 401)):
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        for payload in (
            jpeg(image), jpeg(image[..., 0]), jpeg(image, progressive=True), jpeg(image, exif=exif.tobytes()),
            jpeg(image, icc_profile=rng.bytes(100_000)), jpeg(image, comment=thumbnail),
        ):
            assert jpeg_size(payload) == (height, width)
    assert jpeg_size(header(500, 700, before=b"\xff\xff\xff\xe0\x00\x04ab")) == (500, 700)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", header(9, 9)[:-12], b"\xff\xd8" + bytes(50),
     b"\xff\xd8" + b"\xff" * 50, b"\xff\xd8\xff\xe0\xff\xff" + bytes(99), png(np.zeros((900, 900, 3), np.uint8))],
)  # fmt: skip
def test_other_bytes_have_no_size_and_are_not_reduced(payload: bytes) -> None:
    assert jpeg_size(payload) is None
    assert reduction(payload, 8) == 1


def test_reading_the_size_takes_microseconds() -> None:
    payload = jpeg(np.zeros((64, 64, 3), np.uint8), icc_profile=bytes(100_000))
    began = time.process_time()
    for _ in range(1000):
        jpeg_size(payload)
    assert (time.process_time() - began) / 1000 < 50e-6


@pytest.mark.parametrize("field", [RGB, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize(("least_px", "shape"), [(400, (401, 502)), (150, (201, 251)), (8, (101, 126))])
def test_sides_are_rounded_up_and_orientation_is_not_applied(
    field: FieldSpec, least_px: int, shape: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = jpeg(smooth_photo(801, 1003), exif=exif.tobytes())
    reduced = decode(payload, field, least_px)
    assert reduced.shape == (*shape, len(field.channels))
    assert reduced.dtype == np.uint8
    assert reduced.flags.c_contiguous


def test_colours_keep_their_order_when_reduced_with_any_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    red = np.zeros((800, 800, 3), np.uint8)
    red[..., 0] = 200
    found = decode(jpeg(red), RGB, 100)
    assert np.abs(found.astype(int) - red[:100, :100]).max() <= 2
    monkeypatch.setattr(decoding, "_COLOUR", None)
    np.testing.assert_array_equal(decode(jpeg(red), RGB, 100), found)


@pytest.mark.parametrize("side", [64, 120, 224, 256, 300, 424, 512])
def test_stamps_and_tiles_are_the_same_bit_for_bit(side: int) -> None:
    assert side**2 < WORTH_PIXELS
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for payload in (jpeg(image), jpeg(image[..., 0])):
        np.testing.assert_array_equal(decode(payload, RGB, 8), decode(payload, RGB))


def test_a_large_png_is_decoded_in_full() -> None:
    image = smooth_photo(800, 800)
    np.testing.assert_array_equal(decode(png(image), RGB, 8), image)


@pytest.mark.parametrize("least_px", [600, 300, 150])
@pytest.mark.parametrize("detail", [0, 60], ids=["smooth", "noisy"])
def test_a_reduced_photo_is_the_average_over_areas(least_px: int, detail: int) -> None:
    """To 0.7 of 255 levels in the mean, and 8 anywhere: what 8 bits and the transform round off."""
    noise = np.random.default_rng(1).integers(-detail, detail + 1, (1200, 1600, 3))
    photo = (smooth_photo(1200, 1600) + noise).clip(0, 255).astype(np.uint8)
    payload = jpeg(photo, subsampling=0)
    reduced = decode(payload, RGB, least_px)
    height, width = reduced.shape[:2]
    averaged = cv2.resize(decode(payload, RGB), (width, height), interpolation=cv2.INTER_AREA)
    difference = np.abs(reduced.astype(int) - averaged)
    assert height == least_px
    assert difference.mean() < 0.7
    assert difference.max() <= 8


def test_views_of_a_reduced_photo_are_those_of_the_full_one() -> None:
    """Within one level of 255 in the mean over training crops, whose corners may differ by a reduced pixel, and over
    evaluation views."""
    payload = jpeg(smooth_photo(1600, 2000, grain=200))
    train, evaluate = web_views(WebViews(size=96))
    crop = Pipeline(train.pipelines[0].transforms[:1])  # type: ignore[attr-defined]
    for view, make in (
        (train, lambda image: np.stack([crop(image, np.random.default_rng(seed)) for seed in range(20)])),
        (evaluate, lambda image: evaluate(Sample({"image": image}), np.random.default_rng)[0].fields["image"]),
    ):
        reduced = decode(payload, RGB, view.least_px["image"])  # type: ignore[attr-defined]
        assert reduced.shape[0] in (200, 400, 800)
        assert np.abs(make(reduced).astype(int) - make(decode(payload, RGB))).mean() < 1


@pytest.mark.parametrize("least_px", [200, 100])
def test_a_fine_grating_does_not_alias(least_px: int) -> None:
    """Stripes of 3.5 pixels fade; shrinking the full image bilinearly turns them into broad ones of full strength."""
    wave = 127 + 100 * np.sin(2 * np.pi * np.arange(1200) / 3.5)
    grating = np.repeat(np.repeat(wave[None, :, None], 800, axis=0), 3, axis=2).round().astype(np.uint8)
    payload = jpeg(grating)
    reduced = decode(payload, RGB, least_px)
    height, width = reduced.shape[:2]
    bilinear = cv2.resize(decode(payload, RGB), (width, height), interpolation=cv2.INTER_LINEAR)
    assert bilinear.std() > 40
    assert reduced.std() < 12


@pytest.mark.parametrize("payload", [b"not an image", header(3000, 4000), header(3000, 4000) + bytes(100)])
def test_bytes_that_are_no_image_are_refused_at_any_size(payload: bytes) -> None:
    with pytest.raises(StoreError, match="no image"):
        decode(payload, RGB, 64)


def test_only_a_decode_that_takes_the_size_is_told_it() -> None:
    assert takes_least_px(decode)
    assert not takes_least_px(lambda payload, field: payload)
    assert not takes_least_px(dict.fromkeys)
    assert not takes_least_px(type)
