"""The samples that `store dedup` compares: those of a store, then those of another, numbered through.

Columns are read row by row, so that what is held of a sample is a number of eight bytes, on disk for more than
`sciencessl.store.hamming.IN_MEMORY`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from sciencessl.errors import StoreError
from sciencessl.store.display import pictures
from sciencessl.store.hamming import IN_MEMORY
from sciencessl.store.near_copies import COLUMN, store_hashes
from sciencessl.store.reader import Store
from sciencessl.store.seal import read_columns
from sciencessl.views.perceptual import FLAT

BYTES, PIXELS, PHASH = "bytes", "pixels", "phash"
HASHES = {BYTES: "content_hash", PIXELS: "pixel_hash"}
"""Level of exact copies -> the row column of its digests."""


@dataclass(frozen=True)
class Samples:
    """The samples of one store or two.

    Attributes:
        stores: The store, and the one it is compared with.
        scratch: Folder for columns that are too long for memory.
    """

    stores: tuple[Store, ...]
    scratch: Path

    @property
    def own(self) -> int:
        """Samples of the first store: those of the second have larger numbers."""
        return len(self.stores[0])

    def __len__(self) -> int:
        return sum(len(store) for store in self.stores)

    @cached_property
    def _pictures(self) -> list[Callable[[int], np.ndarray]]:
        return [pictures(store) for store in self.stores]

    def picture(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8.

        Raises:
            StoreError: When it cannot be read.
        """
        which = int(number >= self.own)
        return self._pictures[which](number - which * self.own)

    def hashes(self, level: str) -> np.ndarray | None:
        """(n,) uint64: the first 64 bits of digests, or perceptual hashes; 0 for withdrawn samples and where there is
        none. None where a store has no digests.

        Of a billion different digests, two have the same 64 bits with a chance of 3 %.

        Raises:
            StoreError: When a row is damaged, or a digest is no number in hex.
        """
        if level != PHASH and not all(HASHES[level] in store_columns(store) for store in self.stores):
            return None
        shape = (len(self),)
        found = np.zeros(shape, np.uint64) if len(self) <= IN_MEMORY else np.memmap(
            self._file(), np.uint64, mode="w+", shape=shape)
        for first, store in zip((0, self.own), self.stores, strict=False):
            for start, part in _column(store, level):
                found[first + start : first + start + len(part)] = part
            found[first + store.removed] = FLAT
        return found

    def _file(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.scratch)
        os.close(handle)
        return Path(name)

    def facts(self, numbers: np.ndarray, names: Sequence[str]) -> pa.Table:
        """Row columns of (k,) ascending samples, those of `names` that are there; reads the rows that have one."""
        parts = []
        for first, store in zip((0, self.own), self.stores, strict=False):
            mine = numbers[(numbers >= first) & (numbers < first + len(store))] - first
            bounds = store.row_first
            rows, starts = np.unique(np.searchsorted(bounds, mine, side="right") - 1, return_index=True)
            for row, part in zip(rows.tolist(), np.split(mine, starts[1:]), strict=False):
                table = read_columns(store.path, row)
                known = table.select([name for name in names if name in table.column_names])
                parts.append(known.take(pa.array(part - bounds[row])))
        empty = pa.table({name: pa.array([], pa.string()) for name in names})
        return pa.concat_tables(parts, promote_options="permissive") if parts else empty


def store_columns(store: Store) -> list[str]:
    """Names of the row columns, out of the first row."""
    return next(store.row_tables()).column_names if store.header.rows else []


def _rows(store: Store) -> Iterator[tuple[int, pa.Table]]:
    start = 0
    for table in store.row_tables():
        yield start, table
        start += table.num_rows


def _column(store: Store, level: str) -> Iterator[tuple[int, np.ndarray]]:
    """Where a row starts, and its part of a column of hashes."""
    if level != PHASH:
        for start, table in _rows(store):
            yield start, _leading_bits(store, table, HASHES[level])
    elif COLUMN in store_columns(store):
        for start, table in _rows(store):
            yield start, _int64(table).view(np.uint64)
    else:
        yield 0, store_hashes(store)


def _int64(table: pa.Table) -> np.ndarray:
    if COLUMN not in table.column_names:
        return np.zeros(table.num_rows, np.int64)
    filled = table[COLUMN].fill_null(FLAT)
    return np.array(filled.to_numpy(), np.int64)


def _leading_bits(store: Store, table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        return np.zeros(table.num_rows, np.uint64)
    try:
        return np.array([int(text[:16], 16) if text else FLAT for text in table[name].to_pylist()], np.uint64)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{store.path}: column {name!r} holds what is no digest in hex ({error}); leave its level out "
                         "with --by.") from error
