"""A tile becomes a JPEG file that every decoder sees alike, its scan byte for byte; what is damaged becomes None."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sciencessl.data.decode import decode
from sciencessl.data_prep.slides.native_jpeg import Tables, shared_tables, spliced
from sciencessl.spec import FieldSpec

PX = (64, 48)
FIELD = FieldSpec("bytes", ("red", "green", "blue"))


def jpeg(pixels: np.ndarray, quality: int = 80, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, **options)
    return out.getvalue()


def marker(raw: bytes, code: int) -> int:
    """Place of the first marker of a kind."""
    return raw.index(bytes([0xFF, code]))


def apart(raw: bytes) -> tuple[bytes, bytes]:
    """A JPEG as a TIFF keeps it: tables, and a tile without them."""
    frame, scan = marker(raw, 0xC0), marker(raw, 0xDA)
    quantisation = raw[marker(raw, 0xDB) : frame]
    size = int.from_bytes(raw[frame + 2 : frame + 4]) + 2
    huffman = raw[frame + size : scan]
    tables = b"\xff\xd8" + quantisation + huffman + b"\xff\xd9"
    return tables, b"\xff\xd8" + raw[frame : frame + size] + raw[scan:]


def every_decoder(raw: bytes) -> list[np.ndarray]:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    seen = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
    assert seen is not None
    with Image.open(io.BytesIO(raw)) as image:
        return [np.asarray(image.convert("RGB")), np.asarray(seen)[..., ::-1], decode(raw, FIELD)]


@pytest.fixture(scope="module")
def parts(image: Any) -> tuple[bytes, bytes, bytes]:
    """A JPEG, its tables, and its tile."""
    raw = jpeg(image(*PX), subsampling=2)
    return raw, *apart(raw)


def prepared(tables: bytes | None, is_rgb: bool = False) -> Tables:
    found = shared_tables(tables, is_rgb)
    assert found is not None
    return found


def test_the_scan_is_kept_and_pixels_are_those_of_the_whole_jpeg(parts: tuple[bytes, bytes, bytes]) -> None:
    raw, tables, tile = parts
    file = spliced(tile, prepared(tables), PX)
    assert file is not None
    scan = tile[marker(tile, 0xDA) :]
    assert file.endswith(scan)
    assert len(file) == len(tables) - 2 + 16 + len(tile) - 2
    for pixels in every_decoder(file):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(raw))))


def test_rgb_tiles_are_told_from_ycbcr(image: Any) -> None:
    # A defect elsewhere: tiles of RGB carry no marker of colour, and a decoder takes them for YCbCr.
    raw = jpeg(image(*PX), subsampling=0)
    tables, tile = apart(raw)
    as_ycbcr, as_rgb = spliced(tile, prepared(tables), PX), spliced(tile, prepared(tables, is_rgb=True), PX)
    assert as_ycbcr is not None
    assert as_rgb is not None
    raw_channels = np.asarray(Image.open(io.BytesIO(raw)).convert("YCbCr")).astype(int)
    for pixels in every_decoder(as_rgb):
        # The channels as they are coded, up to the rounding of the way there and back.
        assert np.abs(pixels - raw_channels).mean() < 1
    assert np.abs(every_decoder(as_ycbcr)[0] - raw_channels).mean() > 10


def test_markers_that_speak_of_colour_and_comments_are_left_out(parts: tuple[bytes, bytes, bytes]) -> None:
    raw, tables, tile = parts
    jfif = raw[marker(raw, 0xE0) : marker(raw, 0xDB)]
    comment = b"\xff\xfe\x00\x0aJane Doe"
    file = spliced(b"\xff\xd8" + jfif + comment + b"\xff\xff" + tile[2:], prepared(tables), PX)
    assert file == spliced(tile, prepared(tables), PX)


def test_restarts_and_tables_of_the_tile_are_kept(image: Any) -> None:
    raw = jpeg(image(*PX), restart_marker_blocks=2)
    assert b"\xff\xdd" in raw
    file = spliced(raw, prepared(None), PX)
    assert file is not None
    np.testing.assert_array_equal(every_decoder(file)[0], np.asarray(Image.open(io.BytesIO(raw))))


def test_other_kinds_of_jpeg_are_none(image: Any, parts: tuple[bytes, bytes, bytes]) -> None:
    raw, _, tile = parts
    none = prepared(None)
    assert spliced(jpeg(image(*PX), progressive=True), none, PX) is None
    assert spliced(jpeg(image(*PX)[..., 0]), none, PX) is None
    assert spliced(raw, none, (48, 64)) is None
    assert spliced(tile, none, PX) is None, "no tables"
    frame = marker(raw, 0xC0)
    assert spliced(raw[: frame + 4] + b"\x0c" + raw[frame + 5 :], none, PX) is None, "12 bits"
    assert spliced(raw[: frame + 1] + b"\xc9" + raw[frame + 2 :], none, PX) is None, "arithmetic"


def test_damaged_tables_are_none(parts: tuple[bytes, bytes, bytes]) -> None:
    _, tables, tile = parts
    assert shared_tables(tables[:-10], False) is None
    assert shared_tables(b"no tables", False) is None
    assert shared_tables(tables.replace(b"\xff\xdb\x00\x43", b"\xff\xdb\x00\x30", 1), False) is None
    without = tables[: marker(tables, 0xC4)] + b"\xff\xd9"
    assert spliced(tile, prepared(without), PX) is None, "no Huffman tables"


def test_a_tile_that_is_cut_anywhere_is_none(parts: tuple[bytes, bytes, bytes]) -> None:
    _, tables, tile = parts
    shared = prepared(tables)
    assert [size for size in range(len(tile)) if spliced(tile[:size], shared, PX)] == []
    assert spliced(tile + b"\0", shared, PX) == spliced(tile, shared, PX)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_bytes_raise(data: st.DataObject, parts: tuple[bytes, bytes, bytes]) -> None:
    raw = bytearray(parts[0])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, marker(parts[0], 0xDA) + 14))] = data.draw(st.integers(0, 255))
    spliced(bytes(raw), prepared(None), PX)
    shared_tables(bytes(raw), True)


def test_bytes_in_a_table_that_look_like_a_scan_are_passed_over(image: Any) -> None:
    tables = [[255, 218, *[7] * 62]] * 2  # 0xFF 0xDA among the divisors
    raw = jpeg(image(*PX), quality=50, qtables=tables, subsampling=0)
    assert raw.count(b"\xff\xda") >= 3
    file = spliced(raw, prepared(None), PX)
    assert file is not None
    np.testing.assert_array_equal(every_decoder(file)[0], np.asarray(Image.open(io.BytesIO(raw))))


def test_every_tile_of_a_real_slide_is_what_openslide_shows(shared_data: Path) -> None:
    import openslide

    path = shared_data / "pathology" / "slides" / "CMU-1-Small-Region.svs"
    judge, raw = openslide.OpenSlide(str(path)), path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        shared = prepared(page.jpegtables, is_rgb=True)
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    for index, (offset, count) in enumerate(places):
        tile = raw[offset : offset + count]
        file = spliced(tile, shared, (240, 240))
        assert file is not None
        assert tile[marker(tile, 0xDA) :] in file
        x, y = index % 10 * 240, index // 10 * 240
        width, height = min(240, 2220 - x), min(240, 2967 - y)
        expected = np.asarray(judge.read_region((x, y), 0, (width, height)).convert("RGB"))
        for pixels in every_decoder(file):
            np.testing.assert_array_equal(pixels[:height, :width], expected)
