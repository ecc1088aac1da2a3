"""Intervals over pretraining seeds, label subsets and test units at once: what a claim about a method needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sciencessl.errors import DataError
from sciencessl.evaluate.mean_squares import net_square, variance_and_degrees
from sciencessl.evaluate.statistics import Interval, check_share, unit_influence, unit_positions

NAMES = {"p": "pretraining", "s": "subsets", "u": "units"}
"""Source of variance, as in the formulas and as in `Interval.parts`."""


def three_level_interval(
    scores: np.ndarray,
    units: Sequence[object] | np.ndarray,
    strata: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean score over new pretraining seeds, new label subsets and new test units.

    Every pretraining is fitted on the same label subsets and scored on the same test samples, so the three are crossed.
    With A_T the mean square of the factors T, as a variance of the grand mean (for units from the influence of each
    unit, as in `hierarchical_interval`), the variance of the mean is estimated as

        A_p + A_s + A_u - A_ps - A_pu - A_su + A_psu

    (three-way random effects, method of moments). It is never taken below the largest of the first three; degrees of
    freedom are those of `variance_and_degrees`. Where nothing but noise of single answers varies, not even test units,
    the interval is too wide.

    For the difference of two arms or methods give the difference of their scores.

    Args:
        scores: (P, S, N) score of each test sample, P >= 2 pretraining seeds and S >= 1 label subsets.
        units: (N,) unit of each test sample.
        strata: (N,) classes for balanced accuracy; None for the plain mean.
        confidence: In (0, 1).

    Returns:
        The interval, `n_seeds` = P. Its `parts` are the variances of the mean from `pretraining`, `subsets` (where S is
        above 1) and `units` alone, and from `interactions` (and noise); an estimate that came out negative is 0.

    Raises:
        DataError: For shapes that do not match, one pretraining seed (which says nothing of new ones), scores that are
            not finite, or no more units than strata.
        ConfigError: For a confidence outside (0, 1).
    """
    scores = np.asarray(scores, dtype=np.float64)
    check_share(confidence, "confidence")
    if scores.ndim != 3 or len(scores) < 2:
        raise DataError(
            f"three-level interval: scores {scores.shape} must be (P, S, N) with two pretraining seeds or more; "
            "for one checkpoint use hierarchical_interval."
        )
    n_seeds, n_subsets, _ = scores.shape
    flat = scores.reshape(n_seeds * n_subsets, -1)
    of_unit, of_class = unit_positions(flat, np.asarray(units), strata)
    theta, influence = unit_influence(flat, of_unit, of_class)
    n_units = influence.shape[1]
    df_units = n_units - int(of_class.max()) - 1
    squares = _mean_squares(theta.reshape(n_seeds, n_subsets, 1))
    by_unit = _mean_squares(influence.reshape(n_seeds, n_subsets, n_units))
    squares |= {f"{name}u": value * n_units / df_units for name, value in by_unit.items()}
    del squares[""]
    freedom = {"p": n_seeds - 1.0, "s": n_subsets - 1.0, "u": float(df_units)}
    degrees = {name: float(np.prod([freedom[letter] for letter in name])) for name in squares}
    variance, df = (float(value) for value in variance_and_degrees(squares, degrees))
    return Interval(
        float(theta.mean()), variance**0.5, df, confidence, n_seeds, n_units, _parts(squares, variance),
    )


def _mean_squares(values: np.ndarray) -> dict[str, float]:
    """(P, S, G) values -> sums of squares over G of their grand mean (``), and of the effects of `p`, `s` and `ps`.

    Each as a variance of the grand mean: divided by its number of values and by its degrees of freedom.
    """
    n_p, n_s, _ = values.shape
    grand = values.mean(axis=(0, 1), keepdims=True)
    by_p, by_s = values.mean(axis=1, keepdims=True) - grand, values.mean(axis=0, keepdims=True) - grand
    found = {"": float((grand**2).sum()), "p": float((by_p**2).sum()) / (n_p * (n_p - 1))}
    if n_s > 1:
        rest = values - grand - by_p - by_s
        found["s"] = float((by_s**2).sum()) / (n_s * (n_s - 1))
        found["ps"] = float((rest**2).sum()) / (n_p * n_s * (n_p - 1) * (n_s - 1))
    return found


def _parts(squares: Mapping[str, float], variance: float) -> dict[str, float]:
    alone = {NAMES[letter]: max(net_square(squares, letter), 0.0) for letter in squares if len(letter) == 1}
    return {**alone, "interactions": max(variance - sum(alone.values()), 0.0)}
