"""GeoJSON as QuPath writes it, and V7 Darwin JSON. Source: RFC 7946, and the files of the two programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sciencessl.data_prep.drawn import Drawn, ellipse, nested

KINDS = ("Polygon", "MultiPolygon", "Point", "MultiPoint", "GeometryCollection")


def read_geojson(found: Any, drawn: Drawn, nuclei: bool = False) -> None:
    """Take the areas and points of a Feature, a FeatureCollection, a bare geometry, or a list of features.

    The class is `classification`, as an object with a `name` or as text, or else `name`; the rater is `rater`. Lines
    and features without a geometry are counted.

    Args:
        found: Parsed JSON.
        drawn: Where they go.
        nuclei: Take `nucleusGeometry` where a feature has one.

    Raises:
        DataError: For what is no GeoJSON, with the number of the feature, from 0.
    """
    for number, feature in enumerate(_features(found, drawn)):
        where = f"feature {number}"
        if not isinstance(feature, dict):
            raise drawn.error(where, f"is {str(feature)[:40]!r}, expected an object")
        geometry = (feature.get("nucleusGeometry") if nuclei else None) or feature.get("geometry")
        properties = feature.get("properties") or {}
        if not isinstance(properties, dict):
            raise drawn.error(where, f"has the properties {str(properties)[:40]!r}, expected an object")
        _take(geometry, drawn, _class_name(properties), where, str(properties.get("rater") or ""))


def _features(found: Any, drawn: Drawn) -> list[Any]:
    if isinstance(found, list):
        return found
    kind = found.get("type") if isinstance(found, dict) else None
    if kind == "FeatureCollection" and isinstance(found.get("features"), list):
        features: list[Any] = found["features"]
        return features
    if kind == "Feature":
        return [found]
    if kind in KINDS:
        return [{"geometry": found}]
    raise drawn.error("the JSON", "is neither GeoJSON (a FeatureCollection with `features`, a Feature or a list of "
                      "them) nor Darwin JSON (with `annotations`)")


def _class_name(properties: Mapping[str, Any]) -> str:
    said = properties.get("classification")
    if isinstance(said, dict):
        # QuPath once wrote derived classes as a list of names, and writes "Tumor: Positive" now.
        said = said.get("name") or ": ".join(map(str, said.get("names") or []))
    return str(said or properties.get("name") or "")


def _take(geometry: Any, drawn: Drawn, class_name: str, where: str, rater: str) -> None:
    if geometry is None:
        drawn.skipped["features without a geometry"] += 1
        return
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind in ("LineString", "MultiLineString"):
        drawn.skipped["lines"] += 1
        return
    if kind == "GeometryCollection":
        for part in _list(geometry, "geometries", drawn, where):
            _take(part, drawn, class_name, where, rater)
        return
    if kind not in KINDS:
        raise drawn.error(where, f"has a geometry of type {kind!r}, expected {', '.join(KINDS)} or a line")
    places = _list(geometry, "coordinates", drawn, where)
    for part in places if kind.startswith("Multi") else [places]:
        if kind.endswith("Point"):
            drawn.point(part, class_name, where, rater)
        elif isinstance(part, list) and all(isinstance(ring, list) for ring in part):
            drawn.area(part or [[]], class_name, where, rater)
        else:
            raise drawn.error(where, f"is a {kind} of {str(part)[:40]!r}, expected a list of rings")


def _list(geometry: Mapping[str, Any], key: str, drawn: Drawn, where: str) -> list[Any]:
    values = geometry.get(key)
    if not isinstance(values, list):
        raise drawn.error(where, f"has the {key} {str(values)[:40]!r}, expected a list")
    return values


def read_darwin(found: Mapping[str, Any], drawn: Drawn) -> None:
    """Take the polygons, boxes, ellipses and key points of Darwin JSON, version 1 or 2; the class is `name`.

    Of several paths of one polygon those inside another are its holes.

    Raises:
        DataError: For what is damaged, with the number of the annotation, from 0.
    """
    for number, annotation in enumerate(found["annotations"]):
        where = f"annotation {number}"
        if not isinstance(annotation, dict):
            raise drawn.error(where, f"is {str(annotation)[:40]!r}, expected an object")
        try:
            _take_darwin(annotation, str(annotation.get("name") or ""), drawn, where)
        except (KeyError, TypeError, AttributeError) as error:
            raise drawn.error(where, f"is damaged: {type(error).__name__} {error}") from None


def _take_darwin(annotation: Mapping[str, Any], name: str, drawn: Drawn, where: str) -> None:
    if "polygon" in annotation or "complex_polygon" in annotation:
        paths = (_pairs(path) for path in _paths(annotation))
        for rings in nested([drawn.corners(path, where) for path in paths]):
            drawn.area(rings, name, where)
    elif "ellipse" in annotation:
        drawn.area([_darwin_ellipse(annotation["ellipse"], drawn, where)], name, where)
    elif "keypoint" in annotation:
        drawn.point(_pair(annotation["keypoint"]), name, where)
    elif "bounding_box" in annotation:
        box = annotation["bounding_box"]
        x, y, width, height = box["x"], box["y"], box["w"], box["h"]
        drawn.area([[(x, y), (x + width, y), (x + width, y + height), (x, y + height)]], name, where)
    else:
        drawn.skipped["lines" if "line" in annotation else "annotations without a shape"] += 1


def _paths(annotation: Mapping[str, Any]) -> Iterator[Any]:
    found = annotation.get("polygon") or annotation["complex_polygon"]
    if "paths" in found:
        yield from found["paths"]
    else:
        yield found["path"]
        yield from found.get("additional_paths") or []


def _pairs(path: Any) -> list[tuple[Any, Any]]:
    return [_pair(place) for place in path]


def _pair(place: Any) -> tuple[Any, Any]:
    return place["x"], place["y"]


def _darwin_ellipse(said: Any, drawn: Drawn, where: str) -> Any:
    centre, radius = drawn.corners([_pair(said["center"]), _pair(said["radius"])], where)
    angle = float(said.get("angle") or 0.0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return ellipse(np.stack([-radius, radius])) @ turn + centre
