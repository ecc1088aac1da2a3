"""The few-label table as text for a terminal and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import textwrap
from collections.abc import Sequence

from sciencessl.evaluate.groups import GroupScore
from sciencessl.evaluate.results import NEVER_LEARNED, Endpoint, Row, TransferEstimate, TransferResult
from sciencessl.evaluate.statistics import DISAGREEMENT

WIDTH = 120
"""Longest line of the text, in characters."""

_HEADER = ("encoder", "arm", "budget", "labels", "sets", "score", "minus random", "", "trials", "saw")
_RIGHT = frozenset({2, 3, 4, 5, 6, 8})
ROWWISE = ("resolved: the interval of that row's difference excludes zero, not adjusted for the number of rows; "
           "endpoints that are not primary are adjusted among themselves")
"""How to read the verdict on a row."""

GROUPS = ("groups: 95 % intervals over label subsets and test units, for these checkpoints only; the worst of several "
          "looks worse than it is, for it was picked")
"""How to read a score by groups."""

_NAME = 12
"""Fewest characters of an encoder's name in the table; the notes have it in full."""


def table_text(result: TransferResult) -> str:
    """The table as shown on a terminal: resolution first, then scores with intervals, then what pretraining saw."""
    metric = result.metric.replace("_", " ") + (" (lower is better)" if result.lower_is_better else "")
    head = [
        f"task {result.task}: {', '.join(result.classes)}; {result.n_pool} labels to draw from, "
        f"{result.n_test} test samples, unit {result.unit}",
        *([f"tested on {result.tested}"] if result.tested else []),
        resolution_text(result.resolution, metric),
    ]
    foot = [
        f"{metric}, mean, +- half of the 95 % interval over {_covered(result)}",
        "sets: label subsets averaged; saw: what pretraining saw of the task",
        *([ROWWISE] if any(row.resolved is not None for row in result.rows) else []),
        *(f"{name}: {sentence}" for name, sentence in result.said().items()),
        *result.notes,
        *_dropped(result),
        *sorted({f"{row.budget}: {row.note}" for row in result.rows if row.note}),
    ]
    foot += [f"{name}: {len(runs)} pretraining seeds, {', '.join(runs)}" for name, runs in result.members.items()]
    table = aligned(_clipped([_HEADER, *map(_cells, result.rows)]), _RIGHT)
    ends = [endpoint_text(endpoint) for endpoint in result.endpoints]
    return "\n".join([*wrapped(head), "", *table, "", *wrapped(ends), *wrapped(foot), *group_lines(result)])


def resolution_text(resolution: float, metric: str) -> str:
    """What the test set can tell apart, before anything was fitted."""
    if math.isnan(resolution):
        return f"what this test set can resolve in {metric} is not known beforehand: read the intervals"
    return (f"a difference below about {resolution:.3f} in {metric} is not expected to show (if arms disagree on "
            f"{100 * DISAGREEMENT:.0f} % of the test)")


def _covered(result: TransferResult) -> str:
    """What the intervals speak for."""
    seeds = {row.seeds for row in result.rows if row.arm not in NEVER_LEARNED}
    several = "pretraining seeds where there are several, " if seeds - {1} else ""
    alone = "; a single run: this checkpoint only" if several else "; this checkpoint only"
    random = " (random: encoders too)" if any(row.seeds > 1 for row in result.rows if row.arm == "random") else ""
    return f"{several}label subsets and test units{random}{alone if 1 in seeds else ''}"


def group_lines(result: TransferResult) -> list[str]:
    """The score of each frozen curve by groups of test samples, the worst marked; nothing where none was asked for."""
    lines = []
    for detail in result.details:
        if detail.groups and detail.arm == "frozen":
            lines += ["", f"{detail.encoder} {detail.arm} at {detail.budget} labels, by {result.by}:"]
            lines += aligned([("group", "n", "units", "score", "", ""), *map(_group_cells, detail.groups)],
                             frozenset({1, 2, 3}))
    return [*lines, *wrapped(["", GROUPS])] if lines else []


def _group_cells(group: GroupScore) -> tuple[str, ...]:
    score = f"{group.score:.3f}" if group.high is None else _with_half(group.score, group.high, ".3f")
    return group.group, str(group.n), str(group.n_units), score, "worst" if group.worst else "", group.note


