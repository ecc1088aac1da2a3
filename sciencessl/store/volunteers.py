"""`store label --from zooniverse`: an export of a volunteers' project becomes a table of votes beside the pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.errors import ConfigError, unknown_name
from sciencessl.preparation import schema_loader
from sciencessl.registry import export_reader, load_domain
from sciencessl.spec import LabelSchema
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.sampled import RANDOM, SAMPLED_BY, sampling_note
from sciencessl.store.tables import REMOVALS, Table, current_digest, some_names, write_table

DEFAULT_NAME = "votes"
SHOWN = 5


@dataclass(frozen=True)
class VotesReport:
    """What `label_votes` did.

    Attributes:
        store: The store.
        name: Of the table.
        columns: Its columns.
        schema: Name of the schema of its counts.
        matched: Subjects whose sample the store has: these became the table.
        unknown: Subjects whose sample it lacks.
        unknown_ids: The first of these.
        refused: Rows of the export that give no vote: `line`, `reason`, `detail` of each.
        counted: Sentences on what was counted, and on what was left out.
        sampled: How many of the labelled samples were chosen and not drawn at random, in words; empty where none was.
        unchanged: Whether the table was there already, just so.
        digest: Of the table: what runs record.
    """

    store: Path
    name: str
    columns: tuple[str, ...]
    schema: str
    matched: int
    unknown: int
    unknown_ids: tuple[str, ...]
    refused: tuple[Any, ...]
    counted: tuple[str, ...]
    sampled: str
    unchanged: bool
    digest: str


def label_votes(
    store: str | Path,
    export: str | Path,
    questions: str | Path,
    name: str = DEFAULT_NAME,
    schema: str = "",
    id: str = "",
    subjects: str = "",
    note: str = "",
    overwrite: bool = False,
    add_to: str = "",
) -> VotesReport:
    """Count the votes of a Zooniverse export, and put them beside the pixels of a sealed store.

    The table has the counts of the questions that the map lists, `sampled_by` where the export says how subjects were
    sampled, and `classifications`. Exports hold all votes so far: the next one replaces the table with `overwrite`.

    Args:
        store: A sealed store.
        export: CSV of classifications, or of reductions.
        questions: YAML that maps tasks and answers to those of a schema.
        name: Of the table in the store.
        schema: Label schema, a name or a file; empty takes the one that the map names.
        id: Metadata of subjects that holds the store's ids; empty looks for it.
        subjects: The project's `subjects.csv`, for reductions.
        note: Where the votes come from, in words, before what is known of the export.
        overwrite: Replace another table of that name.
        add_to: Another table of votes, to which these are added in the new one; it stays as it is.

    Raises:
        ConfigError: For a file, column, schema, question or answer that does not exist, or a table to add to that is
            the new one or has other questions.
        DataError: For an answer that the map lacks, or an export without votes on any sample of the store.
        StoreError: When the store is missing or unsealed, has another table of that name, or is being written.
    """
    if name == REMOVALS:
        raise ConfigError(f"table {name!r} is written by `sciencessl store remove`; choose another --name.")
    opened = Store(store)
    spec = load_domain(opened.header.domain)
    read = export_reader()(
        local_path(export, "TABLE"), local_path(questions, "--questions"), lambda word: _schema(spec, word), opened.ids,
        schema, id, str(local_path(subjects, "--subjects")) if subjects else "",
    )
    known = pa.array(opened.ids, pa.string())
    strange = read.data["id"].filter(pc.invert(pc.is_in(read.data["id"], value_set=known)))
    counted = len(read.data) - len(strange)
    data, note = (_added(opened, name, add_to, read), f"{note}; added to table {add_to!r}".removeprefix("; ")) \
        if add_to else (read.data, note)
    place = pc.index_in(known, value_set=data["id"].combine_chunks())
    kept = data.take(place.drop_null())
    with only_writer(opened.path):
        before = current_digest(opened.path, name) if name in opened.tables else ""
        written = write_table(opened.path, name, kept, read.schema, note="; ".join(filter(None, (note, read.note))),
                              overwrite=overwrite)
    said = (*read.said, *(_hidden(opened, name, written.columns) if not add_to else ()))
    return VotesReport(
        opened.path, name, tuple(written.columns), read.schema.name, counted, len(strange),
        tuple(strange[:3].to_pylist()), read.refused, said, sampling_note([written]), before == written.digest,
        written.digest,
    )


def _added(store: Store, name: str, other: str, read: Any) -> pa.Table:
    """The votes of a table and those of the export in one: counts are added, and a random draw stays one."""
    if other == name:
        raise ConfigError(f"--add-to {other} is the table that is written: the next export, which holds these votes "
                          "too, would count them twice. Give the new table another --name.")
    base, columns = store.table(other), [column for column in read.data.column_names if column in read.schema.columns]
    if base.schema is None or not {*columns} <= {*base.columns}:
        raise ConfigError(f"--add-to {other}: that table has no votes on {', '.join(columns[:3])}...; tables to add to "
                          f"are of the same schema ({read.schema.name}).")
    answers = [column for column in read.schema.columns if column in base.columns]
    ids = list(dict.fromkeys([*base.data["id"].to_pylist(), *read.data["id"].to_pylist()]))
    export = Table(name, read.data, read.schema, {}, "", "")
    counts = base.counts(ids, answers) + export.counts(ids, answers)
    made = {"id": pa.array(ids, pa.string())} | {column: pa.array(counts[:, i]) for i, column in enumerate(answers)}
    if SAMPLED_BY in base.columns or SAMPLED_BY in export.columns:
        before = dict(zip(base.data["id"].to_pylist(), _marks(base), strict=True))
        after = dict(zip(export.data["id"].to_pylist(), _marks(export), strict=True))
        made[SAMPLED_BY] = pa.array(
            [RANDOM if RANDOM in (before.get(i), after.get(i)) else before.get(i) or after.get(i) for i in ids],
            pa.string(),
        )
    return pa.table(made)


def _marks(table: Table) -> list[str | None]:
    """How each row was sampled: as the table says, or at random where it says nothing of any."""
    if SAMPLED_BY in table.columns:
        return list(table.data[SAMPLED_BY].to_pylist())
    return [RANDOM] * len(table.data)


def _hidden(store: Store, name: str, columns: Sequence[str]) -> Iterator[str]:
    """Which other tables have the same questions."""
    for other in store.tables:
        shared = [column for column in columns if column in store.table(other).columns and column != SAMPLED_BY]
        if other not in (name, REMOVALS) and shared:
            first, second = sorted((name, other))
            yield (f"table {second!r} hides {some_names(shared, 1)} of table {first!r}: "
                   f"`--add-to {other}` writes the votes of both into one")


def _schema(spec: Any, name: str) -> LabelSchema:
    if name in spec.labels:
        found: LabelSchema = spec.labels[name]
        return found
    loader = schema_loader(spec)
    if loader is None or not name.endswith((".yaml", ".yml")):
        raise ConfigError(f"--schema: {unknown_name('label schema', name, spec.labels)}")
    loaded: LabelSchema = loader(name)
    return loaded


def votes_text(found: VotesReport) -> str:
    """What was done, for people."""
    lines = [*found.counted, f"table {found.name!r} of {found.store}: {some_names(found.columns)}, votes of schema "
             f"{found.schema!r}", f"{found.matched:,} subjects matched"]
    if found.unknown:
        lines.append(f"{found.unknown:,} subjects are no sample of the store, such as "
                     f"{', '.join(map(repr, found.unknown_ids))}")
    if found.sampled:
        lines.append(f"{found.sampled}: curves of few labels leave these out")
    if found.refused:
        reasons = Counter(row.reason for row in found.refused)
        lines.append(f"refused: {', '.join(f'{count:,} {reason}' for reason, count in reasons.most_common())}")
        lines += [f"  line {row.line}: {row.reason}, {row.detail}" for row in found.refused[:SHOWN]]
        left = len(found.refused) - SHOWN
        lines += [f"  and {left:,} more; --json lists all"] if left > 0 else []
    return "\n".join([*lines, "nothing to do: the table was there already" if found.unchanged else
                      f"table digest {found.digest}"])
