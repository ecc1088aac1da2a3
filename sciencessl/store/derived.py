"""Stores made of a store: begun once, resumed by the same call, with its tables, and sealed."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.errors import ConfigError, StoreError
from sciencessl.store import format as zpack
from sciencessl.store.files import clear_os_errors
from sciencessl.store.header import read_header
from sciencessl.store.in_place import copy_root
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.remote import is_remote
from sciencessl.store.seal import read_columns, read_sidecar, required_receipt, seal
from sciencessl.store.tables import REMOVALS, write_table
from sciencessl.store.writer import Payload, PreparedSample, Refusal, create_store

SPARE_BYTES = 64 * 2**20
"""Room left on a disk beside what is written: sidecars, index and metadata."""


def require_apart(source: Path, out: Path) -> None:
    """Refuse to write into a store that is read, by whatever names.

    Args:
        source: The store that is read.
        out: Folder that is to be written, there or not.

    Raises:
        ConfigError: When one is the other, or lies in it.
    """
    if is_remote(source):
        return
    real = source.resolve(), out.resolve()
    if real[0].is_relative_to(real[1]) or real[1].is_relative_to(real[0]):
        raise ConfigError(f"--out {out} is {source}, or one lies in the other: a sealed store is never edited. Choose "
                          "another --out.")


def begin_derived(
    source: Store, out: Path, header: zpack.StoreHeader, what: str, row_bytes: int, chunk: int = 0
) -> zpack.StoreHeader:
    """Make a store, or find the one that the same call began.

    Args:
        source: The store that it is made of.
        out: Its folder; absent, empty or begun.
        header: Of the store to be; its `plan_digest` says what is to be in it.
        what: What is made, in words, such as `store compact`.
        row_bytes: Bytes of a row, as `create_store` takes them.
        chunk: As there.

    Returns:
        The header found or made; its `sealed` says whether there is nothing left to do.

    Raises:
        StoreError: When something else lies there.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not (out / "zarr.json").exists():
            raise StoreError(f"{out} exists and is no store, so it is left alone. Choose another --out.")
        found = read_header(out)
        if replace(found, sealed=False, manifest_digest="").to_attributes() != header.to_attributes():
            raise StoreError(f"{out} holds something else than what `{what}` makes of {source.path} as it is now. "
                             "Choose another --out, or delete it first.")
        return found
    # Laid beside and renamed: a kill never leaves half a header.
    fresh = out.with_name(f".{out.name}.begin")
    shutil.rmtree(fresh, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    create_store(fresh, header, row_bytes, chunk)
    copy_root(source.path, fresh)
    fresh.rename(out)
    return header


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Keep other writers out, and say clearly what the file system refuses.

    Raises:
        StoreError: When another process writes there, or an `OSError` is raised inside.
    """
    with only_writer(out), clear_os_errors(out):
        yield


def finish_derived(source: Store, out: Path, header: zpack.StoreHeader) -> Store:
    """Carry the tables over, without the lines of withdrawn samples, and seal: what is sealed lacks nothing.

    Args:
        source: Whose tables they are.
        out: With all its rows.
        header: Of `out`, not sealed.

    Raises:
        StoreError: When a table or a row is damaged.
    """
    gone = source.table(REMOVALS).data["id"].to_pylist() if REMOVALS in source.tables else []
    carry_tables(source, out, gone, skip=(REMOVALS,))
    seal(out, header)
    return Store(out)


def carry_tables(source: Store, out: Path, without: Collection[str] = (), skip: Collection[str] = ()) -> None:
    """Write the tables of one store beside the rows of another.

    Args:
        source: Whose tables they are.
        out: The other store.
        without: Ids whose lines are left out.
        skip: Names of tables that are left out.

    Raises:
        StoreError: When a table is damaged.
    """
    gone = pa.array(without, pa.string())
    for name in source.tables:
        if name not in skip:
            table = source.table(name)
            data = table.data.filter(pc.invert(pc.is_in(table.data["id"], value_set=gone)))
            write_table(out, name, data, table.schema, table.derived_from, table.note)


def require_space(out: Path, needed: int) -> None:
    """Refuse before the first byte what the disk cannot hold.

    Args:
        out: Folder that is to be written, there or not.
        needed: Bytes.

    Raises:
        StoreError: With what is needed and what is free.
    """
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed + SPARE_BYTES:
        raise StoreError(
            f"{out} needs {needed / 2**30:.2f} GiB and {there} has {free / 2**30:.2f} GiB free. Make room, or choose "
            "an --out on another disk."
        )


def row_samples(store: Store, row: int, keep: np.ndarray) -> list[PreparedSample]:
    """Samples of a row as `write_row` takes them.

    Args:
        store: The store.
        row: Row number.
        keep: (k,) places in the row, ascending.

    Raises:
        StoreError: When the row is damaged.
    """
    table = read_columns(store.path, row)
    first = int(store.row_first[row])
    payloads = {name: store.consecutive(name, first, first + table.num_rows, as_stored=True)
                for name in store.header.fields}
    kept = {name: [values[place] for place in keep.tolist()] for name, values in payloads.items()}
    names = zpack.user_columns(table.column_names, store.header.fields)
    return as_samples(table.select(["id", "split", *names]).take(pa.array(keep)), kept)


def as_samples(table: pa.Table, payloads: Mapping[str, Sequence[Payload]]) -> list[PreparedSample]:
    """Samples as `write_row` takes them, their columns with the types they have.

    Args:
        table: `id`, `split` and the samples' own columns, n lines.
        payloads: Field -> n payloads.
    """
    # Arrow's own scalars, as Python's numbers would make every float a double.
    values = {name: [cell if cell.is_valid else None for cell in table[name]] for name in table.column_names[2:]}
    return [
        PreparedSample(name, split, {field: found[i] for field, found in payloads.items()},
                       {column: cells[i] for column, cells in values.items()})
        for i, (name, split) in enumerate(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
    ]


def row_refusals(store: Store, row: int) -> list[Refusal]:
    """What a row did not store.

    Raises:
        StoreError: When it is damaged.
    """
    table = read_sidecar(store.path, required_receipt(store.path, row), zpack.refused_file(row))
    return [Refusal(**line) for line in table.to_pylist()]
