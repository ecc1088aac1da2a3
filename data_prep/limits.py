"""Calls under limits on processor time and memory: what a process does that was started to be ended by them.

Imported by that process, so it imports little.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sciencessl.data_prep.refused import Refused

TELL_SECONDS = 0.05

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Limits:
    """What one call may take.

    Attributes:
        seconds: Processor time, so that other work on the machine changes nothing. 0: calls are made in this process,
            and nothing is limited.
        memory_mb: MiB of address space beside what the process has when it begins some calls.
    """

    seconds: float
    memory_mb: int


def call(function: Callable[[T], R], item: T) -> R | Refused:
    """What a function returns of an item, or the `Refused` that it raises."""
    try:
        return function(item)
    except Refused as refused:
        return Refused(refused.reason, refused.detail)  # without the trace, which holds the item


def call_each(
    function: Callable[[T], R], items: Sequence[T], limits: Limits, hang_seconds: float,
    tell: Callable[[list[R | Refused]], None],
) -> list[R | Refused]:
    """Call a function with items one after the other; signals of timers end the process, even in a loop in C.

    Args:
        function: See `call`.
        items: Its arguments.
        limits: Of each call.
        hang_seconds: By the clock, for a call that uses no processor.
        tell: Told results every `TELL_SECONDS`: each message takes two switches of processes.

    Returns:
        Results that were not told.
    """
    _let_timers_end_it()
    done = 0
    while True:
        results = _some(function, items[done:], limits, hang_seconds)
        done += len(results)
        if done == len(items):
            return results
        tell(results)


def _some(function: Callable[[T], R], items: Sequence[T], limits: Limits, hang_seconds: float) -> list[R | Refused]:
    """Results of the first items, for about `TELL_SECONDS`."""
    results: list[R | Refused] = []
    until = time.monotonic() + TELL_SECONDS
    with _limited_memory(limits.memory_mb):
        try:
            for item in items:
                _set_timers(limits.seconds, hang_seconds)
                try:
                    results.append(call(function, item))
                except MemoryError:
                    results.append(Refused("too-large", f"takes more than {limits.memory_mb} MiB of memory"))
                if time.monotonic() >= until:
                    break
        finally:
            _set_timers(0, 0)
    return results


def _let_timers_end_it() -> None:
    if sys.platform != "win32":
        import resource

        ending = (signal.SIGPROF, signal.SIGALRM)
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        # Files that end decoders come in numbers, and an image of the memory would be written for each.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _set_timers(processor_seconds: float, clock_seconds: float) -> None:
    """Anew for each item; 0 stops them."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, processor_seconds)
        signal.setitimer(signal.ITIMER_REAL, clock_seconds)


@contextlib.contextmanager
def _limited_memory(memory_mb: int) -> Iterator[None]:
    used = _used_bytes()
    if sys.platform == "win32" or not used:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    most = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([used + memory_mb * 2**20, *most]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _used_bytes() -> int:
    """Address space of this process; 0 where the system does not say."""
    try:
        return int(os.pread(_statm(), 32, 0).split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@functools.cache
def _statm() -> int:
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
