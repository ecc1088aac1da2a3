"""One writer at a time: a lock beside the store, which dies with the process that holds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sciencessl.errors import StoreError
from sciencessl.store.files import clear_os_errors

if sys.platform != "win32":  # which has no such locks: two writers are then kept apart by nothing
    import fcntl


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold the lock `.NAME.lock` beside a store while it is written. A kill releases it, whatever file is left.

    Raises:
        StoreError: When another process is writing the store, or nothing can be written beside it.
    """
    path = out.with_name(f".{out.name}.lock")
    with clear_os_errors(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = _locked(path, out)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        stream.close()


def _locked(path: Path, out: Path) -> TextIO:
    while True:
        stream = path.open("w", encoding="utf-8")
        if sys.platform == "win32":
            return stream
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise StoreError(
                f"{out} is being written by another process. Wait for it, or stop it; what it has committed is kept."
            ) from None
        if _is_there(stream, path):
            return stream
        stream.close()  # whoever held it before has removed it: a lock on a removed file keeps nobody out


def _is_there(stream: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
