"""Native tiles give the pixels of OpenSlide, each decoded once; where they do not, OpenSlide is asked."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from sciencessl.data.decode import decode
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides import mosaic, native_reader
from sciencessl.data_prep.slides.native_reader import NativeReader, from_ycbcr
from sciencessl.data_prep.slides.opening import open_slide
from sciencessl.spec import FieldSpec

FIELD = FieldSpec("bytes", ("red", "green", "blue"))
APERIO = "Aperio Image Library v12\r\n300x200 (64x64) J2K/KDU Q=70|AppMag = 20|MPP = 0.5"
SIZES = [(1003, 801), (250, 200), (62, 50)]
RGB = {"compression": "jpeg", "photometric": "rgb", "compressionargs": {"level": 85}}
YCBCR = {"compression": "jpeg", "photometric": "ycbcr", "compressionargs": {"level": 85}, "subsampling": (2, 2)}


def decoded(path: Path) -> list[np.ndarray]:
    """Every level as tifffile decodes it."""
    with tifffile.TiffFile(path) as tiff:
        return [page.asarray() for page in tiff.pages]


def seen(path: Path, level: int = 0) -> np.ndarray:
    """A whole level as OpenSlide shows it, from its first pixel, where nothing is resampled."""
    with openslide.OpenSlide(str(path)) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))


@pytest.fixture(scope="module", params=[RGB, YCBCR], ids=["rgb", "ycbcr"])
def slide(request: Any, tmp_path_factory: pytest.TempPathFactory, write_slide: Any) -> Path:
    path = Path(tmp_path_factory.mktemp("native") / "slide.tif")
    write_slide(path, SIZES, **request.param)
    return path


@pytest.fixture
def reader(slide: Path) -> Iterator[Any]:
    opened = open_slide(str(slide))
    yield opened
    opened.close()


def test_windows_of_every_level_are_what_openslide_shows(slide: Path, reader: Any) -> None:
    assert reader.info.backend == "native"
    assert reader.info.said == "decodes native tiles of level 0, 1, 2"
    assert [level.downsample for level in reader.info.levels] == [(1, 1), (4, 4), (16, 16)]
    rng = np.random.default_rng(0)
    for level in range(3):
        whole = seen(slide, level)
        height, width = whole.shape[:2]
        np.testing.assert_array_equal(reader.read(level, 0, 0, width, height), whole)
        for _ in range(20):
            x, y = int(rng.integers(width)), int(rng.integers(height))
            w, h = int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
            np.testing.assert_array_equal(reader.read(level, x, y, w, h), whole[y : y + h, x : x + w])
    got = reader.read(1, 240, -5, 20, 20)
    np.testing.assert_array_equal(got[5:, :10], seen(slide, 1)[:15, 240:])
    assert (got[:5] == 255).all()
    assert (got[:, 10:] == 255).all()


def test_tiles_pass_as_jpeg_files_of_the_same_pixels(slide: Path, reader: Any) -> None:
    raw, passed = slide.read_bytes(), 0
    for level, (width, height) in enumerate(SIZES):
        for row in range(-1, height // 64 + 2):
            for column in range(-1, width // 64 + 2):
                whole = 0 <= column < width // 64 and 0 <= row < height // 64
                file = reader.native_jpeg(level, column, row)
                assert (file is not None) == whole, (level, column, row)
                if file is None:
                    continue
                passed += 1
                assert file[file.index(b"\xff\xda") :] in raw
                expected = reader.read(level, column * 64, row * 64, 64, 64)
                np.testing.assert_array_equal(decode(file, FIELD), expected)
    assert passed == 15 * 12 + 3 * 3


def test_each_tile_is_decoded_once_when_rows_of_windows_are_read(
    reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, real = [], native_reader.strictly
    monkeypatch.setattr(native_reader, "strictly", lambda *args: tiles.append(1) or real(*args))
    for y in range(0, 801, 50):
        for x in range(0, 1003, 50):
            reader.read(0, x, y, 50, 50)
    assert len(tiles) == 16 * 13


def test_what_is_kept_is_bounded(reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaic, "CACHE_BYTES", 5 * 64 * 64 * 3)
    reader.read(0, 0, 0, 1003, 801)
    assert len(reader._cache._tiles) == 5
    monkeypatch.undo()
    reader.read(0, 0, 0, 300, 300)
    assert len(reader._cache._tiles) <= 17 * 6


@pytest.mark.parametrize("kind", ["rgb", "ycbcr"])
def test_jpeg_2000_of_aperio(tmp_path: Path, image: Any, kind: str) -> None:
    pixels, path = image(300, 200), tmp_path / "a.svs"
    coded = pixels if kind == "rgb" else cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    padded = np.pad(coded, ((0, 56), (0, 20), (0, 0)))
    tiles = (
        imagecodecs.jpeg2k_encode(np.ascontiguousarray(padded[y : y + 64, x : x + 64]), codecformat="j2k",
                                  mct=kind == "rgb", level=60)
        for y in range(0, 256, 64) for x in range(0, 320, 64)
    )  # fmt: skip
    tifffile.imwrite(path, tiles, shape=(200, 300, 3), dtype="uint8", tile=(64, 64), photometric=kind,
                     compression=33005 if kind == "rgb" else 33003, description=APERIO, metadata=None)
    reader = open_slide(str(path))
    assert reader.info.backend == "native"
    np.testing.assert_array_equal(reader.read(0, 0, 0, 300, 200), seen(path))
    assert np.abs(reader.read(0, 0, 0, 300, 200).astype(int) - pixels).mean() < 6
    assert reader.native_jpeg(0, 0, 0) is None
    reader.close()


def test_ycbcr_is_that_of_jfif() -> None:
    corners = np.array([[0, 128, 128], [255, 128, 128], [76, 85, 255], [150, 44, 21], [29, 255, 107]], np.uint8)
    expected = [[0, 0, 0], [255, 255, 255], [254, 0, 0], [0, 255, 1], [0, 0, 254]]
    assert from_ycbcr(corners).tolist() == expected


def test_a_tile_that_the_file_leaves_out_is_what_openslide_makes_of_it(tmp_path: Path, write_slide: Any) -> None:
    path = tmp_path / "a.tif"
    write_slide(path, [(300, 200)], **RGB)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].tags[325].valueoffset
        size = {3: 2, 4: 4, 16: 8}[tiff.pages[0].tags[325].dtype]
    raw = bytearray(path.read_bytes())
    for tile in (0, 6, 19):
        raw[place + size * tile : place + size * tile + size] = bytes(size)
    path.write_bytes(raw)
    reader = open_slide(str(path))
    assert reader.info.backend == "native"
    got = reader.read(0, 0, 0, 300, 200)
    assert (got[:64, :64] == 255).all()
    assert (got[64:128, 64:128] == 255).all()
    np.testing.assert_array_equal(got[:64, 64:], seen(path)[:64, 64:])
    assert reader.native_jpeg(0, 0, 0) is None
    assert reader.native_jpeg(0, 1, 0) is not None
    reader.close()


def test_levels_of_another_kind_stay_with_openslide(tmp_path: Path, image: Any) -> None:
    path = tmp_path / "a.tif"
    levels = [image(512, 384, 0), image(256, 192, 1)]
    with tifffile.TiffWriter(path) as file:
        file.write(levels[0], tile=(64, 64), metadata=None, **RGB)
        file.write(levels[1], tile=(64, 64), metadata=None, subfiletype=1, photometric="rgb", compression="lzw")
    reader = open_slide(str(path))
    assert reader.info.said == "decodes native tiles of level 0; others are read through OpenSlide"
    np.testing.assert_array_equal(reader.read(0, 0, 0, 512, 384), seen(path))
    np.testing.assert_array_equal(reader.read(1, 3, 4, 100, 90), levels[1][4:94, 3:103])
    assert reader.native_jpeg(1, 0, 0) is None
    reader.close()


def test_one_tile_that_differs_sends_the_slide_to_openslide(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = native_reader.strictly, []

    def flawed(payload: bytes, field: FieldSpec) -> np.ndarray:
        calls.append(payload)
        pixels = real(payload, field)
        pixels[0, 0] ^= len(calls) == 10
        return pixels

    monkeypatch.setattr(native_reader, "strictly", flawed)
    reader = open_slide(str(slide))
    assert reader.info.backend == "openslide"
    assert reader.info.said == (
        "read through OpenSlide, since 1 of 8 native tiles of level 1 decode to other pixels"
    )
    np.testing.assert_array_equal(reader.read(0, 0, 0, 300, 300), seen(slide)[:300, :300])
    assert reader.native_jpeg(0, 0, 0) is None
    reader.close()
    first, calls[:] = calls[:8], []
    open_slide(str(slide)).close()
    assert calls[:8] == first, "the same tiles are compared each time"


def test_progressive_tiles_stay_with_openslide(tmp_path: Path, image: Any) -> None:
    import io

    from PIL import Image

    pixels = image(128, 128)
    tiles = []
    for y, x in ((0, 0), (0, 64), (64, 0), (64, 64)):
        out = io.BytesIO()
        Image.fromarray(pixels[y : y + 64, x : x + 64]).save(out, "JPEG", quality=90, progressive=True, subsampling=0)
        tiles.append(out.getvalue())
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), shape=pixels.shape, dtype="uint8", tile=(64, 64),
                     photometric="ycbcr", compression="jpeg", metadata=None)
    reader = open_slide(str(tmp_path / "a.tif"))
    assert (reader.info.backend, reader.info.said) == ("openslide", "read through OpenSlide")
    assert np.abs(reader.read(0, 0, 0, 128, 128).astype(int) - pixels).mean() < 10
    reader.close()


def test_without_openslide_tifffile_is_the_judge(tmp_path: Path, write_slide: Any) -> None:
    # Levels in SubIFDs, which OpenSlide does not look for, and JPEG 2000 that only Aperio's files may hold for it.
    for name, options in (("sub.tif", {**RGB, "sub": True}), ("j2k.tif", {"compression": "jpeg2000"})):
        path = tmp_path / name
        write_slide(path, [(400, 300), (200, 150), (100, 75)], **options)
        with tifffile.TiffFile(path) as tiff:
            levels = [level.asarray() for level in tiff.series[0].levels]
        reader = open_slide(str(path))
        assert reader.info.backend == "native", name
        assert len(reader.info.levels) == 3
        for level, pixels in enumerate(levels):
            height, width = pixels.shape[:2]
            np.testing.assert_array_equal(reader.read(level, 0, 0, width, height), pixels)
        assert (reader.native_jpeg(0, 0, 0) is not None) == (name == "sub.tif")
        reader.close()


def patched(path: Path, tag: int, value: int) -> None:
    """Change the value of a LONG or SHORT tag of the first page."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[0].tags[tag]
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I" if found.dtype == 4 else "<H", raw, found.valueoffset, value)
    path.write_bytes(raw)


