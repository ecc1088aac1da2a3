"""Stored payload -> pixels: the same function for training, embedding, verification and preparation."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, cast

import cv2
import numpy as np

from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec

_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if hasattr(cv2, "IMREAD_COLOR_RGB") else None
_REDUCED = {
    1: 0, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8
}
"""Flags that go with those of grey and of colour alike."""

WORTH_PIXELS = 2**19
"""JPEGs of fewer pixels are always decoded in full: there is little to win, and stamps and tiles stay as stored."""

_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode(payload: bytes | np.ndarray, field: FieldSpec, least_px: float = math.inf) -> np.ndarray:
    """Decode what a store holds of one field.

    Args:
        payload: An encoded image (`bytes` fields) or a (C, *shape) array (`array` fields).
        field: How it was stored. A `bytes` field has one channel (decoded as grey) or three (red, green, blue).
        least_px: Shorter side in pixels that does for what the image is wanted for; see `reduction`.

    Returns:
        (H, W, C) uint8 for encoded images, (*shape, C) in the stored dtype for arrays; C-contiguous. Sides of a
        reduced JPEG are rounded up. EXIF orientation is not applied: preparation did.

    Raises:
        StoreError: When the bytes are no image, or the payload has another kind or shape than its field.
    """
    if isinstance(payload, np.ndarray):
        return _from_array(payload, field)
    channels = len(field.channels)
    if field.kind != "bytes" or channels not in (1, 3):
        raise StoreError(f"an encoded image cannot fill a field of kind {field.kind!r} with {channels} channels.")
    pixels = _imdecode(payload, channels == 1, reduction(payload, least_px))
    if pixels is None:
        raise StoreError(f"a stored payload of {len(payload)} bytes is no image; run `sciencessl store verify`.")
    return pixels


def reduction(payload: bytes, least_px: float) -> int:
    """1, 2, 4 or 8: the most that an encoded image may be divided by and keep a shorter side of `least_px` or more.

    Only JPEGs of `WORTH_PIXELS` or more are: libjpeg computes fewer coefficients of each 8 x 8 block, which is faster
    and averages areas. Other formats would be decoded in full and shrunk. A function of size and `least_px` alone, so
    that a sample is the same whenever it is drawn.
    """
    size = jpeg_size(payload) if math.isfinite(least_px) else None
    if size is None or size[0] * size[1] < WORTH_PIXELS:
        return 1
    return next((factor for factor in (8, 4, 2) if min(size) / factor >= least_px), 1)


def jpeg_size(payload: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG's header gives, without decoding it; None for other bytes."""
    at = 2
    while payload[:2] == b"\xff\xd8" and payload[at : at + 1] == b"\xff" and at + 9 <= len(payload):
        if payload[at + 1] in _FRAME_HEADERS:
            return int.from_bytes(payload[at + 5 : at + 7]), int.from_bytes(payload[at + 7 : at + 9])
        # Any number of fill bytes may stand before a marker.
        at += 1 if payload[at + 1] == 0xFF else 2 + int.from_bytes(payload[at + 2 : at + 4])
    return None


def takes_least_px(function: Callable[..., Any]) -> bool:
    """Whether a domain's `decode` can be told the least size that does; those written before could not."""
    try:
        return "least_px" in inspect.signature(function).parameters
    except ValueError:  # compiled, and silent about its arguments
        return False


def _imdecode(payload: bytes, grey: bool, factor: int) -> np.ndarray | None:
    if not payload:
        return None
    raw = np.frombuffer(payload, dtype=np.uint8)
    try:
        if grey:
            pixels = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[factor])
            return None if pixels is None else cast(np.ndarray, pixels[..., None])
        if _COLOUR is not None:
            return cast("np.ndarray | None", cv2.imdecode(raw, _COLOUR | _REDUCED[factor]))
        pixels = cv2.imdecode(raw, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[factor])
        return None if pixels is None else cast(np.ndarray, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    except cv2.error:
        return None


def _from_array(payload: np.ndarray, field: FieldSpec) -> np.ndarray:
    expected = (len(field.channels), *field.shape)
    if field.kind != "array" or payload.shape != expected:
        raise StoreError(
            f"an array of shape {payload.shape} cannot fill a field of kind {field.kind!r} and shape {expected}."
        )
    # A copy even of one channel: the loader keeps what it reads, and views may work in place.
    return np.array(np.moveaxis(payload, 0, -1), order="C")
