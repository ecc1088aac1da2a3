"""How well a ranking finds the samples of one class whose labels are known, against random encoders and chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sciencessl.errors import ConfigError, DataError, did_you_mean
from sciencessl.evaluate.sample_scores import average_precision_scores
from sciencessl.evaluate.statistics import hierarchical_interval
from sciencessl.evaluate.store_tasks import find_store_task
from sciencessl.evaluate.tasks import class_names
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side

MOST_LISTED = 12


@dataclass(frozen=True)
class Wanted:
    """Which labelled samples a ranking is to find.

    Attributes:
        task: Its labels; a column of the store is a task too.
        name: The class.
        labelled: (n,) positions of the labelled samples among those that are ranked.
        positive: (n,) whether each is of the class.
        units: (n,) object that each shows: what is resampled.
    """

    task: TransferTask
    name: str
    labelled: np.ndarray
    positive: np.ndarray
    units: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a ranking of the labelled samples found.

    Attributes:
        encoder: Name, or `random`.
        encoders: How many there are, whose means the numbers are.
        in_top: Samples of the class among the first `Rediscovery.top`.
        recall: Their share of all of the class.
        average_precision: Mean, over the samples of the class, of the precision down to each.
        low: Lower end of its 95 % interval, over test units, and encoders where there are several.
        high: Upper end.
    """

    encoder: str
    encoders: int
    in_top: float
    recall: float
    average_precision: float
    low: float
    high: float


@dataclass(frozen=True)
class Rediscovery:
    """How well one class was found.

    Attributes:
        task: Name of the task or column.
        name: The class.
        labelled: Labelled samples that were ranked.
        members: Those of the class.
        top: First labelled samples that `recall` looks at.
        found: Of the encoder, and of random ones.
        chance: Average precision of a random order: the share of the class.
        chance_recall: Of a random order.
        difference: Average precision of the encoder minus that of random ones; None without them.
        difference_low: Lower end of its 95 % interval.
        difference_high: Upper end.
        variant: Of the random encoders: that which found more, by these very labels, which favours it.
        mark: What pretraining saw of the labels.
    """

    task: str
    name: str
    labelled: int
    members: int
    top: int
    found: tuple[Found, ...]
    chance: float
    chance_recall: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    variant: str
    mark: str


def wanted_samples(store: Store, index: np.ndarray, find: str, units: np.ndarray) -> Wanted:
    """Read `TASK=CLASS` or `COLUMN=VALUE`.

    Args:
        store: A store.
        index: (n,) store indices of the samples that are ranked.
        find: What is to be found; a column goes before a task of its name.
        units: (n,) object that each shows.

    Raises:
        ConfigError: For another form, an unknown task, or a class that no sample or every labelled one has.
        StoreError: When the store lacks a column of the task.
        DataError: When there are no more objects than classes.
    """
    left, equals, name = find.partition("=")
    if not (left and equals and name):
        raise ConfigError(f"--find {find!r}: expected COLUMN=VALUE or TASK=CLASS, such as class=merger or rings=ring.")
    task = _task(store, left, find)
    if task.kind not in ("class", "retrieval"):
        raise ConfigError(f"--find {find}: task {task.name!r} is of kind {task.kind!r} and has no classes. Of votes, "
                          f"class:QUESTION has.")
    names = class_names(task, Side(store, index, "ranked samples")).names
    rows = np.flatnonzero(names != "")
    counts = Counter(names[rows].tolist())
    if not counts[name] or len(counts) < 2:
        said = ", ".join(f"{value} {count:,}" for value, count in counts.most_common(MOST_LISTED)) or "none"
        what = f"no ranked sample is {name!r}" if not counts[name] else f"every labelled sample is {name!r}"
        raise ConfigError(f"--find {find}: {what}. Classes and their samples: {said}.")
    if len(set(units[rows].tolist())) < 2:
        raise DataError(f"--find {find}: the {len(rows):,} labelled samples show one object; two or more are needed.")
    return Wanted(task, name, rows, names[rows] == name, units[rows])


