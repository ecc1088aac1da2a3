"""Metrics against values worked by hand, with and without classes that the test set lacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate import metrics

P = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1]])
Y = np.array([0, 0, 1, 1])


def test_worked_numbers_with_a_class_that_never_occurs() -> None:
    assert metrics.correct(P, Y).tolist() == [1, 0, 1, 0]
    assert metrics.accuracy(P, Y) == 0.5
    assert metrics.balanced_accuracy(P, Y) == 0.5
    assert metrics.nll(P, Y) == pytest.approx(-(math.log(0.7) + math.log(0.4) + math.log(0.6) + math.log(0.3)) / 4)
    # (0.09+0.04+0.01) + (0.36+0.25+0.01) + (0.09+0.16+0.01) + (0.36+0.49+0.01) = 1.88
    assert metrics.brier(P, Y) == pytest.approx(1.88 / 4)
    # Class 0: pairs (0.7, 0.4) against (0.3, 0.6): 3 of 4. Class 1: (0.6, 0.3) against (0.2, 0.5): 3 of 4.
    np.testing.assert_allclose(metrics.auroc_by_class(P, Y), [0.75, 0.75, np.nan])
    assert metrics.auroc(P, Y) == 0.75
    # Ranked by class 0: 0.7+, 0.6-, 0.4+, 0.3-: (1 + 2/3) / 2.
    np.testing.assert_allclose(metrics.average_precision_by_class(P, Y), [5 / 6, 5 / 6, np.nan])
    assert metrics.average_precision(P, Y) == pytest.approx(5 / 6)
    assert metrics.classes_missing(Y, 3) == [2]


def test_confusion_matrix_worked() -> None:
    assert metrics.confusion_matrix(P, Y).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    hits = np.diag(metrics.confusion_matrix(P, Y))[:2] / np.bincount(Y)
    assert hits.mean() == metrics.balanced_accuracy(P, Y)
    with pytest.raises(DataError, match="not finite"):
        metrics.confusion_matrix(P * np.nan, Y)


def test_balanced_accuracy_weighs_classes_and_not_rows() -> None:
    labels = np.array([0] * 9 + [1])
    majority = np.tile([0.9, 0.1], (10, 1))
    assert metrics.accuracy(majority, labels) == 0.9
    assert metrics.balanced_accuracy(majority, labels) == 0.5


def test_one_class_in_the_test_set_leaves_ranking_metrics_undefined() -> None:
    values = metrics.all_metrics(P, np.zeros(4, dtype=int))
    assert math.isnan(values["auroc"])
    assert math.isnan(values["average_precision"])
    assert values["balanced_accuracy"] == 0.5
    assert set(values) == set(metrics.METRICS)


def test_a_vote_of_nobody_costs_a_bounded_amount() -> None:
    assert metrics.nll(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(16.118, abs=1e-3)


def test_metrics_go_by_name() -> None:
    assert metrics.metric("brier") is metrics.brier
    with pytest.raises(ConfigError, match="Did you mean 'balanced_accuracy'"):
        metrics.metric("balanced_acuracy")


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (P, Y[:3], "must be"),
        (P, np.array([0, 0, 1, 3]), "labels run from 0 to 3"),
        (P, np.array([0, 0, 1, -1]), "labels run from -1"),
        (P * np.nan, Y, "not finite"),
        (np.empty((0, 3)), np.empty(0, dtype=int), "N >= 1"),
    ],
)
def test_bad_input_is_refused(probabilities, labels, message: str) -> None:
    for function in metrics.METRICS.values():
        with pytest.raises(DataError, match=message):
            function(probabilities, labels)


def told(classes: list[int], width: int) -> np.ndarray:
    """Probabilities whose largest is that of the class given."""
    return 0.5 * np.eye(width)[classes] + 0.5 / width


def test_quadratic_kappa_of_a_table_worked_by_hand() -> None:
    # Labels 0, 0, 1, 1, 2, 2 told as 0, 1, 1, 1, 2, 0. Costs 0, 1, 0, 0, 0, 4: mean 5/6. By chance: label shares are
    # 2/6 each, shares told 2/6, 3/6, 1/6, so sum_ij (i - j)^2 r_i c_j = (3 * 1 + 1 * 4 + 2 * 1 + 1 * 1 + 2 * 4 + 3 * 1)
    # * 2 / 36 = 42 / 36, and kappa = 1 - (5 / 6) / (42 / 36) = 2 / 7.
    labels, predicted = np.array([0, 0, 1, 1, 2, 2]), [0, 1, 1, 1, 2, 0]
    assert metrics.quadratic_kappa(told(predicted, 3), labels) == pytest.approx(2 / 7)
    assert metrics.quadratic_kappa(told(labels.tolist(), 3), labels) == 1
    assert metrics.quadratic_kappa(told([1] * 6, 3), labels) == pytest.approx(0, abs=1e-12)


def test_quadratic_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for width in (2, 3, 6):
        labels, predicted = rng.integers(0, width, (2, 50))
        # A grade that nobody has keeps its place: without `labels` scikit-learn would close the gap.
        labels[labels == 1] = 0
        expected = cohen_kappa_score(labels, predicted, labels=np.arange(width), weights="quadratic")
        assert metrics.quadratic_kappa(told(predicted.tolist(), width), labels) == pytest.approx(expected)
    assert math.isnan(metrics.quadratic_kappa(told([1, 1], 3), np.array([1, 1])))


def test_sensitivity_at_95_by_hand() -> None:
    # 20 of the other class with scores 0.00 ... 0.95 in steps of 0.05: one of them, 0.95, may lie at or above the
    # threshold. So it is anywhere above 0.90: positives at 0.99, 0.96, 0.91 count, those at 0.90 and 0.3 do not.
    others, positives = np.arange(20) / 20, np.array([0.99, 0.96, 0.91, 0.90, 0.3])
    score = np.concatenate([others, positives])
    labels = np.array([0] * 20 + [1] * 5)
    probabilities = np.stack([1 - score, score], axis=1)
    assert metrics.sensitivity_at_95(probabilities, labels) == 0.6
    # With 19 none may be above, and nothing is interpolated between the thresholds that occur: above 0.95 lie 2 of 5.
    fewer = np.r_[1:25]
    assert metrics.sensitivity_at_95(probabilities[fewer], labels[fewer]) == 0.4
    tied = np.full((25, 2), 0.5)
    assert metrics.sensitivity_at_95(tied, labels) == 0.0
    assert math.isnan(metrics.sensitivity_at_95(probabilities[:20], labels[:20]))


def test_classes_in_an_order_have_more_metrics() -> None:
    assert set(metrics.ordered_metrics(P, Y)) == {"quadratic_kappa"}
    assert set(metrics.ordered_metrics(P[:, :2], Y)) == {"quadratic_kappa", "sensitivity_at_95"}
    for function in (metrics.quadratic_kappa, metrics.sensitivity_at_95):
        with pytest.raises(DataError, match="not finite"):
            function(P * np.nan, Y)
