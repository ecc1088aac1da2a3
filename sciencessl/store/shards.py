"""The sharded arrays of a store, read shard by shard: through zarr-python anywhere, directly from a local disk.

A shard is what zarr-python writes, by version 1.0 of the `sharding_indexed` codec of Zarr v3: encoded chunks and, at
the end, an index of two little-endian uint64 a chunk (where its bytes begin and how many they are), then its CRC32C. A
chunk is its values in C order, little-endian, and their CRC32C. Chunks divide a shard along one axis only, so that a
shard is a run of bytes here. zarr-python reads it through an event loop, threads and three copies, which takes about
three times as long on a local disk (docs/decisions/0005-direct-reads.md); an object store takes longer than that to
answer, and is left to zarr-python.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr

from sciencessl.store.files import is_there
from sciencessl.store.remote import is_remote

CRC_BYTES = 4
ABSENT = 2**64 - 1
"""Offset and size of a chunk that was never written: all of it is the fill value, which is zero in a store."""

Bytes = npt.NDArray[np.uint8]


class _Scratch(threading.local):
    """A buffer that a thread reads into again and again: fresh memory costs as much as reading the file does."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint8)

    def __call__(self, size: int) -> Bytes:
        if len(self._kept) < size:
            self._kept = np.empty(size, np.uint8)
        return self._kept[:size]


_scratch = _Scratch()


class Shards:
    """One array of a store. Cheap to make; picklable no more than the array is.

    Args:
        path: Folder of the array: a local `Path` is read directly.
        array: The same, opened by zarr-python. Shards lie along its first axis.
        packed: Whether a shard is one row of bytes, (1, P), so that its entries lie along the second axis.

    Attributes:
        entries: Entries of a shard.
        per_chunk: Entries of a chunk.
    """

    def __init__(self, path: Path, array: zarr.Array[Any], packed: bool = False) -> None:
        self.array = array
        self._path = path
        self._packed = packed
        self.entries = (array.shards or array.chunks)[int(packed)]
        self.per_chunk = array.chunks[int(packed)]
        self._entry = array.chunks[1 + int(packed) :]
        self._entry_bytes = int(np.prod(self._entry)) * array.dtype.itemsize

    def file(self, number: int) -> str:
        """The file of a shard, relative to the array."""
        return f"c/{number}" + "/0" * (self.array.ndim - 1)

    def read(self, number: int, lo: int, hi: int) -> np.ndarray:
        """Entries `lo` to `hi` of one shard, the caller's own: (hi - lo, *entry) in the array's dtype.

        Raises:
            FileNotFoundError: When the file is not there.
            Exception: Whatever damaged bytes make a decoder raise.
        """
        if hi <= lo:
            return np.empty((0, *self._entry), self.array.dtype)
        file = self._path / self.file(number)
        if self.array.shards and not is_remote(file):
            raw = read_shard(file, self.entries // self.per_chunk, self.per_chunk * self._entry_bytes,
                             lo * self._entry_bytes, hi * self._entry_bytes)
            return raw.view(self.array.dtype.newbyteorder("<")).reshape(-1, *self._entry)
        start = number * self.entries
        found = np.asarray(self.array[number, lo:hi] if self._packed else self.array[start + lo : start + hi])
        # zarr-python reads a missing shard as zeros; a store leaves none out. Asked only then, as it may be a request.
        if not found.any() and not is_there(file):
            raise FileNotFoundError(f"{file} is missing")
        return found


def read_shard(path: Path, chunks: int, chunk_bytes: int, lo: int, hi: int) -> Bytes:
    """Bytes `lo` to `hi` of a shard as if it held nothing but its values; every chunk that they touch is checked.

    Args:
        path: The shard's file.
        chunks: Chunks of a shard.
        chunk_bytes: Bytes of a chunk's values.
        lo: First byte, 0 or more.
        hi: One after the last, `chunks` * `chunk_bytes` at most.

    Returns:
        (hi - lo,) uint8 of the caller's own.

    Raises:
        OSError: As the file system says.
        ValueError: When index or chunk are not what their checksums say.
    """
    if hi <= lo:
        return np.empty(0, np.uint8)
    first, last = lo // chunk_bytes, (hi - 1) // chunk_bytes
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        index = np.frombuffer(_index(path, chunks, (status.st_ino, status.st_size, status.st_mtime_ns)), "<u8")
        whole = _scratch((last - first + 1) * chunk_bytes)
        for number, (start, size) in enumerate(index.reshape(-1, 2)[first : last + 1].tolist()):
            _read_chunk(file, whole[number * chunk_bytes : (number + 1) * chunk_bytes], start, size)
    return whole[lo - first * chunk_bytes : hi - first * chunk_bytes].copy()


@lru_cache(maxsize=1024)
def _index(path: Path, chunks: int, state: tuple[int, int, int]) -> bytes:
    """The index of a shard, which stays as it is as long as the file does."""
    size = 16 * chunks
    with path.open("rb") as file:
        file.seek(max(0, state[1] - size - CRC_BYTES))
        raw = file.read()
    if len(raw) != size + CRC_BYTES or google_crc32c.value(raw[:size]) != int.from_bytes(raw[size:], "little"):
        raise ValueError("the index of the shard does not match its checksum")
    return raw[:size]


def _read_chunk(file: FileIO, into: Bytes, start: int, size: int) -> None:
    if start == ABSENT:
        into[:] = 0
        return
    if size != len(into) + CRC_BYTES:
        raise ValueError(f"a chunk of {size} bytes, expected {len(into) + CRC_BYTES}")
    file.seek(start)
    checksum = bytearray(CRC_BYTES)
    if not (_read_whole(file, into.data) and _read_whole(file, memoryview(checksum))):
        raise ValueError("the shard ends inside a chunk")
    if google_crc32c.value(into) != int.from_bytes(checksum, "little"):
        raise ValueError("a chunk does not match its checksum")


def _read_whole(file: FileIO, into: memoryview) -> bool:
    """Fill a buffer; False where the file ends before."""
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])
        if not count:
            return False
        done += count
    return True
