"""Stamps and their tiles: pixel for pixel Cutout2D, who owns a source, and images that are read in strips."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep.cutouts import OUTSIDE, assign, coverage, cut_stamps, origins, overlaps
from sciencessl.data_prep.sky_tiles import SkyTile
from sciencessl.data_prep.sky_wcs import pixel_to_world, world_to_pixel
from sciencessl.errors import DataError
from tests.data_prep.sky_scenes import DISTORTIONS, SHAPE, tile_of, wcs_of

pytest.importorskip("astropy")


def reference(data: np.ndarray, position: Any, side: int, wcs: Any = None) -> np.ndarray:
    """What astropy cuts; its error for stamps off the image is a stamp of NaN."""
    from astropy.nddata import Cutout2D, NoOverlapError

    try:
        return np.asarray(Cutout2D(data, position, side, wcs=wcs, mode="partial", fill_value=np.nan).data)
    except NoOverlapError:
        return np.full((side, side), np.nan, dtype=data.dtype)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_stamps_are_pixel_for_pixel_those_of_astropy_on_the_full_wcs(image: np.ndarray, kind: str) -> None:
    from astropy.coordinates import SkyCoord

    rng, wcs, side = np.random.default_rng(4), wcs_of(kind), 33
    x, y = rng.uniform(-40, SHAPE[1] + 40, 2000), rng.uniform(-40, SHAPE[0] + 40, 2000)
    sky = pixel_to_world(wcs, x, y)
    ours = cut_stamps(image, *world_to_pixel(wcs, *sky.T).T, side, np.nan)
    for i, (ra, dec) in enumerate(sky):
        theirs = reference(image, SkyCoord(ra, dec, unit="deg"), side, wcs)
        np.testing.assert_array_equal(ours[i], theirs, err_msg=f"source {i}")
    assert 30 < np.isnan(ours).all(axis=(1, 2)).sum() < 1000


@pytest.mark.parametrize("side", [1, 2, 7, 8, 600])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", ">i2", "u1"])
def test_pixel_positions_round_as_in_astropy(image: np.ndarray, side: int, dtype: str) -> None:
    data = (100 + 20 * image).astype(dtype)
    halves = np.arange(-6, 20) / 2
    x = np.concatenate([halves, SHAPE[1] - halves, [np.nextafter(10.5, 0), np.nextafter(10.5, 99)]])
    y = np.concatenate([halves[::-1], SHAPE[0] - halves, [10.5, 10.5]])
    ours = cut_stamps(data, x, y, side, 0)
    assert ours.dtype == np.dtype(dtype).newbyteorder("=")
    for i, place in enumerate(zip(x, y, strict=True)):
        theirs = reference(data.astype(float), place, side)
        np.testing.assert_array_equal(ours[i], np.nan_to_num(theirs).astype(ours.dtype))


def test_a_source_at_the_edge_stays_at_the_centre_and_the_pad_is_marked() -> None:
    # A defect elsewhere: the data are centred in a pad of zeros, so the source moves and nothing tells pad from sky.
    sky = np.zeros((50, 60), dtype=np.float32)
    for x, y in ((2, 3), (57, 3), (30, 48), (0, 0), (59, 49)):
        star = sky.copy()
        star[y, x] = 7.0
        stamp = cut_stamps(star, [x], [y], 15, np.nan)[0]
        assert stamp[7, 7] == 7.0
        assert np.isnan(stamp).sum() == round(225 * (1 - coverage((50, 60), [x], [y], 15)[0]))
        assert np.isnan(stamp).any()


def test_positions_that_are_no_numbers_give_stamps_of_fill(image: np.ndarray) -> None:
    stamps = cut_stamps(image, [np.nan, np.inf, -1e30, 9.0], [3.0, 3.0, 3.0, 9.0], 4, -1.0)
    assert (stamps[:3] == -1).all()
    np.testing.assert_array_equal(stamps[3], image[7:11, 7:11])
    assert origins([np.nan], [1.0], 4).tolist() == [[OUTSIDE, -1]]


def test_stamps_go_into_the_array_given(image: np.ndarray) -> None:
    out = np.zeros((2, 3, 5, 5), dtype=np.float64)
    returned = cut_stamps(image.astype(">f4"), [20, 30], [40, 41], 5, np.nan, out=out[:, 1])
    assert np.shares_memory(returned, out)
    np.testing.assert_array_equal(out[1, 1], image[39:44, 28:33])
    assert not out[:, [0, 2]].any()


def test_a_fill_that_integers_do_not_hold_is_refused(image: np.ndarray) -> None:
    for fill in (np.nan, 300, -1, 0.5):
        with pytest.raises(DataError, match="no value of uint8 pixels"):
            cut_stamps(image.astype(np.uint8), [4], [4], 3, fill)


class Counted:
    """An image on disk that says how much of it was read."""

    def __init__(self, values: Any) -> None:
        self.values, self.shape, self.dtype, self.reads, self.pixels = values, values.shape, values.dtype, 0, 0

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        found = np.asarray(self.values[window])
        self.reads, self.pixels = self.reads + 1, self.pixels + found.size
        return found


def test_images_in_files_are_read_in_few_windows_that_waste_little(image: np.ndarray) -> None:
    rng, side = np.random.default_rng(2), 24
    x, y = rng.uniform(-30, SHAPE[1] + 30, 900), rng.uniform(-30, SHAPE[0] + 30, 900)
    disk = Counted(image)
    np.testing.assert_array_equal(cut_stamps(disk, x, y, side, np.nan), cut_stamps(image, x, y, side, np.nan))
    assert disk.reads <= 6
    assert disk.pixels <= 1.3 * image.size
    far = Counted(image)
    cut_stamps(far, [10.0, 500.0], [10.0, 390.0], side, np.nan)
    assert far.pixels <= 2 * side**2


@pytest.mark.parametrize("packed", [False, True])
def test_sections_of_fits_files_give_the_same_stamps(image: np.ndarray, tmp_path: Path, packed: bool) -> None:
    from astropy.io import fits

    path = tmp_path / "tile.fits"
    kind = fits.CompImageHDU if packed else fits.ImageHDU
    fits.HDUList([fits.PrimaryHDU(), kind((100 * image).astype(np.int32))]).writeto(path)
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-20, SHAPE[1] + 20, 200), rng.uniform(-20, SHAPE[0] + 20, 200)
    with fits.open(path, memmap=True) as units:
        stamps = cut_stamps(units[1].section, x, y, 16, 0)
    np.testing.assert_array_equal(stamps, cut_stamps((100 * image).astype(np.int32), x, y, 16, 0))


def test_real_tiles_give_the_stamps_of_astropy(shared_data: Path) -> None:
    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from astropy.wcs import WCS

    files = [*(shared_data / "galaxy" / "legacypipe_ccds").rglob("*_ooi_*.fits")][:3]
    files += [shared_data / "galaxy" / "fits_sdss_gri" / "reprojected_sdss_r.fits.bz2"]
    for path in files:
        with warnings.catch_warnings(), fits.open(path) as units:
            warnings.simplefilter("ignore")
            unit = next(unit for unit in units if unit.is_image and unit.data is not None)
            wcs, data = WCS(unit.header), np.asarray(unit.data, dtype=np.float32)
        rng, (height, width) = np.random.default_rng(8), data.shape
        sky = pixel_to_world(wcs, rng.uniform(-20, width + 20, 60), rng.uniform(-20, height + 20, 60))
        ours = cut_stamps(data, *world_to_pixel(wcs, *sky.T).T, 24, np.nan)
        theirs = [reference(data, SkyCoord(ra, dec, unit="deg"), 24, wcs) for ra, dec in sky]
        np.testing.assert_array_equal(ours, np.stack(theirs), err_msg=path.name)


def test_coverage_counts_the_pixels_of_a_stamp_that_are_on_the_image(image: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-30, SHAPE[1] + 30, 300), rng.uniform(-30, SHAPE[0] + 30, 300)
    counted = 1 - np.isnan(cut_stamps(image, x, y, 21, np.nan)).mean(axis=(1, 2))
    np.testing.assert_allclose(coverage(SHAPE, x, y, 21), counted, atol=1e-12)


def mosaic(columns: int, rows: int, overlap_px: int = 60, **given: Any) -> list[SkyTile]:
    """Tiles of one tangent plane, so that neighbours share pixels exactly."""
    steps = SHAPE[1] - overlap_px, SHAPE[0] - overlap_px
    tiles = []
    for i in range(columns * rows):
        wcs = wcs_of(**given)
        wcs.wcs.crpix = [250.5 - steps[0] * (i % columns), 210.0 - steps[1] * (i // columns)]
        tiles.append(tile_of(wcs, f"t{i:03d}"))
    return tiles


@pytest.mark.parametrize("centre", [(150.1, 2.2), (0.01, -30.0), (40.0, 90.0)])
def test_a_source_belongs_to_the_tile_with_most_of_its_stamp(centre: tuple[float, float]) -> None:
    tiles = mosaic(3, 2, ra=centre[0], dec=centre[1])
    rng = np.random.default_rng(6)
    x, y = rng.uniform(-60, 1500, 400), rng.uniform(-60, 800, 400)
    sky = pixel_to_world(tiles[0].wcs, x, y)
    found = assign(tiles, *sky.T, 48)
    every = np.stack([world_to_pixel(tile.wcs, *sky.T) for tile in tiles])
    covered = np.stack([coverage(SHAPE, *places.T, 48) for places in every])
    np.testing.assert_allclose(found.coverage, covered.max(axis=0))
    edge = (np.minimum(every, np.array(SHAPE[::-1]) - 1 - every)).min(axis=2)
    best = [max(range(6), key=lambda t: (covered[t, i], edge[t, i])) for i in range(400)]
    owned = found.owner >= 0
    np.testing.assert_array_equal(found.owner[owned], np.array(best)[owned])
    np.testing.assert_array_equal(owned, covered.max(axis=0) > 0)
    np.testing.assert_allclose(found.x[owned], every[found.owner[owned], owned.nonzero()[0], 0], atol=1e-6)
    assert np.isnan(found.x[~owned]).all()


def test_equal_tiles_go_by_id_whatever_their_order() -> None:
    tiles = [tile_of(wcs_of(), name) for name in ("b", "a", "c")]
    sky = pixel_to_world(tiles[0].wcs, [100.0, 200.0], [50.0, 60.0])
    assert assign(tiles, *sky.T, 32).owner.tolist() == [1, 1]
    assert assign(tiles[::-1], *sky.T, 32).owner.tolist() == [1, 1]


def test_sources_outside_every_tile_and_without_position_are_owned_by_none() -> None:
    found = assign(mosaic(2, 1), [330.1, np.nan, 150.1, 10.0], [-2.2, 2.2, np.nan, 2.2], 64)
    assert found.owner.tolist() == [-1] * 4
    assert found.coverage.tolist() == [0] * 4
    assert assign([], [1.0], [2.0], 64).owner.tolist() == [-1]
    assert assign(mosaic(1, 1), [], [], 64).owner.shape == (0,)


def test_sides_may_differ_by_source_and_by_tile() -> None:
    tiles = mosaic(2, 1)
    x = np.array([-30.0, -30.0])
    sky = pixel_to_world(tiles[0].wcs, x, np.array([200.0, 200.0]))
    assert assign(tiles, *sky.T, np.array([40, 80])).owner.tolist() == [-1, 0]
    assert assign(tiles, *sky.T, np.array([[40, 40], [80, 80]])).owner.tolist() == [-1, -1]
    assert assign(tiles, *sky.T, np.array([[80, 40], [40, 40]])).owner.tolist() == [0, -1]


def test_all_tiles_of_a_stamp_are_listed_for_stitching() -> None:
    tiles = mosaic(2, 2)
    x, y = np.array([490.0, 100.0, -900.0]), np.array([370.0, 100.0, 0.0])
    sky = pixel_to_world(tiles[0].wcs, x, y)
    found = overlaps(tiles, *sky.T, 80)
    owners = assign(tiles, *sky.T, 80)
    assert found.source.tolist() == [0, 0, 0, 0, 1]
    assert sorted(found.tile[:4].tolist()) == [0, 1, 2, 3]
    assert found.tile[0] == owners.owner[0]
    assert (np.diff(found.coverage[:4]) <= 0).all()
    np.testing.assert_allclose(found.x[found.tile == 1], x[0] - 460, atol=1e-5)


def test_a_tile_without_sky_is_named() -> None:
    with pytest.raises(DataError, match="tile 'flat' has no celestial WCS"):
        assign([tile_of(None, "flat")], [1.0], [2.0], 32)


@pytest.mark.slow
def test_a_hundred_thousand_sources_find_their_tiles_of_a_hundred_in_seconds() -> None:
    tiles = mosaic(10, 10)
    rng = np.random.default_rng(7)
    sky = pixel_to_world(tiles[0].wcs, rng.uniform(0, 4600, 100_000), rng.uniform(0, 3400, 100_000))
    began = time.process_time()
    found = assign(tiles, *sky.T, 64)
    assert time.process_time() - began < 10
    assert (found.owner >= 0).all()
    assert found.coverage.mean() > 0.98
