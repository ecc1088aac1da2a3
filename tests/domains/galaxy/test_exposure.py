"""An exposure: PSF, flux, noise and defects, and what masks and weights say of them."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.domains.galaxy.exposure import (
    BAD_COLUMN,
    PIXEL_SCALE,
    SATURATED,
    SATURATION,
    Exposure,
    Stars,
    draw_stars,
    expose,
    moffat,
    paste,
)

SIZE = 300


@pytest.fixture(scope="module")
def stars() -> Stars:
    return draw_stars(SIZE, SIZE, np.array([[150.3, 149.8]]), np.random.default_rng(0))


@pytest.fixture(scope="module")
def seen(stars: Stars) -> Exposure:
    return expose(np.zeros((3, SIZE, SIZE), np.float32), stars, np.random.default_rng(1))


def test_moffat_has_its_width_place_and_unit_sum() -> None:
    offset = np.array([[0.0, 0.0], [0.3, -0.45]])
    centred, moved = moffat(4.0, offset)
    np.testing.assert_allclose([centred.sum(), moved.sum()], 1.0, rtol=1e-12)
    # Half of the maximum at half of the full width.
    np.testing.assert_allclose(centred[20, 22] / centred[20, 20], 0.5, rtol=1e-12)
    down, across = np.indices(moved.shape) - 20
    np.testing.assert_allclose([(moved * across).sum(), (moved * down).sum()], offset[1], atol=2e-3)


def test_extended_light_is_blurred_and_keeps_its_flux() -> None:
    scene = np.zeros((3, 121, 121), np.float32)
    scene[:, 60, 60] = 30.0
    seen = expose(scene, Stars(np.empty((0, 2)), np.empty((0, 3))), np.random.default_rng(3))
    for band, name in enumerate("grz"):
        profile = 30 * moffat(seen.seeing[name] / PIXEL_SCALE, np.zeros((1, 2)))[0]
        window = np.s_[band, 40:81, 40:81]
        pull = (seen.clean[window] - profile) * np.sqrt(seen.ivar[window])
        assert abs(pull[seen.ivar[window] > 0].std() - 1) < 0.06
        assert abs(seen.clean[window].sum() - 30) < 4 * 0.018 * 41 + 0.3


def test_weights_are_the_inverse_variance_of_the_noise(stars: Stars, seen: Exposure) -> None:
    again = expose(np.zeros((3, SIZE, SIZE), np.float32), stars, np.random.default_rng(2))
    for band in range(3):
        good = (seen.ivar[band] > 0) & (again.ivar[band] > 0)
        # Different seeing changes stars, so compare where there is none.
        good &= np.abs(seen.flux[band]) < 4 / np.sqrt(np.median(seen.ivar[band]))
        pull = (seen.flux[band] - again.flux[band])[good] * np.sqrt(seen.ivar[band][good] / 2)
        assert abs(1.4826 * np.median(np.abs(pull)) - 1) < 0.02


def test_a_bright_star_saturates_and_bleeds_along_its_column(seen: Exposure) -> None:
    for band in range(3):
        bled = (seen.mask[band] & SATURATED) != 0
        rows, columns = np.nonzero(bled)
        assert abs(columns.mean() - 150.3) < 1
        assert np.ptp(columns) < 20 < np.ptp(rows)
        assert (seen.flux[band][bled & ((seen.mask[band] & BAD_COLUMN) == 0)] == SATURATION).all()
        assert np.nanmax(seen.flux[band]) == SATURATION


def test_defects_have_no_weight_and_masks_tell_all_but_a_lost_block(seen: Exposure) -> None:
    lost = ~np.isfinite(seen.flux)
    assert 1 <= lost.sum() <= 144
    np.testing.assert_array_equal(seen.ivar == 0, (seen.mask != 0) | lost)
    for band in range(3):
        whole = ((seen.mask[band] & BAD_COLUMN) != 0).all(axis=0)
        assert whole.sum() == 1
        assert ((seen.mask[band] & BAD_COLUMN) != 0).sum() == whole.sum() * SIZE
    assert np.isfinite(seen.clean).all()


def test_paste_cuts_off_what_lies_beyond() -> None:
    light = np.arange(1.0, 10.0).reshape(1, 3, 3)
    for x, y in ((-1, -1), (3, 2), (1, 1), (9, 0), (-3, 0)):
        canvas = np.zeros((1, 4, 5))
        paste(canvas, light, x, y)
        wide = np.zeros((1, 24, 25))
        wide[:, 10 + y : 13 + y, 10 + x : 13 + x] = light
        np.testing.assert_array_equal(canvas, wide[:, 10:14, 10:15])
