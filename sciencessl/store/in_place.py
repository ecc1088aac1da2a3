"""Payloads that stay where they lie: a store then holds references to bytes in tars or files, and reads them there.

A reference takes the place of the encoded image in a packed row, so rows, digests, order and tables are as in any
store. It names a file relative to the root of what was prepared; where that root is now stands in `in_place.json` of
the store, which is no part of its digests: who moves the files writes the new place there.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from sciencessl.errors import OutOfReachError, StoreError
from sciencessl.store.files import write_atomic
from sciencessl.store.remote import is_remote, reached, store_path

ROOT_FILE = "in_place.json"
SETTING = "index_only"
"""The setting of a store whose rows may hold references."""
GAP_BYTES = 256 * 2**10
"""Payloads that lie no further apart in one file are read at once."""
_MAGIC = b"\0zpack-ref\1"
"""No encoded image begins so."""
_NUMBERS = struct.Struct("<QQI")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where the bytes of a payload lie.

    Attributes:
        file: Path relative to the root, with `/`.
        offset: Of the first byte in the file.
        size: Bytes.
        checksum: Their CRC32C.
    """

    file: str
    offset: int
    size: int
    checksum: int

    @classmethod
    def to(cls, raw: bytes, file: str, offset: int) -> Reference:
        """A reference to bytes that were just read from there."""
        return cls(file, offset, len(raw), google_crc32c.value(raw))

    def pack(self) -> bytes:
        """What a row holds instead of the bytes."""
        return _MAGIC + _NUMBERS.pack(self.offset, self.size, self.checksum) + self.file.encode()

    @classmethod
    def unpack(cls, payload: bytes) -> Reference | None:
        """The reference that a payload is; None where it is an image itself."""
        if not payload.startswith(_MAGIC):
            return None
        at = len(_MAGIC) + _NUMBERS.size
        return cls(payload[at:].decode(), *_NUMBERS.unpack(payload[len(_MAGIC) : at]))


def write_root(store: Path, root: str) -> None:
    """Say where the files lie that a store refers to.

    Args:
        store: Its folder.
        root: Absolute path of a folder, or URL.

    Raises:
        OSError: As the file system says.
    """
    raw = json.dumps({"root": root}, indent=1).encode()
    if not (store / ROOT_FILE).is_file() or (store / ROOT_FILE).read_bytes() != raw:
        write_atomic(store / ROOT_FILE, raw)


def copy_root(store: Path, out: Path) -> None:
    """The same root for a store made of another one, where that has one."""
    if (store / ROOT_FILE).is_file():
        write_atomic(out / ROOT_FILE, (store / ROOT_FILE).read_bytes())


class InPlace:
    """Reads what references name.

    Args:
        store: The store's folder.

    Raises:
        StoreError: When it does not say where its files are.
    """

    def __init__(self, store: Path) -> None:
        self._where = store / ROOT_FILE
        try:
            found: Any = json.loads(self._where.read_bytes())["root"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self._where} does not say where the files are that the store refers to ({error}); "
                             'it holds {"root": "FOLDER"}, FOLDER being what was prepared.') from error
        self._root = str(found)

    def read(self, payloads: Sequence[Any]) -> list[Any]:
        """Payloads with references replaced by the bytes that they name. Neighbours in a file are read at once.

        Raises:
            StoreError: When a file is gone or holds other bytes.
            OutOfReachError: When an object store does not answer.
        """
        found = list(payloads)
        wanted = [(ref.file, ref.offset, place, ref) for place, payload in enumerate(found)
                  if isinstance(payload, bytes) and (ref := Reference.unpack(payload)) is not None]
        wanted.sort(key=lambda entry: entry[:3])
        run: list[tuple[int, Reference]] = []
        for _, _, place, ref in wanted:
            last = run[-1][1] if run else None
            if last is not None and (last.file != ref.file or ref.offset > last.offset + last.size + GAP_BYTES):
                self._fill(found, run)
                run = []
            run.append((place, ref))
        if run:
            self._fill(found, run)
        return found

    def _fill(self, found: list[Any], run: Sequence[tuple[int, Reference]]) -> None:
        first = run[0][1]
        stop = max(ref.offset + ref.size for _, ref in run)
        raw = self._bytes(first.file, first.offset, stop - first.offset)
        for place, ref in run:
            at = ref.offset - first.offset
            payload = raw[at : at + ref.size]
            if len(payload) != ref.size or google_crc32c.value(payload) != ref.checksum:
                raise StoreError(f"{self._named(ref.file)} does not hold at byte {ref.offset:,} what it held when "
                                 f"{self._where.parent} was prepared: the file was changed. Prepare a store anew.")
            found[place] = payload

    def _named(self, file: str) -> str:
        return f"{self._root}/{file}" if is_remote(self._root) else str(Path(self._root) / file)

    def _bytes(self, file: str, offset: int, size: int) -> bytes:
        name = self._named(file)
        try:
            if is_remote(name):
                return self._remote_bytes(name, offset, size)
            with open(name, "rb", buffering=0) as stream:
                return os.pread(stream.fileno(), size, offset)
        except OSError as error:
            if isinstance(error, OutOfReachError):
                raise
            raise StoreError(f"{name} cannot be read ({error.strerror or error}), and {self._where.parent} refers to "
                             f"it. If the files were moved, write their folder into {self._where}.") from error

    def _remote_bytes(self, name: str, offset: int, size: int) -> bytes:
        path = store_path(name)
        with reached(path):
            system: Any = path.fs  # type: ignore[attr-defined]
            return bytes(system.cat_file(path.path, start=offset, end=offset + size))  # type: ignore[attr-defined]
