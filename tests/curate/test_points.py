"""Points to cluster: directions of embeddings, in sums that are exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciencessl.curate.points import GRID, ArrayPoints, Directions, on_grid
from sciencessl.evaluate.embedded import Embedded


def embedded(values: np.ndarray, *cuts: int) -> Embedded:
    parts = np.split(np.arange(len(values)), cuts)
    return Embedded(tuple((lambda own=own: values[own], own) for own in parts), len(values))


def test_directions_are_embeddings_at_length_one() -> None:
    values = np.random.default_rng(0).normal(2, 1, (90, 6)).astype(np.float32)
    source = embedded(values, 20, 70)
    points = Directions(source)
    expected = values / np.linalg.norm(values, axis=1, keepdims=True)
    found = np.concatenate([rows for _, rows in points.blocks()])
    assert found == pytest.approx(expected, abs=1e-6)
    assert (found.dtype, points.samples) == (np.float32, 90)
    assert np.array_equal(points.pick(np.array([71, 3, 20])), found[[71, 3, 20]])
    moved = values - values.mean(axis=0, dtype=np.float64)
    expected = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    assert Directions(source, source.centre()).pick(np.arange(90)) == pytest.approx(expected, abs=1e-6)


def test_coordinates_on_the_grid_sum_exactly_in_any_order() -> None:
    values = on_grid(np.random.default_rng(0).uniform(-1, 1, 10_000).astype(np.float32))
    assert np.array_equal(values / np.float32(GRID), np.rint(values / np.float32(GRID)))
    total = values.sum(dtype=np.float64)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(values))
        assert np.add.reduce(values[order].astype(np.float64)) == total == sum(values[order].tolist())


def test_arrays_come_in_blocks() -> None:
    values = np.arange(14, dtype=np.float32).reshape(7, 2)
    blocks = list(ArrayPoints(values, block=3).blocks())
    assert [place.tolist() for place, _ in blocks] == [[0, 1, 2], [3, 4, 5], [6]]
    assert np.array_equal(np.concatenate([rows for _, rows in blocks]), values)


def test_what_is_not_finite_is_no_direction(tmp_path: Path) -> None:
    values = np.ones((4, 2), np.float32)
    values[2, 1] = np.nan
    with pytest.raises(Exception, match="1 embeddings are not finite"):
        list(Directions(embedded(values)).blocks())
