"""Pairs of 64-bit hashes that differ in few bits, all of them, among millions to a billion.

Two words that differ in at most r bits agree in one of r + 1 bands of their bits (the pigeonhole principle), so only
words that share a band are compared. Many share one: a billion hashes fall into 65,536 values of 16 bits. So those that
share one are banded again by the bits in which they still differ, and so on, until at most `GROUP` words are left;
these are compared with each other. A pair is taken from the first band in which it agrees, at each depth, and so found
once.

Equal hashes are one word: a million equal images cost no more than their links. What does not fit into memory is dealt
to files by its leading bits, a digit at a time.

Time for hashes drawn at random, on one core: 1 to 3 microseconds a hash for radius 3, the most where a band is shared
by `GROUP` (60 million hashes); twice as long for each bit more of the radius. Memory: 60 bytes a hash up to
`IN_MEMORY`, and no more beyond. `benchmarks/dedup.py` measures both.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.store.distinct import chunks, deal, distinct
from sciencessl.views.perceptual import FLAT

MOST_RADIUS = 7
"""Largest radius that is searched: 64 bits in eight bands of eight."""
IN_MEMORY = 2**24
"""Hashes that are searched in memory; more go through files."""
GROUP = 1024
"""Words of one band that are compared with each other rather than divided again."""
_CLASSES = (1, 4, 16, 64, 256, GROUP)
"""Sizes of groups that are compared together, so that few words are compared beyond their group."""
_BLOCK = 2**15
"""Words that are compared at a time, so that they stay in the cache."""

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
_Words = tuple[np.ndarray, np.ndarray]


def near_pairs(
    hashes: np.ndarray, radius: int, *, in_memory: int = IN_MEMORY, scratch: str | Path | None = None
) -> Iterator[Pairs]:
    """All pairs of hashes that differ in at most `radius` bits, each once.

    Equal hashes stand for each other: of each value the first index takes part in pairs of different values, and the
    others are linked to it alone. So two hashes are within the radius exactly when their first indices are equal or a
    listed pair, and connected components come out right. `FLAT` is near nothing.

    Args:
        hashes: (n,) uint64, which may lie on disk.
        radius: 0 to `MOST_RADIUS`.
        in_memory: Hashes beyond which files are used.
        scratch: Folder of these files, 40 bytes a hash; the system's by default.

    Yields:
        (i, j, distance): (p,) int64, int64 and uint8 with i < j; the links of equal hashes, at distance 0, come first.

    Raises:
        ConfigError: For another radius.
        DataError: When hashes are not (n,) uint64.
        OSError: When the scratch folder cannot be written.
    """
    _check(radius, hashes)
    with tempfile.TemporaryDirectory(prefix="hamming-", dir=scratch, ignore_cleanup_errors=True) as folder:
        known = distinct(hashes, FLAT, in_memory, Path(folder))
        for one, other in zip(chunks(known.repeated), chunks(known.repeats), strict=True):
            yield np.array(one), np.array(other), np.zeros(len(one), np.uint8)
        for x, y in _Search(radius, in_memory, Path(folder)).pairs(known.values):
            one, other = known.first_of(x), known.first_of(y)
            yield np.minimum(one, other), np.maximum(one, other), np.bitwise_count(x ^ y)


def near_between(
    asked: np.ndarray, pool: np.ndarray, radius: int, *, in_memory: int = IN_MEMORY, scratch: str | Path | None = None
) -> Iterator[Pairs]:
    """All pairs of one hash each out of two sets that differ in at most `radius` bits.

    Every hash of `asked` is listed with each different value of `pool` that is near it, of which the first index stands
    for all: ten thousand test images are looked up in a billion in the time that it takes to read these. `FLAT` is near
    nothing.

    Args:
        asked: (n,) uint64, which may lie on disk.
        pool: (m,) uint64, which may lie on disk.
        radius: 0 to `MOST_RADIUS`.
        in_memory: Hashes of each set that are searched at a time. More in `pool` go through files; more in both are
            searched part by part, which takes time in proportion to both.
        scratch: Folder of these files, 32 bytes a hash; the system's by default.

    Yields:
        (i, j, distance): (p,) int64 positions in `asked`, int64 positions in `pool`, and uint8.

    Raises:
        ConfigError: For another radius.
        DataError: When hashes are not (n,) uint64.
        OSError: When the scratch folder cannot be written.
    """
    _check(radius, asked, pool)
    with tempfile.TemporaryDirectory(prefix="hamming-", dir=scratch, ignore_cleanup_errors=True) as folder:
        search = _Search(radius, in_memory, Path(folder))
        known = distinct(pool, FLAT, in_memory, Path(folder))
        for start in range(0, len(asked), in_memory):
            order = np.argsort(asked[start : start + in_memory], kind="stable")
            values = asked[start : start + in_memory][order]
            order, values = order[values != FLAT] + start, values[values != FLAT]
            for at in range(0, len(known.values), in_memory):
                for x, y in search.between(np.unique(values), np.array(known.values[at : at + in_memory])):
                    which, place = _every(values, x)
                    yield order[place], known.first_of(y[which]), np.bitwise_count(x ^ y)[which]


def _check(radius: int, *sets: np.ndarray) -> None:
    if not 0 <= radius <= MOST_RADIUS:
        raise ConfigError(f"radius {radius}; pairs of hashes are searched within 0 to {MOST_RADIUS} of 64 bits: "
                          "beyond, different images are as near as copies.")
    for hashes in sets:
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise DataError(f"hashes of shape {hashes.shape} and type {hashes.dtype}, expected (n,) uint64; of an "
                            "int64 column, give column.view(np.uint64).")


def _every(values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted value occurs among ascending values: positions in `wanted`, and in `values`."""
    first, stop = (np.searchsorted(values, wanted, side=side) for side in ("left", "right"))
    counts = stop - first
    which = np.repeat(np.arange(len(wanted)), counts)
    return which, first[which] + np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


