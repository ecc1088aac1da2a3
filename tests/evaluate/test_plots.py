"""The few-label curves: every curve told apart without colour, thin lines for what the mean hides, axes with units."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sciencessl.evaluate.plots import LINES, few_label_figure, shortened, spaced, thin_lines
from sciencessl.evaluate.results import Row, TransferResult
from sciencessl.views.figures import COLOURS, GREY, marker_of, png_bytes


def curve(*each: tuple[float, ...]) -> list[Row]:
    return [Row("byol", "frozen", str(n), n, 3, 3, "balanced_accuracy", 0.5, 0.4, 0.6, None, None, None, 1.0, "none",
                each=values) for n, values in zip((20, 60, 200), each, strict=False)]


def thick(figure: Any) -> list[Any]:
    return [line for line in figure.axes[0].lines if line.get_linewidth() == 2]


def test_a_budget_of_one_value_is_a_point_of_every_thin_line() -> None:
    found = thin_lines(curve((0.4, 0.5, 0.6), (0.5, 0.6), (0.7,)))
    assert found == [[(20, 0.4), (60, 0.5), (200, 0.7)], [(20, 0.5), (60, 0.6), (200, 0.7)], [(20, 0.6), (200, 0.7)]]


@pytest.mark.parametrize("each", [((), ()), ((0.4,), (0.5,))])
def test_one_value_at_each_budget_has_no_thin_lines(each: tuple[tuple[float, ...], ...]) -> None:
    assert thin_lines(curve(*each)) == []


def test_curves_differ_in_marker_and_arms_in_line_style(full_result: TransferResult) -> None:
    means = thick(few_label_figure(full_result))
    assert len(means) == 6
    assert len({line.get_marker() for line in means}) == 6
    assert len({line.get_color() for line in means}) == 6
    assert means[-1].get_color() == GREY
    styles = [line._dash_pattern for line in means]
    assert styles[0] == styles[2]  # both frozen
    assert len(set(map(str, styles))) == 5
    assert len(set(map(str, LINES.values()))) == len(LINES)


def test_the_mean_is_thick_and_each_seed_encoder_or_subset_thin(full_result: TransferResult) -> None:
    figure = few_label_figure(full_result)
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() < 0.75]
    assert len(thin) == 4 * 3 + 4 + 5
    rows = [row for row in full_result.rows if (row.encoder, row.arm) == ("byol", "frozen")]
    np.testing.assert_allclose(thin[1].get_ydata(), [row.each[1] for row in rows])
    np.testing.assert_allclose(thick(figure)[0].get_ydata(), [row.score for row in rows])
    (legend,) = figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told[0] == "byol, frozen (pretraining saw: none)\nthin: 3 pretraining seeds"
    assert "scratch (no pretraining)\nthin: 4 label subsets" in told
    assert "random (mean of 5)\nthin: 5 random encoders" in told


def test_one_budget_has_a_bar_and_a_dot_for_each_seed(full_result: TransferResult) -> None:
    rows = tuple(curve((0.4, 0.5, 0.6)))
    axes = few_label_figure(replace(full_result, rows=rows)).axes[0]
    assert axes.collections[1].get_paths()[0].vertices.tolist() == [[20, 0.4], [20, 0.6]]
    (dots,) = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert dots.get_xydata().tolist() == [[20, 0.4], [20, 0.5], [20, 0.6]]


def test_scores_are_shown_between_nought_and_one_and_losses_are_not_cut(full_result: TransferResult) -> None:
    wide = tuple(replace(row, low=-0.4, high=1.7) for row in full_result.rows)
    assert few_label_figure(replace(full_result, rows=wide)).axes[0].get_ylim() == (-0.03, 1.03)
    low, high = few_label_figure(replace(full_result, rows=wide, lower_is_better=True)).axes[0].get_ylim()
    assert low == -0.03
    assert high > 1.7


def test_bands_are_the_intervals(full_result: TransferResult) -> None:
    band = few_label_figure(full_result).axes[0].collections[0].get_paths()[0].vertices
    rows = full_result.rows[:4]
    for row in rows:
        ends = band[np.isclose(band[:, 0], row.n_labels), 1]
        assert (ends.min(), ends.max()) == pytest.approx((row.low, row.high))


def test_chance_is_drawn_for_balanced_accuracy_only(full_result: TransferResult) -> None:
    axes = few_label_figure(full_result).axes[0]
    chance = [line for line in axes.lines if line.get_label() == "chance"]
    assert [line.get_ydata()[0] for line in chance] == [1 / 4]
    assert axes.get_ylabel() == "balanced accuracy"
    votes = replace(full_result, kind="counts", metric="nll", lower_is_better=True)
    axes = few_label_figure(votes).axes[0]
    assert not [line for line in axes.lines if line.get_label() == "chance"]
    assert axes.get_ylabel() == "negative log-likelihood (nats a\nvote, lower is better)"


def test_the_title_says_what_it_was_tested_on(full_result: TransferResult) -> None:
    figure = few_label_figure(full_result)
    assert figure.axes[0].get_title() == "morphology, tested on telescope = B: 590 test samples, 95 % intervals"
    home = few_label_figure(replace(full_result, tested=""))
    assert home.axes[0].get_title().startswith("morphology: 590")


def test_hostile_names_are_drawn_as_they_are(full_result: TransferResult) -> None:
    rows = tuple(replace(row, encoder=f"$\\broken_{row.encoder}") for row in full_result.rows)
    hostile = replace(full_result, rows=rows, tested="$\\x$", task="$\\y")
    assert png_bytes(few_label_figure(hostile)).startswith(b"\x89PNG")


def test_ticks_have_room_and_keep_both_ends() -> None:
    kept = spaced([20, 21, 60, 200, 2800, 2853])
    assert kept == [20, 60, 200, 2853]
    assert spaced([50]) == [50]
    many = spaced(list(range(20, 3000, 7)))
    gaps = [np.log(b / a) for a, b in pairwise(many)]
    assert min(gaps) >= 0.0599 * np.log(many[-1] / many[0])


def test_long_names_keep_their_ends() -> None:
    assert shortened("short", 5) == "short"
    cut = shortened("a-very-long-name-of-a-run-seed-17", 12)
    assert len(cut) == 12
    assert cut.startswith("a-very")
    assert cut.endswith("ed-17")


def test_colour_and_marker_together_are_unique() -> None:
    looks = {(number % len(COLOURS), marker_of(number)) for number in range(49)}
    assert len(looks) == 49
