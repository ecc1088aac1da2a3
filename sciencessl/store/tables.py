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

from sciencessl.errors import DataError, StoreError, unknown_name
from sciencessl.spec import LabelSchema
from sciencessl.store.files import parquet_bytes, read_file, read_parquet, remove_file, sized_files, write_atomic
from sciencessl.store.format import canonical_json, digest

REMOVALS = "removals"
"""Table of withdrawn samples: `id`, `index` in the store, `reason`. Its columns are none of the samples'."""


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

    @property
    def questions(self) -> list[str]:
        """Names of the questions that it has a column of; the schema may know more."""
        known = () if self.schema is None else self.schema.questions
        return [question.name for question in known if not {*question.columns}.isdisjoint(self.data.column_names)]

    def aligned(self, column: str, ids: Sequence[str]) -> np.ndarray:
        """(N,) values in the order of `ids`; None or NaN where the table has no row."""
        return to_numpy(self._taken(ids)[column])

    def counts(self, ids: Sequence[str], columns: Sequence[str]) -> np.ndarray:
        """(N, A) float32 counts in the order of `ids`; rows or columns that the table lacks are zero."""
        taken = self._taken(ids)
        out = np.zeros((len(ids), len(columns)), dtype=np.float32)
        for position, column in enumerate(columns):
            if column in taken.column_names:
                out[:, position] = pc.fill_null(taken[column].cast(pa.float64()), 0.0).to_numpy()
        return out

    def _taken(self, ids: Sequence[str]) -> pa.Table:
        where = pc.index_in(pa.array(ids, pa.string()), value_set=self.data["id"].combine_chunks())
        return self.data.take(where)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) values; missing ones are NaN among numbers and None among anything else.

    Integers with missing values become floats, or objects where a float could not hold them exactly: an identifier of
    a catalogue is never rounded.
    """
    if column.null_count and pa.types.is_integer(column.type):
        bounds = pc.min_max(column).as_py()
        if bounds["min"] is not None and max(abs(bounds["min"]), abs(bounds["max"])) > 2**53:
            return np.array(column.to_pylist(), dtype=object)
    return cast(np.ndarray, column.to_numpy(zero_copy_only=False))


def list_tables(store: Path) -> list[str]:
    """Names of the complete tables of a store."""
    names = [name.split("/") for name, _ in sized_files(store / "tables")]
    return sorted(name[0] for name in names if name[1:] == ["table.json"])


def write_table(
    store: Path,
    name: str,
    data: pa.Table,
    schema: LabelSchema | None = None,
    derived_from: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
    overwrite: bool = True,
) -> Table:
    """Write or replace one table. The pixels and the sealed rows stay as they are.

    Writing what is there already touches no file of the table.

    Args:
        store: The store's folder.
        name: Table name: letters, digits, `-` and `_`.
        data: Has a text column `id` with unique values; ids that the store lacks are kept and never asked for.
        schema: Label schema of the answer columns, if they are votes.
        derived_from: Column -> the columns it was computed from.
        note: Where the values come from, in words.
        overwrite: Replace another table of that name; a damaged one is replaced anyway.

    Raises:
        StoreError: When there is another table of that name, without `overwrite`.
        DataError: When ids are missing or repeated, columns repeat, no column belongs to the schema, or counts are
            negative or not finite.
    """
    _check_table(name, data, schema)
    data = data.set_column(data.column_names.index("id"), "id", data["id"].cast(pa.string()))
    raw = parquet_bytes(data)
    described = {
        "schema": None if schema is None else schema.to_dict(),
        "derived_from": {column: list(parents) for column, parents in (derived_from or {}).items()},
        "note": note,
        "data": digest(raw),
    }
    description = canonical_json({**described, "self": digest(canonical_json(described))})
    old = _sound(store, name)
    if old is None or old.digest != digest(description):
        if old is not None and not overwrite:
            raise StoreError(f"{store} has another table {name!r} ({old.data.num_rows:,} rows: "
                             f"{some_names(old.columns)}). Choose another name, or overwrite it.")
        # The data file carries its digest in its name: an old table.json never meets new data.
        write_atomic(store / "tables" / name / f"{described['data']}.parquet", raw)
        write_atomic(store / "tables" / name / "table.json", description)
    for file, _ in list(sized_files(store / "tables" / name)):
        if file.endswith(".parquet") and file != f"{described['data']}.parquet":
            remove_file(store / "tables" / name / file)
    return read_table(store, name)


def some_names(names: Sequence[str], most: int = 6) -> str:
    """The first names of a list, and how many more there are."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left:,} more" if left > 0 else "")


