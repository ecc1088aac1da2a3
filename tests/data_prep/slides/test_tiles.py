"""Pixels of tiles: against means written naively, and read in an order that decodes each native tile once."""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.slides.grid import TileGrid, tile_grid
from sciencessl.data_prep.slides.mosaic import CACHE_BYTES
from sciencessl.data_prep.slides.opening import open_slide
from sciencessl.data_prep.slides.resolution import Target, slide_mpp
from sciencessl.data_prep.slides.slide import Mpp
from sciencessl.data_prep.slides.tiles import STRIP_BYTES, is_native, native_place, read_tiles, reading_order
from tests.data_prep.slides.slides_in_memory import SlideInMemory, slide_in_memory, slide_info, textured

QUARTER = Mpp(0.25, 0.25, "the test")


def grid_of(
    slide: SlideInMemory, target: Target, overlap: str = "0", edges: str = "skip", up: bool = False
) -> TileGrid:
    assert slide.info.mpp
    return tile_grid(slide.info, slide.info.mpp, target, overlap, edges, up)


def all_tiles(slide: SlideInMemory, grid: TileGrid) -> dict[int, np.ndarray]:
    return dict(read_tiles(slide, grid, np.arange(len(grid))))


def naive_mean(pixels: np.ndarray, left: float, upper: float, width: float, height: float) -> np.ndarray:
    """Mean colour over a box of level-0 pixels, pixel by pixel, in float64; white outside."""
    total = np.zeros(3)
    for y in range(math.floor(upper), math.ceil(upper + height)):
        for x in range(math.floor(left), math.ceil(left + width)):
            share = (min(y + 1, upper + height) - max(y, upper)) * (min(x + 1, left + width) - max(x, left))
            inside = 0 <= y < pixels.shape[0] and 0 <= x < pixels.shape[1]
            total += share * (pixels[y, x] if inside else 255.0)
    return total / (width * height)


def naive_tile(pixels: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) float64 of a box x, y, width, height of level-0 pixels."""
    x, y, width, height = (float(value) for value in box)
    return np.array([
        [naive_mean(pixels, x + i * width / side, y + j * height / side, width / side, height / side)
         for i in range(side)] for j in range(side)
    ])  # fmt: skip


def away(tile: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference in grey levels."""
    return float(np.abs(tile.astype(np.float64) - reference).max())


@pytest.mark.parametrize("wanted", [0.25, 0.499, 0.7, 0.998, 1.7])
def test_tiles_equal_a_float_reference(wanted: float) -> None:
    # A defect elsewhere: shrinking reads a few pixels between which it interpolates, so that detail turns to patterns.
    slide = slide_in_memory(textured(260, 260), (0.25, 0.26))
    grid = grid_of(slide, Target(wanted, 12, exact=True)) if wanted > 0.25 else grid_of(slide, Target(None, 12))
    chosen = np.linspace(0, len(grid) - 1, 4).astype(int)
    for index, tile in read_tiles(slide, grid, chosen):
        reference = naive_tile(slide.pixels[0], grid.boxes0[index], 12)
        assert tile.shape == (12, 12, 3)
        assert tile.dtype == np.uint8
        assert away(tile, reference) < 0.5 + 1e-3


@pytest.mark.parametrize("wanted", [0.499, 0.7, 0.998])
def test_a_real_slide_equals_a_float_reference(shared_data: Path, wanted: float) -> None:
    openslide = pytest.importorskip("openslide")
    path = shared_data / "pathology" / "slides" / "CMU-1-Small-Region.svs"
    with openslide.OpenSlide(path) as file:
        pixels = np.asarray(file.read_region((0, 0), 0, file.dimensions).convert("RGB"))
    with closing(open_slide(str(path))) as reader:
        mpp = slide_mpp(reader.info, None, None, {})
        grid = tile_grid(reader.info, mpp, Target(wanted, 24))
        np.testing.assert_allclose(np.multiply(grid.field0, (mpp.x, mpp.y)), 24 * wanted, rtol=1e-3)
        tiles = dict(read_tiles(reader, grid, np.linspace(0, len(grid) - 1, 6).astype(int)))
    differences = [np.abs(tile - naive_tile(pixels, grid.boxes0[index], 24)).mean() for index, tile in tiles.items()]
    assert len(differences) == 6
    assert max(differences) < 0.5  # two grey levels are asked for; rounding alone is a quarter of one


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_whole_ratios_are_means_of_blocks(ratio: int) -> None:
    slide = slide_in_memory(textured(240, 240), 0.25)
    grid = grid_of(slide, Target(0.25 * ratio, 20))
    blocks = slide.pixels[0].reshape(240 // ratio, ratio, 240 // ratio, ratio, 3).mean(axis=(1, 3))
    for index, tile in all_tiles(slide, grid).items():
        x, y = int(grid.x[index]) // ratio, int(grid.y[index]) // ratio
        assert away(tile, blocks[y : y + 20, x : x + 20]) <= 0.5


def test_the_long_way_and_the_short_way_for_whole_ratios_agree() -> None:
    slide = slide_in_memory(textured(405, 405), 0.25)
    whole, nearly = (all_tiles(slide, grid_of(slide, Target(mpp, 50))) for mpp in (0.5, 0.5 + 1e-8))
    for index, tile in whole.items():
        assert away(tile, nearly[index]) <= 1


def test_fine_patterns_become_grey_and_no_other_pattern() -> None:
    # A defect elsewhere: unfiltered bilinear shrinking.
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:, ::2] = 255
    slide = slide_in_memory(pixels, 0.25)
    tile = all_tiles(slide, grid_of(slide, Target(0.25 * 3.3, 100)))[0]
    unfiltered = cv2.resize(pixels[:330, :330], (100, 100), interpolation=cv2.INTER_LINEAR)
    assert unfiltered.std() > 60
    assert tile.std() < 25


