"""Sealing: one writer checks that every row is committed, writes the index and closes the store for good."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from sciencessl.errors import DataError, StoreError
from sciencessl.store import format as zpack
from sciencessl.store.files import read_file, remove_leftovers, visible_files, write_atomic

FILES = "index/files.json"
"""Digest of every file that is fixed once sealed and is no shard, with a digest of its own."""
FIXED_FOLDERS = ("fields", "index", "rows", "refused", "receipts")
"""Folders that belong to the format and never change once sealed."""


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
    return zpack.Receipt.from_bytes(raw, name)


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
    return pq.read_table(pa.BufferReader(raw))


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
    receipts = [_checked_receipt(path, row, header) for row in range(header.rows)]
    sealed = replace(header, manifest_digest=zpack.manifest_digest(header, [r.row_digest for r in receipts]),
                     sealed=True)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    if _is_sealed_already(group, path, header, sealed):
        return sealed
    tables = [read_sidecar(path, receipt, zpack.rows_file(receipt.row)) for receipt in receipts]
    _check_samples(tables, receipts)
    _check_types(tables)
    _check_shards(path, header, tables)
    remove_leftovers(path, FIXED_FOLDERS)
    shutil.rmtree(path / "index", ignore_errors=True)
    for name, values in index_arrays(tables, header).items():
        _write_index(group, name, values)
    listing = {name: zpack.digest(read_file(path / name)) for name in fixed_files(path, header)}
    own = zpack.digest(zpack.canonical_json(listing))
    write_atomic(path / FILES, zpack.canonical_json({"files": listing, "self": own}))
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
        raise StoreError(f"{path}: row {row} has no receipt, so the store is unfinished; run prepare again to go on.")
    return receipt


def _check_samples(tables: list[pa.Table], receipts: list[zpack.Receipt]) -> None:
    ids = [value for table in tables for value in table["id"].to_pylist()]
    if not ids:
        reasons: Counter[str] = Counter()
        for receipt in receipts:
            reasons.update(receipt.refused)
        listing = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "there were none"
        raise DataError(f"nothing to store: every input was refused ({listing}). See refused/ in the store.")
    if len(set(ids)) < len(ids):
        twice = sorted(name for name, count in Counter(ids).items() if count > 1)
        raise DataError(f"{len(twice)} ids occur more than once, such as {twice[:3]}; ids must be unique in a store.")


def _check_types(tables: list[pa.Table]) -> None:
    """Refuse a column that is a number in one row and text in another: it could never be read as one."""
    unified = pa.schema([])
    for row, table in enumerate(tables):
        try:
            unified = pa.unify_schemas([unified, table.schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"row {row} holds a column of another type than the rows before it ({str(error).splitlines()[0]}); "
                "give the column one type, text if need be, and prepare into a new store."
            ) from error


def _check_shards(path: Path, header: zpack.StoreHeader, tables: list[pa.Table]) -> None:
    for row, table in enumerate(tables):
        for name, spec in header.fields.items():
            stored = int(_offsets(table, name)[-1]) if spec.kind == "bytes" else table.num_rows
            if stored and not (path / zpack.shard_file(name, spec, row)).exists():
                raise StoreError(
                    f"{path}: row {row} lacks its payloads of field {name!r}; delete {zpack.receipt_file(row)} "
                    "and run prepare again."
                )


def index_arrays(tables: list[pa.Table], header: zpack.StoreHeader) -> dict[str, np.ndarray]:
    """What the loader needs: two look-ups a sample, and one range a row and split.

    Returns:
        `row_first` (R+1,) uint64; `split_first` (R, 4) uint64, where split s of row r is
        `split_first[r, s]` to `split_first[r, s+1]`; `key` (N, 16) uint8; and for each bytes field
        `NAME.offset` (N + R,) uint64, with one end after each row.
    """
    counts = np.array([table.num_rows for table in tables], dtype=np.uint64)
    row_first = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    split_first = np.zeros((len(tables), len(zpack.SPLITS) + 1), dtype=np.uint64)
    for row, table in enumerate(tables):
        values = np.array(table["split"].to_pylist(), dtype=object)
        sizes = [int((values == split).sum()) for split in zpack.SPLITS]
        split_first[row] = int(row_first[row]) + np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    keys = b"".join(key for table in tables for key in table["key"].to_pylist())
    arrays: dict[str, np.ndarray] = {
        "row_first": row_first,
        "split_first": split_first,
        "key": np.frombuffer(keys, dtype=np.uint8).reshape(-1, 16),
    }
    for name, spec in header.fields.items():
        if spec.kind == "bytes":
            parts = [_offsets(table, name) for table in tables]
            arrays[f"{name}.offset"] = np.concatenate(parts)
    return arrays


def _offsets(table: pa.Table, name: str) -> np.ndarray:
    if not table.num_rows:
        return np.zeros(1, dtype=np.uint64)
    start = table[f"{name}.offset"].to_numpy().astype(np.uint64)
    size = table[f"{name}.size"].to_numpy().astype(np.uint64)
    return np.append(start, start[-1] + size[-1])


def _write_index(group: zarr.Group, name: str, values: np.ndarray) -> None:
    chunks = (min(max(len(values), 1), 65_536), *values.shape[1:])
    array = group.create_array(
        f"index/{name}", shape=values.shape, chunks=chunks, dtype=values.dtype, overwrite=True,
        serializer=BytesCodec(), compressors=[Crc32cCodec()],
    )
    array[...] = values


def fixed_files(path: Path, header: zpack.StoreHeader) -> list[str]:
    """Files that never change once sealed and are no shard: metadata, index, sidecars, receipts."""
    shards = {zpack.shard_file(name, spec, row) for name, spec in header.fields.items() for row in range(header.rows)}
    return sorted(set(visible_files(path, FIXED_FOLDERS)) - shards - {FILES})
