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
METRICS = ("balanced_accuracy", "accuracy")
"""Primary metrics that are means over test samples, so that intervals over subsets and units hold for them."""


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
        dropped: Value of the column -> samples left out because the task does not map it, or because its class has no
            label in split=train.
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

    Classes are those of split=train: what no label shows can be neither learned nor tested.

    Raises:
        StoreError: When the task's column is not in the store.
        ConfigError: For a kind of task or a metric that few-label curves are not drawn for.
        DataError: When a split has too few labelled samples, classes or units, or a unit is in both splits.
    """
    _check_kind(task)
    raw, codes = _strings(store.column(task.column)), store.split_codes()
    wanted = raw != ""
    for column, values in task.where.items():
        wanted &= np.isin(_strings(store.column(column)), values)
    mapping = dict(task.classes) or {value: value for value in set(raw[wanted])}
    names = np.array([mapping.get(value, "") for value in raw], dtype=object)
    mapped = wanted & (names != "")
    classes = tuple(sorted(set(names[mapped & (codes == SPLITS.index("train"))])))
    used = mapped & np.isin(names, classes)
    dropped = _counts(raw[wanted & ~mapped])
    dropped |= {f"{name} (no label in split=train)": n for name, n in _counts(names[mapped & ~used]).items()}
    number = {name: i for i, name in enumerate(classes)}
    label = np.array([number.get(name, -1) for name in names], np.int64)
    train, test = (np.flatnonzero(used & (codes == SPLITS.index(split))) for split in ("train", "test"))
    _check(store, task, {"train": label[train], "test": label[test]}, classes, dropped)
    unit, units = _units(store, task, np.concatenate([train, test]))
    _check_units(store, unit, units, train, test)
    _check_spread(store, task, units[test], label[test])
    ids = store.ids
    return TaskData(
        replace(task, unit=unit), classes, train, label[train], units[train], test, label[test], units[test],
        label_digest([ids[i] for i in train], [classes[c] for c in label[train]]), dropped,
    )


def _check_kind(task: TransferTask) -> None:
    if task.kind != "class":
        raise ConfigError(f"task {task.name!r} is of kind {task.kind!r}; few-label curves are drawn for kind 'class'.")
    if task.metric not in METRICS:
        raise ConfigError(f"task {task.name!r}: {unknown_name('primary metric', task.metric, METRICS)}")


def _strings(values: np.ndarray) -> np.ndarray:
    """(N,) text of each value, as objects; empty for a missing one. Whole numbers read the same in any column type."""
    return np.array([_text(value) for value in values.tolist()], dtype=object)


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _counts(values: np.ndarray) -> dict[str, int]:
    return {str(v): int(n) for v, n in zip(*np.unique(values.astype(str), return_counts=True), strict=True)}


def _units(store: Store, task: TransferTask, used: np.ndarray) -> tuple[str, np.ndarray]:
    """The unit that is drawn and resampled; the group that `prepare` recorded where the task says `group`."""
    column = task.unit
    if column == "group" and "group" not in store.columns():
        column = OBJECT
    if column == OBJECT:
        return OBJECT, np.array(store.ids, dtype=object)
    units = _strings(store.column(column))
    lacking = int((units[used] == "").sum())
    if lacking:
        raise DataError(
            f"task {task.name!r}: {lacking} samples of {store.path} have no {column!r}, which is the unit of the task; "
            "give every sample one."
        )
    return column, units


def _check(
    store: Store, task: TransferTask, labels: dict[str, np.ndarray], classes: tuple[str, ...], dropped: dict[str, int]
) -> None:
    for split, numbers in labels.items():
        present = [classes[c] for c in np.unique(numbers)]
        if len(present) < 2:
            left_out = ", ".join(f"{n} {value}" for value, n in dropped.items())
            raise DataError(
                f"task {task.name!r}: split={split} of {store.path} has {len(numbers)} labelled samples of "
                f"{len(present)} classes{f' ({present[0]})' if present else ''} in column {task.column!r}; two classes "
                f"are needed{f' (left out by the task: {left_out})' if left_out else ''}. "
                "Prepare with a larger share of this split, or label more samples."
            )


def _check_spread(store: Store, task: TransferTask, units: np.ndarray, labels: np.ndarray) -> None:
    n_units, n_classes = len(set(units)), len(np.unique(labels))
    if n_units <= n_classes:
        raise DataError(
            f"task {task.name!r}: split=test of {store.path} has {n_units} units for {n_classes} classes, which say "
            "nothing of the spread; test on more units (prepare with a larger --test-fraction)."
        )


def _check_units(store: Store, unit: str, units: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
    if unit == OBJECT:
        if "group" in store.columns():
            _check_units(store, "group", _strings(store.column("group")), train, test)
        return
    both = (set(units[train]) & set(units[test])) - {""}
    if both:
        raise DataError(
            f"{store.path}: {len(both)} values of {unit!r} are in both train and test, such as {sorted(both)[:3]}: "
            "the test would leak. Prepare the store with --group so that a group stays in one split."
        )
