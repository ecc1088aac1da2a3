"""Outlines cover their mask exactly; GeoJSON is read back as it was written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.outlines import colour_of, outlines, write_geojson
from sciencessl.data_prep.regions import Region, rasterise
from sciencessl.data_prep.tissue import box_means, find_tissue
from sciencessl.errors import DataError
from tests.data_prep.tissue_scenes import MPP, blob, box, density, overlap, picture

SCALE = (31.96, 32.04)
DIAGONAL = np.array([[1, 0], [0, 1]], bool)


def drawn(rows: str) -> np.ndarray:
    """A mask from `#` and `.`, rows divided by blanks."""
    return np.array([[letter == "#" for letter in row] for row in rows.split()])


def enclosed(ring: np.ndarray) -> float:
    """Area, positive where the ring goes clockwise on the screen."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def area(region: Region) -> float:
    return sum(enclosed(ring) for ring in region.rings)


def corners(region: Region) -> list[list[list[float]]]:
    return [ring.tolist() for ring in region.rings]


def test_one_pixel_has_the_four_corners_of_its_square() -> None:
    (region,) = outlines(drawn("... .#. ..."), (10.0, 20.0), "tissue")
    assert corners(region) == [[[10, 20], [20, 20], [20, 40], [10, 40]]]
    assert (region.class_name, region.kind, region.rater) == ("tissue", "area", "")


def test_a_hole_is_a_ring_of_its_own_and_what_lies_in_it_a_region() -> None:
    outer, inner = outlines(drawn("##### #...# #.#.# #...# #####"), (1.0, 1.0), "")
    assert [len(ring) for ring in outer.rings] == [4, 4]
    assert [enclosed(ring) for ring in outer.rings] == [25, -9]
    assert corners(inner) == [[[2, 2], [3, 2], [3, 3], [2, 3]]]


# Rings that come through one corner twice are invalid for GeoJSON viewers, which drop or split them.
@pytest.mark.parametrize(("rows", "rings"), [
    ("#. .#", [1, 1]), (".# #.", [1, 1]), ("### #.# ##.", [2]), ("##. #.# ###", [2]), ("#### #.## ##.# ####", [3]),
])
def test_pixels_that_meet_at_a_corner_make_no_ring_that_touches_itself(rows: str, rings: list[int]) -> None:
    mask = drawn(rows)
    regions = outlines(mask, (1.0, 1.0), "")
    assert [len(region.rings) for region in regions] == rings
    assert sum(area(region) for region in regions) == mask.sum()
    for ring in (ring for region in regions for ring in region.rings):
        assert len({tuple(place) for place in ring.tolist()}) == len(ring)


@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(1, 14), st.sampled_from([0.2, 0.5, 0.6, 0.8, 1.0]))
def test_outlines_cover_the_mask_exactly_whatever_it_is(seed: int, height: int, width: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    scale = (3.5, 2.0)
    regions = outlines(mask, scale, "")
    assert np.array_equal(rasterise(regions, mask.shape, scale), mask)
    assert sum(area(region) for region in regions) == mask.sum() * 7
    pieces, _ = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    assert len(regions) == pieces - 1
    for region in regions:
        assert [enclosed(ring) > 0 for ring in region.rings] == [True] + [False] * (len(region.rings) - 1)
        for ring in region.rings:
            assert len({tuple(place) for place in ring.tolist()}) == len(ring)
            sides = np.roll(ring, -1, axis=0) - ring
            assert ((sides == 0).sum(axis=1) == 1).all()  # along rows and columns
            assert ((sides[:, 0] == 0) != (np.roll(sides, -1, axis=0)[:, 0] == 0)).all()  # each corner turns


def test_regions_come_row_by_row() -> None:
    starts = [region.rings[0].min(axis=0).tolist() for region in outlines(drawn("..#.# #.... ..#.."), (1.0, 1.0), "")]
    assert starts == [[2, 0], [4, 0], [0, 1], [2, 2]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (4, 0), (1, 1), (50, 60)])
def test_empty_masks_have_no_outlines_and_an_empty_file(shape: tuple[int, int], tmp_path: Path) -> None:
    regions = outlines(np.zeros(shape, bool), SCALE, "tissue")
    assert regions == []
    write_geojson(tmp_path / "empty.geojson", regions)
    assert read_annotations(tmp_path / "empty.geojson") == []