def _sound(store: Path, name: str) -> Table | None:
    try:
        return read_table(store, name)
    except StoreError:
        return None


def read_table(store: Path, name: str) -> Table:
    """Read one table and check its bytes.

    Raises:
        StoreError: When there is none of that name or its bytes do not match its digest.
    """
    folder = store / "tables" / name
    raw_description = _description(store, name)
    described = _parsed(folder, raw_description)
    try:
        raw = read_file(folder / f"{described['data']}.parquet")
    except FileNotFoundError as error:
        if _description(store, name) != raw_description:
            # The table was replaced between the two reads.
            return read_table(store, name)
        raise StoreError(f"{folder} lacks its data; {_remedy(name)}.") from error
    if digest(raw) != described["data"]:
        raise StoreError(f"{folder} does not match its digest: it was changed or damaged; {_remedy(name)}.")
    schema = described["schema"]
    return Table(
        name=name,
        data=read_parquet(raw),
        schema=None if schema is None else LabelSchema.from_dict(schema),
        derived_from={column: tuple(parents) for column, parents in described["derived_from"].items()},
        note=described["note"],
        digest=digest(raw_description),
    )


def current_digest(store: Path, name: str) -> str:
    """Digest of the table as it is described now, without reading its data.

    Raises:
        StoreError: When there is none of that name.
    """
    return digest(_description(store, name))


def table_files(store: Path, name: str) -> set[str]:
    """The files of a table, relative to the store.

    Raises:
        StoreError: When there is none of that name or its description is damaged.
    """
    folder = f"tables/{name}"
    data = _parsed(store / folder, _description(store, name))["data"]
    return {f"{folder}/table.json", f"{folder}/{data}.parquet"}


def _description(store: Path, name: str) -> bytes:
    try:
        return read_file(store / "tables" / name / "table.json")
    except FileNotFoundError:
        raise StoreError(f"{store}: {unknown_name('table', name, list_tables(store))}") from None


def _parsed(folder: Path, raw: bytes) -> dict[str, Any]:
    try:
        described: dict[str, Any] = json.loads(raw)
        own = described.pop("self")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder}/table.json is damaged ({error}); {_remedy(folder.name)}.") from error
    if own != digest(canonical_json(described)):
        raise StoreError(f"{folder}/table.json does not match its own digest: it was changed or damaged; "
                         f"{_remedy(folder.name)}.")
    return described


def _remedy(name: str) -> str:
    if name == REMOVALS:  # what was withdrawn must not come back unnoticed, so that nothing overwrites it
        return "bring back a copy of it, or delete its folder and withdraw the samples again"
    return "write the table again"


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a table.

    Raises:
        DataError: As it says.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise DataError(f"table name {name!r}: use letters, digits, '-' and '_'.")


def _check_table(name: str, data: pa.Table, schema: LabelSchema | None) -> None:
    check_name(name)
    if "id" not in data.column_names:
        raise DataError(f"table {name!r} has columns {data.column_names} but no 'id' to join on.")
    if len(set(data.column_names)) < len(data.column_names):
        raise DataError(f"table {name!r} repeats a column name: {data.column_names}.")
    if not (pa.types.is_string(data["id"].type) or pa.types.is_large_string(data["id"].type)):
        raise DataError(f"table {name!r}: 'id' is of type {data['id'].type}, expected text as in the store.")
    if pc.count_distinct(data["id"]).as_py() < data.num_rows:
        raise DataError(f"table {name!r}: ids repeat or are empty; each sample may have one row.")
    if schema is None:
        return
    answers = [column for column in schema.columns if column in data.column_names]
    if not answers:
        raise DataError(
            f"table {name!r} has none of the {len(schema.columns)} answer columns of schema {schema.name!r}, such as "
            f"{schema.columns[0]!r}; it has {data.column_names}."
        )
    for column in answers:
        _check_counts(name, column, data)


def _check_counts(name: str, column: str, data: pa.Table) -> None:
    try:
        values = pc.fill_null(data[column].cast(pa.float64()), 0.0).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"table {name!r}, column {column!r}: vote counts are numbers from 0, got {error}.") from error
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        first = data["id"][int(bad[0])].as_py()
        raise DataError(
            f"table {name!r}, column {column!r}: {bad.size} vote counts are negative or NaN, the first "
            f"{values[bad[0]]} at id {first!r}. Counts are numbers from 0; leave unasked questions empty or 0."
        )
