"""The labelled samples of one side of a task, and what refuses labels and units that say nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sciencessl.errors import DataError
from sciencessl.evaluate.bags import Bags
from sciencessl.spec import TransferTask
from sciencessl.store.sides import Side

OBJECT = "object"
"""Unit of a task whose samples, or bags, are drawn and resampled one by one."""


@dataclass(frozen=True)
class Labels:
    """The n labelled samples, or bags, of a side.

    Attributes:
        side: That they are of.
        index: (n,) store indices; of bags those of their first samples.
        number: (n,) numbers into `TaskData.strata`.
        targets: (n, K) or None, as in `TaskData`.
        dropped: Value -> samples that were left out.
        bags: All bags of the side, for kind `bag`.
    """

    side: Side
    index: np.ndarray
    number: np.ndarray
    targets: np.ndarray | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    bags: Bags | None = None

    @property
    def ids(self) -> np.ndarray:
        """(n,) ids of the samples, or names of the bags."""
        if self.bags is not None:
            return self.bags.names_of(self.index)
        names = self.side.store.ids
        return np.array([names[i] for i in self.index], dtype=object)

    @property
    def noun(self) -> str:
        """What has a label."""
        return "sample" if self.bags is None else "bag"

    def texts(self, column: str) -> np.ndarray:
        """(n,) text of each value of a column."""
        return replace(self.side, index=self.index).texts(column)


def check_labels(task: TransferTask, classes: tuple[str, ...], labels: Labels, dropped: dict[str, int]) -> None:
    """Refuse a side whose labels do not differ.

    Raises:
        DataError: Saying what is there and what is lacking.
    """
    targets = labels.targets
    counted = ", ".join(f"{n} {value}" for value, n in dropped.items())
    left_out = f" (left out: {counted})" if counted else ""
    if targets is None:
        present = [classes[c] for c in np.unique(labels.number)]
        enough = len(present) >= 2
        where = f"column {task.column!r}" if task.column else f"columns {', '.join(task.columns)}"
        lack = (f" of {len(present)} classes{f' ({present[0]})' if present else ''} in {where}; two classes are needed"
                f"{left_out}")
    elif task.kind == "counts":
        enough = bool((targets > 0).any(axis=0).sum() >= 2)
        lack = f", lacks votes for two answers in columns {', '.join(task.columns)}{left_out}"
    elif task.kind == "dense":
        enough = bool((targets > 0).any(axis=0).sum() >= 2)
        lack = f", lacks pixels of two classes in column {task.column!r}{left_out}"
    else:
        silent = [name for name, known in zip(classes, np.isfinite(targets).any(axis=0), strict=True) if not known]
        if silent and len(targets):
            raise DataError(
                f"task {task.name!r}: {labels.side} has no value in {', '.join(map(repr, silent))}, whether present or "
                "absent; leave such columns out of the task's `columns`, or label samples there."
            )
        enough = bool(((targets > 0).any(axis=0) & (targets == 0).any(axis=0)).any())
        lack = f", lacks a label that is both present and absent in columns {', '.join(task.columns)}{left_out}"
    if not enough:
        raise DataError(
            f"task {task.name!r}: {labels.side} has {len(labels.index)} labelled {labels.noun}s{lack}. Label more "
            "there, prepare with a larger share of them (--stratify gives each split its own), or fold (--folds)."
        )


def units_of(task: TransferTask, labels: Labels) -> tuple[str, np.ndarray]:
    """The unit that is drawn and resampled; the group that `prepare` recorded where the task says `group`.

    Returns:
        Its name, and (n,) the unit of each sample.

    Raises:
        DataError: When a sample has none.
    """
    store = labels.side.store
    if task.unit == OBJECT or (task.unit == "group" and "group" not in store.columns()):
        return OBJECT, labels.ids
    units = labels.texts(task.unit)
    lacking = int((units == "").sum())
    if lacking:
        raise DataError(
            f"task {task.name!r}: {lacking} {labels.noun}s of {store.path} have no {task.unit!r}, which is the unit of "
            "the task; give every one of them one."
        )
    return task.unit, units


def check_spread(task: TransferTask, tested: Labels, units: np.ndarray) -> None:
    """Refuse a test whose (n,) units are too few to tell how classes spread.

    Raises:
        DataError: When there are no more units than classes.
    """
    n_units = len(set(units))
    n_classes = 1 if tested.targets is not None else len(np.unique(tested.number))
    if n_units <= n_classes:
        raise DataError(
            f"task {task.name!r}: {tested.side} has {n_units} units for {n_classes} classes, which say nothing of the "
            "spread; label more of them, prepare with a larger --test-fraction, or fold (--folds)."
        )


def check_units(task: TransferTask, found: Sequence[Labels], units: Sequence[tuple[str, np.ndarray]]) -> None:
    """Refuse two stores of which one has no units.

    Raises:
        DataError: Naming the store that lacks them.
    """
    if len(found) == 1:
        return
    (unit, _), (other, _) = units
    stores = [labels.side.store for labels in found]
    if unit != other:
        lacks = stores[unit != OBJECT].path
        raise DataError(
            f"task {task.name!r}: its unit is {task.unit!r}, which {lacks} does not record, and the other store does; "
            "prepare it with --group, or give the task another unit in a FILE.yaml."
        )
