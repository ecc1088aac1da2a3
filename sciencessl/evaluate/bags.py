"""Bags: things with one label that are made of many samples, such as a slide of tiles; and what pools the samples.

In a task of kind `bag` a row of `TaskData` is a bag, which stands at the store index of its first sample. So budgets,
folds, scores and intervals count bags and their units as those of other tasks count samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from sciencessl.errors import DataError
from sciencessl.spec import TransferTask
from sciencessl.store.sides import Side

POOLINGS: Mapping[str, np.ufunc] = {"mean": np.add, "max": np.maximum}
"""What makes one vector of those of a bag's samples, feature by feature, without learning."""


@dataclass(frozen=True)
class Bags:
    """The bags of a side.

    Attributes:
        first: (B,) store index of the first sample of each bag, ascending.
        names: (B,) name of each bag as objects, all different.
        samples: (T,) store indices of all samples, bag after bag, ascending within a bag.
        start: (B + 1,) position in `samples` at which each bag starts; the last is T.
    """

    first: np.ndarray
    names: np.ndarray
    samples: np.ndarray
    start: np.ndarray

    def of(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store indices of all samples of some bags, bag after bag, and (b,) how many each has.

        Args:
            first: (b,) first samples of bags.
        """
        place = np.searchsorted(self.first, first)
        sizes = np.diff(self.start)[place]
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.samples[np.repeat(self.start[place], sizes) + within], sizes

    def names_of(self, first: np.ndarray) -> np.ndarray:
        """(b,) names of bags, given their first samples."""
        found: np.ndarray = self.names[np.searchsorted(self.first, first)]
        return found


def group_bags(names: np.ndarray, index: np.ndarray) -> Bags:
    """Bags of samples by the name of each sample's bag.

    Args:
        names: (N,) names as objects, none empty.
        index: (N,) store indices, ascending.
    """
    different, at, number = np.unique(names.astype(str), return_index=True, return_inverse=True)
    by_first = np.argsort(at)
    order = np.argsort(np.argsort(by_first)[number], kind="stable")
    start = np.append(0, np.cumsum(np.bincount(number, minlength=len(different))[by_first]))
    return Bags(index[at[by_first]], different[by_first].astype(object), index[order], start)


def read_bags(task: TransferTask, side: Side, wanted: np.ndarray) -> tuple[Side, Bags]:
    """The bags of a side, and the side of their first samples, which show label and unit of the whole bag.

    Args:
        task: Of kind `bag`.
        side: All samples.
        wanted: (N,) whether each takes part; those without a name of a bag do not.

    Raises:
        DataError: When samples of one bag differ in label or unit.
    """
    names = side.texts(task.bag)
    rows = wanted & (names != "")
    index = side.index[rows]
    bags = group_bags(names[rows], index)
    # Samples in the order of `bags.samples`.
    sorted_side = replace(side, index=bags.samples)
    known = side.store.columns()
    for column in dict.fromkeys((*task.label_columns, task.unit)):
        if column in known:
            _require_one_value(task, sorted_side, bags, column)
    return replace(side, index=bags.first), bags


def _require_one_value(task: TransferTask, side: Side, bags: Bags, column: str) -> None:
    values = side.texts(column)
    own = np.repeat(values[bags.start[:-1]], np.diff(bags.start))
    mixed = np.flatnonzero(np.logical_or.reduceat(values != own, bags.start[:-1])) if len(values) else values
    if not len(mixed):
        return
    found = values[bags.start[mixed[0]] : bags.start[mixed[0] + 1]].tolist()
    counts = ", ".join(f"{value or 'no value'} ({found.count(value)})" for value in dict.fromkeys(found))
    what, instead = ("label", "ask for kind class") if column in task.label_columns else ("unit", "another as `unit`")
    raise DataError(
        f"task {task.name!r}: {len(mixed)} of {len(bags.first)} bags ({task.bag}) of {side} hold samples that differ "
        f"in {column!r}; {bags.names[mixed[0]]} has {counts}. A bag has one {what}: give all its samples the same "
        f"{column!r}, name another column as `bag`, or {instead}."
    )


def all_samples(bags: Bags | None, first: np.ndarray) -> np.ndarray:
    """Store indices of all samples of some bags; the samples themselves where there are no bags."""
    return first if bags is None else bags.of(first)[0]


def pooled(
    get: Callable[[np.ndarray], np.ndarray], bags: Bags | None, first: np.ndarray, pooling: str = "mean"
) -> np.ndarray:
    """(b, F) features of bags, pooled over their samples; (b, F) of the samples themselves where there are no bags.

    Args:
        get: Store indices (n,) -> (n, F) features.
        bags: Of the side.
        first: (b,) first samples of bags, or samples.
        pooling: One of `POOLINGS`.
    """
    if bags is None:
        return get(first)
    samples, sizes = bags.of(first)
    return pool(get(samples), sizes, pooling)


def pool(values: np.ndarray, sizes: np.ndarray, pooling: str) -> np.ndarray:
    """(T, F) features, bag after bag, and (b,) sizes, 1 or more -> (b, F) float64, one row for each bag."""
    found: np.ndarray = POOLINGS[pooling].reduceat(values, np.cumsum(sizes) - sizes, axis=0, dtype=np.float64)
    return found / sizes[:, None] if pooling == "mean" else found
