"""The names, sizes and digests of `zpack/1`: what a writer and a reader must agree on, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec

FORMAT = "zpack/1"
ROW_BYTES = 256 * 2**20
"""Capacity P of a packed row. A power of two, so that every chunk size below divides it."""
CHUNK_BYTES = 4 * 2**20
"""Inner chunk of a packed row; smaller (down to `MIN_CHUNK_BYTES`) where whole rows are smaller."""
MIN_CHUNK_BYTES = 64 * 2**10
ARRAY_CHUNK_BYTES = 3 * 2**20
ROW_SAMPLES = 8192
"""Most samples in a row."""
MIN_ROWS = 16
"""Fewest rows of a store with that many samples: what a killed run can lose is one of them."""
SPLITS = ("train", "val", "test")
"""Order in which the samples of a row are laid, so that a split is one range a row and costs no list."""


@dataclass(frozen=True)
class StoreHeader:
    """The attributes of the root group.

    Attributes:
        domain: Name of the domain that made the store.
        source: Name of the source inside it; keys are hashes of (source, id).
        fields: Field name -> how it is stored.
        rows: Number of rows R.
        places: Samples that a row has room for (array fields).
        settings: Preparation settings that change pixels, ids or splits.
        plan_digest: Digest of what was to be prepared.
        config_digest: Digest of `settings`.
        manifest_digest: Digest of what was prepared; empty until sealed.
        sealed: Whether the store is complete and will never be edited.
    """

    domain: str
    source: str
    fields: Mapping[str, FieldSpec]
    rows: int
    places: int
    settings: Mapping[str, Any]
    plan_digest: str
    config_digest: str
    manifest_digest: str = ""
    sealed: bool = False

    def to_attributes(self) -> dict[str, Any]:
        """JSON values for the group's attributes, with a digest of the rest so that any flipped byte shows.

        Raises:
            StoreError: When `settings` holds a value that JSON cannot say.
        """
        known = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values = plain({"format": FORMAT, **known})
        return {**values, "self": digest(canonical_json(values))}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], path: Path) -> StoreHeader:
        """Read the group's attributes.

        Raises:
            StoreError: When they are not those of a `zpack/1` store, or were changed.
        """
        values = dict(attributes)
        own = values.pop("self", None)
        if "format" not in values:
            raise StoreError(f"{path} is a Zarr group but no {FORMAT} store. Make one with `sciencessl prepare`.")
        if values["format"] != FORMAT:
            raise StoreError(f"{path} is a Zarr group of format {values.get('format')!r}, expected {FORMAT!r}.")
        if own != digest(canonical_json(values)):
            raise StoreError(f"{path}/zarr.json does not match its own digest: it was edited or damaged.")
        del values["format"]
        values["fields"] = {name: _field(spec) for name, spec in values["fields"].items()}
        return cls(**values)


def _field(values: Mapping[str, Any]) -> FieldSpec:
    known = dict(values)
    known["channels"] = tuple(known["channels"])
    known["shape"] = tuple(known["shape"])
    return FieldSpec(**known)


@dataclass(frozen=True)
class Receipt:
    """The commit of one row: written last, so a row without it does not exist.

    Attributes:
        row: Row number.
        inputs_digest: Of the inputs as they were (path, size, modification time).
        config_digest: Of the settings.
        row_digest: Of ids, splits, columns and stored payloads; enters the manifest.
        samples: Samples stored.
        refused: Reason -> number of samples refused.
        payload_bytes: Bytes of the packed payloads, before padding.
        files: File name (relative to the store) -> digest of its bytes; no reader parses bytes that differ.
    """

    row: int
    inputs_digest: str
    config_digest: str
    row_digest: str
    samples: int
    refused: Mapping[str, int]
    payload_bytes: int
    files: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Canonical JSON, with a digest of the rest so that any flipped byte shows."""
        values = asdict(self)
        return canonical_json({**values, "self": digest(canonical_json(values))})

    @classmethod
    def from_bytes(cls, raw: bytes, where: str) -> Receipt:
        """Parse and check.

        Raises:
            StoreError: When the receipt does not carry its own digest.
        """
        try:
            values = json.loads(raw)
            own = values.pop("self")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{where} is not a receipt ({error}): the file was changed or damaged.") from error
        if own != digest(canonical_json(values)):
            raise StoreError(f"{where} does not match its own digest: the file was changed or damaged.")
        return cls(**values)


