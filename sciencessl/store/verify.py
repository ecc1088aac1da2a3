"""`store verify`: reads every byte and names each file or row that is not what was sealed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.store import format as zpack
from sciencessl.store.files import read_file, visible_files
from sciencessl.store.index import row_index
from sciencessl.store.reader import Store
from sciencessl.store.remote import read_each
from sciencessl.store.removals import removals_fault
from sciencessl.store.seal import FILES, fixed_files, read_sidecar, required_receipt
from sciencessl.store.tables import REMOVALS, list_tables, read_table, table_files

UNSOUND = (StoreError, ConfigError, DataError)
"""What damaged files raise. Whatever else comes up, such as an object store out of reach, is no damage."""


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was sealed: where, and what is wrong."""

    where: str
    what: str


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """Check a sealed store: metadata, receipts, sidecars, every chunk's CRC, every payload's digest, index, tables,
    and the files that it refers to.

    Args:
        path: The store's folder, or its URL.
        progress: Called with (rows done, rows) after each row.

    Returns:
        All damage found; empty for a sound store. Nothing is repaired.

    Raises:
        StoreError: When the root cannot be read at all or the store was never sealed.
        OutOfReachError: When an object store does not answer.
    """
    store = Store(path)
    return list(_damage(store, progress))


def _damage(store: Store, progress: Callable[[int, int], None] | None) -> Iterator[Damage]:
    yield from _check_root(store)
    yield from _check_files(store)
    digests = []
    for row in range(store.header.rows):
        found, damage = _check_row(store, row)
        digests.extend([] if damage else [found])
        yield from damage
        if progress:
            progress(row + 1, store.header.rows)
    if len(digests) == store.header.rows and zpack.manifest_digest(store.header, digests) != store.digest:
        yield Damage("zarr.json", "the manifest digest does not follow from the rows")
    yield from _check_index(store)
    yield from _check_tables(store)


def _check_root(store: Store) -> Iterator[Damage]:
    # The header's own digest covers the attributes; zarr itself opens a root without these two.
    root = json.loads(read_file(store.path / "zarr.json"))
    if root.get("zarr_format") != 3 or root.get("node_type") != "group":
        yield Damage("zarr.json", "does not say that it is a Zarr group of format 3")


def _check_files(store: Store) -> Iterator[Damage]:
    try:
        listed = _listing(store.path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Damage(FILES, f"is damaged or missing ({error})")
        return
    present = set(fixed_files(store.path, store.header))
    for name in sorted(present - set(listed)):
        yield Damage(name, "was not there when the store was sealed")
    digests = read_each(store.path, partial(_digest, store.path), (name for name in listed if name in present))
    for name, expected in listed.items():
        if name not in present:
            yield Damage(name, "is missing")
        elif next(digests) != expected:
            yield Damage(name, "its bytes changed since the store was sealed")


def _digest(path: Path, name: str) -> str:
    return zpack.digest(read_file(path / name))


def _listing(path: Path) -> dict[str, str]:
    values = json.loads(read_file(path / FILES))
    listed: dict[str, str] = values["files"]
    if zpack.digest(zpack.canonical_json(listed)) != values["self"]:
        raise ValueError("it does not match its own digest")
    return listed


def _check_row(store: Store, row: int) -> tuple[str, list[Damage]]:
    """Digest of the row as it is now, and what is wrong with it."""
    where = f"row {row}"
    try:
        receipt = required_receipt(store.path, row)
        table = read_sidecar(store.path, receipt, zpack.rows_file(row))
        payloads = {name: row_payloads(store, name, row, table) for name in store.header.fields}
    except UNSOUND as error:
        return "", [Damage(where, str(error))]
    found = zpack.row_digest(table, payloads, store.header.fields)
    for name, spec in store.header.fields.items():
        if not any(map(len, payloads[name])) and store.has_shard(name, row):
            shard = zpack.shard_file(name, spec, row)
            return found, [Damage(shard, "holds payloads, but the row has none of this field")]
    if found != receipt.row_digest:
        return found, [Damage(where, "its samples do not match its receipt")]
    return found, [Damage(where, fault) for fault in _faults_in_place(store, payloads)]


def _faults_in_place(store: Store, payloads: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """What is wrong with the first file that payloads of a row lie in, where they stay outside of the store."""
    try:
        if (outside := store.in_place) is not None:
            outside.read([bytes(payload) for name, spec in store.header.fields.items() if spec.kind == "bytes"
                          for payload in payloads[name]])
    except StoreError as error:
        yield str(error)


def row_payloads(store: Store, name: str, row: int, table: pa.Table) -> Sequence[bytes | np.ndarray]:
    """All payloads of one field of a row in one read, as views of it.

    Args:
        store: The store.
        name: Field.
        row: Row number.
        table: The row's sidecar.

    Raises:
        StoreError: When the row is damaged.
    """
    if not table.num_rows:
        return []
    if store.header.fields[name].kind == "array":
        return list(store.read_window(name, row, 0, table.num_rows))
    start, size = table[f"{name}.offset"].to_pylist(), table[f"{name}.size"].to_pylist()
    whole = store.read_window(name, row, 0, start[-1] + size[-1])
    return [whole[a : a + b] for a, b in zip(start, size, strict=True)]


def _check_index(store: Store) -> Iterator[Damage]:
    damaged: dict[str, str] = {}
    first = 0
    try:
        for row, table in enumerate(store.row_tables()):
            part = row_index(table, store.header)
            stop = first + table.num_rows
            expected = {"row_first": np.array([first, stop]), "split_first": first + part.splits, **part.long}
            for name in expected.keys() - damaged.keys():
                damaged.update(_compare(store, name, row, first, expected[name]))
            first = stop
    except UNSOUND as error:
        yield Damage("index", f"cannot be compared with the rows ({error})")
        return
    for name in sorted(damaged):
        yield Damage(f"index/{name}", damaged[name])


def _compare(store: Store, name: str, row: int, first: int, expected: np.ndarray) -> dict[str, str]:
    """Array -> what is wrong with its entries of one row, or nothing."""
    try:
        if name in ("row_first", "split_first"):
            whole = store._index.whole(name)
            found = whole[row] if name == "split_first" else whole[row : row + 2]
        else:
            start = first if name == "key" else first + row
            found = store._index.take(name, np.arange(start, start + len(expected)))
    except UNSOUND as error:
        return {name: str(error)}
    return {} if np.array_equal(found, expected) else {name: "does not follow from the rows"}


def _check_tables(store: Store) -> Iterator[Damage]:
    known: set[str] = set()
    for name in list_tables(store.path):
        try:
            read_table(store.path, name)
            known |= table_files(store.path, name)
        except UNSOUND as error:
            yield Damage(f"tables/{name}", str(error))
            known |= set(visible_files(store.path, [f"tables/{name}"]))
    yield from _check_removals(store)
    for found in sorted(set(visible_files(store.path, ["tables"])) - known):
        yield Damage(found, "belongs to no table: one was not written to its end, or lost its table.json")


def _check_removals(store: Store) -> Iterator[Damage]:
    try:
        fault = removals_fault(store)
    except UNSOUND:
        return  # the table, or a row, is named already
    if fault:
        yield Damage(f"tables/{REMOVALS}", fault)
