"""Metrics that are no means over samples, as one score a sample whose mean is the metric.

A metric is a function of the weights of the test samples, all 1, and does not change when all grow alike. With
`score_j = metric + N * d metric / d w_j` the mean over the N samples is the metric exactly, and its spread over units
is the metric's (infinitesimal jackknife: Jaeckel 1972, Efron 1982). So `hierarchical_interval` covers label subsets and
test units for average precision, AUROC, F1, kappa and votes as it does for right answers, and differences stay paired.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sciencessl.errors import DataError
from sciencessl.evaluate.metrics import kappa_costs

LabelScores = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(N,) whether positive and (N,) finite predictions -> (N,) scores whose mean is the metric."""


def ratio_scores(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) scores whose mean is sum(values) / sum(weights): R + N (values - R weights) / sum(weights).

    Raises:
        DataError: When the weights do not sum to more than 0.
    """
    total = float(weights.sum())
    if not total > 0:
        raise DataError(f"ratio: the {len(weights)} weights sum to {total}; there is nothing to average over.")
    ratio = float(values.sum()) / total
    scores: np.ndarray = ratio + (values - ratio * weights) * (len(values) / total)
    return scores


def auroc_scores(positive: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(N,) scores whose mean is the area under the ROC, ties counted half; both sides must occur.

    A positive's part is the share of negatives below it, a negative's the share of positives above it: the placements
    of DeLong et al. (1988).
    """
    of_value, n_positive, n_all = _by_value(positive, predicted)
    n_negative = n_all - n_positive
    below = np.cumsum(n_negative) - n_negative / 2
    above = n_positive.sum() - np.cumsum(n_positive) + n_positive / 2
    sides = float(n_positive.sum()), float(n_negative.sum())
    placement = np.where(positive, below[of_value] / sides[1], above[of_value] / sides[0])
    area = float(placement[positive].mean())
    scores: np.ndarray = area + len(positive) * (placement - area) / np.where(positive, *sides)
    return scores


def average_precision_scores(positive: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(N,) scores whose mean is the average precision, at least one positive.

    With A_i positives and B_i samples predicted at least as high as positive i, it is the mean of A_i / B_i over the
    positives; sample j enters through the mean and through A_i and B_i of all i at or below it.
    """
    of_value, n_positive, n_all = _by_value(positive, predicted)
    hits, ranked = (np.cumsum(count[::-1])[::-1] for count in (n_positive, n_all))
    precision, total = hits / ranked, float(n_positive.sum())
    value = float((n_positive * precision).sum()) / total
    gain = np.cumsum(n_positive / ranked)[of_value]
    cost = np.cumsum(n_positive * precision / ranked)[of_value]
    slope = np.where(positive, precision[of_value] - value + gain, 0.0) - cost
    scores: np.ndarray = value + slope * (len(positive) / total)
    return scores


def f1_scores(positive: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(N,) scores whose mean is F1 = 2 TP / (2 TP + FP + FN) at a probability of 0.5, at least one positive."""
    called = predicted >= 0.5
    return ratio_scores(2.0 * (positive & called), positive.astype(np.float64) + called)


def kappa_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) scores whose mean is `metrics.quadratic_kappa`, for (N, K) probabilities and (N,) class ids in their order.

    With O = sum_j w_j o_j / W and E quadratic in the weights, N dE / dw_j = 2 (e_j - E) where e_j are the expected
    costs of `kappa_costs`; its spread is that of Fleiss, Cohen & Everitt (1969).

    Raises:
        DataError: When labels and predictions are all of one class, or as `metrics.accuracy`.
    """
    observed, by_chance = kappa_costs(probabilities, labels)
    cost, chance = float(observed.mean()), float(by_chance.mean())
    if not chance > 0:
        raise DataError(f"kappa: {len(labels)} labels and predictions are all of one class; there is nothing to agree "
                        "on by more than chance.")
    scores: np.ndarray = 1 - cost / chance - (observed - cost) / chance + cost / chance**2 * 2 * (by_chance - chance)
    return scores


def _by_value(positive: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) rank of each sample's prediction among the V different ones, and (V,) positives and samples of each."""
    _, of_value = np.unique(predicted, return_inverse=True)
    return of_value, np.bincount(of_value, positive), np.bincount(of_value).astype(np.float64)
