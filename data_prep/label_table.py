"""A table of labels for a store that is there: whose labels its rows are, by id or on the sky, and which hold what."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.catalogue import Catalogue, as_text, read_catalogue, tidy
from sciencessl.data_prep.columns import FILE_NAMES, ID_NAMES, Columns, first_name, require_columns
from sciencessl.data_prep.crossmatch import match_one_to_one
from sciencessl.data_prep.labels import make_labels, with_schema
from sciencessl.data_prep.manifest import identifiers
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.sky import sky_positions
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import DomainSpec, LabelSchema

SHOWN = 3
"""Ids that an error shows of each side."""
RA_NAMES = ("ra", "ra_deg", "raj2000", "ra_j2000", "alpha_j2000", "ra_icrs", "right_ascension", "raj")
DEC_NAMES = ("dec", "dec_deg", "dej2000", "decj2000", "dec_j2000", "delta_j2000", "dec_icrs", "de_icrs", "declination",
             "decj", "decl")
"""Columns of positions, in any case; the first that a table has."""
SEPARATION = "separation_arcsec"
"""Column of how far the row that a sample got its labels from lies from the sample."""


Sky = tuple[np.ndarray, np.ndarray, dict[int, str]]


@dataclass(frozen=True)
class LabelTable:
    """Labels as they will lie beside the pixels.

    Attributes:
        data: `id` and the columns; counts carry the names of the schema.
        schema: Of the counts, or None.
        guessed: Sentences on what columns were taken for.
        unmatched: Rows of the file, from 0, that lie near no sample; empty where ids name the samples.
        ambiguous: How many pairs have another sample, or another row, within the radius.
    """

    data: pa.Table
    schema: LabelSchema | None
    guessed: tuple[str, ...]
    unmatched: tuple[int, ...] = ()
    ambiguous: int = 0


def read_label_table(
    spec: DomainSpec,
    table: str | Path,
    known: pa.Array,
    id: str = "",
    schema: str = "",
    columns: Sequence[str] = (),
    schema_loader: Callable[[str], LabelSchema] | None = None,
) -> LabelTable:
    """Read a CSV, Parquet, FITS or VOTable table whose rows name samples of a store by their ids.

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
    said = [f"{found.id or found.file!r} names the samples"] if not id else []
    return _labels(spec, settings, catalogue, ids, columns, (found.id, found.file), said)


def read_sky_table(
    spec: DomainSpec,
    table: str | Path,
    known: pa.Array,
    positions: tuple[Sequence[object], Sequence[object]],
    radius_arcsec: float,
    schema: str = "",
    columns: Sequence[str] = (),
    schema_loader: Callable[[str], LabelSchema] | None = None,
) -> LabelTable:
    """Read a table whose rows are samples of a store by their place on the sky, one to one: `match_one_to_one`.

    Args:
        spec: Domain of the store, for its label schemas.
        table: CSV, Parquet or FITS file with RA and Dec, in degrees or sexagesimal (`sky_positions`).
        known: Ids of the store.
        positions: Its RA and Dec, one value an id; samples without get no labels.
        radius_arcsec: Largest separation.
        schema: As in `read_label_table`, like `columns` and `schema_loader`.
        columns: Columns to take; empty takes all but the positions.
        schema_loader: Reads a schema file; None when the domain has none.

    Returns:
        Rows of the samples that have a partner, in the order of the file, with `SEPARATION` last.

    Raises:
        ConfigError: For a table, column or schema that does not exist, or a radius that makes no sense.
        DataError: When the table cannot be read or has no positions, no row matches, or counts are none.
    """
    catalogue = read_catalogue(table)
    spec, settings = with_schema(spec, PrepareSettings(schema=schema), schema_loader)
    require_columns(columns, "columns", catalogue)
    if SEPARATION in catalogue.data.column_names:
        raise ConfigError(f"table {catalogue.where} has a column {SEPARATION!r} of its own, which the match writes; "
                          "rename it in the file.")
    ra, dec = (_sky_column(catalogue, names) for names in (RA_NAMES, DEC_NAMES))
    first = sky_positions(*(_cells(catalogue, name) for name in (ra, dec)))
    second = sky_positions(*positions)
    rows, samples = (np.flatnonzero(np.isfinite(found[0])) for found in (first, second))
    match = match_one_to_one(first[0][rows], first[1][rows], second[0][samples], second[1][samples], radius_arcsec)
    said = [f"{ra!r} and {dec!r} are the positions of the table"]
    if first[2]:
        row, reason = next(iter(first[2].items()))
        said.append(f"{len(first[2]):,} rows have no place on the sky, such as row {row} (from 0): {reason}")
    if len(samples) < len(known):
        said.append(f"{len(known) - len(samples):,} samples of the store have no place on the sky")
    taken = rows[match.first]
    if not len(taken):
        raise DataError(f"no row of table {catalogue.where} lies within {radius_arcsec:g} arcsec of a sample of the "
                        f"store{_closest(first, second)} ({'; '.join(said)}).")
    ids = known.take(pa.array(samples[match.second])).to_pylist()
    chosen = replace(catalogue, data=catalogue.data.take(pa.array(taken)))
    labels = _labels(spec, settings, chosen, ids, columns, (ra, dec), said)
    data = labels.data.append_column(SEPARATION, pa.array(np.round(match.separation_arcsec, 6)))
    others = tuple(np.setdiff1d(np.arange(catalogue.data.num_rows), taken).tolist())
    return replace(labels, data=data, unmatched=others, ambiguous=int(match.ambiguous.sum()))


def _sky_column(catalogue: Catalogue, names: Sequence[str]) -> str:
    column = first_name(names, catalogue.data.column_names)
    if not column:
        raise ConfigError(f"table {catalogue.where} has no column named like {names[0]!r}, in any case: "
                          f"{', '.join(names)}. It has {', '.join(catalogue.data.column_names)}; rename one.")
    return column


def _cells(catalogue: Catalogue, column: str) -> Sequence[object]:
    cells: list[object] = catalogue.data[column].to_pylist()
    return cells


def _closest(first: Sky, second: Sky) -> str:
    """How near the two come at all, in words, for an error."""
    (ra1, dec1), (ra2, dec2) = ([values[np.isfinite(values)] for values in found[:2]] for found in (first, second))
    nearest = match_one_to_one(ra1, dec1, ra2, dec2, 180 * 3600).separation_arcsec
    return f": the nearest is {nearest.min():,.4g} arcsec away" if len(nearest) else ""


def _labels(
    spec: DomainSpec, settings: PrepareSettings, catalogue: Catalogue, ids: Sequence[str], columns: Sequence[str],
    taken: Sequence[str], said: Sequence[str],
) -> LabelTable:
    """The columns of the rows as labels of the samples of these ids."""
    kept = list(columns) or [name for name in catalogue.data.column_names if name not in taken]
    flat = [name for name in kept if not catalogue.data.schema.field(name).type.num_fields]
    said = [*said, *(f"{name!r} holds lists and is left out" for name in kept if name not in flat)]
    labels, votes, words = make_labels(replace(catalogue, data=catalogue.data.select(flat)), ids, (), spec, settings)
    made = pa.table({"id": pa.array(ids, pa.string())}) if labels is None else labels.data
    for name in flat:
        if name not in votes:
            made = made.append_column("catalogue_id" if name == "id" else name, pa.array(tidy(catalogue.data, name)))
    if made.num_columns < 2:
        raise DataError(f"table {catalogue.where} has no column beside the ids, so it says nothing of the samples.")
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
