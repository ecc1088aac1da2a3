"""Calls in another process, with limits: one that loops, crashes or takes the memory is refused, the others go on."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from sciencessl.data_prep.limits import Limits, call, call_each
from sciencessl.data_prep.pool import Process, WorkerDied
from sciencessl.data_prep.refused import Refused
from sciencessl.data_prep.source import CRASHED
from sciencessl.data_prep.worker import DONE
from sciencessl.errors import StoreError

__all__ = ["HERE", "Limits", "close", "isolated_map"]

BATCH_ITEMS = 32
BATCH_BYTES = 2**18
"""Items go over in batches of so many, or of so many bytes and one item more: larger ones leave the caches."""
LEAST_HANG_SECONDS = 60.0
HANG_TIMES = 30.0
"""A call that waits for something is ended after so many times its processor time, by the clock."""
TRIES = 2
"""Processes that end with an item alone before it is to blame: others may have ended one, with SIGKILL or SIGTERM."""

T = TypeVar("T")
R = TypeVar("R")


HERE = Limits(0, 0)
"""Calls are made in this process."""


def isolated_map(function: Callable[[T], R], items: Iterable[T | Refused], limits: Limits) -> Iterator[R | Refused]:
    """What a function returns of each item, in order, one result an item.

    Calls are made in one child of this process. It is started when it is first needed, kept for later calls, and ends
    with this process, however that ends. When it dies, items without a result are tried again one at a time: one that
    alone ended two processes, of which the second did nothing else, is refused. So whoever ends a process from outside
    changes nothing. At most one batch of items is taken ahead of the results. On Windows nothing is limited.

    Args:
        function: Pickles, and so do items and results. What it prints goes to stderr.
        items: Those that are `Refused` already come back as they are. Of `bytes` the sizes bound a batch.
        limits: Of each call.

    Returns:
        Results, and `Refused` where the function raised it or the call was ended: too-slow, too-large, crashed.

    Raises:
        Exception: What the function raised, with the trace of the other process as a note.
        ConfigError: For a function or items that do not pickle.
        StoreError: When no process can be started.
    """
    if not limits.seconds:
        yield from (item if isinstance(item, Refused) else call(function, item) for item in items)
        return
    for batch in _batches(items):
        found = iter(_results(function, [item for item in batch if not isinstance(item, Refused)], limits))
        yield from [item if isinstance(item, Refused) else next(found) for item in batch]


def close() -> None:
    """End the process that is kept, if there is one; the next call starts another."""
    with _lock:
        child = _kept.pop(os.getpid(), None)
        if child is not None:
            child.kill()


_lock = threading.Lock()
_kept: dict[int, Process] = {}
"""The child of this process: its number is the key, so that a copy made by forking does not take it for its own."""
atexit.register(close)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item) if isinstance(item, bytes) else 0
        if len(batch) == BATCH_ITEMS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _results(function: Callable[[T], R], items: Sequence[T], limits: Limits) -> list[R | Refused]:
    found: list[R | Refused] = []
    try:
        _ask(function, items, limits, found.extend)
    except WorkerDied:
        found += [_alone(function, item, limits) for item in items[len(found) :]]
    return found


def _alone(function: Callable[[T], R], item: T, limits: Limits) -> R | Refused:
    """The result of an item that gets no process into trouble but its own; the second one has done nothing before."""
    ends: list[Refused] = []
    while len(ends) < TRIES:
        found: list[R | Refused] = []
        try:
            _ask(function, [item], limits, found.extend)
        except WorkerDied as died:
            own = _signal_name(died.code) == "SIGPROF"  # nobody else sends it
            ends += [_end(died, limits)] * (TRIES if own else 1)
        if found:
            return found[0]
    return ends[-1]


def _end(died: WorkerDied, limits: Limits) -> Refused:
    """What an item is refused for that ended a process."""
    name = _signal_name(died.code)
    if name == "SIGPROF":
        return Refused("too-slow", f"not done after {limits.seconds:g} s of processor time")
    if name == "SIGALRM":
        return Refused("too-slow", f"not done after {_hang_seconds(limits):g} s, without using the processor")
    return Refused(CRASHED, f"the process that read it {died}")


def _signal_name(code: int | None) -> str:
    try:
        return signal.Signals(-(code or 0)).name
    except ValueError:
        return ""


def _hang_seconds(limits: Limits) -> float:
    return max(LEAST_HANG_SECONDS, HANG_TIMES * limits.seconds)


def _ask(
    function: Callable[[T], R], items: Sequence[T], limits: Limits, tell: Callable[[Sequence[R | Refused]], None]
) -> None:
    """Have the child call a function with items one after the other, and tell results, some at a time."""
    with _lock:
        # Not kept while it works: an answer that somebody interrupted is still to come.
        child = _kept.pop(os.getpid(), None) or _started()
        try:
            kind, value = child.ask(call_each, (function, items, limits, _hang_seconds(limits)), tell, tell_seconds=0)
        except BaseException:
            child.kill()
            raise
        _kept[os.getpid()] = child
    if kind != DONE:
        raise value
    tell(value)


def _started() -> Process:
    for left in range(TRIES, -1, -1):
        child = Process()
        try:
            child.wait_until_ready()
        except StoreError:
            if not left or not _signal_name(child.code):
                raise
        except BaseException:
            child.kill()
            raise
        else:
            return child
    raise AssertionError
