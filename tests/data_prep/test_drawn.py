"""What readers of annotations share: rings made sound, rings sorted into areas and holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciencessl.data_prep.drawn import Drawn, ellipse, encloses, nested
from sciencessl.data_prep.regions import rasterise
from sciencessl.errors import DataError
from tests.data_prep.test_regions import square


@pytest.fixture
def drawn() -> Drawn:
    return Drawn(Path("a.geojson"))


def test_open_closed_and_stuttering_rings_are_the_same_region(drawn: Drawn) -> None:
    ring = square(0, 0, 4, 3).tolist()
    for same in (ring, [*ring, ring[0]], [ring[0], *ring, ring[0], ring[0]]):
        drawn.area([same], " Tumor ", "feature 0")
    assert [sorted(map(tuple, region.rings[0])) for region in drawn.regions] == [sorted(map(tuple, ring))] * 3
    assert {region.class_name for region in drawn.regions} == {"Tumor"}


def test_areas_without_area_are_counted_and_not_kept(drawn: Drawn) -> None:
    for ring in ([[0, 0], [5, 5]], [[1, 1]] * 9, [], [[0, 0], [5, 5], [9, 9]], [[0, 0], [1e5, 1e5], [2e5, 2e5 + 1e-6]]):
        drawn.area([ring], "a", "feature 0")
    assert not drawn.regions
    assert drawn.skipped == {"areas of fewer than three corners": 3, "areas that are lines": 2}


def test_a_hole_that_is_a_line_is_none(drawn: Drawn) -> None:
    drawn.area([square(0, 0, 9, 9), [[1, 1], [2, 2]], square(3, 3, 4, 4)], "a", "feature 0")
    assert [len(ring) for ring in drawn.regions[0].rings] == [4, 4]


@pytest.mark.parametrize("corners", [[[1, "x"], [2, 3], [4, 5]], [[1], [2], [3]], [[1, float("nan")]] * 3, "abc",
                                     [[1, 2], [3]], [[0, 0], [1, None], [1, 1]], None, {"x": 1},
                                     [[10**400, 0], [1, 1], [2, 0]]])
def test_corners_that_are_no_numbers_are_an_error_with_the_place(drawn: Drawn, corners: object) -> None:
    with pytest.raises(DataError, match=r"a\.geojson: feature 7 has the corners .*, expected pairs of finite numbers"):
        drawn.area([corners], "a", "feature 7")


@pytest.mark.filterwarnings("error")
def test_a_corner_beyond_any_slide_is_an_error(drawn: Drawn) -> None:
    with pytest.raises(DataError, match=r"feature 7 has a corner at 1e\+308 px, expected pixels of level 0"):
        drawn.area([square(-1e308, 0, 1e308, 5)], "a", "feature 7")
    drawn.area([square(-1e9, -1e9, 1e9, 1e9)], "everything", "feature 8")
    assert len(drawn.regions) == 1


def test_a_third_number_of_a_corner_is_left_out(drawn: Drawn) -> None:
    drawn.point([4, 5, 0], "", "feature 0")
    assert drawn.regions[0].rings[0].tolist() == [[4, 5]]


def test_an_ellipse_has_its_area_and_fills_its_box() -> None:
    ring = ellipse(np.array([[10, 20], [50, 40]]))
    x, y = ring.T
    assert abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2) == pytest.approx(np.pi * 20 * 10, rel=2e-3)
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((10, 50, 20, 40))


def test_rings_in_any_order_become_areas_with_their_holes() -> None:
    island, lake, land, elsewhere = square(4, 4, 6, 6), square(2, 2, 8, 8), square(0, 0, 10, 10), square(20, 0, 25, 5)
    areas = nested([island, lake, elsewhere, land])
    assert sorted(len(rings) for rings in areas) == [1, 1, 2]
    drawn = Drawn(Path("a"))
    for rings in areas:
        drawn.area(rings, "a", "")
    assert rasterise(drawn.regions, (10, 25), (1, 1)).sum() == 100 - 36 + 4 + 25


def test_a_point_is_inside_or_not() -> None:
    ring = np.array([[0, 0], [10, 0], [10, 10], [5, 2], [0, 10]], float)
    assert encloses(ring, np.array([1.0, 5.0]))
    assert not encloses(ring, np.array([5.0, 5.0]))
    assert not encloses(ring[:2], np.array([5.0, 0.0]))
