"""PNG by its chunks: whole or not, and metadata cut out."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sciencessl.data_prep import png
from sciencessl.data_prep.refused import Refused

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def save(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_metadata() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "a secret")
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>where</x:xmpmeta>")
    text.add_text("Comment", "packed" * 50, zip=True)
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    raw = save(Image.fromarray(PIXELS), pnginfo=text, exif=exif, icc_profile=b"profile" * 9, dpi=(300, 300))
    return raw[:-12] + chunk(b"tIME", bytes(7)) + chunk(b"caBX", b"who made it") + raw[-12:] + b"and after"


def refusal(raw: bytes) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        png.check_whole(raw)
    return refused.value.reason, refused.value.detail


def test_whole_files_pass() -> None:
    png.check_whole(save(Image.fromarray(PIXELS)))
    png.check_whole(with_metadata())


def test_a_file_without_its_end_is_truncated() -> None:
    raw = save(Image.fromarray(PIXELS))
    for cut in (len(raw) // 2, len(raw) - 12, len(raw) - 1, 9):
        assert refusal(raw[:cut]) == ("truncated", "it ends before its last chunk does")


def test_a_wrong_checksum_is_corrupt_only_where_pixels_depend_on_it() -> None:
    raw = save(Image.fromarray(PIXELS))
    at = raw.index(b"IDAT") + 30
    assert refusal(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]) == ("corrupt", "a chunk differs from its checksum")
    named = with_metadata()
    png.check_whole(named.replace(b"who made it", b"who made at"))


def test_endless_chunks_are_refused() -> None:
    raw = save(Image.fromarray(PIXELS))
    bomb = raw[:33] + chunk(b"abCd", b"") * png.MAX_CHUNKS + raw[33:]
    assert refusal(bomb) == ("too-slow", "more than 262144 chunks")


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(("colour", "depth"), [(0, 1), (0, 8), (0, 16), (2, 8), (2, 16), (3, 4), (4, 8), (6, 16)])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (32, 32), (33, 9)])
def test_data_of_one_byte_too_few_are_truncated(interlace: int, colour: int, depth: int, size: tuple[int, int]) -> None:
    width, height = size
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    grid = np.array([[1, 6, 4, 6, 2, 6, 4, 6], [7] * 8, [5, 6, 5, 6, 5, 6, 5, 6], [7] * 8,
                     [3, 6, 4, 6, 3, 6, 4, 6], [7] * 8, [5, 6, 5, 6, 5, 6, 5, 6], [7] * 8])
    passes = np.tile(grid, (5, 5))[:height, :width] if interlace else np.ones((height, width), int)
    rows = [(passes == number).sum(axis=1) for number in range(1, 8)]
    total = sum(int(np.sum(1 + -(-some[some > 0] * bits // 8))) for some in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    for missing in (0, 1):
        packed = zlib.compress(bytes(total - missing))
        middle = len(packed) // 2
        data = chunk(b"IDAT", packed[:middle]) + chunk(b"IDAT", packed[middle:])
        raw = b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")
        if missing:
            with pytest.raises(Refused, match="truncated: its data end before its pixels do"):
                png.check_filled(raw)
        else:
            png.check_filled(raw)


def test_stripping_leaves_pixels_and_nothing_of_who_took_them() -> None:
    raw = with_metadata()
    out = png.stripped(raw)
    for secret in (b"secret", b"xmpmeta", b"zTXt", b"camera", b"tIME", b"caBX", b"and after"):
        assert secret in raw
        assert secret not in out
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(out))), PIXELS)
    assert [part.name for part in png.chunks(out)] == [b"IHDR", b"iCCP", b"pHYs", b"IDAT", b"IEND"]
    assert b"iCCP" not in png.stripped(raw, profile=False)
    assert png.stripped(out) == out


def test_only_png_is_png() -> None:
    assert png.is_png(save(Image.fromarray(PIXELS)))
    assert not png.is_png(b"\x89PNG\n")
