"""Figures of a comparison: few-label curves of all tasks side by side, and scores against what pretraining took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sciencessl.evaluate.compare import Comparison, Line, TaskTable
from sciencessl.evaluate.compare_output import metric_words, name_words
from sciencessl.evaluate.plots import LINES, within_bounds
from sciencessl.evaluate.results import NEVER_LEARNED
from sciencessl.views.figures import COLOURS, GREY, MARKERS, marker_of

_COLUMNS = 3
"""Panels beside each other."""

_UNITS = {"nll": "nats a sample", "dirichlet_nll": "nats a sample"}
_WIDE = 10.0
"""Ratio of the largest to the smallest cost from which its axis is logarithmic."""


@dataclass(frozen=True)
class Style:
    """How a curve looks in every panel, and its entry in the legend."""

    colour: str
    marker: str
    line: Any
    label: str

    @property
    def of_line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot` and `Axes.errorbar`."""
        return {"color": self.colour, "marker": self.marker, "ls": self.line, "ms": 4.5, "label": self.label}


def curve_styles(tasks: Sequence[TaskTable]) -> dict[tuple[str, str], Style]:
    """(encoder, arm) -> its style: colour and marker together differ, random encoders are grey, arms differ in line."""
    found: dict[tuple[str, str], Style] = {}
    coloured = grey = 0
    for encoder, arm in dict.fromkeys(key for task in tasks for key in task.curves):
        line = LINES[arm]
        label = _label(tasks, encoder, arm)
        if arm == "random":
            found[encoder, arm] = Style(GREY, MARKERS[grey % len(MARKERS)], line, label)
            grey += 1
            continue
        found[encoder, arm] = Style(COLOURS[coloured % len(COLOURS)], marker_of(coloured), line, label)
        coloured += 1
    return found


def _label(tasks: Sequence[TaskTable], encoder: str, arm: str) -> str:
    rows = {task.task: next(iter(curves.values())).row for task in tasks if (curves := task.curves.get((encoder, arm)))}
    first = next(iter(rows.values()))
    if arm in NEVER_LEARNED:
        return f"{name_words(first)}, no pretraining"
    saw = {row.saw for row in rows.values()}
    seen = first.saw if len(saw) == 1 else ", ".join(f"{task} {row.saw}" for task, row in rows.items())
    return f"{name_words(first)}, {arm} (pretraining saw: {seen})"


def curve_figure(comparison: Comparison) -> Any:
    """Score against the number of labels, a panel a task, with 95 % bands; chance dotted where it is known."""
    styles = curve_styles(comparison.tasks)
    figure, panels = _panels(len(comparison.tasks))
    for axes, task in zip(panels, comparison.tasks, strict=True):
        for key, lines in task.curves.items():
            _draw_curve(axes, task, list(lines.values()), styles[key])
        if task.kind == "class" and task.shown == "balanced_accuracy":
            axes.axhline(1 / len(task.classes), color="black", lw=0.8, ls=":", label="chance")
        axes.set_xscale("log")
        ticks = _ticks(task)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("labels used (number of samples)")
        _finish(axes, task, f"{task.n_test:,} test samples" + (", 95 % intervals" if task.shows_primary else ""))
    _legend(figure, panels)
    return figure


def _draw_curve(axes: Any, task: TaskTable, lines: Sequence[Line], style: Style) -> None:
    sizes = [line.row.n_labels for line in lines]
    score, low, high = zip(*(task.score(line.row) for line in lines), strict=True)
    axes.plot(sizes, score, **style.of_line)
    axes.fill_between(sizes, low, high, color=style.colour, alpha=0.15, lw=0)
    if len(lines) == 1:  # a band of one budget has no width
        axes.vlines(sizes, low, high, color=style.colour, lw=1.2, alpha=0.6)


def _ticks(task: TaskTable) -> list[int]:
    """Numbers of labels, one a budget: arms with fewer subsets may have used a few more or less on average."""
    sizes = {line.row.budget: line.row.n_labels for line in reversed(task.lines)}
    return sorted(set(sizes.values()))


def cost_figure(comparison: Comparison) -> Any:
    """Score at the largest budget that all curves of a task share, against what pretraining took; None without costs.

    The axis is device-hours, or images where hours are of several kinds of device. Encoders that never learned are
    level lines. Tasks without such a budget or without a known cost have no panel.
    """
    chosen = {task.task: (task, budget) for task in comparison.tasks if (budget := _common_budget(task))}
    drawn = {name: pair for name, pair in chosen.items() if any(map(_has_cost, pair[0].lines))}
    if not drawn:
        return None
    costs = [line.cost for task, _ in drawn.values() for line in task.lines if _has_cost(line)]
    by_hours = len({cost.device for cost in costs}) == 1
    unit = f"device-hours of pretraining (h, {costs[0].device or 'unknown device'})"
    unit = unit if by_hours else "images seen in pretraining (number)"
    attribute = "device_hours" if by_hours else "images_seen"
    styles = curve_styles(comparison.tasks)
    figure, panels = _panels(len(drawn))
    for axes, (task, budget) in zip(panels, drawn.values(), strict=True):
        _draw_costs(axes, task, budget, attribute, styles)
        axes.set_xlabel(unit)
    _legend(figure, panels)
    return figure


def _common_budget(task: TaskTable) -> str:
    shared = [budget for budget in task.budgets if all(budget in lines for lines in task.curves.values())]
    return shared[-1] if shared else ""


def _has_cost(line: Line) -> bool:
    return line.cost.known and line.row.arm not in NEVER_LEARNED


def _draw_costs(
    axes: Any, task: TaskTable, budget: str, attribute: str, styles: Mapping[tuple[str, str], Style]
) -> None:
    places: list[float] = []
    lacking: list[str] = []
    for key, lines in task.curves.items():
        line, style = lines[budget], styles[key]
        score, low, high = task.score(line.row)
        if line.row.arm in NEVER_LEARNED:
            axes.axhline(score, color=style.colour, lw=1.2, ls="-." if line.row.arm == "scratch" else "-",
                         label=style.label)
            if math.isfinite(high - low):
                axes.axhspan(low, high, color=style.colour, alpha=0.15, lw=0)
        elif _has_cost(line):
            places.append(getattr(line.cost, attribute))
            ends = [[score - low], [high - score]] if math.isfinite(high - low) else None
            axes.errorbar(places[-1:], [score], ends, capsize=2, lw=1, **style.of_line)
        else:
            lacking.append(line.row.encoder)
    if min(places) > 0 and max(places) > _WIDE * min(places):
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.1 * max(places) or 1.0)
        axes.locator_params(axis="x", nbins=4)
    note = f"\nnot drawn, cost unknown: {', '.join(dict.fromkeys(lacking))}" if lacking else ""
    _finish(axes, task, f"label budget {budget}{note}")


def _panels(count: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    size = (7.6 if columns == 1 else 4.8 * columns, 4.2 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for place in axes[count:]:
        place.set_visible(False)
    return figure, axes[:count]


def _finish(axes: Any, task: TaskTable, about: str) -> None:
    within_bounds(axes, task.shown_is_loss)
    axes.set_ylabel(f"{metric_words(task)} (test, {_UNITS.get(task.shown, 'no unit')})", parse_math=False)
    axes.set_title(f"{task.task}: {about}", fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Any, panels: Sequence[Any]) -> None:
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    legend = figure.legend(list(entries.values()), list(entries), frameon=False, fontsize=8,
                           loc="outside lower center", ncols=2)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a run may be called `$x$`
