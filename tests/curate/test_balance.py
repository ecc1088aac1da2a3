"""How budgets are shared: closed forms, numbers worked by hand, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.curate.balance import (
    balanced_counts,
    cluster_sizes,
    effective_number,
    gini,
    members_of,
    water_fill,
)
from sciencessl.errors import ConfigError


def test_small_clusters_give_all_and_the_others_share_the_rest() -> None:
    # 100 over four: 25 each; 10 and 20 give all, 70 are left for two.
    assert water_fill([10, 500, 20, 300], 100).tolist() == [10, 35, 20, 35]
    # A cluster that is smaller than the share of what others left: 90 / 3 = 30, then 65 / 2.
    assert water_fill([25, 500, 40], 90).tolist() == [25, 32.5, 32.5]
    assert water_fill([7, 7, 7], 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("budget", [0, 60, 1000])
def test_shares_at_the_ends(budget: float) -> None:
    assert water_fill([10, 20, 30], budget).tolist() == ([0, 0, 0] if not budget else [10, 20, 30])
    assert water_fill([], budget).tolist() == []
    assert water_fill([0, 60], budget).tolist() == [0, min(60, budget)]


def test_shares_sum_to_the_budget_and_lie_under_one_level() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.pareto(0.7, rng.integers(1, 50)) * rng.integers(0, 2, 1)
        budget = float(rng.uniform(0, 1.2) * sizes.sum())
        shares = water_fill(sizes, budget)
        assert shares.sum() == pytest.approx(min(budget, sizes.sum()), rel=1e-12)
        assert (shares <= sizes).all()
        cut = shares < sizes
        assert not cut.any() or (shares[cut] == shares.max()).all()


@pytest.mark.parametrize(("sizes", "budget"), [([1, -1], 1), ([np.nan], 1), ([1.0], -1), ([1.0], np.nan), ([[1.0]], 1)])
def test_what_cannot_be_shared_is_refused(sizes: list[float], budget: float) -> None:
    with pytest.raises(ConfigError, match=r"expected|must be"):
        water_fill(sizes, budget)


def test_counts_of_a_hierarchy_worked_by_hand() -> None:
    # Clusters of 6, 1, 2 and 3 samples; the first two are in top cluster 0, the others in 1.
    lower = np.repeat([0, 1, 2, 3], [6, 1, 2, 3])
    upper = np.array([0, 0, 1, 1])
    # 6 draws: 3 each of the top. In 0: 1.5 each, the second has 1: 2 and 1. In 1: 1.5 each.
    found = balanced_counts([lower, upper], 6)
    assert found == pytest.approx(np.repeat([2 / 6, 1.0, 1.5 / 2, 1.5 / 3], [6, 1, 2, 3]))
    # 11 draws: the top has 7 and 5, shares 6 and 5; in 0 5 and 1, in 1 all.
    assert balanced_counts([lower, upper], 11) == pytest.approx(np.repeat([5 / 6, 1, 1, 1], [6, 1, 2, 3]))
    assert balanced_counts([lower], 8) == pytest.approx(np.repeat([2.5 / 6, 1, 1, 2.5 / 3], [6, 1, 2, 3]))


def test_counts_sum_to_the_budget_and_no_sample_counts_twice() -> None:
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, 40, 500), rng.integers(0, 7, 40), rng.integers(0, 3, 7)]
    for budget in (0.5, 80, 499.9, 500, 900):
        found = balanced_counts(labels, budget)
        assert found.sum() == pytest.approx(min(budget, 500), rel=1e-12)
        assert found.min() >= 0
        assert found.max() <= 1 + 1e-12
    assert (balanced_counts(labels, 500) == 1).all()


def test_names_of_clusters_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    lower, upper, names = rng.integers(0, 20, 300), rng.integers(0, 4, 20), rng.permutation(20)
    renamed = np.empty(20, np.int64)
    renamed[names] = upper
    assert balanced_counts([lower, upper], 50) == pytest.approx(balanced_counts([names[lower], renamed], 50))


def test_empty_clusters_take_nothing() -> None:
    found = balanced_counts([np.array([0, 0, 3]), np.array([0, 1, 0, 2])], 2)
    assert found == pytest.approx([0.5, 0.5, 1])


def test_labels_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"level 2 are \(3,\) for 4 clusters or samples below it"):
        balanced_counts([np.array([0, 1, 3]), np.array([0, 0, 0])], 1)
    with pytest.raises(ConfigError, match="a level of clusters or more"):
        balanced_counts([], 1)
    with pytest.raises(ConfigError, match="level 1"):
        balanced_counts([np.array([-1, 0])], 1)


def test_members_and_sizes() -> None:
    labels = np.array([2, 0, 2, 3])
    assert [own.tolist() for own in members_of(labels, 5)] == [[1], [], [0, 2], [3], []]
    assert [sizes.tolist() for sizes in cluster_sizes([labels, np.array([0, 0, 1, 1])])] == [[1, 0, 2, 1], [1, 3]]


def test_measures_of_evenness() -> None:
    assert effective_number([3, 3, 3]) == pytest.approx(3)
    assert effective_number([5, 0, 0]) == pytest.approx(1)
    # Entropy of (1/2, 1/4, 1/4) is 1.5 bits.
    assert effective_number([2, 1, 1]) == pytest.approx(2**1.5)
    assert gini([4, 4]) == pytest.approx(0)
    assert gini([0, 0, 0, 9]) == pytest.approx(0.75)
    # Mean absolute difference over twice the mean: (1 + 2 + 1) * 2 / 9 / (2 * 2).
    assert gini([3, 1, 2]) == pytest.approx(8 / 36)
