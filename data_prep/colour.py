"""Pixels of any mode as 8-bit grey or RGB, and colour profiles as sRGB."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from sciencessl.data_prep.refused import Refused

SAME_COLOUR = 2
"""A profile that moves no colour by more than so many of 255 levels is sRGB."""
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_CUBE = np.stack(np.meshgrid(*[np.linspace(0, 255, 9).astype(np.uint8)] * 3, indexing="ij"), axis=-1).reshape(27, 27, 3)
"""(27, 27, 3) colours on a grid."""


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Mode `L` or `RGB`: palettes become RGB, alpha is laid over white, 16 bits lose their low byte.

    CMYK goes through its colour profile, or is taken for 255 minus RGB with black on top; CIE LAB becomes sRGB. A TIFF
    of 12 bits loses its low 4. Pillow has rounded 16-bit PPM in colour to 8 bits already.

    Raises:
        Refused: With reason unsupported for floating-point pixels, and for integers that 16 bits do not hold.
    """
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        raise Refused("unsupported", "floating-point pixels have no fixed range; store them as FITS stamps")
    if image.mode in ("CMYK", "LAB"):
        return _from_print(image)
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return image.convert("L")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise Refused("unsupported", "integer pixels outside 0 to 65535; store them as FITS stamps")
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0] if image.mode.startswith("I;16") else 16
    eight = (values >> max(bits - 8, 0)).astype(np.uint8)
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:
        eight = 255 - eight  # zero is white
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        eight[values == clear] = 255
    return Image.fromarray(eight)


def _from_print(image: Image.Image) -> Image.Image:
    lab = image.mode == "LAB"
    transform = _transform(b"" if lab else image.info.get("icc_profile") or b"", image.mode)
    if transform is None:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted


def in_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray | None:
    """Pixels of a colour profile in sRGB.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.
        profile: An ICC profile; empty where there is none.

    Returns:
        The same shape; None where the profile is sRGB, absent, broken, or not of such pixels: they stay as they are.
    """
    if not profile or not _changes(profile, pixels.ndim):
        return None
    return _applied(pixels, profile)


def _applied(pixels: np.ndarray, profile: bytes) -> np.ndarray | None:
    transform = _transform(profile, "RGB" if pixels.ndim == 3 else "L")
    if transform is None:
        return None
    image = ImageCms.applyTransform(Image.fromarray(pixels), transform)
    converted = np.asarray(image)
    return converted if pixels.ndim == 3 else np.ascontiguousarray(converted[..., 1])


@lru_cache(maxsize=64)
def _changes(profile: bytes, dimensions: int) -> bool:
    sample = _CUBE if dimensions == 3 else _CUBE[..., 0]
    there = _applied(sample, profile)
    return there is not None and int(np.abs(there.astype(int) - sample).max()) > SAME_COLOUR


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile, or from LAB where it is empty and the mode that, to sRGB; None where that cannot be."""
    if not profile and mode != "LAB":
        return None
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
