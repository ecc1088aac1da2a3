"""`store verify`: reads every byte once and names each file or row that is not what was sealed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sciencessl.errors import SciencesslError
from sciencessl.store import format as zpack
from sciencessl.store.reader import Store
from sciencessl.store.seal import FILES, fixed_files, index_arrays, read_receipt
from sciencessl.store.tables import list_tables, read_table
from sciencessl.store.writer import PreparedSample, row_digest

RESERVED = {"id", "key", "split"}


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was sealed: where, and what is wrong."""

    where: str
    what: str


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """Check a sealed store: metadata, receipts, sidecars, every chunk's CRC, every payload's digest, index, tables.

    Args:
        path: The store's folder.
        progress: Called with (rows done, rows) after each row.

    Returns:
        All damage found; empty for a sound store. Nothing is repaired.

    Raises:
        StoreError: When the root cannot be read at all or the store was never sealed.
    """
    store = Store(path)
    return list(_damage(store, progress))


def _damage(store: Store, progress: Callable[[int, int], None] | None) -> Iterator[Damage]:
    yield from _check_files(store)
    digests = []
    for row in range(store.header.rows):
        found, damage = _check_row(store, row)
        digests.append(found)
        yield from damage
        if progress:
            progress(row + 1, store.header.rows)
    if zpack.manifest_digest(store.header, digests) != store.digest:
        yield Damage("zarr.json", "the manifest digest does not follow from the rows")
    yield from _check_index(store)
    for name in list_tables(store.path):
        try:
            read_table(store.path, name)
        except SciencesslError as error:
            yield Damage(f"tables/{name}", str(error))


def _check_files(store: Store) -> Iterator[Damage]:
    try:
        raw = (store.path / FILES).read_bytes()
        listed = json.loads(raw)
        if zpack.canonical_json(listed) != raw:
            yield Damage(FILES, "was edited or damaged")
    except (OSError, ValueError) as error:
        yield Damage(FILES, f"cannot be read ({error})")
        return
    present = set(fixed_files(store.path, store.header))
    for name in sorted(present - set(listed)):
        yield Damage(name, "was not there when the store was sealed")
    for name, expected in listed.items():
        if name not in present:
            yield Damage(name, "is missing")
        elif zpack.digest((store.path / name).read_bytes()) != expected:
            yield Damage(name, "its bytes changed since the store was sealed")


def _check_row(store: Store, row: int) -> tuple[str, list[Damage]]:
    """Digest of the row as it is now, and what is wrong with it."""
    where = f"row {row}"
    try:
        receipt = read_receipt(store.path, row)
        samples = read_row(store, row)
    except (SciencesslError, OSError, ValueError, KeyError) as error:
        return "", [Damage(where, str(error))]
    if receipt is None:
        return "", [Damage(where, "has no receipt")]
    found = row_digest(samples)
    if found != receipt.row_digest:
        return found, [Damage(where, "its samples do not match its receipt")]
    return found, []


def read_row(store: Store, row: int) -> list[PreparedSample]:
    """A whole row back as it was given to the writer."""
    table = pq.read_table(store.path / zpack.rows_file(row))
    columns = [name for name in table.column_names if name not in RESERVED and not name.endswith((".offset", ".size"))]
    payload: dict[str, list[bytes | np.ndarray]] = {}
    for name, spec in store.header.fields.items():
        if not table.num_rows:
            payload[name] = []
        elif spec.kind == "bytes":
            start, size = table[f"{name}.offset"].to_pylist(), table[f"{name}.size"].to_pylist()
            whole = store.read_window(name, row, 0, start[-1] + size[-1]).tobytes()
            payload[name] = [whole[a : a + b] for a, b in zip(start, size, strict=True)]
        else:
            payload[name] = list(store.read_window(name, row, 0, table.num_rows))
    return [
        PreparedSample(
            id=values["id"],
            split=values["split"],
            payload={name: payload[name][i] for name in payload},
            columns={name: values[name] for name in columns if values[name] is not None},
        )
        for i, values in enumerate(table.to_pylist())
    ]


def _check_index(store: Store) -> Iterator[Damage]:
    try:
        expected = index_arrays(list(store.row_tables()), store.header)
    except (OSError, ValueError, KeyError) as error:
        yield Damage("index", f"cannot be compared, the sidecars are unreadable ({error})")
        return
    for name, values in expected.items():
        try:
            if not np.array_equal(store._index(name), values):
                yield Damage(f"index/{name}", "does not follow from the rows")
        except (SciencesslError, OSError, ValueError, KeyError, RuntimeError) as error:
            yield Damage(f"index/{name}", f"cannot be read ({str(error).splitlines()[0]})")
