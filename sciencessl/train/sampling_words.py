"""What a run's sampling does, in words: what an epoch is, the share of each class, how often samples come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sciencessl.data.mixture import Mixture
from sciencessl.data.order import Order, SampleOrder
from sciencessl.data.weights import WeightedOrder
from sciencessl.store.joined import JoinedStores
from sciencessl.train.sampling import DrawColumn, Sampling

Float64 = npt.NDArray[np.float64]

SHOWN = 6
"""Most classes that get a line: half of them the largest, half the smallest."""


def expected_draws(order: SampleOrder) -> Float64:
    """(n,) how often the sample at each position comes in an epoch, on average over epochs.

    Source: the definitions of `Order`, `WeightedOrder` and `Mixture`; in a mixture the epoch is that of all parts.
    """
    if isinstance(order, WeightedOrder):
        weights = order.weights(np.arange(order.sums.n))
        found: Float64 = weights * (order.length / order.sums.before[-1])
        return found
    if isinstance(order, Mixture):
        each = [expected_draws(part) * passes for part, passes in zip(order.parts, part_passes(order), strict=True)]
        return np.concatenate(each) if order.offsets else np.sum(each, axis=0)
    return np.ones(order.length)


def part_passes(mixture: Mixture) -> list[float]:
    """Epochs of its own that each part runs through in an epoch of the mixture."""
    draws = [mixture.length * rate / sum(mixture.rates) for rate in mixture.rates]
    return [count / part.length for count, part in zip(draws, mixture.parts, strict=True)]


def tell_sampling(sampling: Sampling, store: JoinedStores, tell: Callable[[str], None]) -> None:
    """Say what an epoch is where it is not all samples of one store, once each."""
    if sampling.changed or len(store.stores) > 1:
        for line in sampling_words(sampling, store):
            tell(line)


def sampling_words(sampling: Sampling, store: JoinedStores) -> list[str]:
    """Lines for people: first what an epoch is, then what the setting does.

    Args:
        sampling: Of the run.
        store: What it draws from.
    """
    names, paths = [part.path.name for part in store.stores], [str(part.path) for part in store.stores]
    lines = [_epoch(sampling, names if len(set(names)) == len(names) else paths)]
    if sampling.column is not None:
        draws = expected_draws(sampling.order)
        lines += [*_classes(sampling.column, draws), _frequencies(draws)]
    return lines


def _epoch(sampling: Sampling, names: Sequence[str]) -> str:
    order, sizes = sampling.order, sampling.sizes
    by = _by(sampling.column)
    if isinstance(order, Order):
        each = f": {_listed(sizes, names)}" if len(sizes) > 1 else ""
        return f"an epoch is {order.length:,} samples, each of split=train once{each}"
    if not isinstance(order, Mixture):
        each = f" ({_listed(sizes, names)})" if len(sizes) > 1 else ""
        return f"an epoch is {order.length:,} draws from {sum(sizes):,} samples{each}, {by}"
    within = f", within each {by}" if by else ""
    names = names if sampling.labelled is None else ("labelled", "unlabelled")
    rated = ", ".join(
        f"{rate / sum(order.rates):.1%} {name} ({passes:.2f} passes over {part.length:,} samples)"
        for rate, name, passes, part in zip(order.rates, names, part_passes(order), order.parts, strict=True)
    )
    return f"an epoch is {order.length:,} draws: {rated}{within}"


def _by(column: DrawColumn | None) -> str:
    if column is None:
        return ""
    if not column.classes:
        return f"by the weights {column.name}"
    return f"balanced by {column.name}{f' with exponent {column.exponent:g}' if column.exponent != 1 else ''}"


def _listed(sizes: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(f"{size:,} of {name}" for size, name in zip(sizes, names, strict=True))


def _classes(column: DrawColumn, draws: Float64) -> Iterator[str]:
    """A line for each class, the largest first; without those in the middle where there are many."""
    if not column.classes:
        return
    numbers = column.values.astype(np.int64) + 1
    counts = np.bincount(numbers, minlength=len(column.classes) + 1)
    drawn = np.bincount(numbers, draws, minlength=len(counts))
    ranked = sorted(np.flatnonzero(counts).tolist(), key=lambda k: (-counts[k], k))
    names = [f"no {column.name}", *(f"{column.name} {name}" for name in column.classes)]
    width = max(len(names[k]) for k in ranked)
    middle = range(SHOWN // 2, len(ranked) - SHOWN // 2)
    for place, k in enumerate(ranked):
        if place not in middle:
            yield (f"  {names[k]:<{width}}  {counts[k]:,} samples: {counts[k] / counts.sum():.1%} of all, "
                   f"{drawn[k] / drawn.sum():.1%} of draws, each {drawn[k] / counts[k]:.2f} times an epoch")
        elif place == middle[0]:
            yield f"  ... and {len(middle):,} more"


def _frequencies(draws: Float64) -> str:
    ever = draws[draws > 0]
    never = len(draws) - len(ever)
    left_out = f"; {never:,} samples never come" if never else ""
    # Of a number that two places would show as none, one digit.
    least = f"{ever.min():.2f}" if ever.min() >= 0.01 else f"{ever.min():.1g}"
    return (f"  the most frequent sample comes {ever.max():.2f} times an epoch, the least frequent {least} times"
            f"{left_out}")
