"""The votes themselves: read from a catalogue, fractions multiplied out, checked by row and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.catalogue import Catalogue
from sciencessl.data_prep.vote_columns import VoteColumns, match_columns
from sciencessl.errors import DataError
from sciencessl.spec import LabelSchema

WHOLE = 0.02
"""A fraction times a total that comes nearer than this to a whole number is that number: releases round fractions to 3
digits, and 40 volunteers make 0.02 of that. Ours."""


def read_votes(
    catalogue: Catalogue, ids: Sequence[str], votes: VoteColumns, guess: bool
) -> tuple[dict[str, np.ndarray], VoteColumns]:
    """Counts of a catalogue's votes; empty cells are 0, the question was not asked.

    Args:
        catalogue: N rows.
        ids: Their identifiers, for errors.
        votes: Where they are; `usable`.
        guess: Take columns of counts that hold fractions for fractions where it is known how many answered.

    Returns:
        Our column -> (N,) float32 votes, whole numbers or not, and the columns that were read.

    Raises:
        DataError: For values that are text, negative, not finite, or fractions where counts are needed.
    """
    if votes.form == "fractions":
        return _multiplied(catalogue, ids, votes), votes
    counts = {column: _numbers(catalogue, name, ids) for column, name in votes.columns.items()}
    if not _are_fractions(counts):
        return {column: values.astype(np.float32) for column, values in counts.items()}, votes
    fractions = match_columns(votes.schema, list(votes.columns.values()), "fractions", catalogue.data.column_names)
    if guess and not fractions.untold:
        return _multiplied(catalogue, ids, fractions), fractions
    missing = " and ".join(map(fractions.total_name, fractions.untold[:2]))
    raise DataError(
        f"catalogue {catalogue.where}: the votes of {next(iter(counts))!r} and the others lie between 0 and 1, so they "
        "are fractions where counts are needed. Name the count columns, or say how many volunteers answered each "
        + (f"question, in columns such as {missing}." if missing else "question and pass --votes-from fractions.")
    )


def over_asked(counts: Mapping[str, np.ndarray], schema: LabelSchema, ids: Sequence[str]) -> list[str]:
    """A sentence on rows in which a question has more votes than the answers that lead to it, if there are any.

    Args:
        counts: Our column -> (N,) votes.
        schema: Whose tree it is; questions with a parent that is not in `counts` are not looked at.
        ids: N identifiers.
    """
    rows, first = np.zeros(len(ids), dtype=bool), ""
    for question in schema.questions:
        if not question.after or not counts.keys() >= {*question.columns, *question.after}:
            continue
        votes, led = (np.sum([counts[c] for c in columns], axis=0) for columns in (question.columns, question.after))
        over = votes > led + 0.5  # weights do not add up to the last digit
        if over.any() and not first:
            row = int(np.flatnonzero(over)[0])
            first = f"at id {ids[row]!r} {question.name} has {votes[row]:g}, {' + '.join(question.after)} {led[row]:g}"
        rows |= over
    if not first:
        return []
    return [
        f"votes: in {int(rows.sum()):,} rows a question has more votes than the answers that lead to it; {first}. "
        "Weighted votes do that; otherwise see whether the columns are what they are taken for"
    ]


def _are_fractions(counts: Mapping[str, np.ndarray]) -> bool:
    whole = all(np.array_equal(values, np.floor(values)) for values in counts.values())
    return not whole and all(values.max(initial=0.0) <= 1 for values in counts.values())


def _multiplied(catalogue: Catalogue, ids: Sequence[str], votes: VoteColumns) -> dict[str, np.ndarray]:
    """Fractions times how many answered: the question's own total, or the votes of its parents."""
    counts: dict[str, np.ndarray] = {}
    for question in votes.schema.topological:
        if question not in votes.questions:
            continue
        if question.name in votes.totals:
            total = _numbers(catalogue, votes.totals[question.name], ids)
        else:
            total = np.sum([counts[parent] for parent in question.after], axis=0)
        for column in question.columns:
            name = votes.columns[column]
            shares = _numbers(catalogue, name, ids, asked=total > 0, most=1.0)
            products = np.where(total > 0, shares, 0.0) * total
            nearest = np.rint(products)
            near = np.abs(products - nearest) < WHOLE
            counts[column] = np.where(near, nearest, products)
    return {column: counts[column].astype(np.float32) for column in votes.columns}


def _numbers(
    catalogue: Catalogue, column: str, ids: Sequence[str], asked: np.ndarray | None = None, most: float = np.inf
) -> np.ndarray:
    """(N,) float64 values of 0 to `most`, where `asked`; empty cells are 0."""
    data = catalogue.data[column]
    where = f"catalogue {catalogue.where}, vote column {column!r}"
    try:
        values = pc.fill_null(data.cast(pa.float64()), 0.0).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = next((row for row, cell in enumerate(data.to_pylist()) if not _is_number(cell)), 0)
        raise DataError(
            f"{where}: expected numbers, got text: {data[row].as_py()!r} at id {ids[row]!r}. Leave a cell empty where "
            "the question was not asked."
        ) from error
    good = np.isfinite(values) & (values >= 0) & (values <= most * 1.001)
    bad = np.flatnonzero(~good if asked is None else ~good & asked)
    if bad.size:
        beyond = "" if most == np.inf else f" or above {most:g}"
        what = "Votes are counts from 0" if most == np.inf else "Fractions of votes are 0 to 1"
        raise DataError(
            f"{where}: {bad.size} value(s) are negative or not finite{beyond}, the first {values[bad[0]]:g} at id "
            f"{ids[int(bad[0])]!r}. {what}; leave a cell empty where the question was not asked."
        )
    return np.asarray(values, dtype=np.float64)


def _is_number(cell: object) -> bool:
    try:
        pa.scalar(cell).cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True
