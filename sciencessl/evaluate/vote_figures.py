"""The figure of `predict` on votes: how far posteriors mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sciencessl.evaluate.vote_calibration import QuestionCalibration
from sciencessl.views.figures import COLOURS, GREY, marker_of

MOST = 14
"""Questions in one figure: with more nobody could tell their lines apart."""


def calibration_figure(questions: Sequence[QuestionCalibration], level: float, split: str) -> Any:
    """Reliability on the left, a point for each tenth of the expected fraction of any answer of a question; coverage
    of central intervals on the right. The diagonal is right. A colour and a marker a question.

    Args:
        questions: With votes; the `MOST` with most votes are drawn.
        level: Of the intervals that were asked for, marked by a dotted line.
        split: That the votes are of.
    """
    from matplotlib.figure import Figure

    shown = sorted(questions, key=lambda question: -question.votes)[:MOST]
    figure = Figure(figsize=(9.6, 5.0 + 0.17 * -(-len(shown) // 2)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls="--", zorder=1)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
    right.axvline(level, color=GREY, lw=0.9, ls=":", zorder=1)
    for number, question in enumerate(shown):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": marker_of(number)}
        _reliability(left, question, style)
        levels = [0.0, *question.coverage, 1.0]
        right.plot(levels, [0.0, *question.coverage.values(), 1.0], ms=4, lw=1.3,
                   label=f"{question.question} ({question.samples:,} samples)", **style)
    more = f" ({MOST} of {len(questions)} questions, those with most votes)" if len(questions) > MOST else ""
    left.set_title(f"Reliability, votes of split={split}{more}", fontsize=10, loc="left")
    left.set_xlabel("expected fraction (area: votes)")
    left.set_ylabel("share of the votes")
    right.set_title(f"Coverage, dotted: the level of the table, {100 * level:g} %", fontsize=10, loc="left")
    right.set_xlabel("level of the predicted interval of votes")
    right.set_ylabel("share of the votes on samples inside")
    legend = figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a question may be called `$x$`
    return figure


def _reliability(axes: Any, question: QuestionCalibration, style: dict[str, str]) -> None:
    bins = [found for answer in question.answers for found in answer.bins]
    share = np.array([found.votes for found in bins]) / question.votes
    axes.scatter([found.expected for found in bins], [found.observed for found in bins], 6 + 90 * share,
                 style["color"], marker=style["marker"], alpha=0.75, linewidths=0)