def test_a_tissue_mask_survives_the_way_through_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    true = (blob(rng) & ~box(170, 120, 40, 50)) | box(20, 20, 60, 30) | box(330, 240, 30, 30)
    mask = find_tissue(picture(rng, density(rng, true)), MPP, SCALE).mask
    regions = outlines(mask, SCALE, "tissue")
    assert len(regions) == 3
    assert max(len(region.rings) for region in regions) == 2
    path = tmp_path / "masks" / "slide.geojson"
    write_geojson(path, regions)
    skipped: Counter[str] = Counter()
    again = read_annotations(path, skipped=skipped)
    assert not skipped
    assert [(one.class_name, one.kind, len(one.rings)) for one in again] == [
        (one.class_name, one.kind, len(one.rings)) for one in regions
    ]
    for before, after in zip(regions, again, strict=True):
        for ring, same in zip(before.rings, after.rings, strict=True):
            assert sorted(np.round(ring, 3).tolist()) == sorted(same.tolist())
    assert overlap(rasterise(again, mask.shape, SCALE), mask) == 1
    assert sum(map(area, again)) == pytest.approx(mask.sum() * SCALE[0] * SCALE[1], rel=1e-4)


def test_tiles_have_the_same_share_from_the_file_as_from_the_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    mask = blob(rng) & ~box(170, 120, 40, 50)
    write_geojson(tmp_path / "slide.geojson", outlines(mask, SCALE, "tissue"))
    x, y = np.meshgrid(np.arange(0, 12_000, 512.0), np.arange(0, 9_000, 512.0))
    tiles = np.stack([x.ravel(), y.ravel(), np.full(x.size, 512.0), np.full(x.size, 512.0)], axis=1)
    fine = rasterise(read_annotations(tmp_path / "slide.geojson"), (1200, 1600), (SCALE[0] / 4, SCALE[1] / 4))
    again = box_means(fine, tiles, (SCALE[0] / 4, SCALE[1] / 4))
    assert again == pytest.approx(box_means(mask, tiles, SCALE), abs=1e-5)


def test_the_file_has_the_form_that_qupath_writes(tmp_path: Path, shared_data: Path) -> None:
    regions = outlines(drawn("##. #.# ###"), (10.0, 10.0), "tissue")
    regions.append(Region((np.array([[5.25, 7.0]]),), "mitosis", "point", "A. B."))
    write_geojson(tmp_path / "a.geojson", regions)
    found = json.loads((tmp_path / "a.geojson").read_text())
    real = json.loads((shared_data / "pathology" / "annotations" / "dlup_qupath05.geojson").read_text())
    assert found["type"] == real["type"] == "FeatureCollection"
    for feature in [*real["features"], *found["features"]]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        if feature["geometry"]["type"] == "Polygon":
            assert all(ring[0] == ring[-1] for ring in feature["geometry"]["coordinates"])
    piece, point = found["features"][0], found["features"][-1]
    assert piece["geometry"] == {
        "type": "Polygon",
        "coordinates": [
            [[0, 0], [20, 0], [20, 10], [30, 10], [30, 30], [0, 30], [0, 0]],
            [[20, 10], [10, 10], [10, 20], [20, 20], [20, 10]],
        ],
    }
    assert piece["properties"] == {
        "objectType": "annotation", "classification": {"name": "tissue", "color": list(colour_of("tissue"))},
    }
    assert point["geometry"] == {"type": "Point", "coordinates": [5.25, 7]}
    assert point["properties"]["rater"] == "A. B."
    last = read_annotations(tmp_path / "a.geojson")[-1]
    assert (last.kind, last.class_name, last.rater) == ("point", "mitosis", "A. B.")


def test_colours_depend_on_the_name_only_and_can_be_seen() -> None:
    names = ["", "tissue", "tumour", "stroma", "Immune cells", "ткань"]
    colours = [colour_of(name) for name in names]
    assert len(set(colours)) == len(names)
    assert colours == [colour_of(name) for name in names]
    for colour in colours:
        assert all(isinstance(level, int) and 0 <= level <= 255 for level in colour)
        assert max(colour) - min(colour) > 80


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.geojson"
    write_geojson(path, outlines(DIAGONAL, SCALE, "first"))
    before = path.read_bytes()

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="No space left"):
        write_geojson(path, outlines(DIAGONAL, SCALE, "second"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_mask_is_refused_with_what_was_expected() -> None:
    for bad in (np.zeros((2, 2), np.uint8), np.zeros(4, bool), np.zeros((2, 2, 1), bool)):
        with pytest.raises(DataError, match=r"outlines need a \(h, w\) mask of bool; got"):
            outlines(bad, SCALE, "")
