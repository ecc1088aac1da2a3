"""Figures of a comparison: one look for one curve in all panels, units on the axes, unknown costs named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from sciencessl.evaluate.compare import Comparison, join
from sciencessl.evaluate.compare_figures import cost_figure, curve_figure, curve_styles
from sciencessl.evaluate.results import Row, TransferResult
from sciencessl.views.figures import COLOURS, GREY, png_bytes

RowFactory = Callable[..., Row]
TransferFactory = Callable[..., TransferResult]
CostFactory = Callable[..., dict[str, Any]]


@pytest.fixture
def one_task(make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory) -> TransferResult:
    curves = (("byol", "frozen"), ("byol", "knn"), ("$x$", "frozen"), ("scratch", "scratch"), ("random", "random"))
    rows = tuple(make_row(*key, budget) for key in curves for budget in ("750", "50"))
    return make_transfer(rows=rows, cost={"byol": make_cost(), "$x$": make_cost(2000, 0.4)})


@pytest.fixture
def other_task(make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory) -> TransferResult:
    rows = tuple(make_row(*key, budget, metric="nll", saw="own")
                 for key in (("$x$", "frozen"), ("vit", "frozen"), ("random", "random")) for budget in ("100", "1000"))
    return make_transfer("other", task="votes", kind="counts", metric="nll", lower_is_better=True, rows=rows,
                         cost={"$x$": make_cost(2000, 0.4)})


def _comparison(*results: TransferResult, metric: str = "") -> Comparison:
    return Comparison(Path("out"), join(results, metric=metric))


def _visible(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_visible()]


def _legend(figure: Any) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_one_task_is_one_panel_with_units(one_task: TransferResult) -> None:
    figure = curve_figure(_comparison(one_task))
    (axes,) = _visible(figure)
    assert axes.get_xlabel() == "labels used (number of samples)"
    assert axes.get_ylabel() == "balanced accuracy (test, no unit)"
    assert axes.get_title() == "morphology: 735 test samples, 95 % intervals"
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["50", "750"]
    assert _legend(figure) == [
        "byol, frozen (pretraining saw: none)", "byol, knn (pretraining saw: none)",
        "$x$, frozen (pretraining saw: none)", "scratch, no pretraining", "random (mean of 5), no pretraining",
        "chance",
    ]  # fmt: skip
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_curves_run_from_few_labels_to_many_with_their_bands(one_task: TransferResult) -> None:
    (axes,) = _visible(curve_figure(_comparison(one_task)))
    *curves, chance = axes.lines
    for curve in curves:
        np.testing.assert_array_equal(curve.get_xdata(), [50, 750])
        np.testing.assert_array_equal(curve.get_ydata(), [0.61, 0.61])
    assert chance.get_ydata()[0] == 0.5
    for band in axes.collections:
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (0.58, 0.64)
    assert len(axes.collections) == 5


def test_a_curve_looks_the_same_in_every_panel(one_task: TransferResult, other_task: TransferResult) -> None:
    comparison = _comparison(one_task, other_task)
    figure = curve_figure(comparison)
    left, right = _visible(figure)
    looks = [{line.get_label(): (line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}
             for axes in (left, right)]
    both = set(looks[0]) & set(looks[1])
    assert both == {"$x$, frozen (pretraining saw: morphology none, votes own)", "random (mean of 5), no pretraining"}
    assert all(looks[0][label] == looks[1][label] for label in both)
    assert right.get_ylabel() == "nll, lower is better (test, nats a sample)"
    assert "chance" not in looks[1]
    assert len(_legend(figure)) == len(set(_legend(figure))) == 7
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_any_number_of_curves_is_told_apart_without_colour_vision(
    make_transfer: TransferFactory, make_row: RowFactory
) -> None:
    rows = (*(make_row(f"run{i}", arm) for i in range(10) for arm in ("frozen", "knn")),
            make_row("random a", "random"), make_row("random b", "random"))
    styles = curve_styles(_comparison(make_transfer(rows=rows)).tasks)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(rows)
    assert {style.colour for (_, arm), style in styles.items() if arm != "random"} == set(COLOURS)
    assert {style.colour for (_, arm), style in styles.items() if arm == "random"} == {GREY}
    assert styles["run3", "knn"].line == "--"


@pytest.mark.parametrize("count", [3, 4])
def test_more_panels_than_fit_in_a_row_go_below(count: int, make_transfer: TransferFactory) -> None:
    results = [make_transfer(f"t{i}", task=f"task {i}") for i in range(count)]
    assert len(_visible(curve_figure(_comparison(*results)))) == count


def test_a_curve_of_one_budget_has_a_bar(one_task: TransferResult) -> None:
    rows = tuple(row for row in one_task.rows if row.arm == "frozen")[:1]
    axes = curve_figure(Comparison(Path(), join([replace(one_task, rows=rows)]))).axes[0]
    (bar,) = [part for part in axes.collections if part.get_paths()[0].vertices.shape == (2, 2)]
    assert bar.get_paths()[0].vertices.tolist() == [[rows[0].n_labels, rows[0].low], [rows[0].n_labels, rows[0].high]]


def test_another_metric_has_no_band_and_may_be_undefined(make_transfer: TransferFactory, make_row: RowFactory) -> None:
    rows = (make_row(metrics={"brier": math.nan}), make_row("random", "random", metrics={"brier": 0.5}))
    figure = curve_figure(_comparison(make_transfer(rows=rows), metric="brier"))
    (axes,) = _visible(figure)
    assert axes.get_ylabel() == "brier, lower is better (test, no unit)"
    assert axes.get_title() == "morphology: 735 test samples"
    assert "chance" not in _legend(figure)
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_scores_stand_against_device_hours(one_task: TransferResult, other_task: TransferResult) -> None:
    figure = cost_figure(_comparison(one_task, other_task))
    left, right = _visible(figure)
    assert left.get_xlabel() == right.get_xlabel() == "device-hours of pretraining (h, cpu)"
    assert left.get_title() == "morphology: label budget 750"
    assert right.get_title() == "votes: label budget 1000\nnot drawn, cost unknown: vit"
    assert left.get_ylabel() == "balanced accuracy (test, no unit)"
    points = [(float(bar[0].get_xdata()[0]), to_hex(bar[0].get_color()).upper()) for bar in left.containers]
    assert points == [(0.2, COLOURS[0]), (0.2, COLOURS[1]), (0.4, COLOURS[2])]
    (bar,) = right.containers
    assert bar.get_label() == "$x$, frozen (pretraining saw: morphology none, votes own)"
    assert left.get_xlim()[0] == 0
    assert "vit" not in " ".join(_legend(figure))
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_hours_of_two_devices_give_way_to_images(
    make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory
) -> None:
    cost = {"byol": make_cost(10), "vit": make_cost(1000, device="cuda")}
    (axes,) = _visible(cost_figure(_comparison(make_transfer(rows=(make_row(), make_row("vit")), cost=cost))))
    assert axes.get_xlabel() == "images seen in pretraining (number)"
    assert [bar[0].get_xdata()[0] for bar in axes.containers] == [640, 64_000]
    assert axes.get_xscale() == "log"


def test_the_budget_is_the_largest_that_all_curves_share(
    make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory
) -> None:
    rows = [make_row(budget=b) for b in ("50", "250", "750")] + [make_row("vit", budget=b) for b in ("50", "250")]
    cost = {"byol": make_cost()}
    (axes,) = _visible(cost_figure(_comparison(make_transfer(rows=tuple(rows), cost=cost))))
    assert axes.get_title().startswith("morphology: label budget 250\n")
    apart = make_transfer(rows=(rows[2], rows[3]), cost=cost)
    assert cost_figure(_comparison(apart)) is None


def test_without_a_known_cost_there_is_no_cost_figure(make_transfer: TransferFactory, make_row: RowFactory) -> None:
    rows = (make_row(), make_row("random", "random"))
    assert cost_figure(_comparison(make_transfer(rows=rows))) is None


def test_costs_with_a_metric_that_has_no_interval(one_task: TransferResult) -> None:
    figure = cost_figure(_comparison(one_task, metric="auroc"))
    (axes,) = _visible(figure)
    assert axes.get_ylabel() == "auroc (test, no unit)"
    assert not axes.patches
    assert png_bytes(figure).startswith(b"\x89PNG")
