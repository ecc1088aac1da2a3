"""From names on the command line to labels of the store: questions of a vote table, or class columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.spec import UNLABELLED, LabelSchema
from sciencessl.store.reader import Store
from sciencessl.store.tables import Table

MOST_CLASSES = 0.5
"""Classes for each labelled sample: with more, most samples would be the only one of their class."""


@dataclass(frozen=True)
class LabelSet:
    """The labels of one term of the loss, aligned with the store.

    Attributes:
        name: Key in a batch.
        schema: Questions of the votes, or None for classes.
        classes: Class names in the order of their numbers; empty for votes.
        values: (N, A) float32 counts or (N,) int64 classes; rows outside split=train are unlabelled.
        columns: Columns of the store that were read: what evaluation compares with the columns of a task.
        note: Where they come from, in words.
        table: Name of the table that holds them; empty for a column of the rows.
    """

    name: str
    schema: LabelSchema | None
    classes: tuple[str, ...]
    values: np.ndarray
    columns: tuple[str, ...]
    note: str = ""
    table: str = ""

    @property
    def labelled(self) -> int:
        """Rows with a label."""
        if self.schema is None:
            return int((self.values != UNLABELLED).sum())
        return int((self.values > 0).any(axis=1).sum())

    def rows_of(self) -> dict[str, int]:
        """Question, or class column -> rows with a label of it."""
        if self.schema is None:
            return {self.name: self.labelled}
        groups = zip(self.schema.questions, self.schema.groups, strict=True)
        return {question.name: int((self.values[:, lo:hi] > 0).any(axis=1).sum()) for question, (lo, hi) in groups}


def find_labels(store: Store, names: Sequence[str]) -> list[LabelSet]:
    """Label sets for the names given: the questions of one table together, each class column by itself.

    Raises:
        ConfigError: When a name is given twice, is neither a question of a table nor a column of classes, or nothing
            of it is labelled in split=train.
    """
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ConfigError(f"--labels {repeated[0]} is given more than once; once is enough.")
    tables = [store.table(name) for name in store.tables]
    chosen: dict[str, list[str]] = {}
    sets: list[LabelSet] = []
    for name in names:
        table = _table_of(tables, name)
        if table is not None:
            chosen.setdefault(table.name, []).append(name)
        elif name in store.columns():
            sets.append(_classes(store, name, tables))
        else:
            raise ConfigError(_unknown(store, tables, name))
    by_name = {table.name: table for table in tables}
    found = [_votes(store, by_name[table], questions) for table, questions in chosen.items()] + sets
    for labels in found:
        if not labels.labelled:
            raise ConfigError(
                f"--labels {labels.name}: no sample of split=train in {store.path} has such a label. "
                "See `sciencessl store info` for what is labelled."
            )
    return found


def _table_of(tables: Sequence[Table], question: str) -> Table | None:
    for table in tables:
        if table.schema is not None:
            try:
                table.schema.question(question)
            except ConfigError:
                continue
            return table
    return None


def _unknown(store: Store, tables: Sequence[Table], name: str) -> str:
    questions = [q.name for table in tables if table.schema for q in table.schema.questions]
    known = [*questions, *store.columns()]
    return (
        f"--labels {name}: {store.path} has no such question or column.{did_you_mean(name, known)} "
        f"Questions: {', '.join(questions) or 'none'}. Columns: {', '.join(sorted(store.columns()))}."
    )


def _in_train(store: Store) -> np.ndarray:
    """(N,) whether a sample may be learned from."""
    found = np.zeros(len(store), dtype=bool)
    found[store.split("train").all()] = True
    return found


def _votes(store: Store, table: Table, questions: Sequence[str]) -> LabelSet:
    assert table.schema is not None
    schema = table.schema.only(questions)
    counts = table.counts(store.ids, schema.columns)
    counts[~_in_train(store)] = 0.0
    name = "+".join(question.name for question in schema.questions)
    return LabelSet(name, schema, (), counts, schema.columns, table.note, table.name)


def _classes(store: Store, column: str, tables: Sequence[Table]) -> LabelSet:
    raw = store.column(column)
    usable = _in_train(store) & np.array([value is not None and value == value for value in raw], bool)
    classes = sorted({str(value) for value in raw[usable]})
    _check_classes(store, column, raw[usable], classes)
    number = {name: i for i, name in enumerate(classes)}
    values = np.array([number[str(v)] if ok else UNLABELLED for v, ok in zip(raw, usable, strict=True)], np.int64)
    where = store.columns()[column]
    table = next((table for table in tables if table.name == where), None)
    if table is None:
        return LabelSet(column, None, tuple(classes), values, (column,))
    return LabelSet(column, None, tuple(classes), values, (column,), table.note, table.name)


def _check_classes(store: Store, column: str, values: np.ndarray, classes: Sequence[str]) -> None:
    where = f"--labels {column}: split=train of {store.path}"
    if len(classes) < 2:
        only = f" ({classes[0]!r} alone)" if classes else ""
        raise ConfigError(f"{where} holds {len(classes)} classes{only}; a label needs two or more.")
    if values.dtype.kind == "f" and (values != np.round(values)).any():
        raise ConfigError(f"{where} holds measurements such as {values[0]:g}, expected classes. Choose another column.")
    if len(classes) > MOST_CLASSES * len(values):
        raise ConfigError(
            f"{where} holds {len(classes)} different values in {len(values)} samples: these are names, not classes. "
            "Choose another column."
        )
