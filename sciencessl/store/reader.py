"""Reading a sealed store: payloads through windows of packed rows, columns through Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import zarr

from sciencessl.errors import StoreError, did_you_mean, unknown_name
from sciencessl.store import format as zpack
from sciencessl.store.files import is_there
from sciencessl.store.header import read_header
from sciencessl.store.in_place import SETTING, InPlace
from sciencessl.store.index import VERIFY, Index
from sciencessl.store.kept import Kept
from sciencessl.store.remote import first_line, read_each, store_path, unreadable, zarr_root
from sciencessl.store.seal import read_columns, read_sidecar, required_receipt
from sciencessl.store.shards import Shards
from sciencessl.store.split import SplitIndex
from sciencessl.store.tables import REMOVALS, Table, current_digest, list_tables, read_table, to_numpy
from sciencessl.store.writer import array_chunk, padded_places

WINDOW_BYTES = 8 * 2**20
CACHE_BYTES = 256 * 2**20
"""Most bytes of windows a reader keeps, in each process that reads."""


class _Opened:
    """What one process has opened and keeps. A fork would take along locks that nobody frees, so it opens anew."""

    def __init__(self, path: Path, open_array: Callable[[str], Shards]) -> None:
        self.pid = os.getpid()
        self.arrays: dict[str, Shards] = {}
        self.index = Index(path, open_array)
        self.windows: Kept[np.ndarray] = Kept(CACHE_BYTES)


class Store:
    """A sealed `zpack/1` store, opened for reading. Cheap to open and to pickle: arrays open on first use.

    Pixels, splits and row columns are fixed: what is read once is kept. Tables may be added and replaced while a store
    is open, so each call looks whether a table has changed and never gives an old one; a run that needs one
    state throughout records `table_digests()` and compares.

    Args:
        path: The store's folder, or its URL in an object store.

    Raises:
        StoreError: When it is no store or was never sealed.
        OutOfReachError, MissingExtraError: When an object store does not answer, or its client is not installed; so
            does every method that reads.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = store_path(path)
        self.header = read_header(self.path)
        if not self.header.sealed:
            raise StoreError(
                f"{self.path} was never sealed: its preparation did not finish. Run the same `sciencessl prepare` "
                "again; it continues where it stopped."
            )
        self._opened: _Opened | None = None
        self._tables: dict[str, Table] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "header": self.header}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened=None, _tables={})

    @property
    def _own(self) -> _Opened:
        """What this process has opened."""
        if self._opened is None or self._opened.pid != os.getpid():
            self._opened = _Opened(self.path, self._array)
        return self._opened

    @property
    def _index(self) -> Index:
        return self._own.index

    def _array(self, name: str) -> Shards:
        arrays = self._own.arrays
        if name not in arrays:
            try:
                array = zarr.open_array(zarr_root(self.path / name), mode="r", zarr_format=3)
                found = (array.shape, str(array.dtype))
            except Exception as error:  # damaged metadata can make zarr raise anything
                sentence = f"{self.path}: {name} cannot be opened ({first_line(error)}). {VERIFY}"
                raise unreadable(self.path, error, sentence) from error
            if found != self._layout(name):
                # Checksums cover chunks only: a changed shape would give the wrong pixels without a word.
                raise StoreError(f"{self.path}: {name} is {found}, expected {self._layout(name)}. {VERIFY}")
            arrays[name] = Shards(self.path / name, array, self._is_packed(name))
        return arrays[name]

    def _is_packed(self, name: str) -> bool:
        folder, _, what = name.partition("/")
        return folder == "fields" and self.header.fields[what].kind == "bytes"

    def _layout(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype that an array must have, as follows from the header and the samples stored."""
        rows = self.header.rows
        folder, _, what = name.partition("/")
        if folder == "fields":
            spec = self.header.fields[what]
            if spec.kind == "bytes":
                return (rows, zpack.ROW_BYTES), "uint8"
            places = rows * padded_places(self.header.places, spec)
            return (places, len(spec.channels), *spec.shape), str(np.dtype(spec.dtype))
        if what == "row_first":
            return (rows + 1,), "uint64"
        if what == "split_first":
            return (rows, len(zpack.SPLITS) + 1), "uint64"
        return ((len(self), 16), "uint8") if what == "key" else ((len(self) + rows,), "uint64")

    def __len__(self) -> int:
        return int(self._index.whole("row_first")[-1])

    @property
    def row_first(self) -> np.ndarray:
        """(R + 1,) int64 store index of each row's first sample, and N."""
        return self._index.whole("row_first").astype(np.int64)

    @property
    def digest(self) -> str:
        """The manifest digest: what runs record of the store."""
        return self.header.manifest_digest

    @property
    def primary(self) -> str:
        """Name of the field the encoder sees."""
        return next(name for name, spec in self.header.fields.items() if spec.primary)

    @property
    def chunk_bytes(self) -> int:
        """Inner chunk of its bytes fields, which another store needs that shares rows with it."""
        packed = [name for name, spec in self.header.fields.items() if spec.kind == "bytes"]
        return self._array(f"fields/{packed[0]}").per_chunk if packed else zpack.MIN_CHUNK_BYTES

    def split(self, name: str) -> SplitIndex:
        """The samples of one split, without withdrawn ones.

        Raises:
            StoreError: For a name other than train, val or test.
        """
        if name not in zpack.SPLITS:
            raise StoreError(f"no split {name!r}: a store has {', '.join(zpack.SPLITS)}.")
        bounds = self._index.whole("split_first")
        at = zpack.SPLITS.index(name)
        return SplitIndex(bounds[:, at], bounds[:, at + 1]).without(self.removed)

    @property
    def present(self) -> SplitIndex:
        """The samples of all splits."""
        bounds = self.row_first
        return SplitIndex(bounds[:-1], bounds[1:]).without(self.removed)

    @cached_property
    def removed(self) -> np.ndarray:
        """(m,) int64 store indices of withdrawn samples, ascending: they are in no split, nor in `present`.

        As they were when first asked for: an order of samples must not change while it is in use.
        """
        if REMOVALS not in self.tables:
            return np.zeros(0, np.int64)
        return np.unique(self.table(REMOVALS).data["index"].to_numpy().astype(np.int64))

    def split_codes(self) -> np.ndarray:
        """(N,) uint8, the position of each sample's split in `SPLITS`; withdrawn samples have theirs."""
        bounds = self._index.whole("split_first").astype(np.int64)
        sizes = np.diff(bounds, axis=1)
        return np.repeat(np.tile(np.arange(sizes.shape[1], dtype=np.uint8), len(sizes)), sizes.ravel())

    def keys(self, index: np.ndarray) -> np.ndarray:
        """(B, 16) uint8 keys of samples.

        Raises:
            StoreError: For an index that the store does not have, or a damaged index.
        """
        return self._index.take("key", self._samples(index))

    def _samples(self, index: np.ndarray | Sequence[int]) -> np.ndarray:
        given = np.asarray(index)
        if given.size and given.dtype.kind not in "iu":
            # As numbers, a mask would name the first two samples again and again.
            raise StoreError(f"{self.path}: sample indices of type {given.dtype}, expected whole numbers; of a mask, "
                             "give np.flatnonzero(mask).")
        wanted = given.astype(np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise StoreError(f"{self.path}: sample index outside 0 to {len(self) - 1}.")
        return wanted

    def read_window(self, name: str, row: int, lo: int, hi: int) -> np.ndarray:
        """The only seam to the bytes: `lo` to `hi` of one row, as bytes of a packed row or samples of an array.

        Raises:
            StoreError: When a checksum does not match or the row's file is gone; names the row.
        """
        shards = self._array(f"fields/{name}")
        try:
            return shards.read(row, lo, hi)
        except FileNotFoundError:
            raise StoreError(f"{self.path}: row {row} of field {name!r} is missing. {VERIFY}") from None
        except Exception as error:  # decoding damaged bytes can raise anything
            sentence = f"{self.path}: row {row} of field {name!r} is damaged ({first_line(error)}). {VERIFY}"
            raise unreadable(self.path, error, sentence) from error

    def has_shard(self, name: str, row: int) -> bool:
        """Whether the file with the payloads of one field of a row is there."""
        return is_there(self.path / zpack.shard_file(name, self.header.fields[name], row))

    @cached_property
    def in_place(self) -> InPlace | None:
        """Reads what stayed where it lies; None where all payloads are in the store."""
        return InPlace(self.path) if self.header.settings.get(SETTING) else None

    def payloads(self, name: str, index: np.ndarray | Sequence[int]) -> list[bytes | np.ndarray]:
        """Encoded bytes or (C, *shape) arrays of samples, in the order asked for. The arrays are the caller's own.

        Raises:
            StoreError: For a field or an index that the store does not have, a damaged row, or a file that the store
                refers to and that is gone or changed.
        """
        found = self._stored(name, index)
        return found if self.in_place is None else self.in_place.read(found)

    def _stored(self, name: str, index: np.ndarray | Sequence[int]) -> list[bytes | np.ndarray]:
        self._check_field(name)
        wanted = self._samples(index)
        bounds = self._index.whole("row_first").astype(np.int64)
        rows = np.searchsorted(bounds, wanted, side="right") - 1
        if self.header.fields[name].kind == "bytes":
            # Where each sample starts and stops, and the last one of its row.
            places = np.stack([wanted + rows, wanted + rows + 1, bounds[rows + 1] + rows])
            ends = self._index.take(f"{name}.offset", places).astype(np.int64).T
            return [self._bytes(name, row, *end) for row, end in zip(rows.tolist(), ends.tolist(), strict=True)]
        local = wanted - bounds[rows]
        return [self._place(name, row, place) for row, place in zip(rows.tolist(), local.tolist(), strict=True)]

    def consecutive(self, name: str, first: int, stop: int, as_stored: bool = False) -> list[bytes | np.ndarray]:
        """Payloads of samples `first` up to `stop`, in one read of each row that they touch; no window is kept.

        Arrays are the caller's own, but those of one row are views of one array: one that is kept keeps them all.

        Args:
            name: Field.
            first: Store index of the first.
            stop: Store index after the last.
            as_stored: Leave references to bytes that lie elsewhere as they are, for another store.

        Raises:
            StoreError: For a field or samples that the store does not have, a damaged row, or a file that the store
                refers to and that is gone or changed.
        """
        self._check_field(name)
        if not 0 <= first <= stop <= len(self):
            raise StoreError(f"{self.path}: samples {first} to {stop}, expected a range within 0 to {len(self)}.")
        found: list[bytes | np.ndarray] = []
        bounds = self._index.whole("row_first")
        row = int(np.searchsorted(bounds, first, side="right")) - 1
        while first < stop:
            end = min(stop, int(bounds[row + 1]))
            if first < end:
                found += self._run(name, row, first, end)
            first, row = end, row + 1
        return found if as_stored or self.in_place is None else self.in_place.read(found)

    def _run(self, name: str, row: int, first: int, stop: int) -> Sequence[bytes | np.ndarray]:
        """Payloads of consecutive samples of one row, in one read."""
        if self.header.fields[name].kind == "array":
            before = int(self._index.whole("row_first")[row])
            return list(self.read_window(name, row, first - before, stop - before))
        ends = self._index.take(f"{name}.offset", np.arange(first + row, stop + row + 1)).astype(np.int64)
        if ends[0] == ends[-1]:
            return [b""] * (stop - first)
        raw = self.read_window(name, row, int(ends[0]), int(ends[-1])).data
        places = (ends - ends[0]).tolist()
        return [bytes(raw[a:b]) for a, b in pairwise(places)]

    def _check_field(self, name: str) -> None:
        if name not in self.header.fields:
            raise StoreError(f"{self.path}: {unknown_name('field', name, self.header.fields)}")

    def _bytes(self, name: str, row: int, start: int, stop: int, row_stop: int) -> bytes:
        if start == stop:
            return b""
        number = start // WINDOW_BYTES
        before = number * WINDOW_BYTES
        if stop > before + WINDOW_BYTES:
            return self.read_window(name, row, start, stop).tobytes()
        # A row is far larger than what it holds; the end of its last sample bounds the read.
        window = self._window(name, row, number, before, min(before + WINDOW_BYTES, row_stop))
        return window[start - before : stop - before].tobytes()

    def _place(self, name: str, row: int, place: int) -> np.ndarray:
        chunk = array_chunk(self.header.places, self.header.fields[name])
        number = place // chunk
        # A copy: a view would let the caller change the window, and keep all of it in memory.
        window = self._window(name, row, number, number * chunk, (number + 1) * chunk)
        return cast(np.ndarray, window[place % chunk].copy())

    def _window(self, name: str, row: int, number: int, lo: int, hi: int) -> np.ndarray:
        """One aligned window, kept or from disk."""
        return self._own.windows.get((name, row, number), partial(self.read_window, name, row, lo, hi))

    def row_tables(self) -> Iterator[pa.Table]:
        """The Parquet sidecar of each row, in order.

        Raises:
            StoreError: When a sidecar is not the file that was committed; names the row.
        """
        yield from read_each(self.path, partial(read_columns, self.path), range(self.header.rows))

    def refusals(self) -> pa.Table:
        """What was not stored: `id`, `reason`, `detail`."""

        def read(row: int) -> pa.Table:
            return read_sidecar(self.path, required_receipt(self.path, row), zpack.refused_file(row))

        return pa.concat_tables(read_each(self.path, read, range(self.header.rows)))

    @cached_property
    def rows(self) -> pa.Table:
        """All row columns, N rows in store order."""
        return pa.concat_tables(list(self.row_tables()), promote_options="permissive")

    @cached_property
    def ids(self) -> list[str]:
        """The N identifiers in store order, withdrawn samples included."""
        return cast(list[str], self.rows["id"].to_pylist())

    @property
    def tables(self) -> list[str]:
        """Names of the tables beside the pixels."""
        return list_tables(self.path)

    def table(self, name: str) -> Table:
        """One table beside the pixels as it is now; its bytes are read again only when it was replaced.

        Raises:
            StoreError: When there is none of that name or its bytes do not match its digest.
        """
        kept = self._tables.get(name)
        if kept is None or kept.digest != current_digest(self.path, name):
            self._tables[name] = read_table(self.path, name)
        return self._tables[name]

    def columns(self) -> dict[str, str]:
        """Column name -> where it lies: `rows` or the name of a table.

        A table hides a row column of its name, and a column of a table that comes before it in the alphabet.
        """
        own = zpack.user_columns(self.rows.column_names, self.header.fields)
        found = dict.fromkeys(["id", "split", *own], "rows")
        for name in self.tables:
            if name != REMOVALS:
                found.update(dict.fromkeys(self.table(name).columns, name))
        return found

    def column(self, name: str) -> np.ndarray:
        """One column for all N samples, in store order; missing values are None (objects) or NaN (numbers).

        Raises:
            StoreError: When no row column and no table has it.
        """
        known = self.columns()
        if name not in known:
            raise StoreError(
                f"{self.path} has no column {name!r}.{did_you_mean(name, known)} Columns: {', '.join(sorted(known))}."
            )
        if known[name] == "rows":
            return to_numpy(self.rows[name])
        return self.table(known[name]).aligned(name, self.ids)

    @property
    def removals_digest(self) -> str:
        """Digest of the table of withdrawn samples; empty while there is none."""
        return current_digest(self.path, REMOVALS) if REMOVALS in self.tables else ""

    def derived_from(self) -> dict[str, tuple[str, ...]]:
        """Column -> columns it was derived from, as the tables declare."""
        merged: dict[str, tuple[str, ...]] = {}
        for name in self.tables:
            merged.update(self.table(name).derived_from)
        return merged

    def table_digests(self) -> dict[str, str]:
        """Table name -> its digest: with `digest`, all that a run has read."""
        return {name: self.table(name).digest for name in self.tables}
