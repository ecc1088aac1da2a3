"""Several orders in one: two stores at given rates, or labelled and unlabelled samples at a given ratio in each batch.

Which part a sample comes from follows from its number alone, by exact integer arithmetic, so a mixture is as much a
pure function of (seed, step) as its parts are. The rule is ours: a chain of even two-way deals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from sciencessl.data.order import LONGEST_RUN, Int64, Order, SampleOrder, cut_batch, derive_key
from sciencessl.data.weights import Weights, weighted_order
from sciencessl.errors import ConfigError
from sciencessl.grouping import places_of

LARGEST_RATES = 10**6
"""Largest sum of the rates of a mixture: the pattern of its parts repeats after as many samples."""


@dataclass(frozen=True, eq=False)
class Mixture(SampleOrder):
    """Orders taken in turn, `rates[k]` samples of part k in every sum(rates).

    Of the samples before number g, part 0 has floor(g * rates[0] / sum(rates)); of the others part 1 has its share by
    the same rule, and so on. With two parts every run of samples, so every batch, rank and micro-batch, holds its share
    of each rounded down or up; with K parts the difference stays below K - 1. Each part runs through its own epochs.

    Attributes:
        parts: Their orders, each with a seed of its own.
        rates: Whole numbers of 1 or more, one a part.
        seed: Of the run.
        batch: Global batch size.
        slots: S; None means gcd(batch, 64).
        offsets: Added to the positions of each part, where they count in different stores; 0 where in the same.

    Raises:
        ConfigError: When parts, rates and offsets are not of one number, or a rate is out of range.
    """

    parts: tuple[SampleOrder, ...]
    rates: tuple[int, ...]
    seed: int
    batch: int
    slots: int | None = None
    offsets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.parts)
        if not count or len(self.rates) != count or len(self.offsets) not in (0, count):
            raise ConfigError(f"Mixture: {count} parts with {len(self.rates)} rates and {len(self.offsets)} offsets; "
                              "give one of each a part.")
        if min(self.rates) < 1 or sum(self.rates) > LARGEST_RATES:
            raise ConfigError(f"Mixture: rates are {self.rates}; they must be whole numbers from 1, {LARGEST_RATES} in "
                              "all at most, such as (3, 1).")
        cut_batch("Mixture", self.batch, self.slots)

    @property
    def length(self) -> int:
        """Samples of an epoch: as many as the epochs of all parts hold, though each part has its own."""
        return sum(part.length for part in self.parts)

    @property
    def slot_count(self) -> int:
        """S: into how many equal slots a global batch is cut; every world size that divides it sees the same batch."""
        return cut_batch("Mixture", self.batch, self.slots)

    def take(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """(stop - start,) int64 turns and positions; the turns of two parts never meet."""
        turns, positions = np.empty((2, stop - start), np.int64)
        first = self._before(start)
        for k, mine in enumerate(self._dealt(start, stop)):
            turn, position = self.parts[k].take(first[k], first[k] + int(mine.sum()))
            turns[mine] = turn * len(self.parts) + k
            positions[mine] = position + (self.offsets[k] if self.offsets else 0)
        return turns, positions

    def run_of(self, positions: Int64) -> tuple[Int64, Int64]:
        """(K,) int64 runs of the part whose positions these are; of the first part where all parts share a store."""
        if not self.offsets:
            return self.parts[0].run_of(positions)
        starts = np.array(self.offsets)
        owner = np.searchsorted(starts, positions, side="right") - 1
        first, stop = np.empty((2, len(positions)), np.int64)
        for k, mine in places_of(owner):
            found = self.parts[k].run_of(positions[mine] - starts[k])
            first[mine], stop[mine] = found[0] + starts[k], found[1] + starts[k]
        return first, stop

    def part_of(self, step: int) -> Int64:
        """(batch,) int64 number of the part that each sample of the global batch comes from."""
        part: Int64 = self._dealt(step * self.batch, (step + 1) * self.batch).argmax(axis=0)
        return part

    def taken(self, step: int) -> tuple[int, ...]:
        """Samples that each part has given before a step: with the digests of what was read, all of the state."""
        return self._before(step * self.batch)

    def _before(self, number: int) -> tuple[int, ...]:
        turn, rest = divmod(number, sum(self.rates))
        counts = self._counts(np.array([rest]))[:, 0].tolist()
        return tuple(turn * rate + count for rate, count in zip(self.rates, counts, strict=True))

    def _dealt(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """(K, stop - start), true where the sample is of part k."""
        rest = start % sum(self.rates) + np.arange(stop - start + 1)
        return np.diff(self._counts(rest), axis=1) > 0

    def _counts(self, number: Int64) -> Int64:
        """(K, len(number)) samples of each part among the first `number`."""
        counts, total = [], sum(self.rates)
        for rate in self.rates[:-1]:
            counts.append(number * rate // total)
            number, total = number - counts[-1], total - rate
        return np.stack([*counts, number])


def mix_stores(
    sizes: Sequence[int], rates: Sequence[int], seed: int, batch: int, slots: int | None = None,
    longest_run: int = LONGEST_RUN, weights: Sequence[Weights | None] = (),
) -> Mixture:
    """Several stores at given rates; positions count through the stores one after the other, as in `JoinedStores`.

    Args:
        sizes: Samples of split=train of each store.
        rates: Whole numbers: (3, 1) takes three samples of the first store for each of the second.
        seed: Of the run.
        batch: Global batch size.
        slots: As in `Order`.
        longest_run: As in `Order`.
        weights: Of the samples of each store, None where each comes once in the store's own epoch; none: in all stores.

    Raises:
        ConfigError: As `Order` and `Mixture`.
        DataError: As `sum_weights`.
    """
    seeds = [derive_key("part", seed, k) for k in range(len(sizes))]
    parts = zip(sizes, weights or [None] * len(sizes), seeds, _share_batch(rates, batch, slots), strict=True)
    orders: list[SampleOrder] = [
        Order(n, key, size, longest_run, slots=cut) if own is None
        else weighted_order(own, key, size, slots=cut, longest_run=longest_run)
        for n, own, key, (size, cut) in parts
    ]
    offsets = np.cumsum([0, *sizes[:-1]]).tolist()
    return Mixture(tuple(orders), tuple(rates), seed, batch, slots, tuple(offsets))


def mix_labelled(
    labelled: npt.NDArray[np.bool_], share: float, seed: int, batch: int, slots: int | None = None,
    longest_run: int = LONGEST_RUN, weights: tuple[Weights, Weights] | None = None,
) -> Mixture:
    """Labelled samples as a given share of every batch; part 0 is the labelled ones.

    Each of the two runs through its own epochs, so a small labelled set comes again while the unlabelled one lasts.

    Args:
        labelled: (N,) which samples have a label.
        share: Above 0 and below 1; taken as the nearest fraction of a denominator up to 1000.
        seed: Of the run.
        batch: Global batch size.
        slots: As in `Order`.
        longest_run: As in `Order`.
        weights: Of all N samples as labelled and as unlabelled ones, each 0 for the others; None: all alike.

    Raises:
        ConfigError: For a share outside its range, or when all samples or none are labelled.
        DataError: As `sum_weights`.
    """
    fraction = Fraction(share).limit_denominator(1000) if 0 < share < 1 else Fraction(0)
    if not 0 < fraction < 1:
        raise ConfigError(f"share of labelled samples is {share}; it must be above 0 and below 1, such as 0.25.")
    count = int(labelled.sum())
    if not 0 < count < len(labelled):
        raise ConfigError(f"{count} of {len(labelled)} samples are labelled: a batch cannot hold {share:g} of labelled "
                          "and the rest of unlabelled ones. Leave the share out.")
    rates = (fraction.numerator, fraction.denominator - fraction.numerator)
    chosen = weights or (Weights(labelled), Weights(~labelled))
    parts = [weighted_order(own, derive_key("part", seed, k), size, slots=cut, longest_run=longest_run)
             for k, (own, (size, cut)) in enumerate(zip(chosen, _share_batch(rates, batch, slots), strict=True))]
    return Mixture(tuple(parts), rates, seed, batch, slots)


def _share_batch(rates: Sequence[int], batch: int, slots: int | None) -> list[tuple[int, int]]:
    """Batch and slots of each part: with its share of a ticket for tickets, a slot keeps to its own streams."""
    cut = cut_batch("Mixture", batch, slots)
    return [(cut * max(1, round(batch * rate / (cut * sum(rates)))), cut) for rate in rates]
