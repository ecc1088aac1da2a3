"""Positions on the sky: what catalogues write, and separations that hold at small and at large angles."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import Angle, SkyCoord

from sciencessl.data_prep.sky import (
    angle_arcsec,
    chord,
    require_positions,
    separation_arcsec,
    sky_positions,
    unit_vectors,
)
from sciencessl.errors import DataError


def random_sky(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.uniform(0, 360, n), np.rad2deg(np.arcsin(rng.uniform(-1, 1, n)))


def test_separations_agree_with_an_independent_library_over_the_whole_sky() -> None:
    rng = np.random.default_rng(0)
    first, second = random_sky(rng, 500), random_sky(rng, 500)
    expected = SkyCoord(*first, unit="deg").separation(SkyCoord(*second, unit="deg")).arcsec
    np.testing.assert_allclose(separation_arcsec(*first, *second), expected, rtol=1e-12)


@pytest.mark.parametrize("dec", [0.0, 60.0, -89.9999, 90.0])
@pytest.mark.parametrize("step", [1e-6, 1e-3, 1.0])
def test_small_steps_in_dec_have_their_length_everywhere(dec: float, step: float) -> None:
    other = dec - np.copysign(step / 3600, dec)
    assert separation_arcsec(10.0, dec, 10.0, other) == pytest.approx(step, abs=1e-9)


def test_separation_across_ra_zero_is_short() -> None:
    assert separation_arcsec(359.9999, 0.0, 0.0001, 0.0) == pytest.approx(0.72, abs=1e-9)
    assert separation_arcsec(-0.0001, 0.0, 359.9999, 0.0) == pytest.approx(0, abs=1e-9)


def test_opposite_places_are_half_a_turn_apart() -> None:
    assert separation_arcsec(20.0, 33.0, 200.0, -33.0) == pytest.approx(180 * 3600, rel=1e-14)


def test_chord_and_angle_invert_each_other() -> None:
    angles = np.array([0, 1e-6, 1.5, 3600, 90 * 3600, 180 * 3600])
    np.testing.assert_allclose(angle_arcsec(chord(angles)), angles, rtol=1e-8)
    assert chord(60 * 3600) == pytest.approx(1)


def test_unit_vectors_have_length_one_and_point_at_the_pole() -> None:
    vectors = unit_vectors(np.array([0.0, 90.0, 123.0]), np.array([0.0, 0.0, 90.0]))
    np.testing.assert_allclose(vectors, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], atol=1e-15)


def test_sexagesimal_text_agrees_with_an_independent_parser() -> None:
    ra = ["10:20:30.4", "10h20m30.4s", "10 20 30.4", "00:00:01", "23h59m59.99s", "155d07m36s", "10:20"]
    dec = ["-00:30:15", "+12d30m00.5s", "-89 59 59.9", "+00:00:00.1", "-0d0m1s", "-10:30", "\u221210:20:30"]
    found_ra, found_dec, bad = sky_positions(ra, dec)
    assert not bad
    hours = [text if "d" in text else Angle(text, units.hourangle).deg for text in ra]
    expected = [Angle(text).deg if isinstance(text, str) else text for text in hours]
    np.testing.assert_allclose(found_ra, expected, atol=1e-12)
    np.testing.assert_allclose(found_dec, [Angle(t.replace("\u2212", "-"), units.deg).deg for t in dec], atol=1e-12)


def test_numbers_are_degrees_as_text_too() -> None:
    ra, dec, bad = sky_positions(["150.25", 150.25, "1.5e2", "-90.0", np.float32(2)], ["-2.5", -2.5, "+.5", "0", 1])
    assert not bad
    np.testing.assert_array_equal(ra, [150.25, 150.25, 150, 270, 2])
    np.testing.assert_array_equal(dec, [-2.5, -2.5, 0.5, 0, 1])


def test_ra_lies_below_a_full_turn() -> None:
    ra, _, bad = sky_positions(np.array([360.0, -1e-20, -180.0, 359.5]), np.zeros(4))
    assert not bad
    np.testing.assert_array_equal(ra, [0, 0, 180, 359.5])


@pytest.mark.parametrize(("ra", "dec", "said"), [
    (None, 1, "ra is missing"),
    ("", 1, "ra is missing"),
    (1.0, float("nan"), "dec is missing"),
    (400, 1, "ra 400 lies outside -180 to 360 degrees"),
    (float("inf"), 1, "ra inf is neither a number of degrees nor hours"),
    (-99, -99, "dec -99 lies outside -90 to 90 degrees"),
    (1, "95:00:00", "dec 95:00:00 lies outside -90 to 90 degrees"),
    ("25:00:00", 1, "ra '25:00:00' lies outside 0 to 24 hours"),
    ("-10:00:00", 1, "ra '-10:00:00' lies outside 0 to 24 hours"),
    ("10:75:00", 1, "ra '10:75:00' has 75 minutes"),
    ("10:203", 1, "ra '10:203' has 203 minutes"),
    (1, "10h00m00s", "dec '10h00m00s' is in hours"),
    ("150,25", 1, "ra '150,25' is neither a number of degrees nor hours"),
    ("1_0", 1, "ra '1_0' is neither"),
    ("abc", "def", "ra 'abc' is neither a number of degrees nor hours such as 10:20:30.4; dec 'def' is neither"),
])
def test_a_bad_row_has_a_reason_and_spoils_no_other(ra: object, dec: object, said: str) -> None:
    found_ra, found_dec, bad = sky_positions([5.0, ra, "00:00:04"], [6.0, dec, "00:00:04"])
    assert list(bad) == [1]
    assert said in bad[1]
    assert np.isnan([found_ra[1], found_dec[1]]).all()
    np.testing.assert_allclose(found_ra[[0, 2]], [5, 1 / 60])
    np.testing.assert_allclose(found_dec[[0, 2]], [6, 4 / 3600])


def test_infinite_numbers_of_an_array_are_out_of_range() -> None:
    _, _, bad = sky_positions(np.array([np.inf, 1.0]), np.array([1.0, -np.inf]))
    assert bad == {0: "ra inf lies outside -180 to 360 degrees", 1: "dec -inf lies outside -90 to 90 degrees"}


def test_no_rows_give_no_rows() -> None:
    ra, dec, bad = sky_positions([], [])
    assert (len(ra), len(dec), bad) == (0, 0, {})


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="2 values of ra and 1 of dec; expected one of each a row"):
        sky_positions([1, 2], [1])


@pytest.mark.parametrize(("ra", "dec", "said"), [
    ([1, np.nan, 2], [0, 0, 0], "1 of 3 positions are no places on the sky, the first in row 1 .from 0.: ra nan"),
    ([1, 2, 3], [0, 91, -91], "2 of 3 positions .* row 1 .from 0.: ra 2, dec 91"),
])
def test_positions_that_are_required_name_the_first_bad_row(ra: list[float], dec: list[float], said: str) -> None:
    with pytest.raises(DataError, match=f"catalogue: {said}"):
        require_positions(np.array(ra), np.array(dec), "catalogue")
