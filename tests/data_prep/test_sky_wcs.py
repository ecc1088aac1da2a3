"""Sky and pixels: against astropy's own calls, frames, poles, what has no pixel, and the affine WCS of a stamp."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep.cutouts import origins
from sciencessl.data_prep.sky_wcs import affine_wcs, pixel_scale_deg, pixel_to_world, world_to_pixel
from sciencessl.errors import DataError
from tests.data_prep.sky_scenes import ARCSEC, DISTORTIONS, SHAPE, bent_by_tables, header_of, wcs_of

pytest.importorskip("astropy")
WCS_KINDS = (*DISTORTIONS, "tables")


def named(kind: str) -> Any:
    return bent_by_tables() if kind == "tables" else wcs_of(kind)


def pixels(n: int, margin: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-margin, SHAPE[1] + margin, n), rng.uniform(-margin, SHAPE[0] + margin, n)


@pytest.mark.parametrize("kind", WCS_KINDS)
def test_pixels_come_back_from_the_sky(kind: str) -> None:
    x, y = pixels(500, 20)
    found = world_to_pixel(named(kind), *pixel_to_world(named(kind), x, y).T)
    np.testing.assert_allclose(found, np.stack([x, y], axis=1), atol=1e-4)


@pytest.mark.parametrize("kind", WCS_KINDS)
def test_positions_are_those_of_one_sky_coordinate_at_a_time(kind: str) -> None:
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import skycoord_to_pixel

    wcs = named(kind)
    sky = pixel_to_world(wcs, *pixels(40, 20))
    one_by_one = [skycoord_to_pixel(SkyCoord(ra, dec, unit="deg"), wcs, mode="all") for ra, dec in sky]
    np.testing.assert_allclose(world_to_pixel(wcs, *sky.T), np.array(one_by_one, dtype=float), atol=2e-4)


@pytest.mark.parametrize("cards", [
    {"RADESYS": "FK5", "EQUINOX": 1975.0}, {"RADESYS": "FK4", "EQUINOX": 1950.0},
    {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
    {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.2, "CRVAL2": 150.1},
])  # fmt: skip
def test_other_frames_and_axes_are_turned_to_icrs(cards: dict[str, Any]) -> None:
    wcs = wcs_of(**cards)
    x, y = pixels(30, 0)
    there = wcs.pixel_to_world(x, y).icrs
    sky = pixel_to_world(wcs, x, y)
    np.testing.assert_allclose(sky, np.stack([there.ra.deg, there.dec.deg], axis=1), atol=1e-9)
    np.testing.assert_allclose(world_to_pixel(wcs, *sky.T), np.stack([x, y], axis=1), atol=1e-4)


@pytest.mark.parametrize("kind", WCS_KINDS)
def test_places_far_from_a_tile_have_no_pixel_on_it(kind: str) -> None:
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 3000), np.degrees(np.arcsin(rng.uniform(-1, 1, 3000)))
    ra[:3], dec[:3] = [330.1, 150.1, np.nan], [-2.2, 91.0, 2.2]  # the antipode, no declination, no number
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = world_to_pixel(named(kind), ra, dec)
    inside = (found >= -0.5).all(axis=1) & (found[:, 0] < SHAPE[1]) & (found[:, 1] < SHAPE[0])
    assert not inside.any()
    assert np.isnan(found[:3]).all()


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (12.0, 90.0), (200.0, -89.99)])
def test_the_seam_of_right_ascension_and_the_poles_are_places_like_others(ra: float, dec: float) -> None:
    wcs = wcs_of(ra=ra, dec=dec)
    x, y = pixels(200, 0)
    sky = pixel_to_world(wcs, x, y)
    assert (sky[:, 0] >= 0).all()
    assert (sky[:, 0] < 360).all()
    np.testing.assert_allclose(world_to_pixel(wcs, sky[:, 0] - 360, sky[:, 1]), np.stack([x, y], axis=1), atol=1e-5)


def test_no_sources_have_no_pixels() -> None:
    assert world_to_pixel(wcs_of(), [], []).shape == (0, 2)


def test_axes_that_are_no_sky_are_named() -> None:
    with pytest.raises(DataError, match="CTYPE1, CTYPE2 and RADESYS"):
        world_to_pixel(wcs_of(CTYPE1="HPLN-TAN", CTYPE2="HPLT-TAN"), [1.0], [2.0])


def test_the_scale_is_the_one_of_the_header() -> None:
    assert 3600 * pixel_scale_deg(wcs_of(turn=33.0)) == pytest.approx(ARCSEC)


def stamp_wcs(columns: dict[str, np.ndarray], row: int) -> Any:
    from astropy.wcs import WCS

    head = header_of("TAN")
    for name, values in columns.items():
        head[name.removeprefix("wcs_").upper()] = values[row]
    return WCS(head)


def largest_miss(wcs: Any, side: int, where: tuple[float, float]) -> float:
    """Pixels between the affine and the full WCS at one pixel of 60 stamps, `where` as fractions of the side."""
    first = origins(*pixels(60, 0), side)
    columns = affine_wcs(wcs, first, side)
    at = np.array(where) * (side - 1)
    misses = []
    for row, corner in enumerate(first):
        sky = pixel_to_world(wcs, *(corner + at)[:, None])
        misses.append(np.linalg.norm(world_to_pixel(stamp_wcs(columns, row), *sky.T)[0] - at))
    return float(max(misses))


@pytest.mark.parametrize("kind", WCS_KINDS)
def test_the_affine_wcs_is_the_full_one_at_the_centre(kind: str) -> None:
    assert largest_miss(named(kind), 64, (0.5, 0.5)) < 1e-4
    assert largest_miss(named(kind), 65, (0.5, 0.5)) < 1e-4


@pytest.mark.parametrize(("kind", "most"), [("TAN", 1e-6), ("SIP", 0.1), ("TPV", 0.2), ("tables", 0.6)])
def test_the_affine_wcs_misses_at_the_corners_by_the_curvature_of_the_distortion(kind: str, most: float) -> None:
    assert largest_miss(named(kind), 64, (1.0, 0.0)) < most


def test_the_affine_wcs_of_a_tan_tile_has_its_own_cd_matrix() -> None:
    wcs = wcs_of(turn=20.0)
    columns = affine_wcs(wcs, [[218, 178]], 64)  # the centre of the stamp is the reference pixel of the tile
    found = [columns[f"wcs_cd{i}_{j}"][0] for i in (1, 2) for j in (1, 2)]
    np.testing.assert_allclose(found, wcs.wcs.cd.ravel(), rtol=1e-6)
    assert columns["wcs_crpix1"][0] == 32.5
    assert columns["wcs_crval2"][0] == pytest.approx(2.2, abs=1e-3)


def test_the_affine_wcs_knows_the_pole() -> None:
    wcs = wcs_of(dec=90.0)
    columns = affine_wcs(wcs, [[218, 178]], 64)
    assert np.hypot(columns["wcs_cd1_1"], columns["wcs_cd2_1"])[0] * 3600 == pytest.approx(ARCSEC, rel=1e-5)


def test_the_affine_wcs_of_a_camera_agrees_at_the_corners_too(shared_data: Path) -> None:
    from astropy.io import fits
    from astropy.wcs import WCS

    path = next((shared_data / "galaxy" / "legacypipe_ccds" / "testcase12").rglob("*_ooi_*.fits"))
    with warnings.catch_warnings(), fits.open(path) as units:
        warnings.simplefilter("ignore")
        wcs = WCS(next(unit.header for unit in units if unit.is_image and unit.header.get("CTYPE1")))
    assert largest_miss(wcs, 64, (0.5, 0.5)) < 1e-6
    assert largest_miss(wcs, 64, (1.0, 0.0)) < 0.005
