"""Which columns of a catalogue hold the votes of a schema, and in what form: counts, weights or fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.spec import LabelSchema, Question

FORMS: Mapping[str, tuple[str, ...]] = {
    "counts": ("", "_count"), "weights": ("_weight",), "fractions": ("_fraction", "_frac")
}
"""Form -> what follows the name of an answer. In this order a form is taken where a catalogue has several."""

TOTALS = ("_total-votes", "_total_count", "_count")
"""What follows the name of a question in the column that says how many answered it."""

CLASSIFICATIONS = ("total_classifications", "num_classifications")
"""Columns that say how many looked at a sample, and so how many answered a question without a parent."""


@dataclass(frozen=True)
class VoteColumns:
    """The columns of a catalogue in which a schema finds its votes.

    Attributes:
        schema: Whose questions they answer.
        form: One of `FORMS`.
        columns: Our column -> the catalogue's, in schema order, whole questions only; empty when there are none.
        totals: Question -> column that says how many answered it, where there is one.
        missing: Our columns that the catalogue lacks, of questions of which it has some.
        twice: Our column -> the catalogue's, where several spell one column and none has its name.
    """

    schema: LabelSchema
    form: str
    columns: Mapping[str, str]
    totals: Mapping[str, str]
    missing: tuple[str, ...] = ()
    twice: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those that are there."""
        return tuple(question for question in self.schema.questions if question.columns[0] in self.columns)

    @property
    def by_name(self) -> int:
        """How many columns have our own name, not that of an alias and not the one without a campaign."""
        return sum(name.startswith(ours) for ours, name in self.columns.items())

    def total_name(self, question: Question) -> str:
        """A column that would say how many answered the question, named as this catalogue names its answers."""
        return f"{_spelled([self.columns[column] for column in question.columns])}{TOTALS[0]}"

    @property
    def usable(self) -> bool:
        """Whether there are votes, and fractions can be multiplied out."""
        return bool(self.columns) and (self.form != "fractions" or not self.untold)

    @property
    def untold(self) -> tuple[Question, ...]:
        """Questions of which nobody says how many answered: no total of theirs, and none of all their parents."""
        told = set(self.totals)
        for question in self.schema.topological:
            parents = {self.schema.question_of[column] for column in question.after}
            if parents and told >= parents and question in self.questions:
                told.add(question.name)
        return tuple(question for question in self.questions if question.name not in told)


def match_columns(
    schema: LabelSchema, columns: Sequence[str], form: str = "", others: Sequence[str] = ()
) -> VoteColumns:
    """Find the votes of a schema: by name, by alias, or by name without the campaign.

    Args:
        schema: Questions and answers.
        columns: Column names of the catalogue.
        form: One of `FORMS`; columns without an ending are then taken for `fractions` too. Empty takes the first that
            the catalogue has whole questions of; fractions only where it is known how many answered.
        others: More columns, in which totals may stand.
    """
    if form:
        return _in_form(schema, form, (*FORMS[form], "") if form == "fractions" else FORMS[form], columns, others)
    found = [_in_form(schema, kind, endings, columns, others) for kind, endings in FORMS.items()]
    return next((votes for votes in found if votes.usable), next((votes for votes in found if votes.columns), found[0]))


def check_matched(votes: VoteColumns, where: str, given: Sequence[str] = ()) -> None:
    """Refuse questions that a catalogue has a part of, and columns that it spells twice.

    Args:
        votes: What was found.
        where: The catalogue in words.
        given: Columns that it has, for a suggestion.

    Raises:
        ConfigError: With all such columns.
    """
    schema = votes.schema
    for column, names in votes.twice.items():
        raise ConfigError(
            f"{where} spells column {column!r} of schema {schema.name!r} more than once: {', '.join(names)}. Name the "
            "columns to take with --votes."
        )
    if votes.missing:
        first = votes.missing[0]
        aliases = [name for name, ours in schema.aliases.items() if ours == first]
        called = f" {first!r} may also be called {', '.join(aliases)}." if aliases else ""
        raise ConfigError(
            f"{where} lacks {len(votes.missing)} column(s) of schema {schema.name!r}: {', '.join(votes.missing)}. "
            f"Questions that are partly there cannot be used.{did_you_mean(first, given)}{called} Add the columns, or "
            "name those to take with --votes."
        )
    if votes.form == "fractions" and votes.untold:
        raise ConfigError(
            f"{where}: the votes of schema {schema.name!r} are fractions, and no column says how many answered "
            f"{', '.join(question.name for question in votes.untold)}. Add one that is called "
            f"{votes.total_name(votes.untold[0])}, or name count columns with --votes."
        )


def _in_form(
    schema: LabelSchema, form: str, endings: Sequence[str], columns: Sequence[str], others: Sequence[str]
) -> VoteColumns:
    present = set(columns)
    spelled = {
        column: tuple(f"{stem}{ending}" for stem in stems for ending in endings if f"{stem}{ending}" in present)
        for column, stems in _stems(schema).items()
    }
    asked = [question for question in schema.questions if any(spelled[column] for column in question.columns)]
    whole = [question for question in asked if all(spelled[column] for column in question.columns)]
    taken = {column: spelled[column][0] for question in whole for column in question.columns}
    totals = {question.name: _total(question, taken, present.union(others)) for question in whole}
    return VoteColumns(
        schema, form, taken, {name: column for name, column in totals.items() if column},
        tuple(column for question in asked for column in question.columns if not spelled[column]),
        {c: spelled[c] for c, name in taken.items() if len(spelled[c]) > 1 and not name.startswith(c)},
    )


def _stems(schema: LabelSchema) -> dict[str, tuple[str, ...]]:
    """What a column may be called before the ending: its name, its aliases, its name without the campaign."""
    aliases: dict[str, list[str]] = {}
    for name, ours in schema.aliases.items():
        aliases.setdefault(ours, []).append(name.removesuffix("_count"))
    campaigns = {question.name.rpartition("-")[2] for question in schema.questions}
    suffix = f"-{campaigns.pop()}" if len(campaigns) == 1 else ""
    stems = {}
    for question in schema.questions:
        bare = question.name.removesuffix(suffix) if suffix else question.name
        for answer, column in zip(question.answers, question.columns, strict=True):
            stems[column] = tuple(dict.fromkeys((column, *aliases.get(column, ()), f"{bare}_{answer}")))
    return stems


def _spelled(names: Sequence[str]) -> str:
    """A question as a catalogue spells it: what the columns of its answers begin with."""
    stem = names[0]
    while stem and not all(name.startswith(f"{stem}_") for name in names):
        stem = stem.rpartition("_")[0]
    return stem


def _total(question: Question, taken: Mapping[str, str], present: set[str]) -> str:
    stem = _spelled([taken[column] for column in question.columns])
    names = [f"{stem}{ending}" for ending in TOTALS] + ([] if question.after else list(CLASSIFICATIONS))
    return next((name for name in names if name in present and name not in taken.values()), "")
