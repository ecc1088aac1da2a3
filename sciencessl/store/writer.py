"""Writing rows: payloads into the Zarr arrays, columns into Parquet, and the receipt last.

A task owns whole rows and nothing else, so any number of threads, processes or machines write at once without a lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from sciencessl.errors import DataError, StoreError
from sciencessl.spec import FieldSpec
from sciencessl.store import format as zpack
from sciencessl.store.files import flush_to_disk, parquet_bytes, read_parquet, write_atomic

Payload = bytes | np.ndarray
UNSTORABLE = (pa.ArrowException, ValueError, TypeError)


@dataclass(frozen=True)
class PreparedSample:
    """One sample ready for a row.

    Attributes:
        id: The user's identifier, unique in the store.
        split: One of `train`, `val`, `test`.
        payload: Field -> encoded bytes, or a (C, *shape) array of the field's dtype.
        columns: Per-sample values that stay with the pixels: group, size, hashes, kept catalogue columns. None is
            missing; NaN is a value, except among text, where it is missing too.
    """

    id: str
    split: str
    payload: Mapping[str, Payload]
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """One sample that was not stored: its id, a short reason to count by, and the detail."""

    id: str
    reason: str
    detail: str = ""


def create_store(path: Path, header: zpack.StoreHeader, row_payload_bytes: int, chunk: int = 0) -> None:
    """Lay the group and its empty arrays. The header must not be sealed.

    Args:
        path: Folder to make; its name usually ends in `.zarr`.
        header: With R rows of `places` places.
        row_payload_bytes: Expected bytes of a row, which sets the chunk size of `bytes` fields.
        chunk: That chunk size in bytes, where rows of another store are to be shared; 0 follows from the rows.

    Raises:
        StoreError: When a store is there already, or the header cannot be laid out.
    """
    _check_header(path, header)
    fields = zarr.open_group(path / "fields", mode="a", zarr_format=3, use_consolidated=False)
    for name, spec in header.fields.items():
        _create_field(fields, name, spec, header, chunk or zpack.chunk_bytes(row_payload_bytes))
    # The root last: a folder without it is no store yet, and creating it again does the same.
    zarr.create_group(path, zarr_format=3, attributes=header.to_attributes())


def _check_header(path: Path, header: zpack.StoreHeader) -> None:
    if (path / "zarr.json").exists():
        raise StoreError(f"{path} is there already; go on with it, or choose another name.")
    if header.sealed or header.manifest_digest:
        raise StoreError(f"{path}: the header of a new store says that it is sealed; only `seal` may say so.")
    arrays = [name for name, spec in header.fields.items() if spec.kind == "array"]
    if header.rows < 1 or (arrays and header.places < 1):
        raise StoreError(f"{path}: {header.rows} rows of {header.places} places hold nothing; both start at 1.")


def _create_field(
    group: zarr.Group, name: str, spec: FieldSpec, header: zpack.StoreHeader, chunk: int
) -> None:
    if spec.kind == "bytes":
        shape: tuple[int, ...] = (header.rows, zpack.ROW_BYTES)
        chunks: tuple[int, ...] = (1, chunk)
        shards: tuple[int, ...] = (1, zpack.ROW_BYTES)
        dtype, fill = "uint8", 0
    else:
        item = (len(spec.channels), *spec.shape)
        per_chunk = array_chunk(header.places, spec)
        places = padded_places(header.places, spec)
        shape, chunks, shards = (header.rows * places, *item), (per_chunk, *item), (places, *item)
        dtype, fill = spec.dtype, 0
    group.create_array(
        name, shape=shape, chunks=chunks, shards=shards, dtype=dtype, fill_value=fill,
        serializer=BytesCodec(endian="little"), compressors=[Crc32cCodec()], overwrite=True,
    )


def array_chunk(places: int, spec: FieldSpec) -> int:
    """Samples in one chunk of an array field whose rows have that many places."""
    item = len(spec.channels) * int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    return min(zpack.array_chunk_samples(item), 1 << max(places - 1, 0).bit_length())


def padded_places(places: int, spec: FieldSpec) -> int:
    """Places of a row rounded up to whole chunks: a shard belongs to one row."""
    chunk = array_chunk(places, spec)
    return -(-places // chunk) * chunk


def write_row(
    path: Path,
    header: zpack.StoreHeader,
    row: int,
    samples: Sequence[PreparedSample],
    refusals: Sequence[Refusal],
    inputs_digest: str,
) -> zpack.Receipt:
    """Store one row and commit it.

    Samples are laid by (split, key): inside a split the order is that of a keyed hash, and each split is one range.

    A row may be written again as long as the store is not sealed; the new row replaces the old one as a whole.

    Raises:
        StoreError: When the store is sealed or was made from another header, when the payloads do not fit the row,
            or when an array has another shape or dtype than its field.
        DataError: When an id, a split or a column cannot be stored.
        OSError: As the file system says; without a receipt the row does not exist and is written again.
    """
    group = _open_unsealed(path, header)
    _check_row(header, row, samples)
    ordered, keys = _in_stored_order(header.source, samples)
    # Before the first byte changes: from here to the new receipt the row does not exist.
    (path / zpack.receipt_file(row)).unlink(missing_ok=True)
    sizes = {name: _write_field(path, group, name, header, row, ordered) for name in header.fields}
    raw = {
        zpack.rows_file(row): parquet_bytes(_row_table(row, ordered, keys, sizes, header)),
        zpack.refused_file(row): parquet_bytes(_refused_table(refusals)),
    }
    for name, content in raw.items():
        write_atomic(path / name, content)
    stored = read_parquet(raw[zpack.rows_file(row)])
    payloads = {name: [sample.payload[name] for sample in ordered] for name in header.fields}
    receipt = zpack.Receipt(
        row=row,
        inputs_digest=inputs_digest,
        config_digest=header.config_digest,
        row_digest=zpack.row_digest(stored, payloads, header.fields),
        samples=len(ordered),
        refused=dict(sorted(Counter(r.reason for r in refusals).items())),
        payload_bytes=sum(int(size.sum()) for size in sizes.values()),
        files={name: zpack.digest(content) for name, content in raw.items()},
    )
    write_atomic(path / zpack.receipt_file(row), receipt.to_bytes())
    return receipt


def _open_unsealed(path: Path, header: zpack.StoreHeader) -> zarr.Group:
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    found = zpack.StoreHeader.from_attributes(dict(group.attrs), path)
    if found.sealed:
        raise StoreError(f"{path} is sealed and never edited; prepare into another store, or add a table.")
    if found.to_attributes() != header.to_attributes():
        raise StoreError(f"{path} was made with other fields, rows or settings; prepare into another store.")
    return group


def _check_row(header: zpack.StoreHeader, row: int, samples: Sequence[PreparedSample]) -> None:
    if not 0 <= row < header.rows:
        raise StoreError(f"row {row}: the store has rows 0 to {header.rows - 1}.")
    arrays = [name for name, spec in header.fields.items() if spec.kind == "array"]
    if arrays and len(samples) > header.places:
        raise StoreError(f"row {row}: {len(samples)} samples, but a row of field {arrays[0]!r} has {header.places} "
                         "places; give the store more rows or more places.")
    for sample in samples:
        _check_sample(header, sample)


def _check_sample(header: zpack.StoreHeader, sample: PreparedSample) -> None:
    if sample.split not in zpack.SPLITS:
        raise DataError(f"sample {sample.id!r}: split {sample.split!r}, expected one of {', '.join(zpack.SPLITS)}.")
    if not sample.id or not _is_unicode(sample.id):
        raise DataError(f"sample {sample.id!r}: an id is text of at least one character, in valid Unicode; rename it.")
    if set(sample.payload) != set(header.fields):
        raise StoreError(
            f"sample {sample.id!r}: payload for {sorted(sample.payload)}, but the store has fields "
            f"{sorted(header.fields)}."
        )
    taken = zpack.reserved_columns(header.fields) & set(sample.columns)
    if taken:
        raise DataError(f"sample {sample.id!r}: the store keeps column names {sorted(taken)} for itself; rename them.")


def _is_unicode(text: str) -> bool:
    # File names that are not UTF-8 reach Python as lone surrogates, which neither JSON nor Parquet can hold.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _in_stored_order(source: str, samples: Sequence[PreparedSample]) -> tuple[list[PreparedSample], list[bytes]]:
    keyed = sorted(
        ((zpack.SPLITS.index(s.split), zpack.sample_key(source, s.id), s) for s in samples),
        key=lambda entry: entry[:2],
    )
    return [sample for _, _, sample in keyed], [key for _, key, _ in keyed]


def _write_field(
    path: Path, group: zarr.Group, name: str, header: zpack.StoreHeader, row: int, samples: Sequence[PreparedSample]
) -> np.ndarray:
    """Write the payloads of one field and return the stored size of each sample in bytes."""
    spec = header.fields[name]
    shard = path / zpack.shard_file(name, spec, row)
    # Without the remains of an earlier attempt, so that a longer or damaged one leaves no trace.
    shard.unlink(missing_ok=True)
    if not samples:
        return np.zeros(0, dtype=np.uint64)
    array = cast("zarr.Array[Any]", group[f"fields/{name}"])
    # Chunks of zeros are written like any other: a missing shard is then always damage, never a black image.
    array = array.with_config({"write_empty_chunks": True})
    write = _write_array if spec.kind == "array" else _write_bytes
    sizes = write(array, name, header, row, samples)
    if sizes.any():
        flush_to_disk(shard)
    return sizes


def _write_bytes(
    array: zarr.Array[Any], name: str, header: zpack.StoreHeader, row: int, samples: Sequence[PreparedSample]
) -> np.ndarray:
    payloads = [_encoded(sample, name) for sample in samples]
    sizes = np.array([len(p) for p in payloads], dtype=np.uint64)
    total = int(sizes.sum())
    if total > zpack.ROW_BYTES:
        raise StoreError(
            f"row {row}: {len(samples)} samples take {total / 2**20:.0f} MiB, but a row holds "
            f"{zpack.ROW_BYTES // 2**20} MiB; prepare with a smaller resize_px or fewer samples a row."
        )
    if not total:
        return sizes
    chunk = array.chunks[1]
    buffer = np.zeros(-(-total // chunk) * chunk, dtype=np.uint8)
    buffer[:total] = np.frombuffer(b"".join(payloads), dtype=np.uint8)
    array[row, : len(buffer)] = buffer
    return sizes


def _encoded(sample: PreparedSample, name: str) -> bytes:
    value = sample.payload[name]
    if not isinstance(value, bytes):
        raise StoreError(f"sample {sample.id!r}: field {name!r} is stored as bytes, got {type(value).__name__}.")
    return value


def _write_array(
    array: zarr.Array[Any], name: str, header: zpack.StoreHeader, row: int, samples: Sequence[PreparedSample]
) -> np.ndarray:
    spec = header.fields[name]
    expected = (len(spec.channels), *spec.shape)
    for sample in samples:
        value = sample.payload[name]
        if not isinstance(value, np.ndarray) or value.shape != expected or value.dtype != np.dtype(spec.dtype):
            got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise StoreError(f"sample {sample.id!r}: field {name!r} holds {spec.dtype} {expected}, got {got}.")
    stacked = np.stack([np.asarray(sample.payload[name]) for sample in samples])
    first = row * padded_places(header.places, spec)
    array[first : first + len(samples)] = stacked
    return np.full(len(samples), stacked[0].nbytes, dtype=np.uint64)


def _row_table(
    row: int, samples: Sequence[PreparedSample], keys: Sequence[bytes], sizes: Mapping[str, np.ndarray],
    header: zpack.StoreHeader,
) -> pa.Table:
    columns: dict[str, Any] = {
        "id": pa.array([s.id for s in samples], pa.string()),
        "key": pa.array(list(keys), pa.binary(16)),
        "split": pa.array([s.split for s in samples], pa.string()),
    }
    for name, size in sizes.items():
        if header.fields[name].kind == "bytes":
            columns[f"{name}.offset"] = pa.array(np.cumsum(size) - size, pa.uint64())
            columns[f"{name}.size"] = pa.array(size, pa.uint64())
    for name in sorted({name for sample in samples for name in sample.columns}):
        columns[name] = _column(row, name, [sample.columns.get(name) for sample in samples])
    return pa.table(columns)


def _column(row: int, name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except OverflowError as error:
        raise DataError(
            f"row {row}: column {name!r} holds whole numbers outside -2^63 to 2^63 - 1; give them as text."
        ) from error
    except UNSTORABLE:
        try:
            # Catalogues mark missing text with NaN; read so, what is left may well have one type.
            return pa.array(values, from_pandas=True)
        except UNSTORABLE as error:
            types = sorted({type(value).__name__ for value in values if value is not None})
            raise DataError(
                f"row {row}: column {name!r} mixes values of types {', '.join(types)} that no one type holds "
                f"({error}); give the column one type, text if need be."
            ) from error


def _refused_table(refusals: Sequence[Refusal]) -> pa.Table:
    return pa.table({
        "id": pa.array([r.id for r in refusals], pa.string()),
        "reason": pa.array([r.reason for r in refusals], pa.string()),
        "detail": pa.array([r.detail for r in refusals], pa.string()),
    })