def _task(store: Store, left: str, find: str) -> TransferTask:
    columns = store.columns()
    if left in columns:
        return TransferTask(left, left)
    try:
        return find_store_task(store, left)
    except ConfigError as error:
        raise ConfigError(f"--find {find}: {store.path} has no column {left!r}.{did_you_mean(left, columns)} "
                          f"As a task: {error}") from None


def found_by(wanted: Wanted, scores: Mapping[str, Sequence[np.ndarray]], top: int, mark: str) -> Rediscovery:
    """Score rankings against the labels.

    Args:
        wanted: Which samples are to be found.
        scores: Name of the encoder, and `random VARIANT` for each variant of random ones -> for each of its encoders
            (n,) scores of the ranked samples, greater first. The encoder comes first.
        top: Labelled samples that `recall` looks at, at most all.
        mark: What pretraining saw.
    """
    top = min(top, len(wanted.labelled))
    parts = {name: np.stack([average_precision_scores(wanted.positive, each[wanted.labelled]) for each in group])
             for name, group in scores.items()}
    first, *random = parts
    best = max(random, key=lambda name: float(parts[name].mean()), default="")
    kept = [first, *([best] if best else [])]
    found = tuple(_found(wanted, name.partition(" ")[0] if name == best else name, scores[name], parts[name], top)
                  for name in kept)
    gap = hierarchical_interval(parts[first] - parts[best], wanted.units) if best else None
    mean, low, high = (gap.mean, gap.low, gap.high) if gap else (None, None, None)
    return Rediscovery(
        wanted.task.name, wanted.name, len(wanted.positive), int(wanted.positive.sum()), top, found,
        float(wanted.positive.mean()), top / len(wanted.positive), mean, low, high, best.partition(" ")[2], mark,
    )


def _found(wanted: Wanted, name: str, scores: Sequence[np.ndarray], parts: np.ndarray, top: int) -> Found:
    interval = hierarchical_interval(parts, wanted.units)
    hits = float(np.mean([_in_top(wanted.positive, each[wanted.labelled], top) for each in scores]))
    return Found(name, len(scores), hits, hits / float(wanted.positive.sum()), interval.mean, interval.low,
                 interval.high)


def _in_top(positive: np.ndarray, score: np.ndarray, top: int) -> float:
    """How many of the class are expected among the first, the order of equal scores being random."""
    edge = np.sort(score)[::-1][top - 1]
    sure, tied = score > edge, score == edge
    share = (top - sure.sum()) / tied.sum()
    return float(positive[sure].sum() + share * positive[tied].sum())


def rediscovery_lines(result: Rediscovery) -> list[str]:
    """The comparison for people."""
    lines = [f"finding {result.name!r} of {result.task}: {result.members:,} among {result.labelled:,} labelled samples"]
    for found in result.found:
        several = f" ({found.encoders} encoders)" if found.encoders > 1 else ""
        half = found.high - found.average_precision
        lines.append(f"  {found.encoder}{several}: {found.in_top:.4g} in the first {result.top:,} (recall "
                     f"{found.recall:.3f}), average precision {found.average_precision:.3f} +- {half:.3f}")
    lines.append(f"  chance: {result.chance_recall * result.members:.3g} in the first {result.top:,} (recall "
                 f"{result.chance_recall:.3f}), average precision {result.chance:.3f}")
    if result.difference is not None and result.difference_high is not None:
        half = result.difference_high - result.difference
        verdict = "resolved" if abs(result.difference) > half else "not resolved"
        lines.append(f"  minus random: {result.difference:+.3f} +- {half:.3f} in average precision, {verdict}")
    lines.append("+-: half of the 95 % interval over objects, and random encoders; this checkpoint only")
    return [*lines, f"pretraining saw: {result.mark}"]
