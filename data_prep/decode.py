"""Any image file -> the bytes a store holds: an 8-bit RGB or grey JPEG or PNG, upright, one frame, without alpha.

A file that is that already keeps its bytes. Everything else is a `Refused` with a reason to count by.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from sciencessl.data.decode import decode
from sciencessl.data_prep import jpeg
from sciencessl.data_prep.refused import Refused
from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec

__all__ = [
    "FORMATS", "MAX_PIXELS", "MAX_STORED_BYTES", "Canonical", "Encoded", "Refused", "canonicalise", "encode",
    "hash_bytes", "hash_pixels", "shrink", "to_eight_bits",
]

MAX_PIXELS = 100_000_000
"""Budget of one image: a header that promises more is refused before a pixel is decoded."""
MAX_SIDE = 65_500
"""Longest side, in pixels: what libjpeg reads and writes."""
MANY_VALUES = 2**24
"""Images of more values are shrunk in place of time at the least memory."""
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
_MIRRORED = {
    2: (False, True), 3: (True, True), 4: (True, False), 5: (False, False), 6: (False, True), 7: (True, True),
    8: (True, False),
}
"""EXIF orientation -> whether rows and columns run backwards, after axes were swapped where they are to be."""
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_SAMPLING = {"444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420}


@dataclass(frozen=True)
class Canonical:
    """How images are canonicalised.

    Attributes:
        resize_px: Short side after shrinking, in pixels; smaller images stay as they are. None shrinks nothing.
        jpeg_quality: Of JPEG that is encoded again, 1 to 100.
        min_px: Images with a shorter side are refused.
        max_pixels: Images with more are refused by their header. Pillow's limit, 179 million, holds as well for what is
            not JPEG.
        max_aspect: Images with a larger ratio of sides are refused by their header; 0 takes any.
        chroma: `444` keeps colours at full resolution in JPEG that is encoded again, `420` at half of it, as photos on
            the web have them.
        strip: Cut EXIF, GPS, XMP, comments and thumbnails out of files that keep their bytes.
    """

    resize_px: int | None = None
    jpeg_quality: int = 95
    min_px: int = 8
    max_pixels: int = MAX_PIXELS
    max_aspect: float = 0.0
    chroma: str = "444"
    strip: bool = False


@dataclass(frozen=True)
class Encoded:
    """A canonical image.

    Attributes:
        payload: Its bytes.
        width: In pixels.
        height: In pixels.
        pixel_hash: Digest of its pixels as its field has them; before encoding, where it was encoded again.
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
    and CMYK become RGB; alpha is laid over white; a short side above `resize_px` shrinks to it by area averaging: of a
    JPEG that is twice, four or eight times as large, libjpeg averages half, quarter or eighth of the sides. What was
    JPEG is encoded as JPEG again, the rest as PNG.

    Args:
        raw: The file.
        field: The `bytes` field it goes into.
        options: Size and quality.

    Returns:
        The bytes to store, which have been decoded once if they are those of the file.

    Raises:
        Refused: With reason corrupt, truncated, unsupported, too-small, too-large, too-long, too-slow or not-an-image.
    """
    try:
        picture = _from_jpeg(raw, options) or _through_pillow(raw, options)
        return _stored(picture, field, options)
    except Refused:
        raise
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise Refused(_reason(error, raw), _detail(error)) from error


@dataclass(frozen=True)
class _Picture:
    """Upright (H, W) or (H, W, 3) uint8 pixels, and what is to be stored of them.

    They are to be shrunk to `smaller`, (width, height), where it is given. `kept` are the bytes that may be stored as
    they are, empty where there are none; `proven` says that whoever reads a store decodes them to these pixels.
    """

    pixels: np.ndarray
    smaller: tuple[int, int] | None
    is_jpeg: bool
    kept: bytes = b""
    proven: bool = False


def _stored(picture: _Picture, field: FieldSpec, options: Canonical) -> Encoded:
    pixels = shrink(picture.pixels, picture.smaller) if picture.smaller else picture.pixels
    payload = picture.kept or encode(pixels, picture.is_jpeg, options.jpeg_quality, options.chroma)
    if len(payload) > MAX_STORED_BYTES:
        raise Refused("too-large", f"{len(payload)} bytes encoded, at most {MAX_STORED_BYTES} fit; use resize_px")
    shown = _decoded(payload, field) if picture.kept and not picture.proven else _as_field(pixels, payload, field)
    return Encoded(payload, shown.shape[1], shown.shape[0], hash_pixels(shown))


def _decoded(payload: bytes, field: FieldSpec) -> np.ndarray:
    try:
        return decode(payload, field)
    except StoreError as error:
        reason = "truncated" if _is_cut(payload) else "corrupt"
        raise Refused(reason, "one decoder reads it and another does not") from error


def _as_field(pixels: np.ndarray, payload: bytes, field: FieldSpec) -> np.ndarray:
    """Pixels with the channels of a field; what becomes grey there is the decoder's to say."""
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if len(field.channels) == 3 else pixels[..., None]
    return pixels if len(field.channels) == 3 else _decoded(payload, field)


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