def test_tiles_that_overlap_show_the_same_pixels() -> None:
    slide = slide_in_memory(textured(500, 500), (0.25, 0.2513))
    for wanted in (0.25, 0.5, 0.617, 1.37):
        target = Target(wanted, 32, exact=True) if wanted > 0.25 else Target(None, 32)
        grid = grid_of(slide, target, "11px", "shift")
        count = np.rint((grid.x.max() / grid.step[0], grid.y.max() / grid.step[1])).astype(int)[::-1] + 32
        whole, seen = np.zeros((*count, 3), np.uint8), np.zeros(count, bool)
        for index, tile in all_tiles(slide, grid).items():
            x, y = round(grid.x[index] / grid.step[0]), round(grid.y[index] / grid.step[1])
            place = (slice(y, y + 32), slice(x, x + 32))
            assert (tile[seen[place]] == whole[place][seen[place]]).all()
            whole[place], seen[place] = tile, True
        assert seen.all()


def test_a_tile_is_the_same_whatever_else_is_read() -> None:
    slide = slide_in_memory(textured(500, 500), 0.25)
    grid = grid_of(slide, Target(0.617, 32))
    together = all_tiles(slide, grid)
    for index in (0, len(grid) // 2, len(grid) - 1):
        ((same, tile),) = read_tiles(slide, grid, [index])
        assert same == index
        np.testing.assert_array_equal(tile, together[index])


def test_outside_the_slide_is_white() -> None:
    slide = slide_in_memory(np.zeros((90, 70, 3), np.uint8), 0.25)
    for target in (Target(None, 32), Target(0.5, 16, exact=True), Target(0.35, 32, exact=True)):
        grid = grid_of(slide, target, edges="pad")
        for index, tile in all_tiles(slide, grid).items():
            assert tile.mean() / 255 == pytest.approx(1 - grid.valid[index], abs=2e-3)


def test_the_same_field_from_two_scales_looks_the_same() -> None:
    fine = slide_in_memory(textured(800, 800), 0.25)
    coarse = slide_in_memory(slide_in_memory(fine.pixels[0], 0.25, (1, 2.0)).pixels[1], 0.5)
    for wanted in (0.5, 0.7, 0.39 * 2):
        grids = [grid_of(slide, Target(wanted, 64)) for slide in (fine, coarse)]
        one, other = (all_tiles(slide, grid) for slide, grid in zip((fine, coarse), grids, strict=True))
        assert len(one) == len(other) > 0
        for index, tile in one.items():
            assert np.corrcoef(tile.ravel(), other[index].ravel())[0, 1] > 0.95


def test_a_coarse_level_shows_the_field_that_level_0_shows() -> None:
    # A defect elsewhere: the downsample is cut to a whole number, so that the field grows by a third.
    slide = slide_in_memory(textured(1000, 1000), 0.25, (1, 3.9998, 8.086))
    for wanted, level in ((1.4, 1), (2.5, 2)):
        grid = grid_of(slide, Target(wanted, 40))
        assert grid.level == level
        index = len(grid) - 1  # where an error of the ratio counts most
        ((_, tile),) = read_tiles(slide, grid, [index])
        x, y, width, height = grid.boxes0[index]
        corners = np.array([[x, y], [x + width, y], [x, y + height]], np.float32)
        # Enlarged fourfold by a warp, then block means: another way to the same field of level 0.
        to = np.array([[0, 0], [40 * 8, 0], [0, 40 * 8]], np.float32)
        affine = cv2.getAffineTransform(corners - 0.5, to - 0.5)
        field = cv2.warpAffine(slide.pixels[0], affine, (320, 320), flags=cv2.INTER_LINEAR)
        reference = cv2.resize(field, (40, 40), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(tile.ravel(), reference.ravel())[0, 1] > 0.98


def test_enlarging_is_linear_between_pixels() -> None:
    ramp = np.repeat(np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], 100, axis=0), 3, axis=2)
    slide = slide_in_memory(ramp, 0.5)
    tile = all_tiles(slide, grid_of(slide, Target(0.25, 128), up=True))[0]
    expected = np.interp(np.arange(128) / 2 - 0.25, np.arange(100), ramp[0, :, 0])
    assert away(tile[8:, 2:, 0], expected[2:]) <= 0.5


