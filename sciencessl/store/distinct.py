"""The distinct values of a column, with the index at which each comes first: in memory, or through files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

CHUNK = 2**20
"""Values that are read from a file at a time."""
_DIGIT_BITS = 8
_RECORD = np.dtype([("value", "<u8"), ("index", "<i8")])


@dataclass(frozen=True)
class Distinct:
    """The m distinct values of a column, and the samples that repeat one. Arrays may lie on disk.

    Attributes:
        values: (m,) uint64, ascending.
        first: (m,) int64, index at which each comes first.
        repeats: (r,) int64, all other indices.
        repeated: (r,) int64, the first index of the value of each of these.
    """

    values: np.ndarray
    first: np.ndarray
    repeats: np.ndarray
    repeated: np.ndarray

    def first_of(self, values: np.ndarray) -> np.ndarray:
        """(k,) int64 first indices of values that the column has."""
        order = np.argsort(values)  # ascending, so that what lies on disk is read from front to back
        found = np.empty(len(values), np.int64)
        found[order] = self.first[np.searchsorted(self.values, values[order])]
        return found


def distinct(column: np.ndarray, left_out: int, in_memory: int, folder: Path) -> Distinct:
    """The distinct values of a column, without one of them.

    Args:
        column: (n,) uint64, which may lie on disk.
        left_out: A value that is passed over.
        in_memory: Values beyond which files are used, 32 bytes a value, half of them until this returns.
        folder: Where the files go. They stay, as long as the result is in use.

    Raises:
        OSError: As the file system says.
    """
    if len(column) <= in_memory:
        return _of_records(_records(column, 0, left_out))
    names = ("values", "first", "repeats", "repeated")
    blocks = (_records(column[at : at + CHUNK], at, left_out) for at in range(0, len(column), CHUNK))
    with ExitStack() as opened:
        files = [opened.enter_context((folder / name).open("wb")) for name in names]
        for piece in deal(blocks, lambda records: records["value"], (0, 64), in_memory, folder):
            for part in _parts(piece, in_memory):
                for file, array in zip(files, part, strict=True):
                    array.tofile(file)
    return Distinct(*(on_disk(folder / name, np.uint64 if name == "values" else np.int64) for name in names))


def _records(column: np.ndarray, start: int, left_out: int) -> np.ndarray:
    kept = np.flatnonzero(column != np.uint64(left_out))
    records = np.empty(len(kept), _RECORD)
    records["value"], records["index"] = column[kept], kept + start
    return records


def _of_records(records: np.ndarray) -> Distinct:
    """Of records in order of their indices."""
    order = np.argsort(records["value"], kind="stable")
    values, index = records["value"][order], records["index"][order]
    new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    first = index[new]
    again = np.flatnonzero(~new)
    return Distinct(values[new], first, index[again], first[np.cumsum(new)[again] - 1])


def _parts(piece: np.ndarray, in_memory: int) -> Iterator[tuple[np.ndarray, ...]]:
    """What goes to the files, of records that fit into memory or else are all of one value."""
    if len(piece) <= in_memory:
        found = _of_records(piece)
        yield found.values, found.first, found.repeats, found.repeated
        return
    first = piece["index"][:1]
    yield piece["value"][:1], first, first[:0], first[:0]
    for at in range(1, len(piece), CHUNK):
        index = piece["index"][at : at + CHUNK]
        yield piece["value"][:0], first[:0], index, np.repeat(first, len(index))


def deal(
    blocks: Iterable[np.ndarray], key: Callable[[np.ndarray], np.ndarray], bits: tuple[int, int], in_memory: int,
    folder: Path,
) -> Iterator[np.ndarray]:
    """Deal what does not fit into memory into pieces by some bits of a key, in ascending order of these bits.

    Args:
        blocks: (b,) arrays of one type.
        key: Array -> (b,) uint64.
        bits: Range of the bits, the most significant one being 0. Entries that agree in all of them stay together.
        in_memory: Entries that a piece may have, unless all of its entries agree in these bits.
        folder: Where the files go; they are gone when the iterator is at its end.

    Yields:
        A piece in memory, its entries in the order in which they came; a larger one on disk.

    Raises:
        OSError: As the file system says.
    """
    start, stop = bits
    width = min(_DIGIT_BITS, stop - start)
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        kind = np.dtype(np.uint64)
        with ExitStack() as opened:
            files: dict[int, IO[bytes]] = {}
            for block in blocks:
                kind = block.dtype
                digits = (key(block) << np.uint64(start) >> np.uint64(64 - width)).astype(np.uint8)
                order = np.argsort(digits, kind="stable")
                numbers, starts = np.unique(digits[order], return_index=True)
                for number, part in zip(numbers.tolist(), np.split(block[order], starts[1:]), strict=True):
                    if number not in files:
                        files[number] = opened.enter_context((Path(own) / str(number)).open("wb"))
                    part.tofile(files[number])
        for number in sorted(files):
            path = Path(own) / str(number)
            piece = on_disk(path, kind)
            if len(piece) <= in_memory:
                yield np.array(piece)
            elif start + width < stop:
                yield from deal(chunks(piece), key, (start + width, stop), in_memory, Path(own))
            else:
                yield piece
            del piece
            path.unlink()


def chunks(column: np.ndarray) -> Iterator[np.ndarray]:
    """A column from front to back, `CHUNK` values at a time."""
    return (column[at : at + CHUNK] for at in range(0, len(column), CHUNK))


def on_disk(path: Path, kind: np.typing.DTypeLike) -> np.ndarray:
    """The values of a file, read when they are asked for."""
    return np.memmap(path, kind, mode="r") if path.stat().st_size else np.zeros(0, kind)
