"""JPEG files by their markers: what the header says, pixels by the fastest exact decoder, and metadata cut out."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg

from sciencessl.data_prep.refused import Refused

MAX_SCANS = 200
"""Most scans of one image. Encoders write about ten; each takes a pass over the whole image, however few its bytes."""
MAX_SEGMENTS = 16_384
"""Most segments of one file: 64 KiB each, more than the largest file that is read."""
_SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_PLAIN = frozenset((0xC0, 0xC1, 0xC2))
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""The next marker in entropy-coded data or in what should not be there: no stuffed byte, restart or fill byte."""
_EXIF, _ICC, _XMP, _MPF = b"Exif\0\0", b"ICC_PROFILE\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0"
_NUMBER_OF_IMAGES = 0xB001


class Segment(NamedTuple):
    """A marker and what belongs to it: bytes `start` to `stop` of the file, entropy-coded data after a scan's header
    not among them."""

    marker: int
    start: int
    stop: int


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG says of itself before its pixels.

    Attributes:
        width: In pixels, as stored.
        height: In pixels, as stored.
        components: 1, 3 or 4.
        plain: Whether it is sequential or progressive with 8 bits a sample and Huffman codes, as nearly all are.
        exif: Contents of its EXIF, empty where there is none.
        xmp: Contents of its XMP.
        icc: Its colour profile.
        images: How many it holds, more than one in an MPO.
    """

    width: int
    height: int
    components: int
    plain: bool
    exif: bytes = b""
    xmp: bytes = b""
    icc: bytes = b""
    images: int = 1


def is_jpeg(raw: bytes) -> bool:
    """Whether bytes begin as a JPEG does."""
    return raw[:3] == b"\xff\xd8\xff"


def read_header(raw: bytes) -> JpegHeader | None:
    """Read a JPEG's header; None where it has no frame followed by a scan.

    Raises:
        Refused: `too-slow` where it has more than `MAX_SCANS` scans, or `MAX_SEGMENTS` segments.
    """
    frame, size, plain, found = 0, (0, 0, 0), False, []
    for marker, start, stop in segments(raw):
        if marker in _FRAMES and not frame and stop - start >= 10:
            frame = marker
            size = (_word(raw, start + 7), _word(raw, start + 5), raw[start + 9])
            plain = raw[start + 4] == 8 and frame in _PLAIN
        elif marker in (_APP1, _APP2):
            found.append(raw[start + 4 : stop])
        elif marker == _SOS:
            if not frame:
                return None
            # With all components in its first scan a sequential image ends there, whatever follows.
            if frame in _PROGRESSIVE or raw[start + 4] < size[2]:
                _count_scans(raw)
            exif, xmp, icc, images = _metadata(found)
            return JpegHeader(*size, plain, exif, xmp, icc, images)
    return None


def _metadata(found: list[bytes]) -> tuple[bytes, bytes, bytes, int]:
    if not found:
        return b"", b"", b"", 1
    exif = b"".join(content[len(_EXIF) :] for content in found if content.startswith(_EXIF))
    xmp = b"".join(content[len(_XMP) :] for content in found if content.startswith(_XMP))
    parts = sorted(content for content in found if content.startswith(_ICC))
    icc = b"".join(part[len(_ICC) + 2 :] for part in parts)
    return exif, xmp, icc, max([1, *(_listed(content) for content in found if content.startswith(_MPF))])


def _listed(content: bytes) -> int:
    """Images in the index of an MPO; 2 where it cannot be read. Source: CIPA DC-007."""
    order = "<" if content[4:6] == b"II" else ">"
    try:
        at = 4 + struct.unpack_from(f"{order}I", content, 8)[0]
        entries = struct.unpack_from(f"{order}H", content, at)[0]
        tags = (struct.unpack_from(f"{order}HHII", content, at + 2 + 12 * i) for i in range(entries))
        return next((int(value) for tag, _, _, value in tags if tag == _NUMBER_OF_IMAGES), 2)
    except struct.error:
        return 2


def _count_scans(raw: bytes) -> None:
    scans = 0
    for segment in segments(raw):
        scans += segment.marker == _SOS
        if scans > MAX_SCANS:
            raise Refused("too-slow", f"more than {MAX_SCANS} scans")


def segments(raw: bytes) -> Iterator[Segment]:
    """The segments of a JPEG in order, from its start to its end of image or to where it breaks off.

    Raises:
        Refused: `too-slow` after `MAX_SEGMENTS` of them.
    """
    search, length = _MARKER.search, len(raw)
    stop = 0
    for _ in range(MAX_SEGMENTS):
        found = search(raw, stop)
        if found is None:
            return
        start = found.start()
        marker = raw[start + 1]
        stop = start + 2 if marker in (_SOI, _EOI) else start + 2 + _word(raw, start + 2)
        if stop > length:
            return
        yield Segment(marker, start, stop)
        if marker == _EOI:
            return
    raise Refused("too-slow", f"more than {MAX_SEGMENTS} segments")


def _word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 2])


def stripped(raw: bytes, profile: bool = True) -> bytes:
    """A JPEG without what does not concern its pixels: EXIF, XMP, thumbnails, comments, and anything after its end.

    JFIF and Adobe segments, which say how colours are stored, stay; entropy-coded data are copied as they are.

    Args:
        raw: The file.
        profile: Whether its colour profile stays, too.
    """
    kept = []
    data_from = 0
    for segment in segments(raw):
        if data_from:
            kept.append(raw[data_from : segment.start])
        data_from = segment.stop if segment.marker == _SOS else 0
        kept.append(_kept(raw[segment.start : segment.stop], segment.marker, profile))
    if data_from:
        kept.append(raw[data_from:])
    return b"".join(kept)


def _kept(segment: bytes, marker: int, profile: bool) -> bytes:
    content = segment[4:]
    if marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        return b"\xff\xe0\0\x10" + content[:12] + b"\0\0"  # no thumbnail
    if marker == _APP14 and content.startswith(b"Adobe"):
        return segment
    if marker == _APP2 and content.startswith(_ICC):
        return segment if profile else b""
    return b"" if _APP0 <= marker < _APP0 + 16 or marker == _COM else segment


def decode_exactly(raw: bytes, header: JpegHeader, divisor: int = 1) -> np.ndarray | None:
    """Pixels equal, bit for bit, to those of OpenCV and Pillow; None where another decoder has to judge.

    Args:
        raw: The file.
        header: Its header.
        divisor: 1, 2, 4 or 8: sides are divided by it, rounded up. libjpeg then computes fewer coefficients of each
            8 x 8 block, which averages areas.

    Returns:
        (H, W) uint8 of a grey image, (H, W, 3) of a coloured one.

    Raises:
        Refused: `truncated` or `corrupt` where libjpeg warns that pixels are made up.
    """
    # Lossless JPEG cannot be decoded at a divisor: simplejpeg would write past its buffer.
    if not header.plain or header.components not in (1, 3):
        return None
    try:
        return _decode(raw, header, divisor)
    except ValueError:
        pass
    try:
        # Bytes between its segments are a warning as well; with those gone, what is left concerns pixels.
        return _decode(stripped(raw), header, divisor)
    except ValueError as error:
        words = str(error)
        if "remature end" in words:
            raise Refused("truncated", words) from error
        if words.startswith("Corrupt JPEG data") and "extraneous" not in words:
            raise Refused("corrupt", words) from error
        return None


def _decode(raw: bytes, header: JpegHeader, divisor: int) -> np.ndarray:
    height, width = -(-header.height // divisor), -(-header.width // divisor)
    colours = "GRAY" if header.components == 1 else "RGB"
    pixels: np.ndarray = simplejpeg.decode_jpeg(
        raw, colours, fastdct=False, fastupsample=False, min_height=height, min_width=width
    )
    return pixels[..., 0] if header.components == 1 else pixels
