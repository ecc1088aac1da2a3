"""Components of pairs: those of an independent library, named by their smallest sample, however the pairs come."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sciencessl.store.union_find import Components


def found(one: np.ndarray, other: np.ndarray, buffer: int = 2**21, block: int = 10**9) -> dict[int, int]:
    components = Components(buffer)
    for at in range(0, len(one), block):
        components.add(one[at : at + block], other[at : at + block])
    return dict(zip(*(part.tolist() for part in components.found()), strict=True))


def by_scipy(one: np.ndarray, other: np.ndarray) -> dict[int, int]:
    n = int(max(one.max(), other.max())) + 1
    labels = connected_components(coo_array((np.ones(len(one)), (one, other)), shape=(n, n)), directed=False)[1]
    ids = np.unique(np.concatenate([one, other]))
    least = {label: int(ids[labels[ids] == label].min()) for label in set(labels[ids].tolist())}
    return {int(i): least[labels[i]] for i in ids}


@pytest.mark.parametrize("edges", [1, 100, 500, 2000])
@pytest.mark.parametrize("buffer", [1, 7, 10**6])
def test_components_are_those_of_scipy_named_by_the_smallest_sample(edges: int, buffer: int) -> None:
    one, other = np.random.default_rng(edges).integers(0, 1000, (2, edges))
    assert found(one, other, buffer, 333) == by_scipy(one, other)


@pytest.mark.parametrize("shape", ["chain", "shuffled-chain", "star", "comb"])
def test_long_chains_and_large_stars_are_one_component(shape: str) -> None:
    n = 20_000
    order = np.random.default_rng(0).permutation(n) if shape == "shuffled-chain" else np.arange(n)
    one, other = order[:-1], order[1:]
    if shape == "star":
        one = np.full(n - 1, n - 1)
        other = np.arange(n - 1)
    if shape == "comb":
        one = one // 2 * 2
    assert found(one, other, 3000) == dict.fromkeys(range(n), 0)


def test_the_order_of_pairs_and_of_their_two_samples_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 3000, (2, 1500))
    order = rng.permutation(1500)
    assert found(one, other) == found(other[order], one[order], 50, 11)


def test_only_samples_that_occur_are_held() -> None:
    # A defect elsewhere: an array over all samples, of a billion for ten pairs.
    components = Components()
    components.add(np.array([10**15, 3]), np.array([5, 10**15]))
    components.add(np.array([8]), np.array([8]))
    ids, roots = components.found()
    assert ids.tolist() == [3, 5, 8, 10**15]
    assert roots.tolist() == [3, 3, 8, 3]


def test_no_pairs_are_no_components() -> None:
    ids, roots = Components().found()
    assert len(ids) == len(roots) == 0
