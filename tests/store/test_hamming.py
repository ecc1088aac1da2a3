"""Near pairs of hashes: those of brute force, whatever the hashes crowd in, in memory and through files, each once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sciencessl.errors import ConfigError, DataError
from sciencessl.store.hamming import GROUP, MOST_RADIUS, Pairs, near_between, near_pairs

Sets = Callable[[np.random.Generator], np.ndarray]


def flipped(rng: np.random.Generator, hashes: np.ndarray, bits: int) -> np.ndarray:
    """Hashes with that many different bits of each changed."""
    which = np.argsort(rng.random((len(hashes), 64)), axis=1)[:, :bits].astype(np.uint64)
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << which, axis=1) if bits else hashes.copy()


def spread(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2**64, 1500, dtype=np.uint64)


def clusters(rng: np.random.Generator) -> np.ndarray:
    centres = rng.integers(0, 2**64, 12, dtype=np.uint64)
    return rng.permutation(np.concatenate([flipped(rng, centres, bits) for bits in range(9) for _ in range(12)]))


def one_bucket(rng: np.random.Generator) -> np.ndarray:
    """All alike but for 20 bits at the end: the first two of four bands are one bucket."""
    return np.uint64(0xDEADBEEF12300000) + rng.integers(0, 2**20, 1200, dtype=np.uint64)


def crowded_bands(rng: np.random.Generator) -> np.ndarray:
    """Each band has three values."""
    bands = rng.integers(0, 2**16, (4, 3), dtype=np.uint64)
    chosen = bands[np.arange(4), rng.integers(0, 3, (1500, 4))] << (np.uint64(16) * np.arange(4, dtype=np.uint64))
    return flipped(rng, np.bitwise_or.reduce(chosen, axis=1), 2)


def equal_ones(rng: np.random.Generator) -> np.ndarray:
    """A few values again and again, of which some are near, and the flat one."""
    values = rng.integers(0, 2**64, 20, dtype=np.uint64)
    return rng.choice(np.concatenate([values, flipped(rng, values, 2), np.zeros(5, np.uint64)]), 600)


SETS: list[Sets] = [spread, clusters, one_bucket, crowded_bands, equal_ones]


def listed(blocks: Iterator[Pairs]) -> list[tuple[int, int, int]]:
    return [pair for i, j, d in blocks for pair in zip(i.tolist(), j.tolist(), d.tolist(), strict=True)]


def brute_force(hashes: np.ndarray, radius: int) -> set[tuple[int, int, int]]:
    """What `near_pairs` promises, from all pairs."""
    first = {value: hashes.tolist().index(value) for value in set(hashes.tolist()) - {0}}
    found = {(first[value], i, 0) for i, value in enumerate(hashes.tolist()) if value and first[value] != i}
    index = np.array(sorted(first.values()), np.int64)
    apart = np.bitwise_count(hashes[index][:, None] ^ hashes[index])
    one, other = np.nonzero(np.triu(apart <= radius, 1))
    return found | set(zip(index[one].tolist(), index[other].tolist(), apart[one, other].tolist(), strict=True))


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 7])
@pytest.mark.parametrize("make", SETS)
def test_all_pairs_are_those_of_brute_force_and_each_comes_once(make: Sets, radius: int) -> None:
    hashes = make(np.random.default_rng(radius))
    found = listed(near_pairs(hashes, radius))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(hashes, radius)


@pytest.mark.parametrize("make", SETS)
def test_what_does_not_fit_into_memory_gives_the_same_pairs(make: Sets, tmp_path: Path) -> None:
    hashes = make(np.random.default_rng(3))
    found = listed(near_pairs(hashes, 3, in_memory=50, scratch=tmp_path))
    assert sorted(found) == sorted(brute_force(hashes, 3))
    assert not [*tmp_path.iterdir()], "scratch files are gone"


def test_hashes_may_lie_on_disk(tmp_path: Path) -> None:
    hashes = clusters(np.random.default_rng(0))
    hashes.tofile(tmp_path / "hashes")
    there = np.memmap(tmp_path / "hashes", np.uint64, mode="r")
    assert set(listed(near_pairs(there, 3, in_memory=100, scratch=tmp_path))) == brute_force(hashes, 3)


@pytest.mark.parametrize("bits", [0, 1, 2, 3])
def test_every_planted_pair_is_found(bits: int) -> None:
    rng = np.random.default_rng(bits)
    hashes = rng.integers(1, 2**64, 20_000, dtype=np.uint64)
    hashes[10_000:] = flipped(rng, hashes[:10_000], bits)
    found = listed(near_pairs(hashes, 3))
    assert sorted(found) == [(i, i + 10_000, bits) for i in range(10_000)]


@pytest.mark.parametrize("in_memory", [2**24, 5000])
def test_a_hundred_thousand_equal_hashes_are_links_to_the_first(in_memory: int) -> None:
    # A defect elsewhere: n equal images cost n squared pairs.
    hashes = np.full(100_000, 77, np.uint64)
    hashes[[0, 5]] = 76, 0
    began = time.process_time()
    found = listed(near_pairs(hashes, 3, in_memory=in_memory))
    assert time.process_time() - began < 3
    assert sorted(found) == [(0, 1, 1), *((1, i, 0) for i in range(2, 100_000) if i != 5)]


def test_a_bucket_of_many_is_divided_rather_than_compared() -> None:
    """A billion hashes have 15,000 in each bucket of 16 bits: compared in pairs, 80,000 hashes would take minutes."""
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**48, 80_000, dtype=np.uint64) | np.uint64(1 << 50))
    began = time.process_time()
    ((i, j, distance),) = listed(near_pairs(hashes, 3))
    assert (distance, (hashes[i] ^ hashes[j]).bit_count()) == (3, 3)
    assert time.process_time() - began < 3


def test_groups_that_are_compared_hold_what_no_band_divides() -> None:
    """More words than `GROUP` differ in so many bits that each band has one."""
    assert GROUP >= 2 ** (MOST_RADIUS + 1)


def test_words_that_differ_in_few_bits_are_divided_by_these() -> None:
    dense = np.random.default_rng(0).permutation(2**11).astype(np.uint64) << np.uint64(20) | np.uint64(5)
    assert set(listed(near_pairs(dense, 1))) == brute_force(dense, 1)


def between_by_brute_force(asked: np.ndarray, pool: np.ndarray, radius: int) -> set[tuple[int, int, int]]:
    values = pool.tolist()
    first = np.array([i for i, value in enumerate(values) if value and values.index(value) == i], np.int64)
    apart = np.bitwise_count(asked[:, None] ^ pool[first])
    one, other = np.nonzero((apart <= radius) & (asked != 0)[:, None])
    return set(zip(one.tolist(), first[other].tolist(), apart[one, other].tolist(), strict=True))


@pytest.mark.parametrize("in_memory", [2**24, 60])
@pytest.mark.parametrize("radius", [0, 3, 6])
@pytest.mark.parametrize("make", SETS)
def test_pairs_between_two_sets_are_those_of_brute_force(make: Sets, radius: int, in_memory: int) -> None:
    rng = np.random.default_rng(radius)
    both = make(rng)[:600]
    pool, asked = both[:400], np.concatenate([both[400:], flipped(rng, both[:50], 3), both[:50]])
    found = listed(near_between(asked, pool, radius, in_memory=in_memory))
    assert len(found) == len(set(found))
    assert set(found) == between_by_brute_force(asked, pool, radius)


def test_nothing_is_near_nothing() -> None:
    none, some = np.zeros(0, np.uint64), np.array([1, 2], np.uint64)
    assert listed(near_pairs(none, 3)) == listed(near_pairs(np.zeros(9, np.uint64), 3)) == []
    assert listed(near_between(none, some, 3)) == listed(near_between(some, none, 3)) == []
    assert listed(near_between(some, np.zeros(3, np.uint64), 3)) == []


@pytest.mark.parametrize("radius", [-1, 8])
def test_a_radius_that_is_not_searched_is_refused_in_words(radius: int) -> None:
    with pytest.raises(ConfigError, match=f"radius {radius}; pairs of hashes are searched within 0 to 7"):
        next(near_pairs(np.ones(2, np.uint64), radius))


@pytest.mark.parametrize("hashes", [np.ones(2, np.int64), np.ones((2, 2), np.uint64)])
def test_hashes_of_another_type_are_refused_in_words(hashes: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected \(n,\) uint64; of an int64 column, give column.view"):
        next(near_between(np.ones(2, np.uint64), hashes, 3))
