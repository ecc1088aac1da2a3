"""Class areas of tiles against closed forms, and the class that follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.data_prep.region_areas import SAMPLES, ClassAreas, class_areas, tile_class
from sciencessl.data_prep.regions import Region
from sciencessl.errors import ConfigError
from tests.data_prep.test_regions import circle, square

HALF_PIXEL = 0.5 / SAMPLES
"""Largest error of a share for each straight border through a tile."""


def grid(columns: int, rows: int, field: float, step: float | None = None, start: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns] * (step or field) + start
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, field), np.full(x.size, field)], 1)


def overlap(boxes: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Share of each box that a rectangle covers, in closed form."""
    width = np.clip(np.minimum(boxes[:, 0] + boxes[:, 2], x1) - np.maximum(boxes[:, 0], x0), 0, None)
    height = np.clip(np.minimum(boxes[:, 1] + boxes[:, 3], y1) - np.maximum(boxes[:, 1], y0), 0, None)
    return width * height / (boxes[:, 2] * boxes[:, 3])


@pytest.mark.parametrize(("step", "start"), [(100.0, 0.0), (37.3, -13.7), (250.0, 4321.5)])
def test_shares_of_a_rectangle_with_a_hole_are_those_of_the_closed_form(step: float, start: float) -> None:
    boxes = grid(45, 31, 100, step, start)
    x, y = boxes[:, :2].min(0)
    outer, hole = (x + 133.3, y + 47, x + 877.7, y + 710.1), (x + 300, y + 300, x + 401.5, y + 333)
    found = class_areas(boxes, [Region((square(*outer), square(*hole)), "a")])
    expected = overlap(boxes, *outer) - overlap(boxes, *hole)
    assert found.share.dtype == np.float32
    # Of the outer border and of the hole's two sides can meet in one tile.
    np.testing.assert_allclose(found.share[:, 0], expected, atol=4 * HALF_PIXEL)
    assert np.abs(found.share[:, 0] - expected).mean() < 1e-3


def test_borders_on_raster_pixels_are_exact() -> None:
    boxes = grid(4, 4, 512, start=512)
    rectangle = (600.0, 704.0, 1800.0, 1904.0)  # whole steps of 8 px
    found = class_areas(boxes, [Region((square(*rectangle),), "a")])
    np.testing.assert_allclose(found.share[:, 0], overlap(boxes, *rectangle), atol=1e-6)


def test_a_circle_covers_its_area_over_tiles_of_several_blocks() -> None:
    found = class_areas(grid(40, 40, 100), [Region((circle(2013, 1987, 1777), circle(1500, 1500, 300)), "a")])
    assert found.share.sum() * 1e4 == pytest.approx(np.pi * (1777**2 - 300**2), rel=1e-4)


def test_tiles_that_overlap_each_have_their_own_share() -> None:
    boxes = np.array([[0, 0, 100, 100], [50, 0, 100, 100], [99.5, 0, 100, 100]])
    found = class_areas(boxes, [Region((square(100, 0, 200, 50),), "a")])
    np.testing.assert_allclose(found.share[:, 0], [0, 0.25, 0.4975], atol=2 * HALF_PIXEL)


def test_fields_may_be_wider_than_high() -> None:
    found = class_areas(np.array([[10.0, 20.0, 64.0, 32.0]]), [Region((square(26, 28, 58, 44),), "a")])
    assert found.share[0, 0] == pytest.approx(0.25)


def test_classes_are_measured_apart_and_points_and_unnamed_areas_have_their_place() -> None:
    regions = [Region((square(0, 0, 100, 100),), "tissue"), Region((square(0, 0, 50, 100),), ""),
               Region((square(25, 0, 75, 100),), "tissue"), Region((np.array([[5.0, 5.0]]),), "cell", "point")]
    found = class_areas(grid(2, 1, 100), regions)
    assert found.classes == ("tissue", "unclassified")
    np.testing.assert_allclose(found.share, [[1, 0.5], [0, 0]], atol=1e-6)


def test_no_tiles_and_no_regions_give_empty_tables() -> None:
    assert class_areas(np.zeros((0, 4)), [Region((square(0, 0, 1, 1),), "a")]).share.shape == (0, 1)
    assert class_areas(grid(2, 2, 10), []).share.shape == (4, 0)


def test_the_centre_is_that_of_the_tile() -> None:
    boxes = grid(10, 1, 100)
    found = class_areas(boxes, [Region((square(152, 0, 460, 52),), "a")])
    assert found.centre[:, 0].tolist() == [False, False, True, True, True, *[False] * 5]


def areas(*shares: tuple[float, ...], centre: tuple[tuple[bool, ...], ...] | None = None) -> ClassAreas:
    share = np.array(shares, np.float32)
    return ClassAreas(("lumen", "tumor", "tissue")[: share.shape[1]], share,
                      share > 0.5 if centre is None else np.array(centre))


def test_the_majority_covers_most_and_at_least_half() -> None:
    found = areas((0.1, 0.6, 0.3), (0.4, 0.3, 0.3), (0.0, 0.5, 0.5), (0.0, 0.0, 0.0))
    assert tile_class(found, ("lumen", "tumor", "tissue")) == ["tumor", None, "tumor", None]
    assert tile_class(found, ("tissue", "tumor", "lumen")) == ["tumor", None, "tissue", None]
    assert tile_class(found, ("lumen", "tumor"), least=0.3) == ["tumor", "lumen", "tumor", None]
    assert tile_class(found, ("lumen",), least=0.0) == ["lumen", "lumen", None, None]


def test_any_takes_the_first_in_order_that_is_there() -> None:
    found = areas((0.1, 0.6, 1.0), (0.0, 0.01, 1.0), (0.0, 0.0, 1.0))
    assert tile_class(found, ("lumen", "tumor", "tissue"), "any") == ["lumen", "tumor", "tissue"]
    assert tile_class(found, ("lumen", "tumor", "tissue"), "any", 0.05) == ["lumen", "tissue", "tissue"]


def test_the_centre_counts_however_little_is_covered() -> None:
    found = areas((0.1, 0.2), (0.9, 0.9), centre=((True, False), (False, False)))
    assert tile_class(found, ("tumor", "lumen"), "centre") == ["lumen", None]
    assert tile_class(found, ("tumor", "lumen"), "centre", 0.5) == [None, None]


def test_classes_that_no_tile_has_give_none() -> None:
    assert tile_class(areas((0.9,)), ("necrosis",)) == [None]


def test_unknown_rules_and_shares_out_of_range_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"--rule: no rule named 'center'\. Did you mean 'centre'\?"):
        tile_class(areas((0.9,)), ("lumen",), "center")
    with pytest.raises(ConfigError, match="--min-fraction 50: a share of the tile is from 0 to 1"):
        tile_class(areas((0.9,)), ("lumen",), least=50)
