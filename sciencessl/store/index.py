"""The index of a sealed store: written row by row, and read in pieces.

A billion samples have 24 GB of keys and offsets, so neither side ever holds more than a part of them. What has one
entry a row is small and read whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from sciencessl.errors import StoreError
from sciencessl.grouping import places_of
from sciencessl.store import format as zpack
from sciencessl.store.kept import Kept
from sciencessl.store.remote import first_line, read_each, unreadable
from sciencessl.store.shards import Shards

PIECE = 4096
"""Entries in a chunk, which is what one look-up reads and checks: 64 KiB of keys take 0.1 ms from a local disk, and
hardly more than 512 entries would."""
SHARD = 2**20
"""Entries in a file: 16 MiB of keys, which the writer holds; a billion samples are 954 files an array. The table of a
shard's chunks is 4 KiB; with 2**24 entries it would be as large as a chunk, and every reader keeps those it met."""
KEPT_BYTES = 32 * 2**20
"""Most bytes of pieces that a reader keeps, in each process that reads."""
TOGETHER = 64
"""Most neighbouring pieces in one read: 4 MiB of keys."""
VERIFY = "Run `sciencessl store verify` to list all damage."


class Index:
    """Reads the index of one store in one process. Threads may share it.

    Args:
        path: The store's folder.
        open_array: Opens an array of the store by its name, such as `index/key`, and checks its shape and dtype.
    """

    def __init__(self, path: Path, open_array: Callable[[str], Shards]) -> None:
        self._path = path
        self._open = open_array
        self._whole: dict[str, np.ndarray] = {}
        self._kept: Kept[np.ndarray] = Kept(KEPT_BYTES)

    def whole(self, name: str) -> np.ndarray:
        """All of `row_first` or `split_first`, which have one entry a row.

        Raises:
            StoreError: When it is damaged.
        """
        if name not in self._whole:
            self._whole[name] = self._read(name, 0, self._open(f"index/{name}").array.shape[0])
        return self._whole[name]

    def take(self, name: str, places: np.ndarray) -> np.ndarray:
        """(*places.shape, *entry) entries of `key` or a `NAME.offset`, the caller's own.

        Args:
            name: Array.
            places: (...,) integers within the array.

        Raises:
            StoreError: When a piece is damaged or missing, or there is no such place.
        """
        shards = self._open(f"index/{name}")
        flat = np.asarray(places, dtype=np.int64).ravel()
        count = shards.array.shape[0]
        if flat.size and (flat.min() < 0 or flat.max() >= count):
            raise StoreError(f"{self._path}: index/{name} has {count} entries, none at "
                             f"{flat.min()} to {flat.max()}. {VERIFY}")
        found = np.empty((len(flat), *shards.array.shape[1:]), shards.array.dtype)
        missing: list[tuple[int, np.ndarray]] = []
        for number, where in places_of(flat // shards.per_chunk):
            piece = self._kept.find((name, number))
            if piece is None:
                missing.append((number, where))
            else:
                found[where] = piece[flat[where] - number * shards.per_chunk]
        # Runs fill in different places, so that several may be under way.
        for _ in read_each(self._path, partial(self._take_run, name, flat, found), _runs(missing)):
            pass
        return found.reshape(*np.shape(places), *shards.array.shape[1:])

    def _take_run(
        self, name: str, flat: np.ndarray, found: np.ndarray, run: list[tuple[int, np.ndarray]]
    ) -> None:
        """Read neighbouring pieces at once, keep them and fill in what was asked of them."""
        size = self._open(f"index/{name}").per_chunk
        first = run[0][0]
        raw = self._read(name, first * size, (run[-1][0] + 1) * size)
        for number, where in run:
            # A copy: a view would keep all of the read for as long as one piece of it.
            piece = raw[(number - first) * size : (number - first + 1) * size].copy()
            self._kept.keep((name, number), piece)
            found[where] = piece[flat[where] - number * size]

    def _read(self, name: str, lo: int, hi: int) -> np.ndarray:
        """Entries `lo` to `hi`, or to the end, from the files."""
        shards = self._open(f"index/{name}")
        hi = min(hi, shards.array.shape[0])
        parts = []
        try:
            for number in range(lo // shards.entries, -(-hi // shards.entries)):
                start = number * shards.entries
                parts.append(shards.read(number, max(lo - start, 0), min(hi - start, shards.entries)))
        except FileNotFoundError:
            raise StoreError(f"{self._path}: index/{name}/{shards.file(number)} is missing. {VERIFY}") from None
        except Exception as error:  # decoding damaged bytes can raise anything
            sentence = f"{self._path}: index/{name} is damaged ({first_line(error)}). {VERIFY}"
            raise unreadable(self._path, error, sentence) from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _runs(pieces: list[tuple[int, np.ndarray]]) -> list[list[tuple[int, np.ndarray]]]:
    """Ascending pieces as runs of up to `TOGETHER` neighbours."""
    runs: list[list[tuple[int, np.ndarray]]] = []
    for piece in pieces:
        if runs and runs[-1][-1][0] + 1 == piece[0] and len(runs[-1]) < TOGETHER:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


@dataclass(frozen=True)
class RowIndex:
    """What one row adds to the index.

    Attributes:
        splits: (4,) int64: split s is the samples `splits[s]` up to `splits[s + 1]` of the row.
        long: `key` -> (n, 16) uint8, and `NAME.offset` of each bytes field -> (n + 1,) uint64.
    """

    splits: np.ndarray
    long: dict[str, np.ndarray]


def row_index(table: pa.Table, header: zpack.StoreHeader) -> RowIndex:
    """Of a row's sidecar."""
    sizes = [pc.sum(pc.equal(table["split"], split)).as_py() or 0 for split in zpack.SPLITS]
    keys = table["key"].combine_chunks()
    raw = np.frombuffer(keys.buffers()[1] or b"", np.uint8).reshape(-1, 16)
    long: dict[str, np.ndarray] = {"key": raw[keys.offset : keys.offset + len(keys)]}
    for name, spec in header.fields.items():
        if spec.kind == "bytes":
            start, size = (table[f"{name}.{what}"].to_numpy() for what in ("offset", "size"))
            long[f"{name}.offset"] = np.append(start, start[-1:] + size[-1:] if len(start) else 0).astype(np.uint64)
    return RowIndex(np.cumsum([0, *sizes]), long)


class IndexWriter:
    """Writes the index of a store row by row. Memory is `SHARD` entries an array and what has one entry a row.

    Args:
        group: The store's root, open for writing, without an index.
        header: The store's.
        samples: N, which sets the shapes.
    """

    def __init__(self, group: zarr.Group, header: zpack.StoreHeader, samples: int) -> None:
        self._group = group
        self._first = [0]
        self._splits: list[np.ndarray] = []
        self._long = {"key": _Entries(_create(group, "key", (samples, 16), "uint8"))}
        for name, spec in header.fields.items():
            if spec.kind == "bytes":
                array = _create(group, f"{name}.offset", (samples + header.rows,), "uint64")
                self._long[f"{name}.offset"] = _Entries(array)

    def add(self, row: RowIndex) -> None:
        """Append the next row.

        Raises:
            StoreError: When there are more samples than the store was said to have.
        """
        self._splits.append(self._first[-1] + row.splits)
        self._first.append(self._first[-1] + len(row.long["key"]))
        for name, entries in self._long.items():
            entries.add(row.long[name])

    def close(self) -> None:
        """Write what is left.

        Raises:
            StoreError: When there are fewer samples than the store was said to have.
        """
        for entries in self._long.values():
            entries.close()
        for name, values in (("row_first", np.array(self._first)), ("split_first", np.stack(self._splits))):
            _create(self._group, name, values.shape, "uint64")[...] = values.astype(np.uint64)


class _Entries:
    """Writes one array from its start to its end, file by file."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._written = 0
        self._waiting = np.empty((min(cast(Any, array.shards)[0], array.shape[0]), *array.shape[1:]), array.dtype)
        self._held = 0

    def add(self, values: np.ndarray) -> None:
        while len(values):
            part = values[: len(self._waiting) - self._held]
            self._waiting[self._held : self._held + len(part)] = part
            self._held += len(part)
            values = values[len(part) :]
            if self._held == len(self._waiting):
                self._write()

    def _write(self) -> None:
        stop = self._written + self._held
        if stop <= self._array.shape[0]:
            self._array[self._written : stop] = self._waiting[: self._held]
        self._written, self._held = stop, 0

    def close(self) -> None:
        self._write()
        if self._written != self._array.shape[0]:
            raise StoreError(f"{self._array.path}: the receipts say {self._array.shape[0]} entries, the sidecars "
                             f"{self._written}; they belong to different stores.")


def _create(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str) -> zarr.Array[Any]:
    chunk = min(PIECE, shape[0])
    shard = min(SHARD, -(-shape[0] // chunk) * chunk)
    array = group.create_array(
        f"index/{name}", shape=shape, chunks=(chunk, *shape[1:]), shards=(shard, *shape[1:]), dtype=dtype,
        serializer=BytesCodec(endian="little"), compressors=[Crc32cCodec()],
    )
    # Without empty chunks a file of zeros would be left out, and a missing one be no damage.
    return cast("zarr.Array[Any]", array.with_config({"write_empty_chunks": True}))
