"""The order of training as a pure function of (seed, epoch, step): nothing is listed, stored or dropped.

Units of consecutive samples are dealt through a keyed permutation to streams, and each stream permutes its samples
again inside mixing blocks of a few units. The scheme is ours; it follows the row-dealing design of streaming loaders
and replaces every permutation array by a Feistel network, so memory does not grow with the number of samples.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sciencessl.errors import ConfigError

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

LARGEST = 2**40
"""Largest number of samples that an order can be made for."""

UNITS = 16
"""Fewest units of a stream, four mixing blocks of four: below that, mixing blocks would be most of a stream."""

LONGEST_RUN = 8192
"""Longest run where nothing is known of the store: the most samples that a row holds."""

ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 2**64 - 1


def _digest(parts: tuple[int | str, ...], size: int) -> bytes:
    # Quotes and escapes of repr keep ("ab", "c") from ("a", "bc") and 1 from "1".
    plain = tuple(part if isinstance(part, str) else int(part) for part in parts)
    return hashlib.blake2b(repr(plain).encode(), digest_size=size).digest()


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from any number of integers and words: equal parts give equal keys on every machine.

    Source: blake2b over the parts as Python writes a tuple of them (ours).
    """
    return int.from_bytes(_digest(parts, 8), "little")


def augmentation_rng(seed: int, epoch: int, index_or_key: int, view: int) -> np.random.Generator:
    """The generator of one view of one sample in one epoch: Philox keyed by blake2b of the four.

    Args:
        seed: Of the run.
        epoch: How often this sample has been dealt before.
        index_or_key: Position of the sample or its 128-bit content key; any integer.
        view: 0 for the first view.

    Returns:
        A generator whose stream depends on nothing but these four numbers.
    """
    key = np.frombuffer(_digest((seed, epoch, index_or_key, view), 16), dtype="<u8")
    return np.random.Generator(np.random.Philox(_Given(key)))  # type: ignore[arg-type]  # which NumPy documents


class _Given(np.random.bit_generator.ISeedSequence):
    """A key as NumPy asks a seed for it: `Philox(key=...)` would draw a seed from the system first, for nothing."""

    def __init__(self, key: UInt64) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> UInt64:
        return self._key


