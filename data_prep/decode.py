"""Any image file -> the bytes a store holds: an 8-bit RGB or grey JPEG or PNG, upright, one frame, without alpha.

A file that is that already keeps its bytes. Everything else is a `Refused` with a reason to count by.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import cv2
import numpy as np
import simplejpeg
from blake3 import blake3
from PIL import Image

from sciencessl.data.decode import decode
from sciencessl.data_prep import picture_quality as quality
from sciencessl.data_prep.canonical import MAX_PIXELS, Canonical, Size, smaller_size
from sciencessl.data_prep.colour import in_srgb, to_eight_bits
from sciencessl.data_prep.picture import FORMATS, Picture, read_picture, refusal
from sciencessl.data_prep.refused import Refused
from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec
from sciencessl.views.perceptual import phash

__all__ = [
    "DESCRIPTION", "FORMATS", "MAX_PIXELS", "MAX_STORED_BYTES", "Canonical", "Encoded", "Refused", "canonicalise",
    "encode", "hash_bytes", "hash_pixels", "shrink", "to_eight_bits",
]

MAX_STORED_BYTES = 64 * 2**20
"""Most bytes of one stored image, a quarter of a row."""
MANY_VALUES = 2**24
"""Images of more values are shrunk with less memory rather than in less time."""
DESCRIPTION = {
    "phash": "64 bits of `sciencessl.views.perceptual.phash`, as int64",
    "entropy": "of grey values, 0 to 8 bits",
    "sharpness": "standard deviation of the Laplacian, in grey levels",
    "one_colour": "share of the most frequent colour",
    "source_width": "of the file's image, upright, in pixels",
    "source_height": "of the file's image, upright, in pixels",
    "source_format": "as Pillow names it",
    "frames": "of the file, as far as its header tells; one is stored",
    "orientation": "number in its EXIF, 1 where there is none",
}
"""Columns of images that are described -> what they are."""


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
    """BLAKE3-128 of dtype, shape and values, in hex: equal for equal pixels, however they were encoded.

    Seven times as fast as blake2b, which was a tenth of the time of bringing a photo into a store.
    """
    state = blake3(f"{pixels.dtype.str}{pixels.shape}".encode())
    state.update(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return state.hexdigest(16)


def hash_bytes(raw: bytes) -> str:
    """Blake2b-128 of a file's bytes, in hex."""
    return blake2b(raw, digest_size=16).hexdigest()


def canonicalise(raw: bytes, field: FieldSpec, options: Canonical) -> Encoded:
    """Check one encoded image and bring it into the form that a store holds.

    EXIF orientation is applied; the first frame of an animation is taken; 16-bit values lose their low byte; palettes
    and CMYK become RGB; alpha is laid over white; a short side above `resize_px` shrinks to it by area averaging: of a
    JPEG that is twice, four or eight times as large, libjpeg averages to half, a quarter or an eighth of the sides
    first. What was JPEG is encoded as JPEG again, the rest as PNG.

    Args:
        raw: The file.
        field: The `bytes` field it goes into.
        options: Size, quality and limits.

    Returns:
        The bytes to store. Those of the file have been decoded by what decodes a store, or by what gives the same.

    Raises:
        Refused: With reason corrupt, truncated, unsupported, too-small, too-large, too-long, too-slow, not-an-image,
            filtered:entropy, filtered:blur or filtered:one-colour.
    """
    try:
        return _canonical(read_picture(raw, options), field, options)
    except Refused:
        raise
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise refusal(error, raw) from error


def _canonical(picture: Picture, field: FieldSpec, options: Canonical) -> Encoded:
    pixels, kept = _as_wanted(picture, options)
    columns = _described(picture, pixels, options)
    payload = kept or encode(pixels, picture.is_jpeg, options.jpeg_quality, options.chroma)
    if len(payload) > MAX_STORED_BYTES:
        raise Refused("too-large", f"{len(payload)} bytes encoded, at most {MAX_STORED_BYTES} fit; use resize_px")
    shown = _decoded(payload, field) if kept and not picture.proven else _as_field(pixels, payload, field)
    return Encoded(payload, shown.shape[1], shown.shape[0], hash_pixels(shown), columns)


