"""The figures of the report: learning curves, the collapse gauge, the embedding map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciencessl.monitor.collapse import LOW_RANK, LOW_STD, MEASURES
from sciencessl.train.folder import series
from sciencessl.views.figures import COLOURS, GREY, marker_of
from sciencessl.views.sheet import tile

FEW_POINTS = 40
HEALTHY = "#E3F2EA"
MOST_CLASSES = len(COLOURS) * 3
COUNTERS = ("step", "images", "labelled")
STEPS = "optimiser steps"
PROBES = ("probe_knn_", "probe_linear_")


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above it.
        unit: Label of its y axis, with the unit.
        curves: The metrics in it, with their names.
        log: A logarithmic y axis.
        healthy: Where the healthy zone begins; None where none is known.
    """

    title: str
    unit: str
    curves: Mapping[str, str]
    log: bool = False
    healthy: float | None = None


PANELS = (
    Panel("Loss", "loss (no unit)", {"loss": "total", "pair_loss": "pair term"}),
    Panel("Label loss", "loss (nats a sample)", {"label_loss": "label term"}),
    Panel("Agreement of the two views", "cosine similarity", {"cosine": "mean over the batch"}),
    Panel("Learning rate", "learning rate", {"lr": "learning rate"}),
    Panel("Target network", "1 − τ (share taken over a step)", {"tau": "1 − τ"}, log=True),
    Panel("Speed", "images/s", {"images_per_s": "images/s"}),
)
GAUGE = (
    Panel("Spread (0: all images alike)", "std × √D", {"std": "representation", "projection_std": "projection"},
          healthy=LOW_STD),
    Panel("Effective rank", "directions in use",
          {"effective_rank": "representation", "projection_rank": "projection"}, log=True, healthy=LOW_RANK),
    Panel("RankMe", "directions, the mean among them",
          {"rankme": "representation", "projection_rankme": "projection"}, log=True),
)


def learning_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Whatever was logged against the optimiser step, one panel a quantity; None when nothing was."""
    known = {name for panel in PANELS for name in panel.curves} | {*MEASURES, *COUNTERS, "data_wait"}
    logged = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    probes = sorted({name.split("_", 2)[2] for name in logged if name.startswith(PROBES)})
    probed = [Panel(f"Online probes of {name}, training stream", "balanced accuracy, or R² of votes",
                    {f"{start}{name}": label for start, label in zip(PROBES, ("kNN", "linear"), strict=True)})
              for name in probes]
    known |= {name for panel in probed for name in panel.curves}
    others = [*probed, *(Panel(name, name, {name: name}) for name in sorted(logged - known))]
    panels = [panel for panel in (*PANELS, *others) if logged & set(panel.curves)]
    if not panels:
        return None
    figure, axes = _grid(len(panels), 3, 2.5)
    for place, panel in zip(axes, panels, strict=True):
        _draw(place, panel, rows)
    return figure


def collapse_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Spread, effective rank and RankMe, the healthy zone in green where one is known; None when nothing was read."""
    panels = [panel for panel in GAUGE if any(series(rows, name)[0] for name in panel.curves)]
    if not panels:
        return None
    figure, axes = _grid(len(panels), 3, 2.9)
    for place, panel in zip(axes, panels, strict=True):
        _draw(place, panel, rows)
        top = place.get_ylim()[1]
        low, high = (1.0, 2.0 * max(top, 2 * LOW_RANK)) if panel.log else (0.0, max(1.15, top))
        if panel.healthy is not None:
            place.axhspan(panel.healthy, high, color=HEALTHY, zorder=0, lw=0)
            place.axhline(panel.healthy, color=GREY, lw=0.8, ls="--")
            place.text(0.99, panel.healthy, f"healthy above {panel.healthy:g} ", transform=place.get_yaxis_transform(),
                       ha="right", va="bottom", fontsize=7.5, color="#444444")
        place.set_ylim(low, high)
    return figure


