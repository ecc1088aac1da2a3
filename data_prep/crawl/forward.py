"""Bytes of a place at growing positions, through a bounded window: a file, an object behind a URL, a compressed stream.

Reading goes forward because images lie one behind the other; a disk, a network and a decompressor all like that best.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from sciencessl.data_prep.crawl.record import Place
from sciencessl.data_prep.decode import Refused
from sciencessl.store.remote import client, is_remote, object_path, reached

WINDOW = 2**20
"""Bytes that are asked of a file at once; one image that is larger is read as a whole."""
BLOCK, AHEAD = 4 * 2**20, 4
"""Bytes of one request to an object store, and requests that are under way: 16 MiB are read ahead at most."""
TOLD = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "mtime", "LastModified", "last_modified", "updated",
        "created")
"""What object stores tell of an object's version, most telling first."""
PACKED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw), b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile,
}
"""How compressed files begin -> what opens them."""
CHANGED = "the file has changed since it was listed; run the same command again to list it anew"


class Fetch(Protocol):
    """Reads bytes at positions that never go back; fewer where the file ends."""

    def __call__(self, start: int, size: int) -> bytes:
        """Bytes from `start` on."""


class Forward:
    """Bytes of one place.

    Attributes:
        size: Of the file; None where it is a stream of which only reading tells.
        fault: Why reading ended early; None where it did not.
    """

    def __init__(self, fetch: Fetch, size: int | None, window: int = WINDOW) -> None:
        """Args:
            fetch: Reads from the file. What it raises as `Refused` becomes the fault, and the file's end.
            size: Bytes of the file, where known: then reading may go back.
            window: Bytes to ask for at once.
        """
        self._fetch, self.size, self._span = fetch, size, window
        self._base, self._window = 0, b""
        self.fault: Refused | None = None

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on; fewer where the file ends, none before its beginning or where a stream would
        have to go back."""
        first = start - self._base
        have = len(self._window)
        if first >= 0 and first + size <= have:
            return self._window[first : first + size]
        if start < 0 or (first < 0 and self.size is None):
            return b""
        # What is left of the window is not asked for again: a stream could not go back to it.
        kept = self._window[first:] if 0 <= first < have else b""
        self._window = kept + self._more(start + len(kept), max(size - len(kept), self._span))
        self._base = start
        return self._window[:size]

    def _more(self, start: int, size: int) -> bytes:
        try:
            return self._fetch(start, size)
        except Refused as refused:
            self.fault = refused
            return b""

    def reaches(self, position: int) -> bool:
        """Whether the file has all bytes before a position."""
        if self.size is not None:
            return position <= self.size
        return position == 0 or len(self.read(position - 1, 1)) == 1


@contextmanager
def opened(place: Place, start: int = 0, stop: int | None = None, window: int = WINDOW) -> Iterator[Forward]:
    """The bytes of a place as they were when it was listed.

    Args:
        place: Where.
        start: Where reading will begin, so that an object store is asked for no more.
        stop: Where it will end.
        window: Bytes to ask for at once on a disk.

    Raises:
        Refused: When the file is gone, has changed, or cannot be opened.
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    if is_remote(place.url):
        ask = _ranges(place)
        _require_bytes(place)
        pool = ThreadPoolExecutor(AHEAD)
        try:
            yield Forward(_Blocks(pool, ask, start, place.size if stop is None else stop), place.size)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return
    file = open_file(place.url, place.size, place.stamp)
    try:
        _require_bytes(place)

        def fetch_local(start: int, size: int) -> bytes:
            try:
                return os.pread(file, size, start)
            except OSError as error:
                raise refusal_of(error) from error

        yield Forward(fetch_local, place.size, window)
    finally:
        os.close(file)


def _require_bytes(place: Place) -> None:
    if not place.size:
        raise Refused("truncated", "the file is empty")


