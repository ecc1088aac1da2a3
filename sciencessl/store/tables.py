"""Tables beside the pixels: labels, votes and whatever arrives after sealing, keyed by sample id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sciencessl.errors import DataError, StoreError, unknown_name
from sciencessl.spec import LabelSchema
from sciencessl.store.files import parquet_bytes, write_atomic
from sciencessl.store.format import canonical_json, digest


@dataclass(frozen=True)
class Table:
    """One table of a store.

    Attributes:
        name: Folder name under `tables/`.
        data: `id` and the table's columns.
        schema: The label schema whose answer columns the table holds, or None.
        derived_from: Column -> columns it was computed from. Evaluation follows it to say what pretraining saw.
        note: Where the values come from, in words: printed wherever the table is named.
        digest: Of the data and of everything above.
    """

    name: str
    data: pa.Table
    schema: LabelSchema | None
    derived_from: Mapping[str, tuple[str, ...]]
    note: str
    digest: str

    @property
    def columns(self) -> list[str]:
        """Column names without `id`."""
        return [name for name in self.data.column_names if name != "id"]

    def aligned(self, column: str, ids: Sequence[str]) -> np.ndarray:
        """(N,) values in the order of `ids`; None or NaN where the table has no row."""
        return cast(np.ndarray, self._taken(ids)[column].to_numpy(zero_copy_only=False))

    def counts(self, ids: Sequence[str], columns: Sequence[str]) -> np.ndarray:
        """(N, A) float32 counts in the order of `ids`; rows or columns that the table lacks are zero."""
        taken = self._taken(ids)
        out = np.zeros((len(ids), len(columns)), dtype=np.float32)
        for position, column in enumerate(columns):
            if column in taken.column_names:
                out[:, position] = pc.fill_null(taken[column].cast(pa.float32()), 0.0).to_numpy()
        return out

    def _taken(self, ids: Sequence[str]) -> pa.Table:
        where = pc.index_in(pa.array(ids, pa.string()), value_set=self.data["id"].combine_chunks())
        return self.data.take(where)


def list_tables(store: Path) -> list[str]:
    """Names of the complete tables of a store."""
    return sorted(path.parent.name for path in store.glob("tables/*/table.json"))


def write_table(
    store: Path,
    name: str,
    data: pa.Table,
    schema: LabelSchema | None = None,
    derived_from: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
) -> Table:
    """Write or replace one table. The pixels and the sealed rows stay as they are.

    Args:
        store: The store's folder.
        name: Table name: letters, digits, `-` and `_`.
        data: Has a string column `id` with unique values.
        schema: Label schema of the answer columns, if they are votes.
        derived_from: Column -> the columns it was computed from.
        note: Where the values come from, in words.

    Raises:
        DataError: When ids are missing or repeated, or counts are negative or not finite.
    """
    _check_table(name, data, schema)
    raw = parquet_bytes(data)
    described = {
        "schema": None if schema is None else schema.to_dict(),
        "derived_from": {column: list(parents) for column, parents in (derived_from or {}).items()},
        "note": note,
        "data": digest(raw),
    }
    # The data file carries its digest in its name: an old table.json never meets new data.
    write_atomic(store / "tables" / name / f"{described['data']}.parquet", raw)
    write_atomic(store / "tables" / name / "table.json", canonical_json(described))
    for stale in (store / "tables" / name).glob("*.parquet"):
        if stale.stem != described["data"]:
            stale.unlink()
    return read_table(store, name)


def read_table(store: Path, name: str) -> Table:
    """Read one table and check its bytes.

    Raises:
        StoreError: When there is none of that name or its bytes do not match its digest.
    """
    folder = store / "tables" / name
    try:
        raw_description = (folder / "table.json").read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{store}: {unknown_name('table', name, list_tables(store))}") from None
    try:
        described: dict[str, Any] = json.loads(raw_description)
        raw = (folder / f"{described['data']}.parquet").read_bytes()
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise StoreError(f"{folder} is damaged ({error}); write the table again.") from error
    if digest(raw) != described["data"] or canonical_json(described) != raw_description:
        raise StoreError(f"{folder} does not match its digest: it was changed or damaged; write the table again.")
    schema = described["schema"]
    return Table(
        name=name,
        data=pq.read_table(pa.BufferReader(raw)),
        schema=None if schema is None else LabelSchema.from_dict(schema),
        derived_from={column: tuple(parents) for column, parents in described["derived_from"].items()},
        note=described["note"],
        digest=digest(raw_description),
    )


def _check_table(name: str, data: pa.Table, schema: LabelSchema | None) -> None:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise DataError(f"table name {name!r}: use letters, digits, '-' and '_'.")
    if "id" not in data.column_names:
        raise DataError(f"table {name!r} has columns {data.column_names} but no 'id' to join on.")
    if pc.count_distinct(data["id"]).as_py() < data.num_rows:
        raise DataError(f"table {name!r}: ids repeat or are empty; each sample may have one row.")
    for column in schema.columns if schema else ():
        if column in data.column_names:
            _check_counts(name, column, data)


def _check_counts(name: str, column: str, data: pa.Table) -> None:
    values = pc.fill_null(data[column].cast(pa.float64()), 0.0).to_numpy()
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        first = data["id"][int(bad[0])].as_py()
        raise DataError(
            f"table {name!r}, column {column!r}: {bad.size} vote counts are negative or NaN, the first "
            f"{values[bad[0]]} at id {first!r}. Counts are numbers from 0; leave unasked questions empty or 0."
        )
