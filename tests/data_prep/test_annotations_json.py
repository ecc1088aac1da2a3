"""GeoJSON and Darwin JSON, in the forms that programs write."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.regions import Region, rasterise
from sciencessl.errors import DataError

RING = [[0, 0], [10, 0], [10, 8], [0, 8], [0, 0]]
HOLE = [[2, 2], [2, 4], [4, 4], [4, 2], [2, 2]]


def feature(kind: str = "Polygon", coordinates: Any = (RING,), **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def read(tmp_path: Path, content: Any, **options: Any) -> list[Region]:
    path = tmp_path / "slide.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotations(path, **options)


@pytest.mark.parametrize("wrap", [
    lambda f: {"type": "FeatureCollection", "features": [f]}, lambda f: [f], lambda f: f, lambda f: f["geometry"],
])
def test_collections_lists_features_and_geometries_are_read(tmp_path: Path, wrap: Any) -> None:
    (region,) = read(tmp_path, wrap(feature(coordinates=[RING, HOLE], classification={"name": "Tumor"})))
    assert region.kind == "area"
    assert [len(ring) for ring in region.rings] == [4, 4]
    assert rasterise([region], (10, 10), (1, 1)).sum() == 80 - 4


@pytest.mark.parametrize(("properties", "name"), [
    ({"classification": {"name": "Tumor", "color": [1, 2, 3]}}, "Tumor"),
    ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
    ({"classification": "Stroma"}, "Stroma"),
    ({"classification": None, "name": "UT"}, "UT"),
    ({"classification": {"name": "Tumor"}, "name": "the big one"}, "Tumor"),
    ({"objectType": "annotation"}, ""),
])
def test_the_class_is_the_classification_or_else_the_name(
    tmp_path: Path, properties: dict[str, Any], name: str
) -> None:
    assert read(tmp_path, [feature(**properties)])[0].class_name == name


def test_properties_may_be_null(tmp_path: Path) -> None:
    assert read(tmp_path, [feature() | {"properties": None}])[0].class_name == ""


def test_several_shapes_of_a_feature_are_several_regions(tmp_path: Path) -> None:
    moved = [[x + 20, y] for x, y in RING]
    found = read(tmp_path, [
        feature("MultiPolygon", [[RING, HOLE], [moved]]), feature("Point", [3, 4]),
        feature("MultiPoint", [[1, 2], [3, 4]]),
        {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": [
            {"type": "Polygon", "coordinates": [RING]}, {"type": "Point", "coordinates": [5, 6]}]}},
    ])
    assert [region.kind for region in found] == ["area", "area", "point", "point", "point", "area", "point"]
    assert found[4].rings[0].tolist() == [[3, 4]]


def test_lines_empty_shapes_and_missing_geometries_are_counted(tmp_path: Path) -> None:
    skipped: Counter[str] = Counter()
    found = read(tmp_path, [feature("LineString", [[0, 0], [1, 1]]), feature() | {"geometry": None},
                            feature("Polygon", []), feature("MultiPolygon", [])], skipped=skipped)
    assert not found
    assert skipped == {"lines": 1, "features without a geometry": 1, "areas of fewer than three corners": 1}


def test_cells_give_their_nucleus_when_asked(tmp_path: Path) -> None:
    cell = feature(classification="Tumor") | {"nucleusGeometry": {"type": "Polygon", "coordinates": [HOLE]}}
    assert read(tmp_path, [cell, feature()], nuclei=True)[0].box == (2, 2, 4, 4)
    assert read(tmp_path, [cell])[0].box == (0, 0, 10, 8)


def test_a_property_says_who_drew_it(tmp_path: Path) -> None:
    assert read(tmp_path, [feature(rater="ann")])[0].rater == "ann"


@pytest.mark.parametrize(("content", "words"), [
    ('{"type": "FeatureCollection", "features": [', "are no JSON .*the file may be cut"),
    ({"type": "Topology"}, "neither GeoJSON .* nor Darwin JSON"),
    ([feature(), 5], "feature 1 is '5', expected an object"),
    ([feature("Circle", [1, 2])], "feature 0 has a geometry of type 'Circle', expected Polygon"),
    ([feature("Polygon", None)], "feature 0 has the coordinates 'None', expected a list"),
    ([feature("Polygon", [5])], "feature 0 is a Polygon of '.5.', expected a list of rings"),
    ([feature("Polygon", [[["a", "b"]] * 3])], "feature 0 has the corners .*, expected pairs of finite numbers"),
    ('[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [NaN, 1]}}]', "feature 0 has the corners"),
    ([feature() | {"properties": "x"}], "feature 0 has the properties 'x', expected an object"),
    ("[" * 100_000, "are no JSON"),
])
def test_what_is_no_geojson_is_an_error_with_its_place(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path, content)


def darwin(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {"version": "2.0", "item": {"name": "S.tif"}, "annotations": list(annotations)}


def path(ring: list[list[float]]) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in ring[:-1]]


def test_darwin_polygons_boxes_ellipses_and_points_are_read(tmp_path: Path) -> None:
    skipped: Counter[str] = Counter()
    found = read(tmp_path, darwin(
        {"name": "tumor", "polygon": {"paths": [path(HOLE), path(RING)]}, "bounding_box": {}},
        {"name": "old", "polygon": {"path": path(RING)}},
        {"name": "old", "complex_polygon": {"path": path(RING), "additional_paths": [path(HOLE)]}},
        {"name": "box", "bounding_box": {"x": 1, "y": 2, "w": 3, "h": 4}},
        {"name": "cell", "keypoint": {"x": 7.5, "y": 8.5}},
        {"name": "round", "ellipse": {"center": {"x": 50, "y": 60}, "radius": {"x": 20, "y": 10}, "angle": 1.5707963}},
        {"name": "way", "line": {"path": path(RING)}}, {"name": "slide-wide tag", "tag": {}},
    ), skipped=skipped)
    assert [(region.class_name, region.kind, len(region.rings)) for region in found] == [
        ("tumor", "area", 2), ("old", "area", 1), ("old", "area", 2), ("box", "area", 1), ("cell", "point", 1),
        ("round", "area", 1)]
    assert found[0].box == (0, 0, 10, 8)
    assert found[3].box == (1, 2, 4, 6)
    assert found[5].box == pytest.approx((40, 40, 60, 80), abs=0.1)
    assert skipped == {"lines": 1, "annotations without a shape": 1}


@pytest.mark.parametrize("annotation", [{"polygon": {"paths": [[{"x": 1}]]}}, {"polygon": {"paths": None}},
                                        {"keypoint": 5}, {"bounding_box": {"x": 1}}])
def test_damaged_darwin_annotations_are_an_error_with_their_number(tmp_path: Path, annotation: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="annotation 1 is damaged"):
        read(tmp_path, darwin({"keypoint": {"x": 1, "y": 1}}, annotation))