def _grid(count: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(9.6 if columns > 1 else 5.0, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for place in axes[count:]:
        place.set_visible(False)
    return figure, axes[:count]


def _draw(axes: Any, panel: Panel, rows: Sequence[Mapping[str, Any]]) -> None:
    shown = {name: label for name, label in panel.curves.items() if series(rows, name)[0]}
    for colour, (name, label) in zip(COLOURS, shown.items(), strict=False):
        steps, values = series(rows, name)
        drawn = 1 - np.array(values) if name == "tau" else np.array(values)
        style = "o-" if len(steps) < FEW_POINTS else "-"
        axes.plot(steps, drawn, style, color=colour, ms=3.5, lw=1.5, label=label)
    axes.set_title(panel.title, fontsize=9.5, loc="left", parse_math=False)
    axes.set_xlabel(STEPS, fontsize=8.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(panel.unit, fontsize=8.5, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.log:
        axes.set_yscale("log")
    if len(shown) > 1:
        axes.legend(frameon=False, fontsize=8)


def map_figure(points: np.ndarray, labels: Sequence[str], other: str = "") -> Any:
    """The embedding map, a colour and a shape a class, rare classes on top.

    Args:
        points: (n, 2), as from `embedding_map`.
        labels: n class names; all the same where there are none.
        other: Name of the class that is drawn grey and first, below the rest.
    """
    from matplotlib.figure import Figure

    extent = np.ptp(points, axis=0)
    shape = float(np.clip(extent[1] / max(extent[0], 1e-12), 0.4, 1.0))
    figure = Figure(figsize=(9.6, 0.6 + 7.4 * shape), layout="constrained")
    axes = figure.subplots()
    names = np.array(labels).astype(str)
    found, counts = np.unique(names, return_counts=True)
    common = [str(name) for name in found[np.argsort(-counts, kind="stable")] if name != other][:MOST_CLASSES]
    rest = ~np.isin(names, common)
    if rest.any():
        label = f"{other or 'other'} ({rest.sum():,})"
        axes.scatter(points[rest, 0], points[rest, 1], 10, GREY, marker=".", label=label)
    for number, name in enumerate(common):
        mine = names == name
        axes.scatter(points[mine, 0], points[mine, 1], 17, COLOURS[number % len(COLOURS)], marker=marker_of(number),
                     alpha=0.7, linewidths=0, label=f"{name} ({mine.sum():,})")
    axes.set(xticks=[], yticks=[], xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.02)
    axes.spines[["top", "right", "left", "bottom"]].set_color("#BBBBBB")
    _legend(figure, len(common) + int(rest.any()))
    return figure


def _legend(figure: Any, groups: int) -> None:
    if groups < 2:
        return
    columns = min(groups, 5)
    legend = figure.legend(frameon=False, fontsize=9, loc="outside upper left", ncols=columns, markerscale=1.6)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class may be called `$x$`


def chosen_for_grid(points: np.ndarray, cells: int) -> dict[tuple[int, int], int]:
    """Cell (row, column) of a square grid over the map -> the sample nearest to the cell's centre.

    Args:
        points: (n, 2) in [-1, 1].
        cells: Cells along each side.
    """
    scaled = (points + 1) / 2 * cells
    place = np.clip(np.floor(scaled), 0, cells - 1).astype(int)
    away = np.abs(scaled - place - 0.5).max(axis=1)
    chosen: dict[tuple[int, int], int] = {}
    for sample in np.argsort(away, kind="stable").tolist():
        column, row = place[sample]
        chosen.setdefault((int(cells - 1 - row), int(column)), sample)
    return chosen


def thumbnail_map(images: Mapping[tuple[int, int], np.ndarray], cells: int, px: int) -> np.ndarray:
    """(cells px, cells px, 3) uint8: each image in its cell (row, column), white elsewhere; empty borders are cut."""
    sheet = np.full((cells * px, cells * px, 3), 255, np.uint8)
    for (row, column), image in images.items():
        sheet[row * px : (row + 1) * px, column * px : (column + 1) * px] = tile(image, px)
    used = np.array(list(images))
    (top, left), (bottom, right) = used.min(axis=0) * px, (used.max(axis=0) + 1) * px
    return sheet[top:bottom, left:right]
