"""Writing the rows of a plan: several at a time, each committed by its receipt, the first failure stopping all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from sciencessl.data_prep.pool import Engine, InProcess, WorkerDied
from sciencessl.data_prep.source import Input, Source, Task
from sciencessl.data_prep.task import Tell, prepare_row, read_alone, silent
from sciencessl.errors import StoreError
from sciencessl.store import format as zpack

Progress = Callable[[int, int], None]
"""Called from the main thread with (samples done, samples in all)."""
POLL_SECONDS = 0.5
RETRIES = 2
"""Further tries of a row whose process died: a machine may run out of memory for a moment."""


class _Count:
    """Samples done. Each row in hand says how far it is, and starts again at 0 when its process died."""

    def __init__(self, already: int, total: int, progress: Progress | None) -> None:
        self._done = already
        self._total = total
        self._progress = progress
        self._in_hand: dict[int, int] = {}

    def tell(self, row: int, done: int) -> None:
        """Samples of a row in hand that are read."""
        self._in_hand[row] = done

    def tell_and_show(self, row: int, done: int) -> None:
        """The same from the main thread, which waits for nothing that would show it later."""
        self.tell(row, done)
        self.show()

    def commit(self, task: Task) -> None:
        """A row is done."""
        self._in_hand.pop(task.row, None)
        self._done += sum(entry.samples for entry in task.inputs)

    def show(self) -> None:
        """Tell whoever wants to know."""
        if self._progress is not None:
            self._progress(min(self._done + sum(list(self._in_hand.values())), self._total), self._total)


def write_rows(
    engine: Engine, out: Path, header: zpack.StoreHeader, tasks: Sequence[Task], source: Source,
    progress: Progress | None = None, already: int = 0, total: int = 0,
) -> None:
    """Prepare and commit rows.

    Args:
        engine: Runs the tasks; stopped when one fails.
        out: The store, begun.
        header: Of the store.
        tasks: Rows to write.
        source: Reads them.
        progress: Told about every half second.
        already: Samples in rows that are kept.
        total: Samples in all.

    Raises:
        StoreError: When the file system refuses, a row does not fit, or its process dies again and again; rows
            committed until then stay.
    """
    out, source, count = out.absolute(), source.for_tasks(), _Count(already, total, progress)

    def write(task: Task, tell: Tell) -> None:
        commit_row(engine, out, header, task, source, tell)

    (_one_by_one if isinstance(engine, InProcess) else _side_by_side)(engine, tasks, write, count)


def _one_by_one(engine: Engine, tasks: Sequence[Task], write: Callable[[Task, Tell], None], count: _Count) -> None:
    # Decoders warn of every odd file; what matters is counted as a refusal.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for task in tasks:
            write(task, partial(count.tell_and_show, task.row))
            count.commit(task)
            count.show()


def _side_by_side(engine: Engine, tasks: Sequence[Task], write: Callable[[Task, Tell], None], count: _Count) -> None:
    with ThreadPoolExecutor(engine.workers) as threads:  # they only wait for whoever does the work
        futures = {threads.submit(write, task, partial(count.tell, task.row)): task for task in tasks}
        left: set[Future[None]] = set(futures)
        try:
            while left:
                done, left = wait(left, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                    count.commit(futures[future])
                count.show()
        except BaseException:
            engine.stop()
            threads.shutdown(wait=True, cancel_futures=True)
            raise


def commit_row(
    engine: Engine, out: Path, header: zpack.StoreHeader, task: Task, source: Source, tell: Tell = silent
) -> None:
    """Prepare one row wherever the engine does; inputs that end the process which reads them are refused as `crashed`.

    Only after the row's process died three times are the inputs read one by one, and one is blamed when, by itself, it
    ended two processes.

    Raises:
        StoreError: As `prepare_row`, or when processes die and no input is to blame.
    """
    row = (out, header, task, source)
    try:
        engine.call(prepare_row, row, RETRIES, tell)
        return
    except WorkerDied as died:
        how = str(died)
    crashed = {entry.id: words for entry in task.inputs if (words := blame(engine, source, entry))}
    try:
        if crashed:
            engine.call(prepare_row, (*row, crashed), RETRIES, tell)
            return
    except WorkerDied as died:
        how = str(died)
    raise StoreError(
        f"{out}: row {task.row} of {len(task.inputs)} inputs cannot be written: each process that tried {how}, though "
        "no input does that by itself. Most likely the memory is too small for all rows in hand: use fewer --workers, "
        "and run the same command again to go on."
    )


def blame(engine: Engine, source: Source, entry: Input) -> str:
    """How the process ended that read one input; empty when it did not, at the second try at the latest."""
    try:
        engine.call(read_alone, (source, entry), 1)
    except WorkerDied as died:
        return f"each process that read it {died}"
    return ""
