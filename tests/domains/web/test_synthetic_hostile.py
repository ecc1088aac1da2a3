"""Hostile files really do to decoders what their names say."""

from __future__ import annotations

import io
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from sciencessl.data_prep.decode import Canonical, Refused, canonicalise
from sciencessl.domains.web import SPEC
from sciencessl.domains.web.synthetic_hostile import GPS_EXIF, SCANS, hostile_files, many_scans_jpeg, zero_png

FILES = {name: raw for name, (raw, _) in hostile_files().items()}


def opened(name: str) -> Image.Image:
    return Image.open(io.BytesIO(FILES[name]))


def by_opencv(raw: bytes) -> np.ndarray:
    found: np.ndarray | None = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found


def test_files_are_small_whatever_they_promise() -> None:
    assert max(map(len, FILES.values())) < 2e6
    assert [name for name, raw in FILES.items() if len(raw) > 250_000] == ["many-scans.jpg"]


def test_files_are_the_same_each_time_and_follow_a_generator() -> None:
    again = {name: raw for name, (raw, _) in hostile_files(np.random.default_rng(0)).items()}
    assert again == FILES
    other = hostile_files(np.random.default_rng(1))
    assert other["truncated.jpg"][0] != FILES["truncated.jpg"]


def test_hostile_files_become_what_was_said() -> None:
    became: dict[str, str | None] = {}
    for name, (raw, _) in hostile_files().items():
        try:
            payload = canonicalise(raw, SPEC.fields[SPEC.primary], Canonical(strip=True)).payload
            became[name] = None
            assert len(payload) < 200_000, name
            assert GPS_EXIF["GPS GPSLatitude"].encode() not in payload
            assert GPS_EXIF["Image Make"].encode() not in payload
        except Refused as refused:
            became[name] = refused.reason
    assert became == {name: reason for name, (_, reason) in hostile_files().items()}


@pytest.mark.parametrize("name", ["truncated.jpg", "truncated-late.jpg", "truncated.png"])
def test_truncated_files_end_too_early(name: str) -> None:
    with opened(name) as image, pytest.raises(OSError, match="truncated"):
        image.load()


# A defect elsewhere: a photo that was cut off and closed is decoded to the end, its lower half grey, without an error.
def test_a_photo_closed_early_is_half_grey_to_usual_decoders() -> None:
    with opened("closed-early.jpg") as image:
        pixels = np.asarray(image)
    assert by_opencv(FILES["closed-early.jpg"]).shape == pixels.shape
    assert pixels[:20].std() > 5
    assert pixels[-20:].std() < 1


def test_flipped_bits_are_noticed() -> None:
    with opened("flipped-bits.png") as image, pytest.raises(OSError, match="unrecognized data"):
        image.load()


@pytest.mark.parametrize("name", ["error-page.jpg", "drawing.jpg", "empty.jpg"])
def test_what_is_no_image_is_recognised_by_nobody(name: str) -> None:
    with pytest.raises(UnidentifiedImageError):
        opened(name)


@pytest.mark.parametrize(("name", "size"), [
    ("bomb.png", (20_000, 20_000)), ("bomb.gif", (65_535, 65_535)), ("bomb.jpg", (65_500, 65_500)),
    ("wide.png", (65_535, 2000)),
])  # fmt: skip
def test_bombs_promise_more_pixels_than_a_budget_has(name: str, size: tuple[int, int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with opened(name) as image:
            assert image.size == size
    assert size[0] * size[1] > 100e6
    assert size[0] * size[1] > 6000 * len(FILES[name])


def test_zero_pngs_are_whole_and_black() -> None:
    """A bomb would go off: the promise of the header is kept."""
    for size in ((8, 8), (9000, 1000), (4096, 2048 * 8)):
        with Image.open(io.BytesIO(zero_png(*size))) as image:
            assert (image.size, image.mode) == (size, "1")
            assert not np.asarray(image).any()


def test_long_texts_are_as_long_as_they_are_said_to_be() -> None:
    raw = FILES["long-text.png"]
    start = raw.index(b"zTXt") + 4
    size = int.from_bytes(raw[start - 8 : start - 4], "big")
    assert raw[start : start + 9] == b"Comment\0\0"
    assert zlib.decompress(raw[start + 9 : start + size]) == b" " * 2**26
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        opened("long-text.png").load()


def test_tracking_pixels_are_one_pixel() -> None:
    with opened("tracking-pixel.gif") as image:
        assert (image.format, image.size) == ("GIF", (1, 1))


def test_many_scans_are_that_many_and_an_image() -> None:
    assert FILES["many-scans.jpg"].count(b"\xff\xda") == SCANS
    with Image.open(io.BytesIO(many_scans_jpeg(3, 64))) as image:
        assert (image.size, image.mode) == ((64, 64), "L")
        assert np.unique(np.asarray(image)).tolist() == [128]
    assert by_opencv(many_scans_jpeg(3, 64)).shape == (64, 64, 3)


def test_time_grows_with_scans_and_pixels() -> None:
    """So that 12,000 scans of 67 million pixels take over a minute, which no test waits for."""

    def seconds(scans: int, side: int) -> float:
        raw = many_scans_jpeg(scans, side)
        start = time.process_time()
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
        return time.process_time() - start

    few, many = seconds(40, 2048), seconds(1040, 2048)
    assert many > 5 * few
    # 16 times as many pixels.
    assert (many - few) / 1000 * 16 * SCANS > 20
    assert len(many_scans_jpeg(1040, 2048)) < 60_000


def test_gps_stands_in_the_exif() -> None:
    with opened("gps.jpg") as image:
        exif = image.getexif()
        assert exif[0x010F] == GPS_EXIF["Image Make"]
        assert [float(part) for part in exif.get_ifd(0x8825)[2]] == [48, 12, 30]
        assert image.info["comment"].decode() == GPS_EXIF["GPS GPSLatitude"]
        image.load()


def test_damaged_exif_stands_beside_good_pixels() -> None:
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        image = opened("damaged-exif.jpg")
    image.load()
    assert not dict(image.getexif())