@dataclass(frozen=True)
class _Search:
    """Pairs of words within a radius. At most a few arrays of `in_memory` words are held; `folder` takes files of more.

    Words are looked at through the bits in which they are not all equal, moved to the front (`_Frame`): whatever they
    share, as members of one bucket or by nature, is not searched again.
    """

    radius: int
    in_memory: int
    folder: Path

    def pairs(self, words: np.ndarray) -> Iterator[_Words]:
        """Pairs of different words; each once, either way round."""
        if not self.radius:
            return
        if len(words) <= GROUP:
            yield from self._compared(np.array(words), len(words))
            return
        frame = _Frame.of(words)
        for band in frame.bands(self.radius + 1):
            for piece in self._pieces(words, frame, band):
                inner = self._grouped(piece, band.width) if len(piece) <= self.in_memory else self.pairs(piece)
                yield from frame.first_agreeing(inner, band, self.radius + 1)

    def between(self, asked: np.ndarray, pool: np.ndarray) -> Iterator[_Words]:
        """Pairs of a word of `asked` and one of `pool`; both are without repetitions, ascending and fit into memory."""
        both = np.intersect1d(asked, pool, assume_unique=True)
        yield both, both
        for found in self._across(asked, pool) if len(asked) and len(pool) and self.radius else ():
            for one, other in (found, found[::-1]):
                wanted = _is_in(one, asked) & _is_in(other, pool)
                yield one[wanted], other[wanted]

    def _across(self, asked: np.ndarray, pool: np.ndarray) -> Iterator[_Words]:
        """Pairs of different words of either set or both."""
        words = _together(asked, pool)
        if len(words) <= GROUP:
            yield from self.pairs(words)
            return
        frame = _Frame.of(words)
        for band in frame.bands(self.radius + 1):
            one, other = (frame.turned(side, band) for side in (asked, pool))
            # Where few are asked for, most of the pool shares no band with any of them.
            near = _together(_sharing(one, other, band.width), _sharing(other, one, band.width))
            yield from frame.first_agreeing(self._grouped(near, band.width), band, self.radius + 1)

    def _pieces(self, words: np.ndarray, frame: _Frame, band: _Band) -> Iterator[np.ndarray]:
        """Words with a band at the front, ascending; those that agree in it are in one piece.

        A piece that does not fit into memory agrees in the band throughout, and is not ascending.
        """
        if len(words) <= self.in_memory:
            turned = frame.turned(words, band)
            turned.sort()
            yield turned
            return
        blocks = (frame.turned(block, band) for block in chunks(words))
        for piece in deal(blocks, lambda block: block, (0, band.width), self.in_memory, self.folder):
            if len(piece) <= self.in_memory:
                piece.sort()
            yield piece

    def _grouped(self, words: np.ndarray, width: int) -> Iterator[_Words]:
        """Pairs among ascending words that agree in their first bits, and some that do not."""
        tops = words >> np.uint64(64 - width)
        starts = np.append(0, np.flatnonzero(tops[1:] != tops[:-1]) + 1)
        sizes = np.diff(np.append(starts, len(words))).astype(np.int32)
        each = np.repeat(sizes, sizes)
        for least, most in pairwise(_CLASSES):
            if (some := (sizes > least) & (sizes <= most)).any():
                yield from self._compared(words[(each > least) & (each <= most)], int(sizes[some].max()))
        crowded = sizes > GROUP
        for start, size in zip(starts[crowded].tolist(), sizes[crowded].tolist(), strict=True):
            yield from self.pairs(words[start : start + size])

    def _compared(self, words: np.ndarray, most: int) -> Iterator[_Words]:
        """Pairs of words that are less than `most` places apart."""
        for start in range(0, len(words), _BLOCK):
            here = words[start : start + _BLOCK]
            found = []
            for apart in range(1, most):
                there = words[start + apart : start + apart + _BLOCK]
                near = np.flatnonzero(np.bitwise_count(here[: len(there)] ^ there) <= self.radius)
                if len(near):
                    found.append((here[near], there[near]))
            if found:
                yield np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])


