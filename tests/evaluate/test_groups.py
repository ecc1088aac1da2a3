"""Scores by group: the group's own interval, bins in words, and honesty where a group is small."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.groups import group_table
from sciencessl.evaluate.statistics import hierarchical_interval


def test_each_category_has_the_interval_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    site = rng.choice(["b", "a", "c"], 120).astype(object)
    labels, units = rng.integers(0, 2, 120), np.arange(120) // 2
    scores = (rng.random((4, 120)) < np.where(site == "b", 0.4, 0.9)).astype(float)
    table = group_table(scores, labels, units, site)
    assert [line.group for line in table] == ["a", "b", "c"]
    for line in table:
        rows = site == line.group
        interval = hierarchical_interval(scores[:, rows], units[rows], labels[rows])
        assert (line.score, line.low, line.high) == (interval.mean, interval.low, interval.high)
        assert (line.n, line.n_units) == (rows.sum(), len(set(units[rows])))
    assert [line.worst for line in table] == [False, True, False]
    assert [line.worst for line in group_table(scores, labels, units, site, lower_is_better=True)].index(True) != 1


def test_numbers_become_bins_of_equal_size_named_by_their_edges() -> None:
    magnitude = (1700 + 2 * np.random.default_rng(1).permutation(100)) / 100
    scores = (magnitude < 18.0).astype(float)
    table = group_table(scores, None, np.arange(100), magnitude)
    assert [line.group for line in table] == ["below 17.5", "17.5 to below 18", "18 to below 18.5", "18.5 and above"]
    assert [line.n for line in table] == [25, 25, 25, 25]
    assert [line.score for line in table] == [1.0, 1.0, 0.0, 0.0]


def test_edges_are_told_apart_and_tied_values_share_a_bin() -> None:
    day = 53_000 + np.arange(40) / 1000
    names = [line.group for line in group_table(np.ones(40), None, np.arange(40), day)]
    assert names == ["below 53000.01", "53000.01 to below 53000.02", "53000.02 to below 53000.03", "53000.03 and above"]
    tied = np.where(np.arange(40) < 25, 0, np.arange(40))
    table = group_table(np.ones(40), None, np.arange(40), tied)
    assert [line.n for line in table] == [30, 10]


def test_few_numbers_are_categories_and_missing_values_a_group() -> None:
    year = np.array([2010.0, 2011.0, np.nan] * 10)
    table = group_table(np.arange(30.0), None, np.arange(30), year)
    assert [(line.group, line.n) for line in table] == [("2010", 10), ("2011", 10), ("missing", 10)]
    names = np.array(["x", None] * 5, dtype=object)
    assert [line.group for line in group_table(np.arange(10.0), None, np.arange(10), names)] == ["x", "missing"]


def test_a_small_group_says_so_and_is_not_the_worst() -> None:
    groups = np.array(["big"] * 20 + ["mid"] * 20 + ["one patient"] * 5, dtype=object)
    units = np.append(np.arange(40), [99] * 5)
    scores = np.append(np.tile([1.0, 0.0], 20), np.zeros(5))
    scores[:20] = 1.0
    big, mid, small = group_table(scores, None, units, groups)
    assert (small.low, small.high, small.score, small.n, small.n_units) == (None, None, 0.0, 5, 1)
    assert small.note == "1 units of 1 classes: too few for an interval"
    assert (big.worst, mid.worst, small.worst) == (False, True, False)


def test_classes_that_a_group_lacks_are_noted() -> None:
    labels = np.array([0, 1, 2] * 6 + [0, 1] * 4)
    groups = np.array(["all"] * 18 + ["two"] * 8, dtype=object)
    scores = np.arange(26) % 4 / 3.0
    full, part = group_table(scores, labels, np.arange(26), groups)
    assert (full.note, part.note) == ("", "2 of 3 classes occur")
    assert part.score == pytest.approx(np.mean([scores[18:][labels[18:] == c].mean() for c in (0, 1)]))


def test_one_group_alone_is_not_the_worst() -> None:
    assert not group_table(np.arange(9.0), None, np.arange(9), np.full(9, "x"))[0].worst


def test_refuses() -> None:
    with pytest.raises(DataError, match=r"groups: \(3,\) values for scores \(1, 4\)"):
        group_table(np.ones(4), None, np.arange(4), np.arange(3))
    with pytest.raises(ConfigError, match="bins = 1"):
        group_table(np.ones(4), None, np.arange(4), np.arange(4), bins=1)


def test_a_column_of_names_or_of_nothing_makes_no_groups() -> None:
    names = np.array([f"g{i}" for i in range(61)], dtype=object)
    assert len(group_table(np.ones(60), None, np.arange(60), names[:60])) == 60
    with pytest.raises(ConfigError, match="61 different values, such as g0, g1, g10 among 61 samples; choose a column"):
        group_table(np.ones(61), None, np.arange(61), names)
    with pytest.raises(ConfigError, match="groups: no value among 4 samples"):
        group_table(np.ones(4), None, np.arange(4), np.array([None] * 4))


def test_a_group_with_nothing_to_score_has_no_score() -> None:
    scores = np.array([np.nan, np.nan, 1, 0, 1, 1])
    line, other = group_table(scores, None, np.arange(6), np.array(["a", "a", "b", "b", "b", "b"]))
    assert np.isnan(line.score)
    assert (line.low, line.high, line.note) == (None, None, "nothing to score by this metric")
    assert other.score == 0.75
