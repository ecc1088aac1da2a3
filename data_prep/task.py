"""The unit of work of `prepare`: one task becomes one row. Pure, so that any process on any machine may run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sciencessl.data_prep.plan import inputs_digest
from sciencessl.data_prep.source import CRASHED, Input, Source, Task
from sciencessl.store import format as zpack
from sciencessl.store.files import clear_os_errors
from sciencessl.store.writer import PreparedSample, Refusal, write_row

Tell = Callable[[int], None]
"""Called with the samples of the row that are read so far."""


def silent(done: int) -> None:
    """A `Tell` that nobody listens to."""


def prepare_row(
    out: Path, header: zpack.StoreHeader, task: Task, source: Source,
    crashed: Mapping[str, str] | None = None, tell: Tell = silent,
) -> zpack.Receipt:
    """Read the inputs of a task, write their row, commit it by its receipt.

    The row depends on the arguments alone, and nothing of it is shared with other rows: run twice, even at the same
    time, it leaves the same. Arguments and receipt pickle; pixels never travel.

    Args:
        out: The store, begun, where this process sees it.
        header: Of the store.
        task: The row.
        source: Reads it; `Source.for_tasks` is enough, and small.
        crashed: Input id -> detail of inputs that are refused unread, as reading them ends the process.
        tell: Told of progress.

    Raises:
        StoreError: When the file system refuses, or the row does not fit.
        DataError: When an id or a column cannot be stored.
    """
    crashed = crashed or {}
    samples: list[PreparedSample] = []
    refusals = [Refusal(name, CRASHED, crashed[entry.id]) for entry in task.inputs if entry.id in crashed
                for name in entry.ids or (entry.id,)]
    readable = tuple(entry for entry in task.inputs if entry.id not in crashed)
    for number, item in enumerate(source.read(Task(task.row, readable)), len(refusals) + 1):
        if isinstance(item, Refusal):
            refusals.append(item)
        else:
            samples.append(item)
        tell(number)
    with clear_os_errors(out):
        return write_row(out, header, task.row, samples, refusals, inputs_digest(task.inputs))


def read_alone(source: Source, entry: Input, tell: Tell = silent) -> None:
    """Read one input and keep nothing: a process that comes back has shown that the input does not end it."""
    for number, _ in enumerate(source.read(Task(0, (entry,))), 1):
        tell(number)