def _mix(x: UInt64) -> UInt64:
    # The finaliser of splitmix64: every input bit reaches every output bit.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def subkey(base: int | UInt64, word: Any) -> UInt64:
    """A key for each word, from a base key or one base each: (K,) uint64. Fast where `derive_key` is thorough."""
    # Arrays, never scalars: NumPy warns of the overflow of a scalar, and the overflow is what we want.
    offset = (np.atleast_1d(np.asarray(word)).astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return _mix(np.uint64(base) + offset if isinstance(base, int) else base + offset)


def _half_bits(n: Int64) -> UInt64:
    # frexp gives the exponent e with n - 1 < 2**e, exact below 2**53; two halves of h bits hold 2h >= e bits.
    bits = np.frexp((n - 1).astype(np.float64))[1]
    return ((bits + 1) // 2).astype(np.uint64)


def _rounds(x: UInt64, half: UInt64, key: UInt64) -> UInt64:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for i in range(ROUNDS):
        word = _mix(right + key + np.uint64((i + 1) * _GOLDEN & _WORD))
        left, right = right, left ^ (word & mask)
    return (left << half) | right


def feistel(x: Int64, n: Int64 | int, key: UInt64 | int) -> Int64:
    """Each x through the keyed permutation of [0, n) that belongs to its own n and key.

    A balanced Feistel network of 8 rounds over the smallest even number of bits that holds n, walked along its cycle
    until the value falls below n (Black & Rogaway 2002, section 3): four tries at most on average.

    Args:
        x: (K,) int64 with 0 <= x < n.
        n: Size of the permuted range, one number or (K,), 1 to 2**40.
        key: One 64-bit key or (K,) uint64.

    Returns:
        (K,) int64 in [0, n); for one n and key a bijection.
    """
    sizes = np.broadcast_to(np.asarray(n, dtype=np.int64), x.shape)
    # Mixed once more: round keys are sums with the key, and neighbouring keys must not share rounds.
    keys = np.broadcast_to(_mix(np.atleast_1d(np.asarray(key, dtype=np.uint64))), x.shape)
    halves = _half_bits(sizes)
    out = _rounds(x.astype(np.uint64), halves, keys).astype(np.int64)
    outside = np.flatnonzero(out >= sizes)
    while outside.size:
        again = _rounds(out[outside].astype(np.uint64), halves[outside], keys[outside]).astype(np.int64)
        out[outside] = again
        outside = outside[again >= sizes[outside]]
    return out


def _check_size(where: str, n: int) -> None:
    if not 1 <= n <= LARGEST:
        raise ConfigError(f"{where}: n must be 1 to 2**40 samples, got {n}; an empty split has no order.")


def cut_batch(where: str, batch: int, slots: int | None) -> int:
    """The number of slots of a batch: the one asked for, or gcd(batch, 64).

    Raises:
        ConfigError: For slots that do not divide the batch.
    """
    if slots is None:
        return math.gcd(batch, 64)
    if slots < 1 or batch % slots:
        raise ConfigError(f"{where}: slots={slots} must divide batch={batch}; try {_divisors(batch)}.")
    return slots


class SampleOrder(ABC):
    """What a loader asks of an order: an endless sequence of samples, cut into global batches and those into slots.

    Attributes:
        seed: Of the run.
        batch: Global batch size.
    """

    seed: int
    batch: int

    @property
    @abstractmethod
    def length(self) -> int:
        """Samples of an epoch."""

    @property
    @abstractmethod
    def slot_count(self) -> int:
        """S: into how many equal slots a global batch is cut; every world size that divides it sees the same batch."""

    @abstractmethod
    def take(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """Samples number `start` to `stop` of the sequence, which has no end.

        Returns:
            (stop - start,) int64 turns and positions. With the key of the sample its turn makes its augmentation: it
            is another one each time that a sample comes, and does not depend on what was asked before.
        """

    @abstractmethod
    def run_of(self, positions: Int64) -> tuple[Int64, Int64]:
        """The run that each position lies in: consecutive positions that come close together, worth reading at once.

        Returns:
            (K,) int64 first position of each run and the one after its last. Runs do not overlap.
        """

    @property
    def steps_per_epoch(self) -> float:
        """length / batch; not rounded, since a batch may hold the end of one epoch and the start of the next."""
        return self.length / self.batch

    def positions(self, step: int) -> Int64:
        """(batch,) int64 positions of the global batch at a step, in batch order."""
        return self.take(step * self.batch, (step + 1) * self.batch)[1]

    def epochs(self, step: int) -> Int64:
        """(batch,) int64 turns of the same samples; in an `Order`, their epochs."""
        return self.take(step * self.batch, (step + 1) * self.batch)[0]

    def rank_range(self, rank: int, world: int) -> slice:
        """The part of the global batch that a rank computes: its slots, rank S / W to (rank + 1) S / W.

        Raises:
            ConfigError: When the world size does not divide the slots, or the rank is not in [0, world).
        """
        if world < 1 or self.slot_count % world:
            raise ConfigError(
                f"world size {world} does not divide the {self.slot_count} slots of a batch of {self.batch}; "
                f"use one of {_divisors(self.slot_count)} or another batch size."
            )
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is not in [0, {world}).")
        size = self.batch // world
        return slice(rank * size, (rank + 1) * size)

    def rank_part(self, step: int, rank: int, world: int) -> tuple[Int64, Int64]:
        """(batch / world,) int64 turns and positions of a rank's part of the global batch, computed alone.

        Raises:
            ConfigError: As `rank_range`.
        """
        part = self.rank_range(rank, world)
        return self.take(step * self.batch + part.start, step * self.batch + part.stop)

    def rank_slice(self, step: int, rank: int, world: int) -> Int64:
        """The positions of `rank_part`.

        Raises:
            ConfigError: As `rank_range`.
        """
        return self.rank_part(step, rank, world)[1]


@dataclass(frozen=True)
class Order(SampleOrder):
    """Which sample stands where in every global batch, for any number of ranks and workers.

    Global sample number g = step * batch + j counts on across epochs: epoch e = g // n, so every sample occurs exactly
    once an epoch and none is dropped. Tickets are runs of m = batch / S sample numbers; ticket q belongs to slot
    q mod S and ticket number q of an epoch to its stream q mod S. Streams own contiguous ranges of the epoch's dealt
    sequence: its units of u = max(1, min(longest_run, n // (16 S))) consecutive samples in keyed order, and last the
    n mod u samples that fill no unit. Inside a stream samples are permuted within mixing blocks of `mix_units` units.
    Units have the same borders in every epoch, so that a loader can read and keep them whole: at any time the blocks
    of all streams, mix_units * S * u samples, are in use.

    Epochs that do not start on a ticket boundary begin with the rest of the ticket that the last epoch left: a slot
    thus reads one stream in every epoch.

    Attributes:
        n: Samples of split=train, 1 to 2**40.
        seed: Of the run.
        batch: Global batch size.
        longest_run: Most samples that are worth reading in one piece; `sciencessl.data.runs.longest_run` knows.
        mix_units: Units in a mixing block.
        slots: S, a divisor of batch; None means gcd(batch, 64). Saved with a run: it decides the order.

    Raises:
        ConfigError: For a size below 1 or slots that do not divide the batch.
    """

    n: int
    seed: int
    batch: int
    longest_run: int = LONGEST_RUN
    mix_units: int = 4
    slots: int | None = None

    def __post_init__(self) -> None:
        _check_size("Order", self.n)
        for name in ("batch", "longest_run", "mix_units"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Order: {name} must be at least 1, got {getattr(self, name)}.")
        cut_batch("Order", self.batch, self.slots)

    @cached_property
    def slot_count(self) -> int:
        """S: into how many equal slots a global batch is cut; every world size that divides it sees the same batch."""
        return cut_batch("Order", self.batch, self.slots)

    @cached_property
    def ticket_size(self) -> int:
        """m = batch / S: samples of one slot in one step."""
        return self.batch // self.slot_count

    @cached_property
    def unit(self) -> int:
        """u: consecutive samples that are dealt as one piece."""
        return max(1, min(self.longest_run, self.n // (UNITS * self.slot_count)))

    @property
    def length(self) -> int:
        """n: every sample comes once an epoch."""
        return self.n

    def run_of(self, positions: Int64) -> tuple[Int64, Int64]:
        """(K,) int64 first and last-plus-one position of the runs: as many whole units as `longest_run` allows."""
        size = self.unit * max(1, self.longest_run // self.unit)
        first = positions // size * size
        return first, np.minimum(first + size, self.n)

    def epoch_of(self, step: int) -> int:
        """Epoch of the first sample of a step."""
        return step * self.batch // self.n

    def take(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """(stop - start,) int64 epochs and positions in [0, n) of samples number `start` to `stop`."""
        # Python integers up to here: the sample number of a long run may not fit 64 bits, its epoch and rest do.
        before, first = divmod(start, self.n)
        ahead, within = np.divmod(first + np.arange(stop - start, dtype=np.int64), self.n)
        epoch = before + ahead
        stream, ordinal, length, begin = self._ticket(epoch, within)
        return epoch, self._deal(epoch, begin + self._blend(epoch, stream, ordinal, length))

    def _ticket(self, epoch: Int64, within: Int64) -> tuple[Int64, Int64, Int64, Int64]:
        """Stream, ordinal inside it, its length in this epoch and where its range starts in the dealt sequence."""
        # `left`: samples of the epoch's first ticket that the last epoch has taken; epoch * n may exceed 64 bits.
        m = self.ticket_size
        left = (epoch % m) * (self.n % m) % m
        stream = (within + left) // m % self.slot_count
        before = self._held(left, stream)
        after = self._held(left + self.n, stream)
        ordinal = self._held(within + left, stream) - before
        start = self._below(left + self.n, stream) - self._below(left, stream)
        return stream, ordinal, after - before, start

    def _held(self, count: Int64, stream: Int64) -> Int64:
        """How many of the first `count` tickets' samples fall to a stream."""
        turns, rest = np.divmod(count, self.batch)
        return turns * self.ticket_size + np.clip(rest - stream * self.ticket_size, 0, self.ticket_size)

    def _below(self, count: Int64, stream: Int64) -> Int64:
        """How many of them fall to all streams before it: the sum of `_held`, in closed form."""
        turns, rest = np.divmod(count, self.batch)
        return turns * self.ticket_size * stream + np.minimum(rest, stream * self.ticket_size)

    def _blend(self, epoch: Int64, stream: Int64, ordinal: Int64, length: Int64) -> Int64:
        size = self.mix_units * self.unit
        block = ordinal // size
        first = block * size
        key = subkey(subkey(subkey(self._keys[0], epoch), stream), block)
        return first + feistel(ordinal - first, np.minimum(size, length - first), key)

    def _deal(self, epoch: Int64, place: Int64) -> Int64:
        units = self.n // self.unit
        which, inside = np.divmod(place, self.unit)
        dealt = feistel(np.minimum(which, units - 1), units, subkey(self._keys[1], epoch))
        return np.where(which < units, dealt * self.unit + inside, place)

    @cached_property
    def _keys(self) -> tuple[int, int]:
        return derive_key("mix", self.seed), derive_key("unit", self.seed)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
