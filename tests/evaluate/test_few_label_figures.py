"""Differences, reliability and confusion: the numbers of the table at their places, and words that fit the metric."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sciencessl.evaluate.few_label_figures import (
    PANELS,
    PRINTED,
    confusion_figure,
    difference_figure,
    reliability_figure,
)
from sciencessl.evaluate.results import TransferResult
from sciencessl.views.figures import COLOURS, GREY, png_bytes


def marks(figure: Any) -> dict[str, Any]:
    """Label of each line of the forest -> its marker; where labels occur again, the first."""
    axes = figure.axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    found: dict[str, Any] = {}
    for line in axes.lines:
        if line.get_markersize() == 6 and len(line.get_xdata()) == 1:
            found.setdefault(names[int(line.get_ydata()[0])], line)
    return found


def test_each_difference_stands_at_its_value_with_its_interval(full_result: TransferResult) -> None:
    axes = difference_figure(full_result).axes[0]
    intervals = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 1.8]
    compared = [row for row in full_result.rows if row.difference is not None]
    expected = [(end.low, end.high) for end in full_result.endpoints]
    expected += [(row.difference_low, row.difference_high) for row in compared]
    np.testing.assert_allclose(intervals, expected)
    headings = sum(text.get_fontweight() == "bold" for text in axes.get_yticklabels())
    assert len(axes.get_yticks()) == len(expected) + headings == len(expected) + 1 + 5


def test_what_is_not_resolved_is_hollow_and_grey(full_result: TransferResult) -> None:
    found = marks(difference_figure(full_result))
    told, open_ = found["hybrid, frozen − byol, frozen (primary)"], found["hybrid, finetune − scratch"]
    assert (told.get_markerfacecolor(), told.get_markeredgecolor()) == (COLOURS[0], COLOURS[0])
    assert (open_.get_markerfacecolor(), open_.get_markeredgecolor()) == ("white", GREY)


def test_small_dots_are_the_seeds_of_an_endpoint(full_result: TransferResult) -> None:
    dots = [line for line in difference_figure(full_result).axes[0].lines if line.get_marker() == "."]
    assert [tuple(line.get_xdata()) for line in dots if len(line.get_xdata())] == [
        end.each for end in full_result.endpoints
    ]


def test_words_and_looks_follow_the_direction_of_the_metric(full_result: TransferResult) -> None:
    name = "hybrid, frozen − byol, frozen (primary)"
    figure = difference_figure(full_result)
    assert figure.axes[0].get_xlabel() == "difference in balanced accuracy (positive: better)"
    assert marks(figure)[name].get_marker() == "o"
    losses = difference_figure(replace(full_result, kind="counts", metric="nll", lower_is_better=True))
    assert losses.axes[0].get_xlabel() == "difference in negative log-likelihood (nats a vote, negative: better)"
    assert (marks(losses)[name].get_marker(), marks(losses)[name].get_markerfacecolor()) == ("s", COLOURS[1])
    (legend,) = losses.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "worse, told from zero", "not resolved", "one pretraining seed"
    ]


def test_reliability_shows_accuracy_against_confidence_with_its_interval(full_result: TransferResult) -> None:
    figure = reliability_figure(full_result)
    assert len(figure.axes) == 4
    axes, bins = figure.axes[0], full_result.details[0].reliability
    (errors,) = axes.containers
    np.testing.assert_allclose(errors.lines[0].get_xydata(), [(part.confidence, part.accuracy) for part in bins])
    bars = [segment[:, 1] for segment in errors.lines[2][0].get_segments()]
    np.testing.assert_allclose(bars, [(part.low, part.high) for part in bins])
    assert errors.get_label() == "calibration error 0.061\ntemperature 1.37"
    assert axes.get_title() == "byol, frozen\nbudget all"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence (probability)", "accuracy (share right)")


def test_a_cell_tells_share_and_number(full_result: TransferResult) -> None:
    counts = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.2, 0.0, 99.8]])
    detail = replace(full_result.details[0], confusion=tuple(map(tuple, counts.tolist())))
    figure = confusion_figure(replace(full_result, classes=("a", "b", "c"), details=(detail,)))
    (axes,) = figure.axes
    cells = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75%\n3", (0, 1): "25%\n1", (2, 0): "0%\n<1", (2, 2): "100%\n100"}
    shares = axes.images[0].get_array()
    assert np.isnan(shares.filled(np.nan)[1]).all()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


@pytest.mark.parametrize("count", [2, PRINTED, PRINTED + 1, 120])
def test_many_classes_have_a_scale_instead_of_numbers(full_result: TransferResult, count: int) -> None:
    detail = replace(full_result.details[0], confusion=tuple(map(tuple, (np.eye(count) * 7).tolist())))
    classes = tuple(f"$class {i}" for i in range(count))
    figure = confusion_figure(replace(full_result, classes=classes, details=(detail,) * 3))
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3
    assert [len(axes.texts) for axes in panels] == [count if count <= PRINTED else 0] * 3
    labels = {axes.get_xlabel() for axes in figure.axes if axes.get_visible()}
    assert ("share of the true class" in labels) == (count > PRINTED)
    assert png_bytes(figure, 40).startswith(b"\x89PNG")


def test_no_more_curves_than_have_room(full_result: TransferResult) -> None:
    many = replace(full_result, details=full_result.details * 2)
    for draw in (reliability_figure, confusion_figure):
        assert sum(axes.get_visible() for axes in draw(many).axes) == PANELS


def test_nothing_to_draw_is_no_figure(full_result: TransferResult) -> None:
    bare = tuple(replace(detail, reliability=(), confusion=()) for detail in full_result.details)
    empty = replace(full_result, details=bare, endpoints=(), rows=full_result.rows[-4:])
    assert (difference_figure(empty), reliability_figure(empty), confusion_figure(empty)) == (None, None, None)
