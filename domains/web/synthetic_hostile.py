"""Files that a crawl brings along and that a reader must survive: cut off, lying, or made to take time and memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from sciencessl.domains.web.synthetic import draw_photo
from sciencessl.domains.web.synthetic_copies import jpeg_bytes, png_bytes, with_segment

GPS_EXIF = {"Image Make": "Camera of somebody", "GPS GPSLatitudeRef": "N", "GPS GPSLatitude": "[48, 12, 30]"}
"""What the EXIF of `gps.jpg` says, in the words of img2dataset; its comment says the last, too."""
SCANS = 12_000
"""Scans of `many-scans.jpg`: over a minute of processor time for half a megabyte."""

_SIDE = 8192  # of many-scans.jpg: 67 million pixels, which a budget of 100 million lets through
_WIDEST = 65_535  # of GIF and JPEG, whose sizes have 16 bits
_PIECE_BYTES = 2**17


def hostile_files(rng: np.random.Generator | None = None) -> dict[str, tuple[bytes, str | None]]:
    """Small files, each with something wrong, and what must become of them.

    Args:
        rng: Source of the photos in them; None draws the same each time.

    Returns:
        Name -> (bytes, reason for which it is refused with default settings; None where it is stored). None is larger
        than 2 MB, whatever its header promises. Where a decoder shows what came before a fault, the file is refused
        all the same: half a photo is no photo.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    photo, other = (jpeg_bytes(draw_photo(kind, rng).convert("RGB"), 88) for kind in (0, 1))
    png = png_bytes(draw_photo(2, rng).convert("RGB"))
    return {
        "truncated.jpg": (photo[: len(photo) // 2], "truncated"),
        # Only the last rows are missing: some decoders give the whole picture and no error.
        "truncated-late.jpg": (photo[: len(photo) * 19 // 20], "truncated"),
        # Cut off and closed by a marker, as some servers send it: to most decoders this is a photo with a grey half.
        "closed-early.jpg": (photo[: len(photo) // 2] + b"\xff\xd9", "truncated"),
        "truncated.png": (png[: len(png) // 2], "truncated"),
        "flipped-bits.png": (_flipped(png), "corrupt"),
        "error-page.jpg": (b"<html><body>404: the photo is not here</body></html>\n", "not-an-image"),
        "drawing.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\n', "not-an-image"),
        "empty.jpg": (b"", "truncated"),
        "bomb.png": (zero_png(20_000, 20_000), "too-large"),
        "bomb.gif": (_bomb_gif(), "too-large"),
        "bomb.jpg": (_bomb_jpeg(), "too-large"),
        "wide.png": (zero_png(_WIDEST, 2000), "too-large"),
        "tracking-pixel.gif": (_pixel_gif(), "too-small"),
        "long-text.png": (_with_chunk(png, b"zTXt", _packed(b"Comment\0\0", b" ", 2**26)), None),
        "many-scans.jpg": (many_scans_jpeg(SCANS), "too-slow"),
        "gps.jpg": (_with_place(other), None),
        "damaged-exif.jpg": (with_segment(photo, 0xE1, b"Exif\0\0MM\0*" + b"\xff" * 40), None),
    }


def zero_png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, whose file is a thousand times smaller than its rows of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = _packed(b"", b"\0", height * (1 + -(-width // 8)))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _packed(start: bytes, byte: bytes, size: int) -> bytes:
    """The byte `size` times as a zlib stream, behind `start`. One packed piece is repeated, which takes no time."""
    packer = zlib.compressobj(9)
    piece = byte * min(size, _PIECE_BYTES)
    first = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    times, left = divmod(size, len(piece))
    last = zlib.compressobj(9, wbits=-15)
    rest = last.compress(byte * left) + last.flush()
    # Adler-32 of one byte repeated, in closed form.
    sums = [(1 + byte[0] * size) % 65_521, (size + byte[0] * size * (size + 1) // 2) % 65_521]
    return start + first + again * (times - 1) + rest + struct.pack(">HH", *reversed(sums))


def many_scans_jpeg(scans: int, side: int = _SIDE) -> bytes:
    """A grey progressive JPEG of `side` x `side` px whose every scan says that nothing changes, in a few dozen bytes.

    A decoder goes through all blocks for each scan, so time grows with scans times pixels while the file grows with
    scans alone. Source: ours, from the coding of end-of-band runs in ITU-T T.81, G.1.2.2.
    """
    blocks = (-(-side // 8)) ** 2
    # One code of one bit, for the symbol "up to 32767 blocks end here": 14 more bits say how many above 16384.
    code = struct.pack(">BHB16B", 0xC4, 20, 0x10, 1, *[0] * 15) + b"\xe0"
    runs = "".join(f"0{run - 16_384:014b}" for run in _runs(blocks))
    runs += "1" * (-len(runs) % 8)
    # Byte 255 would begin a marker, and is escaped.
    data = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, 0) + data
    table = b"\xff\xdb" + struct.pack(">HB", 67, 0) + b"\x01" * 64
    frame = b"\xff\xc2" + struct.pack(">HBHHBBBB", 11, 8, side, side, 1, 1, 0x11, 0)
    return b"\xff\xd8" + table + frame + b"\xff" + code + scan * scans + b"\xff\xd9"


def _runs(blocks: int) -> Iterator[int]:
    """Runs of 16,384 to 32,767 that cover the blocks; what is over is never read."""
    for size in _pieces(blocks, 32_767):
        yield max(size, 16_384)


def _pieces(total: int, most: int) -> Iterator[int]:
    for start in range(0, total, most):
        yield min(most, total - start)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A chunk after the header, which ends at byte 33."""
    return png[:33] + _chunk(kind, data) + png[33:]


def _flipped(png: bytes) -> bytes:
    """32 bytes in the middle of the pixels are not what they were; the file is as long as it was."""
    middle = len(png) // 2
    return png[:middle] + bytes(255 - byte for byte in png[middle : middle + 32]) + png[middle + 32 :]


def _with_place(jpeg: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = GPS_EXIF["Image Make"]
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 30.0)})
    return with_segment(with_segment(jpeg, 0xFE, GPS_EXIF["GPS GPSLatitude"].encode()), 0xE1, exif.tobytes())


def _pixel_gif() -> bytes:
    """One transparent pixel, as pages load it to count their readers."""
    out = io.BytesIO()
    Image.new("P", (1, 1)).save(out, "GIF", transparency=0)
    return out.getvalue()


def _bomb_gif() -> bytes:
    """The smallest GIF, which says that it is 65,535 px wide and high."""
    small = _pixel_gif()
    return small[:6] + struct.pack("<HH", _WIDEST, _WIDEST) + small[10:]


def _bomb_jpeg() -> bytes:
    """A JPEG of 16 px that says it is 65,500 px wide and high, as large as decoders take."""
    small = jpeg_bytes(Image.new("L", (16, 16)), 88)
    frame = small.index(b"\xff\xc0") + 5
    return small[:frame] + struct.pack(">HH", 65_500, 65_500) + small[frame + 4 :]
