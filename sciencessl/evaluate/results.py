"""What a transfer finds: rows of a table with their intervals, and everything a reader needs beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table: an encoder (or the mean over random ones), an arm and a budget.

    Attributes:
        encoder: Name of the run, or `random`.
        arm: `frozen`, `knn` or `random`.
        budget: Spelling of the budget.
        n_labels: Labels used.
        subsets: Number of label subsets averaged.
        encoders: Number of encoders averaged.
        metric: The task's primary metric.
        score: Its mean.
        low: Lower end of the 95 % interval.
        high: Upper end.
        difference: Score minus that of the random encoders, paired; None without them.
        difference_low: Lower end of its interval.
        difference_high: Upper end.
        trials: Mean number of settings tried in a fit, on the budget's own labels.
        saw: Level of the mark "what pretraining saw".
        note: What a reader must know of the draw.
        metrics: All metrics, averaged.
    """

    encoder: str
    arm: str
    budget: str
    n_labels: int
    subsets: int
    encoders: int
    metric: str
    score: float
    low: float
    high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    trials: float
    saw: str
    note: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def resolved(self) -> bool | None:
        """Whether the interval of the difference excludes zero; None without one."""
        if self.difference_low is None or self.difference_high is None:
            return None
        return self.difference_low > 0 or self.difference_high < 0


@dataclass(frozen=True)
class TransferResult:
    """A few-label table.

    Attributes:
        out: Folder of table, plot, subsets and cached fits.
        task: Name of the task.
        unit: What is drawn and resampled.
        classes: Class names.
        n_pool: Labelled samples of split=train.
        n_test: Test samples.
        resolution: Smallest difference in balanced accuracy that the test set can resolve, before anything is fitted.
        marks: Encoder -> sentence on what its pretraining saw.
        rows: The table.
        cost: Encoder -> its `cost.json`.
        dropped: Class values that the task leaves out -> samples.
        seconds: Wall time of this call.
        fits: Fits done by this call; the others were cached.
    """

    out: Path
    task: str
    unit: str
    classes: tuple[str, ...]
    n_pool: int
    n_test: int
    resolution: float
    marks: Mapping[str, str]
    rows: tuple[Row, ...]
    cost: Mapping[str, Mapping[str, Any]]
    dropped: Mapping[str, int]
    seconds: float
    fits: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        for row, source in zip(values["rows"], self.rows, strict=True):
            row["resolved"] = source.resolved
        return {**values, "out": str(self.out)}


@dataclass(frozen=True)
class TransferEstimate:
    """What `dry_run` found out: nothing was written.

    Attributes:
        fits: Fits that are not cached yet.
        embeddings: Images through encoders whose features are not cached yet.
        resolution: As in `TransferResult`.
        n_pool: Labelled samples of split=train.
        n_test: Test samples.
    """

    fits: int
    embeddings: int
    resolution: float
    n_pool: int
    n_test: int
