"""One writer at a time: a lock beside the store, which dies with the process that holds it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sciencessl.errors import StoreError
from sciencessl.store.files import clear_os_errors
from sciencessl.store.remote import NAMELESS, is_remote

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What a file system without locks answers, as some of clusters do: two writers are then kept apart by nothing."""

if sys.platform != "win32":  # which has no such locks: two writers are then kept apart by nothing
    import fcntl


@contextmanager
def only_writer(out: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock `.NAME.lock` beside a store while it is written. A kill releases it, whatever file is left.

    Args:
        out: The store.
        shared: Let other shared writers in, who write other rows. The file then stays for the next writer alone.

    Raises:
        StoreError: When another process is writing the store, nothing can be written beside it, or it has no name.
    """
    if is_remote(out):  # an object store has no locks either
        yield
        return
    if out.name in NAMELESS:
        raise StoreError(f"{str(out)!r} is no name for a store; give it one, such as NAME.zarr.")
    # Beside the store itself, so that all links to it are one store.
    real = out.resolve()
    path = real.with_name(f".{real.name}.lock")
    with clear_os_errors(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = _locked(path, out, shared)
    try:
        yield
    finally:
        if not shared:  # others may hold it
            path.unlink(missing_ok=True)
        stream.close()


def _locked(path: Path, out: Path, shared: bool) -> TextIO:
    while True:
        stream = path.open("a+", encoding="utf-8")  # NFS wants to read where a lock is shared
        if sys.platform == "win32":
            return stream
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise StoreError(
                f"{out} is being written by another process. Wait for it, or stop it; what it has committed is kept."
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        if _is_there(stream, path):
            return stream
        stream.close()  # whoever held it before has removed it: a lock on a removed file keeps nobody out


def _is_there(stream: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
