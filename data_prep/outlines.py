"""The outlines of a mask, exactly along the edges of its pixels, and GeoJSON that QuPath opens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sciencessl.data_prep.regions import Region
from sciencessl.errors import DataError
from sciencessl.store.files import write_atomic

Bool = npt.NDArray[np.bool_]

DECIMALS = 3
"""Digits after the point of written coordinates, in level-0 pixels."""


def outlines(mask: np.ndarray, scale: tuple[float, float], class_name: str) -> list[Region]:
    """The pieces of a mask as areas with holes, which cover exactly the mask's pixels.

    Pixels hang together by their sides, so that no ring touches itself and every area is valid by the rules of GeoJSON
    and QuPath. The outer ring comes first; corners are those of pixels, none lies on a straight stretch.

    Args:
        mask: (h, w) bool.
        scale: (x, y) level-0 pixels to one pixel of the mask.
        class_name: Of every area.

    Returns:
        One area for each piece, by the first pixel of each, row by row.

    Raises:
        DataError: For what is no such mask.

    Source: ours. Contours through the centres of pixels, as image libraries give them, would lose half a pixel all
    around and widen holes by as much.
    """
    if mask.ndim != 2 or mask.dtype != bool:
        raise DataError(f"outlines need a (h, w) mask of bool; got {mask.dtype} of shape {mask.shape}.")
    _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4) if mask.size else (1, mask)
    rings: dict[int, list[np.ndarray]] = {}
    for start, walk in _walks(mask):
        piece = rings.setdefault(int(labels[start]), [])
        for ring in _simple(walk):
            # The outer ring goes clockwise on the screen, as does every walk with the mask on its right hand.
            piece.insert(0 if _signed_area(ring) > 0 else len(piece), ring * scale)
    return [Region(tuple(piece), class_name) for piece in rings.values()]


def write_geojson(path: str | Path, regions: Iterable[Region]) -> None:
    """Write regions as annotations that QuPath 0.5 opens and `read_annotations` gives back, whole or not at all.

    Each is a feature of its own: an area a Polygon with its holes, a point a Point; the class, with a colour that
    depends on its name only, is its `classification`, the rater, if any, its `rater`. Coordinates are level-0 pixels,
    rounded to a thousandth.

    Raises:
        OSError: As the file system says.
    """
    features = [_feature(region) for region in regions]
    text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"), ensure_ascii=False)
    write_atomic(Path(path), text.encode())


def colour_of(class_name: str) -> tuple[int, int, int]:
    """RGB of a class in viewers: always the same for one name, never pale."""
    hue, light = blake2b(class_name.encode(), digest_size=2).digest()
    pixel = np.array([[[hue * 180 // 256, 200, 150 + light // 4]]], np.uint8)
    red, green, blue = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _walks(mask: np.ndarray) -> Iterator[tuple[tuple[int, int], list[tuple[int, int]]]]:
    """Closed walks along the edges of pixels, the mask on the right hand: the pixel (row, column) below the first edge,
    and (x, y) of the turning points.

    Where two pixels of the mask meet only at a corner, a walk turns right and so stays with its own pixel.
    """
    leaving = _leaving(mask)
    here = np.flatnonzero(leaving)  # an edge is a heading and the corner that it leaves; those to the east come first
    corners, width = leaving[0].size, leaving.shape[2]
    way, corner = np.divmod(here, corners)
    there = corner + np.array([1, width, -1, -width])[way]
    right, ahead, left = ((way + turn) % 4 * corners + there for turn in (1, 0, 3))
    taken = leaving.ravel()
    follows = np.searchsorted(here, np.where(taken[right], right, np.where(taken[ahead], ahead, left)))
    turns = np.zeros(len(here), bool)
    turns[follows] = way[follows] != way
    places = np.stack(np.divmod(corner, width)[::-1], axis=1).tolist()
    yield from _followed(follows.tolist(), turns.tolist(), places)


def _leaving(mask: np.ndarray) -> Bool:
    """(4, h + 1, w + 1): whether an edge leaves a corner to the east, south, west, north, the mask on its right."""
    height, width = mask.shape
    around = np.pad(mask, 1)
    leaving = np.zeros((4, height + 1, width + 1), bool)
    leaving[0, :-1, :-1] = mask & ~around[:-2, 1:-1]
    leaving[1, :-1, 1:] = mask & ~around[1:-1, 2:]
    leaving[2, 1:, 1:] = mask & ~around[2:, 1:-1]
    leaving[3, 1:, :-1] = mask & ~around[1:-1, :-2]
    return leaving


def _followed(
    follows: list[int], turns: list[bool], places: list[list[int]]
) -> Iterator[tuple[tuple[int, int], list[tuple[int, int]]]]:
    seen = [False] * len(follows)
    for start in range(len(follows)):
        walk: list[tuple[int, int]] = []
        edge = start
        while not seen[edge]:
            seen[edge] = True
            if turns[edge]:
                x, y = places[edge]
                walk.append((x, y))
            edge = follows[edge]
        if walk:
            yield (places[start][1], places[start][0]), walk


def _simple(walk: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """(k, 2) rings without a corner twice, of a walk that may come through a corner again."""
    path: list[tuple[int, int]] = []
    at: dict[tuple[int, int], int] = {}
    for place in walk:
        if place in at:
            loop = path[at[place] :]
            del path[at[place] :]
            yield np.array(loop, np.float64)
            for gone in loop:
                del at[gone]
        at[place] = len(path)
        path.append(place)
    yield np.array(path, np.float64)


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def _feature(region: Region) -> dict[str, Any]:
    rings = [np.round(ring, DECIMALS) for ring in region.rings]
    if region.kind == "point":
        geometry = {"type": "Point", "coordinates": _plain(rings[0])[0]}
    else:
        geometry = {"type": "Polygon", "coordinates": [_plain(np.vstack([ring, ring[:1]])) for ring in rings]}
    properties: dict[str, Any] = {"objectType": "annotation"}
    if region.class_name:
        properties["classification"] = {"name": region.class_name, "color": colour_of(region.class_name)}
    if region.rater:
        properties["rater"] = region.rater
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _plain(corners: np.ndarray) -> list[list[float]]:
    """Whole numbers without a point, which is half the file."""
    return [[int(value) if value.is_integer() else value for value in corner] for corner in corners.tolist()]
