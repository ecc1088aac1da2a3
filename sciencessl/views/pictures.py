"""Pictures of a page: written as PNG beside it, and carried inside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sciencessl.store.files import write_atomic
from sciencessl.views.sheet import tile

QUALITY = 88
"""Of JPEG tiles inside the page; what lies beside it is PNG."""


@dataclass(frozen=True)
class Picture:
    """One picture of the page.

    Attributes:
        uri: `data:` URI of the image.
        alt: What it shows, for readers who do not see it.
        width: Width in CSS pixels.
        height: Height in CSS pixels.
        file: Name of the PNG beside the page; empty for a small tile.
    """

    uri: str
    alt: str
    width: int
    height: int
    file: str = ""


def pixel_picture(pixels: np.ndarray, folder: Path, file: str, alt: str) -> Picture:
    """(H, W, 3) uint8, written to `folder/file` as PNG and embedded as JPEG."""
    save_pixels(pixels, folder / file)
    return Picture(data_uri(_encoded(pixels, ".jpg"), "jpeg"), alt, pixels.shape[1], pixels.shape[0], file)


def tile_picture(images: Sequence[np.ndarray], px: int, alt: str) -> Picture:
    """Images side by side, each in a square of `px` CSS pixels; carried at twice that where they are large enough."""
    sharp = 2 * px if max(images[0].shape[:2]) > px else px
    gap = np.full((sharp, sharp // 16, 3), 255, np.uint8)
    parts = [part for image in images for part in (gap, tile(image, sharp))][1:]
    strip = np.concatenate(parts, axis=1)
    shown = strip.shape[1] * px // sharp
    return Picture(data_uri(_encoded(strip, ".jpg"), "jpeg"), alt, shown, px)


def save_pixels(pixels: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 as PNG."""
    write_atomic(path, _encoded(pixels, ".png"))


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if kind == ".jpg" else []
    raw: bytes = cv2.imencode(kind, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return raw


def data_uri(raw: bytes, kind: str) -> str:
    """An encoded image as a `data:` URI; the kind is `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode('ascii')}"
