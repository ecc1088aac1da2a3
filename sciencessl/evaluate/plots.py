"""Figures of transfers, drawn without a display."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sciencessl.evaluate.report_words import curves, metric_name, metric_unit
from sciencessl.evaluate.results import NEVER_LEARNED, Row, TransferResult
from sciencessl.store.files import write_atomic
from sciencessl.views.figures import COLOURS, GREY, marker_of, png_bytes

LINES: dict[str, Any] = {
    "frozen": "-", "knn": "--", "max": (0, (5, 1, 1, 1)), "abmil": (0, (9, 2, 2, 2)), "linear": "-.",
    "finetune": (0, (8, 2)),
    "scratch": (0, (1, 1.2)), "random": (0, (3, 1.2, 1, 1.2, 1, 1.2)),
}
"""Line style of each arm."""

_NAME = 46
"""Most characters of a line of the legend."""


def few_label_figure(result: TransferResult) -> Any:
    """Score against the number of labels: means with 95 % bands, a thin line for each seed, encoder or subset.

    Random encoders are grey, chance is dotted. Each curve has a colour and a marker, each arm a line style.
    """
    from matplotlib.figure import Figure

    found = curves(result.rows)
    lines = sum(1.3 + _label(rows).count("\n") for rows in found) / 2  # of the legend, which has two columns
    figure = Figure(figsize=(8.6, 4.7 + 0.14 * lines), layout="constrained")
    axes = figure.subplots()
    colours = iter(COLOURS * (len(found) // len(COLOURS) + 1))
    for number, rows in enumerate(found):
        _draw_curve(axes, rows, GREY if rows[0].arm == "random" else next(colours), marker_of(number))
    if result.metric == "balanced_accuracy":
        axes.axhline(1 / len(result.classes), color="black", lw=0.8, ls=":", label="chance")
    elif chance := sorted((row.n_labels, row.metrics[name]) for row in result.rows
                          if (name := f"mean_{result.metric}") in row.metrics):
        axes.axhline(chance[-1][1], color="black", lw=0.8, ls=":", label="chance: mean fractions")
    within_bounds(axes, result.lower_is_better)
    axes.set_xscale("log")
    ticks = spaced(sorted({row.n_labels for row in result.rows}))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labels used (number of samples)")
    axes.set_ylabel(textwrap.fill(_axis(result), 36), parse_math=False)
    tested = f", tested on {result.tested}" if result.tested else ""
    title = f"{result.task}{tested}: {result.n_test:,} test samples, 95 % intervals"
    axes.set_title(textwrap.fill(title, 100), fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2, handlelength=4.2)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a run may be called `$x$`
    return figure


def within_bounds(axes: Any, lower_is_better: bool) -> None:
    """Cut the axis of a score at the ends of [0, 1], which intervals may leave; losses have no upper end."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.03), high if lower_is_better else min(high, 1.03))


def _draw_curve(axes: Any, rows: Sequence[Row], colour: str, marker: str) -> None:
    sizes, style = [row.n_labels for row in rows], LINES.get(rows[0].arm, "-")
    for line in thin_lines(rows):
        axes.plot(*zip(*line, strict=True), color=colour, lw=0.7, alpha=0.55, zorder=1.5)
    low, high = [row.low for row in rows], [row.high for row in rows]
    axes.fill_between(sizes, low, high, color=colour, alpha=0.1, lw=0)
    if len(rows) == 1:  # a band and lines of one budget have no width
        axes.vlines(sizes, low, high, color=colour, lw=1.2, alpha=0.6)
        axes.plot(sizes * len(rows[0].each), rows[0].each, ".", color=colour, ms=3, alpha=0.7)
    axes.plot(sizes, [row.score for row in rows], color=colour, marker=marker, ls=style, ms=5, lw=2,
              label=_label(rows))


def thin_lines(rows: Sequence[Row]) -> list[list[tuple[int, float]]]:
    """Of one curve, (labels, score) of each seed, encoder or subset; none where there is one at every budget.

    A budget with a single value, such as all labels, is a point of every line; one with fewer values than the others
    is left out of the lines that it lacks.
    """
    count = max(len(row.each) for row in rows)
    if count < 2:
        return []
    return [
        [(row.n_labels, row.each[0 if len(row.each) == 1 else i]) for row in rows
         if len(row.each) == 1 or i < len(row.each)]
        for i in range(count)
    ]


def _label(rows: Sequence[Row]) -> str:
    """Two lines or three: the curve, what its pretraining saw, what its thin lines are."""
    row = rows[0]
    if row.arm in NEVER_LEARNED:
        name = f"{row.encoder} ({f'mean of {row.encoders}' if row.arm == 'random' else 'no pretraining'})"
    else:
        name = f"{row.encoder}, {row.arm} (pretraining saw: {row.saw})"
    return "\n".join([*textwrap.wrap(name, _NAME), *_thin(rows)])


def _thin(rows: Sequence[Row]) -> list[str]:
    count, row = len(thin_lines(rows)), rows[0]
    if not count:
        return []
    if row.encoders == 1:
        return [f"thin: {count} label subsets"]
    return [f"thin: {count} {'random encoders' if row.arm == 'random' else 'pretraining seeds'}"]


def _axis(result: TransferResult) -> str:
    more = ", ".join(filter(None, [metric_unit(result), "lower is better" if result.lower_is_better else ""]))
    return f"{metric_name(result)} ({more})" if more else metric_name(result)


def spaced(ticks: Sequence[int]) -> list[int]:
    """Of rising numbers of labels those whose names have room on a logarithmic axis, first and last among them."""
    if len(ticks) < 2:
        return list(ticks)
    gap = (ticks[-1] / ticks[0]) ** 0.06
    kept = [ticks[0]]
    for tick in ticks[1:-1]:
        if tick >= kept[-1] * gap and tick * gap <= ticks[-1]:
            kept.append(tick)
    return [*kept, ticks[-1]]


def shortened(text: str, most: int) -> str:
    """The text, its middle cut out where it has more than `most` characters: names often differ at their ends."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def save_figure(figure: Any, path: Path) -> None:
    """Write the figure as PNG."""
    write_atomic(path, png_bytes(figure))
