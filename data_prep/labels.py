"""The table of labels: classes as text, votes renamed to a schema's columns and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.catalogue import Catalogue, as_text
from sciencessl.data_prep.columns import require_columns
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Labels
from sciencessl.errors import ConfigError, DataError, did_you_mean, unknown_name
from sciencessl.spec import DomainSpec, LabelSchema


def match_columns(schema: LabelSchema, columns: Sequence[str]) -> dict[str, str]:
    """Columns of a schema that a catalogue has: by name, by alias, or by name without the campaign.

    Args:
        schema: Questions and answers.
        columns: Column names of the catalogue.

    Returns:
        Our column -> the catalogue's, in schema order, whole questions only; empty when no question is there.
    """
    present = set(columns)
    found = {column: _spelling(schema, column, present) for column in schema.columns}
    whole = [question for question in schema.questions if all(found[column] for column in question.columns)]
    return {column: found[column] for question in whole for column in question.columns}


def _spelling(schema: LabelSchema, column: str, present: set[str]) -> str:
    question = schema.question_of[column]
    campaigns = {q.name.rpartition("-")[2] for q in schema.questions}
    bare = question.rpartition("-")[0] + column[len(question) :] if len(campaigns) == 1 else column
    aliases = [name for name, ours in schema.aliases.items() if ours == column]
    return next((name for name in (column, *aliases, bare) if name in present), "")


def with_schema(
    spec: DomainSpec, settings: PrepareSettings, loader: Callable[[str], LabelSchema] | None
) -> tuple[DomainSpec, PrepareSettings]:
    """Load a schema that was given as a file, so that it has a name like the domain's own.

    Raises:
        ConfigError: When the domain reads no schema files.
    """
    if not settings.schema or settings.schema in spec.labels or not settings.schema.endswith((".yaml", ".yml")):
        return spec, settings
    if loader is None:
        raise ConfigError(f"--schema {settings.schema}: domain {spec.name!r} reads no schema files.")
    schema = loader(settings.schema)
    return replace(spec, labels={**spec.labels, schema.name: schema}), replace(settings, schema=schema.name)


def make_labels(
    catalogue: Catalogue, ids: Sequence[str], classes: Sequence[str], spec: DomainSpec, settings: PrepareSettings
) -> tuple[Labels | None, list[str], list[str]]:
    """The table `labels` of all rows of a catalogue.

    Returns:
        The table (None without labels), the catalogue's vote columns, and sentences on what was guessed.

    Raises:
        ConfigError: For an unknown schema or column, or votes that no schema knows.
        DataError: For votes that are negative, not a number, text, or fractions.
    """
    schema, votes, said = choose_votes(catalogue, spec, settings)
    table = {"id": pa.array(ids, pa.string())}
    table.update({name: pa.array(as_text(catalogue.data, name), pa.string()) for name in classes})
    if votes:
        counts = {column: _counts(catalogue, name, ids) for column, name in votes.items()}
        _check_fractions(counts, catalogue)
        table.update({column: pa.array(values) for column, values in counts.items()})
    labels = Labels(pa.table(table), schema if votes else None) if len(table) > 1 else None
    return labels, list(votes.values()), said


def choose_votes(
    catalogue: Catalogue, spec: DomainSpec, settings: PrepareSettings
) -> tuple[LabelSchema | None, dict[str, str], list[str]]:
    """The schema of a catalogue's votes and our column -> the catalogue's; a guess comes with a sentence."""
    require_columns(settings.votes, "votes", catalogue)
    columns = list(settings.votes) or catalogue.data.column_names
    if settings.schema:
        return _named_schema(catalogue, columns, spec, settings)
    matches = {name: match_columns(schema, columns) for name, schema in spec.labels.items()}
    most = max((len(match) for match in matches.values()), default=0)
    best = [name for name, match in matches.items() if match and len(match) == most]
    if settings.votes and len(best) != 1:
        known = f"fit the schemas {', '.join(best)} equally well" if best else "are no whole question of any schema"
        raise ConfigError(
            f"--votes {' '.join(settings.votes)} {known}; choose one with --schema. Known: "
            f"{', '.join(spec.labels) or 'none'}."
        )
    if len(best) > 1:
        some = ", ".join(list(matches[best[0]].values())[:3])
        return None, {}, [f"votes: columns such as {some} fit {' and '.join(best)}; pass --schema to take them"]
    if not best:
        return None, {}, _near_misses(columns, spec)
    _check_all_used(settings, matches[best[0]], spec.labels[best[0]])
    return spec.labels[best[0]], matches[best[0]], [f"votes: {most} columns of schema {best[0]!r}"]


def _near_misses(columns: Sequence[str], spec: DomainSpec) -> list[str]:
    """A sentence on columns that are named like answers to a question that some schema asks, but fit none."""
    stems = {q.name.rpartition("-")[0] or q.name for schema in spec.labels.values() for q in schema.questions}
    near = [name for name in columns if any(name.startswith((f"{stem}-", f"{stem}_")) for stem in stems)]
    if not near:
        return []
    known = [column for schema in spec.labels.values() for column in (*schema.columns, *schema.aliases)]
    return [
        f"votes: none taken: columns such as {', '.join(near[:3])} look like answers but are no whole question of any "
        f"schema.{did_you_mean(near[0], known)} --schema names one, which may be a FILE.yaml of yours"
    ]


def _named_schema(
    catalogue: Catalogue, columns: Sequence[str], spec: DomainSpec, settings: PrepareSettings
) -> tuple[LabelSchema, dict[str, str], list[str]]:
    if settings.schema not in spec.labels:
        raise ConfigError(f"--schema: {unknown_name('label schema', settings.schema, spec.labels)}")
    schema = spec.labels[settings.schema]
    votes = match_columns(schema, columns)
    if not votes:
        missing = ", ".join(schema.questions[0].columns)
        raise ConfigError(
            f"--schema {settings.schema}: {catalogue.described} has no whole question of it, not even the "
            f"first ({missing}).{did_you_mean(schema.columns[0], columns)} Columns: {', '.join(columns)}."
        )
    _check_all_used(settings, votes, schema)
    said = [] if settings.votes else [f"votes: {len(votes)} columns of schema {schema.name!r}"]
    return schema, votes, said


def _check_all_used(settings: PrepareSettings, votes: dict[str, str], schema: LabelSchema) -> None:
    unused = [name for name in settings.votes if name not in votes.values()]
    if unused:
        raise ConfigError(
            f"--votes {unused[0]}: no whole question of schema {schema.name!r} has this column."
            f"{did_you_mean(unused[0], [*schema.columns, *schema.aliases])} Give all answers of a question; columns: "
            f"{', '.join(schema.columns)}."
        )


def _counts(catalogue: Catalogue, column: str, ids: Sequence[str]) -> np.ndarray:
    """(N,) float32 counts of one column; empty cells are 0: the question was not asked."""
    data = catalogue.data[column]
    try:
        values = pc.fill_null(data.cast(pa.float64()), 0.0).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"catalogue {catalogue.where}, vote column {column!r}: expected numbers, got text ({error})."
        ) from error
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        raise DataError(
            f"catalogue {catalogue.where}, vote column {column!r}: {bad.size} value(s) are negative or not finite, the "
            f"first {values[bad[0]]:g} at id {ids[int(bad[0])]!r}. Votes are counts from 0; leave a cell empty where "
            "the question was not asked."
        )
    return np.asarray(values, dtype=np.float32)


def _check_fractions(counts: dict[str, np.ndarray], catalogue: Catalogue) -> None:
    whole = all(np.array_equal(values, np.floor(values)) for values in counts.values())
    if not whole and all(values.max(initial=0.0) <= 1 for values in counts.values()):
        first = next(iter(counts))
        raise DataError(
            f"catalogue {catalogue.where}: the votes of {first!r} and the others lie between 0 and 1, so they are "
            "fractions where counts are needed. Name the count columns, or multiply each question's fractions by the "
            "number of volunteers who answered it."
        )
