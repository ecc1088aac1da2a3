"""A transfer task on a store: which samples, which labels, which units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sciencessl.errors import ConfigError, DataError, unknown_name
from sciencessl.evaluate.subsets import label_digest
from sciencessl.spec import TransferTask
from sciencessl.store.format import SPLITS
from sciencessl.store.reader import Store

OBJECT = "object"


@dataclass(frozen=True)
class TaskData:
    """One task's samples.

    Attributes:
        task: The task, its unit resolved to a column or `object`.
        classes: Class names in the order of their numbers.
        train: (n,) store indices of the label pool, from split=train.
        train_labels: (n,) class numbers.
        train_units: (n,) unit names.
        test: (m,) store indices, from split=test.
        test_labels: (m,) class numbers.
        test_units: (m,) unit names.
        digest: Digest of the pool's labels: with task and seed it fixes every subset.
        dropped: Value of the column -> samples left out because the task does not map it.
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


def find_task(tasks: Sequence[TransferTask], name: str) -> TransferTask:
    """The task of that name; the only one when no name is given.

    Raises:
        ConfigError: When there is none of that name, or several to choose from.
    """
    names = [task.name for task in tasks]
    if not name and len(tasks) == 1:
        return tasks[0]
    if name not in names:
        raise ConfigError(unknown_name("task", name, names) if name else f"choose a --task: {', '.join(names)}.")
    return tasks[names.index(name)]


def load_task(store: Store, task: TransferTask) -> TaskData:
    """Read a task's labels and units from a store.

    Raises:
        StoreError: When the task's column is not in the store.
        DataError: When a split has no labelled samples, or fewer than two classes.
    """
    raw = _strings(store.column(task.column))
    wanted = np.array([value != "" for value in raw])
    for column, values in task.where.items():
        kept = _strings(store.column(column))
        wanted &= np.array([value in values for value in kept])
    mapping = dict(task.classes) or {value: value for value in sorted(set(raw[wanted]))}
    used = wanted & np.array([value in mapping for value in raw])
    dropped = {str(v): int(n) for v, n in zip(*np.unique(raw[wanted & ~used], return_counts=True), strict=True)}
    classes = tuple(sorted({mapping[value] for value in raw[used]}))
    codes = store.split_codes()
    unit, units = _units(store, task)
    label = np.array([classes.index(mapping[v]) if ok else -1 for v, ok in zip(raw, used, strict=True)], np.int64)
    pools = {name: np.flatnonzero(used & (codes == SPLITS.index(name))) for name in ("train", "test")}
    _check(store, task, pools, label, classes, dropped)
    _check_units(store, unit, units, pools)
    ids = store.ids
    train, test = pools["train"], pools["test"]
    return TaskData(
        replace(task, unit=unit), classes, train, label[train], units[train], test, label[test], units[test],
        label_digest([ids[i] for i in train], [classes[c] for c in label[train]]), dropped,
    )


def _strings(values: np.ndarray) -> np.ndarray:
    """Text of each value; empty for a missing one."""
    return np.array(["" if v is None or v != v else str(v) for v in values], dtype=object)


def _units(store: Store, task: TransferTask) -> tuple[str, np.ndarray]:
    """The unit that is drawn and resampled; the group that `prepare` recorded where the task says `group`."""
    column = task.unit
    if column == "group" and "group" not in store.columns():
        column = OBJECT
    if column == OBJECT:
        return OBJECT, np.array(store.ids, dtype=object)
    units = _strings(store.column(column))
    if (units == "").any():
        raise DataError(
            f"task {task.name!r}: {int((units == '').sum())} samples of {store.path} have no {column!r}, which is the "
            "unit of the task; give every sample one."
        )
    return column, units


def _check(
    store: Store, task: TransferTask, pools: dict[str, np.ndarray], label: np.ndarray, classes: tuple[str, ...],
    dropped: dict[str, int],
) -> None:
    for split, index in pools.items():
        present = {classes[c] for c in np.unique(label[index])}
        if len(present) < 2:
            raise DataError(
                f"task {task.name!r}: split={split} of {store.path} has {len(index)} labelled samples of "
                f"{len(present)} classes in column {task.column!r}; two classes are needed"
                f"{f' (values the task does not map: {dropped})' if dropped else ''}."
            )


def _check_units(store: Store, unit: str, units: np.ndarray, pools: dict[str, np.ndarray]) -> None:
    if unit == OBJECT:
        group = "group" in store.columns()
        if group:
            _check_units(store, "group", _strings(store.column("group")), pools)
        return
    both = (set(units[pools["train"]]) & set(units[pools["test"]])) - {""}
    if both:
        raise DataError(
            f"{store.path}: {len(both)} values of {unit!r} are in both train and test, such as {sorted(both)[:3]}: "
            "the test would leak. Prepare the store with --group so that a group stays in one split."
        )
