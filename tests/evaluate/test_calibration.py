"""Temperature, reliability and calibration error against worked values and independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.calibration import (
    budget_temperature,
    expected_calibration_error,
    fit_temperature,
    reliability_table,
    tempered,
)
from sciencessl.evaluate.linear import fit_logistic, held_out_logits, unit_folds


def drawn(n: int, seed: int, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return rng.normal(size=(n, width)) + 0.8 * np.eye(width)[labels], labels


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_temperature_of_logits_that_are_too_sure_is_found(truth: float) -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 4))
    labels = (rng.random(20_000)[:, None] > np.cumsum(softmax(logits, axis=1), axis=1)).sum(axis=1)
    assert fit_temperature(truth * logits, labels) == pytest.approx(truth, rel=0.05)


def test_temperature_is_the_best_of_a_grid_and_rows_of_unknown_classes_do_not_count() -> None:
    rng = np.random.default_rng(1)
    logits, labels = 3 * rng.normal(size=(80, 3)), rng.integers(0, 3, 80)
    labels[:40] = logits[:40].argmax(axis=1)
    grid = np.geomspace(0.1, 20, 2000)
    losses = [-log_softmax(logits / t, axis=1)[np.arange(80), labels].mean() for t in grid]
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.01)
    more = np.vstack([logits, [[5.0, 0.0, -np.inf]]])
    assert fit_temperature(more, np.append(labels, 2)) == pytest.approx(found)


def test_held_out_logits_are_those_of_the_folds() -> None:
    features, labels = drawn(90, 2)
    units = np.arange(90) // 2
    found = held_out_logits(features, labels, units, 7, 0.1)
    for train, held in unit_folds(labels, units, 7):
        scaler = StandardScaler().fit(features[train])
        model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10, max_iter=10_000)
        model.fit(scaler.transform(features[train]), labels[train])
        expected = model.predict_proba(scaler.transform(features[held]))
        np.testing.assert_allclose(softmax(found[held], axis=1), expected, atol=1e-3)


def test_budget_temperature_cools_overfitted_logits_and_uses_the_budget_only() -> None:
    features, labels = drawn(150, 3, width=60)
    features = np.hstack([features, np.random.default_rng(4).normal(size=(150, 60))])
    sure = fit_logistic(features, labels, np.arange(150), 0)
    sure = type(sure)(**{**sure.__dict__, "c": 100.0})
    temperature = budget_temperature(sure, features, labels, np.arange(150), 0)
    logits = held_out_logits(features, labels, np.arange(150), 0, 100.0)
    assert temperature == fit_temperature(logits, labels)
    assert temperature > 2
    chosen = fit_logistic(features, labels, np.arange(150), 0)
    assert budget_temperature(chosen, features, labels, np.arange(150), 0) < temperature


def test_few_labels_are_not_tuned() -> None:
    features, labels = drawn(20, 5)
    classifier = fit_logistic(features, labels, np.arange(20), 0)
    assert classifier.fixed
    assert budget_temperature(classifier, features, labels, np.arange(20), 0) == 1.0
    np.testing.assert_allclose(tempered(classifier, features, 4, 1.0), classifier.probabilities(features, 4))
    flat = tempered(classifier, features, 4, 1e6)
    np.testing.assert_allclose(flat, np.tile([1 / 3, 1 / 3, 1 / 3, 0], (20, 1)), atol=1e-4)
    with pytest.raises(DataError, match="20 units are 10 a class or fewer, where nothing is tuned"):
        held_out_logits(features, labels, np.arange(20), 0, 0.1)


def test_reliability_worked() -> None:
    confidence = np.array([0.95, 0.6, 0.9, 0.55, 0.7, 0.8])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 1, 0, 0, 1, 1])
    low, middle, high = reliability_table(probabilities, labels, bins=3)
    assert (low.n, low.confidence, low.accuracy) == (2, pytest.approx(0.575), 0.5)
    assert (middle.n, middle.confidence, middle.accuracy) == (2, pytest.approx(0.75), 0.0)
    assert (high.n, high.confidence, high.accuracy) == (2, pytest.approx(0.925), 1.0)
    # Wilson: centre (k + z^2/2) / (n + z^2), half z sqrt(k (n - k) / n + z^2/4) / (n + z^2), z = 1.959964.
    z = 1.959964
    half = z * math.sqrt(0.5 + z**2 / 4) / (2 + z**2)
    assert (low.low, low.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert (middle.low, middle.high) == (pytest.approx(0, abs=1e-12), pytest.approx(z**2 / (2 + z**2)))
    assert expected_calibration_error(probabilities, labels, 3) == pytest.approx((0.075 + 0.75 + 0.075) / 3)


def test_equal_confidences_are_never_divided_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    confidence = rng.choice([0.6, 0.75, 0.9], 100, p=[0.1, 0.2, 0.7])
    probabilities, labels = np.stack([confidence, 1 - confidence], axis=1), rng.integers(0, 2, 100)
    table = reliability_table(probabilities, labels)
    assert [row.confidence for row in table] == pytest.approx([0.6, 0.75, 0.9])
    turned = rng.permutation(100)
    again = reliability_table(probabilities[turned], labels[turned])
    assert [(row.n, row.accuracy) for row in again] == [(row.n, row.accuracy) for row in table]
    assert sum(row.n for row in table) == 100


def test_calibrated_answers_have_an_error_of_chance_alone() -> None:
    rng = np.random.default_rng(7)
    confidence = np.full(40_000, 0.5) + 1e-9 * rng.random(40_000)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    found = expected_calibration_error(probabilities, rng.integers(0, 2, 40_000), bins=400)
    assert found == pytest.approx(0.4 / math.sqrt(100), rel=0.1)


def test_refuses() -> None:
    with pytest.raises(ConfigError, match="bins = 0"):
        reliability_table(np.array([[0.5, 0.5]]), np.array([0]), 0)
    with pytest.raises(DataError, match=r"logits \(2, 3\) and labels \(3,\)"):
        fit_temperature(np.zeros((2, 3)), np.zeros(3, int))
    with pytest.raises(DataError, match="none of 1 rows"):
        fit_temperature(np.array([[0.0, -np.inf]]), np.array([1]))
