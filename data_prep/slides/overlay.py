"""A slide's thumbnail with its tissue outline and the tiles that were taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.regions import Region
from sciencessl.data_prep.slides.scan import SlideScan, mask_file, thumbnail_file
from sciencessl.data_prep.slides.thumbnail import thumbnail_scale
from sciencessl.errors import DataError

TISSUE_RGB = (220, 140, 0)
TILE_RGB: Mapping[str, tuple[int, int, int]] = {"encoded": (0, 110, 200), "native bytes": (0, 140, 80)}
"""How a tile is stored -> colour of its frame."""
MOST_PX = 1024
"""Longer side of an overlay."""


def overlay(folder: Path, scan: SlideScan, boxes0: np.ndarray, kinds: Sequence[str]) -> np.ndarray | None:
    """Draw tissue and tiles on a thumbnail.

    Args:
        folder: Of the slides of a store.
        scan: Of the slide.
        boxes0: (n, 4) x, y, width, height of its stored tiles, level-0 pixels.
        kinds: n keys of `TILE_RGB`.

    Returns:
        (h, w, 3) uint8 of at most `MOST_PX`; None where the slide has no thumbnail.
    """
    path = thumbnail_file(folder, scan.slide)
    raw = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if raw is None or scan.info is None:
        return None
    picture = cv2.cvtColor(raw, cv2.COLOR_BGR2RGB)
    scale = np.array(thumbnail_scale(scan.info))
    ratio = min(1.0, MOST_PX / max(picture.shape[:2]))
    if ratio < 1:
        size = (max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    scale = scale / ratio
    for region in _tissue(folder, scan.slide):
        for ring in region.rings:
            cv2.polylines(picture, [np.rint(ring / scale).astype(np.int32)], True, TISSUE_RGB, 2, cv2.LINE_AA)
    for (x, y, width, height), kind in zip(boxes0, kinds, strict=True):
        first = (round(float(x / scale[0])), round(float(y / scale[1])))
        last = (round(float((x + width) / scale[0])) - 1, round(float((y + height) / scale[1])) - 1)
        cv2.rectangle(picture, first, last, TILE_RGB[kind], 1)
    drawn: np.ndarray = np.asarray(picture)
    return drawn


def _tissue(folder: Path, slide: str) -> list[Region]:
    path = mask_file(folder, slide)
    try:
        return read_annotations(path) if path.is_file() else []
    except DataError:
        return []  # edited, and damaged meanwhile: the tiles are drawn all the same
