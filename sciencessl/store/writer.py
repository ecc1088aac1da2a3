"""Writing rows: payloads into the Zarr arrays, columns into Parquet, and the receipt last.

A task owns whole rows and nothing else, so any number of threads, processes or machines write at once without a lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec
from sciencessl.store import format as zpack
from sciencessl.store.files import parquet_bytes, write_atomic

Payload = bytes | np.ndarray


@dataclass(frozen=True)
class PreparedSample:
    """One sample ready for a row.

    Attributes:
        id: The user's identifier, unique in the store.
        split: One of `train`, `val`, `test`.
        payload: Field -> encoded bytes, or a (C, *shape) array of the field's dtype.
        columns: Per-sample values that stay with the pixels: group, size, hashes, kept catalogue columns.
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


def create_store(path: Path, header: zpack.StoreHeader, row_payload_bytes: int) -> None:
    """Lay the group and its empty arrays. The header must not be sealed.

    Args:
        path: Folder to make; its name usually ends in `.zarr`.
        header: With R rows of `places` places.
        row_payload_bytes: Expected bytes of a row, which sets the chunk size of `bytes` fields.
    """
    group = zarr.create_group(path, zarr_format=3, attributes=header.to_attributes())
    fields = group.create_group("fields")
    for name, spec in header.fields.items():
        _create_field(fields, name, spec, header, row_payload_bytes)


def _create_field(
    group: zarr.Group, name: str, spec: FieldSpec, header: zpack.StoreHeader, row_payload_bytes: int
) -> None:
    if spec.kind == "bytes":
        shape: tuple[int, ...] = (header.rows, zpack.ROW_BYTES)
        chunks: tuple[int, ...] = (1, zpack.chunk_bytes(row_payload_bytes))
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
        serializer=BytesCodec(), compressors=[Crc32cCodec()],
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

    Raises:
        StoreError: When the payloads do not fit the row or an array has another shape or dtype than its field.
        OSError: As the file system says; without a receipt the row does not exist and is written again.
    """
    keyed = sorted(
        ((zpack.SPLITS.index(s.split), zpack.sample_key(header.source, s.id), s) for s in samples),
        key=lambda entry: entry[:2],
    )
    ordered = [sample for _, _, sample in keyed]
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    sizes = {name: _write_field(group, name, spec, header, row, ordered) for name, spec in header.fields.items()}
    table = _row_table(ordered, [key for _, key, _ in keyed], sizes, header)
    files = {}
    for name, content in (
        (zpack.rows_file(row), table),
        (zpack.refused_file(row), _refused_table(refusals)),
    ):
        raw = parquet_bytes(content)
        write_atomic(path / name, raw)
        files[name] = zpack.digest(raw)
    receipt = zpack.Receipt(
        row=row,
        inputs_digest=inputs_digest,
        config_digest=header.config_digest,
        row_digest=row_digest(ordered),
        samples=len(ordered),
        refused=_count([r.reason for r in refusals]),
        payload_bytes=int(sum(int(size.sum()) for size in sizes.values())),
        files=files,
    )
    write_atomic(path / zpack.receipt_file(row), receipt.to_bytes())
    return receipt


def _count(reasons: Sequence[str]) -> dict[str, int]:
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def row_digest(samples: Sequence[PreparedSample]) -> str:
    """Digest of what a row holds: ids, splits, columns and payload bytes in stored order."""
    parts = []
    for sample in samples:
        columns = {name: value for name, value in sample.columns.items() if value is not None}
        described = {"id": sample.id, "split": sample.split, "columns": columns}
        payload = [name.encode() + b"\0" + _raw(value) for name, value in sorted(sample.payload.items())]
        parts.append(zpack.digest(zpack.canonical_json(described), *payload).encode())
    return zpack.digest(*parts)


def _raw(value: Payload) -> bytes:
    return value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()


def _write_field(
    group: zarr.Group, name: str, spec: FieldSpec, header: zpack.StoreHeader, row: int,
    samples: Sequence[PreparedSample],
) -> np.ndarray:
    """Write the payloads of one field and return the stored size of each sample in bytes."""
    array = group[f"fields/{name}"]
    assert isinstance(array, zarr.Array)
    if not samples:
        return np.zeros(0, dtype=np.uint64)
    if spec.kind == "array":
        return _write_array(array, name, spec, header, row, samples)
    payloads = [_encoded(sample, name) for sample in samples]
    sizes = np.array([len(p) for p in payloads], dtype=np.uint64)
    total = int(sizes.sum())
    if total > zpack.ROW_BYTES:
        raise StoreError(
            f"row {row}: {len(samples)} samples take {total / 2**20:.0f} MiB, but a row holds "
            f"{zpack.ROW_BYTES // 2**20} MiB; prepare with a smaller resize_px or fewer samples a row."
        )
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
    array: zarr.Array[Any], name: str, spec: FieldSpec, header: zpack.StoreHeader, row: int,
    samples: Sequence[PreparedSample],
) -> np.ndarray:
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
    samples: Sequence[PreparedSample], keys: Sequence[bytes], sizes: Mapping[str, np.ndarray],
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
        columns[name] = pa.array([sample.columns.get(name) for sample in samples])
    return pa.table(columns)


def _refused_table(refusals: Sequence[Refusal]) -> pa.Table:
    return pa.table({
        "id": pa.array([r.id for r in refusals], pa.string()),
        "reason": pa.array([r.reason for r in refusals], pa.string()),
        "detail": pa.array([r.detail for r in refusals], pa.string()),
    })
