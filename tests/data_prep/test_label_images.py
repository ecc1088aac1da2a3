"""Label images of tiles: from regions, from images of slides, from images of tiles."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.label_images import (
    cut_images,
    find_images,
    image_table,
    numbered_names,
    region_images,
    tile_image,
)
from sciencessl.data_prep.regions import Region
from sciencessl.errors import ConfigError, DataError
from tests.data_prep.test_regions import square


def _seen(raw: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED))


def test_regions_become_values_and_the_earlier_class_goes_before() -> None:
    regions = [Region((square(0, 0, 40, 100),), "stroma"), Region((square(20, 0, 60, 50),), "tumour"),
               Region((square(20, 0, 21, 1),), "tumour", "point"), Region((square(0, 0, 100, 100),), "else")]
    first, second = (_seen(raw) for raw in region_images(
        np.array([[0.0, 0, 100, 100], [100, 0, 100, 100]]), [50, 10], regions, ("tumour", "stroma")))
    expected = np.zeros((50, 50), int)  # two level-0 pixels to one
    expected[:, :20] = 2
    expected[:25, 10:30] = 1
    assert np.array_equal(first, expected)
    assert second.shape == (10, 10)
    assert not second.any()


def test_images_of_slides_are_cut_where_tiles_lie_and_outside_nobody_judged(tmp_path: Path) -> None:
    whole = np.arange(100, dtype=np.uint8).reshape(10, 10)
    cv2.imwrite(str(tmp_path / "s.png"), whole)
    inside, half, beyond = (_seen(raw) for raw in cut_images(
        tmp_path / "s.png", np.array([[2.0, 4, 4, 4], [2, 4, 4, 4], [8, 0, 4, 4]]), [4, 2, 4]))
    assert np.array_equal(inside, whole[4:8, 2:6])
    assert np.array_equal(half, whole[5:8:2, 3:6:2])
    assert np.array_equal(beyond[:, :2], whole[:4, 8:])
    assert (beyond[:, 2:] == 255).all()


def test_the_table_names_values(tmp_path: Path) -> None:
    table = image_table("mask", ["a"], [b"x"], ["background", "nucleus"])
    assert json.loads(table.schema.field("mask").metadata[b"classes"]) == ["background", "nucleus"]
    assert numbered_names({"2": "tumour", "0": "none"}) == ("none", "1", "tumour")
    assert numbered_names({}) == ()
    with pytest.raises(ConfigError, match=r"--classes tumour: label images have numbers, so give NUMBER=NAME"):
        numbered_names({"tumour": "tumour"})


def test_files_are_matched_by_their_names(tmp_path: Path) -> None:
    for name in ("a.png", "s1.npy", "other.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    tiles, whole, strange = find_images(tmp_path, ["a", "b"], ["s1"])
    assert (list(tiles), list(whole), strange) == (["a"], ["s1"], 1)
    with pytest.raises(DataError, match=r"not one of the 3 images of .* such as x.png; the first is a.png"):
        find_images(tmp_path, ["x"], [])
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="are both of 'a'; keep one"):
        find_images(tmp_path, ["a", "b"], [])
    with pytest.raises(ConfigError, match="is no folder with label images"):
        find_images(tmp_path / "none", ["a"], [])


def test_images_of_tiles_are_square_and_hold_classes(tmp_path: Path) -> None:
    for name, values, words in (("wide", np.zeros((4, 6), np.uint8), "has 6 x 4 pixels; that of a tile is square"),
                                ("many", np.full((4, 4), 300, np.uint16), "has values from 300 to 300; a value is a")):
        cv2.imwrite(str(tmp_path / f"{name}.png"), values)
        with pytest.raises(DataError, match=words):
            tile_image(tmp_path / f"{name}.png")
    np.save(tmp_path / "good.npy", np.eye(4, dtype=np.int64))
    assert np.array_equal(_seen(tile_image(tmp_path / "good.npy")), np.eye(4))
