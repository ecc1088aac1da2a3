"""Reading and writing small files of a store: whole, durable, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import StoreError
from sciencessl.store.remote import client, is_remote, reached


@contextmanager
def atomic_stream(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A stream to a temporary name, flushed to disk and renamed: a reader sees the old file, the new or none.

    In an object store, where one upload replaces an object as a whole, it is kept in memory and sent at the end.

    Args:
        path: The file.
        mode: Rights of the file from the first byte on, less those that the process withholds.

    Raises:
        OSError: As the file system says (disk full, read-only); after any error the temporary file is removed.
        OutOfReachError, MissingExtraError: When an object store does not take it.
    """
    if is_remote(path):
        kept = BytesIO()
        yield kept
        with reached(path):
            system, name = client(path)
            system.pipe_file(name, kept.getvalue())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, raw: bytes, mode: int = 0o666) -> None:
    """Write bytes through `atomic_stream`.

    Raises:
        OSError: As there.
    """
    with atomic_stream(path, mode) as stream:
        stream.write(raw)


def read_file(path: Path) -> bytes:
    """All bytes of a file; one request where it is remote.

    Raises:
        OSError: As the file system says; `FileNotFoundError` when it is not there, local or remote.
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    if not is_remote(path):
        return path.read_bytes()
    with reached(path):
        system, name = client(path)
        return bytes(system.cat_file(name))


def is_there(path: Path) -> bool:
    """Whether there is a file or folder of that name.

    Raises:
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    if not is_remote(path):
        return path.exists()
    with reached(path):
        system, name = client(path)
        return bool(system.exists(name))


def remove_file(path: Path) -> None:
    """Delete a file.

    Raises:
        OSError: As the file system says.
        OutOfReachError, MissingExtraError: When an object store does not do it.
    """
    if not is_remote(path):
        path.unlink()
        return
    with reached(path):
        system, name = client(path)
        system.rm_file(name)


def flush_to_disk(path: Path) -> None:
    """Wait until the bytes of a file that another library wrote are on the disk."""
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def visible_files(store: Path, folders: Iterable[str]) -> Iterator[str]:
    """Files in some folders of a store, relative to it, without hidden ones (which no reader opens)."""
    for folder in folders:
        for name, _ in sized_files(store / folder):
            if not name.rpartition("/")[2].startswith("."):
                yield f"{folder}/{name}"


def sized_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Name relative to a folder, and bytes, of each file in it and below; one listing where it is remote."""
    if is_remote(folder):
        with reached(folder):
            system, root = client(folder)
            found = system.find(root, detail=True)
        for name, about in found.items():
            yield name[len(root.rstrip("/")) + 1 :], int(about["size"])
        return
    for path in folder.rglob("*"):
        try:
            about = path.stat()
        except FileNotFoundError:  # a table was replaced meanwhile
            continue
        if S_ISREG(about.st_mode):
            yield path.relative_to(folder).as_posix(), about.st_size


def remove_leftovers(store: Path) -> None:
    """Delete the temporary files of writers that were killed, ours and zarr's. Nobody may be writing."""
    for pattern in (".*.tmp", "*.partial"):
        for path in store.rglob(pattern):
            path.unlink(missing_ok=True)


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def read_parquet(raw: bytes) -> pa.Table:
    """The table that is one Parquet file.

    Without Arrow's threads: one that still holds the bytes when Python ends aborts the process, once in some thirty
    short ones, after all its work was done (https://github.com/apache/arrow/issues/34314).

    Raises:
        pyarrow.ArrowException: When the bytes are none.
    """
    return pq.read_table(pa.BufferReader(raw), use_threads=False)


@contextmanager
def clear_os_errors(out: Path) -> Iterator[None]:
    """Turn an error of the file system into a `StoreError` that says what is kept and how to go on."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {out}: {error}. Rows with a receipt are complete and stay; make room or "
            "fix permissions and run the same command again to go on."
        ) from error