def estimate_text(estimate: TransferEstimate) -> str:
    """What a transfer would do: fits and hours of each arm, and what its test set can resolve."""
    return "\n".join([
        f"would do {estimate.fits} fits on {estimate.embeddings:,} embeddings to compute; {estimate.n_pool} labels to "
        f"draw from, {estimate.n_test} test samples; {resolution_text(estimate.resolution, 'the score')}",
        *(f"{arm.arm}: {arm.fits} fits, about {arm.hours:.2g} hours" for arm in estimate.arms),
    ])


def wrapped(lines: Sequence[str]) -> list[str]:
    """Lines no longer than `WIDTH`; what goes over is indented below."""
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False)  # names of columns stay whole
    return [part for line in lines for part in wrapper.wrap(line) or [""]]


def _dropped(result: TransferResult) -> list[str]:
    left = ", ".join(f"{count} {value}" for value, count in result.dropped.items())
    return [f"left out of the task: {left}"] if left else []


def _cells(row: Row) -> tuple[str, ...]:
    several = f"{row.encoders} encoders" if row.arm == "random" else f"{row.encoders} seeds"
    name = row.encoder if row.encoders == 1 else f"{row.encoder} ({several})"
    difference = "" if row.difference is None else _with_half(row.difference, row.difference_high, "+.3f")
    return (
        name,
        row.arm,
        row.budget,
        str(row.n_labels),
        str(row.subsets),
        _with_half(row.score, row.high, ".3f"),
        difference,
        {True: "resolved", False: "not resolved", None: ""}[row.resolved],
        f"{row.trials:.1f}",
        row.saw,
    )


def _clipped(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Names cut so that lines of `aligned` fit `WIDTH`."""
    rest = sum(2 + max(len(row[i]) for row in rows) for i in range(1, len(rows[0])))
    most = max(WIDTH - rest, _NAME)
    return [(name if len(name) <= most else f"{name[: most - 3]}...", *cells) for name, *cells in rows]


def _with_half(middle: float, high: float | None, form: str) -> str:
    """`0.619 +-0.029`: intervals are symmetric."""
    return f"{middle:{form}} +-{float('nan') if high is None else high - middle:.3f}"


def endpoint_text(endpoint: Endpoint) -> str:
    """One line: the mean gap between two curves, its interval, and whether it is resolved."""
    span = f"over log labels {endpoint.from_labels} to {endpoint.to_labels}"
    if endpoint.from_labels == endpoint.to_labels:
        span = f"at {endpoint.to_labels} labels"
    probability = f"p = {endpoint.p_value:.2g}"
    if not endpoint.primary:
        probability += f", Holm-adjusted {endpoint.p_adjusted:.2g}"
    kind = "primary" if endpoint.primary else "further"
    arm = endpoint.baseline_arm
    other = endpoint.baseline if arm in NEVER_LEARNED else f"{endpoint.baseline} {arm}"
    gaps = ", ".join(f"{gap:+.3f}" for gap in endpoint.each)
    each = f"; each pretraining seed: {gaps}" if len(endpoint.each) > 1 else ""
    return (
        f"{kind} endpoint: {endpoint.encoder} {endpoint.arm} minus {other}, "
        f"mean {span}: {endpoint.difference:+.3f} [{endpoint.low:+.3f}, {endpoint.high:+.3f}], "
        f"{probability}, {'resolved' if endpoint.resolved else 'not resolved'}{each}"
    )


def difference_text(row: Row) -> str:
    """`+0.083 [+0.051, +0.115]`, with `not resolved` where the interval holds zero."""
    if row.difference is None:
        return ""
    text = f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
    return text if row.resolved else f"{text} not resolved"


def aligned(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Rows of cells as lines with columns two spaces apart; the columns numbered in `right` end flush."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def table_csv(rows: Sequence[Row]) -> str:
    """All rows with every metric, one line each; `each` and `parts` as JSON."""
    out = io.StringIO()
    names = [field.name for field in dataclasses.fields(Row) if field.name != "metrics"]
    metrics = sorted({name for row in rows for name in row.metrics})
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "resolved", *metrics])
    for row in rows:
        values = [json.dumps(value) if isinstance(value, tuple | dict) else value
                  for value in (getattr(row, name) for name in names)]
        writer.writerow([*values, row.resolved, *[row.metrics.get(name, "") for name in metrics]])
    return out.getvalue()
