"""Sides of a comparison: some samples of a store, and which of them are the same thing as samples of another side, or
lie near them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciencessl.registry import load_domain, resolve
from sciencessl.store.format import digest
from sciencessl.store.reader import Store

HASHES = ("pixel_hash", "content_hash")
"""Row columns that tell equal contents, where a preparer wrote them."""
STORED_BYTES = "stored bytes"
"""What is compared where no hash was recorded."""


def value_text(value: object) -> str:
    """A value of a column as it is compared: empty for a missing one; 1 and 1.0 are both `1`."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclass(frozen=True)
class Side:
    """The samples that one side of a task or an audit is taken from, labelled or not.

    Attributes:
        store: Where they are.
        index: (N,) store indices, ascending.
        name: In words, such as `split=train`.
    """

    store: Store
    index: np.ndarray
    name: str

    def __str__(self) -> str:
        return f"{self.name} of {self.store.path}"

    def texts(self, column: str) -> np.ndarray:
        """(N,) text of each value of a column as objects: `value_text`, so that empty is missing."""
        return np.array([value_text(value) for value in self.values(column)], dtype=object)

    def values(self, column: str) -> list[Any]:
        """The N values of a column."""
        found: list[Any] = self.store.column(column)[self.index].tolist()
        return found

    @classmethod
    def of_splits(cls, store: Store, *splits: str) -> Side:
        """All samples of one split or several."""
        index = np.sort(np.concatenate([store.split(split).all() for split in splits]))
        return cls(store, index, f"split={' and '.join(splits)}")


def same_things(pool: Side, test: Side, groups: Sequence[str] = ("group",)) -> Iterator[tuple[str, np.ndarray]]:
    """By what samples of two sides are the same thing, and with which.

    Two samples are the same thing by equal ids, by equal values of a group column that both stores have, or by equal
    contents: the hashes that preparation recorded, or else the stored bytes of the primary field, which are then all
    read. A missing value equals nothing.

    Args:
        pool: What may have been learned from.
        test: What is judged on.
        groups: Columns whose equal values make two samples the same thing; those that a store lacks are passed over.

    Yields:
        `id`, a column, or `STORED_BYTES`, in this order; with (m,) int64, for each test sample the position in the
        pool of the first sample that equals it, or -1.

    Raises:
        StoreError: When payloads have to be read and one is damaged.
    """
    yield "id", first_equal(test.texts("id").tolist(), pool.texts("id").tolist())
    columns = pool.store.columns().keys() & test.store.columns().keys()
    for name in groups:
        if name in columns:
            yield name, first_equal(test.texts(name).tolist(), pool.texts(name).tolist())
    yield from same_contents(pool, test)
    if not columns & {*HASHES}:
        yield STORED_BYTES, first_equal(_digests(test), _digests(pool))


def same_contents(pool: Side, test: Side) -> Iterator[tuple[str, np.ndarray]]:
    """By which recorded hash samples of two sides are the same thing, and with which: as `same_things`."""
    for name in HASHES:
        if name in pool.store.columns() and name in test.store.columns():
            yield name, first_equal(test.texts(name).tolist(), pool.texts(name).tolist())


@dataclass(frozen=True)
class Nearness:
    """How samples of two sides lie to each other in space, by one rule of their domain.

    Attributes:
        by: What near pairs share, in words, such as `sky position`.
        same: Whether they are the same thing; else their images only show part of the same.
        match: (m,) int64, for each test sample the position in the pool of the nearest sample that the rule holds for,
            or -1.
        separation: (m,) float64, how far that is; NaN where there is none.
        unit: Of the separation.
        unplaced: Samples of both sides whose place nobody knows: the rule says nothing of them.
    """

    by: str
    same: bool
    match: np.ndarray
    separation: np.ndarray
    unit: str
    unplaced: int = 0

    def words(self, row: int) -> str:
        """How far apart the pair of one test sample is: `0.31 arcsec apart`."""
        return f"{self.separation[row]:.3g} {self.unit} apart"


def near_things(pool: Side, test: Side) -> Iterator[Nearness]:
    """Which samples of two sides are near each other, as their domain judges it; nothing where it has no rule, where
    the stores are of two domains, or where they record no places."""
    spec = load_domain(pool.store.header.domain)
    if spec.places and test.store.header.domain == pool.store.header.domain:
        yield from resolve(spec.places)(pool, test)


def first_equal(test: Sequence[Any], pool: Sequence[Any]) -> np.ndarray:
    """(m,) int64, for each value of the test the position of the first in the pool that equals it, or -1; what is empty
    equals nothing."""
    first: dict[Any, int] = {}
    for position, value in enumerate(pool):
        first.setdefault(value, position)
    first.pop("", None)
    return np.array([first.get(value, -1) for value in test], dtype=np.int64)


def _digests(side: Side) -> list[str]:
    store, name = side.store, side.store.primary
    found = []
    for index in side.index:  # one payload at a time: a list of all may not fit into memory
        (payload,) = store.payloads(name, index[None])
        found.append(digest(payload if isinstance(payload, bytes) else np.ascontiguousarray(payload).data))
    return found
