"""Whole units are dealt so that parts have even shares of each class, whatever the order of units."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.dealing import deal_units

THIRDS = np.full(3, 1 / 3)


def distance(counts: np.ndarray, shares: np.ndarray, part: np.ndarray) -> float:
    """What is minimised, written out."""
    total = 0.0
    for column in [*counts.T, counts.sum(axis=1)]:
        if column.sum():
            for s, share in enumerate(shares):
                total += (column[part == s].sum() / column.sum() - share) ** 2 / share
    return total


def test_a_deal_by_hand() -> None:
    # 6 + 3 of each class in halves can only be {6} and {3, 3} of one class against {3, 3} and {6} of the other.
    counts = np.array([[6, 0], [3, 0], [3, 0], [0, 6], [0, 3], [0, 3]])
    part = deal_units(counts, np.array([0.5, 0.5]), np.arange(6))
    assert [counts[part == s].sum(axis=0).tolist() for s in (0, 1)] == [[6, 6], [6, 6]]
    assert part[1] == part[2] != part[0]


def test_shares_may_differ_and_a_share_of_nothing_gets_nothing() -> None:
    counts = np.tile([[1, 0], [0, 1]], (20, 1))
    part = deal_units(counts, np.array([0.7, 0.0, 0.3]), np.arange(40))
    assert [counts[part == s].sum(axis=0).tolist() for s in range(3)] == [[14, 14], [0, 0], [6, 6]]


def test_one_large_site_leaves_no_fold_empty() -> None:
    # A defect elsewhere: folds without a sample, or with one class, are made and scored.
    counts = np.array([[90, 10], [3, 0], [0, 4], [2, 1]])
    part = deal_units(counts, THIRDS, np.arange(4))
    assert sorted(np.bincount(part, minlength=3).tolist()) == [1, 1, 2]


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=6), seed=st.integers(0, 9))
def test_close_to_the_best_of_all_deals_and_independent_of_the_order_of_units(
    counts: list[tuple[int, int]], seed: int
) -> None:
    table = np.array(counts) + np.array([[1, 0]])
    names = np.random.default_rng(seed).permutation(len(table))
    part = deal_units(table, THIRDS, names)
    best = min(distance(table, THIRDS, np.array(each)) for each in product(range(3), repeat=len(table)))
    assert distance(table, THIRDS, part) <= 1.5 * best + 0.05
    assert {*part.tolist()} == {0, 1, 2}
    shuffle = np.random.default_rng(seed + 1).permutation(len(table))
    assert np.array_equal(deal_units(table[shuffle], THIRDS, names[shuffle]), part[shuffle])


def test_no_move_or_swap_would_help() -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson(rng.gamma(0.5, 30, (24, 1)) * rng.dirichlet([0.4] * 3, 24)) + np.array([1, 0, 0])
    shares = np.array([0.6, 0.15, 0.25])
    part = deal_units(counts, shares, np.arange(24))
    found = distance(counts, shares, part)
    for unit, other in product(range(24), range(3)):
        moved = part.copy()
        moved[unit] = other
        assert distance(counts, shares, moved) >= found - 1e-9
    for one, two in product(range(24), range(24)):
        swapped = part.copy()
        swapped[[one, two]] = part[[two, one]]
        assert distance(counts, shares, swapped) >= found - 1e-9


def test_a_thousand_patients_come_within_a_sample_of_their_shares() -> None:
    rng = np.random.default_rng(0)
    counts = np.eye(4, dtype=int)[rng.choice(4, 1000, p=[0.6, 0.3, 0.08, 0.02])]
    part = deal_units(counts, np.array([0.8, 0.2]), rng.permutation(1000))
    assert (np.abs(counts[part == 1].sum(axis=0) - 0.2 * counts.sum(axis=0)) < 1).all()
