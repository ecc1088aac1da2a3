"""The process that runs tasks for another: it answers calls one after the other, and ends with who started it."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

from sciencessl.errors import SciencesslError

TELL_SECONDS = 0.5
LENGTH_BYTES = 8
DONE, FAILED, TOLD = "done", "failed", "told"

_Call = tuple[Callable[..., Any], tuple[Any, ...]]


def send(stream: BinaryIO, value: object) -> None:
    """Write one value.

    Raises:
        OSError: When nobody reads any more.
        Exception: Whatever pickling raises; then nothing was written.
    """
    raw = pickle.dumps(value)
    stream.write(len(raw).to_bytes(LENGTH_BYTES, "little") + raw)
    stream.flush()


def receive(stream: BinaryIO) -> bytes:
    """The pickle of the next value.

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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent to the whole group; who started us decides what it means
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    use_one_core()
    send(answers, DONE)
    while True:
        _answer(answers, calls.get())


def _listen(calls: queue.SimpleQueue[bytes]) -> None:
    """Never waits for the work in hand: a process whose starter was killed must not go on writing."""
    try:
        while True:
            calls.put(receive(sys.stdin.buffer))
    except EOFError:
        os._exit(1)


def _answer(answers: BinaryIO, raw: bytes) -> None:
    told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            send(answers, (TOLD, done))

    try:
        function, arguments = pickle.loads(raw)
        answer = (DONE, function(*arguments, tell=tell))
    except Exception as error:
        if not isinstance(error, SciencesslError):  # a bug: ours say all that there is to say
            error.add_note("in a worker process:\n" + traceback.format_exc())
        answer = (FAILED, error)
    try:
        send(answers, answer)
    except OSError:
        os._exit(1)  # nobody is there to be told
    except Exception as error:  # an error that does not pickle
        send(answers, (FAILED, RuntimeError(f"{type(error).__name__}: {error}; answer was {answer[1]!r}")))
