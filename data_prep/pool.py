"""Worker processes on this machine. One that dies is noticed, and what it was doing is tried again on a new one."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol

from sciencessl.data_prep.task import Tell, silent
from sciencessl.data_prep.worker import DONE, TELL_SECONDS, TOLD, receive, send
from sciencessl.errors import ConfigError, StoreError

PIPE_BYTES = 2**20
"""As much as Linux grants anyone."""
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # sent to the whole group, and the starter's affair
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from sciencessl.data_prep.worker import serve; serve()"
)


class WorkerDied(Exception):
    """The process that ran a call ended without an answer, each time.

    Args:
        how: How the last one ended, such as "was ended by SIGSEGV".
        code: What it returned, the negative number of a signal, or None where that is not known.
    """

    def __init__(self, how: str, code: int | None = None) -> None:
        super().__init__(how)
        self.code = code


class Stopped(Exception):
    """The engine was closed while a call was running."""


class Engine(Protocol):
    """Runs pure functions somewhere.

    Attributes:
        workers: Calls that run at a time.
    """

    workers: int

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], retries: int, tell: Tell = silent) -> Any:
        """What `function(*arguments, tell=tell)` returns; called from as many threads as there are workers.

        Raises:
            WorkerDied: When the process that ran it ended, and those of `retries` further tries.
            Stopped: When the engine was stopped meanwhile.
            Exception: What the function raised.
        """

    def stop(self) -> None:
        """End whatever runs, at once; calls that wait for it raise `Stopped`."""

    def close(self) -> None:
        """Let go of processes and connections, when nothing is waited for any more."""


def run_all(engine: Engine, jobs: Iterable[Callable[[], object]], done: Callable[[int], None]) -> None:
    """Run jobs that call an engine, as many at a time as it has workers; the first failure stops it and is raised.

    Args:
        engine: What the jobs call.
        jobs: Each makes one call, or more.
        done: Told how many have ended.
    """
    with ThreadPoolExecutor(engine.workers) as threads:
        futures = [threads.submit(job) for job in jobs]
        try:
            for count, future in enumerate(as_completed(futures), 1):
                future.result()
                done(count)
        except BaseException:
            engine.stop()
            threads.shutdown(wait=True, cancel_futures=True)
            raise


class InProcess:
    """Calls run where they are made, one at a time."""

    workers = 1

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], retries: int, tell: Tell = silent) -> Any:
        """See `Engine`. What ends the process ends this one."""
        return function(*arguments, tell=tell)

    def stop(self) -> None:
        """Nothing runs beside this."""

    def close(self) -> None:
        """Nothing is held."""


class Processes:
    """Fresh interpreters, started when they are first needed, and again when one has died.

    Plain child processes rather than `multiprocessing`: they share no state with this one, never run the caller's
    script again, and end with it, however it ends, as their stdin does.

    Args:
        workers: Processes.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._stopped = False
        self._running: set[Process] = set()
        self._idle: queue.LifoQueue[Process | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], retries: int, tell: Tell = silent) -> Any:
        """See `Engine`."""
        for left in range(retries, -1, -1):
            try:
                return self._once(function, arguments, tell)
            except WorkerDied:
                if self._stopped:
                    raise Stopped from None
                if not left:
                    raise
        raise AssertionError

    def _once(self, function: Callable[..., Any], arguments: Sequence[Any], tell: Tell) -> Any:
        process = self._idle.get()
        alive = None
        try:
            if self._stopped:
                raise Stopped
            if process is None:
                process = Process()
                self._running.add(process)
                if self._stopped:  # just now, before this process was known
                    raise Stopped
                process.wait_until_ready()
            answer = process.ask(function, arguments, tell)
            alive = process
        finally:
            if alive is None and process is not None:
                process.kill()
                self._running.discard(process)
            self._idle.put(alive)
        kind, value = answer
        if kind == DONE:
            return value
        raise value

    def stop(self) -> None:
        """See `Engine`; rows in hand are left without a receipt, so they do not exist."""
        self._stopped = True
        for process in list(self._running):
            process.kill()

    def close(self) -> None:
        """See `Engine`."""
        self.stop()


def _widen(pipe: int) -> None:
    """Let a pipe hold a batch of images, or the two processes switch at every 64 KiB of it. Linux alone can."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Process:
    """A fresh interpreter that answers calls; see `serve`. Nobody else uses it meanwhile."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            # -P: a pickle.py or signal.py in the current folder is not ours to run.
            [sys.executable, "-P", "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(ONE_THREAD, "1")},
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._calls: Any = self._child.stdin
        self._answers: Any = self._child.stdout
        for stream in (self._calls, self._answers):
            _widen(stream.fileno())

    def wait_until_ready(self) -> None:
        """Separates a worker that cannot start, which is an error, from one that a task ends, which is tried again.

        Raises:
            StoreError: When it ended instead.
        """
        try:
            pickle.dump(sys.path, self._calls)
            self._calls.flush()
            receive(self._answers)
        except (OSError, EOFError):
            raise StoreError(
                f"a worker process could not start: {sys.executable} {self._end()}, and what it said stands above. "
                "--workers 0 prepares in this process."
            ) from None

    def ask(
        self, function: Callable[..., Any], arguments: Sequence[Any], tell: Callable[[Any], None],
        tell_seconds: float = TELL_SECONDS,
    ) -> tuple[str, Any]:
        """Send a call, pass on what is told, at most once in so many seconds, and return (kind, value).

        Raises:
            ConfigError: For a call that does not pickle.
            WorkerDied: When the process ended; what it told before is passed on.
        """
        try:
            raw = pickle.dumps((function, tuple(arguments), tell_seconds))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"the source cannot be sent to another process ({error}). Its `read` must be a function of a module, "
                "or a method of an object that pickles; --workers 0 prepares in this process."
            ) from error
        try:
            send(self._calls, raw)
            while True:
                kind, value = pickle.loads(receive(self._answers))
                if kind != TOLD:
                    return kind, value
                tell(value)
        except (OSError, EOFError):
            raise WorkerDied(self._end(), self.code) from None

    @property
    def code(self) -> int | None:
        """What the process returned, the negative number of a signal, or None while it runs."""
        return self._child.returncode

    def _end(self) -> str:
        self.kill()
        code = self._child.returncode
        if code >= 0:
            return f"ended with code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def kill(self) -> None:
        """End the process, whatever it does, and collect it."""
        self._child.kill()
        self._child.wait()
        for stream in (self._calls, self._answers):
            with contextlib.suppress(OSError, ValueError):
                stream.close()
