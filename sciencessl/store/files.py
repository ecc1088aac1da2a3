"""Reading and writing small files of a store: whole, durable, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import StoreError


@contextmanager
def atomic_stream(path: Path) -> Iterator[BinaryIO]:
    """A stream to a temporary name, flushed to disk and renamed: a reader sees the old file, the new or none.

    Raises:
        OSError: As the file system says (disk full, read-only); after any error the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, raw: bytes) -> None:
    """Write bytes through `atomic_stream`.

    Raises:
        OSError: As there.
    """
    with atomic_stream(path) as stream:
        stream.write(raw)


def flush_to_disk(path: Path) -> None:
    """Wait until the bytes of a file that another library wrote are on the disk."""
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def visible_files(store: Path, folders: Iterable[str]) -> Iterator[str]:
    """Files in some folders of a store, relative to it, without hidden ones (which no reader opens)."""
    for folder in folders:
        for path in (store / folder).rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(store).as_posix()


def remove_leftovers(store: Path, folders: Iterable[str]) -> None:
    """Delete the temporary files of writers that were killed, ours and zarr's. Nobody may be writing."""
    for folder in folders:
        for pattern in (".*.tmp", "*.partial"):
            for path in (store / folder).rglob(pattern):
                path.unlink(missing_ok=True)


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


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
