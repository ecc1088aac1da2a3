"""Groups on the sky: what chains of near sources connect, named by their smallest id."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.data_prep import crossmatch
from sciencessl.data_prep.groups import percolation, sky_groups
from sciencessl.data_prep.sky import separation_arcsec
from sciencessl.errors import ConfigError, DataError


def brute_force(ids: list[str], ra: np.ndarray, dec: np.ndarray, radii: np.ndarray) -> list[str]:
    """Names handed on along every link until nothing changes."""
    linked = separation_arcsec(ra[:, None], dec[:, None], ra, dec) <= np.maximum(radii[:, None], radii)
    names = list(ids)
    while True:
        after = [min(names[j] for j in np.flatnonzero(row)) for row in linked]
        if after == names:
            return names
        names = after


FIELDS = {"across RA 0": (359.999, 0.0), "north pole": (40.0, 89.9995), "south pole": (0.0, -89.9995)}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("several", [False, True])
def test_groups_agree_with_brute_force(field: str, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossmatch, "PAIRS", 50)  # many blocks
    rng = np.random.default_rng(1)
    n, (ra0, dec0) = 300, FIELDS[field]
    side = 0.02
    if abs(dec0) > 80:
        ra, dec = rng.uniform(0, 360, n), np.sign(dec0) * (90 - rng.uniform(0, side / 2, n))
    else:
        ra, dec = (ra0 + rng.uniform(0, side, n)) % 360, dec0 + rng.uniform(0, side, n)
    radii = rng.choice([0.5, 1.5, 4.0], n) if several else np.full(n, 1.5)
    ids = [f"s{k:03d}" for k in rng.permutation(n)]
    expected = brute_force(ids, ra, dec, radii)
    assert len(set(expected)) < n
    assert sky_groups(ids, ra, dec, radii if several else 1.5) == expected


def test_order_of_rows_changes_no_name() -> None:
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 0.02, 200), rng.uniform(0, 0.02, 200)
    ids = [f"g{k}" for k in range(200)]
    first = dict(zip(ids, sky_groups(ids, ra, dec, 3.0), strict=True))
    order = rng.permutation(200)
    moved = [ids[k] for k in order]
    assert dict(zip(moved, sky_groups(moved, ra[order], dec[order], 3.0), strict=True)) == first


def test_a_chain_is_one_group_and_a_gap_ends_it() -> None:
    dec = np.array([0, 1, 2, 5.0]) / 3600
    assert sky_groups(["b", "c", "a", "d"], np.zeros(4), dec, 1.5) == ["a", "a", "a", "d"]


def test_a_source_that_one_large_stamp_shows_is_linked_whatever_its_own_size() -> None:
    ra, dec = np.array([10.0, 10.0]), np.array([0, 9.0]) / 3600
    assert sky_groups(["a", "b"], ra, dec, np.array([1.0, 10.0])) == ["a", "a"]
    assert sky_groups(["a", "b"], ra, dec, np.array([1.0, 8.0])) == ["a", "b"]


def test_one_place_many_times_takes_no_pairs() -> None:
    n = 100_000  # all pairs would be 120 GB
    ids = [f"{k:06d}" for k in range(n)]
    assert set(sky_groups(ids, np.zeros(n), np.zeros(n))) == {"000000"}


def test_no_sources_make_no_groups() -> None:
    assert sky_groups([], np.zeros(0), np.zeros(0)) == []


def test_a_missing_position_is_named() -> None:
    with pytest.raises(DataError, match=r"sources to be grouped: 1 of 2 positions .* row 1"):
        sky_groups(["a", "b"], np.array([1, np.nan]), np.zeros(2))


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(DataError, match="2 positions and 1 different ids of 2"):
        sky_groups(["a", "a"], np.zeros(2), np.zeros(2))


@pytest.mark.parametrize("radius", [-1.0, np.nan])
def test_a_radius_is_a_number_from_zero(radius: float) -> None:
    with pytest.raises(ConfigError, match="expected arcsec of 0 or more"):
        sky_groups(["a"], np.zeros(1), np.zeros(1), radius)


def test_a_group_of_more_than_a_tenth_is_told() -> None:
    said = percolation(["a"] * 11 + [f"x{k}" for k in range(89)])
    assert said.startswith("group 'a' holds 11 of 100 sources (11%)")
    assert percolation(["a"] * 10 + [f"x{k}" for k in range(90)]) == ""


def test_pairs_among_a_few_sources_are_no_percolation() -> None:
    assert percolation(["a", "a", "b"]) == ""
    assert percolation([]) == ""
