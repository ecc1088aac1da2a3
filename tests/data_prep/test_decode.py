"""Canonical images: what keeps its bytes, what is converted and how, and every reason for a refusal."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from sciencessl.data.decode import decode
from sciencessl.data_prep import decode as module
from sciencessl.data_prep import picture_quality as quality
from sciencessl.data_prep.decode import (
    DESCRIPTION,
    FORMATS,
    Canonical,
    Encoded,
    Refused,
    canonicalise,
    encode,
    hash_pixels,
    shrink,
)
from sciencessl.spec import FieldSpec
from sciencessl.views.perceptual import phash
from tests.data_prep.profiles import swapped_profile

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


def test_pixels_of_what_keeps_its_bytes_are_hashed_as_its_field_decodes_them() -> None:
    grey = FieldSpec("bytes", ("grey",))
    for field in (RGB, grey):
        for kind in ("JPEG", "PNG"):
            for mode in ("RGB", "L"):
                raw = save(noise(mode), kind)
                assert canonicalise(raw, field, Canonical()).pixel_hash == hash_pixels(decode(raw, field)), (kind, mode)


def test_pixels_of_what_is_encoded_again_are_hashed_before() -> None:
    image = noise(size=(40, 32))
    small = shrink(np.asarray(image), (20, 16))
    for level in (30, 95):
        stored = canonicalise(save(image, "PNG"), RGB, Canonical(16, level))
        assert stored.pixel_hash == hash_pixels(small)
    raw = save(image, "JPEG", quality=100)
    hashes = {canonicalise(raw, RGB, Canonical(20, level)).pixel_hash for level in (30, 95)}
    assert len(hashes) == 1
    assert canonicalise(raw, RGB, Canonical(20)).pixel_hash != canonicalise(raw, RGB, Canonical(16)).pixel_hash


def test_metadata_leave_the_hash_of_pixels_alone() -> None:
    raw = save(noise(size=(40, 32)), "JPEG", quality=90)
    again = raw[:2] + b"\xff\xfe\0\x09comment" + raw[2:]
    for resize in (None, 20):
        one, other = (canonicalise(each, RGB, Canonical(resize)) for each in (raw, again))
        assert one.pixel_hash == other.pixel_hash


def test_chroma_is_halved_where_it_is_to_be() -> None:
    raw = save(noise(size=(64, 64)), "JPEG", quality=95, subsampling=0)
    layers = {
        chroma: Image.open(io.BytesIO(canonicalise(raw, RGB, Canonical(32, 90, chroma=chroma)).payload)).layer
        for chroma in ("444", "420")
    }
    assert [layer[1:3] for layer in layers["444"]] == [(1, 1)] * 3
    assert [layer[1:3] for layer in layers["420"]] == [(2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_as_near_to_their_pixels_and_as_small_as_those_of_pillow(mode: str) -> None:
    pixels = np.asarray(noise(mode, (50, 41)))
    for chroma, subsampling in (("444", 0), ("420", 2)):
        theirs = save(Image.fromarray(pixels), "JPEG", quality=90, subsampling=subsampling)
        ours = encode(pixels, True, 90, chroma)
        off = [np.abs(np.asarray(Image.open(io.BytesIO(raw))).astype(int) - pixels).mean() for raw in (ours, theirs)]
        assert off[0] < 1.05 * off[1]
        assert len(ours) < 1.02 * len(theirs)


def tagged(kind: str, pixels: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    return save(pixels, kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_metadata_are_cut_out_of_kept_bytes_only_where_asked(kind: str) -> None:
    raw = tagged(kind, noise())
    assert canonicalise(raw, RGB, Canonical()).payload == raw
    stored = canonicalise(raw, RGB, Canonical(strip=True))
    assert b"a camera" not in stored.payload
    assert stored.payload == canonicalise(stored.payload, RGB, Canonical(strip=True)).payload
    assert stored.pixel_hash == canonicalise(raw, RGB, Canonical()).pixel_hash
    np.testing.assert_array_equal(decode(stored.payload, RGB), decode(raw, RGB))
    clean = save(noise(), kind)
    assert canonicalise(clean, RGB, Canonical(strip=True)).payload == clean


def test_profiles_are_converted_on_request_and_srgb_keeps_its_bytes() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = swapped_profile()
    for kind in ("JPEG", "PNG"):
        flat = Image.new("RGB", (16, 16), (200, 90, 40))
        raw = save(flat, kind, icc_profile=wide)
        assert canonicalise(raw, RGB, Canonical()).payload == raw
        stored = canonicalise(raw, RGB, Canonical(srgb=True))
        given = ImageCms.ImageCmsProfile(io.BytesIO(wide))
        expected = ImageCms.profileToProfile(Image.open(io.BytesIO(raw)), given, ImageCms.createProfile("sRGB"))
        np.testing.assert_allclose(decode(stored.payload, RGB).astype(int), np.asarray(expected), atol=3)
        assert not Image.open(io.BytesIO(stored.payload)).info.get("icc_profile")
        kept = save(flat, kind, icc_profile=srgb)
        assert canonicalise(kept, RGB, Canonical(srgb=True)).payload == kept


def test_images_are_described_as_they_are_stored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = save(noise(size=(60, 40)), "JPEG", exif=exif, quality=95)
    stored = canonicalise(raw, RGB, Canonical(20, describe=True))
    assert set(stored.columns) == set(DESCRIPTION)
    told = dict(stored.columns)
    assert (told["source_width"], told["source_height"], told["source_format"]) == (40, 60, "JPEG")
    assert (told["orientation"], told["frames"], stored.width, stored.height) == (6, 1, 20, 30)
    pixels = decode(canonicalise(raw, RGB, Canonical(20, 100, describe=True)).payload, RGB)
    grey = quality.to_grey(pixels)
    assert told["entropy"] == pytest.approx(quality.entropy(grey), abs=0.2)
    assert told["sharpness"] == pytest.approx(quality.sharpness(grey), rel=0.1)
    assert -(2**63) <= told["phash"] < 2**63
    assert int(np.int64(told["phash"]).view(np.uint64) ^ np.uint64(phash(pixels))).bit_count() <= 4
    assert canonicalise(raw, RGB, Canonical(20)).columns == {}


@pytest.mark.parametrize(("limit", "expected"), [
    ({"min_entropy": 1.5}, ("filtered:entropy", "1 bits, min_entropy is 1.5")),
    ({"min_sharpness": 90.0}, ("filtered:blur", "sharpness 40, min_sharpness is 90")),
    ({"max_one_colour": 0.4}, ("filtered:one-colour", "0.5 of it, max_one_colour is 0.4")),
])
def test_what_shows_too_little_is_filtered(limit: dict[str, float], expected: tuple[str, str]) -> None:
    board = (np.indices((40, 40)).sum(axis=0) % 2 * 10).astype(np.uint8)
    raw = save(Image.fromarray(board), "PNG")
    with pytest.raises(Refused) as refused:
        canonicalise(raw, RGB, Canonical(**limit))
    assert refused.value.reason == expected[0]
    assert refused.value.detail.replace("39.", "40.")[:12] == expected[1][:12]
    canonicalise(raw, RGB, Canonical(min_entropy=0.9, min_sharpness=30, max_one_colour=0.6))


CHOSEN = {
    "xcsn0g01.png": "corrupt",  # the checksum of its pixels is wrong
}
"""Hostile files that Pillow reads and we do not -> why we chose so."""


def by_hand(image: Image.Image) -> np.ndarray:
    """(H, W, 3) float RGB of the first frame by Pillow and NumPy, without what is tested."""
    image.load()
    bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]
    clear = image.info.get("transparency")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(int)
        grey = values >> (bits - 8 if image.mode.startswith("I;16") else 8)
        return np.repeat(np.where(values == clear, 255, grey)[..., None], 3, axis=2).astype(float)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or clear is not None:
        rgba = np.asarray(image.convert("RGBA")).astype(float)
        share = rgba[..., 3:] / 255
        return rgba[..., :3] * share + 255 * (1 - share)
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        image = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if image.mode == "LAB":
        return np.asarray(lab_to_srgb(image)).astype(float)
    return np.asarray(image.convert("RGB")).astype(float)


def lab_to_srgb(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return ImageCms.applyTransform(image, transform)


def reference(raw: bytes) -> np.ndarray | None:
    try:
        return by_hand(Image.open(io.BytesIO(raw), formats=FORMATS))
    except Exception:  # whatever Pillow raises, the file is to be refused
        return None


def outcome(raw: bytes) -> Encoded | Refused:
    try:
        return canonicalise(raw, RGB, Canonical(min_px=1, strip=True))
    except Refused as refused:
        return refused


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_hostile_files_are_what_pillow_and_explicit_rules_make_of_them_or_refused(shared_data: Path) -> None:
    reasons = {"corrupt", "truncated", "unsupported", "too-small", "too-large", "not-an-image"}
    stored, seen = 0, set()
    folders = [shared_data / "web" / name for name in ("hostile", "near_duplicates")]
    for path in sorted(path for folder in folders for path in folder.rglob("*.*") if path.is_file()):
        raw = path.read_bytes()
        expected, encoded = reference(raw), outcome(raw)
        if isinstance(encoded, Refused):
            seen.add(encoded.reason)
            assert "0x" not in encoded.detail, path
            chosen = encoded.reason == "unsupported" or CHOSEN.get(path.name) == encoded.reason
            assert expected is None or chosen, (path, str(encoded))
            continue
        assert expected is not None, path
        stored += 1
        pixels = decode(encoded.payload, RGB)
        assert pixels.shape == (encoded.height, encoded.width, 3) == expected.shape, path
        off = np.abs(pixels - expected)
        # A JPEG that had to be encoded again differs by its quantisation; all else by rounding.
        lossy = encoded.payload.startswith(b"\xff\xd8")
        assert off.mean() < 3 if lossy else off.max() <= 1.01, (path, off.mean(), off.max())
        if len(encoded.payload) > 100_000:  # the others take seconds less
            continue
        again = outcome(raw)
        assert isinstance(again, Encoded)
        assert (again.payload, again.pixel_hash) == (encoded.payload, encoded.pixel_hash)
    assert stored > 400
    assert seen <= reasons
    assert {"corrupt", "truncated", "too-large"} <= seen


def test_real_photos_shrink_alike_whether_libjpeg_does_the_first_half_or_not(shared_data: Path) -> None:
    off = []
    for path in sorted((shared_data / "web/clothing/train").rglob("*.jpg"))[::60]:
        raw = path.read_bytes()
        small = decode(canonicalise(raw, RGB, Canonical(150, 100)).payload, RGB)
        whole = cv2.resize(decode(raw, RGB), small.shape[1::-1], interpolation=cv2.INTER_AREA)
        off.append(cv2.absdiff(small, whole).mean())
    assert np.mean(off) < 3
