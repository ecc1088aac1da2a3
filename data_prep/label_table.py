"""A table of labels for a store that is there already: which column names the samples, and which hold what."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.catalogue import Catalogue, as_text, read_catalogue, tidy
from sciencessl.data_prep.columns import FILE_NAMES, ID_NAMES, Columns, first_name, require_columns
from sciencessl.data_prep.labels import make_labels, with_schema
from sciencessl.data_prep.manifest import identifiers
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import DomainSpec, LabelSchema

SHOWN = 3
"""Ids that an error shows of each side."""


@dataclass(frozen=True)
class LabelTable:
    """Labels as they will lie beside the pixels.

    Attributes:
        data: `id` and the columns; counts carry the names of the schema.
        schema: Of the counts, or None.
        guessed: Sentences on what columns were taken for.
    """

    data: pa.Table
    schema: LabelSchema | None
    guessed: tuple[str, ...]


def read_label_table(
    spec: DomainSpec,
    table: str | Path,
    known: pa.Array,
    id: str = "",
    schema: str = "",
    columns: Sequence[str] = (),
    schema_loader: Callable[[str], LabelSchema] | None = None,
) -> LabelTable:
    """Read a CSV, Parquet, FITS or VOTable table whose rows name samples of a store.

    Args:
        spec: Domain of the store, for its label schemas.
        table: The file.
        known: Ids of the store.
        id: Column that names the samples; empty guesses it as `prepare` does.
        schema: Name or file of a label schema; empty takes the one whose questions the columns answer, if any.
        columns: Columns to take; empty takes all that hold one value a row.
        schema_loader: Reads a schema file; None when the domain has none.

    Raises:
        ConfigError: For a table, column or schema that does not exist.
        DataError: When the table cannot be read, ids are empty or repeated, none is an id of the store, or counts are
            none.
    """
    catalogue = read_catalogue(table)
    spec, settings = with_schema(spec, PrepareSettings(schema=schema), schema_loader)
    require_columns([id] if id else [], "id", catalogue)
    require_columns(columns, "columns", catalogue)
    found = _id_column(catalogue, id)
    names = [posixpath.normpath(text) if text else "" for text in as_text(catalogue.data, found.file)] \
        if found.file else []
    ids = identifiers(catalogue, found, names)
    _require_match(catalogue, found, ids, known)
    kept = list(columns) or [name for name in catalogue.data.column_names if name not in (found.id, found.file)]
    flat = [name for name in kept if not catalogue.data.schema.field(name).type.num_fields]
    said = [f"{found.id or found.file!r} names the samples"] if not id else []
    said += [f"{name!r} holds lists and is left out" for name in kept if name not in flat]
    labels, votes, words = make_labels(replace(catalogue, data=catalogue.data.select(flat)), ids, (), spec, settings)
    made = pa.table({"id": pa.array(ids, pa.string())}) if labels is None else labels.data
    for name in flat:
        if name not in votes:
            made = made.append_column("catalogue_id" if name == "id" else name, pa.array(tidy(catalogue.data, name)))
    if made.num_columns < 2:
        raise DataError(f"table {table} has no column beside the ids, so it says nothing of the samples.")
    return LabelTable(made, None if labels is None else labels.schema, (*said, *words))


def _id_column(catalogue: Catalogue, named: str) -> Columns:
    known = catalogue.data.column_names
    column = named or first_name((*ID_NAMES, "name"), known)
    file = "" if column else first_name(FILE_NAMES, known)
    if not column and not file:
        raise ConfigError(f"table {catalogue.where} has no column of ids among: {', '.join(known)}. Name it with --id.")
    return Columns(column, file, (), "", "", ())


def _require_match(catalogue: Catalogue, found: Columns, ids: Sequence[str], known: pa.Array) -> None:
    if pc.any(pc.is_in(pa.array(ids, pa.string()), value_set=known)).as_py():
        return
    column = found.id or found.file
    others = (name for name in catalogue.data.column_names if name != column and _matches(catalogue, name, known))
    other = next(others, "")
    hint = f"Column {other!r} does: pass --id {other}." if other else "Name another column with --id."
    raise DataError(
        f"none of the {len(ids):,} ids in column {column!r} of table {catalogue.where} is in the store. The table has "
        f"{', '.join(map(repr, ids[:SHOWN]))}; the store has {', '.join(map(repr, known[:SHOWN].to_pylist()))}. {hint}"
    )


def _matches(catalogue: Catalogue, column: str, known: pa.Array) -> bool:
    try:
        texts = pa.array(as_text(catalogue.data, column), pa.string())
    except (DataError, pa.ArrowException):
        return False
    return bool(pc.any(pc.is_in(texts.drop_null(), value_set=known)).as_py())
