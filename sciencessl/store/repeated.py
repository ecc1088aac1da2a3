"""Which keys occur more than once among any number of them: in bounded memory, through files that hold a part each."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

BUCKET = 2**21
"""Keys that are compared at a time: 16 MiB of heads."""
MOST_FILES = 256
"""Files that are open at once: many systems allow 1024 a process. A billion samples are 4 million a file."""
MOST_REPEATED = 10_000
"""Repeated keys after which the search stops: whoever has so many needs no longer list."""


def heads(keys: np.ndarray) -> np.ndarray:
    """(n,) uint64, the first 8 bytes of (n, 16) uint8 keys: two of a billion agree by chance once in 37 times."""
    return np.ascontiguousarray(keys[:, :8]).view(">u8").ravel().astype(np.uint64)


class RepeatedKeys:
    """Takes keys row by row and then says which occur more than once. A context: its files are gone at the end.

    Args:
        folder: Where the files go, 8 bytes a sample; emptied first.
        samples: How many keys will come, about.
    """

    def __init__(self, folder: Path, samples: int) -> None:
        self._folder = folder
        self._bits = min((samples // BUCKET).bit_length(), MOST_FILES.bit_length() - 1)
        self._files: dict[int, IO[bytes]] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, keys: np.ndarray) -> None:
        """Take (n, 16) uint8 keys.

        Raises:
            OSError: As the file system says.
        """
        values = np.sort(heads(keys))
        buckets = values >> np.uint64(64 - self._bits) if self._bits else np.zeros_like(values)
        numbers, starts = np.unique(buckets, return_index=True)
        for number, part in zip(numbers.tolist(), np.split(values, starts[1:]), strict=False):
            if number not in self._files:
                self._files[number] = (self._folder / f"{number:03d}").open("w+b", buffering=2**16)
            self._files[number].write(part.tobytes())

    def found(self) -> np.ndarray:
        """(D,) uint64 heads that occur more than once; the search stops at `MOST_REPEATED` of them."""
        found = np.zeros(0, np.uint64)
        for _, file in sorted(self._files.items()):
            file.seek(0)
            found = np.append(found, _repeated(file))
            if len(found) >= MOST_REPEATED:
                break
        return found[:MOST_REPEATED]


def _repeated(file: IO[bytes]) -> np.ndarray:
    # Block by block, because a file is long where one key comes again and again.
    seen = again = np.zeros(0, np.uint64)
    while raw := file.read(8 * BUCKET):
        values = np.sort(np.concatenate([seen, np.frombuffer(raw, np.uint64)]))
        equal = values[1:] == values[:-1]
        again = np.unique(np.append(again, values[1:][equal]))
        seen = values[np.append(True, ~equal)]
    return again
