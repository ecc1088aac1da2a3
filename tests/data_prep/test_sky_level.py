"""Sky and noise against astropy, their bias under a galaxy, and the four policies of filling."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from sciencessl.data_prep.sky_level import fill_missing, sky_and_noise

SKY, NOISE = 3.0, 2.0


@pytest.fixture
def stamps() -> np.ndarray:
    return np.random.default_rng(0).normal(SKY, NOISE, size=(40, 32, 33)).astype(np.float32)


def disk(height: float, amplitude: float) -> np.ndarray:
    yy, xx = np.mgrid[:32, :33]
    return (amplitude * np.exp(-np.hypot(yy - 15.5, xx - 16) / height)).astype(np.float32)


def test_levels_are_those_of_astropy(stamps: np.ndarray) -> None:
    stats = pytest.importorskip("astropy.stats")
    good = np.random.default_rng(1).random(stamps.shape) > 0.2
    stamps[:, 3:9] += 300.0
    stamps[0, 20:] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = stats.sigma_clip(
            np.where(good, stamps, np.nan).astype(float), sigma=3, maxiters=5, cenfunc="median", stdfunc="mad_std",
            axis=(1, 2), masked=False,
        )  # fmt: skip
        theirs = np.nanmedian(left, axis=(1, 2)), stats.mad_std(left, axis=(1, 2), ignore_nan=True)
    sky, noise = sky_and_noise(stamps, good)
    np.testing.assert_allclose(sky, theirs[0], rtol=1e-12)
    np.testing.assert_allclose(noise, theirs[1], rtol=1e-12)


def test_small_stamps_have_the_median_and_the_mad_of_a_plain_count() -> None:
    rng = np.random.default_rng(2)
    for n in range(1, 12):
        values = rng.normal(size=(30, 1, n)).round(1)  # ties too
        middle = np.median(values, axis=(1, 2))
        away = np.abs(values - middle[:, None, None])
        spread = np.median(away, axis=(1, 2))
        once = (away <= 3 * 1.4826 * spread[:, None, None]).all(axis=(1, 2))  # nothing is clipped: no second round
        sky, noise = sky_and_noise(values)
        np.testing.assert_allclose(sky[once], middle[once])
        expected = 1.482602218505602 * spread
        np.testing.assert_allclose(noise[once], expected[once])


def test_noise_alone_gives_its_mean_and_deviation(stamps: np.ndarray) -> None:
    sky, noise = sky_and_noise(stamps)
    assert sky.mean() == pytest.approx(SKY, abs=0.05)
    assert noise.mean() == pytest.approx(NOISE, rel=0.02)


@pytest.mark.parametrize(("height", "share", "lift", "swell"), [(1.0, 0.04, 0.1, 0.03), (2.0, 0.15, 0.3, 0.15)])
def test_a_bright_galaxy_lifts_both_by_what_the_contract_says(
    stamps: np.ndarray, height: float, share: float, lift: float, swell: float
) -> None:
    galaxy = disk(height, 25 * NOISE)
    assert (galaxy > NOISE).mean() < share
    sky, noise = sky_and_noise(stamps + galaxy)
    assert 0 < (sky.mean() - SKY) / NOISE < lift
    assert 0 < noise.mean() / NOISE - 1 < swell
    masked, _ = sky_and_noise(stamps + galaxy, np.broadcast_to(galaxy < 0.01 * NOISE, stamps.shape))
    assert masked.mean() == pytest.approx(SKY, abs=0.08)


def test_stamps_without_a_good_pixel_have_no_level(stamps: np.ndarray) -> None:
    stamps[1] = np.nan
    good = np.ones(stamps.shape, dtype=bool)
    good[2] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sky, noise = sky_and_noise(stamps, good)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(sky)), [1, 2])
    np.testing.assert_array_equal(np.isnan(sky), np.isnan(noise))
    assert sky_and_noise(stamps[:0])[0].shape == (0,)


def test_the_input_is_left_as_it_was(stamps: np.ndarray) -> None:
    before = stamps.copy()
    sky_and_noise(stamps)
    np.testing.assert_array_equal(stamps, before)


def filled(stamps: np.ndarray, policy: str, keys: list[str], rows: slice = slice(None)) -> np.ndarray:
    missing = np.zeros(stamps.shape, dtype=bool)
    missing[..., :16, :] = True
    out = stamps.copy()[rows]
    fill_missing(out, missing[rows], policy, np.full(40, SKY)[rows], np.full(40, NOISE)[rows], keys[rows])  # type: ignore[arg-type]
    np.testing.assert_array_equal(out[:, 16:], stamps[rows][:, 16:])
    return out[:, :16]


def test_policies_write_what_they_say(stamps: np.ndarray) -> None:
    keys = [f"galaxy {i}" for i in range(40)]
    assert np.isnan(filled(stamps, "nan", keys)).all()
    assert (filled(stamps, "zero", keys) == 0).all()
    assert (filled(stamps, "sky", keys) == SKY).all()
    noise = filled(stamps, "noise", keys)
    assert noise.mean() == pytest.approx(SKY, abs=0.06)
    assert noise.std() == pytest.approx(NOISE, rel=0.02)


def test_noise_depends_on_the_key_and_not_on_the_neighbours(stamps: np.ndarray) -> None:
    keys = [f"galaxy {i}" for i in range(40)]
    every = filled(stamps, "noise", keys)
    np.testing.assert_array_equal(filled(stamps, "noise", keys, slice(7, 9)), every[7:9])
    assert not np.array_equal(every[0], every[1])


def test_bands_are_filled_with_their_own_level_and_unknown_sky_stays_missing() -> None:
    stamps, missing = np.zeros((2, 3, 4, 4), dtype=np.float32), np.zeros((2, 3, 4, 4), dtype=bool)
    missing[:, :, 0] = True
    sky = np.array([[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]])
    fill_missing(stamps, missing, "noise", sky, np.zeros((2, 3)), ["a", "b"])
    np.testing.assert_array_equal(stamps[:, :, 0], np.repeat(sky[..., None], 4, axis=-1))
    assert not stamps[:, :, 1:].any()
