"""The figures beside the few-label curves: differences with intervals, reliability, confusion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciencessl.evaluate.plots import shortened
from sciencessl.evaluate.report_words import curve_name, curves, metric_name, metric_unit
from sciencessl.evaluate.results import Detail, Endpoint, Row, TransferResult
from sciencessl.views.figures import COLOURS, GREY

PANELS = 4
"""Most curves that are looked at closely, side by side."""

PRINTED = 12
"""Most classes whose confusion is printed as numbers."""

_NAMED = 30
"""Most classes whose names stand on the axes."""

_FEW = 5
"""Most classes whose matrices fit four in a row."""

_INK = "#333333"
_LOOKS: dict[str, dict[str, Any]] = {
    "better, told from zero": {"color": COLOURS[0], "marker": "o", "mfc": COLOURS[0]},
    "worse, told from zero": {"color": COLOURS[1], "marker": "s", "mfc": COLOURS[1]},
    "not resolved": {"color": GREY, "marker": "o", "mfc": "white"},
}


@dataclass(frozen=True)
class _Line:
    """One line of the forest: a heading where it has no difference."""

    label: str
    difference: float | None = None
    low: float = 0.0
    high: float = 0.0
    resolved: bool = False
    each: tuple[float, ...] = ()


def difference_figure(result: TransferResult) -> Any:
    """Endpoints, then every row's difference to random encoders, each with its 95 % interval; None without any.

    What is told from zero is filled, what is not is hollow and grey. Small dots are single pretraining seeds.
    """
    from matplotlib.figure import Figure

    lines = [*_endpoint_lines(result.endpoints), *_row_lines(result.rows)]
    if not lines:
        return None
    figure = Figure(figsize=(9.4, 1.3 + 0.25 * len(lines)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", lw=0.9, zorder=1)
    looks = [_look(line, result.lower_is_better) for line in lines]
    for place, (line, look) in enumerate(zip(lines, looks, strict=True)):
        if look:
            _draw_line(axes, place, line, look)
    axes.set_ylim(len(lines) - 0.4, -0.7)
    axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8.5, parse_math=False)
    for text, line in zip(axes.get_yticklabels(), lines, strict=True):
        text.set_fontweight("bold" if line.difference is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#E4E4E4", lw=0.7)
    axes.set_axisbelow(True)
    sign = "negative" if result.lower_is_better else "positive"
    unit = ", ".join(filter(None, [metric_unit(result), f"{sign}: better"]))
    axes.set_xlabel(f"difference in {metric_name(result)} ({unit})", parse_math=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _forest_legend(figure, looks, any(line.each for line in lines))
    return figure


def _draw_line(axes: Any, place: int, line: _Line, look: str) -> None:
    colour, face = _LOOKS[look]["color"], _LOOKS[look]["mfc"]
    axes.plot([line.low, line.high], [place, place], color=colour, lw=1.8, solid_capstyle="butt", zorder=2)
    axes.plot(line.difference, place, _LOOKS[look]["marker"], ms=6, mec=colour, mew=1.4, mfc=face, zorder=3)
    axes.plot(line.each, np.full(len(line.each), place + 0.3), ".", color=_INK, ms=4, zorder=4)


def _look(line: _Line, lower_is_better: bool) -> str:
    """Which of `_LOOKS`; empty for a heading."""
    if line.difference is None:
        return ""
    if not line.resolved:
        return "not resolved"
    return "better, told from zero" if (line.difference < 0) == lower_is_better else "worse, told from zero"


def _forest_legend(figure: Any, looks: Sequence[str], dots: bool) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], lw=1.8, ms=6, mew=1.4, mec=style["color"], label=look, **style)
             for look, style in _LOOKS.items() if look in looks]
    marks += [Line2D([], [], ls="", marker=".", color=_INK, ms=4, label="one pretraining seed")] if dots else []
    figure.legend(handles=marks, frameon=False, fontsize=8.5, loc="outside lower center", ncols=len(marks))


def _endpoint_lines(endpoints: Sequence[Endpoint]) -> Iterator[_Line]:
    spans = {(end.from_labels, end.to_labels) for end in endpoints}
    for number, end in enumerate(endpoints):
        sizes = dict.fromkeys((end.from_labels, end.to_labels))
        span = f"{' to '.join(f'{size:,}' for size in sizes)} labels"
        if number == 0:
            yield _Line(f"Endpoints: mean over log labels{f', {span}' if len(spans) == 1 else ''}")
        own, other = (shortened(curve_name(name, arm), 26)
                      for name, arm in ((end.encoder, end.arm), (end.baseline, end.baseline_arm)))
        label = f"{own} − {other}{f', {span}' if len(spans) > 1 else ''}{' (primary)' if end.primary else ''}"
        each = end.each if len(end.each) > 1 else ()
        yield _Line(label, end.difference, end.low, end.high, end.resolved, each)


def _row_lines(rows: Sequence[Row]) -> Iterator[_Line]:
    compared = [row for row in rows if row.difference is not None]
    for curve in curves(compared):
        first = curve[0]
        yield _Line(f"{shortened(curve_name(first.encoder, first.arm), 40)} − random encoders")
        for row in curve:
            assert row.difference_low is not None  # `Row`: with a difference comes its interval
            assert row.difference_high is not None
            yield _Line(f"{row.n_labels:,} labels", row.difference, row.difference_low, row.difference_high,
                        bool(row.resolved))


def reliability_figure(result: TransferResult) -> Any:
    """Confidence against accuracy with Wilson intervals, of the first `PANELS` curves that have it; None without."""
    shown = [detail for detail in result.details if detail.reliability][:PANELS]
    if not shown:
        return None
    figure, panels = _panels(len(shown), PANELS, 2.8)
    for number, (axes, detail) in enumerate(zip(panels, shown, strict=True)):
        axes.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
        table = detail.reliability
        middle = np.array([part.accuracy for part in table])
        ends = np.array([[part.low for part in table], [part.high for part in table]])
        axes.errorbar([part.confidence for part in table], middle, np.abs(ends - middle), fmt="o-", ms=4, lw=1.2,
                      color=COLOURS[0], elinewidth=1, label=_calibration(detail))
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_xlabel("confidence (probability)", fontsize=8.5)
        if number == 0:
            axes.set_ylabel("accuracy (share right)", fontsize=8.5)
        axes.tick_params(labelsize=8)
        axes.set_title(_title(detail), fontsize=8.5, parse_math=False)
        axes.legend(frameon=False, fontsize=7.5, loc="upper left", handlelength=1.2, borderaxespad=0.2)
    return figure


def _calibration(detail: Detail) -> str:
    temperature = "no temperature" if detail.temperature is None else f"temperature {detail.temperature:.2f}"
    return f"calibration error {detail.calibration_error:.3f}\n{temperature}"


def confusion_figure(result: TransferResult) -> Any:
    """Shares of each true class by prediction, of the same curves as `reliability_figure`; None without.

    Up to `PRINTED` classes the share is printed in each cell with the number of test samples below it.
    """
    shown = [detail for detail in result.details if detail.confusion][:PANELS]
    if not shown:
        return None
    names = [shortened(name, 18) for name in result.classes] if len(result.classes) <= _NAMED else []
    columns = PANELS if len(result.classes) <= _FEW else 2
    room = (0.5 if len(result.classes) <= PRINTED else 1.1) + 0.07 * max(map(len, names), default=0)
    figure, panels = _panels(len(shown), columns, (7.6 if columns == PANELS else 8.4) / columns + room)
    for number, (axes, detail) in enumerate(zip(panels, shown, strict=True)):
        counts = np.array(detail.confusion, dtype=np.float64)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(result.classes) <= PRINTED:
            _print_cells(axes, shares, counts)
        _name_classes(axes, names, number % columns == 0)
        axes.set_title(_title(detail), fontsize=8.5, parse_math=False)
    if len(result.classes) > PRINTED:
        bar = figure.colorbar(image, ax=panels, location="bottom", shrink=0.4, aspect=40)
        bar.set_label("share of the true class", fontsize=8.5)
    return figure


def _print_cells(axes: Any, shares: np.ndarray, counts: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if counts[row, column] > 0:
            count = f"{counts[row, column]:.0f}" if counts[row, column] >= 0.5 else "<1"
            axes.text(column, row, f"{share:.0%}\n{count}", ha="center", va="center", linespacing=1.0,
                      fontsize=8 if len(shares) <= 8 else 7, color="white" if share > 0.55 else "black")


def _name_classes(axes: Any, names: Sequence[str], first: bool) -> None:
    size, few = 8 if len(names) <= 20 else 6.5, len(names) <= _FEW
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    axes.set_xticks(range(len(names)), names, fontsize=size, parse_math=False, **turned)
    axes.set_yticks(range(len(names)), names if first else [""] * len(names), fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class", fontsize=8.5)
    if first:
        axes.set_ylabel("true class", fontsize=8.5)
    axes.tick_params(length=0)


def _panels(count: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    """Figure and axes: `columns` of them in the width of the page, each row `height` inches high."""
    from matplotlib.figure import Figure

    rows, used = -(-count // columns), min(columns, count)
    figure = Figure(figsize=(max(9.4 / columns * used, 3.4), height * rows), layout="constrained")
    axes = figure.subplots(rows, used, squeeze=False).ravel().tolist()
    for place in axes[count:]:
        place.set_visible(False)
    return figure, axes[:count]


def _title(detail: Detail) -> str:
    return f"{shortened(curve_name(detail.encoder, detail.arm), 30)}\nbudget {detail.budget}"
