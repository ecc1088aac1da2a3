"""Where tiles lie: physical size, edges, overlap, and speed."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.grid import overlap_px, tile_grid
from sciencessl.data_prep.slides.resolution import Target
from sciencessl.data_prep.slides.slide import Mpp
from sciencessl.errors import ConfigError
from tests.data_prep.slides.slides_in_memory import slide_info

QUARTER = Mpp(0.25, 0.25, "the test")


def test_the_smallest_grid_by_hand() -> None:
    grid = tile_grid(slide_info((100, 70)), Mpp(0.5, 0.5, "the test"), Target(0.5, 32))
    assert grid.boxes0.tolist() == [[x, y, 32, 32] for y in (0, 32) for x in (0, 32, 64)]
    assert grid.boxes0.dtype == grid.x.dtype == np.float64
    assert (grid.level, grid.step, grid.mpp, grid.valid.tolist()) == (0, (1.0, 1.0), (0.5, 0.5), [1.0] * 6)
    assert grid.valid.dtype == np.float32


def test_tiles_of_half_the_scale_are_twice_as_large_on_level_0() -> None:
    grid = tile_grid(slide_info((1000, 600), None, (1, 4.0)), QUARTER, Target(2.0, 32))
    assert (grid.level, grid.step, grid.field0) == (1, (2.0, 2.0), (256.0, 256.0))
    assert grid.x.tolist() == [0, 64, 128] * 2
    assert grid.x0.tolist() == [0, 256, 512] * 2
    assert grid.y0.tolist() == [0] * 3 + [256] * 3


@settings(max_examples=100, deadline=None)
@given(
    mpp=st.tuples(st.floats(0.1, 1), st.floats(0.95, 1.05)), down=st.sampled_from([3.9998, 4.016, 8.086, 16.0]),
    wanted=st.floats(1.2, 6), edges=st.sampled_from(["skip", "pad", "shift"]), overlap=st.integers(0, 40),
)
def test_the_physical_field_is_exact_at_any_scale_and_downsample(
    mpp: tuple[float, float], down: float, wanted: float, edges: str, overlap: int
) -> None:
    # A defect elsewhere: the downsample is cut to a whole number, one axis of the scale serves both.
    scale = Mpp(mpp[0], mpp[0] * mpp[1], "the test")
    info = slide_info((30_000, 3100), None, (1, down))
    grid = tile_grid(info, scale, Target(wanted, 48, exact=True), f"{overlap}px", edges)
    field_um = (grid.field0[0] * scale.x, grid.field0[1] * scale.y)
    np.testing.assert_allclose(field_um, 48 * wanted, rtol=1.001e-3)
    np.testing.assert_allclose(field_um, (48 * grid.mpp[0], 48 * grid.mpp[1]), rtol=1e-9)
    columns = np.unique(grid.x0)
    um = np.diff(columns[:-1]) * scale.x
    np.testing.assert_allclose(um, (48 - overlap) * grid.mpp[0], rtol=1e-6)
    for places, step in ((grid.x, grid.step[0]), (grid.y, grid.step[1])):
        np.testing.assert_allclose(places / step, np.rint(places / step), atol=1e-6)


@pytest.mark.parametrize("down", [1.0, 3.9998, 4.016])
def test_edges_differ_only_in_the_last_row_and_column(down: float) -> None:
    info = slide_info((4000, 3000), None, (down,))
    skip, pad, shift = (tile_grid(info, QUARTER, Target(None, 64), "0", edges) for edges in ("skip", "pad", "shift"))
    level = info.levels[0]
    columns, rows = level.width // 64, level.height // 64
    assert len(skip) == columns * rows
    assert len(pad) == len(shift) == (columns + 1) * (rows + 1)
    assert skip.valid.min() == shift.valid.min() == 1
    right, lower = level.width - columns * 64, level.height - rows * 64
    assert pad.valid[columns] == pytest.approx(right / 64)
    assert pad.valid[-1] == pytest.approx(right * lower / 64**2)
    assert shift.x.max() == level.width - 64
    assert shift.y.max() == level.height - 64


def test_padded_tiles_cover_a_slide_exactly_once() -> None:
    grid = tile_grid(slide_info((999, 777)), QUARTER, Target(0.33, 50), edges="pad")
    area = grid.valid.astype(np.float64).sum() * grid.field0[0] * grid.field0[1]
    assert area == pytest.approx(999 * 777, rel=1e-6)


@pytest.mark.parametrize("edges", ["skip", "shift"])
@pytest.mark.parametrize("wanted", [0.33, 0.39, 0.7])
def test_tiles_that_are_not_padded_lie_on_the_slide(edges: str, wanted: float) -> None:
    grid = tile_grid(slide_info((1999, 1333)), QUARTER, Target(wanted, 50), "0.5", edges)
    assert (grid.x >= 0).all()
    assert (grid.x + 50 * grid.step[0] <= 1999 + 1e-5).all()
    assert (grid.valid == 1).all()
    if edges == "shift":  # less than one stored pixel is left
        assert grid.x.max() + 50 * grid.step[0] > 1999 - grid.step[0]


def test_a_slide_of_a_whole_number_of_tiles_loses_none_to_float_noise() -> None:
    for wanted in np.linspace(0.3, 3, 200).tolist():
        step = wanted / 0.25
        size = 7 * 32 * step
        if size == round(size):
            continue
        info = slide_info((math.ceil(size), math.ceil(size)))
        assert len(tile_grid(info, QUARTER, Target(wanted, 32))) == 49
    grid = tile_grid(slide_info((1120, 1120)), QUARTER, Target(0.7, 40))  # 1120 / 2.8 = 400.00000000000006 or less
    assert len(grid) == 100


def test_an_overlap_is_read_in_every_unit() -> None:
    words = ("0", "0px", "32px", "16um", " 16 UM", "0.25", ".5", "32", "1")
    assert [overlap_px(word, 128, (0.5, 0.5)) for word in words] == [0, 0, 32, 32, 32, 32, 64, 32, 1]
    assert overlap_px("10um", 128, (0.25, 0.35)) == 33


@pytest.mark.parametrize(
    "word", ["128", "1.5", "2.5px", "128px", "64um", "-0.1", "-3px", "nan", "inf", "1e400", "px", "", "half", "0.999"]
)
def test_an_overlap_that_makes_no_sense_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"overlap is '.*' for tiles of 128 px; expected pixels such as `32px`"):
        overlap_px(word, 128, (0.5, 0.5))


def test_an_overlap_is_the_same_on_every_call() -> None:
    # A defect elsewhere: the overlap is rescaled in place, so that the next slide gets another.
    info, target = slide_info((4000, 3000), None, (1, 4.016)), Target(1.5, 64)
    grids = [tile_grid(info, QUARTER, target, "16px") for _ in range(3)]
    for grid in grids[1:]:
        np.testing.assert_array_equal(grid.boxes0, grids[0].boxes0)
    np.testing.assert_allclose(np.diff(np.unique(grids[0].x)) / grids[0].step[0], 48)


def test_a_slide_smaller_than_a_tile_is_refused_unless_padded() -> None:
    info = slide_info((100, 1000))
    for edges in ("skip", "shift"):
        with pytest.raises(Refused, match="25 x 250 um and a tile 64 x 64; ask for smaller tiles") as no:
            tile_grid(info, QUARTER, Target(0.25, 256), edges=edges)
        assert no.value.reason == "too-small"
    grid = tile_grid(info, QUARTER, Target(0.25, 256), edges="pad")
    assert len(grid) == 4
    assert grid.valid[0] == pytest.approx(100 / 256)


def test_unknown_edges_and_endless_grids_are_refused() -> None:
    with pytest.raises(ConfigError, match="no edge policy named 'crop'"):
        tile_grid(slide_info((100, 100)), QUARTER, Target(0.25, 32), edges="crop")
    with pytest.raises(Refused, match=r"too-large: overlap 31px gives 99969 x 99969 tiles of 32 px, at most 50000000"):
        tile_grid(slide_info((100_000, 100_000)), QUARTER, Target(0.25, 32), "31px")


def test_taken_tiles_keep_what_they_say() -> None:
    grid = tile_grid(slide_info((1000, 600)), QUARTER, Target(0.33, 50), edges="pad")
    few = grid.take([5, 0])
    assert len(few) == 2
    np.testing.assert_array_equal(few.boxes0, grid.boxes0[[5, 0]])
    np.testing.assert_array_equal(few.valid, grid.valid[[5, 0]])
    assert (few.field0, few.mpp) == (grid.field0, grid.mpp)
    assert len(grid.take(grid.valid == 1)) == (grid.valid == 1).sum()


def test_a_million_candidates_take_well_under_a_second() -> None:
    info = slide_info((256_000, 256_000))
    started = time.perf_counter()
    grid = tile_grid(info, QUARTER, Target(0.25, 256))
    grid.take(np.arange(0, len(grid), 3)).boxes0  # noqa: B018
    assert len(grid) == 1_000_000
    assert time.perf_counter() - started < 1
