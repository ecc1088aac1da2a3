"""What becomes of photos on their way through the web: copies, near copies, and photos in unusual forms."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ORIENTATIONS = tuple(range(10))
"""EXIF orientations that are written: 1 to 8, and the nonsense 0 and 9, which mean nothing."""

_ORIENTATION = 0x0112
# What was done to a picture that this orientation sets right again: 6 and 8 are each other's.
_LAID = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_270}


def jpeg_bytes(image: Image.Image, quality: int, exif: Image.Exif | None = None) -> bytes:
    """The image as a JPEG file."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, exif=b"" if exif is None else exif)
    return out.getvalue()


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG with one more segment behind its first two bytes, where EXIF (marker 0xE1) and comments (0xFE) stand."""
    return jpeg[:2] + struct.pack(">BBH", 255, marker, len(data) + 2) + data + jpeg[2:]


def _opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    return image


def _told(rng: np.random.Generator) -> str:
    """What an editor writes into a file. Two copies of one kind are then two files, whatever their pixels."""
    return f"edited, number {rng.integers(2**48):012x}"


def _saved(image: Image.Image, rng: np.random.Generator, quality: int = 0) -> bytes:
    return with_segment(jpeg_bytes(image, quality or int(rng.integers(75, 93))), 0xFE, _told(rng).encode())


def _with_metadata(jpeg: bytes, rng: np.random.Generator) -> bytes:
    exif = Image.Exif()
    exif[0x0131] = _told(rng)
    return with_segment(jpeg, 0xE1, exif.tobytes())


def _as_png(jpeg: bytes, rng: np.random.Generator) -> bytes:
    out, text = io.BytesIO(), PngInfo()
    text.add_text("Comment", _told(rng))
    _opened(jpeg).save(out, "PNG", pnginfo=text)
    return out.getvalue()


def _resized(jpeg: bytes, rng: np.random.Generator) -> bytes:
    image = _opened(jpeg)
    scale = rng.uniform(0.5, 0.9)
    size = (round(image.width * scale), round(image.height * scale))
    return _saved(image.resize(size, Image.Resampling.LANCZOS), rng)


def _encoded_again(jpeg: bytes, rng: np.random.Generator) -> bytes:
    return _saved(_opened(jpeg), rng, int(rng.choice((25, 40, 60))))


def _grey(jpeg: bytes, rng: np.random.Generator) -> bytes:
    return _saved(_opened(jpeg).convert("L"), rng)


def _brighter(jpeg: bytes, rng: np.random.Generator) -> bytes:
    scale = rng.uniform(1.03, 1.1)
    return _saved(_opened(jpeg).point(lambda value: value * scale), rng)


COPIES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "exact": lambda jpeg, rng: jpeg,
    "near-resized": _resized,
    "near-encoded": _encoded_again,
    "pixels-png": _as_png,
    "near-grey": _grey,
    "pixels-metadata": _with_metadata,
    "near-brighter": _brighter,
}
"""Kind of copy -> what makes it from a JPEG file: the same bytes, the same pixels in another file (PNG, or a JPEG whose
metadata differ), or nearly the same picture: resized to 50 to 90 %, of quality 25, 40 or 60, grey, or 3 to 10 %
brighter."""


def rotated(image: Image.Image, orientation: int) -> bytes:
    """A JPEG whose pixels lie as a camera that was turned leaves them, with the EXIF orientation that says so."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return jpeg_bytes(image.transpose(_LAID[orientation]) if orientation in _LAID else image, 90, exif)


def _sixteen_bits(image: Image.Image) -> bytes:
    """8-bit values times 257, so that both bytes of a value are the same."""
    pixels = np.asarray(image.convert("RGB"))[..., ::-1].astype(np.uint16) * 257
    return bytes(cv2.imencode(".png", pixels)[1])


def _see_through(image: Image.Image) -> bytes:
    """A round cut-out: nothing is seen in its corners, whatever colour lies there."""
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    alpha = Image.fromarray(np.where(np.hypot(x, y) < 1, 255, 0).astype(np.uint8))
    return png_bytes(Image.merge("RGBA", (*image.convert("RGB").split(), alpha)))


def _palette(image: Image.Image) -> bytes:
    return png_bytes(image.convert("RGB").quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))


def _animation(image: Image.Image) -> bytes:
    frames = [frame.convert("RGB").quantize(32, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
              for frame in (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.new("RGB", image.size))]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0)
    return out.getvalue()


def _banner(image: Image.Image) -> bytes:
    return jpeg_bytes(image.resize((400, 20)), 90)


def _thumbnail(image: Image.Image) -> bytes:
    return jpeg_bytes(image.resize((24, 18), Image.Resampling.BOX), 90)


def _one_colour(image: Image.Image) -> bytes:
    return jpeg_bytes(Image.new("RGB", image.size, tuple(np.asarray(image.convert("RGB"))[0, 0].tolist())), 90)


def _blurred(image: Image.Image) -> bytes:
    return jpeg_bytes(Image.fromarray(cv2.GaussianBlur(np.asarray(image), (0, 0), min(image.size) / 8)), 90)


FORMS: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "cmyk": (lambda image: jpeg_bytes(image.convert("RGB").convert("CMYK"), 95), ""),
    "16-bit": (_sixteen_bits, ""),
    "palette": (_palette, ""),
    "alpha": (_see_through, ""),
    "animation": (_animation, ""),
    "banner": (_banner, "too-long"),
    "thumbnail": (_thumbnail, "too-small"),
    "one-colour": (_one_colour, "filtered:one-colour"),
    "blurred": (_blurred, "filtered:blur"),
}
"""Form -> (what makes a file of it from a photo, the reason for which a filter refuses it where one is asked for). An
animation shows the photo first; a banner is 20 times as wide as high, a thumbnail 24 x 18 px."""
