"""Cells of regions and masks, and which tiles they are in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.cell_counts import (
    Cells,
    cells_of_masks,
    cells_of_regions,
    count_cells,
    read_mask,
    tiles_of_points,
)
from sciencessl.data_prep.regions import Region
from sciencessl.errors import DataError
from tests.data_prep.test_region_areas import grid
from tests.data_prep.test_regions import square


def cells(*places: tuple[float, float], name: str = "a") -> Cells:
    return Cells(np.array(places, float).reshape(-1, 2), np.array([name] * len(places), object))


def test_areas_are_cells_at_their_centre_and_points_where_they_are() -> None:
    found = cells_of_regions([Region((square(0, 0, 4, 2),), "tumor"), Region((np.array([[7.0, 9.0]]),), "", "point")])
    assert found.places.tolist() == [[2, 1], [7, 9]]
    assert found.names.tolist() == ["tumor", "unclassified"]
    assert cells_of_regions([]).places.shape == (0, 2)


def test_each_cell_is_in_one_of_tiles_side_by_side() -> None:
    boxes = grid(3, 2, 10)
    found = count_cells(boxes, cells((0, 0), (9.999, 0), (10, 0), (29.9, 19.9), (30, 5), (5, 20), (-0.1, 5)))
    assert found.classes == ("a",)
    assert found.counts[:, 0].tolist() == [2, 1, 0, 0, 0, 1]
    assert (found.cells, found.outside) == (7, 3)


def test_a_cell_is_in_each_tile_that_holds_it_where_tiles_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [5, 5, 3, 3.0]])
    assert count_cells(boxes, cells((6, 6), (12, 1))).counts[:, 0].tolist() == [1, 2, 1]


@pytest.mark.parametrize(("field", "step"), [(100.0, 100.0), (150.0, 31.7), (20.0, 90.0)])
def test_pairs_of_tiles_and_points_are_those_of_a_full_comparison(field: float, step: float) -> None:
    rng = np.random.default_rng(1)
    boxes = rng.permutation(grid(17, 11, field, step, -37.0))
    boxes[::3, 2:] *= 0.6
    points = rng.uniform(-400, 2000, (3000, 2))
    inside = ((boxes[:, None, :2] <= points) & (points < boxes[:, None, :2] + boxes[:, None, 2:])).all(2)
    found = [np.stack(pair, 1) for pair in tiles_of_points(boxes, points)]
    pairs = np.concatenate(found)
    assert len(pairs) == inside.sum() > 0
    assert inside[pairs[:, 0], pairs[:, 1]].all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_classes_are_counted_apart() -> None:
    some = Cells(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), np.array(["b", "a", "b"], object))
    found = count_cells(grid(1, 1, 10), some)
    assert dict(zip(found.classes, found.counts[0].tolist(), strict=True)) == {"a": 1, "b": 2}


def test_nothing_to_count_counts_nothing() -> None:
    assert count_cells(grid(2, 1, 10), cells()).counts.shape == (2, 0)
    assert count_cells(np.zeros((0, 4)), cells((1, 1))).counts.shape == (0, 1)


def test_the_cells_of_a_mask_have_their_middle_and_the_type_of_most_pixels() -> None:
    instances, types = np.zeros((8, 10), np.int32), np.zeros((8, 10), np.uint8)
    instances[1:3, 2:6], types[1:3, 2:5], types[1:3, 5] = 7, 2, 1
    instances[5, 5:8] = 900_000
    types[5, 5] = 1  # most of its pixels have no type, which is no type
    instances[7, 0] = 3
    found = cells_of_masks(instances, types)
    assert found.places.tolist() == [[0.5, 7.5], [4, 2], [6.5, 5.5]]
    assert found.names.tolist() == ["unclassified", "2", "1"]


def test_empty_masks_have_no_cells_and_masks_of_two_sizes_are_an_error() -> None:
    assert cells_of_masks(np.zeros((4, 4), int), np.zeros((4, 4), int)).places.shape == (0, 2)
    with pytest.raises(DataError, match=r"instances \(4, 4\) and mask of types \(4, 5\) differ in shape"):
        cells_of_masks(np.zeros((4, 4), int), np.zeros((4, 5), int))


@pytest.mark.parametrize("suffix", ["npz", "npy", "png", "tif"])
def test_masks_are_read_from_four_kinds_of_file(tmp_path: Path, suffix: str) -> None:
    mask = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    path = tmp_path / f"m.{suffix}"
    if suffix == "npz":
        np.savez(path, mask)
    elif suffix == "npy":
        np.save(path, mask)
    elif suffix == "png":
        cv2.imwrite(str(path), mask)
    else:
        pytest.importorskip("tifffile").imwrite(path, mask)
    np.testing.assert_array_equal(read_mask(path), mask)


def test_files_that_are_no_mask_are_errors(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2), int), b=np.zeros((2, 2), int))
    np.save(tmp_path / "float.npy", np.zeros((2, 2)))
    np.save(tmp_path / "objects.npy", np.array([[{}]], object), allow_pickle=True)
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((2, 2, 3), np.uint8))
    for broken in ("broken.png", "broken.npz", "broken.npy"):
        (tmp_path / broken).write_bytes(b"nonsense")
    for cut, start in (("empty.png", b""), ("cut.npz", b"PK\x03\x04"), ("cut.tif", b"II*\0")):
        (tmp_path / cut).write_bytes(start)
    for name, words in (("two.npz", "it has the arrays a, b, expected one"), ("float.npy", "holds float64 of shape"),
                        ("objects.npy", "cannot be read"),
                        ("colour.png", r"holds uint8 of shape \(2, 2, 3\), expected"),
                        ("broken.png", "holds nothing, expected one plane"), ("broken.npz", "cannot be read"),
                        ("broken.npy", "cannot be read"), ("absent.png", "cannot be read"),
                        ("empty.png", "cannot be read"), ("cut.npz", "cannot be read"), ("cut.tif", "cannot be read")):
        with pytest.raises(DataError, match=words):
            read_mask(tmp_path / name)


def test_masks_and_polygons_of_real_nuclei_give_the_same_cells(shared_data: Path) -> None:
    folder = shared_data / "pathology" / "histolytics"
    masks = cells_of_masks(*(read_mask(folder / f"hgsc_nest_{kind}_mask.npz") for kind in ("inst", "type")))
    polygons = cells_of_regions(read_annotations(folder / "hgsc_nest.parquet"))
    names = {"1": "connective", "2": "inflammatory", "3": "neoplastic"}  # by their counts: 373, 633, 288
    assert Counter(names[name] for name in masks.names) == {"connective": 373, "inflammatory": 633, "neoplastic": 288}
    boxes = grid(15, 15, 100)
    by_mask, by_polygon = count_cells(boxes, masks).counts, count_cells(boxes, polygons).counts
    # 1,294 and 1,295 cells: centres of pixels and of smoothed outlines differ by less than a pixel.
    assert np.abs(by_mask - by_polygon).sum() <= 0.03 * by_mask.sum()
    assert by_mask.sum() == 1294
