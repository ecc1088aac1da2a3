"""Canonical images: what keeps its bytes, what is converted and how, and every reason for a refusal."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sciencessl.data.decode import decode
from sciencessl.data_prep import decode as module
from sciencessl.data_prep.decode import Canonical, Refused, canonicalise, hash_pixels
from sciencessl.spec import FieldSpec

RGB = FieldSpec("bytes", ("r", "g", "b"))
Encode = Callable[..., bytes]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels_of(raw: bytes, **options: Any) -> np.ndarray:
    return decode(canonicalise(raw, RGB, Canonical(**options)).payload, RGB)


def noise(mode: str = "RGB", size: tuple[int, int] = (20, 16)) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def reason(raw: bytes, **options: Any) -> str:
    with pytest.raises(Refused) as refused:
        canonicalise(raw, RGB, Canonical(**options))
    return refused.value.reason


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "L")])
def test_canonical_files_keep_their_bytes(kind: str, mode: str) -> None:
    raw = save(noise(mode), kind)
    stored = canonicalise(raw, RGB, Canonical())
    assert stored.payload == raw
    assert (stored.width, stored.height) == (20, 16)
    assert stored.pixel_hash == hash_pixels(decode(raw, RGB))


def test_equal_pixels_hash_equally_however_encoded() -> None:
    image = noise()
    hashes = {canonicalise(save(image, kind), RGB, Canonical()).pixel_hash for kind in ("PNG", "BMP", "TIFF")}
    assert len(hashes) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_orientation_makes_the_image_upright(orientation: int, kind: str) -> None:
    upright = np.asarray(noise())
    # What a camera stores so that the tag brings it upright: the inverse, as rotations of the array.
    store: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = save(Image.fromarray(np.ascontiguousarray(store[orientation](upright))), kind, exif=exif)
    np.testing.assert_array_equal(pixels_of(raw), upright)


def test_rotated_jpeg_is_encoded_again_upright_and_without_its_tag() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = save(Image.new("RGB", (40, 20), (200, 30, 60)), "JPEG", exif=exif)
    payload = canonicalise(raw, RGB, Canonical()).payload
    again = Image.open(io.BytesIO(payload))
    assert (again.format, again.size, dict(again.getexif())) == ("JPEG", (20, 40), {})


def test_alpha_lies_over_white() -> None:
    values = np.zeros((12, 12, 4), np.uint8)
    values[..., 0], values[:6, :, 3] = 100, 128
    out = pixels_of(save(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(out[-1, -1], [255, 255, 255])
    # 100 at alpha 128/255 over white, and 0 over white.
    np.testing.assert_allclose(out[0, 0], [100 * 128 / 255 + 255 * 127 / 255, 127, 127], atol=1)


def test_transparent_colour_of_an_rgb_png_becomes_white() -> None:
    values = np.full((12, 12, 3), 50, np.uint8)
    values[0, 0] = [1, 2, 3]
    out = pixels_of(save(Image.fromarray(values), "PNG", transparency=(1, 2, 3)))
    np.testing.assert_array_equal(out[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(out[1, 1], [50, 50, 50])


def test_palette_and_one_bit_become_plain_pixels() -> None:
    image = noise().quantize(8)
    np.testing.assert_array_equal(pixels_of(save(image, "PNG")), np.asarray(image.convert("RGB")))
    bits = noise("1")
    np.testing.assert_array_equal(pixels_of(save(bits, "PNG"))[..., 0], np.asarray(bits.convert("L")))


def test_sixteen_bits_lose_their_low_byte() -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (12, 10)).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels_of(save(Image.fromarray(values), kind))[..., 2], values >> 8)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def sixteen_bit_rgb_png(values: np.ndarray) -> bytes:
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_rgb_png_is_not_kept_as_it_is() -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (9, 11, 3))
    raw = sixteen_bit_rgb_png(values)
    payload = canonicalise(raw, RGB, Canonical()).payload
    assert payload[24] == 8
    np.testing.assert_array_equal(decode(payload, RGB), values >> 8)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (10, 10), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        raw = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(pixels_of(raw)[5, 5], [255, 0, 0])
        assert getattr(Image.open(io.BytesIO(canonicalise(raw, RGB, Canonical()).payload)), "n_frames", 1) == 1


def test_cmyk_jpeg_becomes_rgb_jpeg() -> None:
    raw = save(Image.new("RGB", (16, 16), (200, 100, 50)).convert("CMYK"), "JPEG", quality=95)
    stored = canonicalise(raw, RGB, Canonical())
    assert Image.open(io.BytesIO(stored.payload)).mode == "RGB"
    np.testing.assert_allclose(decode(stored.payload, RGB)[8, 8], [200, 100, 50], atol=4)


def test_resize_averages_areas_and_leaves_smaller_images() -> None:
    values = np.zeros((40, 80, 3), np.uint8)
    values[::2] = 200
    out = pixels_of(save(Image.fromarray(values), "PNG"), resize_px=10, min_px=4)
    assert out.shape == (10, 20, 3)
    assert set(np.unique(out)) == {100}
    raw = save(noise(), "PNG")
    assert canonicalise(raw, RGB, Canonical(resize_px=16)).payload == raw
    assert Image.open(io.BytesIO(canonicalise(save(noise(), "JPEG"), RGB, Canonical(10)).payload)).format == "JPEG"


def test_quality_changes_what_is_encoded_again() -> None:
    raw = save(noise(size=(64, 64)), "JPEG")
    small, large = (len(canonicalise(raw, RGB, Canonical(32, quality)).payload) for quality in (30, 95))
    assert small < large


def test_truncated_files(encode: Encode) -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        raw = encode(size=(64, 64), kind=kind)
        assert reason(raw[: len(raw) // 2]) == "truncated"
    assert reason(b"") == "truncated"
    png = encode(size=(64, 64), kind="PNG")
    assert reason(png[:-6]) == "truncated"


def test_corrupt_unknown_and_unsupported_files(encode: Encode) -> None:
    raw = bytearray(encode(size=(64, 64), kind="PNG"))
    raw[60] ^= 0xFF
    assert reason(bytes(raw)) == "corrupt"
    assert reason(b"\xff\xd8\xff\xe0" + b"\0" * 50) == "corrupt"
    assert reason(b"<html>not found</html>") == "not-an-image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not-an-image"
    assert reason(save(Image.fromarray(np.zeros((12, 12), np.float32)), "TIFF")) == "unsupported"


def test_sizes_outside_the_budget(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(encode(size=(40, 7))) == "too-small"
    assert reason(encode(size=(40, 7)), min_px=8) == "too-small"
    canonicalise(encode(size=(40, 7)), RGB, Canonical(min_px=7))
    # A header that promises 30000 x 30000 pixels, and nothing behind it.
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))
    assert reason(bomb) == "too-large"
    monkeypatch.setattr(module, "MAX_STORED_BYTES", 100)
    assert reason(encode(size=(64, 64))) == "too-large"


def test_any_exception_of_a_decoder_is_a_refusal(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise RecursionError("nested too deep")

    monkeypatch.setattr("sciencessl.data_prep.picture.to_eight_bits", explode)
    assert reason(encode(kind="GIF")) == "corrupt"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_hostile_files_are_stored_or_refused_but_never_raise(shared_data: Path) -> None:
    known = {"corrupt", "truncated", "unsupported", "too-small", "too-large", "not-an-image"}
    stored, seen = 0, set()
    for path in sorted((shared_data / "web/hostile").rglob("*.*")):
        if path.is_file():
            try:
                encoded = canonicalise(path.read_bytes(), RGB, Canonical())
            except Refused as refused:
                seen.add(refused.reason)
            else:
                stored += 1
                assert decode(encoded.payload, RGB).shape == (encoded.height, encoded.width, 3)
    assert stored > 400
    assert seen <= known
    assert {"corrupt", "truncated", "too-large"} <= seen
