"""A JPEG tile of a TIFF as a file of its own: tables and a colour marker are added, the scan stays byte for byte.

A TIFF keeps the tables that its tiles share once, and says outside of them which colours they have: a tile alone is no
JPEG that a library decodes, or one whose RGB passes for YCbCr. Source: TIFF Technical Note 2; ITU-T T.81, annex B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_QUANTISATION, _HUFFMAN, _RESTARTS = 0xDB, 0xC4, 0xDD
_FRAMES = (0xC0, 0xC1)
"""Baseline and extended sequential DCT with Huffman codes."""
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""An APP14 marker up to its last byte, the transform: 0 for RGB, 1 for YCbCr."""
_COMPONENTS = 3
_SCAN_MARK, _SCAN_BYTES = b"\xff\xda", 8 + 2 * _COMPONENTS
_TRIES = 8
"""The two bytes of the scan's marker may stand in a table as well."""


class _BadJpeg(Exception):
    """Bytes that are no JPEG of the kind that is passed on."""


@dataclass(frozen=True)
class Tables:
    """What comes before the frame of every tile, and which tables that defines.

    Attributes:
        head: Start of image, colour marker, tables.
        defined: Kinds and numbers of the tables: ("q", 0), ("h", 0x10)...
    """

    head: bytes
    defined: frozenset[tuple[str, int]]


def shared_tables(stream: bytes | None, is_rgb: bool) -> Tables | None:
    """Prepare what tiles of one level share.

    Args:
        stream: The abbreviated JPEG of the TIFF's JPEGTables tag; None where tiles bring their own.
        is_rgb: Whether the TIFF says that colours are RGB; YCbCr otherwise.

    Returns:
        None where the stream is malformed.
    """
    try:
        kept, defined = _tables(_segments(stream or _START + _END))
    except _BadJpeg:
        return None
    return Tables(_START + _ADOBE + bytes([not is_rgb]) + kept, frozenset(defined))


def spliced(tile: bytes, shared: Tables, tile_px: tuple[int, int]) -> bytes | None:
    """A tile as a complete JPEG file.

    Comments and application markers of the tile are left out: with them a library might think otherwise of its colours.

    Args:
        tile: The bytes of a tile as they are in the TIFF.
        shared: Tables of its level.
        tile_px: Width and height that it must have.

    Returns:
        The file; None where the tile is no sequential Huffman JPEG of three 8-bit components in one scan, has another
        size, uses tables that nobody defines, or is cut.
    """
    at = tile.find(_SCAN_MARK)
    for _ in range(_TRIES):
        if at < 0:
            return None
        scan = at + _SCAN_BYTES
        head = _file_head(tile[:scan], shared, tile_px)
        if head is not None:
            end = tile.rfind(_END, scan)
            return None if end < 0 else head + tile[at : end + 2]
        at = tile.find(_SCAN_MARK, at + 1)
    return None


@lru_cache(maxsize=64)  # one header serves nearly every tile of a slide
def _file_head(start: bytes, shared: Tables, tile_px: tuple[int, int]) -> bytes | None:
    """Everything of the file before its scan, from what a tile has up to the end of its scan's header."""
    try:
        found = list(_segments(start))
        kept, own = _tables(found)
        used, frame = _frame(found, tile_px)
        _check_scan(found[-1], used, shared.defined | own)
    except _BadJpeg:
        return None
    return shared.head + kept + frame


_Segment = tuple[int, bytes]
"""Marker, and the whole segment."""


def _segments(stream: bytes) -> Iterator[_Segment]:
    """Marker segments from the start of an image to its end, or to the header of its scan, which ends the stream."""
    if stream[:2] != _START:
        raise _BadJpeg
    at = 2
    while True:
        while stream[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if len(stream) < at + 2 or stream[at] != 0xFF:
            raise _BadJpeg
        marker = stream[at + 1]
        if marker == 0xD9:
            return
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if end < at + 4 or end > len(stream):
            raise _BadJpeg
        yield marker, stream[at:end]
        if marker == _SCAN:
            if end != len(stream):
                raise _BadJpeg
            return
        at = end


def _tables(segments: Iterable[_Segment]) -> tuple[bytes, set[tuple[str, int]]]:
    """The segments that define tables or restarts, and the tables they define."""
    kept = b""
    defined: set[tuple[str, int]] = set()
    for marker, segment in segments:
        if marker == _QUANTISATION:
            defined |= {("q", number) for number in _numbers(segment, _quantisation_bytes)}
        elif marker == _HUFFMAN:
            defined |= {("h", number) for number in _numbers(segment, _huffman_bytes)}
        elif marker != _RESTARTS:
            continue
        kept += segment
    return kept, defined


def _quantisation_bytes(segment: bytes, at: int) -> int:
    return 129 if segment[at] >> 4 else 65


def _huffman_bytes(segment: bytes, at: int) -> int:
    return 17 + sum(segment[at + 1 : at + 17])


def _numbers(segment: bytes, length: Callable[[bytes, int], int]) -> Iterator[int]:
    """Numbers of the tables that follow each other in a segment, each of its own length."""
    at = 4
    while at < len(segment):
        if at + length(segment, at) > len(segment):
            raise _BadJpeg
        # Half a byte is the precision of quantisation tables; of Huffman tables, whether they are of AC.
        yield segment[at] & 0x0F if segment[1] == _QUANTISATION else segment[at]
        at += length(segment, at)


def _frame(segments: list[_Segment], tile_px: tuple[int, int]) -> tuple[set[tuple[str, int]], bytes]:
    """Quantisation tables that the frame uses, and its segment."""
    frames = [segment for marker, segment in segments if 0xC0 <= marker <= 0xCF and marker != _HUFFMAN]
    if len(frames) != 1 or frames[0][1] not in _FRAMES or len(frames[0]) != 10 + 3 * _COMPONENTS:
        raise _BadJpeg
    frame = frames[0]
    height, width = int.from_bytes(frame[5:7]), int.from_bytes(frame[7:9])
    if frame[4] != 8 or (width, height) != tile_px or frame[9] != _COMPONENTS:
        raise _BadJpeg
    return {("q", frame[at]) for at in (12, 15, 18)}, frame


def _check_scan(segment: _Segment, used: set[tuple[str, int]], defined: frozenset[tuple[str, int]]) -> None:
    """Whether the last segment is the header of one scan of all components, and every table that is used is defined."""
    marker, header = segment
    if marker != _SCAN or len(header) != _SCAN_BYTES or header[4] != _COMPONENTS:
        raise _BadJpeg
    # Each component names a DC table in the upper half of a byte and an AC table in the lower.
    codes = [header[place] for place in (6, 8, 10)]
    if not used | {("h", code >> 4) for code in codes} | {("h", 0x10 | (code & 0x0F)) for code in codes} <= defined:
        raise _BadJpeg
