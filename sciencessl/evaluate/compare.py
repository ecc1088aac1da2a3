"""`compare`: the few-label tables of several transfers as one, with what pretraining cost beside every score."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sciencessl.errors import ConfigError, RunError, unknown_name
from sciencessl.evaluate.matching import (
    MATCH,
    NO_PRETRAINING,
    Cost,
    Matching,
    cost_words,
    find_matching,
    mean_cost,
    read_cost,
    require_matching,
)
from sciencessl.evaluate.metrics import LOWER_IS_BETTER
from sciencessl.evaluate.report_words import listed
from sciencessl.evaluate.results import NEVER_LEARNED, RESULT, Row, TransferResult, read_result
from sciencessl.plain import plain
from sciencessl.store.remote import local_path

_SETTING = ("store", "kind", "metric", "lower_is_better", "unit", "classes", "n_pool", "n_test", "tested", "draw")
"""What transfers of one task must agree on to stand in one table."""


@dataclass(frozen=True)
class Line:
    """A row of a transfer in the joined table.

    Attributes:
        row: As the transfer has it; numbers that are not finite are NaN.
        transfer: Folder of the transfer, of the first one where several have the row.
        cost: What pretraining its encoder took.
    """

    row: Row
    transfer: Path
    cost: Cost


@dataclass(frozen=True)
class TaskTable:
    """All rows of one task.

    Attributes:
        task: Its name.
        kind: As, with all that follows up to `tested`, in `TransferResult`.
        metric: The primary metric.
        lower_is_better: Of the primary metric.
        unit: What is drawn and resampled.
        classes: Class names.
        n_test: Test samples.
        resolution: Smallest difference that the test set resolves; NaN where unknown.
        tested: What it was tested on, where that is not split=test.
        shown: Metric that tables and figures show.
        lines: Curve by curve, encoders that never learned last, budgets from few labels to many.
        marks: Pretrained encoder or method -> sentences on what its pretraining, or that of its runs, saw.
        runs: Every pretrained run -> what it took.
        matching: By what these runs are matched.
        notes: What the transfers say of how their rows were made.
    """

    task: str
    kind: str
    metric: str
    lower_is_better: bool
    unit: str
    classes: tuple[str, ...]
    n_test: int
    resolution: float
    tested: str
    shown: str
    lines: tuple[Line, ...]
    marks: Mapping[str, tuple[str, ...]]
    runs: Mapping[str, Cost]
    matching: Matching
    notes: tuple[str, ...]

    @property
    def budgets(self) -> tuple[str, ...]:
        """Spelled as in the rows, from few labels to many."""
        return tuple(dict.fromkeys(line.row.budget for line in sorted(self.lines, key=lambda line: line.row.n_labels)))

    @property
    def curves(self) -> dict[tuple[str, str], dict[str, Line]]:
        """(encoder, arm) -> budget -> line, in the order of `lines`."""
        found: dict[tuple[str, str], dict[str, Line]] = {}
        for line in self.lines:
            found.setdefault((line.row.encoder, line.row.arm), {})[line.row.budget] = line
        return found

    @property
    def shown_is_loss(self) -> bool:
        """Whether small values of the metric shown are good."""
        return self.lower_is_better if self.shows_primary else self.shown in LOWER_IS_BETTER

    @property
    def shows_primary(self) -> bool:
        """Whether intervals and differences are known of what is shown."""
        return self.shown == self.metric

    def score(self, row: Row) -> tuple[float, float, float]:
        """The metric that is shown with both ends of its interval; these are NaN where they are unknown."""
        if self.shows_primary:
            return row.score, row.low, row.high
        return row.metrics.get(self.shown, math.nan), math.nan, math.nan


@dataclass(frozen=True)
class Comparison:
    """What `compare` joined and wrote.

    Attributes:
        out: Folder.
        tasks: A table for each task, in the order given.
        files: Names of the files in `out`.
    """

    out: Path
    tasks: tuple[TaskTable, ...]
    files: tuple[str, ...] = ()


def compare(transfers: Sequence[str | Path], out: str | Path, match: str = "none", metric: str = "") -> Comparison:
    """Join what several calls of `transfer` found: tables as CSV and LaTeX, curves, and scores against cost.

    Rows are as the transfers have them: no score, interval or difference is computed anew. A difference keeps the
    random encoders that it was taken from. Whether runs are matched by steps, images or hours is found out and told
    (`matching.find_matching`).

    Args:
        transfers: Folders that `transfer` wrote, of one task or several.
        out: Folder for `compare.csv`, `columns.csv` (what its columns mean), `compare.tex`, `compare.png`, and
            `cost.png` where costs are known and all curves of a task share a budget. What it holds of these is
            replaced.
        match: One of `matching.MATCH`: what pretrained runs must be matched by on each task.
        metric: Metric in tables and figures; by default each task's primary one, the only one with intervals. The CSV
            always has all.

    Raises:
        ConfigError: When transfers of one task differ in store, test set, unit or metric, when two have different
            numbers for one row or different runs of one name, when runs are not matched as asked, or for an unknown
            metric or `match`.
        RunError: When a folder holds no transfer, or one that is damaged or has no rows.
    """
    from sciencessl.evaluate.compare_output import write_comparison

    tasks = join([read_result(folder) for folder in transfers], match, metric)
    comparison = Comparison(local_path(out), tasks)
    return dataclasses.replace(comparison, files=write_comparison(comparison))


def join(results: Sequence[TransferResult], match: str = "none", metric: str = "") -> tuple[TaskTable, ...]:
    """A table for each task; nothing is read or written.

    Args:
        results: Of several transfers.
        match: As in `compare`.
        metric: As in `compare`.

    Raises:
        ConfigError, RunError: As `compare` says.
    """
    if match not in MATCH:
        raise ConfigError(unknown_name("way to match runs", match, MATCH))
    if not results:
        raise ConfigError("compare needs one or more folders that `sciencessl transfer` wrote, and was given none.")
    by_task: dict[str, list[TransferResult]] = {}
    for result in results:
        if not result.rows:
            raise RunError(f"{result.out / RESULT} has no rows; run `sciencessl transfer` again.")
        by_task.setdefault(result.task, []).append(result)
    tables = tuple(_table(parts, metric) for parts in by_task.values())
    for table in tables:
        require_matching(match, table.task, table.runs, table.matching)
    return tables


def _table(parts: Sequence[TransferResult], metric: str) -> TaskTable:
    first = parts[0]
    for other in parts[1:]:
        _check_setting(first, other)
    members, runs = _pretrained(parts)
    costs = {encoder: mean_cost([runs[run] for run in names]) for encoder, names in members.items()}
    lines = _lines(parts, costs)
    marks = {encoder: tuple(dict.fromkeys(result.marks[name] for result in parts for name in (encoder, *names)
                                          if name in result.marks)) for encoder, names in members.items()}
    drawn = sorted({f"{line.row.budget}: {line.row.note}" for line in lines if line.row.note})
    return TaskTable(
        task=first.task, kind=first.kind, metric=first.metric, lower_is_better=first.lower_is_better, unit=first.unit,
        classes=first.classes, n_test=first.n_test, resolution=first.resolution, tested=first.tested,
        shown=_shown(first, lines, metric), lines=lines, marks=marks, runs=runs, matching=find_matching(runs),
        notes=tuple(dict.fromkeys((*(note for result in parts for note in result.notes), *drawn))),
    )


def _check_setting(one: TransferResult, two: TransferResult) -> None:
    differ = [
        f"{name} ({_value(getattr(one, name))} and {_value(getattr(two, name))})"
        for name in _SETTING if getattr(one, name) != getattr(two, name)
    ]
    if differ:
        raise ConfigError(
            f"{one.out} and {two.out} are both of task {one.task!r}, but differ in {listed(differ)}: their numbers are "
            "not of one test. Transfer their runs in the same way, or compare them in calls of their own."
        )


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _pretrained(parts: Sequence[TransferResult]) -> tuple[dict[str, tuple[str, ...]], dict[str, Cost]]:
    """Pretrained encoder or method -> its runs, and run -> what it took; a name stands for one thing only."""
    members: dict[str, tuple[tuple[str, ...], Path]] = {}
    runs: dict[str, tuple[Cost, Path]] = {}
    for result in parts:
        for encoder in dict.fromkeys(row.encoder for row in result.rows if row.arm not in NEVER_LEARNED):
            names = tuple(result.members.get(encoder, (encoder,)))
            other, folder = members.setdefault(encoder, (names, result.out))
            if set(other) != set(names):
                raise _ambiguous(encoder, (folder, result.out), (listed(other), listed(names)))
            for name in names:
                cost = read_cost(result.cost.get(name, {}))
                known, folder = runs.setdefault(name, (cost, result.out))
                if known != cost:
                    raise _ambiguous(name, (folder, result.out), (cost_words(known), cost_words(cost)))
    return {name: value for name, (value, _) in members.items()}, {name: value for name, (value, _) in runs.items()}


def _ambiguous(name: str, folders: tuple[Path, Path], what: tuple[str, str]) -> ConfigError:
    return ConfigError(
        f"{folders[0]} and {folders[1]} both have {name!r}, but it is not the same there ({what[0]}; {what[1]}): one "
        "name stands for one run or method. Rename a run folder and transfer it again into a new --out, or leave one "
        "of the two folders out."
    )


def _lines(parts: Sequence[TransferResult], costs: Mapping[str, Cost]) -> tuple[Line, ...]:
    found: dict[tuple[str, str, str], Line] = {}
    for result in parts:
        for row in map(_finite, result.rows):
            key = row.encoder, row.arm, row.budget
            cost = NO_PRETRAINING if row.arm in NEVER_LEARNED else costs[row.encoder]
            line = found.setdefault(key, Line(row, result.out, cost))
            if plain(line.row) != plain(row):
                raise _contradiction(result.task, line, row, result.out)
    curves = list(dict.fromkeys((encoder, arm) for encoder, arm, _ in found))

    def place(line: Line) -> tuple[int, int, int]:
        row = line.row
        last = NEVER_LEARNED.index(row.arm) if row.arm in NEVER_LEARNED else -1
        return last, curves.index((row.encoder, row.arm)), row.n_labels

    return tuple(sorted(found.values(), key=place))


def _finite(row: Row) -> Row:
    """The files have null for numbers that are not finite."""
    score, low, high = (math.nan if value is None else value for value in (row.score, row.low, row.high))
    return dataclasses.replace(row, score=score, low=low, high=high)


def _contradiction(task: str, line: Line, row: Row, folder: Path) -> ConfigError:
    names = [name for name, value in plain(row).items() if plain(line.row)[name] != value]
    differ = [f"{name} {getattr(line.row, name)} and {getattr(row, name)}" for name in names
              if name not in ("metrics", "each", "parts")]
    where = f"{row.encoder}, {row.arm}, budget {row.budget}"
    cause = "Rows of encoders that never learned depend on architecture, input, and numbers of encoders and subsets"
    if row.arm not in NEVER_LEARNED:
        cause = "Either these are two runs of one name, or they were transferred with other settings"
    return ConfigError(
        f"{line.transfer} and {folder} both have a row of task {task!r} for {where}, with different numbers "
        f"({'; '.join(differ) or listed(names)}). {cause}: transfer the runs in one call, or leave one folder out."
    )


def _shown(first: TransferResult, lines: Sequence[Line], metric: str) -> str:
    known = {first.metric, *(name for line in lines for name in line.row.metrics)}
    if metric and metric not in known:
        raise ConfigError(f"task {first.task!r}: {unknown_name('metric', metric, known)}")
    return metric or first.metric
