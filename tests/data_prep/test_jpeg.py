"""JPEG by its markers: header, scans, exact pixels, and metadata cut out without touching what is coded."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from sciencessl.data_prep import jpeg
from sciencessl.data_prep.refused import Refused

Array = np.ndarray


def photo(height: int = 61, width: int = 83) -> Array:
    """Smooth colours with edges, as a camera sees them."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def save(image: Image.Image | Array, **options: Any) -> bytes:
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, "JPEG", **options)
    return out.getvalue()


def pillow(raw: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(raw)))


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def header_of(raw: bytes) -> jpeg.JpegHeader:
    header = jpeg.read_header(raw)
    assert header is not None
    return header


def with_metadata(raw: bytes) -> bytes:
    """The same image with EXIF, XMP, a comment, a thumbnail, a profile, and another file after its end."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    out = save(Image.open(io.BytesIO(raw)), quality="keep", exif=exif, icc_profile=profile, comment=b"a secret")
    jfif_with_thumbnail = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\2\1" + bytes(6))
    rest = out[2 + 18 :] if out[2:4] == b"\xff\xe0" else out[2:]
    return b"\xff\xd8" + jfif_with_thumbnail + segment(0xED, b"Photoshop 3.0\0") + rest + b"PK\3\4 a zip"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [40, 100])
def test_pixels_equal_those_of_opencv_and_pillow(progressive: bool, subsampling: int, quality: int) -> None:
    raw = save(photo(), quality=quality, subsampling=subsampling, progressive=progressive)
    ours = jpeg.decode_exactly(raw, header_of(raw))
    assert ours is not None
    np.testing.assert_array_equal(ours, pillow(raw))
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    np.testing.assert_array_equal(ours, cv2.imdecode(np.frombuffer(raw, np.uint8), flags)[..., ::-1])


def test_grey_pixels_have_no_colours() -> None:
    raw = save(photo()[..., 0])
    ours = jpeg.decode_exactly(raw, header_of(raw))
    assert ours is not None
    np.testing.assert_array_equal(ours, pillow(raw))


@pytest.mark.parametrize("divisor", [2, 4, 8])
def test_divided_pixels_average_areas(divisor: int) -> None:
    full = photo(240, 320)
    raw = save(full, quality=98, subsampling=0)
    divided = jpeg.decode_exactly(raw, header_of(raw), divisor)
    assert divided is not None
    expected = full.reshape(240 // divisor, divisor, 320 // divisor, divisor, 3).mean(axis=(1, 3))
    assert np.abs(divided - expected).mean() < 2.5


def test_sides_are_rounded_up_when_divided() -> None:
    raw = save(photo(61, 83))
    divided = jpeg.decode_exactly(raw, header_of(raw), 8)
    assert divided is not None
    assert divided.shape == (8, 11, 3)


def test_the_header_tells_size_and_metadata() -> None:
    header = header_of(with_metadata(save(photo())))
    assert (header.width, header.height, header.components, header.plain, header.images) == (83, 61, 3, True, 1)
    assert b"a camera" in header.exif
    assert header.icc == Image.open(io.BytesIO(with_metadata(save(photo())))).info["icc_profile"]


def test_lossless_and_twelve_bit_frames_are_left_to_others() -> None:
    raw = save(photo())
    # A defect elsewhere: dividing a lossless JPEG while it is decoded writes past the end of the buffer.
    lossless = raw.replace(b"\xff\xc0", b"\xff\xc3", 1)
    assert jpeg.decode_exactly(lossless, header_of(lossless), 2) is None
    at = raw.index(b"\xff\xc0")
    deep = raw[: at + 4] + bytes([12]) + raw[at + 5 :]
    assert jpeg.decode_exactly(deep, header_of(deep)) is None
    cmyk = save(Image.fromarray(photo()).convert("CMYK"))
    assert jpeg.decode_exactly(cmyk, header_of(cmyk)) is None


@pytest.mark.parametrize("raw", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\x10", b"\xff\xd8\xff\xda\0\4ab" + bytes(9)])
def test_what_has_no_frame_before_its_scan_has_no_header(raw: bytes) -> None:
    assert jpeg.read_header(raw) is None


def test_half_a_scan_is_truncated_although_it_has_an_end() -> None:
    # A defect elsewhere: decoders paint what is missing grey and say nothing.
    for progressive in (False, True):
        raw = save(photo(200, 200), progressive=progressive)
        cut = raw[: len(raw) * 2 // 3] + b"\xff\xd9"
        pillow(cut)
        with pytest.raises(Refused) as refused:
            jpeg.decode_exactly(cut, header_of(cut))
        assert (refused.value.reason, "remature end" in refused.value.detail) == ("truncated", True)


def test_a_restart_marker_too_many_is_corrupt() -> None:
    raw = save(photo(200, 200), restart_marker_rows=1)
    broken = raw.replace(b"\xff\xd1", b"\xff\xd5", 1)
    with pytest.raises(Refused) as refused:
        jpeg.decode_exactly(broken, header_of(broken))
    assert refused.value.reason == "corrupt"


def test_bytes_between_segments_do_no_harm() -> None:
    raw = save(photo())
    at = raw.index(b"\xff\xdb")
    padded = raw[:at] + b"hello" + raw[at:]
    ours = jpeg.decode_exactly(padded, header_of(padded))
    assert ours is not None
    np.testing.assert_array_equal(ours, pillow(raw))
    # Such bytes must not hide that there are too few pixels.
    cut = padded[: len(padded) * 2 // 3] + b"\xff\xd9"
    with pytest.raises(Refused, match="truncated"):
        jpeg.decode_exactly(cut, header_of(cut))


def scans(count: int) -> bytes:
    """A progressive JPEG with its last scan repeated."""
    raw = save(photo(), progressive=True)
    last = raw.rindex(b"\xff\xda")
    return raw[:last] + raw[last:-2] * count + b"\xff\xd9"


def test_thousands_of_scans_are_refused_before_they_are_decoded() -> None:
    assert jpeg.read_header(scans(jpeg.MAX_SCANS - 20)) is not None
    with pytest.raises(Refused) as refused:
        jpeg.read_header(scans(jpeg.MAX_SCANS))
    assert (refused.value.reason, refused.value.detail) == ("too-slow", "more than 200 scans")


def test_a_sequential_image_ends_with_its_only_scan() -> None:
    raw = save(photo())
    assert jpeg.read_header(raw[:-2] + raw[raw.index(b"\xff\xda") : -2] * 300 + b"\xff\xd9") is not None


def test_endless_segments_are_refused() -> None:
    raw = save(photo())
    with pytest.raises(Refused, match="too-slow: more than 16384 segments"):
        jpeg.read_header(raw[:2] + segment(0xFE, b"") * jpeg.MAX_SEGMENTS + raw[2:])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_stripping_removes_metadata_and_leaves_what_is_coded(options: dict[str, Any]) -> None:
    raw = with_metadata(save(photo(), **options))
    out = jpeg.stripped(raw)
    for secret in (b"Exif", b"camera", b"secret", b"Photoshop", b"PK\3\4"):
        assert secret in raw
        assert secret not in out
    again = Image.open(io.BytesIO(out))
    assert set(again.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density", "icc_profile"} | (
        {"progressive", "progression"} if again.info.get("progressive") else set()
    )
    np.testing.assert_array_equal(np.asarray(again), pillow(raw))
    start = raw.index(b"\xff\xda", raw.index(b"\xff\xc2" if again.info.get("progressive") else b"\xff\xc0"))
    assert raw[start : raw.rindex(b"\xff\xd9") + 2].endswith(out[out.rindex(b"\xff\xda") :])


def test_stripping_is_idempotent_and_leaves_clean_files_alone() -> None:
    clean = save(photo())
    assert jpeg.stripped(clean) == clean
    once = jpeg.stripped(with_metadata(clean))
    assert jpeg.stripped(once) == once


def test_a_profile_stays_unless_it_was_converted() -> None:
    raw = with_metadata(save(photo()))
    assert b"ICC_PROFILE" in jpeg.stripped(raw)
    assert b"ICC_PROFILE" not in jpeg.stripped(raw, profile=False)


def test_adobe_colours_survive_stripping() -> None:
    raw = save(Image.fromarray(photo()).convert("CMYK"))
    assert b"Adobe" in jpeg.stripped(raw)
    np.testing.assert_array_equal(pillow(jpeg.stripped(raw)), pillow(raw))


def test_real_photos_decode_alike_and_divide_closely(shared_data: Path) -> None:
    errors = []
    for path in sorted((shared_data / "web/clothing/train").rglob("*.jpg"))[::40]:
        raw = path.read_bytes()
        header = header_of(raw)
        full = jpeg.decode_exactly(raw, header)
        half = jpeg.decode_exactly(raw, header, 2)
        assert full is not None
        assert half is not None
        np.testing.assert_array_equal(full, pillow(raw))
        expected = cv2.resize(full, half.shape[1::-1], interpolation=cv2.INTER_AREA)
        errors.append(cv2.absdiff(half, expected).mean())
    assert np.mean(errors) < 3
    assert np.max(errors) < 8
