"""Plain images become slides of one level, whatever their colours; what is no 8-bit RGB is refused."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides import flat_reader
from sciencessl.data_prep.slides.flat_reader import FlatReader
from sciencessl.data_prep.slides.slide import Mpp


def whole(path: Path) -> np.ndarray:
    """All pixels of a flat slide."""
    reader = FlatReader(str(path))
    try:
        return reader.read(0, 0, 0, reader.info.levels[0].width, reader.info.levels[0].height)
    finally:
        reader.close()


def refused(path: Path) -> Refused:
    with pytest.raises(Refused) as found:
        FlatReader(str(path))
    assert path.name not in str(found.value)
    return found.value


def test_a_png_is_read_as_it_is_and_white_outside(tmp_path: Path, image: Any) -> None:
    pixels = image(50, 40)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    reader = FlatReader(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(reader.read(0, 5, 6, 20, 10), pixels[6:16, 5:25])
    got = reader.read(0, 40, -2, 20, 10)
    np.testing.assert_array_equal(got[2:, :10], pixels[:8, 40:])
    assert (got[:2] == 255).all()
    assert (got[:, 10:] == 255).all()
    assert (reader.info.backend, reader.info.mpp, reader.info.levels[0].width) == ("flat", None, 50)
    assert reader.native_jpeg(0, 0, 0) is None
    got[:] = 0
    np.testing.assert_array_equal(reader.read(0, 40, 0, 10, 8), pixels[:8, 40:])
    with pytest.raises(TypeError, match="FlatReader holds an open file"):
        pickle.dumps(reader)
    reader.close()


def test_alpha_palette_grey_and_cmyk_become_rgb_and_exif_is_left(tmp_path: Path) -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half.putpixel((1, 0), (10, 20, 30, 255))
    half.save(tmp_path / "alpha.png")
    assert whole(tmp_path / "alpha.png")[0, :2].tolist() == [[255, 255, 255], [10, 20, 30]]
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert whole(tmp_path / "grey.png")[0, 0].tolist() == [77, 77, 77]
    Image.new("RGB", (8, 8), (200, 10, 60)).quantize(4).save(tmp_path / "palette.png")
    assert whole(tmp_path / "palette.png")[0, 0].tolist() == [200, 10, 60]
    Image.new("CMYK", (8, 8), (0, 255, 0, 0)).save(tmp_path / "cmyk.tif")
    assert whole(tmp_path / "cmyk.tif")[0, 0].tolist() == [255, 0, 255]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8), (9, 9, 9)).save(tmp_path / "turned.jpg", exif=exif)
    assert whole(tmp_path / "turned.jpg").shape == (8, 16, 3)


@pytest.mark.parametrize("samples", [3, 4])
def test_a_large_tiff_is_read_strip_by_strip(
    tmp_path: Path, image: Any, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    pixels = image(301, 203)
    alpha = np.full((203, 301, 1), 255, np.uint8)
    alpha[100:] = 0
    stored = pixels if samples == 3 else np.concatenate([pixels, alpha], axis=2)
    seen = pixels.copy()
    seen[100:] = 255 if samples == 4 else seen[100:]
    extra = None if samples == 3 else ["unassalpha"]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", compression="lzw", rowsperstrip=16,
                     extrasamples=extra, resolution=(5_000, 20_000), resolutionunit=3)
    monkeypatch.setattr(flat_reader, "WHOLE_PIXELS", 1000)
    decoded = []
    real = flat_reader.decode_segment
    monkeypatch.setattr(flat_reader, "decode_segment", lambda page, i: decoded.append(i) or real(page, i))
    reader = FlatReader(str(tmp_path / "a.tif"))
    np.testing.assert_array_equal(reader.read(0, 7, 20, 200, 40), seen[20:60, 7:207])
    np.testing.assert_array_equal(reader.read(0, 7, 170, 300, 60)[:33, :294], seen[170:, 7:])
    assert decoded == [12, 1, 2, 3, 10, 11]
    assert reader.info.mpp == Mpp(2.0, 0.5, "TIFF resolution tags")
    reader.close()


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((40, 50), {"photometric": "minisblack"}),
        ((40, 50), {"photometric": "miniswhite"}),
        ((40, 50), {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256) * 85}),
        ((40, 50, 4), {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        ((3, 40, 50), {"photometric": "rgb", "planarconfig": "separate"}),
        ((40, 50, 4), {"photometric": "separated"}),
        ((40, 50, 3), {"photometric": "rgb", "tile": (16, 16), "compression": "zlib", "predictor": 2}),
    ],
)
def test_colours_of_tiffs_are_those_that_pillow_sees(tmp_path: Path, shape: Any, options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    if "extrasamples" in options:
        values[..., 3] = 255
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    with Image.open(tmp_path / "a.tif") as seen:
        np.testing.assert_array_equal(whole(tmp_path / "a.tif"), np.asarray(seen.convert("RGB")))


def test_sixteen_bits_floats_and_channels_are_refused(tmp_path: Path) -> None:
    zeros = np.zeros((40, 50), np.uint16)
    tifffile.imwrite(tmp_path / "g16.tif", zeros)
    tifffile.imwrite(tmp_path / "rgb16.tif", np.zeros((40, 50, 3), np.uint16), photometric="rgb")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((40, 50), np.float32))
    tifffile.imwrite(tmp_path / "channels.tif", np.zeros((40, 50, 5), np.uint8), planarconfig="contig")
    tifffile.imwrite(tmp_path / "planes.ome.tif", np.zeros((4, 40, 50), np.uint8), metadata={"axes": "CYX"})
    Image.fromarray(zeros).save(tmp_path / "grey16.png")
    for path in sorted(tmp_path.iterdir()):
        assert refused(path).reason == "not-rgb8", path
    assert "stack of 4 images" in str(refused(tmp_path / "planes.ome.tif"))
    # A defect elsewhere: a second, 8-bit RGB page of a fluorescence scan is taken for the slide.
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(zeros, photometric="minisblack")
        file.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    assert refused(tmp_path / "two.tif").reason == "not-rgb8"


def png16(width: int, height: int, depth: int = 16) -> bytes:
    """A PNG of RGB with a header as told."""
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    body = zlib.compress(b"".join(b"\0" + bytes(6 * width) for _ in range(min(height, 100))))
    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_sixteen_bit_rgb_png_is_refused_and_so_is_a_huge_header(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(png16(8, 8))
    assert refused(tmp_path / "deep.png").reason == "not-rgb8"
    (tmp_path / "huge.png").write_bytes(png16(90_000, 90_000, 8)[:1000])
    found = refused(tmp_path / "huge.png")
    assert found.reason == "too-large"
    assert found.detail.startswith("more than the 100 million pixels that are decoded at once; convert it")
    (tmp_path / "large.png").write_bytes(png16(11_000, 10_000, 8)[:1000])
    assert refused(tmp_path / "large.png").detail.startswith("11000 x 10000 px: more than")
    assert "vips tiffsave" in found.detail


def test_a_large_tiff_in_one_strip_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((200, 100, 3), np.uint8), photometric="rgb", rowsperstrip=200)
    monkeypatch.setattr(flat_reader, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr(flat_reader, "MAX_PIXELS", 10_000)
    found = refused(tmp_path / "a.tif")
    assert found.reason == "too-large"
    assert found.detail.startswith("100 x 200 px in one piece: more than")
    assert "vips tiffsave" in found.detail


def test_damage_has_a_reason(tmp_path: Path, image: Any) -> None:
    out = io.BytesIO()
    Image.fromarray(image(200, 200)).save(out, "JPEG")
    raw = out.getvalue()
    (tmp_path / "cut.jpg").write_bytes(raw[: len(raw) // 2])
    assert refused(tmp_path / "cut.jpg").reason == "truncated"
    (tmp_path / "text.png").write_text("no image")
    assert refused(tmp_path / "text.png").reason == "unreadable"
    tifffile.imwrite(tmp_path / "a.tif", image(200, 200), photometric="rgb", compression="zlib", rowsperstrip=50)
    raw = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(raw[:-1000])
    assert refused(tmp_path / "a.tif").reason == "truncated"
    (tmp_path / "a.tif").write_bytes(raw[:-1000] + bytes(1000))
    assert refused(tmp_path / "a.tif").reason == "corrupt"
    (tmp_path / "head.tif").write_bytes(raw[:6])
    assert refused(tmp_path / "head.tif").reason == "truncated"