@dataclass(frozen=True)
class _Band:
    """Bits `start` to `start + width` of a frame, counted from the front; `number` of its bands."""

    number: int
    start: int
    width: int


@dataclass(frozen=True)
class _Frame:
    """The bits in which some words differ, moved to the front in their order; zeros follow.

    Attributes:
        base: One of the words.
        runs: Runs of such bits: how far the lowest is from the end in the words, how many, and how far in the frame.
    """

    base: int
    runs: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, words: np.ndarray) -> _Frame:
        """The frame of one or more words."""
        base = words[0]
        differing = 0
        for block in chunks(words):
            differing |= int(np.bitwise_or.reduce(block ^ base))
        runs, left = [], 64
        for bits in re.finditer("1+", f"{differing:064b}"):
            left -= len(bits[0])
            runs.append((64 - bits.end(), len(bits[0]), left))
        return cls(int(base), tuple(runs))

    @property
    def width(self) -> int:
        """Number of bits."""
        return sum(length for _, length, _ in self.runs)

    def bands(self, n: int) -> list[_Band]:
        """The bits in n bands of about equal width."""
        edges = [self.width * k // n for k in range(n + 1)]
        return [_Band(k, a, b - a) for k, (a, b) in enumerate(pairwise(edges))]

    def turned(self, words: np.ndarray, band: _Band) -> np.ndarray:
        """Words in the frame, turned until a band is at the front; a copy."""
        framed = _moved(words, self.runs)
        return _rotated(framed, band.start, self.width)

    def first_agreeing(self, pairs: Iterator[_Words], band: _Band, n: int) -> Iterator[_Words]:
        """Pairs turned back that agree in a band, and in none of the n bands before it."""
        masks = [np.uint64((2**64 >> each.start) - (2**64 >> each.start + each.width)) for each in self.bands(n)]
        back = [(to, length, low) for low, length, to in self.runs]
        shared = self.base & ~sum((2**length - 1) << low for low, length, _ in self.runs)
        for turned in pairs:
            x, y = (_rotated(word, self.width - band.start, self.width) for word in turned)
            apart = x ^ y
            wanted = apart & masks[band.number] == 0
            for mask in masks[: band.number]:
                wanted &= apart & mask != 0
            if wanted.any():
                yield _moved(x[wanted], back) | np.uint64(shared), _moved(y[wanted], back) | np.uint64(shared)


def _moved(words: np.ndarray, runs: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Runs of bits of words, from one distance from the end to another; all other bits are 0. A copy."""
    moved = np.zeros_like(words)
    for low, length, to in runs:
        moved |= ((words >> np.uint64(low)) & np.uint64(2**length - 1)) << np.uint64(to)
    return moved


def _rotated(words: np.ndarray, by: int, width: int) -> np.ndarray:
    """Words whose first `width` bits, after which zeros follow, are turned to the left."""
    if by in (0, width):
        return words
    return (words << np.uint64(by)) | (words >> np.uint64(width - by)) & np.uint64(2**64 - (2**64 >> width))


def _sharing(words: np.ndarray, others: np.ndarray, width: int) -> np.ndarray:
    """Those words whose first bits occur among the others'; of a wide band only 16 bits are looked at."""
    shift = np.uint64(64 - min(width, 16))
    occurs = np.zeros(2**16, bool)
    occurs[others >> shift] = True
    return np.asarray(words[occurs[words >> shift]])


def _together(words: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The words of both, ascending, each once."""
    both = np.concatenate([words, others])
    both.sort()  # `np.unique` hashes, which takes ten times as long
    return both[np.append(True, both[1:] != both[:-1])] if len(both) else both


def _is_in(words: np.ndarray, known: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(known, words), len(known) - 1)
    return np.asarray(known[place] == words)
