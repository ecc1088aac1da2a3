"""Maps of attention: tiles where they lie, and names that files may have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sciencessl.evaluate.attention_maps import MAP_PX, TILE_PX, map_name, mosaic, write_attention_geojson


def test_tiles_of_a_mosaic_lie_where_they_do_on_the_slide() -> None:
    boxes = np.array([[1000.0, 0, 50, 50], [1050, 0, 50, 50], [1000, 150, 50, 50]])
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [np.full((8, 8, 3), colour, np.uint8) for colour in colours]
    shown, places = mosaic(images, boxes)
    assert shown.shape == (4 * TILE_PX, 2 * TILE_PX, 3)
    for colour, (left, top, right, bottom) in zip(colours, places.tolist(), strict=True):
        assert (shown[top:bottom, left:right] == colour).all()
    assert (shown[TILE_PX : 3 * TILE_PX] == 255).all()


def test_a_mosaic_of_a_large_slide_stays_small_and_shows_every_tile() -> None:
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.uniform(0, 100_000, (300, 2)), np.full((300, 2), 37.0)])
    shown, places = mosaic((np.zeros((4, 4, 3), np.uint8) for _ in boxes), boxes)
    assert max(shown.shape) <= MAP_PX
    assert (places[:, 2:] > places[:, :2]).all()
    for left, top, _, _ in places:
        assert shown[top, left].max() == 0


@pytest.mark.parametrize("name", ["TCGA-05-4244", "a.b_c", "Präparat"])
def test_plain_names_stay(name: str) -> None:
    assert map_name(name) == name


def test_names_that_no_file_may_have_stay_apart() -> None:
    names = ["a/b", "a b", "a_b", "../a_b", ".a"]
    found = {map_name(name) for name in names}
    assert len(found) == len(names)
    assert not any("/" in name or name.startswith(".") for name in found)


def test_coordinates_are_those_of_level_0(tmp_path: Path) -> None:
    write_attention_geojson(tmp_path / "s.geojson", np.array([[10.5, 20, 30, 40.25]]), np.array([1.0]))
    (feature,) = json.loads((tmp_path / "s.geojson").read_text())["features"]
    assert feature["geometry"]["coordinates"] == [[[10.5, 20], [40.5, 20], [40.5, 60.25], [10.5, 60.25], [10.5, 20]]]
    assert feature["properties"]["measurements"] == {"attention": 1, "attention x tiles": 1}
