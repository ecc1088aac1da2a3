"""From fits to the rows of the table and its endpoints: paired, over seeds, label subsets and test units at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sciencessl.evaluate.curves import Curve
from sciencessl.evaluate.metrics import LOWER_IS_BETTER
from sciencessl.evaluate.outcomes import Outcome
from sciencessl.evaluate.plan import Plan, class_names
from sciencessl.evaluate.results import Endpoint, Row
from sciencessl.evaluate.seen import LEAK, PROBED
from sciencessl.evaluate.statistics import (
    Interval,
    area_under_log_curve,
    hierarchical_interval,
    holm,
    planned_resolution,
    unit_influence,
    unit_positions,
    widened,
)
from sciencessl.evaluate.subsets import Budget
from sciencessl.evaluate.three_levels import three_level_interval

Outcomes = Mapping[tuple[str, str], Mapping[Budget, Outcome]]
"""(arm, curve name) -> budget -> outcome."""

ACCURACIES = frozenset({"accuracy", "balanced_accuracy"})
STRENGTH = ("none", "transductive", "related", "unknown", "own")
"""Levels of the mark in the order of `seen`, last first: a method has the first that holds for one of its runs."""


def resolution(plan: Plan) -> float:
    """Smallest difference in accuracy that the test set can resolve, one effective sample a unit; else NaN."""
    units, labels = plan.data.test_units, plan.data.test_labels
    if plan.data.task.metric not in ACCURACIES:
        return float("nan")
    if _strata(plan) is None:
        return planned_resolution([len(set(units))])
    return planned_resolution([len(set(units[labels == label])) for label in np.unique(labels)])


def make_rows(plan: Plan, outcomes: Outcomes, saw: Mapping[str, str]) -> tuple[Row, ...]:
    """The table, curve by curve and budget by budget.

    Args:
        plan: What was asked.
        outcomes: Of every curve.
        saw: Run -> its mark, as `Mark.shown`.
    """
    return tuple(_row(plan, outcomes, saw, curve, budget) for curve in plan.curves
                 for budget in plan.budgets_of(curve.arm))


def _row(plan: Plan, outcomes: Outcomes, saw: Mapping[str, str], curve: Curve, budget: Budget) -> Row:
    own = outcomes[curve.arm, curve.name][budget]
    score = _interval(plan, own.scores)
    difference = None
    if curve.baseline:
        difference = _difference(plan, own.scores, outcomes["random", curve.baseline][budget].scores)
    marks = ["none"] if curve.arm in ("scratch", "random") else [saw[run.name] for run in curve.encoders]
    seen = max((mark.partition(",")[0] for mark in marks), key=STRENGTH.index)
    seen += PROBED if any(PROBED in mark for mark in marks) else ""
    seen += LEAK if plan.standing.leak or any(LEAK in mark for mark in marks) else ""
    each = own.scores.mean(axis=(1, 2)) if len(own.scores) > 1 else own.scores[0].mean(axis=0)
    return Row(
        encoder=curve.name, arm=curve.arm, budget=str(budget), n_labels=round(own.n_labels),
        subsets=own.scores.shape[2], encoders=len(curve.encoders), metric=plan.data.task.metric, score=score.mean,
        low=score.low, high=score.high, difference=None if difference is None else difference.mean,
        difference_low=None if difference is None else difference.low,
        difference_high=None if difference is None else difference.high,
        trials=own.trials, saw=seen,
        note=class_names(plan.subsets[0][budget].note, plan.data.strata), metrics=own.metrics, baseline=curve.baseline,
        seeds=len(own.scores), each=_means(plan, each), parts=_parts(score),
    )


def make_endpoints(plan: Plan, outcomes: Outcomes) -> tuple[Endpoint, ...]:
    """Pairs of curves in one number each, the primary one first.

    Frozen against random encoders for each method; each further method against the first one, frozen; fine-tuned
    against from scratch. The first pair that the arms have is the primary endpoint: with frozen and random, the method
    that was named first. The probabilities of all others are Holm-adjusted among themselves.
    """
    pairs = _pairs(plan)
    found = [_area_difference(plan, outcomes, one, other) for one, other in pairs]
    adjusted = holm([interval.p_value for interval, _, _ in found[1:]])
    return tuple(
        Endpoint(
            encoder=one.name, arm=one.arm, baseline=other.name, baseline_arm=other.arm, primary=number == 0,
            from_labels=round(sizes[0]), to_labels=round(sizes[-1]), difference=interval.mean, low=interval.low,
            high=interval.high, p_value=interval.p_value,
            p_adjusted=interval.p_value if number == 0 else float(adjusted[number - 1]), seeds=len(each), each=each,
        )
        for number, ((one, other), (interval, sizes, each)) in enumerate(zip(pairs, found, strict=True))
    )


def _pairs(plan: Plan) -> list[tuple[Curve, Curve]]:
    by_name = {(curve.arm, curve.name): curve for curve in plan.curves}
    frozen = [curve for curve in plan.curves if curve.arm == "frozen"]
    pairs = [(curve, by_name["random", curve.baseline]) for curve in frozen if curve.baseline]
    pairs += [(curve, frozen[0]) for curve in frozen[1:]]
    tuned = [curve for curve in plan.curves if curve.arm == "finetune" and curve.scratch]
    return pairs + [(curve, by_name["scratch", curve.scratch]) for curve in tuned]


def _area_difference(
    plan: Plan, outcomes: Outcomes, one: Curve, other: Curve
) -> tuple[Interval, list[float], tuple[float, ...]]:
    """The interval of the difference of areas over log labels, the numbers of labels, and each seed's difference.

    The area is linear in the scores, so it is taken for each encoder, subset seed and test sample, and the interval is
    that of any other paired difference. A budget of all labels is one subset and counts for every seed.
    """
    areas = []
    shared = [budget for budget in plan.budgets_of(one.arm) if budget in plan.budgets_of(other.arm)]
    for curve in (one, other):
        found = outcomes[curve.arm, curve.name]
        by_size = {found[budget].n_labels: found[budget].scores for budget in shared}
        sizes = sorted(by_size)
        encoders, repeats, _, samples = by_size[sizes[0]].shape
        shape = (encoders, repeats, max(scores.shape[2] for scores in by_size.values()), samples)
        stacked = np.stack([np.broadcast_to(by_size[size], shape) for size in sizes], axis=-1)
        areas.append(area_under_log_curve(sizes, stacked))
    paired = other.arm != "random"
    each = _gaps(areas[0], areas[1], paired).mean(axis=(1, 2))
    return _difference(plan, areas[0], areas[1], paired), sizes, _means(plan, each)


def _difference(plan: Plan, one: np.ndarray, other: np.ndarray, paired: bool = False) -> Interval:
    """Of one curve minus another, (P, R, S, m) scores each.

    Methods with as many runs are paired, seed by seed. Otherwise the other's encoders are averaged, and their spread is
    added as a variance of its own.
    """
    interval = _interval(plan, _gaps(one, other, paired))
    if len(other) == 1 or (paired and len(one) == len(other)):
        return interval
    theta = np.array(_means(plan, other.mean(axis=(1, 2))))
    return widened(interval, float(theta.var(ddof=1)) / len(theta), len(theta) - 1, "baseline")


def _gaps(one: np.ndarray, other: np.ndarray, paired: bool) -> np.ndarray:
    """Paired differences: an arm with fewer subsets has the first ones of the other."""
    subsets = min(one.shape[2], other.shape[2])
    other = other if paired and len(one) == len(other) else other.mean(axis=0, keepdims=True)
    return np.asarray(one[:, :, :subsets] - other[:, :, :subsets])


def _interval(plan: Plan, scores: np.ndarray) -> Interval:
    """Over pretraining seeds where there are several, label subsets and test units at once."""
    encoders, repeats, subsets, samples = scores.shape
    flat = scores.reshape(encoders, repeats * subsets, samples)
    if encoders > 1:
        return three_level_interval(flat, plan.data.test_units, strata=_strata(plan))
    return hierarchical_interval(flat[0], plan.data.test_units, strata=_strata(plan))


def _means(plan: Plan, scores: np.ndarray) -> tuple[float, ...]:
    """The metric of each line of (n, m) scores: with strata the mean over classes of the class means."""
    places = unit_positions(scores, plan.data.test_units, _strata(plan))
    return tuple(unit_influence(scores, *places)[0].tolist())


def _parts(interval: Interval) -> dict[str, float]:
    """Variances by the names of `Row.parts`, whichever interval they come from."""
    names = {"seeds": "subsets", "interaction": "interactions"}
    return {names.get(name, name): value for name, value in interval.parts.items()}


def _strata(plan: Plan) -> np.ndarray | None:
    """Classes of the test samples where the metric is the mean over them."""
    return plan.data.test_labels if plan.data.task.metric == "balanced_accuracy" else None


def lower_is_better(plan: Plan) -> bool:
    """Whether a negative difference is a gain."""
    return plan.data.task.metric in LOWER_IS_BETTER
