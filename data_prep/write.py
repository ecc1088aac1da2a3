"""Writing the rows of a plan: several at a time, each committed by its receipt, the first failure stopping all."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from sciencessl.data_prep.plan import inputs_digest
from sciencessl.data_prep.source import Source, Task
from sciencessl.store import format as zpack
from sciencessl.store.files import clear_os_errors
from sciencessl.store.writer import PreparedSample, Refusal, write_row

Progress = Callable[[int, int], None]
"""Called from the main thread with (samples done, samples in all)."""
POLL_SECONDS = 0.5


class _Count:
    """A counter that worker threads add to; raising `stop` ends them at the next sample."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0
        self.stop = False

    def add(self) -> None:
        with self._lock:
            self.done += 1


class _Stopped(Exception):
    """Another row failed."""


def write_rows(
    out: Path, header: zpack.StoreHeader, tasks: Sequence[Task], source: Source, threads: int,
    progress: Progress | None = None, already: int = 0, total: int = 0,
) -> None:
    """Prepare and commit rows.

    Args:
        out: The store, begun.
        header: Of the store.
        tasks: Rows to write.
        source: Reads them.
        threads: Rows in hand at a time.
        progress: Told about every half second.
        already: Samples in rows that are kept.
        total: Samples in all.

    Raises:
        StoreError: When the file system refuses, or a row does not fit; rows committed until then stay.
    """
    count = _Count()
    # Decoders warn of every odd file; what matters is counted as a refusal. Set once here, as it is process-wide.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(threads, max(len(tasks), 1))) as pool:
        warnings.simplefilter("ignore")
        futures = {pool.submit(_write_task, out, header, task, source, count) for task in tasks}
        try:
            _wait(futures, lambda: progress(already + count.done, total) if progress else None)
        except BaseException:
            count.stop = True
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_task(out: Path, header: zpack.StoreHeader, task: Task, source: Source, count: _Count) -> None:
    samples: list[PreparedSample] = []
    refusals: list[Refusal] = []
    for item in source.read(task):
        if count.stop:
            raise _Stopped
        if isinstance(item, Refusal):
            refusals.append(item)
        else:
            samples.append(item)
        count.add()
    with clear_os_errors(out):
        write_row(out, header, task.row, samples, refusals, inputs_digest(task.inputs))


def _wait(futures: set[Future[None]], tell: Callable[[], None]) -> None:
    while futures:
        done, futures = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        tell()
