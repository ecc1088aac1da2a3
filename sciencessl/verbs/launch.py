"""`--processes N`: one command that starts the processes of a run on this machine, and ends with all of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

from sciencessl.machine import cores, end_with_parent
from sciencessl.verbs.output import DONE, FAILED, REQUEUE

GRACE = 30.0
"""Seconds that processes have to end when one of them has failed."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run one command of ours in several processes that know of each other as those of `torchrun` do.

    Signals go on to all of them. When one fails, the others, which may wait for it, are ended. They end with this
    process, however it ends.

    Args:
        processes: How many, 2 or more.
        arguments: Words of the command line.

    Returns:
        The exit code of the process that failed first, where one did; else the largest.
    """
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    children: list[SpawnProcess] = []
    own = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    with _passing_on(children), _ending(children):
        for rank in range(processes):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
                      "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": max(1, cores() // processes)}
            child = context.Process(target=_serve, args=(list(arguments),))
            # Libraries read it when they are imported, which comes before the child's first line of ours.
            with _environment({name: str(value) for name, value in places.items()} | own):
                child.start()
            children.append(child)
        return _all_ended(children)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(arguments: list[str]) -> None:
    from sciencessl.cli import run

    # A terminal's Ctrl-C would come twice: from the terminal, and passed on.
    os.setsid()
    end_with_parent()
    sys.exit(run(arguments))


@contextlib.contextmanager
def _passing_on(children: Sequence[SpawnProcess]) -> Iterator[None]:
    def send(number: int, frame: Any) -> None:
        for child in children:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, number)

    before = {number: signal.signal(number, send) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _ending(children: Sequence[SpawnProcess]) -> Iterator[None]:
    """None outlives the block."""
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.join()


def _all_ended(children: Sequence[SpawnProcess]) -> int:
    alive: dict[Any, int] = {child.sentinel: rank for rank, child in enumerate(children)}
    failure, worst = 0, DONE
    deadline: float | None = None
    while alive:
        for sentinel in wait(list(alive), timeout=None if deadline is None else max(0.0, deadline - time.monotonic())):
            rank = alive.pop(sentinel)
            children[rank].join()
            code = children[rank].exitcode or DONE
            if code in (DONE, REQUEUE):
                worst = max(worst, code)
                continue
            if code < 0:
                _tell_signal(-code, rank, len(children))
            failure = failure or max(code, FAILED)
            deadline = deadline or time.monotonic() + GRACE
        if deadline is not None and time.monotonic() >= deadline:
            break
    return failure or worst


def _tell_signal(number: int, rank: int, processes: int) -> None:
    """Whoever was ended by a signal could not say so."""
    memory = ", as when memory runs out" if number == signal.SIGKILL else ""
    name = f"signal {number} ({signal.strsignal(number)}{memory})"
    print(f"sciencessl: error: process {rank} of {processes} was ended by {name}. The others end with it; where there "
          "are checkpoints, go on from them with --resume.", file=sys.stderr)