def canonical_json(values: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes, in every process and on every machine.

    Dataclasses become objects, NumPy scalars numbers, paths, dates and decimals text, bytes hex, sets sorted lists.

    Raises:
        StoreError: For any other type: its text could differ from one process to the next, and so would digests. For
            a mapping whose keys have no order, too.
    """
    try:
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain_value)
    except TypeError as error:
        raise StoreError(f"a mapping or set cannot be written to a store ({error}); use text for its keys.") from error
    return text.encode()


def _plain_value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path | Decimal | timedelta):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise StoreError(
        f"a {type(value).__name__} ({value!r}) cannot be written to a store; use numbers, text, lists or mappings."
    )


def plain(values: Any) -> Any:
    """The values as JSON reads them back: mappings with text keys, lists, text, numbers."""
    return json.loads(canonical_json(values))


def digest(*parts: bytes | memoryview) -> str:
    """Blake2b-128 of the length-prefixed parts, in hex."""
    state = blake2b(digest_size=16)
    for part in parts:
        state.update(memoryview(part).nbytes.to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def sample_key(source: str, identifier: str) -> bytes:
    """The 16-byte key of a sample, blake2b-128 of (source, id): it drives order, split and augmentation."""
    return bytes.fromhex(digest(source.encode(), identifier.encode()))


def manifest_digest(header: StoreHeader, row_digests: Iterable[str]) -> str:
    """Digest of format, fields, settings and rows in plan order; never of host, time, path, worker or engine."""
    fixed = {
        "format": FORMAT,
        "domain": header.domain,
        "source": header.source,
        "fields": dict(header.fields),
        "settings": header.settings,
    }
    return digest(canonical_json(plain(fixed)), *(value.encode() for value in row_digests))


def row_digest(
    table: pa.Table, payloads: Mapping[str, Sequence[bytes | np.ndarray]], fields: Mapping[str, FieldSpec]
) -> str:
    """Digest of what a row holds: ids, splits, columns and payload bytes, in stored order.

    Writer and `verify` both give it the table as Parquet returns it, so that what a column becomes on the way (an
    integer beside a fraction, a NumPy scalar, a missing value) is the same on both sides. A missing value counts as
    no value; NaN is a value.

    Args:
        table: The row's sidecar.
        payloads: Field -> one payload a sample.
        fields: The store's fields.
    """
    columns = user_columns(table.column_names, fields)
    parts = []
    for place, values in enumerate(table.select(["id", "split", *columns]).to_pylist()):
        known = {name: values[name] for name in columns if values[name] is not None}
        described = canonical_json({"id": values["id"], "split": values["split"], "columns": known})
        stored = [part for name in sorted(payloads) for part in (name.encode(), _bytes_of(payloads[name][place]))]
        parts.append(digest(described, *stored).encode())
    return digest(*parts)


def _bytes_of(payload: bytes | np.ndarray) -> bytes | memoryview:
    # A contiguous array is hashed where it lies, without a copy.
    return payload if isinstance(payload, bytes) else np.ascontiguousarray(payload).reshape(-1).view(np.uint8).data


def reserved_columns(fields: Mapping[str, FieldSpec]) -> set[str]:
    """Names in a row's sidecar that are the format's own."""
    packed = [name for name, spec in fields.items() if spec.kind == "bytes"]
    return {"id", "key", "split"} | {f"{name}.{what}" for name in packed for what in ("offset", "size")}


def user_columns(names: Iterable[str], fields: Mapping[str, FieldSpec]) -> list[str]:
    """The names that are a sample's own columns."""
    own = reserved_columns(fields)
    return [name for name in names if name not in own]


def row_name(row: int) -> str:
    """`00000123`."""
    return f"{row:08d}"


def rows_file(row: int) -> str:
    """Where the per-sample columns of a row lie, relative to the store."""
    return f"rows/{row_name(row)}.parquet"


def receipt_file(row: int) -> str:
    """Where the receipt of a row lies."""
    return f"receipts/{row_name(row)}.json"


def refused_file(row: int) -> str:
    """Where the refusals of a row lie."""
    return f"refused/{row_name(row)}.parquet"


def shard_file(name: str, spec: FieldSpec, row: int) -> str:
    """Where the payloads of one field of a row lie: one shard, so one file, a row."""
    trailing = 1 if spec.kind == "bytes" else 1 + len(spec.shape)
    return f"fields/{name}/c/{row}" + "/0" * trailing


def chunk_bytes(row_payload_bytes: int) -> int:
    """Inner chunk for rows of about that many bytes: a power of two of a 64th of a row, as 4 MiB are of a full one.

    Shorter rows have chunks of 1 MiB, where they are as long: a run of samples is read with all chunks that it touches,
    and an object store takes a request for each chunk. The smallest chunk is `MIN_CHUNK_BYTES`.
    """
    whole, share = (1 << max(size - 1, 1).bit_length() for size in (row_payload_bytes, -(-row_payload_bytes // 64)))
    return max(MIN_CHUNK_BYTES, min(CHUNK_BYTES, whole, max(share, 2**20)))


def array_chunk_samples(sample_bytes: int) -> int:
    """Samples in one chunk of an array field: the power of two nearest below 3 MiB, at least one."""
    return 1 << max(ARRAY_CHUNK_BYTES // max(sample_bytes, 1), 1).bit_length() - 1

