"""The plan of a store: which input goes into which row. A pure function of inputs and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sciencessl.data_prep.source import Input, Source, Task
from sciencessl.errors import DataError
from sciencessl.store import format as zpack
from sciencessl.store.reader import Store


@dataclass(frozen=True)
class Plan:
    """What is to be prepared.

    Attributes:
        header: Of the store to be.
        tasks: In row order.
        row_bytes: Bytes that a row is expected to take.
        older: The store whose rows come before those of the tasks, or None.
    """

    header: zpack.StoreHeader
    tasks: Sequence[Task]
    row_bytes: int
    older: Store | None = None

    @property
    def samples(self) -> int:
        """Samples planned, refused ones included."""
        return sum(entry.samples for task in self.tasks for entry in task.inputs)


def make_plan(domain: str, source: Source, places: int | None = None) -> Plan:
    """Deal the inputs in keyed-hash order to rows.

    R = max(16, bytes / half a row's capacity, samples / 8192) rows, but no more than there are inputs. Ours.

    Args:
        domain: Name of the domain.
        source: Whose inputs they are.
        places: Most samples that a row may take, where something else decides it: rows are then as many as needed.

    Raises:
        DataError: When there are no inputs, or one alone gives more samples than a row may take.
    """
    if not source.inputs:
        raise DataError("there is nothing to prepare: the source has no inputs.")
    ordered = sorted(source.inputs, key=lambda entry: zpack.sample_key(source.name, entry.id))
    expected = sum(entry.expected_bytes for entry in ordered)
    rows = row_count(len(ordered), sum(entry.samples for entry in ordered), expected)
    tasks = _deal(ordered, rows)
    while places is not None and _most_samples(tasks) > places:
        if rows == len(ordered):
            raise DataError(f"an input gives up to {_most_samples(tasks)} samples, but a row of the older store has "
                            f"{places} places; prepare a store of its own.")
        rows = min(len(ordered), rows + -(-rows // 8))
        tasks = _deal(ordered, rows)
    settings = dict(source.settings)
    header = zpack.StoreHeader(
        domain=domain, source=source.name, fields=source.fields, rows=rows,
        places=_most_samples(tasks),
        settings=settings, plan_digest=plan_digest(tasks, settings), config_digest=config_digest(source, settings),
    )
    return Plan(header, tasks, -(-expected // rows))


def _deal(ordered: Sequence[Input], rows: int) -> list[Task]:
    bounds = [len(ordered) * row // rows for row in range(rows + 1)]
    return [Task(row, tuple(ordered[bounds[row] : bounds[row + 1]])) for row in range(rows)]


def _most_samples(tasks: Sequence[Task]) -> int:
    return max(sum(entry.samples for entry in task.inputs) for task in tasks)


def row_count(inputs: int, samples: int, expected_bytes: int) -> int:
    """Rows of a store, at least one: see `make_plan`."""
    by_bytes = -(-expected_bytes // (zpack.ROW_BYTES // 2))
    by_samples = -(-samples // zpack.ROW_SAMPLES)
    return min(max(zpack.MIN_ROWS, by_bytes, by_samples), inputs)


def config_digest(source: Source, settings: Mapping[str, Any]) -> str:
    """Digest of what decides how an input becomes samples."""
    fields = {name: vars(spec) for name, spec in source.fields.items()}
    return zpack.digest(source.name.encode(), zpack.canonical_json(fields), zpack.canonical_json(settings))


def plan_digest(tasks: Sequence[Task], settings: Mapping[str, Any]) -> str:
    """Digest of settings, and of id, split and columns of every input, row by row."""
    rows = [[[entry.id, entry.file, entry.split, entry.columns] for entry in task.inputs] for task in tasks]
    return zpack.digest(zpack.canonical_json(settings), *(zpack.canonical_json(row) for row in rows))


def inputs_digest(inputs: Sequence[Input]) -> str:
    """Digest of the files of a row as they are: relative path, size, stamp."""
    return zpack.digest(zpack.canonical_json([[entry.file, entry.size, entry.stamp] for entry in inputs]))
