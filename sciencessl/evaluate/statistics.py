"""Intervals and tests for few-label results, over subset seeds and test units.

Nothing here bootstraps: with the handful of seeds that anybody runs, a percentile bootstrap covers 84 % where it says
95 %. The coverage of the two intervals is held by simulation in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from scipy import stats

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.mean_squares import variance_and_degrees
from sciencessl.evaluate.metrics import Metric

DISAGREEMENT = 0.2
"""Share of test units on which two encoders of one task differ in correctness: our guess, before anything is fitted."""


@dataclass(frozen=True)
class Interval:
    """A mean with a Student-t interval.

    Attributes:
        mean: The estimate.
        standard_error: Of the mean; infinite where one value gives no idea of it.
        df: Degrees of freedom, not necessarily whole; 0 where the standard error is infinite.
        confidence: Such as 0.95.
        n_seeds: Number of repetitions (label subsets or pretraining seeds) averaged.
        n_units: Number of test units resampled in thought; 0 where only seeds vary.
        parts: Variance of the mean by source (`seeds`, `units`, `interaction`).
    """

    mean: float
    standard_error: float
    df: float
    confidence: float = 0.95
    n_seeds: int = 1
    n_units: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def half_width(self) -> float:
        """Half the width of the interval, infinite for a single value."""
        if not np.isfinite(self.standard_error):
            return float("inf")
        return float(_t_quantile(0.5 + self.confidence / 2, self.df) * self.standard_error)

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero; only of meaning for a difference."""
        return abs(self.mean) > self.half_width

    @property
    def p_value(self) -> float:
        """Two-sided probability of a mean this far from zero if the truth were zero."""
        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        if not np.isfinite(self.standard_error):
            return 1.0
        return float(2 * stats.t.sf(abs(self.mean) / self.standard_error, self.df))


def t_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Student-t interval of the mean of independent repetitions.

    Over label subsets it speaks of new subsets drawn from the same pool and the same test set; over pretraining seeds
    it speaks of new pretrainings.

    Args:
        values: (S,) one score each; one value alone gives an infinite interval.
        confidence: In (0, 1).

    Raises:
        DataError: For no values or one that is not finite.
        ConfigError: For a confidence outside (0, 1).
    """
    scores = _finite(values, "t interval")
    check_share(confidence, "confidence")
    n = len(scores)
    variance = float(scores.var(ddof=1)) / n if n > 1 else float("inf")
    return Interval(float(scores.mean()), variance**0.5, n - 1, confidence, n, 0, {"seeds": variance})


def paired_difference(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Interval:
    """Student-t interval of first - second, paired by seed.

    Args:
        first: (S,) scores of one arm.
        second: (S,) scores of the other, the same seeds in the same order.
        confidence: In (0, 1).

    Raises:
        DataError: For different lengths, no values, or one that is not finite.
        ConfigError: For a confidence outside (0, 1).
    """
    one, two = _finite(first, "paired difference"), _finite(second, "paired difference")
    if len(one) != len(two):
        raise DataError(f"paired difference: {len(one)} against {len(two)} scores; both arms need the same seeds.")
    return t_interval(one - two, confidence)


def hierarchical_interval(
    scores: np.ndarray,
    units: Sequence[object] | np.ndarray,
    strata: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Interval of a mean score over label subsets and over test units at once.

    Every subset's classifier is scored on the same test samples, so seeds and units are crossed. With theta_s the score
    of seed s and r_sg the summed influence of unit g on it, the variance of the mean over seeds is estimated as

        var(theta_s) / S  +  U/(U-K) sum_g mean_s(r_sg)^2  -  interaction,

    the third term being the seed-by-unit variance that both others contain (two-way random effects, method of moments;
    for equal units exactly (MS_seed + MS_unit - MS_rest) / (S U)). It is never taken below the larger of the first two;
    degrees of freedom are those of `variance_and_degrees`. Units (patients, source tiles) are the clusters: samples of
    one unit may depend on each other in any way. With one seed only the units' part is left, and the interval speaks of
    these labels only. Source: Cameron & Miller (2015) for the cluster-robust part, its sum with the seeds' ours.

    For the difference of two arms give the difference of their scores.

    Args:
        scores: (S, N) or (N,) score of each test sample, such as 1 for a correct answer.
        units: (N,) unit of each test sample.
        strata: (N,) classes for balanced accuracy (the mean over classes of the class means); None for the plain mean.
        confidence: In (0, 1).

    Returns:
        The interval with `parts` `seeds`, `units` and `interaction`, each a variance of the mean.

    Raises:
        DataError: For shapes that do not match, scores that are not finite, or no more units than strata.
        ConfigError: For a confidence outside (0, 1).
    """
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    check_share(confidence, "confidence")
    of_unit, of_class = unit_positions(scores, np.asarray(units), strata)
    n_seeds, n_units, n_classes = len(scores), int(of_unit.max()) + 1, int(of_class.max()) + 1
    theta, influence = unit_influence(scores, of_unit, of_class)
    common = influence.mean(axis=0)
    small = n_units / (n_units - n_classes)
    squares, degrees = {"u": small * float((common**2).sum())}, {"u": float(n_units - n_classes)}
    if n_seeds > 1:
        rest = small * float(((influence - common) ** 2).sum())
        squares |= {"s": float(theta.var(ddof=1)) / n_seeds, "su": rest / (n_seeds * (n_seeds - 1))}
        degrees |= {"s": n_seeds - 1.0, "su": (n_seeds - 1.0) * (n_units - n_classes)}
    variance, df = (float(value) for value in variance_and_degrees(squares, degrees))
    names = {"u": "units", "s": "seeds", "su": "interaction"}
    parts = {names[factors]: square for factors, square in squares.items()}
    return Interval(float(theta.mean()), variance**0.5, df, confidence, n_seeds, n_units, parts)


