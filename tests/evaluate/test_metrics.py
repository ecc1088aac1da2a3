"""Metrics against values worked by hand, with and without classes that the test set lacks."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
