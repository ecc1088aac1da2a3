"""Any image file -> the bytes a store holds: an 8-bit RGB or grey JPEG or PNG, upright, one frame, without alpha.

A file that is that already keeps its bytes. Everything else is a `Refused` with a reason to count by.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from sciencessl.data.decode import decode
from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec

MAX_PIXELS = 100_000_000
"""Budget of one image: a header that promises more is refused before a pixel is decoded."""
MAX_STORED_BYTES = 64 * 2**20
"""Most bytes of one stored image, a quarter of a row."""
# No EPS, PDF, WMF or PSD: they start interpreters or hold documents rather than images.
_WANTED = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
# Loads every plug-in: only then does Pillow know which formats it opens.
Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
"""Formats that are opened; AVIF only where Pillow was built with it. MPO comes in through JPEG."""
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP", b"P4", b"P5", b"P6")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright."""


class Refused(Exception):
    """One file cannot be stored: `reason` to count by, `detail` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        return Refused, (self.reason, self.detail)


@dataclass(frozen=True)
class Canonical:
    """How images are canonicalised: short side in pixels or None, quality of re-encoded JPEG, smallest side allowed."""

    resize_px: int | None = None
    jpeg_quality: int = 95
    min_px: int = 8


@dataclass(frozen=True)
class Encoded:
    """A canonical image.

    Attributes:
        payload: Its bytes.
        width: In pixels.
        height: In pixels.
        pixel_hash: Digest of its pixels.
        columns: Further row columns, where `Canonical` asks for them.
    """

    payload: bytes
    width: int
    height: int
    pixel_hash: str
    columns: Mapping[str, Any] = field(default_factory=dict)


def hash_pixels(pixels: np.ndarray) -> str:
    """Blake2b-128 of dtype, shape and values, in hex: equal for equal pixels, however they were encoded."""
    state = blake2b(f"{pixels.dtype.str}{pixels.shape}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(pixels).data)
    return state.hexdigest()


def hash_bytes(raw: bytes) -> str:
    """Blake2b-128 of a file's bytes, in hex."""
    return blake2b(raw, digest_size=16).hexdigest()


def canonicalise(raw: bytes, field: FieldSpec, options: Canonical) -> Encoded:
    """Check one encoded image and bring it into the form that a store holds.

    EXIF orientation is applied; the first frame of an animation is taken; 16-bit values lose their low byte; palettes
    and CMYK become RGB; alpha is laid over white; a short side above `resize_px` shrinks to it by area averaging. What
    was JPEG is encoded as JPEG again (no chroma subsampling), the rest as PNG.

    Args:
        raw: The file.
        field: The `bytes` field it goes into.
        options: Size and quality.

    Returns:
        The bytes to store, which `sciencessl.data.decode` has decoded once.

    Raises:
        Refused: With reason corrupt, truncated, unsupported, too-small, too-large or not-an-image.
    """
    try:
        payload = _canonical_bytes(raw, options)
    except Refused:
        raise
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise Refused(_reason(error, raw), _detail(error)) from error
    if len(payload) > MAX_STORED_BYTES:
        raise Refused("too-large", f"{len(payload)} bytes encoded, at most {MAX_STORED_BYTES} fit; use resize_px")
    try:
        pixels = decode(payload, field)
    except StoreError as error:
        reason = "truncated" if _is_cut(payload) else "corrupt"
        raise Refused(reason, "one decoder reads it and another does not") from error
    return Encoded(payload, pixels.shape[1], pixels.shape[0], hash_pixels(pixels))


def _reason(error: Exception, raw: bytes) -> str:
    words = str(error).lower()
    if isinstance(error, Image.DecompressionBombError | MemoryError):
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
    return f"{type(error).__name__}: {error}"[:200]


def _canonical_bytes(raw: bytes, options: Canonical) -> bytes:
    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        _check_size(image.size, options)
        # First of all: asking a PNG for its EXIF loads it too, and hides that it is truncated.
        image.load()
        orientation = _orientation(image)
        as_is = _is_canonical(image, raw) and orientation == 1
        if as_is and not _shrunk_size(image.size, options):
            return raw
        flat = to_eight_bits(image)
        upright = flat if orientation == 1 else flat.transpose(_UPRIGHT[orientation])
        is_jpeg = image.format in ("JPEG", "MPO")
    pixels = np.asarray(upright)
    smaller = _shrunk_size((pixels.shape[1], pixels.shape[0]), options)
    if smaller:
        pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
    return encode(pixels, is_jpeg, options.jpeg_quality)


def _check_size(size: tuple[int, int], options: Canonical) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise Refused("too-large", f"{width} x {height} px, the budget is {MAX_PIXELS / 1e6:.0f} million pixels")
    if min(size) < options.min_px:
        raise Refused("too-small", f"{width} x {height} px, min_px is {options.min_px}")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; damaged EXIF beside good pixels counts as upright."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (ValueError, TypeError, SyntaxError, OSError, struct.error, KeyError):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_canonical(image: Image.Image, raw: bytes) -> bool:
    if image.format not in ("JPEG", "PNG") or image.mode not in ("RGB", "L") or "transparency" in image.info:
        return False
    # Byte 24 of a PNG is its bit depth: Pillow shows 16-bit RGB as 8-bit RGB. An animated PNG is one too.
    return image.format == "JPEG" or (raw[24] == 8 and getattr(image, "n_frames", 1) == 1)


def _shrunk_size(size: tuple[int, int], options: Canonical) -> tuple[int, int] | None:
    if options.resize_px is None or min(size) <= options.resize_px:
        return None
    scale = options.resize_px / min(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Mode `L` or `RGB`: palettes and CMYK become RGB, alpha is laid over white, 16 bits lose their low byte.

    Raises:
        Refused: With reason unsupported for floating-point pixels, and for integers that 16 bits do not hold.
    """
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        raise Refused("unsupported", "floating-point pixels have no fixed range; store them as FITS stamps")
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return image.convert("L")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise Refused("unsupported", "integer pixels outside 0 to 65535; store them as FITS stamps")
    return Image.fromarray((values >> 8).astype(np.uint8))


def encode(pixels: np.ndarray, is_jpeg: bool, quality: int) -> bytes:
    """(H, W) or (H, W, 3) uint8 as JPEG of a quality, without chroma subsampling, or as PNG."""
    out = io.BytesIO()
    # Built from the array, so that no metadata of the original travels along.
    image = Image.fromarray(pixels)
    if is_jpeg:
        image.save(out, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(out, "PNG")
    return out.getvalue()
