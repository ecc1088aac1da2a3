"""Reading a sealed store: payloads through windows of packed rows, columns through Parquet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import pyarrow as pa
import zarr

from sciencessl.errors import SciencesslError, StoreError, did_you_mean, unknown_name
from sciencessl.store import format as zpack
from sciencessl.store.files import read_file
from sciencessl.store.remote import first_line, is_remote, reached, read_each, store_path, unreadable, zarr_root
from sciencessl.store.seal import read_columns, read_sidecar, required_receipt
from sciencessl.store.split import SplitIndex
from sciencessl.store.tables import Table, current_digest, list_tables, read_table, to_numpy
from sciencessl.store.writer import array_chunk, padded_places

WINDOW_BYTES = 8 * 2**20
CACHE_BYTES = 256 * 2**20
"""Most bytes of windows a reader keeps, in each process that reads."""
VERIFY = "Run `sciencessl store verify` to list all damage."


def read_header(path: Path) -> zpack.StoreHeader:
    """The header of a store, sealed or not.

    Raises:
        StoreError: When there is no store, or one of another format.
        OutOfReachError, MissingExtraError: When an object store does not answer, or its client is not installed.
    """
    try:
        if is_remote(path):
            # One request that decodes nothing: whatever it raises, zarr would tell less of it.
            read_file(path / "zarr.json")
        group = zarr.open_group(zarr_root(path), mode="r", zarr_format=3, use_consolidated=False)
        attributes = dict(group.attrs)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is no store: {_lack(path, error)}. Make one with `sciencessl prepare`.") from None
    except SciencesslError:
        raise
    except Exception as error:  # a damaged zarr.json can make its parser raise anything
        sentence = f"{path} is no store: {first_line(error)}. Make one with `sciencessl prepare`."
        raise unreadable(path, error, sentence) from error
    return zpack.StoreHeader.from_attributes(attributes, path)


def _lack(path: Path, error: FileNotFoundError) -> str:
    said = first_line(error).rstrip(".")
    if is_remote(path) and "bucket" in said and "zarr.json" not in said:
        return said  # of a missing object, clients say its name, or "key"
    with reached(path):
        return "it has no zarr.json" if path.exists() else "there is nothing of that name"


class _Windows:
    """The windows read last, up to `CACHE_BYTES` of them and at least one. Threads may share it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, int], np.ndarray] = OrderedDict()
        self._lock = Lock()
        self.nbytes = 0

    def get(self, key: tuple[str, int, int], read: Callable[[], np.ndarray]) -> np.ndarray:
        """The window of that key; `read` is called outside the lock, where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        window = read()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = window
                self.nbytes += window.nbytes
            while len(self._kept) > 1 and self.nbytes > CACHE_BYTES:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes
        return window


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
        self._windows = _Windows()
        self._tables: dict[str, Table] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "header": self.header}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _windows=_Windows(), _tables={})

    @cached_property
    def _group(self) -> zarr.Group:
        return zarr.open_group(zarr_root(self.path), mode="r", zarr_format=3, use_consolidated=False)

    def _array(self, name: str) -> zarr.Array[Any]:
        key = f"_array:{name}"
        if key not in self.__dict__:
            try:
                array = cast("zarr.Array[Any]", self._group[name])
                found = (array.shape, str(array.dtype))
            except Exception as error:  # damaged metadata can make zarr raise anything
                sentence = f"{self.path}: {name} cannot be opened ({first_line(error)}). {VERIFY}"
                raise unreadable(self.path, error, sentence) from error
            if found != self._layout(name):
                # Checksums cover chunks only: a changed shape would give the wrong pixels without a word.
                raise StoreError(f"{self.path}: {name} is {found}, expected {self._layout(name)}. {VERIFY}")
            self.__dict__[key] = array
        return cast("zarr.Array[Any]", self.__dict__[key])

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

    def _index(self, name: str) -> np.ndarray:
        key = f"_index:{name}"
        if key not in self.__dict__:
            try:
                self.__dict__[key] = np.asarray(self._array(f"index/{name}")[...])
            except SciencesslError:
                raise
            except Exception as error:  # as above
                sentence = f"{self.path}: index/{name} is damaged ({first_line(error)}). {VERIFY}"
                raise unreadable(self.path, error, sentence) from error
        return cast(np.ndarray, self.__dict__[key])

    def __len__(self) -> int:
        return int(self._index("row_first")[-1])

    @property
    def digest(self) -> str:
        """The manifest digest: what runs record of the store."""
        return self.header.manifest_digest

    @property
    def primary(self) -> str:
        """Name of the field the encoder sees."""
        return next(name for name, spec in self.header.fields.items() if spec.primary)

    def split(self, name: str) -> SplitIndex:
        """The samples of one split.

        Raises:
            StoreError: For a name other than train, val or test.
        """
        if name not in zpack.SPLITS:
            raise StoreError(f"no split {name!r}: a store has {', '.join(zpack.SPLITS)}.")
        bounds = self._index("split_first")
        at = zpack.SPLITS.index(name)
        return SplitIndex(bounds[:, at], bounds[:, at + 1])

    def split_codes(self) -> np.ndarray:
        """(N,) uint8, the position of each sample's split in `SPLITS`."""
        bounds = self._index("split_first").astype(np.int64)
        sizes = np.diff(bounds, axis=1)
        return np.repeat(np.tile(np.arange(sizes.shape[1], dtype=np.uint8), len(sizes)), sizes.ravel())

    def keys(self, index: np.ndarray) -> np.ndarray:
        """(B, 16) uint8 keys of samples."""
        return cast(np.ndarray, self._index("key")[index])

    def read_window(self, name: str, row: int, lo: int, hi: int) -> np.ndarray:
        """The only seam to the bytes: `lo` to `hi` of one row, as bytes of a packed row or samples of an array.

        Raises:
            StoreError: When a checksum does not match or the row's file is gone; names the row.
            OutOfReachError: When an object store does not answer.
        """
        array = self._array(f"fields/{name}")
        spec = self.header.fields[name]
        try:
            if spec.kind == "bytes":
                window = np.asarray(array[row, lo:hi])
            else:
                first = row * padded_places(self.header.places, spec)
                window = np.asarray(array[first + lo : first + hi])
        except Exception as error:  # decoding damaged bytes can raise anything
            sentence = f"{self.path}: row {row} of field {name!r} is damaged ({first_line(error)}). {VERIFY}"
            raise unreadable(self.path, error, sentence) from error
        # zarr reads a missing shard as zeros; the writer leaves none out. Asked only then, as it may be a request.
        if window.size and not window.any() and not self.has_shard(name, row):
            raise StoreError(f"{self.path}: row {row} of field {name!r} is missing. {VERIFY}")
        return window

    def has_shard(self, name: str, row: int) -> bool:
        """Whether the file with the payloads of one field of a row is there."""
        with reached(self.path):
            return (self.path / zpack.shard_file(name, self.header.fields[name], row)).exists()

    def payloads(self, name: str, index: np.ndarray | Sequence[int]) -> list[bytes | np.ndarray]:
        """Stored bytes or (C, *shape) arrays of samples, in the order asked for. The arrays are the caller's own.

        Raises:
            StoreError: For a field or an index that the store does not have, or a damaged row.
        """
        if name not in self.header.fields:
            raise StoreError(f"{self.path}: {unknown_name('field', name, self.header.fields)}")
        wanted = np.asarray(index, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise StoreError(f"{self.path}: sample index outside 0 to {len(self) - 1}.")
        rows = np.searchsorted(self._index("row_first"), wanted, side="right") - 1
        if self.header.fields[name].kind == "bytes":
            offsets = self._index(f"{name}.offset")
            return [
                self._bytes(name, int(row), int(offsets[i + row]), int(offsets[i + row + 1]))
                for i, row in zip(wanted, rows, strict=True)
            ]
        local = wanted - self._index("row_first")[rows].astype(np.int64)
        return [self._place(name, int(row), int(place)) for row, place in zip(rows, local, strict=True)]

    def _bytes(self, name: str, row: int, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        first, last = start // WINDOW_BYTES, (stop - 1) // WINDOW_BYTES
        if first == last:
            window = self._window(name, row, first, WINDOW_BYTES)
            return window[start - first * WINDOW_BYTES : stop - first * WINDOW_BYTES].tobytes()
        return self.read_window(name, row, start, stop).tobytes()

    def _place(self, name: str, row: int, place: int) -> np.ndarray:
        chunk = array_chunk(self.header.places, self.header.fields[name])
        # A copy: a view would let the caller change the window, and keep all of it in memory.
        return cast(np.ndarray, self._window(name, row, place // chunk, chunk)[place % chunk].copy())

    def _window(self, name: str, row: int, number: int, size: int) -> np.ndarray:
        """One aligned window, from the least-recently-used cache or from disk."""
        hi = (number + 1) * size
        if self.header.fields[name].kind == "bytes":
            # A row is far larger than what it holds; the end of its last sample bounds the read.
            hi = min(hi, int(self._index(f"{name}.offset")[int(self._index("row_first")[row + 1]) + row]))
        read = partial(self.read_window, name, row, number * size, hi)
        return self._windows.get((name, row, number), read)

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
        """The N identifiers in store order."""
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

    def derived_from(self) -> dict[str, tuple[str, ...]]:
        """Column -> columns it was derived from, as the tables declare."""
        merged: dict[str, tuple[str, ...]] = {}
        for name in self.tables:
            merged.update(self.table(name).derived_from)
        return merged

    def table_digests(self) -> dict[str, str]:
        """Table name -> its digest: with `digest`, all that a run has read."""
        return {name: self.table(name).digest for name in self.tables}
