"""Sealing: one writer checks that every row is committed, writes the index and closes the store for good."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr

from sciencessl.errors import DataError, StoreError
from sciencessl.store import format as zpack
from sciencessl.store.files import (
    flush_to_disk,
    read_file,
    read_parquet,
    remove_leftovers,
    visible_files,
    write_atomic,
)
from sciencessl.store.index import IndexWriter, RowIndex, row_index
from sciencessl.store.repeated import MOST_REPEATED, RepeatedKeys, heads

FILES = "index/files.json"
"""Digest of every file that is fixed once sealed and is no shard, with a digest of its own."""
FIXED_FOLDERS = ("fields", "index", "rows", "refused", "receipts")
"""Folders that belong to the format and never change once sealed."""
SCRATCH = ".sealing"
"""Folder for what sealing needs meanwhile: 8 bytes a sample. It begins with a dot, so it is no part of the store."""


def read_receipt(path: Path, row: int) -> zpack.Receipt | None:
    """The receipt of a row, or None where the row was never committed.

    Raises:
        StoreError: When the receipt is there but damaged.
    """
    name = zpack.receipt_file(row)
    try:
        raw = read_file(path / name)
    except FileNotFoundError:
        return None
    return zpack.Receipt.from_bytes(raw, str(path / name))


def read_sidecar(path: Path, receipt: zpack.Receipt, name: str) -> pa.Table:
    """One Parquet file of a row. Its bytes are compared with the receipt before they are parsed.

    Raises:
        StoreError: When the file is missing or not the one that was committed; names the row.
    """
    try:
        raw = read_file(path / name)
    except FileNotFoundError:
        raise StoreError(f"{path}: row {receipt.row} lacks its file {name}.") from None
    if zpack.digest(raw) != receipt.files.get(name):
        raise StoreError(f"{path}: row {receipt.row} is damaged: {name} is not the file that was committed.")
    return read_parquet(raw)


def read_columns(path: Path, row: int) -> pa.Table:
    """The sidecar of one committed row.

    Raises:
        StoreError: When the row has no receipt, or receipt or sidecar are damaged.
    """
    return read_sidecar(path, required_receipt(path, row), zpack.rows_file(row))


def seal(path: Path, header: zpack.StoreHeader) -> zpack.StoreHeader:
    """Write `index/`, then the header with its manifest digest and `sealed: true`. Nobody else may be writing.

    Sealing that was interrupted is repeated from the start and gives the same. A sealed store is left as it is.

    Raises:
        StoreError: When a row has no receipt or is damaged, or the store was made from another header.
        DataError: When an id occurs twice, a column has types that no one type holds, or no sample was stored at all.
    """
    digests, samples, refused = [], 0, Counter[str]()
    for row in range(header.rows):
        receipt = _checked_receipt(path, row, header)
        digests.append(receipt.row_digest)
        samples += receipt.samples
        refused.update(receipt.refused)
    sealed = replace(header, manifest_digest=zpack.manifest_digest(header, digests), sealed=True)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    if _is_sealed_already(group, path, header, sealed):
        return sealed
    if not samples:
        listing = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items())) or "there were none"
        raise DataError(f"nothing to store: every input was refused ({listing}). See refused/ in the store.")
    remove_leftovers(path)
    _write_index(path, group, header, samples)
    for name in visible_files(path, ["index"]):
        flush_to_disk(path / name)
    files = {name: zpack.digest(read_file(path / name)) for name in fixed_files(path, header)}
    own = zpack.digest(zpack.canonical_json(files))
    write_atomic(path / FILES, zpack.canonical_json({"files": files, "self": own}))
    # Attributes last: until this one rename the store is not sealed, and sealing again does the same.
    group.attrs.put(sealed.to_attributes())
    return sealed


def _is_sealed_already(
    group: zarr.Group, path: Path, header: zpack.StoreHeader, sealed: zpack.StoreHeader
) -> bool:
    found = zpack.StoreHeader.from_attributes(dict(group.attrs), path).to_attributes()
    if found == sealed.to_attributes():
        return True
    if found != header.to_attributes():
        raise StoreError(f"{path} is sealed already, or was made with other fields, rows or settings.")
    return False


def _checked_receipt(path: Path, row: int, header: zpack.StoreHeader) -> zpack.Receipt:
    receipt = required_receipt(path, row)
    if receipt.row != row or receipt.config_digest != header.config_digest:
        raise StoreError(
            f"{path}: row {row} was prepared with other settings than the store; delete "
            f"{zpack.receipt_file(row)} and run prepare again."
        )
    return receipt


def required_receipt(path: Path, row: int) -> zpack.Receipt:
    """The receipt of a row that must have one.

    Raises:
        StoreError: When it is missing or damaged.
    """
    receipt = read_receipt(path, row)
    if receipt is None:
        raise StoreError(f"{path}: row {row} has no receipt. If the store was never sealed, run the same command again "
                         "to go on; else the file was lost.")
    return receipt


def _write_index(path: Path, group: zarr.Group, header: zpack.StoreHeader, samples: int) -> None:
    """Check one row after the other and append it to the index."""
    shutil.rmtree(path / "index", ignore_errors=True)
    index = IndexWriter(group, header, samples)
    types = pa.schema([])
    with RepeatedKeys(path / SCRATCH, samples) as repeated:
        for row in range(header.rows):
            table = read_columns(path, row)
            types = _with_types(types, table.schema, row)
            part = row_index(table, header)
            _check_shards(path, header, row, part)
            repeated.add(part.long["key"])
            index.add(part)
        found = repeated.found()
    if found.size:
        _check_ids(path, header, found)
    index.close()


def _check_ids(path: Path, header: zpack.StoreHeader, suspects: np.ndarray) -> None:
    """Look again at the ids whose keys begin alike: a second pass, made only where there are such."""
    counts: Counter[str] = Counter()
    for row in range(header.rows):
        table = read_columns(path, row)
        alike = np.isin(heads(row_index(table, header).long["key"]), suspects)
        counts.update(table["id"].filter(pa.array(alike)).to_pylist())
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        more = " or more" if len(suspects) >= MOST_REPEATED else ""
        raise DataError(f"{len(twice)}{more} ids occur more than once, such as {twice[:3]}; ids must be unique in a "
                        "store.")


def _with_types(types: pa.Schema, more: pa.Schema, row: int) -> pa.Schema:
    """Refuse a column that is a number in one row and text in another: it could never be read as one."""
    try:
        return pa.unify_schemas([types, more], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"row {row} holds a column of another type than the rows before it ({str(error).splitlines()[0]}); "
            "give the column one type, text if need be, and prepare into a new store."
        ) from error


def _check_shards(path: Path, header: zpack.StoreHeader, row: int, part: RowIndex) -> None:
    for name, spec in header.fields.items():
        stored = int(part.long[f"{name}.offset"][-1]) if spec.kind == "bytes" else len(part.long["key"])
        if stored and not (path / zpack.shard_file(name, spec, row)).exists():
            raise StoreError(
                f"{path}: row {row} lacks its payloads of field {name!r}; delete {zpack.receipt_file(row)} "
                "and run prepare again."
            )


def fixed_files(path: Path, header: zpack.StoreHeader) -> list[str]:
    """Files that never change once sealed and are no shard: metadata, index, sidecars, receipts."""
    found = (name for name in visible_files(path, FIXED_FOLDERS) if not _is_shard(name, header))
    return sorted(name for name in found if name != FILES)


def _is_shard(name: str, header: zpack.StoreHeader) -> bool:
    folder, field, *rest = name.split("/")
    if folder != "fields" or field not in header.fields or len(rest) < 2 or not rest[1].isdecimal():
        return False
    row = int(rest[1])
    return row < header.rows and name == zpack.shard_file(field, header.fields[field], row)
