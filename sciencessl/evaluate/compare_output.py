"""A comparison as CSV, as JSON and as text for a terminal, and the sentences that stand below its tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sciencessl.evaluate.compare import Comparison, Line, TaskTable
from sciencessl.evaluate.matching import QUANTITIES, amount, cost_words
from sciencessl.evaluate.report_words import listed, memory, operations
from sciencessl.evaluate.results import NEVER_LEARNED, Row
from sciencessl.evaluate.tables import aligned, resolution_text, wrapped
from sciencessl.plain import plain
from sciencessl.store.files import write_atomic

CSV, COLUMNS_CSV, LATEX, CURVES, COSTS = "compare.csv", "columns.csv", "compare.tex", "compare.png", "cost.png"

COLUMNS: Mapping[str, str] = {
    "task": "name of the task",
    "encoder": "run, method where several runs differ in their pretraining seed only, scratch or random",
    "arm": "what was fitted: frozen, knn, linear, finetune, scratch or random",
    "budget": "label budget as it was asked for",
    "metric": "primary metric of the task: score, interval and difference are in its units",
    "score": "mean over label subsets and encoders",
    "low": "lower end of the 95 % interval of the score",
    "high": "upper end",
    "difference": "score minus that of the random encoders named in baseline, paired; empty without them",
    "difference_low": "lower end of the 95 % interval of the difference",
    "difference_high": "upper end",
    "baseline": "random encoders that the difference is taken from",
    "resolved": "whether the interval of the difference excludes zero",
    "seeds": "pretraining seeds that the interval speaks for; 1: this checkpoint only",
    "encoders": "encoders averaged",
    "subsets": "label subsets averaged",
    "n_labels": "labels used",
    "trials": "mean number of settings tried in a fit, on the budget's own labels",
    "saw": "mark: what pretraining saw of the task",
    "note": "what a reader must know of the draw of labels",
    "runs": "pretraining runs that the following costs are the mean of; 0 where nothing was pretrained",
    "steps": "optimiser steps of a pretraining run, mean over runs; empty where unknown of one of them",
    "images_seen": "images of a pretraining run, repeats counted, likewise",
    "device_hours": "hours of a pretraining run on device, likewise",
    "device": "kind of device of pretraining",
    "peak_memory_bytes": "peak memory of a pretraining run, likewise",
    "estimated_operations": "floating-point operations of a pretraining run, likewise",
    "transfer": "folder of the transfer that the row is from",
}
"""Columns of the CSV that are always there -> what they mean; after them comes one for each metric."""

METRIC = "metric: mean over label subsets and encoders; nan where undefined, empty where not computed"
_RIGHT = frozenset({2, 3, 4, 5, 6})
_COST_RIGHT = frozenset({1, 2, 3, 4, 6, 7})


def write_comparison(comparison: Comparison) -> tuple[str, ...]:
    """Write all files of a comparison into its folder and return their names."""
    from sciencessl.evaluate.compare_figures import cost_figure, curve_figure
    from sciencessl.evaluate.compare_latex import latex
    from sciencessl.views.figures import png_bytes

    costs = cost_figure(comparison)
    files = {
        CSV: table_csv(comparison).encode(),
        COLUMNS_CSV: columns_csv(comparison).encode(),
        LATEX: latex(comparison).encode(),
        CURVES: png_bytes(curve_figure(comparison)),
        **({} if costs is None else {COSTS: png_bytes(costs)}),
    }
    for name, raw in files.items():
        write_atomic(comparison.out / name, raw)
    if costs is None:
        (comparison.out / COSTS).unlink(missing_ok=True)  # of an earlier comparison in this folder
    return tuple(files)


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """Every line as a flat record: `COLUMNS`, then its metrics."""
    return [_record(task, line) for task in comparison.tasks for line in task.lines]


def _record(task: TaskTable, line: Line) -> dict[str, Any]:
    values = {"task": task.task, "transfer": str(line.transfer)}
    for name in COLUMNS:
        if name not in values:
            values[name] = getattr(line.row if hasattr(line.row, name) else line.cost, name)
    return {**{name: values[name] for name in COLUMNS}, **line.row.metrics}


def table_csv(comparison: Comparison) -> str:
    """One line a task, encoder, arm and budget, of all tasks."""
    return _csv([*COLUMNS, *_metrics(comparison)], [[*record.values()] for record in _filled(comparison)])


def columns_csv(comparison: Comparison) -> str:
    """What the columns of `table_csv` mean."""
    return _csv(["column", "meaning"], [*COLUMNS.items(), *((name, METRIC) for name in _metrics(comparison))])


def _filled(comparison: Comparison) -> Iterator[dict[str, Any]]:
    blank = dict.fromkeys([*COLUMNS, *_metrics(comparison)], "")
    return ({**blank, **record} for record in records(comparison))


def _metrics(comparison: Comparison) -> list[str]:
    return sorted({name for task in comparison.tasks for line in task.lines for name in line.row.metrics})


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """`out`, `files`, `tasks` with what holds for each, and `rows` with the records of the CSV."""
    tasks: list[dict[str, Any]] = plain(list(comparison.tasks))
    about = [{name: value for name, value in task.items() if name != "lines"} for task in tasks]
    return {"out": str(comparison.out), "files": comparison.files, "tasks": about, "rows": records(comparison)}


def comparison_text(comparison: Comparison) -> str:
    """Each task's scores, then what pretraining took, then how to read both."""
    return "\n\n".join(_task_text(task) for task in comparison.tasks)