def open_file(path: str | Path, size: int, stamp: int) -> int:
    """The descriptor of a local file, which is still as it was listed.

    Raises:
        Refused: With reason missing-file or unreadable.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("unreadable", "it is no regular file")  # opening a pipe might wait for ever
        if (status.st_size, status.st_mtime_ns) != (size, stamp):
            raise Refused("unreadable", CHANGED)
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise refusal_of(error) from error


def refusal_of(error: OSError) -> Refused:
    """What a disk or an object store said, without the path."""
    if isinstance(error, FileNotFoundError):
        return Refused("missing-file", "it is no longer where it was listed")
    return Refused("unreadable", error.strerror or type(error).__name__)


def stamp_of(told: dict[str, Any]) -> int:
    """A number that changes when an object changes, of what its store tells; 0 where it tells nothing."""
    version = next((told[name] for name in TOLD if told.get(name)), None)
    if version is None:
        return 0
    # Some stores tell times as dates for one object and as seconds for many.
    version = version.timestamp() if hasattr(version, "timestamp") else version
    raw = f"{version} {told.get('size')}".encode()
    return int.from_bytes(blake2b(raw, digest_size=8).digest()) >> 1


@contextmanager
def seekable(place: Place) -> Iterator[BinaryIO]:
    """A place as a file in which libraries move about.

    Raises:
        Refused, OutOfReachError, MissingExtraError: As in `opened`.
    """
    if is_remote(place.url):
        ask = _ranges(place)
        _require_bytes(place)
        yield cast(BinaryIO, _AsFile(Forward(lambda start, size: ask(start, start + size), place.size)))
    else:
        with open(open_file(place.url, place.size, place.stamp), "rb") as stream:
            _require_bytes(place)
            yield stream


def _ranges(place: Place) -> Callable[[int, int], bytes]:
    """A function that reads from one byte of an object to before another, and no further than it goes."""
    path = object_path(place.url)
    with _remote(path):
        system, name = client(path)
        now = system.info(name)
    if (now.get("size"), stamp_of(now)) != (place.size, place.stamp):
        raise Refused("unreadable", CHANGED)

    def ask(first: int, last: int) -> bytes:
        if first >= place.size:
            return b""
        with _remote(path):
            return bytes(system.cat_file(name, start=first, end=min(last, place.size)))

    return ask


@contextmanager
def _remote(path: Path) -> Iterator[None]:
    try:
        with reached(path):
            yield
    except FileNotFoundError as error:
        raise refusal_of(error) from error


class _Blocks:
    """Blocks of an object, asked for ahead of who reads them: at most `AHEAD` are under way or wait."""

    def __init__(self, pool: ThreadPoolExecutor, ask: Callable[[int, int], bytes], start: int, stop: int) -> None:
        self._pool, self._ask, self._stop = pool, ask, stop
        self._next = self._at = start
        self._asked: deque[Future[bytes]] = deque()

    def __call__(self, start: int, size: int) -> bytes:
        got = bytearray()
        while len(got) < size and self._at <= start + len(got) < self._stop:
            block = self._block()
            got += block[start + len(got) - self._at :]
            self._at += BLOCK
        # What lies before the blocks, or after the last: on its own.
        return bytes(got) or self._ask(start, start + size)

    def _block(self) -> bytes:
        while len(self._asked) < AHEAD and self._next < self._stop:
            self._asked.append(self._pool.submit(self._ask, self._next, min(self._next + BLOCK, self._stop)))
            self._next += BLOCK
        return self._asked.popleft().result()


class _AsFile(io.RawIOBase):
    def __init__(self, source: Forward) -> None:
        self._source, self._at = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._source.size is not None

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size or 0}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        raw = self._source.read(self._at, len(buffer))
        if self._source.fault is not None:
            raise self._source.fault
        buffer[: len(raw)] = raw
        self._at += len(raw)
        return len(raw)


def decompressed(source: Forward) -> Forward:
    """What a file compressed by gzip, bzip2 or xz holds; it says by its first bytes which.

    Raises:
        Refused: With reason corrupt, when it says none of them.
    """
    begin = source.read(0, 6)
    opener = next((opener for magic, opener in PACKED.items() if begin.startswith(magic)), None)
    if opener is None:
        raise Refused("corrupt", "it is compressed neither by gzip nor by bzip2 or xz, as its name says")
    return Forward(_Stream(opener(io.BufferedReader(_AsFile(source), 2**16))), None)


class _Stream:
    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream, self._at = stream, 0

    def __call__(self, start: int, size: int) -> bytes:
        while self._at < start:
            if not self._some(min(WINDOW, start - self._at)):
                return b""
        got = bytearray()
        try:
            while len(got) < size and (some := self._some(size - len(got))):
                got += some
        except Refused:
            # What came before the damage counts; who asks for more is told.
            if not got:
                raise
        return bytes(got)

    def _some(self, size: int) -> bytes:
        try:
            # Not read(): what it has when it meets damage is lost.
            some = self._stream.read1(size)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            reason, words = ("truncated", "ends early") if isinstance(error, EOFError) else ("corrupt", "is damaged")
            raise Refused(reason, f"what is compressed {words}") from error
        self._at += len(some)
        return some