def _from_jpeg(raw: bytes, options: Canonical) -> _Picture | None:
    """A plain JPEG without a detour; None for what Pillow has to judge."""
    header = jpeg.read_header(raw) if jpeg.is_jpeg(raw) else None
    if header is None:
        return None
    size = (header.width, header.height)
    _check_size(size, options)
    # All of an MPO but its first image is metadata.
    if header.several and not options.strip:
        return None
    orientation = _upright_or(partial(_jpeg_exif, header)) if header.exif or header.xmp else 1
    pixels = jpeg.decode_exactly(raw, header, _divisor(size, options))
    if pixels is None:
        return None
    smaller = _shrunk_size(size, orientation, options)
    if orientation != 1 or smaller:
        return _Picture(_upright(pixels, orientation), smaller, True)
    return _Picture(pixels, None, True, jpeg.stripped(raw) if options.strip else raw, True)


def _divisor(size: tuple[int, int], options: Canonical) -> int:
    if options.resize_px is None:
        return 1
    return next((divisor for divisor in (8, 4, 2) if min(size) >= divisor * options.resize_px), 1)


def _through_pillow(raw: bytes, options: Canonical) -> _Picture:
    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        _check_size(image.size, options)
        # First of all: asking a PNG for its EXIF loads it too, and hides that it is truncated.
        image.load()
        orientation = _upright_or(image.getexif)
        smaller = _shrunk_size(image.size, orientation, options)
        as_is = _is_canonical(image, raw) and orientation == 1 and not smaller
        is_jpeg = image.format in ("JPEG", "MPO")
        pixels = np.asarray(to_eight_bits(image))
    return _Picture(_upright(pixels, orientation), smaller, is_jpeg, raw if as_is else b"")


def _check_size(size: tuple[int, int], options: Canonical) -> None:
    width, height = size
    if width * height > options.max_pixels:
        budget = f"the budget is {options.max_pixels / 1e6:g} million pixels"
        raise Refused("too-large", f"{width} x {height} px, {budget}")
    if max(size) > MAX_SIDE:
        raise Refused("too-large", f"{width} x {height} px, sides are {MAX_SIDE} at most")
    if min(size) < options.min_px:
        raise Refused("too-small", f"{width} x {height} px, min_px is {options.min_px}")
    if options.max_aspect and max(size) > options.max_aspect * min(size):
        raise Refused("too-long", f"{width} x {height} px, max_aspect is {options.max_aspect:g}")


def _upright_or(read: Callable[[], Image.Exif]) -> int:
    """EXIF orientation, 1 (upright) to 8; damaged EXIF beside good pixels counts as upright."""
    try:
        value = read().get(_ORIENTATION, 1)
    except (ValueError, TypeError, SyntaxError, OSError, struct.error, KeyError):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _jpeg_exif(header: jpeg.JpegHeader) -> Image.Exif:
    exif = Image.Exif()
    if header.exif:
        exif.load(header.exif)
    told = _XMP_ORIENTATION.search(header.xmp)
    if told and _ORIENTATION not in exif:
        exif[_ORIENTATION] = int(told[1])
    return exif


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they are looked at: orientations 5 to 8 swap the axes first, then come the mirrors."""
    if orientation == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    rows, columns = _MIRRORED[orientation]
    return np.ascontiguousarray(turned[:: -1 if rows else 1, :: -1 if columns else 1])


def _is_canonical(image: Image.Image, raw: bytes) -> bool:
    if image.format not in ("JPEG", "PNG") or image.mode not in ("RGB", "L") or "transparency" in image.info:
        return False
    # Byte 24 of a PNG is its bit depth: Pillow shows 16-bit RGB as 8-bit RGB. An animated PNG is one too.
    return image.format == "JPEG" or (raw[24] == 8 and getattr(image, "n_frames", 1) == 1)


def _shrunk_size(size: tuple[int, int], orientation: int, options: Canonical) -> tuple[int, int] | None:
    """(width, height) of an image when it is upright and shrunk; None where it is small enough."""
    if options.resize_px is None or min(size) <= options.resize_px:
        return None
    scale = options.resize_px / min(size)
    width, height = size if orientation < 5 else size[::-1]
    return max(round(width * scale), 1), max(round(height * scale), 1)


def shrink(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 shrunk to (width, height) by averaging areas."""
    if size == pixels.shape[1::-1]:
        return pixels
    if pixels.size > MANY_VALUES:
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    # OpenCV computes in float32 either way; that it need not convert value by value saves a fifth of the time.
    return cv2.convertScaleAbs(cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA))


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


def encode(pixels: np.ndarray, is_jpeg: bool, quality: int, chroma: str = "444") -> bytes:
    """(H, W) or (H, W, 3) uint8 as JPEG of a quality, with chroma subsampling `444` (none) or `420`, or as PNG."""
    # Built from the array, so that no metadata of the original travels along.
    if not is_jpeg:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()
    ordered = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    wanted = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING[chroma]]
    return bytes(cv2.imencode(".jpg", ordered, wanted)[1])
