"""Positions in a split and indices in a store, with any samples withdrawn: against plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.errors import StoreError
from sciencessl.store.split import SplitIndex


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[int]]:
    """Ascending ranges, empty ones among them, and indices to withdraw, inside and outside."""
    ranges, at = [], 0
    for gap, size in draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=8)):
        ranges.append((at + gap, at + gap + size))
        at += gap + size
    removed = draw(st.sets(st.integers(0, at + 2)))
    return ranges, sorted(removed)


@settings(max_examples=200, deadline=None)
@given(splits())
def test_withdrawn_samples_are_skipped_as_in_a_plain_list(drawn: tuple[list[tuple[int, int]], list[int]]) -> None:
    ranges, removed = drawn
    first, stop = (np.array([bounds[side] for bounds in ranges], np.int64) for side in (0, 1))
    expected = [i for lo, hi in ranges for i in range(lo, hi) if i not in removed]
    split = SplitIndex(first, stop).without(np.array(removed, np.int64))
    assert len(split) == len(expected)
    assert split.all().tolist() == expected
    shuffled = np.random.default_rng(0).permutation(len(expected))
    assert split.to_store(shuffled).tolist() == [expected[i] for i in shuffled]
    assert [i for lo, hi in zip(*split.ranges, strict=True) for i in range(lo, hi)] == expected
    with pytest.raises(StoreError, match=f"which has {len(expected)} samples"):
        split.to_store(np.array([len(expected)]))


def test_memory_is_that_of_the_withdrawn_samples_alone() -> None:
    rows, each = 1000, 10**7
    first = np.arange(rows, dtype=np.int64) * each
    removed = np.sort(np.random.default_rng(0).choice(rows * each, 5000, replace=False))
    split = SplitIndex(first, first + each).without(removed)
    assert len(split) == rows * each - 5000
    assert len(split.ranges[0]) <= rows + 5000
    last = split.to_store(np.array([len(split) - 1]))[0]
    assert last == rows * each - 1