def test_large_fields_are_read_in_strips() -> None:
    slide = slide_in_memory(np.tile(textured(300, 600), (10, 5, 1)), 0.25)
    for wanted in (0.25 * 50, 0.25 * 40.7):
        slide.reads.clear()
        grid = grid_of(slide, Target(wanted, 60))
        ((_, tile),) = read_tiles(slide, grid, [0])
        assert len(slide.reads) > 4
        assert max(width * height * 3 for *_, width, height in slide.reads) < STRIP_BYTES + 3 * 3000 * 52
        whole = cv2.resize(slide.pixels[0], (60, 60), interpolation=cv2.INTER_AREA) if wanted == 12.5 else None
        if whole is not None:
            assert away(tile, whole) <= 1
        assert away(tile[59, 58], naive_mean(slide.pixels[0], *(grid.step[0] * at for at in (58, 59, 1, 1)))) <= 0.51


def decodes(info_px: tuple[int, int], grid: TileGrid, indices: np.ndarray) -> tuple[int, int]:
    """Native tiles of 256 px that a reader's cache has to decode, and how many there are."""
    slide_px = slide_info(info_px)
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    count, seen = 0, set()
    for index in reading_order(slide_px, grid, indices).tolist():
        spans = [
            range(int(at[index]) // 256, int(at[index] + grid.tile_px * step - 1e-6) // 256 + 1)
            for at, step in zip((grid.x, grid.y), grid.step, strict=True)
        ]
        for key in ((column, row) for row in spans[1] for column in spans[0]):
            seen.add(key)
            count += key not in cache
            cache[key] = None
            cache.move_to_end(key)
            if len(cache) > CACHE_BYTES // (4 * 256**2):
                cache.popitem(last=False)
    return count, len(seen)


@pytest.mark.parametrize("wanted", [0.25, 0.39, 0.5])
def test_each_native_tile_is_decoded_once(wanted: float) -> None:
    size = (7000, 5000)
    grid = tile_grid(slide_info(size), QUARTER, Target(wanted, 240), "0.25")
    indices = np.random.default_rng(0).permutation(len(grid))
    count, there = decodes(size, grid, indices)
    assert count == there


def test_a_slide_too_wide_for_the_cache_is_read_in_stripes() -> None:
    size = (120_000, 6000)
    grid = tile_grid(slide_info(size), QUARTER, Target(0.25, 240))
    count, there = decodes(size, grid, np.arange(len(grid)))
    assert there < count < 1.02 * there


def test_the_order_holds_every_tile_once_and_rows_together() -> None:
    info = slide_info((2000, 1500))
    grid = tile_grid(info, QUARTER, Target(0.25, 100))
    some = np.random.default_rng(1).permutation(len(grid))[:77]
    np.testing.assert_array_equal(reading_order(info, grid, some), np.sort(some))
    assert len(reading_order(info, grid, [])) == 0


def test_native_tiles_are_known_by_size_scale_and_place() -> None:
    info = slide_info((1000, 600), tile_px=(240, 240))
    grid = tile_grid(info, QUARTER, Target(0.25, 240))
    assert is_native(info, grid)
    assert [native_place(info, grid, index) for index in range(len(grid))] == [
        (column, row) for row in range(2) for column in range(4)
    ]
    for other in (Target(0.25, 256), Target(0.5, 240), Target(0.251, 240, exact=True)):
        assert not is_native(info, tile_grid(info, QUARTER, other))
        assert native_place(info, tile_grid(info, QUARTER, other), 0) is None
    assert not is_native(slide_info((1000, 600), tile_px=None), grid)


def test_overlapping_and_shifted_tiles_are_native_where_they_happen_to_be() -> None:
    info = slide_info((1000, 600), tile_px=(240, 240))
    half = tile_grid(info, QUARTER, Target(0.25, 240), "0.5")
    assert [native_place(info, half, index) for index in range(3)] == [(0, 0), None, (1, 0)]
    shifted = tile_grid(info, QUARTER, Target(0.25, 240), edges="shift")
    assert native_place(info, shifted, 4) is None


def test_native_pixels_are_the_levels_own() -> None:
    slide = slide_in_memory(textured(300, 300), 0.26, (1, 4.0))
    grid = grid_of(slide, Target(1.0, 20), "5px")
    assert (grid.level, grid.mpp) == (1, (1.04, 1.04))
    for index, tile in all_tiles(slide, grid).items():
        x, y = int(grid.x[index]), int(grid.y[index])
        np.testing.assert_array_equal(tile, slide.pixels[1][y : y + 20, x : x + 20])
