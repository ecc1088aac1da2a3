"""Scores of single samples: their mean is scikit-learn's metric, their spread its derivative by sample weight."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, cohen_kappa_score, f1_score, roc_auc_score

from sciencessl.errors import DataError
from sciencessl.evaluate.sample_scores import (
    auroc_scores,
    average_precision_scores,
    f1_scores,
    kappa_scores,
    ratio_scores,
)
from sciencessl.evaluate.statistics import hierarchical_interval

METRICS = [
    (auroc_scores, lambda y, p, w: roc_auc_score(y, p, sample_weight=w)),
    (average_precision_scores, lambda y, p, w: average_precision_score(y, p, sample_weight=w)),
    (f1_scores, lambda y, p, w: f1_score(y, p >= 0.5, sample_weight=w)),
]


def predictions(n: int, seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    predicted = 1 / (1 + np.exp(-(rng.normal(size=n) + 1.2 * positive - 0.4)))
    return positive, np.round(predicted, 1) if ties else predicted


@pytest.mark.parametrize(("scores", "reference"), METRICS)
@pytest.mark.parametrize("ties", [False, True])
def test_mean_is_the_metric_and_each_score_its_slope(scores, reference, ties: bool) -> None:
    positive, predicted = predictions(30, 1, ties)
    found, weights, step = scores(positive, predicted), np.ones(30), 1e-5
    value = reference(positive, predicted, weights)
    assert found.mean() == pytest.approx(value, abs=1e-12)
    for j in range(30):
        up, down = weights.copy(), weights.copy()
        up[j] += step
        down[j] -= step
        slope = (reference(positive, predicted, up) - reference(positive, predicted, down)) / (2 * step)
        assert found[j] == pytest.approx(value + 30 * slope, abs=1e-5)


def test_order_of_samples_does_not_matter() -> None:
    positive, predicted = predictions(50, 2, True)
    turned = np.random.default_rng(0).permutation(50)
    for scores, _ in METRICS:
        np.testing.assert_allclose(scores(positive[turned], predicted[turned]), scores(positive, predicted)[turned])


def test_interval_of_auroc_is_delongs() -> None:
    positive, predicted = predictions(400, 3, False)
    wins = (predicted[positive][:, None] > predicted[~positive]).astype(float)
    delong = wins.mean(axis=1).var() / positive.sum() + wins.mean(axis=0).var() / (~positive).sum()
    interval = hierarchical_interval(auroc_scores(positive, predicted), np.arange(400))
    assert interval.mean == pytest.approx(wins.mean())
    assert interval.standard_error**2 == pytest.approx(delong * 400 / 399)


@pytest.mark.parametrize("scores", [auroc_scores, average_precision_scores, f1_scores])
def test_intervals_over_units_cover(scores) -> None:
    truth = scores(*predictions(200_000, 4, False)).mean()
    found = [hierarchical_interval(scores(*predictions(300, 10 + i, False)), np.arange(300)) for i in range(600)]
    assert 0.92 < np.mean([interval.low <= truth <= interval.high for interval in found]) < 0.975


def test_a_perfect_and_a_constant_prediction() -> None:
    positive = np.array([True, True, False, False, False])
    for scores, constant in ((auroc_scores, 0.5), (average_precision_scores, 0.4), (f1_scores, 4 / 7)):
        np.testing.assert_allclose(scores(positive, positive.astype(float)), 1.0)
        assert scores(positive, np.full(5, 0.7)).mean() == pytest.approx(constant)
    assert f1_scores(positive, np.full(5, 0.3)).tolist() == [0.0] * 5


def test_ratio_worked() -> None:
    # R = 6 / 4; scores 1.5 + (x - 1.5 w) * 2 / 4
    np.testing.assert_allclose(ratio_scores(np.array([1.0, 5.0]), np.array([1.0, 3.0])), [1.25, 1.75])
    with pytest.raises(DataError, match="weights sum to 0"):
        ratio_scores(np.zeros(3), np.zeros(3))


def grades(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of four grades, their labels, and patients: all grades of a patient lean one way."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) // 4
    labels = rng.integers(0, 4, n)
    read = np.clip(np.round(labels + rng.normal(0, 0.8, n) + rng.normal(0, 0.5, n)[patient]), 0, 3).astype(int)
    return np.eye(4)[read], labels, patient


def test_mean_is_kappa_and_each_score_its_slope() -> None:
    probabilities, labels, _ = grades(40, 1)
    predicted = probabilities.argmax(axis=1)

    def kappa(weights: np.ndarray) -> float:
        return float(cohen_kappa_score(labels, predicted, weights="quadratic", sample_weight=weights))

    found, step = kappa_scores(probabilities, labels), 1e-5
    value = kappa(np.ones(40))
    assert found.mean() == pytest.approx(value, abs=1e-12)
    for j in range(40):
        change = step * np.eye(40)[j]
        slope = (kappa(1 + change) - kappa(1 - change)) / (2 * step)
        assert found[j] == pytest.approx(value + 40 * slope, abs=1e-5)
    with pytest.raises(DataError, match="all of one class"):
        kappa_scores(np.eye(4)[[1, 1]], np.array([1, 1]))


def test_intervals_of_kappa_over_patients_cover_and_those_over_their_tiles_do_not() -> None:
    probabilities, labels, _ = grades(400_000, 4)
    truth = kappa_scores(probabilities, labels).mean()
    covered = {"patients": 0, "tiles": 0}
    for i in range(400):
        probabilities, labels, patients = grades(240, 10 + i)
        scores = kappa_scores(probabilities, labels)
        for name, units in (("patients", patients), ("tiles", np.arange(240))):
            interval = hierarchical_interval(scores, units)
            covered[name] += interval.low <= truth <= interval.high
    assert 0.92 < covered["patients"] / 400 < 0.975
    assert covered["tiles"] < covered["patients"]
