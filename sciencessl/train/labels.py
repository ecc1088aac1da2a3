"""From names on the command line to labels of the stores: questions of a vote table, or class columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.spec import UNLABELLED, LabelSchema, Question
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.sampled import sampling_note
from sciencessl.store.tables import Table

PROBES = "--probes"
MOST_CLASSES = 0.5
"""Classes for each labelled sample: with more, most samples would be the only one of their class."""


@dataclass(frozen=True)
class LabelSet:
    """The labels of one term of the loss, aligned with the samples of all stores.

    Attributes:
        name: Key in a batch.
        schema: Questions of the votes, or None for classes.
        classes: Class names in the order of their numbers; empty for votes.
        values: (N, A) float32 counts or (N,) int64 classes; rows outside split=train are unlabelled.
        columns: Columns of the stores that were read: what evaluation compares with the columns of a task.
        note: Where they come from, in words.
        tables: For each store, the tables that hold them; none for a column of the rows.
        several: Whether the questions are labels that stand side by side, each with one vote for `absent` or `present`.
    """

    name: str
    schema: LabelSchema | None
    classes: tuple[str, ...]
    values: np.ndarray
    columns: tuple[str, ...]
    note: str
    tables: tuple[tuple[str, ...], ...]
    several: bool = False

    @property
    def rows(self) -> np.ndarray:
        """(N,) whether each sample has a label."""
        return np.asarray(self.values != UNLABELLED if self.schema is None else (self.values > 0).any(axis=1))

    @property
    def labelled(self) -> int:
        """Samples with a label."""
        return int(self.rows.sum())

    def rows_of(self) -> dict[str, int]:
        """Question, or class column -> rows with a label of it."""
        if self.schema is None:
            return {self.name: self.labelled}
        groups = zip(self.schema.questions, self.schema.groups, strict=True)
        return {question.name: int((self.values[:, lo:hi] > 0).any(axis=1).sum()) for question, (lo, hi) in groups}


def find_labels(store: JoinedStores, names: Sequence[str], asked: str = "--labels") -> list[LabelSet]:
    """Label sets for the names given: the questions of one table together, each class column by itself.

    Classes are numbered over all stores. A store without a question or column is unlabelled in it.

    Args:
        store: The stores.
        names: Questions or class columns.
        asked: The setting that names them, for messages.

    Raises:
        ConfigError: When a name is given twice, is neither a question of a table nor a column of classes, stands for
            different questions in two stores, or nothing of it is labelled in split=train.
    """
    _check_once(names, asked)
    terms: dict[tuple[int, str], dict[str, list[Table | None]]] = {}
    sets: list[LabelSet] = []
    for name in names:
        homes = [_table_of(part, name) for part in store.stores]
        first = next(((k, table.name) for k, table in enumerate(homes) if table), None)
        if first:
            terms.setdefault(first, {})[name] = homes
        elif any(name in part.columns() for part in store.stores):
            sets.append(_classes(store, name, asked))
        else:
            raise ConfigError(_unknown(store, name, asked))
    found = [_votes(store, homes, asked) for homes in terms.values()] + sets
    _check_labelled(store, found, asked)
    return found


def find_probes(store: JoinedStores, names: Sequence[str]) -> list[LabelSet]:
    """What online probes are scored by: as `find_labels`, and `A+B` for columns of several labels at once.

    Raises:
        ConfigError: As `find_labels`; and when a column of `A+B` holds anything but 1, 0 and missing.
    """
    columns = {column for part in store.stores for column in part.columns()}
    joined = [name for name in names if name not in columns and columns.issuperset(name.split("+"))]
    _check_once(joined, PROBES)
    sets = [_several(store, name) for name in joined]
    _check_labelled(store, sets, PROBES)
    single = [name for name in names if name not in joined]
    for name in single:
        lacks = [part for part in name.split("+") if part not in columns]
        if len(lacks) < name.count("+") + 1 and name not in columns:
            raise ConfigError(
                f"{PROBES} {name}: {store.name} has no column {lacks[0]!r}.{did_you_mean(lacks[0], columns)} Columns "
                "joined by + are labels of one image, each 1, 0 or missing."
            )
    return find_labels(store, single, PROBES) + sets


def _check_once(names: Sequence[str], asked: str) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ConfigError(f"{asked} {repeated[0]} is given more than once; once is enough.")


def _check_labelled(store: JoinedStores, found: Iterable[LabelSet], asked: str) -> None:
    for labels in found:
        if not labels.labelled:
            raise ConfigError(
                f"{asked} {labels.name}: no sample of split=train in {store.name} has such a label. "
                "See `sciencessl store info` for what is labelled."
            )


def _table_of(store: Store, question: str) -> Table | None:
    """The table that asks it; of several the last, which hides the columns of the others (`Store.columns`)."""
    for table in map(store.table, reversed(store.tables)):
        if table.schema is not None:
            try:
                found = table.schema.question(question)
            except ConfigError:
                continue
            if found.name in table.questions:
                return table
    return None


def _unknown(store: JoinedStores, name: str, asked: str) -> str:
    tables = [part.table(table) for part in store.stores for table in part.tables]
    questions = list(dict.fromkeys(question for table in tables for question in table.questions))
    columns = {column for part in store.stores for column in part.columns()}
    return (
        f"{asked} {name}: {store.name} has no such question or column.{did_you_mean(name, [*questions, *columns])} "
        f"Questions: {', '.join(questions) or 'none'}. Columns: {', '.join(sorted(columns))}."
    )


def in_train(store: JoinedStores) -> np.ndarray:
    """(N,) whether each sample may be learned from."""
    found = np.zeros(len(store), dtype=bool)
    found[store.split("train").all()] = True
    return found


def _votes(store: JoinedStores, homes: Mapping[str, Sequence[Table | None]], asked: str) -> LabelSet:
    """The questions of one table; `homes` has the table of each question in each store."""
    for name, tables in homes.items():
        _check_alike(name, tables, store, asked)
    schema = _schema_of(next(table for tables in homes.values() for table in tables if table)).only(list(homes))
    counts = np.zeros((len(store), len(schema.columns)), np.float32)
    for k, part in enumerate(store.stores):
        for question, (lo, hi), tables in zip(schema.questions, schema.groups, homes.values(), strict=True):
            table = tables[k]
            if table is not None:
                counts[store.starts[k] : store.starts[k + 1], lo:hi] = table.counts(part.ids, question.columns)
    counts[~in_train(store)] = 0.0
    by_store = [tuple(dict.fromkeys(t.name for t in column if t)) for column in zip(*homes.values(), strict=True)]
    name = "+".join(question.name for question in schema.questions)
    found = (table for tables in homes.values() for table in tables if table)
    return LabelSet(name, schema, (), counts, schema.columns, joined_notes(found), tuple(by_store))


def _schema_of(table: Table) -> LabelSchema:
    assert table.schema is not None
    return table.schema


def _check_alike(name: str, tables: Sequence[Table | None], store: JoinedStores, asked: str) -> None:
    """One name is one question, with the same answers, wherever it is asked."""
    having = [(part, table) for part, table in zip(store.stores, tables, strict=True) if table]
    put = [(part, _schema_of(table).question(name)) for part, table in having]
    first, question = put[0]
    for part, other in put[1:]:
        if other != question:
            raise ConfigError(
                f"{asked} {name}: in {first.path} that is question {question.name} with answers "
                f"{', '.join(question.answers)}, in {part.path} {other.name} with {', '.join(other.answers)}, or they "
                "follow other answers. Name one of them in full, or label the stores by one schema."
            )


def joined_notes(tables: Iterable[Table]) -> str:
    """How many of their rows were chosen and not drawn at random, and the notes of tables, each once."""
    known = list(tables)
    return "; ".join(dict.fromkeys(filter(None, (sampling_note(known), *(table.note for table in known)))))


def tables_of(store: JoinedStores, column: str) -> list[list[Table]]:
    """For each store, the table that holds a column; none where it is a column of the rows or is not there."""
    where = [(part, part.columns().get(column, "rows")) for part in store.stores]
    return [[] if name == "rows" else [part.table(name)] for part, name in where]


def _classes(store: JoinedStores, column: str, asked: str) -> LabelSet:
    values, classes = read_classes(store, column, f"{asked} {column}")
    tables = tables_of(store, column)
    by_store = tuple(tuple(table.name for table in found) for found in tables)
    return LabelSet(column, None, classes, values, (column,), joined_notes(chain(*tables)), by_store)


def _several(store: JoinedStores, name: str) -> LabelSet:
    """Columns of 1, 0 or missing as one vote a label; without any where a label is not known."""
    columns = tuple(name.split("+"))
    schema = LabelSchema(name, tuple(Question(column, ("absent", "present")) for column in columns))
    present = np.stack([_presence(store, column, f"{PROBES} {name}") for column in columns], axis=1)
    votes = np.stack([present == 0, present == 1], axis=2).reshape(len(store), -1).astype(np.float32)
    votes[~in_train(store)] = 0.0
    tables = [tables_of(store, column) for column in columns]
    by_store = tuple(
        tuple(dict.fromkeys(table.name for table in chain(*found))) for found in zip(*tables, strict=True)
    )
    note = joined_notes(chain(*chain(*tables)))
    return LabelSet(name, schema, (), votes, columns, note, by_store, several=True)


def _presence(store: JoinedStores, column: str, asked: str) -> np.ndarray:
    """(N,) 1, 0 or NaN."""
    raw = store.column(column)
    try:
        values = np.array([np.nan if value is None else float(value) for value in raw])
        wrong = values[~np.isnan(values) & (values != 0) & (values != 1)][:1].tolist()
    except (TypeError, ValueError):
        wrong = [value for value in raw if isinstance(value, str)][:1]
    if wrong:
        raise ConfigError(
            f"{asked}: column {column!r} of {store.name} holds {wrong[0]!r}; columns joined by + are labels that stand "
            "side by side, 1 (present), 0 (absent) or missing. Name a column of classes by itself."
        )
    return values


def read_classes(store: JoinedStores, column: str, asked: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column as classes: (N,) int64 numbers, `UNLABELLED` outside split=train and without a value, and their names.

    Args:
        store: Of which one or more have the column.
        column: Its name.
        asked: The setting that names it, for messages.

    Raises:
        ConfigError: When split=train holds fewer than two classes, measurements, or names.
    """
    raw = store.column(column)
    usable = in_train(store) & np.array([value is not None and value == value for value in raw], bool)
    classes = sorted({str(value) for value in raw[usable]})
    _check_classes(f"{asked}: split=train of {store.name}", raw[usable], classes)
    number = {name: i for i, name in enumerate(classes)}
    values = np.array([number[str(v)] if ok else UNLABELLED for v, ok in zip(raw, usable, strict=True)], np.int64)
    return values, tuple(classes)


def _check_classes(where: str, values: np.ndarray, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        only = f" ({classes[0]!r} alone)" if classes else ""
        raise ConfigError(f"{where} holds {len(classes)} classes{only}; give a column with two or more.")
    if values.dtype.kind == "f" and (values != np.round(values)).any():
        raise ConfigError(f"{where} holds measurements such as {values[0]:g}, expected classes. Choose another column.")
    if len(classes) > MOST_CLASSES * len(values):
        raise ConfigError(
            f"{where} holds {len(classes)} different values in {len(values)} samples: these are names, not classes. "
            "Choose another column."
        )
