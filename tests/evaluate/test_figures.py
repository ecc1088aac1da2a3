"""Figures carry every series that was logged, units on their axes, and images where the map has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sciencessl.evaluate.figures import (
    MOST_CLASSES,
    chosen_for_grid,
    collapse_figure,
    learning_figure,
    map_figure,
    thumbnail_map,
)
from sciencessl.monitor.collapse import LOW_RANK, LOW_STD, MEASURES
from sciencessl.views.figures import png_bytes

ROWS = [
    {"step": step, "images": 8 * step, "loss": 2.0, "pair_loss": 1.0, "tau": 0.99, "std": 0.5, "effective_rank": 9.0,
     "projection_std": 0.7, "projection_rank": 5.0, "queue": 3.0, "name": "text"}
    for step in (1, 5)
]


def visible(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_visible()]


def test_every_logged_number_has_a_panel_with_units() -> None:
    panels = visible(learning_figure(ROWS))
    assert [axes.get_title(loc="left") for axes in panels] == ["Loss", "Target network", "queue"]
    assert all(axes.get_ylabel() and axes.get_xlabel() == "optimiser steps" for axes in panels)
    assert len(panels[0].lines) == 2
    np.testing.assert_allclose(panels[1].lines[0].get_ydata(), [0.01, 0.01])


def test_rankme_has_a_panel_and_other_monitors_have_none() -> None:
    rows = [{**row, "rankme": 30.0, "projection_rankme": 9.0, **dict.fromkeys(MEASURES.keys() - row.keys(), 1.0)}
            for row in ROWS]
    panels = visible(collapse_figure(rows))
    assert [axes.get_title(loc="left") for axes in panels][1:] == ["Effective rank", "RankMe"]
    assert [len(axes.patches) for axes in panels] == [1, 1, 0]  # nobody knows a healthy RankMe
    assert [len(axes.get_legend().get_texts()) for axes in panels] == [2, 2, 2]
    titles = [axes.get_title(loc="left") for axes in visible(learning_figure(rows))]
    assert titles == ["Loss", "Target network", "queue"]


def test_nothing_logged_is_no_figure() -> None:
    assert learning_figure([]) is None
    assert learning_figure([{"step": 1, "images": 8}]) is None
    assert collapse_figure([{"step": 1, "loss": 1.0}]) is None


@pytest.mark.parametrize("std", [0.0, 0.5, 1.4])
def test_the_healthy_zone_starts_at_the_thresholds_of_the_gauge(std: float) -> None:
    spread, rank = visible(collapse_figure([{**row, "std": std} for row in ROWS]))
    for axes, threshold in ((spread, LOW_STD), (rank, LOW_RANK)):
        (zone,) = axes.patches
        assert zone.get_y() == threshold
        assert zone.get_y() + zone.get_height() >= axes.get_ylim()[1] * 0.999
    assert spread.get_ylim()[1] >= std


def test_a_map_names_each_class_with_its_count() -> None:
    labels = ["$x$"] * 3 + ["b"] * 2 + ["none"]
    figure = map_figure(np.random.default_rng(0).uniform(-1, 1, (6, 2)), labels, "none")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["none (1)", "$x$ (3)", "b (2)"]
    assert png_bytes(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("classes", [1, 2, 30])
def test_a_map_of_any_number_of_classes_is_drawn(classes: int) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    figure = map_figure(points, [f"class {i % classes}" for i in range(60)])
    drawn = figure.axes[0].collections
    styles = {(tuple(group.get_facecolor()[0]), group.get_paths()[0].vertices.tobytes()) for group in drawn}
    assert len(styles) == len(drawn) == min(classes, MOST_CLASSES + 1)
    assert sum(len(group.get_offsets()) for group in drawn) == 60


def test_equal_points_are_drawn() -> None:
    assert png_bytes(map_figure(np.zeros((4, 2)), ["a"] * 4))


def test_each_cell_shows_the_sample_nearest_to_its_centre() -> None:
    points = np.array([[-0.9, 0.9], [-0.5, 0.55], [0.5, -0.5], [1.0, 1.0]])
    chosen = chosen_for_grid(points, 2)
    assert chosen == {(0, 0): 1, (1, 1): 2, (0, 1): 3}


def test_a_thumbnail_lies_in_its_cell() -> None:
    dark = np.zeros((5, 5, 3), np.uint8)
    sheet = thumbnail_map({(1, 1): dark, (2, 3): dark}, 6, 4)
    assert sheet.shape == (8, 12, 3)
    assert sheet[:4, :4].max() == 0
    assert sheet[4:, 8:].max() == 0
    assert sheet[:4, 4:].min() == 255


def test_both_probes_of_a_label_share_a_panel() -> None:
    rows = [{"step": step, "probe_knn_bar+ring": 0.5, "probe_linear_bar+ring": 0.6, "probe_linear_class": 0.4}
            for step in (10, 20)]
    first, second = visible(learning_figure(rows))
    assert [axes.get_title(loc="left") for axes in (first, second)] == [
        "Online probes of bar+ring, training stream", "Online probes of class, training stream"
    ]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["kNN", "linear"]
    assert second.get_legend() is None
