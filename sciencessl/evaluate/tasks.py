"""A transfer task on a store: which samples, which labels, which units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sciencessl.errors import ConfigError, DataError, StoreError, did_you_mean, unknown_name
from sciencessl.evaluate.bags import Bags, all_samples, read_bags
from sciencessl.evaluate.dense_masks import count_pixels
from sciencessl.evaluate.subsets import label_digest
from sciencessl.evaluate.task_files import SUFFIXES, read_task
from sciencessl.evaluate.task_labels import Labels, check_labels, check_spread, check_units, units_of
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.sampled import chosen_by
from sciencessl.store.sides import Side, value_text
from sciencessl.transfer_task import NO_MAJORITY

KINDS = ("class", "multilabel", "counts", "retrieval", "bag", "dense")
"""Kinds of task whose labels can be read."""

NONE_OF_THESE = "none of these"
"""Stratum of the samples of a multilabel task that show no label."""


@dataclass(frozen=True)
class TaskData:
    """One task's samples; for kind `bag` its bags, each at the store index of its first sample.

    Attributes:
        task: The task, its unit resolved to a column or `object`.
        classes: Class names in the order of their numbers; for kinds with several columns their names.
        train: (n,) store indices of the label pool, ascending.
        train_labels: (n,) numbers into `strata`: the class, the leading answer, or the rarest label or class of pixels
            that is present.
        train_units: (n,) unit names.
        test: (m,) indices of the test samples in the store that is tested on, ascending.
        test_labels: (m,) numbers into `strata`.
        test_units: (m,) unit names.
        digest: Digest of the pool's labels: with task and seed it fixes every subset.
        dropped: Value of the column -> samples left out because the task does not map it, or because its class has no
            label in the pool; and what chose samples that were not drawn at random -> such samples.
        train_targets: (n, K) votes, or 1, 0 and NaN for unknown, for kinds with several columns; pixels of each class
            for label images; else None.
        test_targets: (m, K), likewise.
        train_ids: (n,) ids of the samples, or names of the bags.
        test_ids: (m,) likewise.
        train_bags: Those of the pool's side, for kind `bag`; else None.
        test_bags: Likewise of the side that is tested on.
    """

    task: TransferTask
    classes: tuple[str, ...]
    train: np.ndarray
    train_labels: np.ndarray
    train_units: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    test_units: np.ndarray
    digest: str
    dropped: dict[str, int]
    train_targets: np.ndarray | None = None
    test_targets: np.ndarray | None = None
    train_ids: np.ndarray = field(default_factory=lambda: np.array([], dtype=object))
    test_ids: np.ndarray = field(default_factory=lambda: np.array([], dtype=object))
    train_bags: Bags | None = None
    test_bags: Bags | None = None

    @property
    def strata(self) -> tuple[str, ...]:
        """Names of the label numbers, by which subsets are drawn."""
        return (*self.classes, NONE_OF_THESE) if self.task.kind == "multilabel" else self.classes

    @property
    def pool_samples(self) -> np.ndarray:
        """Store indices of all samples of the pool; of those in its bags, where there are bags."""
        return all_samples(self.train_bags, self.train)

    @property
    def test_samples(self) -> np.ndarray:
        """Likewise of the test."""
        return all_samples(self.test_bags, self.test)

    def take_test(self, rows: np.ndarray) -> TaskData:
        """The same with some of the test samples, by position."""
        targets = None if self.test_targets is None else self.test_targets[rows]
        return replace(self, test=self.test[rows], test_labels=self.test_labels[rows],
                       test_units=self.test_units[rows], test_targets=targets, test_ids=self.test_ids[rows])


def find_task(tasks: Sequence[TransferTask], name: str) -> TransferTask:
    """The task of that name, or of that YAML file; the only one when no name is given.

    Raises:
        ConfigError: When there is none of that name, several to choose from, or something is wrong with the file.
    """
    if name.endswith(SUFFIXES):
        return read_task(name)
    names = [task.name for task in tasks]
    if not name and len(tasks) == 1:
        return tasks[0]
    if name not in names:
        raise ConfigError(unknown_name("task", name, names) if name else f"choose a --task: {', '.join(names)}.")
    return tasks[names.index(name)]


def load_task(store: Store, task: TransferTask) -> TaskData:
    """The task on the splits of a store: labels from split=train, tested on split=test.

    Raises:
        As `load_sides`.
    """
    return load_sides(task, Side.of_splits(store, "train"), Side.of_splits(store, "test"))


def load_sides(task: TransferTask, pool: Side, test: Side) -> TaskData:
    """Read a task's labels and units.

    Classes are those of the pool: what no label shows can be neither learned nor tested. Of kinds with several columns,
    samples without any vote or without any known label are unlabelled. Labels of samples that a score chose
    (`store.sampled`) are left out on both sides and counted in `dropped`: curves are of random draws.

    Args:
        task: Its unit is resolved to a column, or to `object` where it says `group` and the stores record none.
        pool: Where labels are drawn from.
        test: What is tested on; the same object as `pool` for all samples in both places, as folds begin.

    Raises:
        StoreError: When a column of the task is not in a store.
        ConfigError: For a kind of task whose labels cannot be read.
        DataError: When a side has too few labelled samples, classes or units, only one store has the unit, a value of
            a label or count cannot be one, or samples of a bag differ in label or unit.
    """
    if task.kind not in KINDS:
        raise ConfigError(f"task {task.name!r} is of kind {task.kind!r}; few-label tasks are {', '.join(KINDS)}.")
    sides = [pool] if test is pool else [pool, test]
    for side in sides:
        require_columns(side.store, task)
    classes, found = _READERS.get(task.kind, _several)(task, sides)
    dropped = dict(sorted(sum((labels.dropped for labels in found), Counter[str]()).items()))
    for labels in found:
        check_labels(task, classes, labels, dropped)
    units = [units_of(task, labels) for labels in found]
    check_units(task, found, units)
    train, tested = found[0], found[-1]
    (unit, train_units), (_, test_units) = units[0], units[-1]
    check_spread(task, tested, test_units)
    return TaskData(
        replace(task, unit=unit), classes, train.index, train.number, train_units, tested.index, tested.number,
        test_units, digest_of(classes, train.ids, train.number, train.targets), dropped, train.targets, tested.targets,
        train.ids, tested.ids, train.bags, tested.bags,
    )


def digest_of(classes: Sequence[str], ids: np.ndarray, labels: np.ndarray, targets: np.ndarray | None) -> str:
    """`label_digest` of samples as a task reads them: the name of the class, or all targets where there are several.

    Args:
        classes: Class names.
        ids: (n,) sample ids.
        labels: (n,) numbers into `classes`; not read where there are targets.
        targets: (n, K), or None.
    """
    return label_digest(ids, [classes[c] for c in labels] if targets is None else targets.tolist())


def require_columns(store: Store, task: TransferTask) -> None:
    """Refuse a store that lacks a column of a task.

    Raises:
        StoreError: Naming the column and those that the store has.
    """
    known = store.columns()
    for column in task.needs:
        if column not in known:
            raise StoreError(
                f"task {task.name!r} reads column {column!r}, which {store.path} does not have."
                f"{did_you_mean(column, known)} Columns: {', '.join(sorted(known))}. Prepare with a catalogue that has "
                "it (--label, --keep), or choose another --task, which may be a FILE.yaml."
            )


def _one(task: TransferTask, sides: Sequence[Side]) -> tuple[tuple[str, ...], list[Labels]]:
    """A class for each sample."""
    named = [class_names(task, side) for side in sides]
    classes = _in_order(task, {*named[0].names} - {""})
    number = {name: i for i, name in enumerate(classes)}
    found = []
    for side, each in zip(sides, named, strict=True):
        label = np.array([number.get(name, -1) for name in each.names], np.int64)
        rows = label >= 0
        lost = each.names[~rows & (each.names != "")].tolist()
        unknown = Counter(f"{name} (no label in {sides[0].name})" for name in lost)
        found.append(Labels(side, side.index[rows], label[rows], dropped=each.dropped + unknown))
    return classes, found


def _bagged(task: TransferTask, sides: Sequence[Side]) -> tuple[tuple[str, ...], list[Labels]]:
    """A class for each bag: that of its first sample, which all its samples share."""
    read = [read_bags(task, side, _wanted(task, side)) for side in sides]
    classes, found = _one(task, [side for side, _ in read])
    return classes, [replace(labels, bags=bags) for labels, (_, bags) in zip(found, read, strict=True)]


def _in_order(task: TransferTask, names: set[str]) -> tuple[str, ...]:
    """Classes that occur: alphabetically, or where they are ordered as the task lists them, else by their numbers."""
    listed = list(dict.fromkeys(task.classes.values() or task.columns))
    if not task.ordered or not listed:
        return tuple(sorted(names, key=_number_first if task.ordered else None))
    return tuple(name for name in listed if name in names)


def _number_first(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name


@dataclass(frozen=True)
class ClassNames:
    """Classes of the samples of a side.

    Attributes:
        names: (N,) class name of each sample as objects; empty where it has none, or was not drawn at random.
        dropped: Value -> samples that have it and no class; and what chose samples that were not drawn at random.
    """

    names: np.ndarray
    dropped: Counter[str]


def class_names(task: TransferTask, side: Side) -> ClassNames:
    """What a task of kind `class` or `retrieval` calls each sample of a side.

    Raises:
        StoreError: When a column of the task is not in the store.
        DataError: When a number of votes cannot be one.
    """
    values = _leading(task, side) if task.columns else side.texts(task.column)
    values = np.where(_wanted(task, side), values, "")
    kept, left = _leave_out_chosen(task, side, values != "")
    values = np.where(kept, values, "")
    mapping = dict(task.classes) or {value: value for value in task.columns or values.tolist()}
    names = np.array([mapping.get(value, "") if value else "" for value in values], dtype=object)
    dropped = Counter(str(value) for value in values[(names == "") & (values != "")].tolist())
    return ClassNames(names, dropped + left)


def _leading(task: TransferTask, side: Side) -> np.ndarray:
    """(N,) column of the answer that has its share of the votes; otherwise why there is none, empty without votes."""
    votes = np.nan_to_num(np.stack([_numbers(task, side, column) for column in task.columns], axis=1), nan=0.0)
    total = votes.sum(axis=1)
    share = votes.max(axis=1) / np.maximum(total, 1e-300)
    leading = np.array(task.columns, dtype=object)[votes.argmax(axis=1)]
    found = np.where(share > task.above, leading, NO_MAJORITY)
    found = np.where(total < task.least_votes, f"fewer than {task.least_votes:g} votes", found)
    return np.where(total > 0, found, "")


def _several(task: TransferTask, sides: Sequence[Side]) -> tuple[tuple[str, ...], list[Labels]]:
    """Votes, or labels that are present, absent or unknown."""
    found: list[Labels] = []
    for side in sides:
        values = np.stack([_numbers(task, side, column) for column in task.columns], axis=1)
        if task.kind == "counts":
            values = np.nan_to_num(values, nan=0.0)
        known = values > 0 if task.kind == "counts" else np.isfinite(values)
        rows, left = _leave_out_chosen(task, side, _wanted(task, side) & known.any(axis=1))
        values = values[rows]
        number = label_strata(task.kind, values, found[0].targets if found else values)
        found.append(Labels(side, side.index[rows], number, values, left))
    return task.columns, found


def label_strata(kind: str, targets: np.ndarray, pool: np.ndarray | None) -> np.ndarray:
    """(n,) numbers into `TaskData.strata` for kinds with several columns.

    Args:
        kind: `counts`, whose stratum is the leading answer, or `multilabel` or `dense`, whose stratum is the label or
            class that is present and rarest in the pool, and K where none is.
        targets: (n, K).
        pool: (N, K) targets of the pool.
    """
    if kind == "counts":
        leading: np.ndarray = targets.argmax(axis=1)
        return leading
    by_rarity = np.argsort(np.nansum(targets if pool is None else pool, axis=0), kind="stable")
    present = targets[:, by_rarity] > 0
    rarest: np.ndarray = np.where(present.any(axis=1), by_rarity[present.argmax(axis=1)], targets.shape[1])
    return rarest


def _pixels(task: TransferTask, sides: Sequence[Side]) -> tuple[tuple[str, ...], list[Labels]]:
    """Pixels of each class in label images; those of classes that the pool lacks are ignored."""
    counted = [count_pixels(task, side) for side in sides]
    kept = [_leave_out_chosen(task, side, _wanted(task, side) & each.pixels.any(axis=1))
            for side, each in zip(sides, counted, strict=True)]
    named = dict.fromkeys(name for each in counted for name in each.classes)
    seen = {name for name, some in zip(counted[0].classes, counted[0].pixels[kept[0][0]].any(axis=0), strict=True)
            if some}
    classes = tuple(name for name in named if name in seen)
    found: list[Labels] = []
    for side, each, (rows, left) in zip(sides, counted, kept, strict=True):
        pixels = np.stack([each.pixels[:, each.classes.index(name)] if name in each.classes else
                           np.zeros(len(rows), np.int64) for name in classes], axis=1)
        for name, some in zip(each.classes, each.pixels[rows].any(axis=0), strict=True):
            if some and name not in seen:
                left[f"{name} (its pixels; none in {sides[0].name})"] = int(
                    (each.pixels[rows, each.classes.index(name)] > 0).sum())
        rows = rows & pixels.any(axis=1)
        number = label_strata(task.kind, pixels[rows], found[0].targets if found else pixels[rows])
        found.append(Labels(side, side.index[rows], number, pixels[rows], left))
    return classes, found


def _wanted(task: TransferTask, side: Side) -> np.ndarray:
    wanted = np.ones(len(side.index), dtype=bool)
    for column, values in task.where.items():
        wanted &= np.isin(side.texts(column), values)
    return wanted


def _leave_out_chosen(task: TransferTask, side: Side, labelled: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    """Which of the labelled samples were drawn at random, and how many were chosen, by what chose them."""
    word = chosen_by(side.store, task.label_columns, side.index)
    left = Counter(f"chosen by {word}, not at random" for word in word[labelled].tolist() if word)
    return labelled & (word == ""), left


def _numbers(task: TransferTask, side: Side, column: str) -> np.ndarray:
    try:
        values = np.array([np.nan if value_text(value) == "" else float(value) for value in side.values(column)])
    except (TypeError, ValueError) as error:
        raise DataError(f"task {task.name!r}: column {column!r} of {side} holds no numbers: {error}.") from None
    votes = task.kind != "multilabel"
    allowed = (values >= 0) & np.isfinite(values) if votes else (values == 0) | (values == 1)
    wrong = values[~allowed & ~np.isnan(values)]
    if wrong.size:
        rule = "counts of 0 or more" if votes else "1 (present), 0 (absent) or missing"
        raise DataError(
            f"task {task.name!r}: column {column!r} of {side} has {wrong.size} values such as {wrong[0]:g}; kind "
            f"{task.kind!r} needs {rule}."
        )
    return values


_READERS: Mapping[str, Callable[[TransferTask, Sequence[Side]], tuple[tuple[str, ...], list[Labels]]]] = {
    "class": _one, "retrieval": _one, "bag": _bagged, "dense": _pixels,
}
"""Kind -> what reads its labels; `_several` reads those of the others."""
