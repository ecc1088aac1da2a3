"""Sealing: one writer checks that every row is committed, writes the index and closes the store for good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from sciencessl.errors import DataError, StoreError
from sciencessl.store import format as zpack
from sciencessl.store.files import write_atomic

FILES = "index/files.json"


def read_receipt(path: Path, row: int) -> zpack.Receipt | None:
    """The receipt of a row, or None where the row was never committed.

    Raises:
        StoreError: When the receipt is there but damaged.
    """
    name = zpack.receipt_file(row)
    try:
        raw = (path / name).read_bytes()
    except FileNotFoundError:
        return None
    return zpack.Receipt.from_bytes(raw, name)


def seal(path: Path, header: zpack.StoreHeader) -> zpack.StoreHeader:
    """Write `index/`, then the header with its manifest digest and `sealed: true`.

    Raises:
        StoreError: When a row has no receipt.
        DataError: When an id occurs twice, or no sample was stored at all.
    """
    receipts = [_required(path, row) for row in range(header.rows)]
    tables = [pq.read_table(path / zpack.rows_file(row)) for row in range(header.rows)]
    _check_samples(tables, receipts, header)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, values in index_arrays(tables, header).items():
        _write_index(group, name, values)
    sealed = replace(header, manifest_digest=zpack.manifest_digest(header, [r.row_digest for r in receipts]),
                     sealed=True)
    listing = {name: zpack.digest((path / name).read_bytes()) for name in fixed_files(path, header)}
    write_atomic(path / FILES, zpack.canonical_json(listing))
    # Attributes last: until this one rename the store is not sealed, and sealing again does the same.
    group.attrs.put(sealed.to_attributes())
    return sealed


def _required(path: Path, row: int) -> zpack.Receipt:
    receipt = read_receipt(path, row)
    if receipt is None:
        raise StoreError(f"{path}: row {row} has no receipt, so the store is unfinished; run prepare again to go on.")
    return receipt


def _check_samples(tables: list[pa.Table], receipts: list[zpack.Receipt], header: zpack.StoreHeader) -> None:
    ids = [value for table in tables for value in table["id"].to_pylist()]
    if not ids:
        reasons: dict[str, int] = {}
        for receipt in receipts:
            for reason, count in receipt.refused.items():
                reasons[reason] = reasons.get(reason, 0) + count
        listing = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "there were none"
        raise DataError(f"nothing to store: every input was refused ({listing}). See refused/ in the store.")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = sorted({i for i in ids if i in seen or seen.add(i)})  # type: ignore[func-returns-value]
        raise DataError(f"{len(twice)} ids occur more than once, such as {twice[:3]}; ids must be unique in a store.")


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
    patterns = ["fields/**/zarr.json", "index/**/*", "rows/*.parquet", "refused/*.parquet", "receipts/*.json"]
    found = {str(p.relative_to(path)) for pattern in patterns for p in path.glob(pattern) if p.is_file()}
    return sorted(found - {FILES})
