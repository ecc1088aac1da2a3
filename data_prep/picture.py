"""Bytes of any image file -> upright 8-bit pixels, and what its header says of it."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sciencessl.data_prep import jpeg, png
from sciencessl.data_prep.canonical import Canonical, Size, check_size, divisor, smaller_size
from sciencessl.data_prep.colour import to_eight_bits
from sciencessl.data_prep.refused import Refused

# No EPS, PDF, WMF or PSD: they start interpreters or hold documents rather than images.
_WANTED = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
# Loads every plug-in: only then does Pillow know which formats it opens.
Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
"""Formats that are opened; AVIF only where Pillow was built with it. MPO comes in through JPEG."""
MAX_FRAMES = 10_000
"""Frames of a GIF are counted up to here."""
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP", b"P4", b"P5", b"P6")
_TELL_FRAMES = ("PNG", "WEBP", "AVIF", "MPO")
"""Formats whose header says how many frames there are."""
_ORIENTATION = 0x0112
_MIRRORED = {
    2: (False, True), 3: (True, True), 4: (True, False), 5: (False, False), 6: (False, True), 7: (True, True),
    8: (True, False),
}
"""EXIF orientation -> whether rows and columns run backwards, after axes were swapped where they are to be."""
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


@dataclass(frozen=True)
class Picture:
    """An image as it is looked at.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8, upright. Those of a JPEG may have been divided already.
        size: That of the file, upright.
        format: As Pillow names it.
        orientation: The number that its EXIF gives, 1 where there is none.
        frames: As far as it tells, at least 1: pages of a TIFF are not counted, frames of a GIF where this was asked.
        profile: Its colour profile, where pixels are still in it.
        kept: Bytes that may be stored as they are, empty where there are none.
        proven: Whether whoever reads a store decodes these to the same pixels.
    """

    pixels: np.ndarray
    size: Size
    format: str
    orientation: int = 1
    frames: int = 1
    profile: bytes = b""
    kept: bytes = b""
    proven: bool = False

    @property
    def is_jpeg(self) -> bool:
        """Whether it was compressed as a JPEG, and is to be."""
        return self.format in ("JPEG", "MPO")


def read_picture(raw: bytes, options: Canonical) -> Picture:
    """Check the header of an image file, and decode it: the first frame, upright, 8 bits, on white.

    Raises:
        Refused: corrupt, truncated, unsupported, too-small, too-large, too-long or too-slow.
        Exception: Whatever a decoder raises; see `refusal`.
    """
    return _from_jpeg(raw, options) or _through_pillow(raw, options)


def refusal(error: Exception, raw: bytes) -> Refused:
    """What an exception of a decoder says of the file that it was given, the same whenever and wherever it runs."""
    return Refused(_reason(error, raw), _detail(error))


def _reason(error: Exception, raw: bytes) -> str:
    words = str(error).lower()
    if isinstance(error, Image.DecompressionBombError | MemoryError) or "max_text" in words:
        return "too-large"
    if isinstance(error, UnidentifiedImageError) and raw and not (raw.startswith(_MAGIC) or raw[4:8] == b"ftyp"):
        return "not-an-image"
    if isinstance(error, EOFError) or "truncated" in words or _is_cut(raw):
        return "truncated"
    if isinstance(error, NotImplementedError) or "unsupported" in words or "not available" in words:
        return "unsupported"
    return "corrupt"


def _is_cut(raw: bytes) -> bool:
    """Whether a file ends before it says that it does, where its format tells."""
    if raw.startswith(b"\x89PNG"):
        return b"IEND\xaeB`\x82" not in raw
    return not raw or (raw.startswith(b"RIFF") and len(raw) < int.from_bytes(raw[4:8], "little") + 8)


def _detail(error: Exception) -> str:
    # Pillow names the buffer by its address here, which differs from run to run.
    if isinstance(error, UnidentifiedImageError):
        return "no reader recognises it"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(error).__name__}: {error}")[:200]


def _from_jpeg(raw: bytes, options: Canonical) -> Picture | None:
    """A plain JPEG without a detour; None for what Pillow has to judge."""
    header = jpeg.read_header(raw) if jpeg.is_jpeg(raw) else None
    if header is None:
        return None
    size = (header.width, header.height)
    check_size(size, options)
    # All of an MPO but its first image is metadata.
    if header.images > 1 and not options.strip:
        return None
    pixels = jpeg.decode_exactly(raw, header, divisor(size, options))
    if pixels is None:
        return None
    found = _number(partial(_jpeg_exif, header)) if header.exif or header.xmp else 1
    kept = b""
    if not _turns(found) and smaller_size(size, options) is None:
        kept = jpeg.stripped(raw) if options.strip else raw
    return Picture(
        upright(pixels, found), _upright_size(size, found), "MPO" if header.images > 1 else "JPEG", found,
        header.images, header.icc, kept, True,
    )


def _through_pillow(raw: bytes, options: Canonical) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged EXIF, and sizes for which the budget is ours
        try:
            return _opened(raw, options)
        except ValueError as error:
            if not (options.strip and png.is_png(raw) and "MAX_TEXT" in str(error)):
                raise
        # What grows so large is text or a colour profile, and this goes anyway.
        return _opened(png.stripped(raw, profile=False), options)


def _opened(raw: bytes, options: Canonical) -> Picture:
    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        size = image.size
        check_size(size, options)
        if image.format == "PNG":
            png.check_whole(raw)
        # A TIFF is upright once it is loaded, and says so.
        found = getattr(image, "tag_v2", {}).get(_ORIENTATION, 1)
        # First of all: asking a PNG for its EXIF loads it too, and hides that it is truncated.
        image.load()
        if image.format == "PNG" and (image.info.get("interlace") or not np.asarray(image)[-1].any()):
            png.check_filled(raw)
        told = _number(image.getexif)
        as_is = _is_canonical(image, raw) and not _turns(told) and smaller_size(size, options) is None
        return Picture(
            pixels=upright(np.asarray(to_eight_bits(image)), told), size=_upright_size(size, told),
            format=image.format or "", orientation=found if isinstance(found, int) and found != 1 else told,
            frames=_frames(image, raw, options), profile=_profile(image),
            kept=(_stripped(raw, image.format) if options.strip else raw) if as_is else b"",
        )


def _is_canonical(image: Image.Image, raw: bytes) -> bool:
    if image.format not in ("JPEG", "PNG") or image.mode not in ("RGB", "L") or "transparency" in image.info:
        return False
    # Byte 24 of a PNG is its bit depth: Pillow shows 16-bit RGB as 8-bit RGB. An animated PNG is one too.
    return image.format == "JPEG" or (raw[24] == 8 and getattr(image, "n_frames", 1) == 1)


def _stripped(raw: bytes, kind: str | None) -> bytes:
    return jpeg.stripped(raw) if kind == "JPEG" else png.stripped(raw)


def _profile(image: Image.Image) -> bytes:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and image.mode not in ("CMYK", "LAB") else b""


def _frames(image: Any, raw: bytes, options: Canonical) -> int:
    if image.format == "GIF" and options.describe:
        return _gif_frames(raw)
    return getattr(image, "n_frames", 1) if image.format in _TELL_FRAMES else 1


def _gif_frames(raw: bytes) -> int:
    """Frames of a GIF, without decoding them. Pillow's count would take seconds for a file of empty ones."""

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    frames, at = 0, 13 + table(raw[10])
    while frames < MAX_FRAMES and at + 10 < len(raw) and raw[at] in b"\x21\x2c":
        frames += raw[at] == 0x2C
        at += 11 + table(raw[at + 9]) if raw[at] == 0x2C else 2
        while at < len(raw) and raw[at]:
            at += raw[at] + 1
        at += 1
    return max(frames, 1)


def _number(read: Callable[[], Image.Exif]) -> int:
    """EXIF orientation as it stands there; damaged EXIF beside good pixels says nothing."""
    try:
        value = read().get(_ORIENTATION, 1)
    except (ValueError, TypeError, SyntaxError, OSError, struct.error, KeyError):
        return 1
    return value if isinstance(value, int) else 1


def _jpeg_exif(header: jpeg.JpegHeader) -> Image.Exif:
    exif = Image.Exif()
    if header.exif:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(header.exif)
    told = _XMP_ORIENTATION.search(header.xmp)
    if told and _ORIENTATION not in exif:
        exif[_ORIENTATION] = int(told[1])
    return exif


def _turns(orientation: int) -> bool:
    return orientation in _MIRRORED


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they are looked at: orientations 5 to 8 swap the axes first, then come the mirrors. Numbers that EXIF
    does not define leave them as they are."""
    if not _turns(orientation):
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    rows, columns = _MIRRORED[orientation]
    return np.ascontiguousarray(turned[:: -1 if rows else 1, :: -1 if columns else 1])


def _upright_size(size: Size, orientation: int) -> Size:
    return size[::-1] if _turns(orientation) and orientation >= 5 else size
