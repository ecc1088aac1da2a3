"""The process that runs tasks for another: it answers calls one after the other, and ends with who started it."""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import time
import traceback
import warnings
from typing import Any, BinaryIO

from sciencessl.errors import SciencesslError

TELL_SECONDS = 0.5
LENGTH_BYTES = 8
DONE, FAILED, TOLD = "done", "failed", "told"

def send(stream: BinaryIO, raw: bytes) -> None:
    """Write one pickle.

    Raises:
        OSError: When nobody reads any more.
    """
    stream.write(len(raw).to_bytes(LENGTH_BYTES, "little"))
    stream.write(raw)  # apart: joined, megabytes were copied once more
    stream.flush()


def receive(stream: BinaryIO) -> bytes:
    """The next pickle.

    Raises:
        EOFError: When the other end is gone.
    """
    length = int.from_bytes(_exactly(stream, LENGTH_BYTES), "little")
    return _exactly(stream, length)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    raw = stream.read(size)
    if len(raw) < size:
        raise EOFError
    return raw


def use_one_core() -> None:
    """What a process needs that is one of many: no threads of its own, and quiet decoders.

    Decoders warn of every odd file; what matters is counted as a refusal.
    """
    import cv2

    cv2.setNumThreads(0)
    warnings.simplefilter("ignore")


def serve() -> None:
    """Answer calls from stdin on stdout until stdin ends, which it does with the process at its other end."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between answers
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    use_one_core()
    send(answers, pickle.dumps(DONE))
    while True:
        _answer(answers, calls.get())


def _listen(calls: queue.SimpleQueue[bytes]) -> None:
    """Never waits for the work in hand: a process whose starter was killed must not go on writing."""
    try:
        while True:
            calls.put(receive(sys.stdin.buffer))
    finally:  # also when a call does not fit in memory: who asked would wait for ever
        os._exit(1)


def _answer(answers: BinaryIO, raw: bytes) -> None:
    told, seconds = time.monotonic(), TELL_SECONDS

    def tell(what: Any) -> None:
        nonlocal told
        if time.monotonic() - told >= seconds:
            told = time.monotonic()
            send(answers, pickle.dumps((TOLD, what)))

    try:
        function, arguments, seconds = pickle.loads(raw)
        answer = pickle.dumps((DONE, function(*arguments, tell=tell)))
    except Exception as error:
        if not isinstance(error, SciencesslError):  # a bug: ours say all that there is to say
            error.add_note("in a worker process:\n" + traceback.format_exc())
        answer = _failure(error)
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)  # at once: other threads would wait for each other
    try:
        send(answers, answer)
    except OSError:
        os._exit(1)  # nobody is there to be told


def _failure(error: Exception) -> bytes:
    """An answer that arrives: some errors do not pickle, and others do but cannot be built again from it."""
    try:
        raw = pickle.dumps((FAILED, error))
        pickle.loads(raw)
    except Exception:
        told = RuntimeError(f"{type(error).__name__}: {error}")
        told.__notes__ = getattr(error, "__notes__", [])
        raw = pickle.dumps((FAILED, told))
    return raw
