"""Annotations as XML: ASAP's, and Aperio ImageScope's, which HALO's resembles. Source: files of the three programs."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np

from sciencessl.data_prep.drawn import Drawn, ellipse, encloses

APERIO_AREAS = ("0", "1", "2", "Polygon", "Rectangle", "Ellipse")
"""Region types: ImageScope numbers freehand, rectangle and ellipse; HALO names them. Others are arrows and rulers."""

ASKED = 32
"""Corners of a hole, about, that are asked whether they lie in an area."""


def read_asap(root: Element, drawn: Drawn) -> None:
    """Take the polygons, rectangles, splines, dots and point sets of ASAP; the class is the group.

    The control points of a spline are joined by straight lines. Annotations outside every group have no class.

    Raises:
        DataError: For a corner without numbers, with the number of the annotation, from 0.
    """
    for number, found in enumerate(root.iter("Annotation")):
        where = f"annotation {number} ({found.get('Name', '')!r})"
        corners = _corners(found.iter("Coordinate"), drawn, where)
        group = found.get("PartOfGroup", "")
        name = "" if group == "None" else group
        kind = found.get("Type", "")
        if kind in ("Dot", "PointSet"):
            for corner in corners:
                drawn.point(corner, name, where)
        elif kind in ("Polygon", "Spline", "Rectangle"):
            drawn.area([_box(corners) if kind == "Rectangle" and len(corners) == 2 else corners], name, where)
        else:
            drawn.skipped[f"annotations of type {kind!r}"] += 1


def _corners(tags: object, drawn: Drawn, where: str) -> np.ndarray:
    """(k, 2), in the order that `Order` says."""
    found: list[Element] = list(tags)  # type: ignore[call-overload]
    try:
        found.sort(key=lambda tag: int(tag.get("Order") or 0))
        values = [(float(tag.get("X") or "no X"), float(tag.get("Y") or "no Y")) for tag in found]
    except ValueError as error:
        raise drawn.error(where, f"has a corner that is no pair of numbers: {error}") from None
    return drawn.corners(values, where)


def _box(corners: np.ndarray) -> np.ndarray:
    """(4, 2) ring of the upright rectangle around some corners."""
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def read_aperio(root: Element, drawn: Drawn) -> None:
    """Take the regions of ImageScope or HALO, layer after layer; the class is the layer's name.

    A layer without a name has that of its first attribute with a value, or its regions have their text. Negative
    regions are holes of those regions of their layer in which most of their corners lie.

    Raises:
        DataError: For a corner without numbers, with the numbers of layer and region, from 0.
    """
    for number, layer in enumerate(root.iter("Annotation")):
        named = layer.get("Name") or _attribute(layer)
        areas: list[tuple[list[np.ndarray], str, str]] = []
        holes: list[np.ndarray] = []
        for place, region in enumerate(layer.iter("Region")):
            where = f"layer {number}, region {place}"
            kind = region.get("Type", "0")
            if kind not in APERIO_AREAS:
                drawn.skipped[f"regions of type {kind!r}"] += 1
                continue
            ring = _shaped([*region.iter("Vertex"), *region.iter("V")], kind, drawn, where)
            if region.get("NegativeROA") == "1":
                holes.append(ring)
            else:
                areas.append(([ring], named or region.get("Text") or "", where))
        _cut(holes, [rings for rings, _, _ in areas], drawn)
        for rings, name, where in areas:
            drawn.area(rings, name, where)


def _shaped(tags: Sequence[Element], kind: str, drawn: Drawn, where: str) -> np.ndarray:
    corners = _corners(tags, drawn, where)
    if kind in ("2", "Ellipse") and len(corners):
        return ellipse(corners)
    return _box(corners) if kind in ("1", "Rectangle") and len(corners) == 2 else corners


def _attribute(layer: Element) -> str:
    values = (found.get("Value") or "" for found in layer.iterfind("Attributes/Attribute"))
    return next(filter(None, values), "")


def _cut(holes: Sequence[np.ndarray], areas: Sequence[list[np.ndarray]], drawn: Drawn) -> None:
    """Give each hole to every area that it is in."""
    for hole in holes:
        asked = hole[:: max(1, len(hole) // ASKED)]
        inside = [rings for rings in areas if 2 * sum(encloses(rings[0], corner) for corner in asked) > len(asked)]
        for rings in inside:
            rings.append(hole)
        if not inside:
            drawn.skipped["negative regions outside every region of their layer"] += 1