def refused(path: Path) -> Refused:
    with pytest.raises(Refused) as found:
        open_slide(str(path))
    assert path.name not in str(found.value)
    return found.value


def test_damage_is_found_when_a_slide_is_opened(tmp_path: Path, write_slide: Any) -> None:
    path = tmp_path / "bad.tif"
    write_slide(path, [(300, 200)], **RGB)
    good = path.read_bytes()
    path.write_bytes(good[:-50])
    assert refused(path).reason == "truncated"
    for tag, value in ((256, 60_000), (257, 60_000), (322, 32_768), (323, 16)):
        path.write_bytes(good)
        patched(path, tag, value)
        assert refused(path).reason in ("corrupt", "unreadable"), tag


def test_tables_that_tiles_share_are_needed_and_checked(tmp_path: Path, image: Any) -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image(64, 64)).save(out, "JPEG", quality=80, subsampling=2)
    raw = out.getvalue()
    frame, codes, scan = (raw.index(bytes([0xFF, code])) for code in (0xC0, 0xC4, 0xDA))
    tables = b"\xff\xd8" + raw[raw.index(b"\xff\xdb") : frame] + raw[codes:scan] + b"\xff\xd9"
    tile = b"\xff\xd8" + raw[frame:codes] + raw[scan:]

    def write(shared: bytes) -> Path:
        path = tmp_path / "tables.tif"
        tifffile.imwrite(path, iter([tile] * 4), shape=(128, 128, 3), dtype="uint8", tile=(64, 64), metadata=None,
                         photometric="ycbcr", compression="jpeg", extratags=[(347, 7, len(shared), shared, True)])
        return path

    reader = open_slide(str(write(tables)))
    assert reader.info.backend == "native"
    np.testing.assert_array_equal(reader.read(0, 64, 0, 64, 64), np.asarray(Image.open(io.BytesIO(raw))))
    reader.close()
    assert refused(write(bytes(len(tables)))).reason == "corrupt"
    assert refused(write(tables[: len(tables) // 2])).reason in ("corrupt", "truncated")


def test_a_damaged_tile_is_refused_when_it_is_read(tmp_path: Path, write_slide: Any) -> None:
    path = tmp_path / "bad.tif"
    write_slide(path, [(1600, 1200)], **RGB)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        at, size = page.dataoffsets[30], page.databytecounts[30]
    raw = bytearray(path.read_bytes())
    raw[at : at + size] = bytes(size)
    path.write_bytes(raw)
    reader = open_slide(str(path))
    assert reader.native_jpeg(0, 5, 1) is None
    reader.read(0, 0, 0, 300, 64)
    for _ in range(2):
        with pytest.raises(Refused, match=r"^corrupt: its pixels cannot be read: "):
            reader.read(0, 300, 64, 64, 64)
        reader.read(0, 384, 64, 64, 64)
    reader.close()


def test_a_damaged_tile_among_those_that_are_compared_says_nothing(
    tmp_path: Path, write_slide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bad.tif"
    write_slide(path, [(320, 320)], **RGB)
    with tifffile.TiffFile(path) as tiff:
        at, size = tiff.pages[0].dataoffsets[7], tiff.pages[0].databytecounts[7]
    raw = bytearray(path.read_bytes())
    raw[at : at + size] = bytes(size)
    path.write_bytes(raw)
    monkeypatch.setattr(native_reader, "PROOFS", 25)
    reader = open_slide(str(path))
    assert reader.info.backend == "native"
    reader.close()


def test_a_slide_that_is_deleted_or_cut_after_it_was_opened(tmp_path: Path, write_slide: Any) -> None:
    path = tmp_path / "a.tif"
    write_slide(path, [(600, 400)], **RGB)
    expected, reader = seen(path), open_slide(str(path))
    path.unlink()
    np.testing.assert_array_equal(reader.read(0, 0, 0, 600, 400), expected)
    reader.close()
    write_slide(path, [(600, 400)], **RGB)
    reader = open_slide(str(path))
    with path.open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(Refused, match=r"^truncated: the file ends within its pixels"):
        reader.read(0, 0, 0, 600, 400)
    reader.close()


def test_a_reader_is_not_sent_to_another_process_and_closes_twice(reader: Any) -> None:
    assert isinstance(reader, NativeReader)
    with pytest.raises(TypeError, match="NativeReader holds an open file"):
        pickle.dumps(reader)
    reader.close()
