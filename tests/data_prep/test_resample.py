"""Resampled stamps: flux, centre and width of stars, holes, variance, bits, and real pairs of two scales."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import erf

from sciencessl.data_prep.cutouts import origins
from sciencessl.data_prep.resample import Planes, north_up, reproject_stamps, resample_stamps
from sciencessl.data_prep.sky_wcs import pixel_to_world, world_to_pixel
from tests.data_prep.sky_scenes import DISTORTIONS, bent_by_tables, wcs_of

pytest.importorskip("astropy")


def gaussian(side: int, xy: np.ndarray, sigma: float) -> np.ndarray:
    """Flux of a star of flux 1 in each pixel: its integral."""
    shares = [np.diff(erf((np.arange(side + 1) - 0.5 - c) / sigma / np.sqrt(2))) / 2 for c in xy]
    return shares[1][:, None] * shares[0][None]


def moffat(side: int, xy: np.ndarray, width: float, beta: float = 3.0) -> np.ndarray:
    """The same for a Moffat profile, summed over 9 x 9 points a pixel."""
    fine = (np.arange(side * 9) + 0.5) / 9 - 0.5
    r2 = (fine[:, None] - xy[1]) ** 2 + (fine[None] - xy[0]) ** 2
    light = (beta - 1) / (np.pi * width**2) * (1 + r2 / width**2) ** -beta / 81
    return light.reshape(side, 9, side, 9).sum(axis=(1, 3))


def distance(side: int, middle: Any = None) -> np.ndarray:
    x, y = ((side - 1) / 2,) * 2 if middle is None else middle
    return np.hypot(np.arange(side)[:, None] - y, np.arange(side)[None] - x)


def aperture(side: int, radius: float, middle: Any = None) -> np.ndarray:
    """Share of each pixel within a circle, by 11 x 11 points."""
    x, y = ((side - 1) / 2,) * 2 if middle is None else middle
    fine = (np.arange(side * 11) + 0.5) / 11 - 0.5
    inside = np.hypot(fine[:, None] - y, fine[None] - x) <= radius
    return inside.reshape(side, 11, side, 11).mean(axis=(1, 3))


def planes(flux: np.ndarray, **given: Any) -> Planes:
    flux = np.asarray(flux, dtype=np.float64).reshape(-1, 1, *np.shape(flux)[-2:])
    return Planes(flux, np.isfinite(flux), **given)


@pytest.mark.parametrize("ratio", [0.5, 0.83, 1.0, 1.7, 2.5])
@pytest.mark.parametrize("star", [gaussian, moffat])
def test_stars_keep_their_flux_and_stand_at_the_centre(star: Any, ratio: float) -> None:
    rng = np.random.default_rng(0)
    centres, side, width = rng.uniform(39.5, 40.5, (12, 2)), int(60 / ratio), 1.3
    stamps = np.stack([star(81, centre, width) for centre in centres])
    new = resample_stamps(planes(stamps), centres, ratio, side).flux[:, 0]
    truth = [(aperture(81, 9.0, centre) * stamp).sum() for centre, stamp in zip(centres, stamps, strict=True)]
    np.testing.assert_allclose((new * aperture(side, 9.0 / ratio)).sum(axis=(1, 2)), truth, rtol=0.005)
    near, away = distance(side) < 4 / ratio, np.arange(side) - (side - 1) / 2
    mean_x = (new * near * away).sum(axis=(1, 2)) / (new * near).sum(axis=(1, 2))
    np.testing.assert_allclose(mean_x, 0, atol=0.03)  # of that, 0.01 is where the old pixels cut the star


def test_smaller_pixels_show_no_blocks_and_half_a_pixel_of_shift_no_blur() -> None:
    centre = np.array([40.5, 40.0])
    for ratio in (0.4, 1.0):
        side = int(30 / ratio) | 1
        new = resample_stamps(planes(gaussian(81, centre, 1.4)), centre[None], ratio, side).flux[0, 0]
        truth = gaussian(side, np.full(2, (side - 1) / 2), 1.4 / ratio)
        assert np.abs(new - truth).max() < 0.03 * truth.max()


def test_pixels_that_hold_whole_old_ones_are_their_sums_and_the_same_grid_is_left_alone() -> None:
    image = np.random.default_rng(1).normal(size=(21, 21))
    binned = resample_stamps(planes(image), [[9.5, 9.5]], 2.0, 6)
    np.testing.assert_allclose(binned.flux[0, 0], image[4:16, 4:16].reshape(6, 2, 6, 2).sum(axis=(1, 3)), atol=1e-12)
    mean = resample_stamps(planes(image), [[9.5, 9.5]], 2.0, 6, flux_per_pixel=False)
    np.testing.assert_allclose(4 * mean.flux, binned.flux)
    same = resample_stamps(planes(image), [[10, 10]], 1.0, 13)
    np.testing.assert_allclose(same.flux[0, 0], image[4:17, 4:17], atol=1e-12)


def test_good_pixels_stand_for_missing_ones_until_too_few_are_left() -> None:
    image = np.full((30, 30), 5.0)
    image[10:13, 10:13], image[20] = np.nan, np.nan
    for ratio in (0.7, 1.3, 2.0):
        new = resample_stamps(planes(image), [[14.6, 15.1]], ratio, 12, flux_per_pixel=False)
        np.testing.assert_allclose(new.flux[new.good], 5.0)
        np.testing.assert_array_equal(np.isnan(new.flux), ~new.good)
        assert 0 < (~new.good).sum() < 40
    off = resample_stamps(planes(np.ones((8, 8))), [[0.0, 4.0]], 1.0, 6)
    assert off.good[0, 0].tolist() == [[False] * 2 + [True] * 4] * 6  # a third of pixels 0 and 1 lies on the stamp


@pytest.mark.parametrize("ratio", [0.6, 1.0, 2.2])
def test_variance_is_the_scatter_of_what_noise_becomes(ratio: float) -> None:
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.5, 2.0, (25, 25))
    noise = planes(rng.normal(size=(3000, 25, 25)) * sigma)
    noise.good[:, :, 12, 13] = False
    centre, side = np.tile([12.2, 11.7], (3000, 1)), 7
    scatter = resample_stamps(noise, centre, ratio, side).flux[:, 0].std(axis=0)
    weights = np.broadcast_to(sigma**-2, (1, 1, 25, 25))
    one = Planes(noise.flux[:1], noise.good[:1], ivar=weights)
    told = resample_stamps(one, centre[:1], ratio, side).ivar
    assert told is not None
    known = np.isfinite(scatter)
    np.testing.assert_allclose(told[0, 0][known] ** -0.5, scatter[known], rtol=0.07)
    assert (told[0, 0][~known] == 0).all()
    assert known.sum() >= 44


def test_variance_is_unknown_where_that_of_a_pixel_is_and_bits_come_from_every_pixel() -> None:
    ivar, mask = np.ones((1, 1, 16, 16)), np.zeros((1, 1, 16, 16), dtype=np.int32)
    ivar[..., 5, 5], mask[..., 5, 5], mask[..., 5, 6], mask[..., 15, 15] = 0, 2, 1 << 30, 8
    new = resample_stamps(planes(np.ones((16, 16)), ivar=ivar, mask=mask), [[7.5, 7.5]], 2.0, 6)
    assert new.ivar is not None
    assert new.mask is not None
    assert new.mask.dtype == np.int32
    assert new.mask[0, 0, 0, 0] == 0
    # New pixel (0, 0) begins at old pixel 2, so old (5, 5) and (5, 6) lie in new (1, 1) and (1, 2).
    assert new.mask[0, 0, 1, 1:3].tolist() == [2, 1 << 30]
    assert np.count_nonzero(new.mask) == 2
    assert new.ivar[0, 0, 1, 1] == 0
    assert new.ivar[0, 0, 4, 4] == pytest.approx(0.25)


def test_no_stamps_stay_none() -> None:
    none = planes(np.zeros((0, 9, 9)).reshape(0, 1, 9, 9))
    assert resample_stamps(none, np.zeros((0, 2)), 1.5, 4).flux.shape == (0, 1, 4, 4)
    assert len(reproject_stamps(none, wcs_of(), np.zeros((0, 2)), north_up([], [], 0.3, 4), 4).flux) == 0


@pytest.mark.parametrize("kind", [*DISTORTIONS, "tables"])
@pytest.mark.parametrize("scale", [0.131, 0.262, 0.6])
def test_reprojected_stars_keep_their_flux_and_stand_at_the_centre(kind: str, scale: float) -> None:
    rng, window, wcs = np.random.default_rng(3), 71, bent_by_tables() if kind == "tables" else wcs_of(kind)
    x, y = rng.uniform(60, 400, 6), rng.uniform(60, 300, 6)
    first, side = origins(x, y, window), int(10 / scale)
    places = np.stack([x, y], axis=1) - first
    stamps = planes(np.stack([gaussian(window, place, 1.5) for place in places]))
    target = north_up(*pixel_to_world(wcs, x, y).T, scale, side)
    new = reproject_stamps(stamps, wcs, first, target, side).flux[:, 0]
    np.testing.assert_allclose(new.sum(axis=(1, 2)), 1, rtol=0.001)
    mean_x = (new * (np.arange(side) - (side - 1) / 2)).sum(axis=(1, 2))
    np.testing.assert_allclose(mean_x, 0, atol=0.02)


def test_reprojected_pixels_lie_where_the_target_says() -> None:
    wcs, side = wcs_of("SIP"), 32
    y, x = np.mgrid[:400, :520].astype(float)
    target = north_up(*pixel_to_world(wcs, [200.0], [150.0]).T, 0.3, side)
    found = [
        reproject_stamps(planes(ramp), wcs, [[0, 0]], target, side, flux_per_pixel=False).flux[0, 0] for ramp in (x, y)
    ]
    from astropy.wcs import WCS

    head = WCS(naxis=2)
    head.wcs.ctype, head.wcs.crpix = ["RA---TAN", "DEC--TAN"], [16.5, 16.5]
    head.wcs.crval = pixel_to_world(wcs, [200.0], [150.0])[0]
    head.wcs.cd = np.diag([-0.3, 0.3]) / 3600
    rows, columns = np.mgrid[:side, :side]
    truth = world_to_pixel(wcs, *pixel_to_world(head, columns.ravel(), rows.ravel()).T).reshape(side, side, 2)
    np.testing.assert_allclose(np.stack(found, axis=-1), truth, atol=0.002)


def test_reprojection_carries_holes_variance_and_bits() -> None:
    rng, wcs, side = np.random.default_rng(4), wcs_of(turn=30.0), 9
    first, target = np.array([[200, 150]]), north_up(*pixel_to_world(wcs, [215.0], [165.0]).T, 0.4, side)
    mask = np.zeros((1, 1, 31, 31), dtype=np.uint8)
    mask[..., 15, 15] = 4
    noise = rng.normal(size=(1500, 31, 31))
    bands = Planes(noise[None], np.ones((1, 1500, 31, 31), dtype=bool))  # every draw is a band of one stamp
    scatter = reproject_stamps(bands, wcs, first, target, side).flux[0].std(axis=0)
    one = Planes(bands.flux[:, :1], bands.good[:, :1].copy(), np.ones((1, 1, 31, 31)), mask)
    new = reproject_stamps(one, wcs, first, target, side)
    assert new.ivar is not None
    assert new.mask is not None
    np.testing.assert_allclose(new.ivar[0, 0] ** -0.5, scatter, rtol=0.08)
    assert new.mask[0, 0, 4, 4] == 4
    assert np.count_nonzero(new.mask) <= 9
    one.flux[...], one.good[..., 14:17, 14:17] = 2.0, False
    holed = reproject_stamps(one, wcs, first, target, side, flux_per_pixel=False)
    assert not holed.good[0, 0, 4, 4]
    np.testing.assert_allclose(holed.flux[holed.good], 2.0)


@pytest.mark.parametrize("name", ["HSC", "HST"])
def test_real_sources_of_two_surveys_keep_their_flux_at_each_others_scale(shared_data: Path, name: str) -> None:
    from astropy.io import fits
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(shared_data / "galaxy" / "hsc_scarlet" / f"Cut_{name}.fits") as units:
            wcs, image = WCS(units[0].header).celestial, np.atleast_3d(units[0].data.T).T.astype(np.float64)
    native, other = {"HSC": (0.168, 0.03), "HST": (0.03, 0.168)}[name]
    image = image[min(2, len(image) - 1)]
    radius, size = 2.0, image.shape[0]  # its rim is faint, so that pixels on it, which differ in size, weigh little
    inner = slice(size // 3, -(size // 3))
    y, x = np.array(np.unravel_index(np.argmax(image[inner, inner]), image[inner, inner].shape)) + size // 3
    before = (image * aperture(size, radius / native, (x, y))).sum()
    side = int(2 * 2.3 / other)
    target = north_up(*pixel_to_world(wcs, [x], [y]).T, other, side)
    both = (
        reproject_stamps(planes(image), wcs, [[0, 0]], target, side),
        resample_stamps(planes(image), [[x, y]], other / native, side),
    )
    for new in both:
        assert (new.flux[0, 0] * aperture(side, radius / other)).sum() == pytest.approx(before, rel=0.005)
