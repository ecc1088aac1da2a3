"""Kept arrays: those used last, within a limit, each read once while it is kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sciencessl.store.kept import Kept


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 60))
def test_what_is_kept_are_the_arrays_used_last_within_the_limit(keys: list[int], limit: int) -> None:
    kept = Kept(limit)
    for place, key in enumerate(keys):
        read = list[int]()
        found = kept.get(key, lambda key=key, read=read: read.append(key) or np.full(4 * key, key, np.uint8))
        assert found.tolist() == [key] * 4 * key
        expected, total = list[int](), 0
        for used in dict.fromkeys(reversed(keys[: place + 1])):
            total += 4 * used
            if expected and total > limit:
                break
            expected.append(used)
        assert kept.nbytes == 4 * sum(expected)
        assert len(kept) == len(expected)


def test_an_array_is_read_once_while_it_is_kept() -> None:
    kept, calls = Kept(8), list[str]()
    for key in "abaca":
        kept.get(key, lambda key=key: calls.append(key) or np.zeros(4, np.uint8))
    assert calls == ["a", "b", "c"]
    assert kept.find("b") is None
    assert kept.find("a") is not None
