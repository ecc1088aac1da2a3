"""The table of labels: classes as text, votes renamed to a schema's columns and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa

from sciencessl.data_prep.catalogue import Catalogue, as_text
from sciencessl.data_prep.columns import require_columns
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Labels
from sciencessl.data_prep.vote_columns import VoteColumns, check_matched, match_columns
from sciencessl.data_prep.vote_counts import over_asked, read_votes
from sciencessl.errors import ConfigError, did_you_mean, unknown_name
from sciencessl.spec import DomainSpec, LabelSchema


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
        ConfigError: For an unknown schema or column, votes that no schema knows, or a schema whose columns are missing.
        DataError: For votes that are negative, not a number, text, or fractions of nobody knows how many.
    """
    votes, said = choose_votes(catalogue, spec, settings)
    table = {"id": pa.array(ids, pa.string())}
    table.update({name: pa.array(as_text(catalogue.data, name), pa.string()) for name in classes})
    if votes is not None:
        counts, votes = read_votes(catalogue, ids, votes, guess=not settings.votes_from)
        table.update({column: pa.array(values) for column, values in counts.items()})
        said = [*said, *_said(votes), *over_asked(counts, votes.schema, ids)]
    labels = Labels(pa.table(table), None if votes is None else votes.schema) if len(table) > 1 else None
    return labels, [] if votes is None else list(votes.columns.values()), said


def choose_votes(
    catalogue: Catalogue, spec: DomainSpec, settings: PrepareSettings
) -> tuple[VoteColumns | None, list[str]]:
    """The columns of a catalogue that are votes, if any; and sentences on what else they might be.

    Without `--schema` it is the one that the most columns fit; among equals the one that fits more of them by name,
    then the smallest.
    """
    require_columns(settings.votes, "votes", catalogue)
    named, every = list(settings.votes), catalogue.data.column_names
    if settings.schema:
        return _named_schema(catalogue, named or every, spec, settings), []
    found = [match_columns(schema, named or every, settings.votes_from, every) for schema in spec.labels.values()]
    fitting = [votes for votes in found if votes.usable]
    best = [votes for votes in fitting if _rank(votes) == max(map(_rank, fitting))]
    names = [votes.schema.name for votes in best]
    if named and len(best) != 1:
        known = f"fit the schemas {', '.join(names)} equally well" if best else "are no whole question of any schema"
        raise ConfigError(
            f"--votes {' '.join(named)} {known}; choose one with --schema. Known: {', '.join(spec.labels) or 'none'}."
        )
    nearest = max(found, key=_rank, default=None)
    if best and nearest is not None and _is_part(best[0], nearest):
        best = []
    if not best and settings.votes_from:
        raise ConfigError(
            f"--votes-from {settings.votes_from}: {'; '.join(_near_misses(every, spec, nearest)) or 'no votes found'}. "
            "See which columns of the catalogue hold them, and name the schema with --schema."
        )
    if len(best) > 1:
        some = ", ".join(list(best[0].columns.values())[:3])
        return None, [f"votes: columns such as {some} fit {' and '.join(names)}; pass --schema to take them"]
    if not best:
        return None, _near_misses(every, spec, nearest)
    _check_all_used(settings, best[0])
    return best[0], [*_alike(best[0], fitting), *_left_out(best[0])]


def _is_part(best: VoteColumns, nearest: VoteColumns) -> bool:
    """Whether a schema fits only because it takes some of the columns of one that fits better, and cannot be used."""
    return not nearest.usable and set(best.columns.values()) < set(nearest.columns.values())


def _alike(best: VoteColumns, fitting: Sequence[VoteColumns]) -> list[str]:
    """A sentence on schemas that fit as many columns by other names; those that hold the best one are the same."""
    names = [
        votes.schema.name for votes in fitting
        if len(votes.columns) == len(best.columns) > votes.by_name and votes.columns.keys() != best.columns.keys()
    ]
    return [f"votes: the same columns, without their campaign, fit {', '.join(names)}; --schema takes one"] \
        if names else []


def _rank(votes: VoteColumns) -> tuple[int, int, int]:
    return len(votes.columns), votes.by_name, -len(votes.schema.columns)


def _said(votes: VoteColumns) -> list[str]:
    schema, parts = votes.schema, ""
    if votes.form == "weights":
        parts += ", weights of volunteers"
    if votes.form == "fractions":
        totals = list(dict.fromkeys(votes.totals.values()))
        more = f" and {len(totals) - 2} more" if len(totals) > 2 else ""
        parts += f", fractions times how many answered ({', '.join(totals[:2])}{more})"
    absent = [question.name for question in schema.questions if question not in votes.questions]
    if absent:
        listed = ", ".join(absent) if len(absent) < 4 else f"{len(absent)} of its {len(schema.questions)} questions"
        parts += f"; without {listed}"
    return [f"votes: {len(votes.columns)} columns of schema {schema.name!r}{parts}"]


def _left_out(votes: VoteColumns) -> list[str]:
    """Sentences on what a guess does not take; a schema that is named has errors instead."""
    said = []
    if votes.missing:
        said.append(f"votes: questions that are only partly there are left out; missing are {', '.join(votes.missing)}")
    if votes.twice:
        ours, names = next(iter(votes.twice.items()))
        said.append(f"votes: {' and '.join(names)} are both {ours}; the first is taken, --votes names another")
    return said


def _near_misses(columns: Sequence[str], spec: DomainSpec, nearest: VoteColumns | None) -> list[str]:
    """A sentence on columns that are named like answers to a question that some schema asks, but fit none."""
    if nearest is not None and nearest.columns:
        some = ", ".join(list(nearest.columns.values())[:3])
        return [
            f"votes: none taken: columns such as {some} are fractions, and no column, such as "
            f"{nearest.total_name(nearest.untold[0])}, says of how many"
        ]
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
) -> VoteColumns:
    if settings.schema not in spec.labels:
        raise ConfigError(f"--schema: {unknown_name('label schema', settings.schema, spec.labels)}")
    schema = spec.labels[settings.schema]
    votes = match_columns(schema, columns, settings.votes_from, catalogue.data.column_names)
    _check_all_used(settings, votes)
    check_matched(votes, f"--schema {settings.schema}: {catalogue.described}", columns)
    if not votes.columns:
        missing = ", ".join(schema.questions[0].columns)
        raise ConfigError(
            f"--schema {settings.schema}: {catalogue.described} has no whole question of it, not even the "
            f"first ({missing}).{did_you_mean(schema.columns[0], columns)} Columns: {', '.join(columns)}."
        )
    return votes


def _check_all_used(settings: PrepareSettings, votes: VoteColumns) -> None:
    unused = [name for name in settings.votes if name not in votes.columns.values()]
    if unused:
        schema = votes.schema
        raise ConfigError(
            f"--votes {unused[0]}: no whole question of schema {schema.name!r} has this column."
            f"{did_you_mean(unused[0], [*schema.columns, *schema.aliases])} Give all answers of a question; columns: "
            f"{', '.join(schema.columns)}."
        )
