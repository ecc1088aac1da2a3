"""Stored payload -> pixels: the same function for training, embedding, verification and preparation."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np

from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec

_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if hasattr(cv2, "IMREAD_COLOR_RGB") else None


def decode(payload: bytes | np.ndarray, field: FieldSpec) -> np.ndarray:
    """Decode what a store holds of one field.

    Args:
        payload: An encoded image (`bytes` fields) or a (C, *shape) array (`array` fields).
        field: How it was stored. A `bytes` field has one channel (decoded as grey) or three (red, green, blue).

    Returns:
        (H, W, C) uint8 for encoded images, (*shape, C) in the stored dtype for arrays; C-contiguous. EXIF orientation
        is not applied: preparation did.

    Raises:
        StoreError: When the bytes are no image, or the payload has another kind or shape than its field.
    """
    if isinstance(payload, np.ndarray):
        return _from_array(payload, field)
    channels = len(field.channels)
    if field.kind != "bytes" or channels not in (1, 3):
        raise StoreError(f"an encoded image cannot fill a field of kind {field.kind!r} with {channels} channels.")
    pixels = _imdecode(payload, grey=channels == 1)
    if pixels is None:
        raise StoreError(f"a stored payload of {len(payload)} bytes is no image; run `sciencessl store verify`.")
    return pixels


def _imdecode(payload: bytes, grey: bool) -> np.ndarray | None:
    if not payload:
        return None
    raw = np.frombuffer(payload, dtype=np.uint8)
    try:
        if grey:
            pixels = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
            return None if pixels is None else cast(np.ndarray, pixels[..., None])
        if _COLOUR is not None:
            return cast("np.ndarray | None", cv2.imdecode(raw, _COLOUR))
        pixels = cv2.imdecode(raw, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return None if pixels is None else cast(np.ndarray, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    except cv2.error:
        return None


def _from_array(payload: np.ndarray, field: FieldSpec) -> np.ndarray:
    expected = (len(field.channels), *field.shape)
    if field.kind != "array" or payload.shape != expected:
        raise StoreError(
            f"an array of shape {payload.shape} cannot fill a field of kind {field.kind!r} and shape {expected}."
        )
    return np.ascontiguousarray(np.moveaxis(payload, 0, -1))
