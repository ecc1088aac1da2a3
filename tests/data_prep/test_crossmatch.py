"""Crossmatches against an independent library and brute force: RA 0/360, poles, duplicates, ties, bad rows."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord

from sciencessl.data_prep.crossmatch import match_all, match_one_to_one, nearest_within
from sciencessl.data_prep.sky import separation_arcsec
from sciencessl.errors import ConfigError, DataError

Catalogue = tuple[np.ndarray, np.ndarray]
FIELDS = ("whole sky", "across RA 0", "north pole", "south pole")


def two_catalogues(field: str, rng: np.random.Generator, n: int = 400) -> tuple[Catalogue, Catalogue]:
    """The second has each of the first about 1 arcsec off, in another order, and as many others."""
    if field == "whole sky":
        ra, dec = rng.uniform(0, 360, 2 * n), np.rad2deg(np.arcsin(rng.uniform(-1, 1, 2 * n)))
    elif field == "across RA 0":
        ra, dec = rng.uniform(-0.02, 0.02, 2 * n) % 360, rng.uniform(-0.02, 0.02, 2 * n)
    else:
        sign = 1 if field == "north pole" else -1
        ra, dec = rng.uniform(0, 360, 2 * n), sign * (90 - 0.02 * np.sqrt(rng.uniform(0, 1, 2 * n)))
    order = rng.permutation(2 * n)
    moved = SkyCoord(ra, dec, unit="deg").directional_offset_by(
        rng.uniform(0, 360, 2 * n) * units.deg, rng.exponential(1.0, 2 * n) * units.arcsec)
    return (ra[:n], dec[:n]), (moved.ra.deg[order], moved.dec.deg[order])


def distances(first: Catalogue, second: Catalogue) -> np.ndarray:
    return separation_arcsec(first[0][:, None], first[1][:, None], *second)


@pytest.mark.parametrize("field", FIELDS)
def test_one_to_one_agrees_with_brute_force_and_an_independent_library(field: str) -> None:
    # A defect elsewhere: pairs are lost at the borders of the cells that the sky is cut into, and at RA 0/360.
    first, second = two_catalogues(field, np.random.default_rng(0))
    found = match_one_to_one(*first, *second, 3.0)
    every = distances(first, second)
    forth, back = every.argmin(axis=1), every.argmin(axis=0)
    rows = np.flatnonzero((back[forth] == np.arange(len(forth))) & (every.min(axis=1) <= 3))
    assert 250 < len(rows) < 400
    np.testing.assert_array_equal(found.first, rows)
    np.testing.assert_array_equal(found.second, forth[rows])
    np.testing.assert_allclose(found.separation_arcsec, every[rows, forth[rows]], atol=1e-9)
    near = every <= 3
    several = (near.sum(axis=1)[found.first] > 1) | (near.sum(axis=0)[found.second] > 1)
    np.testing.assert_array_equal(found.ambiguous, several)
    index, separation, _ = SkyCoord(*first, unit="deg").match_to_catalog_sky(SkyCoord(*second, unit="deg"))
    np.testing.assert_array_equal(index[found.first], found.second)
    np.testing.assert_allclose(separation.arcsec[found.first], found.separation_arcsec, atol=1e-7)


@pytest.mark.parametrize("field", FIELDS)
def test_all_pairs_agree_with_brute_force(field: str) -> None:
    first, second = two_catalogues(field, np.random.default_rng(1))
    found = match_all(*first, *second, 5.0)
    every = distances(first, second)
    expected = {(int(i), int(j)) for i, j in zip(*np.nonzero(every <= 5), strict=True)}
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert len(found.first) == len(expected)
    np.testing.assert_allclose(found.separation_arcsec, every[found.first, found.second], atol=1e-9)
    same = np.diff(found.first) == 0
    assert (np.diff(found.first) >= 0).all()
    assert (np.diff(found.separation_arcsec)[same] >= 0).all()


def test_no_row_is_in_two_pairs_and_swapping_the_catalogues_changes_no_pair() -> None:
    first, second = two_catalogues("across RA 0", np.random.default_rng(2))
    forth, back = match_one_to_one(*first, *second, 60), match_one_to_one(*second, *first, 60)
    assert len(set(forth.second.tolist())) == len(forth.second)
    assert set(zip(forth.first, forth.second, strict=True)) == set(zip(back.second, back.first, strict=True))


def test_of_duplicates_the_first_row_is_matched_on_either_side() -> None:
    ra, dec = np.array([10, 20, 10, 10.0]), np.zeros(4)
    found = match_one_to_one(ra, dec, np.array([20, 10, 10.0]), np.zeros(3), 1)
    np.testing.assert_array_equal([found.first, found.second], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(found.ambiguous, [True, False])


def test_of_two_that_are_equally_near_the_first_row_is_matched() -> None:
    dec = np.array([-1, 1.0]) / 3600
    for order in ([0, 1], [1, 0]):
        found = match_one_to_one(np.zeros(1), np.zeros(1), np.zeros(2), dec[order], 2)
        assert (found.second.tolist(), found.ambiguous.tolist()) == ([0], [True])


def test_the_radius_is_inclusive_and_may_be_zero() -> None:
    one, step = np.zeros(1), np.array([0.5 / 3600])
    assert len(match_one_to_one(one, one, one, step, 0.5 + 1e-9).first) == 1
    assert len(match_one_to_one(one, one, one, step, 0.5 - 1e-9).first) == 0
    assert len(match_one_to_one(one, one, one, one, 0).first) == 1


def test_a_place_that_occurs_many_times_takes_no_time() -> None:
    many = np.zeros(200_000)  # each with each would be 40 billion distances
    found = match_one_to_one(many, many, many, many, 1)
    assert (found.first.tolist(), found.second.tolist()) == ([0], [0])


@pytest.mark.parametrize("match", [match_one_to_one, match_all])
@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 0), (0, 3)])
def test_empty_catalogues_have_no_pairs(match: object, n: int, m: int) -> None:
    found = match(np.zeros(n), np.zeros(n), np.zeros(m), np.zeros(m), 1)  # type: ignore[operator]
    assert len(found.first) == len(found.second) == len(found.separation_arcsec) == len(found.ambiguous) == 0


def test_a_position_that_is_none_names_catalogue_and_row() -> None:
    good, bad = np.zeros(3), np.array([0, 0, np.nan])
    with pytest.raises(DataError, match=r"second catalogue: 1 of 3 positions .* row 2 .from 0.: ra nan"):
        match_one_to_one(good, good, bad, good, 1)
    with pytest.raises(DataError, match=r"first catalogue: .* dec -91"):
        match_all(good, good - 91, good, good, 1)


@pytest.mark.parametrize("radius", [-1, np.nan, np.inf, 1e6])
def test_a_radius_that_makes_no_sense_is_refused(radius: float) -> None:
    with pytest.raises(ConfigError, match="expected arcsec from 0 to 648000"):
        match_one_to_one(*np.zeros((4, 1)), radius)


@pytest.mark.parametrize("field", FIELDS)
def test_the_nearest_within_either_radius_agrees_with_brute_force(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sciencessl.data_prep.crossmatch.PAIRS", 100)  # many blocks
    rng = np.random.default_rng(4)
    first, second = two_catalogues(field, rng, 300)
    radius1, radius2 = rng.choice([0, 1.0, 8.0], 300), rng.choice([0.5, 5.0], 600)
    row, separation = nearest_within(*first, radius1, *second, radius2)
    every = distances(first, second)
    every[every > np.maximum(radius1[:, None], radius2)] = np.inf
    has = np.isfinite(every).any(axis=1)
    np.testing.assert_array_equal(row, np.where(has, every.argmin(axis=1), -1))
    np.testing.assert_allclose(separation, np.where(has, every.min(axis=1), np.nan), atol=1e-9)


def test_the_nearest_of_duplicates_is_the_first_row() -> None:
    row, separation = nearest_within(np.zeros(2), np.zeros(2), 1, np.array([1, 0, 0.0]), np.zeros(3), 1)
    assert (row.tolist(), separation.tolist()) == ([1, 1], [0, 0])


def test_nobody_is_near_an_empty_catalogue() -> None:
    row, separation = nearest_within(np.zeros(2), np.zeros(2), 1, np.zeros(0), np.zeros(0), 1)
    assert row.tolist() == [-1, -1]
    assert np.isnan(separation).all()
    assert len(nearest_within(np.zeros(0), np.zeros(0), 1, np.zeros(2), np.zeros(2), 1)[0]) == 0
