"""A transfer task on a store: which samples, which labels, which units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sciencessl.errors import ConfigError, DataError, StoreError, did_you_mean, unknown_name
from sciencessl.evaluate.subsets import label_digest
from sciencessl.evaluate.task_files import SUFFIXES, read_task, value_text
from sciencessl.spec import TransferTask
from sciencessl.store.format import SPLITS
from sciencessl.store.reader import Store

OBJECT = "object"
KINDS = ("class", "multilabel", "counts", "retrieval")
"""Kinds of task whose labels can be read."""

NONE_OF_THESE = "none of these"
"""Stratum of the samples of a multilabel task that show no label."""


@dataclass(frozen=True)
class TaskData:
    """One task's samples.

    Attributes:
        task: The task, its unit resolved to a column or `object`.
        classes: Class names in the order of their numbers; for kinds with several columns their names.
        train: (n,) store indices of the label pool, from split=train.
        train_labels: (n,) numbers into `strata`: the class, the leading answer, or the rarest label that is present.
        train_units: (n,) unit names.
        test: (m,) store indices, from split=test.
        test_labels: (m,) numbers into `strata`.
        test_units: (m,) unit names.
        digest: Digest of the pool's labels: with task and seed it fixes every subset.
        dropped: Value of the column -> samples left out because the task does not map it, or because its class has no
            label in split=train.
        train_targets: (n, K) votes, or 1, 0 and NaN for unknown, for kinds with several columns; else None.
        test_targets: (m, K), likewise.
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

    @property
    def strata(self) -> tuple[str, ...]:
        """Names of the label numbers, by which subsets are drawn."""
        return (*self.classes, NONE_OF_THESE) if self.task.kind == "multilabel" else self.classes

    def take_test(self, rows: np.ndarray) -> TaskData:
        """The same with some of the test samples, by position."""
        targets = None if self.test_targets is None else self.test_targets[rows]
        return replace(self, test=self.test[rows], test_labels=self.test_labels[rows],
                       test_units=self.test_units[rows], test_targets=targets)


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
    """Read a task's labels and units from a store.

    Classes are those of split=train: what no label shows can be neither learned nor tested. Of kinds with several
    columns, samples without any vote or without any known label are unlabelled.

    Raises:
        StoreError: When a column of the task is not in the store.
        ConfigError: For a kind of task whose labels cannot be read.
        DataError: When a split has too few labelled samples, classes or units, a unit is in both splits, or a value of
            a label or count cannot be one.
    """
    if task.kind not in KINDS:
        raise ConfigError(f"task {task.name!r} is of kind {task.kind!r}; few-label tasks are {', '.join(KINDS)}.")
    _require_columns(store, task)
    codes, wanted = store.split_codes(), np.ones(len(store), dtype=bool)
    for column, values in task.where.items():
        wanted &= np.isin(_strings(store.column(column)), values)
    found = (_several if task.columns else _one)(store, task, wanted, codes == SPLITS.index("train"))
    label, targets = found.number, found.targets
    train, test = (np.flatnonzero((label >= 0) & (codes == SPLITS.index(split))) for split in ("train", "test"))
    if targets is None:
        _check(store, task, {"train": label[train], "test": label[test]}, found.classes, found.dropped)
    else:
        _check_targets(store, task, {"train": targets[train], "test": targets[test]})
    unit, units = _units(store, task, np.concatenate([train, test]))
    _check_units(store, unit, units, train, test)
    _check_spread(store, task, units[test], label[test] if targets is None else np.zeros(len(test)))
    ids = store.ids
    return TaskData(
        replace(task, unit=unit), found.classes, train, label[train], units[train], test, label[test], units[test],
        label_digest([ids[i] for i in train], found.text[train]), found.dropped,
        None if targets is None else targets[train], None if targets is None else targets[test],
    )


def _require_columns(store: Store, task: TransferTask) -> None:
    known = store.columns()
    for column in (*task.label_columns, *task.where):
        if column not in known:
            raise StoreError(
                f"task {task.name!r} reads column {column!r}, which {store.path} does not have."
                f"{did_you_mean(column, known)} Columns: {', '.join(sorted(known))}. Prepare with a catalogue that has "
                "it (--label, --keep), or choose another --task, which may be a FILE.yaml."
            )


