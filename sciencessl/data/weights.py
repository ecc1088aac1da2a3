"""Weighted epochs: each sample comes the floor or the ceiling of its expected count, and no list of draws is made.

Systematic sampling in two levels, both exact in integers. The running sum of the weights is scaled so that one expected
draw is `resolution` wide, and draw d of an epoch is the point d * resolution + start. It says which block of samples
the draw falls into, and how many points a block catches is the floor or ceiling of its width; inside the block the
points are laid again, equally spaced from a start of the block's own. Both starts are keyed by seed and epoch. The idea
of equally spaced points is old (Madow & Madow 1944, systematic sampling); the two levels are ours.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sciencessl.data.order import LONGEST_RUN, Int64, Order, SampleOrder, UInt64, derive_key, subkey
from sciencessl.errors import ConfigError, DataError

Float64 = npt.NDArray[np.float64]

BLOCK, MOST_BLOCKS = 64, 2**21
"""Samples whose weights are summed as one block, and most sums that are kept: 32 MiB for any number of samples."""

CHUNK = 2**20
"""Samples that the pass over the weights holds at a time."""

FINEST, WIDEST = 20, 48
"""Bits of an expected draw, and of an epoch: sums scaled to 48 bits are exact in float64 with some to spare."""


@dataclass(frozen=True, eq=False)
class Weights:
    """How often each sample should come, relative to the others.

    Attributes:
        values: (N,) weights, 0 (never) or more; or class numbers, where there is a table. Read by int64 arrays of
            positions only, so a memory map serves.
        table: Weight of each class. The last entry belongs to class -1: no class.
    """

    values: Any
    table: Float64 | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __call__(self, positions: Int64) -> Float64:
        """(K,) float64 weights of samples at (K,) positions."""
        found = np.asarray(self.values[positions])
        return (found if self.table is None else self.table[found]).astype(np.float64)


def balance(classes: Any, exponent: float = 1.0) -> Weights:
    """Weights that make classes, clusters or groups come equally often, or nearer to it than they do.

    A sample of a class of n samples weighs n**-exponent, so the class has n**(1 - exponent) of the sum: exponent 0
    leaves the shares as they are, 1 makes them equal, 0.5 is the usual tempering. Samples with a class weigh 1 on
    average; a sample without one weighs 1.

    Args:
        classes: (N,) class numbers from 0, -1 for none; read in chunks, so a memory map serves.
        exponent: 0 to 1.

    Raises:
        ConfigError: For an exponent outside [0, 1].
        DataError: When no sample has a class.
    """
    if not 0 <= exponent <= 1:
        raise ConfigError(f"exponent of class balance is {exponent}; it must be 0 (as they come) to 1 (all equal).")
    counts = _class_counts(classes)
    some = counts > 0
    if not some.any():
        raise DataError(f"none of {len(classes)} samples has a class: there is nothing to balance. Label some first.")
    table = np.zeros(len(counts) + 1)
    table[:-1][some] = counts[some] ** -exponent
    table[:-1] *= counts.sum() / (table[:-1] @ counts)
    table[-1] = 1.0
    return Weights(classes, table)


def _class_counts(classes: Any) -> Int64:
    counts = np.zeros(0, np.int64)
    for start in range(0, len(classes), CHUNK):
        found = np.bincount(np.asarray(classes[start : start + CHUNK]).astype(np.int64) + 1)
        size = max(len(found), len(counts))
        counts = np.pad(counts, (0, size - len(counts))) + np.pad(found, (0, size - len(found)))
    return counts[1:]


@dataclass(frozen=True, eq=False)
class WeightSums:
    """What an order keeps of N weights: running sums at the borders of blocks. Made by `sum_weights` in one pass.

    Attributes:
        n: N.
        block: Samples in a block; the last one may hold fewer.
        before: (J + 1,) float64, the sum of all weights before each block, and of all.
        positive: How many weights are above zero.
        largest: The largest of them.
        digest: Of all weights: equal weights give equal orders.
    """

    n: int
    block: int
    before: Float64
    positive: int
    largest: float
    digest: str


def sum_weights(weights: Weights) -> WeightSums:
    """The one pass over all weights. It serves every epoch, so a run makes it once.

    Raises:
        DataError: When a weight is negative or not finite, or none is above zero.
    """
    n = len(weights)
    block = max(BLOCK, -(-n // MOST_BLOCKS))
    before, largest, positive, seen = [np.zeros(1)], 0.0, 0, hashlib.blake2b(digest_size=16)
    step = max(1, CHUNK // block) * block
    for start in range(0, n, step):
        found = weights(np.arange(start, min(start + step, n)))
        _check(found, start)
        seen.update(found.astype("<f8").tobytes())
        # Added one after the other, as `_bounds` does: blocks summed apart would differ in the last bit.
        running = np.cumsum(np.concatenate([before[-1][-1:], found]))
        before.append(running[np.append(np.arange(block, len(found), block), len(found))])
        largest, positive = max(largest, float(found.max())), positive + int((found > 0).sum())
    if not positive:
        raise DataError(f"none of {n} samples weighs more than 0: nothing would ever be drawn.")
    return WeightSums(n, block, np.concatenate(before), positive, largest, seen.hexdigest())


def _check(found: Float64, start: int) -> None:
    # NaN is neither: one look at both ends is enough for the weights that are right.
    if not (found.min() >= 0 and found.max() < np.inf):
        bad = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
        raise DataError(
            f"weight {found[bad[0]]} of the sample at position {start + bad[0]}: weights are finite and 0 or more. "
            "Leave samples out with weight 0."
        )


@dataclass(frozen=True, eq=False)
class WeightedOrder(SampleOrder):
    """An order in which sample i comes c_i = draws * w_i / sum(w) times an epoch: floor(c_i) or ceil(c_i) in each.

    The draws of an epoch are numbered along the store and dealt by an `Order`. Neighbouring draws may be repeats of one
    sample, so they are first dealt to as many passes as the largest c_i: a pass holds a sample once, and repeats come
    at random times of the epoch. Expected counts are rounded to 1 / resolution, 2**-20 up to 2**28 draws.

    Attributes:
        order: Of the draws; `order.n` is how many there are in an epoch.
        weights: Of the samples.
        sums: `sum_weights(weights)`.
        run: Samples that are read in one piece.
    """

    order: Order
    weights: Weights
    sums: WeightSums
    run: int

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Of the run."""
        return self.order.seed

    @property
    def batch(self) -> int:  # type: ignore[override]
        """Global batch size."""
        return self.order.batch

    @property
    def length(self) -> int:
        """Draws of an epoch."""
        return self.order.n

    @property
    def slot_count(self) -> int:
        """S, of the order of the draws."""
        return self.order.slot_count

    @cached_property
    def resolution(self) -> int:
        """Q, the width of one expected draw."""
        return 1 << min(FINEST, WIDEST - self.length.bit_length())

    @cached_property
    def passes(self) -> int:
        """How often the heaviest sample comes in an epoch at most, were its count not rounded."""
        return _passes(self.length, self.sums)

    def take(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """(stop - start,) int64 turns and positions of the draws; a turn counts epochs and repeats inside them."""
        epoch, place = self.order.take(start, stop)
        block, point = self._points(epoch, self._spread(place))
        position, bound = self._samples(block, point)
        # Rounding can lift a sample one above `passes`, never two.
        return epoch * (self.passes + 1) + (point - bound) // self.resolution, position

    def run_of(self, positions: Int64) -> tuple[Int64, Int64]:
        """(K,) int64 runs of `run` samples: draws that come together lie in few of them."""
        first = positions // self.run * self.run
        return first, np.minimum(first + self.run, self.sums.n)

    def _spread(self, place: Int64) -> Int64:
        """Place in the passes, which lie one after the other -> number of the draw along the store."""
        short, longer = divmod(self.length, self.passes)
        border = longer * (short + 1)
        late = place >= border
        size = np.where(late, short, short + 1)
        number, turn = np.divmod(place - np.where(late, border, 0), size)
        return turn * self.passes + number + np.where(late, longer, 0)

    def _points(self, epoch: Int64, draw: Int64) -> tuple[Int64, Int64]:
        """Block of each draw and its point on the scaled running sum."""
        q, edge = self.resolution, self._edges
        start = _below(subkey(self._keys[0], epoch), np.int64(q))
        block = np.searchsorted(edge, draw * q + start, side="right") - 1
        first, after = ((edge[i] - start + q - 1) // q for i in (block, block + 1))
        whole, part = np.divmod(edge[block + 1] - edge[block], q)
        # Given its number of points, the start of a block is uniform among those that leave room for as many.
        more = after - first > whole
        lowest, room = np.where(more, 0, part), np.where(more, part, q - part)
        own = lowest + _below(subkey(subkey(self._keys[1], epoch), block), room)
        return block, edge[block] + own + (draw - first) * q

    def _samples(self, block: Int64, point: Int64) -> tuple[Int64, Int64]:
        """Sample at each point, and where on the running sum it begins."""
        blocks = np.unique(block)
        bounds = self._bounds(blocks).ravel()
        found = np.searchsorted(bounds, point, side="right") - 1
        row, inside = np.divmod(found, self.sums.block + 1)
        return blocks[row] * self.sums.block + inside, bounds[found]

    def _bounds(self, blocks: Int64) -> Int64:
        """(len(blocks), block + 1) scaled running sums at the borders of all samples of these blocks."""
        positions = blocks[:, None] * self.sums.block + np.arange(self.sums.block)
        weights = self.weights(np.minimum(positions, self.sums.n - 1).ravel()).reshape(positions.shape)
        weights[positions >= self.sums.n] = 0.0
        return self._scaled(np.cumsum(np.column_stack([self.sums.before[blocks], weights]), axis=1))

    def _scaled(self, sums: Float64) -> Int64:
        return np.rint(sums * self._scale).astype(np.int64)

    @cached_property
    def _scale(self) -> float:
        return float(self.length * self.resolution / self.sums.before[-1])

    @cached_property
    def _edges(self) -> Int64:
        return self._scaled(self.sums.before)

    @cached_property
    def _keys(self) -> tuple[int, int]:
        return derive_key("draws", self.seed), derive_key("points", self.seed)


def _passes(draws: int, sums: WeightSums) -> int:
    # Less a little: rounding must not make two passes of equal weights, which are exactly one.
    return min(draws, max(1, math.ceil(draws * sums.largest / float(sums.before[-1]) - 2**-10)))


def _below(key: UInt64, room: Int64 | np.int64) -> Int64:
    """A number in [0, room) from a key; room is at most 2**20, so that the remainder's bias is below 2**-44."""
    return (key % np.asarray(room).astype(np.uint64)).astype(np.int64)


def weighted_order(
    weights: Weights, seed: int, batch: int, draws: int | None = None, slots: int | None = None,
    sums: WeightSums | None = None, longest_run: int = LONGEST_RUN,
) -> WeightedOrder:
    """An order in which samples come by weight.

    Args:
        weights: Of the samples.
        seed: Of the run.
        batch: Global batch size.
        draws: Of an epoch; None means as many as there are samples with a weight above zero.
        slots: As in `Order`.
        sums: `sum_weights(weights)`, where it is known already.
        longest_run: As in `Order`.

    Raises:
        ConfigError: As `Order`.
        DataError: As `sum_weights`.
    """
    sums = sums or sum_weights(weights)
    count = sums.positive if draws is None else draws
    # A unit holds draws of one pass, which lie so many samples apart. It spans as many samples as a run has and so
    # lies in two as a rule: with runs half as long what is in use is no more than an `Order` has.
    run = max(1, longest_run // 2)
    apart = max(1.0, _passes(count, sums) * sums.n / max(count, 1))
    return WeightedOrder(Order(count, seed, batch, max(1, int(run / apart)), slots=slots), weights, sums, run)
