"""PNG files by their chunks: whether they are whole, and metadata cut out."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from sciencessl.data_prep.refused import Refused

MAX_CHUNKS = 2**18
"""Most chunks of one file: writers put some kilobytes into each."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type -> samples of a pixel."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of the passes of an interlaced image. Source: PNG 1.2, 2.6."""
_PIECE = 2**20
_OF_PIXELS = (b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"pHYs")
"""What says how pixels are to be shown, beside what no reader may skip."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk, and its bytes `start` to `stop` in the file."""

    name: bytes
    start: int
    stop: int


def is_png(raw: bytes) -> bool:
    """Whether bytes begin as a PNG does."""
    return raw.startswith(_SIGNATURE)


def chunks(raw: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG in order, to its end.

    Raises:
        Refused: `truncated` where it ends before that, `too-slow` after `MAX_CHUNKS`.
    """
    at = len(_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        stop = at + 12 + int.from_bytes(raw[at : at + 4])
        if stop > len(raw):
            raise Refused("truncated", "it ends before its last chunk does")
        name = raw[at + 4 : at + 8]
        yield Chunk(name, at, stop)
        if name == b"IEND":
            return
        at = stop
    raise Refused("too-slow", f"more than {MAX_CHUNKS} chunks")


def check_whole(raw: bytes) -> None:
    """Check that a PNG ends where it says so, and the checksums of all that its pixels need.

    Raises:
        Refused: `truncated`, `corrupt` or `too-slow`.
    """
    view = memoryview(raw)
    for chunk in chunks(raw):
        told = int.from_bytes(raw[chunk.stop - 4 : chunk.stop])
        if chunk.name[:1].isupper() and zlib.crc32(view[chunk.start + 4 : chunk.stop - 4]) != told:
            raise Refused("corrupt", "a chunk differs from its checksum")


def check_filled(raw: bytes) -> None:
    """Check that the data of a PNG give all of its pixels; a decoder may leave those that are missing black.

    Args:
        raw: A file whose chunks are whole.

    Raises:
        Refused: `truncated`.
        zlib.error: Where data are damaged.
    """
    left = _row_bytes(raw)
    inflater = zlib.decompressobj()
    for chunk in chunks(raw):
        data = raw[chunk.start + 8 : chunk.stop - 4] if chunk.name == b"IDAT" else b""
        while data and left > 0:
            left -= len(inflater.decompress(data, _PIECE))
            data = inflater.unconsumed_tail
    left -= len(inflater.flush()) if left > 0 else 0
    if left > 0:
        raise Refused("truncated", "its data end before its pixels do")


def _row_bytes(raw: bytes) -> int:
    """Bytes of all rows with the filter's before each, those of the seven passes where it is interlaced."""
    width, height, depth, colour = *struct.unpack(">II", raw[16:24]), raw[24], raw[25]
    bits = depth * _CHANNELS[colour]
    passes = _PASSES if raw[28] else ((0, 0, 1, 1),)
    sizes = ((len(range(x, width, step_x)), len(range(y, height, step_y))) for x, y, step_x, step_y in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns)


def stripped(raw: bytes, profile: bool = True) -> bytes:
    """A PNG without what does not concern its pixels: EXIF, text, times, chunks of other programs, and anything after
    its end.

    Args:
        raw: The file.
        profile: Whether its colour profile stays.

    Raises:
        Refused: As `chunks`.
    """
    kept = [raw[chunk.start : chunk.stop] for chunk in chunks(raw) if _is_of_pixels(chunk.name, profile)]
    return b"".join([_SIGNATURE, *kept])


def _is_of_pixels(name: bytes, profile: bool) -> bool:
    return name[:1].isupper() or name in _OF_PIXELS or (profile and name == b"iCCP")