def _task_text(task: TaskTable) -> str:
    head = [f"task {task.task}: {metric_words(task)}; {test_words(task)}; {resolution_sentence(task)}"]
    scores = aligned([_header(task), *(_cells(task, line) for line in task.lines)], _RIGHT)
    costs = aligned([_COST_HEADER, *_cost_cells(task)], _COST_RIGHT)
    marks = [f"{name}: {sentence}" for name, sentences in task.marks.items() for sentence in sentences]
    foot = [*sentences(task), "saw: what pretraining saw of the task", *marks, *task.notes]
    return "\n".join([*wrapped(head), "", *scores, "", *costs, "", *wrapped(foot)])


def _header(task: TaskTable) -> tuple[str, ...]:
    return ("encoder", "arm", "budget", "labels", "seeds", task.shown.replace("_", " "), "difference", "", "to", "saw")


def _cells(task: TaskTable, line: Line) -> tuple[str, ...]:
    row = line.row
    compared = task.shows_primary and row.difference is not None
    return (
        name_words(row), row.arm, row.budget, f"{row.n_labels:,}", str(row.seeds),
        score_words(task, row, " +-") or "undefined",
        difference_words(row, " +-") if compared else "", not_resolved(row) if compared else "",
        row.baseline if compared else "", row.saw,
    )


_COST_HEADER = ("pretraining of", "runs", "steps", "images", "hours", "device", "peak memory", "operations")


def _cost_cells(task: TaskTable) -> Iterator[tuple[str, ...]]:
    for name, line in encoders(task).items():
        cost = line.cost
        known = [amount(getattr(cost, attribute), word) for word, attribute in QUANTITIES.items()]
        size, work = cost.peak_memory_bytes, cost.estimated_operations
        yield (name, str(cost.runs), *known, cost.device or "unknown", "unknown" if size is None else memory(size),
               "unknown" if work is None else operations(work))


def encoders(task: TaskTable) -> dict[str, Line]:
    """Every encoder or method that was pretrained -> its first line."""
    found: dict[str, Line] = {}
    for line in task.lines:
        if line.row.arm not in NEVER_LEARNED:
            found.setdefault(line.row.encoder, line)
    return found


def name_words(row: Row) -> str:
    """The encoder, with how many were averaged."""
    return row.encoder if row.encoders == 1 else f"{row.encoder} (mean of {row.encoders})"


def score_words(task: TaskTable, row: Row, sign: str) -> str:
    """`0.610 +-0.030`: what is shown, and half of its interval where that is known; empty where it is undefined."""
    score, low, high = task.score(row)
    return "" if math.isnan(score) else f"{score:.3f}{_half(low, high, sign)}"


def difference_words(row: Row, sign: str) -> str:
    """`+0.080 +-0.030`: the difference to the row's baseline; empty without one."""
    if row.difference is None:
        return ""
    low, high = (math.nan if end is None else end for end in (row.difference_low, row.difference_high))
    return f"{row.difference:+.3f}{_half(low, high, sign)}"


def _half(low: float, high: float, sign: str) -> str:
    half = (high - low) / 2
    return f"{sign}{half:.3f}" if math.isfinite(half) else ""


def not_resolved(row: Row) -> str:
    """`n.r.` where the interval of a difference holds zero or is unknown."""
    return "" if row.difference is None or row.resolved else "n.r."


def metric_words(task: TaskTable) -> str:
    """The metric that is shown, and which way is better where that is down."""
    return task.shown.replace("_", " ") + (", lower is better" if task.shown_is_loss else "")


def test_words(task: TaskTable) -> str:
    """What was tested on."""
    return f"{task.n_test:,} test samples{f' ({task.tested})' if task.tested else ''}, unit {task.unit}"


def resolution_sentence(task: TaskTable) -> str:
    """What the test set can tell apart in the primary metric."""
    return resolution_text(task.resolution, task.metric.replace("_", " "))


def sentences(task: TaskTable) -> list[str]:
    """How to read the scores, and how runs are matched."""
    if not task.shows_primary:
        return [f"{task.shown.replace('_', ' ')}: mean over label subsets; intervals and differences are known of "
                f"{task.metric.replace('_', ' ')} only", task.matching.sentence]
    found = encoders(task)
    one = [name for name, line in found.items() if line.row.seeds == 1]
    read = ["scores with half of their 95 % interval"]
    if any(line.row.difference is not None for line in task.lines):
        better = "; below zero is better" if task.lower_is_better else ""
        read.append("differences: paired, to the random encoders that are named, with half of their 95 % interval"
                    f"{better}; n.r.: not resolved, the interval holds zero")
    if len(found) > 1:
        read.append("differences between encoders have no interval here; for one transfer both in one call")
    if one:
        read.append(f"one pretraining seed, so that intervals are of this checkpoint only: {listed(one)}")
    return [*read, task.matching.sentence]


def cost_sentences(task: TaskTable) -> list[str]:
    """What pretraining each encoder took."""
    return [
        f"{name}: {cost_words(line.cost)}{f', mean of {line.cost.runs} runs' if line.cost.runs > 1 else ''}"
        for name, line in encoders(task).items()
    ]
