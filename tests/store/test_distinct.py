"""Distinct values of a column: those of numpy, in memory and through files; pieces hold what agrees together."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from sciencessl.store import distinct as module
from sciencessl.store.distinct import chunks, deal, distinct


def column(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "one-value":
        return np.full(900, 5, np.uint64)
    if kind == "small-values":  # all leading digits are equal
        return rng.integers(0, 300, 900, dtype=np.uint64)
    return rng.choice(rng.integers(0, 2**64, 400, dtype=np.uint64), 900)


@pytest.mark.parametrize("in_memory", [10**6, 40])
@pytest.mark.parametrize("kind", ["one-value", "small-values", "spread"])
def test_distinct_values_are_those_of_numpy(
    kind: str, in_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 64)
    values = column(kind)
    found = distinct(values, 0, in_memory, tmp_path)
    kept = values != 0
    own, first = np.unique(values[kept], return_index=True)
    assert found.values.tolist() == own.tolist()
    assert found.first.tolist() == np.flatnonzero(kept)[first].tolist()
    again = dict(zip(found.repeats.tolist(), found.repeated.tolist(), strict=True))
    where = dict(zip(own.tolist(), found.first.tolist(), strict=True))
    assert again == {i: where[v] for i, v in enumerate(values.tolist()) if v and where[v] != i}
    assert found.first_of(own[::-1]).tolist() == found.first[::-1].tolist()


@pytest.mark.parametrize("bits", [(0, 64), (60, 64), (3, 7)])
def test_pieces_come_in_order_and_hold_all_that_agrees(bits: tuple[int, int], tmp_path: Path) -> None:
    values = column("spread")
    shift, mask = 64 - bits[1], 2 ** (bits[1] - bits[0]) - 1
    pieces = [np.array(piece) for piece in deal(chunks(values), lambda block: block, bits, 50, tmp_path)]
    digits = [{(value >> shift) & mask for value in piece.tolist()} for piece in pieces]
    assert all(len(piece) <= 50 or len(each) == 1 for piece, each in zip(pieces, digits, strict=True))
    assert all(max(one) < min(other) for one, other in itertools.pairwise(digits))
    assert sorted(np.concatenate(pieces).tolist()) == sorted(values.tolist())
    assert not [*tmp_path.iterdir()]
