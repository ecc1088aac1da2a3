"""`--engine ray`: tasks run on a Ray cluster. Arguments and receipts travel; pixels stay where they are written."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sciencessl.data_prep.pool import Stopped, WorkerDied
from sciencessl.data_prep.task import Tell, silent
from sciencessl.data_prep.worker import use_one_core
from sciencessl.errors import ConfigError, MissingExtraError, StoreError

POLL_SECONDS = 0.5
ANSWER_SECONDS = 10


class OnRay:
    """See `Engine`. On the cluster of `RAY_ADDRESS`, or of a `ray.init` that the caller made; else on this machine.

    Every node must see the sources and the store under the same paths, and have sciencessl installed.

    Args:
        workers: Rows in hand at a time; None is one for each CPU of the cluster.

    Raises:
        MissingExtraError: When Ray is not installed.
        StoreError: When the cluster cannot be reached.
        ConfigError: For 0 workers.
    """

    def __init__(self, workers: int | None) -> None:
        if workers == 0:
            raise ConfigError("--workers is 0, and --engine ray prepares in other processes; give 1 or more.")
        self._ray = ray = _ray()
        self._stopped = threading.Event()
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(ray, workers)
        self.workers = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        self._run = ray.remote(_run)
        # Ray tells on stdout of processes that died; what we print there may be read by a program.
        self._aside = contextlib.redirect_stdout(sys.stderr)
        self._aside.__enter__()

    def call(self, function: Callable[..., Any], arguments: Sequence[Any], retries: int, tell: Tell = silent) -> Any:
        """See `Engine`; of what is told nothing comes back."""
        exceptions = self._ray.exceptions
        # Pickled here, so that whoever unpickles it has looked where this process looks for modules.
        raw = pickle.dumps((function, tuple(arguments)))
        if self._stopped.is_set():
            raise Stopped
        answer = self._run.options(max_retries=retries, num_cpus=1).remote(sys.path, raw)
        while True:
            try:
                return self._ray.get(answer, timeout=POLL_SECONDS)
            except exceptions.GetTimeoutError:
                if self._stopped.is_set():
                    self._ray.cancel(answer, force=True)
                    raise Stopped from None
            except exceptions.RayTaskError as error:
                raise error.cause from None
            except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError) as error:
                raise WorkerDied(f"was lost ({type(error).__name__})") from None
            except exceptions.RayError as error:
                words = str(error).splitlines()[0]
                raise StoreError(f"Ray failed ({words}); run the same command again to go on.") from error

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped.set()

    def close(self) -> None:
        """See `Engine`; a cluster of our own ends with it."""
        self.stop()
        self._aside.__exit__(None, None, None)
        if self._ours:
            self._ray.shutdown()


def _run(path: list[str], raw: bytes) -> Any:
    sys.path += [folder for folder in path if folder not in sys.path]
    use_one_core()
    function, arguments = pickle.loads(raw)
    return function(*arguments, tell=silent)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--engine ray needs Ray; install it with: pip install 'sciencessl[cluster]'") from error
    return ray


def _require_answer(address: str) -> None:
    """Ray itself asks for many minutes whether somebody is there.

    Raises:
        OSError: When nobody listens at `HOST:PORT` or `ray://HOST:PORT`.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()


def _connect(ray: Any, workers: int | None) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    here = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        _require_answer(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the cluster of RAY_ADDRESS={address!r} cannot be reached" if address else "Ray cannot start here"
        raise StoreError(f"{where}: {error}") from error
