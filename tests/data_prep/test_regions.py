"""Rasters of regions against closed forms, and a ring's centre against known ones."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.data_prep import regions
from sciencessl.data_prep.regions import Region, rasterise


def square(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def circle(x: float, y: float, radius: float, corners: int = 720) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def area(*rings: np.ndarray) -> Region:
    return Region(rings, "a")


def test_a_square_covers_its_pixels_and_none_more() -> None:
    # A defect elsewhere: fills that draw the outline too are half a pixel wider on each side.
    raster = rasterise([area(square(2, 3, 7, 5))], (10, 12), (1, 1))
    expected = np.zeros((10, 12), bool)
    expected[3:5, 2:7] = True
    np.testing.assert_array_equal(raster, expected)


@pytest.mark.parametrize(("edge", "covered"), [(0.49, 3), (0.51, 2)])
def test_a_pixel_is_covered_when_its_centre_is(edge: float, covered: int) -> None:
    assert rasterise([area(square(edge, 0, 3, 1))], (1, 3), (1, 1)).sum() == covered


def test_scale_and_origin_are_in_level_0_pixels() -> None:
    raster = rasterise([area(square(1010, 2030, 1040, 2050))], (4, 8), (10, 5), origin=(1000, 2030))
    expected = np.zeros((4, 8), bool)
    expected[:, 1:4] = True
    np.testing.assert_array_equal(raster, expected)


def test_a_circle_less_a_circle_has_the_area_of_the_ring() -> None:
    raster = rasterise([area(circle(250.3, 249.6, 200), circle(220, 260, 100))], (500, 500), (1, 1))
    assert raster.sum() == pytest.approx(np.pi * (200**2 - 100**2), rel=1e-3)
    assert not raster[260, 220]


@pytest.mark.parametrize("turned", [False, True])
def test_holes_are_empty_whichever_way_round_their_corners_go(turned: bool) -> None:
    hole = square(3, 3, 7, 7)[:: -1 if turned else 1]
    raster = rasterise([area(square(1, 1, 9, 9), hole)], (10, 10), (1, 1))
    assert raster.sum() == 8 * 8 - 4 * 4
    assert not raster[3:7, 3:7].any()


def test_a_hole_that_reaches_out_of_its_area_adds_nothing() -> None:
    # A defect elsewhere: with the even-odd rule over all rings, the part of a hole outside becomes covered.
    raster = rasterise([area(square(0, 0, 5, 5), square(3, 3, 9, 9))], (10, 10), (1, 1))
    assert raster.sum() == 25 - 4
    assert not raster[5:, 5:].any()


def test_regions_that_overlap_make_a_union() -> None:
    raster = rasterise([area(square(0, 0, 6, 6)), area(square(4, 4, 8, 8))], (10, 10), (1, 1))
    assert raster.sum() == 36 + 16 - 4


def test_what_a_crossing_ring_goes_round_twice_is_outside() -> None:
    bow_tie = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], float)
    assert rasterise([area(bow_tie)], (100, 100), (0.1, 0.1)).sum() == pytest.approx(5000, rel=0.02)
    twice = np.concatenate([square(0, 0, 8, 8), [[0, 0]], square(2, 2, 6, 6), [[2, 2]]])
    assert not rasterise([area(twice)], (8, 8), (1, 1))[3:5, 3:5].any()


def test_regions_outside_the_raster_and_points_cover_nothing() -> None:
    point = Region((np.array([[5.0, 5.0]]),), "p", "point")
    far = [area(square(-50, -50, -20, 90)), area(square(1e7, 0, 2e7, 10)), point]
    assert not rasterise(far, (10, 10), (1, 1)).any()
    assert not rasterise([], (10, 10), (1, 1)).any()


def test_a_region_around_the_raster_covers_all_of_it() -> None:
    assert rasterise([area(square(-1e6, -1e6, 1e6, 1e6))], (7, 9), (1, 1)).all()


def test_many_polygons_are_as_each_of_them_alone() -> None:
    rng = np.random.default_rng(0)
    some = [area(rng.uniform(-10, 60, (rng.integers(3, 9), 2))) for _ in range(60)]
    together = np.any([rasterise([region], (50, 50), (1, 1)) for region in some], axis=0)
    np.testing.assert_array_equal(rasterise(some, (50, 50), (1, 1)), together)


def test_rows_are_taken_in_bands_where_edges_cross_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    some = [area(rng.uniform(-10, 60, (30, 2)), square(20, 20, 30, 30)), area(square(5, 40, 20, 45))]
    expected = rasterise(some, (50, 50), (1, 1))
    held: list[int] = []
    real = regions._crossings
    monkeypatch.setattr(regions, "CROSSINGS", 100)
    monkeypatch.setattr(regions, "_crossings", lambda *given: (found := real(*given), held.append(len(found[0])))[0])
    np.testing.assert_array_equal(rasterise(some, (50, 50), (1, 1)), expected)
    assert len(held) > 3
    assert max(held) < 300


def test_pixels_agree_with_an_independent_test_of_points() -> None:
    from matplotlib.path import Path

    ring = np.array([[3.2, 1.7], [41.3, 9.9], [30.0, 44.4], [17.1, 20.2], [2.5, 38.8]])
    y, x = np.mgrid[:50, :50] + 0.5
    inside = Path(ring).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(50, 50)
    np.testing.assert_array_equal(rasterise([area(ring)], (50, 50), (1, 1)), inside)


def test_a_centroid_is_the_centre_of_area_and_not_of_corners() -> None:
    assert Region((circle(1e5, 2e5, 7),), "a").centroid == pytest.approx((1e5, 2e5))
    triangle = np.array([[0, 0], [3, 0], [3, 0], [3, 0], [0, 3]], float)
    assert area(triangle).centroid == pytest.approx((1, 1))
    assert Region((np.array([[4.0, 5.0]]),), "p", "point").centroid == (4, 5)


def test_a_ring_whose_loops_cancel_has_its_centre_within() -> None:
    # A defect elsewhere: dividing by a net area near 0 puts such cells kilometres off their slide.
    bow_tie = np.array([[0, 0], [10, 10], [10, 0], [0, 10.001]], float)
    x, y = area(bow_tie).centroid
    assert 0 <= x <= 10
    assert 0 <= y <= 10
