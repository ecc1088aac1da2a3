"""`store label`: a table that arrived after sealing becomes a table beside the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.preparation import schema_loader
from sciencessl.registry import label_reader, load_domain, sky_label_reader
from sciencessl.store import format as zpack
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.tables import REMOVALS, Table, current_digest, some_names, write_table

DEFAULT_NAME = "labels"
POSITION = ("ra", "dec")
"""Columns of a store that a table is matched with on the sky."""
FIXED = ("id", "key", "split")
"""Columns that no table may hide: what a sample is called, and where it belongs."""
SHOWN = 3


@dataclass(frozen=True)
class LabelReport:
    """What `label` did.

    Attributes:
        store: The store.
        name: Of the table.
        columns: Its columns.
        schema: Name of the schema of its vote counts; empty without.
        matched: Rows of the file that belong to a sample of the store: these became the table.
        unknown: Rows of the file that belong to none.
        unknown_ids: The first of these: ids, or `row 5` (from 0) where the sky was matched.
        unlabelled: Samples of the store for which no column of the table has a value.
        unchanged: Whether the table was there already, just so.
        digest: Of the table: what runs record.
        guessed: Sentences on what columns were taken for.
        ambiguous: Pairs on the sky that have another sample or row within the radius.
        match_arcsec: The radius; None where ids were matched.
    """

    store: Path
    name: str
    columns: tuple[str, ...]
    schema: str
    matched: int
    unknown: int
    unknown_ids: tuple[str, ...]
    unlabelled: int
    unchanged: bool
    digest: str
    guessed: tuple[str, ...]
    ambiguous: int = 0
    match_arcsec: float | None = None


def label(
    store: str | Path,
    table: str | Path,
    name: str = DEFAULT_NAME,
    id: str = "",
    schema: str = "",
    derived_from: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
    columns: Sequence[str] = (),
    overwrite: bool = False,
    match_arcsec: float | None = None,
) -> LabelReport:
    """Put a CSV, Parquet, FITS or VOTable table beside the pixels of a sealed store; rows and pixels stay as they are.

    Rows are kept in the order of the store, so that the same labels have the same digest however the file is sorted.
    Writing what is there already changes nothing.

    Args:
        store: A sealed store.
        table: The file.
        name: Of the table in the store.
        id: Column that names the samples; empty guesses it.
        schema: Label schema of vote counts: a name, or a file; empty takes the one that the columns answer, if any.
        derived_from: Column -> columns that it was computed from; evaluation follows it to say what pretraining saw.
        note: Where the values come from, in words.
        columns: Columns to take; empty takes all but those that the rows of the store have already.
        overwrite: Replace another table of that name.
        match_arcsec: Join by position instead of by id: a row and a sample that are each other's nearest, at most so
            far apart. The table then has a column `separation_arcsec`.

    Raises:
        ConfigError: For a table, column or schema that does not exist, a name or a column that no table may have, or
            `id` beside `match_arcsec`.
        DataError: When no row belongs to a sample, ids are empty or repeated, or counts cannot be counts.
        StoreError: When the store is missing or unsealed, has another table of that name, is being written, or has no
            positions to match.
    """
    if name == REMOVALS:
        raise ConfigError(f"table {name!r} is written by `sciencessl store remove`; choose another --name.")
    opened = Store(store)
    spec = load_domain(opened.header.domain)
    known = pa.array(opened.ids, pa.string())
    file, loader = local_path(table, "TABLE"), schema_loader(spec)
    if match_arcsec is None:
        read = label_reader()(spec, file, known, id, schema, columns, loader)
    else:
        if id:
            raise ConfigError(f"--id {id} with --match-sky {match_arcsec:g}: samples are named by ids or by positions.")
        positions = tuple(opened.column(name).tolist() for name in POSITION)
        read = sky_label_reader()(spec, file, known, positions, match_arcsec, schema, columns, loader)
    data, said = _own_columns(opened, name, read.data, columns)
    parents = _checked_parents(data.column_names, derived_from or {})
    # Withdrawn samples keep their labels, which nobody reads: the same file then gives the same table as before.
    place = pc.index_in(known, value_set=data["id"].combine_chunks())
    kept = data.take(place.drop_null())
    with only_writer(opened.path):  # of two at once, one would remove what the other's table.json names
        before = current_digest(opened.path, name) if name in opened.tables else ""
        written = write_table(opened.path, name, kept, read.schema, parents, note, overwrite)
    matched = pc.is_valid(place).to_numpy(zero_copy_only=False)
    strange = data["id"].filter(pc.invert(pc.is_in(data["id"], value_set=known))).to_pylist()
    strange += [f"row {row}" for row in read.unmatched]
    return LabelReport(
        opened.path, name, tuple(written.columns), written.schema.name if written.schema else "", kept.num_rows,
        len(strange), tuple(strange[:SHOWN]), _unlabelled(opened, written, matched),
        before == written.digest, written.digest, (*read.guessed, *said), read.ambiguous, match_arcsec,
    )


def _own_columns(store: Store, name: str, data: pa.Table, asked: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """The table without columns that would hide those of the rows, unless they were asked for."""
    fixed = [column for column in data.column_names if column in FIXED[1:]]
    if set(fixed) & set(asked):
        raise ConfigError(f"column {fixed[0]!r} belongs to the store, and no table may hide it; rename it in the file.")
    rows = zpack.user_columns(store.rows.column_names, store.header.fields)
    twice = [column for column in data.column_names[1:] if column in fixed or column in rows]
    left = [column for column in twice if column not in asked]
    if len(left) == data.num_columns - 1:
        raise ConfigError(
            f"the rows of {store.path} have all columns of the table already ({', '.join(left)}); name with --columns "
            "what is to be taken nevertheless."
        )
    said = [f"left out, as the rows have them: {', '.join(left)}"] if left else []
    said += [f"column {column!r} hides that of the rows" for column in asked if column in rows]
    for other in store.tables:
        if other not in (name, REMOVALS):
            verb = "hides" if name > other else "is hidden by"
            said += [f"column {column!r} {verb} that of table {other!r}" for column in store.table(other).columns
                     if column in data.column_names and column not in left]
    return data.drop_columns(left), said


def _checked_parents(
    columns: Sequence[str], derived_from: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    for column in derived_from:
        if column not in columns[1:]:
            raise ConfigError(f"derived_from {column}: the table has no such column.{did_you_mean(column, columns)} "
                              f"Columns: {', '.join(columns[1:])}.")
    return {column: tuple(parents) for column, parents in derived_from.items()}


def _unlabelled(store: Store, table: Table, matched: np.ndarray) -> int:
    """Samples without a value in any column, withdrawn ones left out."""
    some = [~pc.is_null(table.data[name], nan_is_null=True).to_numpy() for name in table.columns]
    labelled = np.zeros(len(matched), dtype=bool)
    labelled[np.flatnonzero(matched)] = np.logical_or.reduce(some)
    return int((~labelled[store.present.all()]).sum())


def label_text(found: LabelReport) -> str:
    """What was done, for people."""
    votes = f", votes of schema {found.schema!r}" if found.schema else ""
    what = "ids" if found.match_arcsec is None else "pairs on the sky"
    lines = [*found.guessed, f"table {found.name!r} of {found.store}: {some_names(found.columns)}{votes}",
             f"{found.matched:,} {what} matched; {found.unlabelled:,} samples stay without a label"]
    if found.ambiguous:
        lines.append(f"{found.ambiguous:,} of the pairs are ambiguous: another sample or row is within the radius too")
    if found.unknown and found.match_arcsec is not None:
        lines.append(f"{found.unknown:,} rows are the nearest of no sample within {found.match_arcsec:g} arcsec, such "
                     f"as {', '.join(found.unknown_ids)} (from 0)")
    elif found.unknown:
        lines.append(f"{found.unknown:,} rows name no sample of the store, such as "
                     f"{', '.join(map(repr, found.unknown_ids))}")
    return "\n".join([*lines, "nothing to do: the table was there already" if found.unchanged else
                      f"table digest {found.digest}"])
