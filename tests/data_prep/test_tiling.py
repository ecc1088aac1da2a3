"""Grids of stamps over whole tiles, and one stamp a patch where tiles overlap."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.data_prep.sky import separation_arcsec
from sciencessl.data_prep.tiling import EDGES, grid_centres, keep_one_per_patch
from sciencessl.errors import ConfigError, DataError


def test_the_smallest_grid_by_hand() -> None:
    centres = grid_centres((4, 7), 4, 2)
    np.testing.assert_array_equal(centres, [[1.5, 1.5], [3.5, 1.5]])
    np.testing.assert_array_equal(grid_centres((3, 7), 3, 3), [[1, 1], [4, 1]])


def covered(shape: tuple[int, int], centres: np.ndarray, side: int) -> np.ndarray:
    """How many stamps show each pixel; pixels beyond the tile are left out."""
    count = np.zeros(shape, dtype=int)
    for x, y in centres - (side - 1) / 2:
        assert x == int(x)
        assert y == int(y)
        count[max(int(y), 0) : int(y) + side, max(int(x), 0) : int(x) + side] += 1
    return count


@pytest.mark.parametrize("side", [1, 4, 5])
@pytest.mark.parametrize("step", [1, 3, 4])
@pytest.mark.parametrize("shape", [(5, 5), (11, 6), (20, 13)])
def test_pad_and_shift_show_every_pixel_where_stamps_touch(shape: tuple[int, int], step: int, side: int) -> None:
    step = min(step, side)
    for edge in ("pad", "shift"):
        assert covered(shape, grid_centres(shape, side, step, edge), side).min() >= 1


@pytest.mark.parametrize("edge", ["skip", "shift"])
def test_skip_and_shift_stay_inside(edge: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = tuple(rng.integers(0, 30, 2).tolist())
        side, step = rng.integers(1, 12, 2).tolist()
        first = grid_centres(shape, side, step, edge) - (side - 1) / 2
        assert ((first >= 0) & (first + side <= [shape[1], shape[0]])).all()
        assert (len(first) > 0) == (min(shape) >= side)


def test_a_step_equal_to_the_side_shows_each_pixel_once() -> None:
    assert (covered((12, 8), grid_centres((12, 8), 4, 4), 4) == 1).all()


def test_edges_differ_only_in_the_rest() -> None:
    x = {edge: grid_centres((4, 10), 4, 4, edge)[:, 0].tolist() for edge in EDGES}
    assert x == {"skip": [1.5, 5.5], "pad": [1.5, 5.5, 9.5], "shift": [1.5, 5.5, 7.5]}


def test_a_tile_below_one_stamp_gives_one_only_with_padding() -> None:
    assert {edge: len(grid_centres((3, 3), 4, 2, edge)) for edge in EDGES} == {"skip": 0, "pad": 1, "shift": 0}
    assert grid_centres((0, 9), 4, 2, "pad").shape == (0, 2)


@pytest.mark.parametrize(("arguments", "said"), [
    (((9, 9), 0, 1), "side and step must be 1 or more"),
    (((9, 9), 1, 0), "side and step must be 1 or more"),
    (((-1, 9), 1, 1), "no side of the tile below 0"),
    (((9, 9), 1, 1, "shfit"), "no edge policy named 'shfit'. Did you mean 'shift'"),
])
def test_a_grid_that_makes_no_sense_is_refused(arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grid_centres(*arguments)  # type: ignore[arg-type]


def test_two_tiles_keep_one_stamp_a_patch_with_more_coverage() -> None:
    ra, dec = np.array([0.0, 10 / 3600, 359.99999, 20 / 3600]), np.zeros(4)
    kept = keep_one_per_patch(ra, dec, np.array([0.8, 1, 1, 1]), np.array([0, 0, 1, 1]), 5)
    np.testing.assert_array_equal(kept, [False, True, True, True])


def test_equal_coverage_goes_to_the_lower_tile() -> None:
    ra = dec = np.zeros(2)
    for tiles in ([4, 7], [7, 4]):
        kept = keep_one_per_patch(ra, dec, np.ones(2), np.array(tiles), 1)
        np.testing.assert_array_equal(kept, np.array(tiles) == 4)


@pytest.mark.parametrize("pole", [90, -90])
def test_what_is_kept_covers_all_and_lies_apart_in_any_order(pole: int) -> None:
    rng = np.random.default_rng(3)
    n, radius = 400, 20.0
    ra, dec = rng.uniform(0, 360, n), pole - np.sign(pole) * rng.uniform(0, 0.05, n)
    coverage, tile = rng.choice([0.5, 1.0], n), rng.integers(0, 4, n)
    kept = keep_one_per_patch(ra, dec, coverage, tile, radius)
    near = separation_arcsec(ra[:, None], dec[:, None], ra, dec) <= radius
    assert (near[np.ix_(kept, kept)].sum(axis=1) == 1).all()
    best = np.where(near & kept, coverage, 0).max(axis=1)
    assert (best >= coverage).all()  # who was dropped was dropped for something at least as good
    order = rng.permutation(n)
    again = keep_one_per_patch(ra[order], dec[order], coverage[order], tile[order], radius)
    np.testing.assert_array_equal(again, kept[order])


def test_a_grid_itself_loses_nothing() -> None:
    centres = grid_centres((300, 300), 32, 16) * 0.2 / 3600
    assert keep_one_per_patch(*centres.T, np.ones(len(centres)), np.zeros(len(centres)), 0.5 * 16 * 0.2).all()


def test_no_stamps_keep_none() -> None:
    assert keep_one_per_patch(*np.zeros((4, 0)), 1.0).shape == (0,)


def test_bad_rows_and_radii_are_refused() -> None:
    one = np.zeros(1)
    with pytest.raises(DataError, match="stamps of a grid: 1 of 1 positions"):
        keep_one_per_patch(np.array([np.nan]), one, one, one, 1)
    with pytest.raises(DataError, match="and no NaN"):
        keep_one_per_patch(one, one, np.array([np.nan]), one, 1)
    with pytest.raises(ConfigError, match="radius_arcsec is -1"):
        keep_one_per_patch(one, one, one, one, -1)
