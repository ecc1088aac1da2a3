"""Two processes that stay: functions of test files are called in both at once, each with its `Ranks`."""

from __future__ import annotations

import datetime
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sciencessl.train.ranks import all_ranks

REPO = Path(__file__).resolve().parents[2]
WORLD = 2
PATIENCE = datetime.timedelta(seconds=60)
"""How long a rank waits for the other: a test that would hang fails."""


def serve(connection: Connection, rank: int, meeting: Path) -> None:
    """The life of one of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD, timeout=PATIENCE)
    while asked := _next(connection):
        function, arguments = asked
        try:
            connection.send((function(all_ranks(), *arguments), ""))
        except Exception:
            connection.send((None, traceback.format_exc()))
    os._exit(0)  # the process group would wait for the other to leave


def _next(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        return None


class TwoProcesses:
    """Start them with `with`; they end with it."""

    def __init__(self, folder: Path) -> None:
        self._meeting = folder / "meeting"

    def __enter__(self) -> TwoProcesses:
        if str(REPO) not in sys.path:
            sys.path.append(str(REPO))  # spawned processes take it over, and import the test file by its name
        context = torch.multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(WORLD)]
        self._connections = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=serve, args=(theirs, rank, self._meeting), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()
        return self

    def __exit__(self, *error: object) -> None:
        for connection in self._connections:
            connection.send(None)
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(ranks, *arguments)` in both; what it returned in each."""
        for connection in self._connections:
            connection.send((function, arguments))
        answers = [connection.recv() for connection in self._connections]
        errors = [f"rank {rank}: {error}" for rank, (_, error) in enumerate(answers) if error]
        assert not errors, "\n".join(errors)
        return [value for value, _ in answers]