def widened(interval: Interval, variance: float, df: float, name: str) -> Interval:
    """The interval of an estimate minus an independent one of that variance.

    Degrees of freedom are pooled as in `variance_and_degrees`, with the same factor for the few that the other has.

    Args:
        interval: Of the estimate.
        variance: Of the other, 0 or more.
        df: Its degrees of freedom.
        name: Under which it stands in `parts`.
    """
    if not np.isfinite(interval.standard_error):
        return interval
    own = interval.standard_error**2
    total = own + variance
    spread = own**2 / interval.df + variance**2 * (1 + 2 / df) / df
    freedom = total**2 / spread if spread > 0 else interval.df
    return replace(interval, standard_error=total**0.5, df=max(freedom, min(interval.df, df)),
                   parts={**interval.parts, name: variance})


def unit_positions(scores: np.ndarray, units: np.ndarray, strata: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(N,) number of each sample's unit and of its stratum, for (S, N) scores.

    Raises:
        DataError: As `hierarchical_interval`.
    """
    classes = np.zeros(len(units), dtype=np.int64) if strata is None else np.asarray(strata)
    if scores.ndim != 2 or not scores.size or scores.shape[1:] != units.shape or units.shape != classes.shape:
        raise DataError(
            f"hierarchical interval: scores {scores.shape}, units {units.shape} and strata {classes.shape} must be "
            "(S, N), (N,) and (N,)."
        )
    if not np.isfinite(scores).all():
        raise DataError("hierarchical interval: some scores are not finite.")
    names, of_unit = np.unique(units, return_inverse=True)
    kinds, of_class = np.unique(classes, return_inverse=True)
    if len(names) <= len(kinds):
        raise DataError(
            f"hierarchical interval: {len(names)} test units for {len(kinds)} strata say nothing of the spread; "
            "test on more units, or fold (--folds)."
        )
    return of_unit, of_class


def unit_influence(scores: np.ndarray, of_unit: np.ndarray, of_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S,) scores and (S, U) influence of each unit: sum of w_i (y_si - mean of its class), w_i = 1 / (K n_class)."""
    sizes = np.bincount(of_class)
    weight = 1.0 / (len(sizes) * sizes[of_class])
    member = np.eye(len(sizes))[of_class]
    class_means = scores @ member / sizes
    residual = (scores - class_means[:, of_class]) * weight
    n_units = int(of_unit.max()) + 1
    slot = np.arange(len(scores))[:, None] * n_units + of_unit
    summed = np.bincount(slot.ravel(), residual.ravel(), minlength=len(scores) * n_units)
    return class_means.mean(axis=1), summed.reshape(len(scores), n_units)


def jackknife_scores(
    metric: Metric,
    probabilities: np.ndarray,
    labels: np.ndarray,
    units: Sequence[object] | np.ndarray,
    rng: np.random.Generator,
    groups: int = 20,
) -> np.ndarray:
    """Pseudo-values of any smooth metric (AUROC, NLL...), for `hierarchical_interval` with the groups as units.

    Test units are dealt to G groups, evenly within each class; pseudo-value g of seed s is
    G * metric(all) - (G - 1) * metric(without group g) (Tukey's delete-a-group jackknife). Their mean is the
    bias-corrected metric.

    Args:
        metric: From `sciencessl.evaluate.metrics`.
        probabilities: (S, N, K), or (N, K) for one seed.
        labels: (N,) class ids.
        units: (N,) unit of each row; a unit is never divided.
        rng: Deals the units.
        groups: At most this many groups, never more than units; at least 2.

    Returns:
        (S, G): give `np.arange(G)` as units to `hierarchical_interval`.

    Raises:
        DataError: For fewer than two units, or where the metric is undefined without one of the groups.
    """
    stack = probabilities[None] if probabilities.ndim == 2 else probabilities
    group = _deal(labels, np.asarray(units), rng, groups)
    count = int(group.max()) + 1
    values = np.empty((len(stack), count))
    for s, one in enumerate(stack):
        whole = metric(one, labels)
        left = [metric(one[group != g], labels[group != g]) for g in range(count)]
        values[s] = count * whole - (count - 1) * np.array(left)
    if not np.isfinite(values).all():
        raise DataError("jackknife: the metric is undefined without one group of test units; use fewer groups.")
    return values


def _deal(labels: np.ndarray, units: np.ndarray, rng: np.random.Generator, groups: int) -> np.ndarray:
    names, first, of_unit = np.unique(units, return_index=True, return_inverse=True)
    count = min(groups, len(names))
    if count < 2:
        raise DataError(f"jackknife: {len(names)} test units in {groups} groups; both must be at least 2.")
    place = np.empty(len(names), dtype=np.int64)
    place[np.lexsort((rng.random(len(names)), labels[first]))] = np.arange(len(names)) % count
    dealt: np.ndarray = place[of_unit]
    return dealt


def minimum_resolvable_difference(difference: Interval, power: float = 0.5) -> float:
    """Smallest true difference that this design finds with the given power: (t_(1+c)/2 + t_power) * standard error.

    With the default power of one half it is the half-width of the interval, so that "not resolved" and an interval
    that contains zero are the same statement; 0.8 is the convention for planning.

    Raises:
        ConfigError: For a power outside (0, 1).
    """
    check_share(power, "power")
    if not np.isfinite(difference.standard_error):
        return float("inf")
    return difference.half_width + float(_t_quantile(power, difference.df)) * difference.standard_error


def planned_resolution(
    units_per_class: Sequence[int] | np.ndarray, disagreement: float = DISAGREEMENT, confidence: float = 0.95,
    power: float = 0.5,
) -> float:
    """Difference in balanced accuracy that a test set can resolve, known before anything is fitted.

    Two arms that differ in correctness on a share q of the test units have a per-unit difference of variance at most q,
    so the standard error is at most sqrt(sum_c q / n_c) / K (one effective sample a unit; for plain accuracy give the
    one number of all units). Source: the variance bound behind McNemar's test.

    Args:
        units_per_class: Number of test units of each class, all positive.
        disagreement: q in (0, 1]; 1 is the worst case.
        confidence: In (0, 1).
        power: As in `minimum_resolvable_difference`.

    Raises:
        ConfigError: For a share outside its range or a class without units.
    """
    counts = np.asarray(units_per_class, dtype=np.float64)
    check_share(confidence, "confidence")
    check_share(power, "power")
    if not counts.size or counts.min() < 1 or not 0 < disagreement <= 1:
        raise ConfigError(
            f"planned resolution: every class needs test units, got {counts.tolist()}, and the disagreement must lie "
            f"in (0, 1], got {disagreement}."
        )
    error = float(np.sqrt((disagreement / counts).sum())) / len(counts)
    return float(stats.norm.ppf(0.5 + confidence / 2) + stats.norm.ppf(power)) * error


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979).

    Raises:
        DataError: For a value outside [0, 1].
    """
    raw = np.asarray(p_values, dtype=np.float64)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise DataError(f"Holm: p-values must lie in [0, 1], got {raw.tolist()}.")
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)), 1.0)
    return adjusted


def area_under_log_curve(sizes: Sequence[float] | np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Mean score over the logarithm of the number of labels (trapezoids, divided by the log range; ours).

    In the units of the score, so that a difference of two areas is the average gap between two curves.

    Args:
        sizes: (B,) numbers of labels, increasing and positive. A single budget gives its score.
        scores: (..., B).

    Returns:
        (...) one area each.

    Raises:
        DataError: For sizes that do not increase, are not positive, or do not match the scores.
    """
    budgets, scores = np.asarray(sizes, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    increasing = all(a < b for a, b in pairwise(budgets))
    if budgets.ndim != 1 or not len(budgets) or budgets[0] <= 0 or not increasing or scores.shape[-1:] != budgets.shape:
        raise DataError(
            f"area under the curve: sizes {budgets.tolist()} must be positive and increasing, one for each of the "
            f"scores {scores.shape}."
        )
    if len(budgets) == 1:
        return scores[..., 0]
    logs = np.log(budgets)
    area: np.ndarray = np.trapezoid(scores, logs, axis=-1) / (logs[-1] - logs[0])
    return area


def _t_quantile(share: float, df: float) -> float:
    return float(stats.t.ppf(share, df))


def _finite(values: Sequence[float] | np.ndarray, where: str) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise DataError(f"{where}: needs one or more finite scores in a row, got {scores.tolist()}.")
    return scores


def check_share(value: float, name: str) -> None:
    """Refuse a share outside (0, 1).

    Raises:
        ConfigError: Naming it.
    """
    if not 0 < value < 1:
        raise ConfigError(f"{name} = {value} must lie strictly between 0 and 1, such as 0.95.")
