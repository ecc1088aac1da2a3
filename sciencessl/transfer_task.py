"""What a few-label curve is drawn for: a label, what is drawn and resampled, and by which metric it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sciencessl.errors import ConfigError, unknown_name

PRIMARY_METRICS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("class", "bag"), ("balanced_accuracy", "accuracy", "quadratic_kappa")),
    "dense": ("mean_iou", "micro_iou", "dice"),
    "multilabel": ("average_precision", "auroc", "f1"),
    "counts": ("nll", "rmse"),
    "retrieval": ("mean_average_precision", "precision_at_k"),
}
"""Kind of task -> metrics that it may be judged by, the default first."""

ORDERED_KINDS = ("class", "bag")
"""Kinds of task whose classes may be in an order."""

NO_MAJORITY = "no majority"
"""Value of a sample with enough votes, where no answer has more than its share of them: `classes` may map it."""


@dataclass(frozen=True)
class TransferTask:
    """A supervised question that few-label curves are drawn for.

    Attributes:
        name: Such as `morphology`.
        column: The label column (a row column or a column of a table), for kinds with one.
        classes: Value of the column -> class name. Several values may share a class; values that are not listed are
            dropped from the task. Empty means: every value that occurs is its own class. Of votes the values are names
            of `columns` and `NO_MAJORITY`, which is dropped where `classes` is empty. Of label images the values are
            names that the table gives, or else the numbers; pixels of other values are ignored.
        where: Column -> values kept; rows with any other value are left out before anything else.
        kind: What the label is.
        unit: What is drawn and resampled: a column (patient, source tile), or `object` for the sample, or bag, itself.
            By default `object`; of bags and label images `group`, so that all of a patient stays together.
        metric: The primary metric, one of `PRIMARY_METRICS` of the kind; its first by default.
        budgets: Default label budgets: `N` labels in all, `N/class`, `P%`, a number of units, or `all`.
        description: One line for people.
        columns: Of `multilabel` (1, 0 or missing), or of the answers of one question of `counts` (votes, 0 or more). Of
            `class` and `retrieval` the same votes, instead of a `column`: the leading answer is the sample's value.
        above: Share of the votes that the leading answer must exceed to be the value.
        least_votes: Samples with fewer votes have no value.
        ordered: Whether the classes are in an order, from least to most: that of `classes`, or else of their numbers or
            names. Then `quadratic_kappa` is known, and of two classes `sensitivity_at_95`, which is that to the last
            one; for kinds `class` and `bag`.
        bag: Column that names the bag of each sample, for kind `bag`: all samples of a bag have one label.

    Raises:
        ConfigError: For an unknown kind or metric, no name, unit or budget, columns that do not fit the kind, or a
            share or number of votes out of range.
    """

    name: str
    column: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kind: Literal["class", "multilabel", "counts", "dense", "bag", "retrieval"] = "class"
    unit: str = ""
    metric: str = ""
    budgets: tuple[str, ...] = ("20/class", "50/class", "all")
    description: str = ""
    columns: tuple[str, ...] = ()
    above: float = 0.5
    least_votes: float = 10
    ordered: bool = False
    bag: str = "slide"

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", self.unit or ("group" if self.kind in ("bag", "dense") else "object"))
        _check_task(self)
        object.__setattr__(self, "metric", self.metric or PRIMARY_METRICS[self.kind][0])

    @property
    def label_columns(self) -> tuple[str, ...]:
        """All columns that hold the label, one or several."""
        return self.columns or (self.column,)

    @property
    def needs(self) -> tuple[str, ...]:
        """All columns that a store must have: of the label, of `where`, and the bag's."""
        return (*self.label_columns, *self.where, *((self.bag,) if self.kind == "bag" else ()))


def _check_task(task: TransferTask) -> None:
    where = f"task {task.name!r}"
    if not (task.name and task.budgets and task.bag):
        raise ConfigError(f"{where}: name, bag {task.bag!r} and budgets {list(task.budgets)} must not be empty.")
    if task.kind not in PRIMARY_METRICS:
        raise ConfigError(f"{where}: {unknown_name('kind', task.kind, PRIMARY_METRICS)}")
    known = PRIMARY_METRICS[task.kind]
    if task.metric not in ("", *known):
        raise ConfigError(f"{where}: {unknown_name('primary metric', task.metric, known)}")
    if task.metric == "quadratic_kappa" and not task.ordered:
        raise ConfigError(f"{where}: metric 'quadratic_kappa' is of classes in an order: list them in `classes` from "
                          "least to most, and set `ordered: true`.")
    if task.ordered and task.kind not in ORDERED_KINDS:
        raise ConfigError(f"{where}: ordered is for kinds {', '.join(ORDERED_KINDS)}; this one is {task.kind!r}.")
    given = f"got column {task.column!r}, columns {list(task.columns)}, classes {dict(task.classes)}"
    least = {"multilabel": 1, "counts": 2}.get(task.kind, 0)
    few = len(set(task.columns)) < max(least or 2, len(task.columns))
    if task.kind == "dense" and (not task.column or task.columns):
        raise ConfigError(f"{where}: kind 'dense' reads one 'column' of label images; {given}.")
    if not least and bool(task.column) == bool(task.columns):
        raise ConfigError(f"{where}: kind {task.kind!r} reads one 'column', or 'columns' of votes; {given}.")
    if (few and not task.column) or (least and (task.column or task.classes)):
        also = "" if not least else ", no 'column' or 'classes'"
        raise ConfigError(f"{where}: kind {task.kind!r} reads {least or 2} or more different 'columns'{also}; {given}.")
    strange = {} if least else {*task.classes} - {*task.columns, NO_MAJORITY}
    if task.columns and strange:
        raise ConfigError(
            f"{where}: classes of votes map columns of the task and {NO_MAJORITY!r}, not {sorted(strange)}; {given}."
        )
    if not (0 <= task.above < 1 and task.least_votes > 0):
        raise ConfigError(f"{where}: above = {task.above} must be from 0 to below 1, and least_votes = "
                          f"{task.least_votes} above 0.")
