"""Reading any image file: orientation as found, frames, bombs, and what an exception says of a file."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from sciencessl.data_prep.canonical import Canonical
from sciencessl.data_prep.picture import read_picture, refusal, upright
from sciencessl.data_prep.refused import Refused

WIDE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = rows or zlib.compress(bytes((width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(raw: bytes, **options: Any) -> Refused:
    """What refuses a file, as `canonicalise` says it; within a second, and without much memory."""
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(Exception) as error:  # noqa: PT011 - decoders raise anything
            read_picture(raw, Canonical(**options))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5
    assert peak < 64 * 2**20
    return error.value if isinstance(error.value, Refused) else refusal(error.value, raw)


@pytest.mark.parametrize("value", [0, 1, 9, 256, 65_535])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_nonsense_orientations_are_told_and_change_nothing(value: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    picture = read_picture(save(Image.fromarray(WIDE), kind, exif=exif), Canonical())
    assert picture.orientation == value
    assert picture.pixels.shape == WIDE.shape
    assert bool(picture.kept) == (kind in ("JPEG", "PNG"))


@pytest.mark.parametrize("exif", [b"", b"II*\0\xff\xff\xff\xff", b"nonsense", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_says_nothing(exif: bytes) -> None:
    exif = b"Exif\0\0" + exif
    for kind in ("JPEG", "PNG", "WEBP"):
        picture = read_picture(save(Image.fromarray(WIDE), kind, exif=exif), Canonical())
        assert (picture.orientation, picture.pixels.shape) == (1, WIDE.shape)


def test_an_orientation_that_is_text_says_nothing() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x0112, 2, 4, b"top\0", 0)
    assert read_picture(save(Image.fromarray(WIDE), "JPEG", exif=exif), Canonical()).orientation == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_xmp_tells_the_orientation_where_exif_does_not(orientation: int) -> None:
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    picture = read_picture(save(Image.fromarray(WIDE), "JPEG", xmp=xmp), Canonical())
    assert picture.orientation == orientation
    assert picture.size == ((16, 24) if orientation >= 5 else (24, 16))
    assert picture.pixels.shape[1::-1] == picture.size


def test_upright_undoes_what_a_camera_did() -> None:
    # Where the first row and the first column of what is stored lie in what is seen: EXIF 2.3, figure 9.
    sides = {1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
             5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")}
    stored = np.zeros((5, 7), np.uint8)
    stored[0], stored[1:, 0] = 1, 2
    for orientation, (row, column) in sides.items():
        seen = upright(stored, orientation)
        edge = {"top": seen[0], "bottom": seen[-1], "left": seen[:, 0], "right": seen[:, -1]}
        assert (edge[row] == 1).all()
        assert set(edge[column]) == {1, 2}


def test_frames_are_told_and_the_first_is_taken() -> None:
    frames = [Image.new("RGB", (16, 16), (80 * i, 10, 10)) for i in range(3)]
    for kind in ("GIF", "PNG", "WEBP", "MPO"):
        picture = read_picture(save(frames[0], kind, save_all=True, append_images=frames[1:]), Canonical(describe=True))
        assert picture.frames == 3, kind
        assert picture.format == kind
        assert picture.pixels.max() < 40
        assert not picture.kept
    assert read_picture(save(frames[0], "GIF"), Canonical(describe=True)).frames == 1


def test_all_of_an_mpo_but_its_first_image_is_cut_out_as_metadata() -> None:
    frames = [Image.fromarray(WIDE), Image.fromarray(255 - WIDE)]
    raw = save(frames[0], "MPO", save_all=True, append_images=frames[1:])
    picture = read_picture(raw, Canonical(strip=True))
    assert (picture.format, picture.frames) == ("MPO", 2)
    assert (b"MPF" in picture.kept, picture.kept.count(b"\xff\xd9")) == (False, 1)
    assert Image.open(io.BytesIO(picture.kept)).format == "JPEG"


def test_a_gif_of_empty_frames_is_counted_in_bounds() -> None:
    raw = save(Image.new("L", (16, 16)), "GIF")
    empty = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\0"
    picture = read_picture(raw[:-1] + empty * 100_000 + b";", Canonical(describe=True))
    assert picture.frames == 10_000


def test_bombs_are_refused_by_their_header() -> None:
    # A defect elsewhere: size is looked at after decoding.
    wide = Image.new("L", (16, 16))
    gif = bytearray(save(wide, "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    bmp = bytearray(save(wide, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    canvas = (16_382).to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    tiff = save(wide, "TIFF")
    big = tiff.replace(struct.pack("<HHII", 256, 4, 1, 16), struct.pack("<HHII", 256, 4, 1, 40_000))
    big = big.replace(struct.pack("<HHII", 257, 4, 1, 16), struct.pack("<HHII", 257, 4, 1, 40_000))
    ppm = b"P5\n40000 40000\n255\n"
    bombs = {"png": png_of(30_000, 30_000, rows=b"x"), "gif": bytes(gif), "bmp": bytes(bmp), "ppm": ppm, "webp": webp,
             "tiff": big}
    assert big != tiff
    reasons = {kind: refused(raw).reason for kind, raw in bombs.items()}
    assert reasons == dict.fromkeys(bombs, "too-large")


def test_a_png_of_65535_pixels_a_side_is_refused() -> None:
    error = refused(png_of(65_535, 1_000))
    assert (error.reason, error.detail) == ("too-large", "65535 x 1000 px, sides are 65500 at most")


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_metadata_that_grow_when_unpacked_are_refused_or_cut_out(name: bytes) -> None:
    packed = zlib.compress(bytes(100 * 2**20), 9)
    bodies = {b"zTXt": b"k\0\0" + packed, b"iTXt": b"k\0\1\0\0\0" + packed, b"iCCP": b"k\0\0" + packed}
    rows = zlib.compress(b"".join(b"\0" + bytes(range(16)) for _ in range(16)))
    raw = png_of(16, 16, chunk(name, bodies[name]), rows=rows)
    assert refused(raw).reason == "too-large"
    picture = read_picture(raw, Canonical(strip=True))
    np.testing.assert_array_equal(picture.pixels, np.tile(np.arange(16), (16, 1)))
    assert name not in picture.kept


def test_a_png_with_too_little_data_is_truncated_although_it_ends() -> None:
    whole = zlib.compress(np.random.default_rng(0).integers(0, 256, 65 * 64, dtype=np.uint8).tobytes())
    assert refused(png_of(64, 64, rows=whole[: len(whole) // 2])).reason in ("truncated", "corrupt")
    # A defect elsewhere: a stream that ends well but early leaves the rest black.
    error = refused(png_of(64, 64, rows=zlib.compress(bytes(65 * 20))))
    assert (error.reason, error.detail) == ("truncated", "its data end before its pixels do")
    read_picture(png_of(64, 64), Canonical())


def test_nonsense_tags_of_a_tiff_do_no_harm() -> None:
    raw = save(Image.fromarray(WIDE), "TIFF", tiffinfo={65_000: "x" * 500, 33_432: "\xff" * 9, 700: b"\0" * 99})
    np.testing.assert_array_equal(read_picture(raw, Canonical()).pixels, WIDE)


@pytest.mark.parametrize("kind", ["ICO", "ICNS", "EPS", "PCX", "TGA", "PDF", "SGI"])
def test_other_formats_stay_closed(kind: str) -> None:
    assert refused(save(Image.new("RGB", (64, 64)), kind)).reason in ("not-an-image", "corrupt", "unsupported")


def test_details_name_no_address_and_are_short() -> None:
    error = refusal(OSError("cannot use <PIL.Image object at 0x7f3a5c> " + "x" * 500), b"BM")
    assert "0x" not in error.detail
    assert len(error.detail) <= 200
    assert refusal(UnidentifiedImageError("<_io.BytesIO object at 0x7f>"), b"BM").detail == "no reader recognises it"
    assert refusal(MemoryError(), b"BM").reason == "too-large"
