"""What a transfer finds: rows of a table with their intervals, and everything a reader needs beside them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sciencessl.errors import RunError
from sciencessl.evaluate.calibration import ReliabilityBin
from sciencessl.evaluate.groups import GroupScore
from sciencessl.store.remote import local_path

RESULT = "transfer.json"
NEVER_LEARNED = ("scratch", "random")
"""Arms whose encoders were not pretrained."""

LEVEL = 0.05
"""Probability below which an adjusted endpoint counts as resolved: one minus the confidence of the intervals."""


@dataclass(frozen=True)
class Row:
    """One line of the table: an encoder (or the mean over random ones), an arm and a budget.

    Attributes:
        encoder: Name of the run, of the method where several runs differ in their pretraining seed only, or `scratch`
            or `random`, with the architecture where there are several.
        arm: One of `curves.ARMS`.
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
        saw: Level of the mark "what pretraining saw", `, probed` where online probes read the task's labels, and
            `, leak` where pool and test share samples.
        note: What a reader must know of the draw.
        metrics: All metrics, averaged; NaN where one is undefined on this test set.
        baseline: Name of the random row that `difference` is taken from; empty without one.
        seeds: Pretraining seeds (or random encoders) that the interval speaks for: 1 for one checkpoint, whose interval
            says nothing of others.
        each: Score of each pretraining seed (or random encoder), averaged over subsets; of each label subset where
            there is one encoder.
        parts: Source (`pretraining`, `subsets`, `units`, `interactions`) -> variance of the score from it alone.
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
    baseline: str = ""
    seeds: int = 1
    each: tuple[float, ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def resolved(self) -> bool | None:
        """Whether the interval of the difference excludes zero; None without one."""
        if self.difference_low is None or self.difference_high is None:
            return None
        return self.difference_low > 0 or self.difference_high < 0


@dataclass(frozen=True)
class Endpoint:
    """Two curves in one number: the mean gap between them over log labels.

    Attributes:
        encoder: Name of the run or method.
        baseline: Name of the curve it is compared with: random encoders, another run or method, or `scratch`.
        primary: Whether this is the one comparison that the table was made for; the others are adjusted.
        from_labels: Smallest number of labels.
        to_labels: Largest.
        difference: Area under the run's curve minus that of the baseline, in units of the score.
        low: Lower end of the 95 % interval, not adjusted.
        high: Upper end.
        p_value: Two-sided, not adjusted.
        p_adjusted: Holm-adjusted over the endpoints that are not primary; `p_value` for the primary one.
        arm: Arm of `encoder`.
        baseline_arm: Arm of `baseline`.
        seeds: As in `Row`.
        each: The difference for each pretraining seed, averaged over label subsets.
    """

    encoder: str
    baseline: str
    primary: bool
    from_labels: int
    to_labels: int
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    arm: str = "frozen"
    baseline_arm: str = "random"
    seeds: int = 1
    each: tuple[float, ...] = ()

    @property
    def resolved(self) -> bool:
        """Whether the difference is told from zero after the adjustment."""
        return self.p_adjusted < LEVEL


@dataclass(frozen=True)
class Detail:
    """A closer look at one curve at the largest budget.

    Attributes:
        encoder: As in `Row`.
        arm: As in `Row`.
        budget: Spelling of the budget.
        temperature: Fitted on the budget's labels, of the first encoder and subset, mean over folds; 1 where labels
            were too few to ask, None where the arm has none.
        reliability: Confidence against accuracy, of the first encoder, subset and deal of folds, each fit at its
            temperature; empty for kinds of task without one class a sample.
        calibration_error: Expected calibration error at that temperature; NaN likewise.
        confusion: (K, K) rows true class, columns prediction: test samples, mean over encoders and subsets; empty
            likewise.
        groups: The score by groups of test samples, where `by` asks for them.
    """

    encoder: str
    arm: str
    budget: str
    temperature: float | None = None
    reliability: tuple[ReliabilityBin, ...] = ()
    calibration_error: float = math.nan
    confusion: tuple[tuple[float, ...], ...] = ()
    groups: tuple[GroupScore, ...] = ()


@dataclass(frozen=True)
class LeakCheck:
    """The test samples against one side that was learned from.

    Attributes:
        what: `label pool` or `pretraining`.
        store: Path of its store.
        runs: That learned from it in pretraining.
        samples: How many it has; None where the store is out of reach, so that nothing is known.
        tested: Test samples.
        shared: Test samples that it has, as they are or as copies.
        refused: Those of them that make the test leak; with these, a result says that the leak was accepted.
        by: Means -> test samples that it tells of.
        look_alikes: Test samples that look much like one of its, too little to confirm.
        unknown: What could not be compared, as a sentence.
    """

    what: str
    store: str
    runs: tuple[str, ...]
    samples: int | None
    tested: int
    shared: int
    refused: int
    by: Mapping[str, int]
    look_alikes: int = 0
    unknown: str = ""


@dataclass(frozen=True)
class TransferResult:
    """A few-label table.

    Attributes:
        out: Folder of table, plot, subsets and cached fits.
        task: Name of the task.
        unit: What is drawn and resampled.
        classes: Class names; names of the labels or answers for kinds with several columns.
        n_pool: Labelled samples that labels are drawn from; with folds all of them, of which each fit sees those
            outside its fold.
        n_test: Test samples.
        resolution: Smallest difference in accuracy that the test set is expected to resolve, before anything is fitted;
            NaN for metrics that no such number is known for.
        marks: Encoder -> sentence on what its pretraining saw.
        rows: The table.
        cost: Encoder -> its `cost.json`.
        dropped: Class values that the task leaves out, and what chose samples that were not drawn at random -> samples.
        seconds: Wall time of this call.
        fits: Fits done by this call; the others were cached.
        endpoints: Areas under the curves, the primary one first; empty where the arms make no pair.
        notes: What a reader must know of how rows were made, such as which random encoders.
        store: Manifest digest of the store.
        kind: Kind of the task.
        metric: Its primary metric.
        lower_is_better: Whether small scores are good.
        details: A closer look at each curve at the largest budget.
        by: Column of the groups in `details`; empty without one.
        tested: What it was tested on, in words, where that is not split=test; empty otherwise.
        members: Method -> its runs, where several differ in their pretraining seed only.
        draw: How label subsets were drawn: `stratified` or `random`.
        leaks: The test against the label pool and against each training store of the runs.
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
    endpoints: tuple[Endpoint, ...] = ()
    notes: tuple[str, ...] = ()
    store: str = ""
    kind: str = "class"
    metric: str = "balanced_accuracy"
    lower_is_better: bool = False
    details: tuple[Detail, ...] = ()
    by: str = ""
    tested: str = ""
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    draw: str = "stratified"
    leaks: tuple[LeakCheck, ...] = ()

    def said(self) -> dict[str, str]:
        """The marks with the names that share a sentence together, as in `byol-1, byol-2`."""
        names: dict[str, list[str]] = {}
        for name, sentence in self.marks.items():
            names.setdefault(sentence, []).append(name)
        return {", ".join(found): sentence for sentence, found in names.items()}

    def to_json(self) -> dict[str, Any]:
        """Values of strict JSON: numbers that are not finite become null."""
        values = dataclasses.asdict(self)
        for name in ("rows", "endpoints"):
            for value, source in zip(values[name], getattr(self, name), strict=True):
                value["resolved"] = source.resolved
        plain: dict[str, Any] = _strict({**values, "out": str(self.out)})
        return plain


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(folder: str | Path) -> TransferResult:
    """The table that `transfer` wrote to a folder.

    Raises:
        RunError: When there is none, or it is damaged.
    """
    path = local_path(folder, "TRANSFER") / RESULT
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(_row(row) for row in values["rows"])
        endpoints = tuple(_made(Endpoint, end) for end in values["endpoints"])
        return TransferResult(**{
            **values, "rows": rows, "endpoints": endpoints, "classes": tuple(values["classes"]),
            "notes": tuple(values["notes"]), "out": Path(folder), "resolution": _number(values["resolution"]),
            "details": tuple(map(_detail, values["details"])),
            "members": {name: tuple(runs) for name, runs in values["members"].items()},
            "leaks": tuple(LeakCheck(**{**each, "runs": tuple(each["runs"])}) for each in values.get("leaks", ())),
        })
    except FileNotFoundError:
        raise RunError(f"{folder} has no {RESULT}; make one with `sciencessl transfer`.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise RunError(f"{path} is damaged ({cause}); run `sciencessl transfer` again.") from error


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _row(values: Mapping[str, Any]) -> Row:
    row: Row = _made(Row, {**values, "metrics": {name: _number(value) for name, value in values["metrics"].items()}})
    return row


def _detail(values: Mapping[str, Any]) -> Detail:
    return Detail(**{
        **values, "calibration_error": _number(values["calibration_error"]),
        "reliability": tuple(ReliabilityBin(**part) for part in values["reliability"]),
        "groups": tuple(GroupScore(**{**part, "score": _number(part["score"])}) for part in values["groups"]),
        "confusion": tuple(map(tuple, values["confusion"])),
    })


def _made(kind: type, values: Mapping[str, Any]) -> Any:
    return kind(**{
        name: tuple(value) if name == "each" else value for name, value in values.items() if name != "resolved"
    })


@dataclass(frozen=True)
class ArmEstimate:
    """What an arm would take.

    Attributes:
        arm: Its name.
        fits: Fits that are not cached yet.
        hours: Embedding (counted for the first arm that needs it) and training, on this machine, from the time of one
            batch and one step; heads on features take seconds and are not counted.
    """

    arm: str
    fits: int
    hours: float


@dataclass(frozen=True)
class TransferEstimate:
    """What `dry_run` found out: nothing was written.

    Attributes:
        fits: Fits that are not cached yet.
        embeddings: Images through encoders that are not cached yet.
        resolution: As in `TransferResult`.
        n_pool: As in `TransferResult`.
        n_test: Test samples.
        arms: Each arm by itself.
    """

    fits: int
    embeddings: int
    resolution: float
    n_pool: int
    n_test: int
    arms: tuple[ArmEstimate, ...] = ()
