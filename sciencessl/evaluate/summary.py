"""From fits to the rows of the table and its endpoints: paired, over label subsets and test units at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sciencessl.evaluate.plan import Curve, Plan, class_names
from sciencessl.evaluate.results import Endpoint, Row
from sciencessl.evaluate.statistics import (
    Interval,
    area_under_log_curve,
    hierarchical_interval,
    holm,
    planned_resolution,
)
from sciencessl.evaluate.subsets import Budget


@dataclass(frozen=True)
class Outcome:
    """What the table needs of one curve at one budget.

    Attributes:
        hits: (S, m) share of the curve's encoders that are right on each test sample, for each label subset.
        n_labels: Labels used, mean over subsets.
        trials: Settings tried in a fit, mean.
        metrics: Metric -> mean over subsets and encoders.
    """

    hits: np.ndarray
    n_labels: float
    trials: float
    metrics: Mapping[str, float]


Outcomes = Mapping[tuple[str, str], Mapping[Budget, Outcome]]
"""(arm, curve name) -> budget -> outcome."""


def resolution(plan: Plan) -> float:
    """Smallest difference that the test set can resolve, one effective sample a unit."""
    units, labels = plan.data.test_units, plan.data.test_labels
    if _strata(plan) is None:
        return planned_resolution([len(set(units))])
    return planned_resolution([len(set(units[labels == label])) for label in np.unique(labels)])


def make_rows(plan: Plan, outcomes: Outcomes, saw: Mapping[str, str]) -> tuple[Row, ...]:
    """The table, curve by curve and budget by budget.

    Args:
        plan: What was asked.
        outcomes: Of every curve.
        saw: Run -> level of its mark.
    """
    return tuple(_row(plan, outcomes, saw, curve, budget) for curve in plan.curves for budget in plan.budgets)


def _row(plan: Plan, outcomes: Outcomes, saw: Mapping[str, str], curve: Curve, budget: Budget) -> Row:
    own = outcomes[curve.arm, curve.name][budget]
    score = _interval(plan, own.hits)
    difference = None
    if curve.baseline:
        # An arm with fewer subsets has the first ones: paired with the same ones of the other arm.
        difference = _interval(plan, own.hits - outcomes["random", curve.baseline][budget].hits[: len(own.hits)])
    return Row(
        encoder=curve.name, arm=curve.arm, budget=str(budget), n_labels=round(own.n_labels), subsets=len(own.hits),
        encoders=len(curve.encoders), metric=plan.data.task.metric, score=score.mean, low=score.low, high=score.high,
        difference=None if difference is None else difference.mean,
        difference_low=None if difference is None else difference.low,
        difference_high=None if difference is None else difference.high,
        trials=own.trials, saw="none" if curve.arm in ("scratch", "random") else saw[curve.name],
        note=class_names(plan.subsets[0][budget].note, plan.data.classes), metrics=own.metrics, baseline=curve.baseline,
    )


def make_endpoints(plan: Plan, outcomes: Outcomes) -> tuple[Endpoint, ...]:
    """For each run the area under its frozen curve minus that of random encoders.

    The first run's is the one primary endpoint; the others' probabilities are Holm-adjusted among themselves.
    """
    curves = [curve for curve in plan.curves if curve.arm == "frozen" and curve.baseline]
    found = [area_difference(plan, outcomes, curve) for curve in curves]
    adjusted = holm([interval.p_value for interval, _ in found[1:]])
    return tuple(
        Endpoint(
            encoder=curve.name, baseline=curve.baseline, primary=number == 0, from_labels=round(sizes[0]),
            to_labels=round(sizes[-1]), difference=interval.mean, low=interval.low, high=interval.high,
            p_value=interval.p_value, p_adjusted=interval.p_value if number == 0 else float(adjusted[number - 1]),
        )
        for number, (curve, (interval, sizes)) in enumerate(zip(curves, found, strict=True))
    )


def area_difference(plan: Plan, outcomes: Outcomes, curve: Curve) -> tuple[Interval, list[float]]:
    """The interval of the difference of areas over log labels, and the numbers of labels that it covers.

    The area is linear in the scores, so it is taken for each subset seed and test sample, and the interval is that of
    any other paired difference. A budget of all labels is one subset and counts for every seed.
    """
    own, random = outcomes[curve.arm, curve.name], outcomes["random", curve.baseline]
    by_size = {own[budget].n_labels: own[budget].hits - random[budget].hits for budget in plan.budgets}
    sizes = sorted(by_size)
    seeds = max(len(gaps) for gaps in by_size.values())
    shape = (seeds, len(plan.data.test))
    gaps = np.stack([np.broadcast_to(by_size[size], shape) for size in sizes], axis=-1)
    return _interval(plan, area_under_log_curve(sizes, gaps)), sizes


def _interval(plan: Plan, hits: np.ndarray) -> Interval:
    """Over label subsets and test units at once; strata make the mean a balanced accuracy."""
    return hierarchical_interval(hits, plan.data.test_units, strata=_strata(plan))


def _strata(plan: Plan) -> np.ndarray | None:
    return plan.data.test_labels if plan.data.task.metric == "balanced_accuracy" else None
