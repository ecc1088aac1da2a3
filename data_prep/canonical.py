"""What the one form of images is, and which images are refused by their header."""

from __future__ import annotations

from dataclasses import dataclass

from sciencessl.data_prep.refused import Refused

MAX_PIXELS = 100_000_000
"""Budget of one image: a header that promises more is refused before a pixel is decoded."""
MAX_SIDE = 65_500
"""Longest side, in pixels: what libjpeg reads and writes."""
Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Canonical:
    """How images are canonicalised, and which are refused.

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
        srgb: Bring colours of an embedded profile to sRGB. One that is sRGB, or broken, changes nothing.
        describe: Give the columns `DESCRIPTION`.
        min_entropy: Images with less entropy are refused, see `picture_quality`. This and what follows is of pixels as
            they are stored, before they are encoded.
        min_sharpness: Images with less sharpness are refused.
        max_one_colour: Images with a larger share of one colour are refused.
    """

    resize_px: int | None = None
    jpeg_quality: int = 95
    min_px: int = 8
    max_pixels: int = MAX_PIXELS
    max_aspect: float = 0.0
    chroma: str = "444"
    strip: bool = False
    srgb: bool = False
    describe: bool = False
    min_entropy: float = 0.0
    min_sharpness: float = 0.0
    max_one_colour: float = 1.0


def check_size(size: Size, options: Canonical) -> None:
    """Refuse an image by the size that its header gives.

    Raises:
        Refused: too-large, too-small or too-long.
    """
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


def smaller_size(size: Size, options: Canonical) -> Size | None:
    """The size after shrinking; None for an image that is small enough."""
    if options.resize_px is None or min(size) <= options.resize_px:
        return None
    scale = options.resize_px / min(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def divisor(size: Size, options: Canonical) -> int:
    """1, 2, 4 or 8: by how much a JPEG's sides may be divided while it is decoded and stay at least `resize_px`."""
    if options.resize_px is None:
        return 1
    return next((number for number in (8, 4, 2) if min(size) >= number * options.resize_px), 1)
