"""Figures of the quality report of slides: scales, quality of tiles, stains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciencessl.data_prep.tile_quality import QUALITY_COLUMNS
from sciencessl.views.figures import COLOURS, GREY, marker_of

SHOWN_COLUMNS = ("tissue", *QUALITY_COLUMNS)
"""Per-tile columns whose distributions are shown."""
MOST_GROUPS = 8
BINS = 40


def scale_figure(slide_mpp: Mapping[str, Sequence[float]], stored: Sequence[float]) -> Any:
    """Slides by um/px of level 0, one colour for each origin, and the scales of stored tiles as lines.

    Args:
        slide_mpp: Origin -> um/px of each slide.
        stored: Different scales of stored tiles, um/px.
    """
    figure, axes = _axes(5.0, 3.0)
    values = [value for group in slide_mpp.values() for value in group]
    bins = np.linspace(0, 1.1 * max([*values, *stored]), BINS)
    axes.hist(list(slide_mpp.values()), bins=bins, stacked=True, label=list(slide_mpp),
              color=[COLOURS[i % len(COLOURS)] for i in range(len(slide_mpp))])
    for i, value in enumerate(stored):
        axes.axvline(value, color=GREY, linestyle="--", linewidth=1, label="" if i else "tiles as stored")
    axes.set(xlabel="pixel scale of level 0 (um/px)", ylabel="slides", title="Scale")
    axes.legend(fontsize=7)
    return figure


def quality_figure(columns: Mapping[str, np.ndarray]) -> Any:
    """Histograms of per-tile columns, with the 5th and 95th percentile as lines."""
    figure, panels = _axes(9.0, 4.2, len(columns))
    for axes, (name, values) in zip(np.ravel(panels), columns.items(), strict=False):
        known = values[np.isfinite(values)]
        axes.hist(known, bins=BINS, color=COLOURS[0], log=True)
        for percentile in np.percentile(known, [5, 95]) if len(known) else ():
            axes.axvline(percentile, color=GREY, linestyle="--", linewidth=1)
        axes.set(title=name, ylabel="tiles")
    for axes in np.ravel(panels)[len(columns) :]:
        axes.set_visible(False)
    return figure


def counts_figure(counts: Sequence[int]) -> Any:
    """How many tiles slides have."""
    figure, axes = _axes(5.0, 3.0)
    axes.hist(counts, bins=min(BINS, max(5, len(counts))), color=COLOURS[0])
    axes.set(xlabel="tiles stored", ylabel="slides", title="Tiles of a slide")
    return figure


def stain_figure(points: np.ndarray, groups: Sequence[str], what: str) -> Any:
    """One point a slide: mean amounts of haematoxylin and eosin in its tiles, coloured by a group such as site."""
    figure, axes = _axes(5.0, 4.0)
    names = sorted(set(groups), key=lambda name: (-list(groups).count(name), name))
    shown = names[:MOST_GROUPS] if len(names) > MOST_GROUPS else names
    for i, name in enumerate(shown):
        chosen = np.array([group == name for group in groups])
        axes.scatter(*points[chosen].T, s=24, color=COLOURS[i % len(COLOURS)], marker=marker_of(i), label=name or "?")
    rest = np.array([group not in shown for group in groups])
    if rest.any():
        axes.scatter(*points[rest].T, s=16, color=GREY, label=f"{len(names) - len(shown)} others")
    axes.set(xlabel="haematoxylin (mean density)", ylabel="eosin (mean density)",
             title=f"Stain, one point a slide, by {what}")
    axes.legend(fontsize=7)
    return figure


def _axes(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if panels == 1:
        return figure, figure.subplots()
    across = min(panels, 3)
    return figure, figure.subplots(-(-panels // across), across, squeeze=False)