def _as_wanted(picture: Picture, options: Canonical) -> tuple[np.ndarray, bytes]:
    """Pixels to be stored, and the bytes of the file if these are kept."""
    smaller = smaller_size(picture.size, options)
    pixels = shrink(picture.pixels, smaller) if smaller else picture.pixels
    converted = in_srgb(pixels, picture.profile) if options.srgb else None
    return (pixels, picture.kept) if converted is None else (converted, b"")


def _decoded(payload: bytes, field: FieldSpec) -> np.ndarray:
    try:
        return decode(payload, field)
    except StoreError as error:
        raise Refused("corrupt", "one decoder reads it and another does not") from error


def _as_field(pixels: np.ndarray, payload: bytes, field: FieldSpec) -> np.ndarray:
    """Pixels with the channels of a field; what becomes grey there is the decoder's to say."""
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if len(field.channels) == 3 else pixels[..., None]
    return pixels if len(field.channels) == 3 else _decoded(payload, field)


def _described(picture: Picture, pixels: np.ndarray, options: Canonical) -> dict[str, Any]:
    """Columns of an image, unless it is filtered by them."""
    if not options.describe and (options.min_entropy, options.min_sharpness, options.max_one_colour) == (0, 0, 1):
        return {}
    grey = quality.to_grey(pixels)
    entropy, sharpness = round(quality.entropy(grey), 4), round(quality.sharpness(grey), 4)
    one_colour = round(quality.one_colour(pixels), 4)
    if entropy < options.min_entropy:
        raise Refused("filtered:entropy", f"{entropy:g} bits, min_entropy is {options.min_entropy:g}")
    if sharpness < options.min_sharpness:
        raise Refused("filtered:blur", f"sharpness {sharpness:g}, min_sharpness is {options.min_sharpness:g}")
    if one_colour > options.max_one_colour:
        raise Refused("filtered:one-colour", f"{one_colour:g} of it, max_one_colour is {options.max_one_colour:g}")
    if not options.describe:
        return {}
    width, height = picture.size
    return {
        "phash": int(np.uint64(phash(grey)).view(np.int64)), "entropy": entropy, "sharpness": sharpness,
        "one_colour": one_colour, "source_width": width, "source_height": height, "source_format": picture.format,
        "frames": picture.frames, "orientation": picture.orientation,
    }


def shrink(pixels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 shrunk to (width, height) by averaging areas.

    By less than two, an area is averaged over four points of the surface that is linear between pixels, which takes a
    third of the time: of real photos 1 % of the values then differ from those of whole areas by more than 3.
    """
    if size == pixels.shape[1::-1]:
        return pixels
    width, height = size
    smaller: np.ndarray
    if pixels.shape[1] < 2 * width and pixels.shape[0] < 2 * height:
        twice = cv2.resize(pixels, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
        smaller = cv2.resize(twice, size, interpolation=cv2.INTER_AREA)
    elif pixels.size > MANY_VALUES:
        smaller = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    else:
        # OpenCV computes in float32 either way; that it need not convert value by value saves a fifth of the time.
        averaged = cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        smaller = cv2.convertScaleAbs(averaged)
    return smaller


def encode(pixels: np.ndarray, is_jpeg: bool, quality: int, chroma: str = "444") -> bytes:
    """(H, W) or (H, W, 3) uint8 as JPEG of a quality, with chroma subsampling `444` (none) or `420`, or as PNG."""
    # Built from the array, so that no metadata of the original travels along.
    if not is_jpeg:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()
    rgb = pixels.ndim == 3
    return bytes(simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels if rgb else pixels[..., None]), quality, "RGB" if rgb else "GRAY",
        chroma if rgb else "Gray", fastdct=False,
    ))