@dataclass(frozen=True)
class _Labels:
    """All N samples: number of the stratum (-1 unlabelled), text of the label, and (N, K) targets or None."""

    classes: tuple[str, ...]
    number: np.ndarray
    text: np.ndarray
    dropped: dict[str, int]
    targets: np.ndarray | None = None


def _one(store: Store, task: TransferTask, wanted: np.ndarray, train: np.ndarray) -> _Labels:
    """A class for each sample."""
    raw = _strings(store.column(task.column))
    wanted = wanted & (raw != "")
    mapping = dict(task.classes) or {value: value for value in set(raw[wanted])}
    names = np.array([mapping.get(value, "") for value in raw], dtype=object)
    mapped = wanted & (names != "")
    classes = tuple(sorted(set(names[mapped & train])))
    used = mapped & np.isin(names, classes)
    dropped = _counts(raw[wanted & ~mapped])
    dropped |= {f"{name} (no label in split=train)": n for name, n in _counts(names[mapped & ~used]).items()}
    number = {name: i for i, name in enumerate(classes)}
    label = np.array([number[name] if use else -1 for name, use in zip(names, used, strict=True)], np.int64)
    return _Labels(classes, label, names, dropped)


def _several(store: Store, task: TransferTask, wanted: np.ndarray, train: np.ndarray) -> _Labels:
    """Votes, or labels that are present, absent or unknown."""
    values = np.stack([_numbers(store, task, column) for column in task.columns], axis=1)
    if task.kind == "counts":
        values = np.nan_to_num(values, nan=0.0)
        stratum, labelled = values.argmax(axis=1), wanted & (values.sum(axis=1) > 0)
    else:
        stratum, labelled = _rarest(values, train & wanted), wanted & np.isfinite(values).any(axis=1)
    text = np.array([str(row) for row in values.tolist()], dtype=object)
    return _Labels(task.columns, np.where(labelled, stratum, -1), text, {}, values)


def _rarest(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(N,) the label that is present and rarest in the pool, L where none is."""
    by_rarity = np.argsort(np.nansum(values[train], axis=0), kind="stable")
    present = values[:, by_rarity] == 1
    rarest: np.ndarray = np.where(present.any(axis=1), by_rarity[present.argmax(axis=1)], values.shape[1])
    return rarest


def _numbers(store: Store, task: TransferTask, column: str) -> np.ndarray:
    raw = store.column(column).tolist()
    try:
        values = np.array([np.nan if value_text(value) == "" else float(value) for value in raw])
    except (TypeError, ValueError) as error:
        raise DataError(f"task {task.name!r}: column {column!r} of {store.path} holds no numbers: {error}.") from None
    allowed = (values >= 0) & np.isfinite(values) if task.kind == "counts" else (values == 0) | (values == 1)
    wrong = values[~allowed & ~np.isnan(values)]
    if wrong.size:
        rule = "counts of 0 or more" if task.kind == "counts" else "1 (present), 0 (absent) or missing"
        raise DataError(
            f"task {task.name!r}: column {column!r} of {store.path} has {wrong.size} values such as {wrong[0]:g}; kind "
            f"{task.kind!r} needs {rule}."
        )
    return values


def _check_targets(store: Store, task: TransferTask, targets: dict[str, np.ndarray]) -> None:
    for split, values in targets.items():
        present = (values > 0).any(axis=0)
        both = present & (values == 0).any(axis=0)
        enough = present.sum() >= 2 if task.kind == "counts" else both.any()
        if not enough:
            lack = "votes for two answers" if task.kind == "counts" else "a label that is both present and absent"
            raise DataError(
                f"task {task.name!r}: split={split} of {store.path} has {len(values)} labelled samples, lacks {lack} "
                f"in columns {', '.join(task.columns)}. Prepare with more of this split, or label more samples."
            )


def _strings(values: np.ndarray) -> np.ndarray:
    """(N,) text of each value, as objects; empty for a missing one. Whole numbers read the same in any column type."""
    return np.array([value_text(value) for value in values.tolist()], dtype=object)


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
