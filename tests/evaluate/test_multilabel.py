"""One classifier a label is `fit_logistic` on the rows where it is known; macro metrics are scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from sciencessl.errors import DataError
from sciencessl.evaluate.linear import fit_logistic
from sciencessl.evaluate.multilabel import fit_labels, label_metrics, multilabel_metrics, multilabel_scores


def labelled(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 6) and targets (n, 3); a fifth of the second label is unknown, the third is rare."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 6))
    targets = (features[:, :3] + rng.normal(size=(n, 3)) > np.array([0.0, 0.3, 1.6])).astype(float)
    targets[rng.random(n) < 0.2, 1] = np.nan
    return features, targets


def test_each_label_is_the_classifier_of_its_known_rows() -> None:
    features, targets = labelled(160, 0)
    targets[:, 2] = np.random.default_rng(9).integers(0, 2, 160)  # noise: the strongest penalty is best
    units = np.arange(160) // 2
    fitted = fit_labels(features, targets, units, 3)
    test = labelled(20, 1)[0]
    for label in range(3):
        rows = ~np.isnan(targets[:, label])
        alone = fit_logistic(features[rows], targets[rows, label].astype(int), units[rows], 3)
        assert fitted.heads[label].search == alone.search
        np.testing.assert_array_equal(fitted.probabilities(test)[:, label], alone.probabilities(test, 2)[:, 1])
    assert fitted.trials == sum(head.trials for head in fitted.heads)
    assert len({head.c for head in fitted.heads}) > 1


def test_values_of_unknown_rows_do_not_matter() -> None:
    features, targets = labelled(120, 2)
    changed = features.copy()
    changed[np.isnan(targets[:, 1])] += 5
    one, two = (fit_labels(x, targets[:, 1:2], np.arange(120), 0) for x in (features, changed))
    np.testing.assert_array_equal(one.probabilities(features), two.probabilities(features))


def test_a_label_of_one_value_is_predicted_and_one_of_none_is_a_coin() -> None:
    features = np.random.default_rng(0).normal(size=(8, 3))
    targets = np.tile([1.0, 0.0, np.nan], (8, 1))
    fitted = fit_labels(features, targets, np.arange(8), 0)
    np.testing.assert_array_equal(fitted.probabilities(features[:2]), [[1, 0, 0.5]] * 2)
    assert fitted.heads[2] is None


def test_metrics_are_those_of_the_known_rows() -> None:
    _, targets = labelled(150, 3)
    predicted = np.random.default_rng(1).random((150, 3))
    values = label_metrics(predicted, targets)
    for label in range(3):
        rows = ~np.isnan(targets[:, label])
        y, p = targets[rows, label], predicted[rows, label]
        assert values["average_precision"][label] == pytest.approx(average_precision_score(y, p))
        assert values["auroc"][label] == pytest.approx(roc_auc_score(y, p))
        assert values["f1"][label] == pytest.approx(f1_score(y, p >= 0.5))
    for name, value in multilabel_metrics(predicted, targets).items():
        assert value == pytest.approx(values[name].mean())
        assert multilabel_scores(name, predicted, targets).mean() == pytest.approx(value)


def test_unknown_rows_have_no_influence() -> None:
    _, targets = labelled(60, 4)
    predicted = np.random.default_rng(2).random((60, 3))
    scores = multilabel_scores("auroc", predicted[:, 1:2], targets[:, 1:2])
    unknown = np.isnan(targets[:, 1])
    np.testing.assert_allclose(scores[unknown], scores.mean())
    assert scores[~unknown].std() > 0.1


def test_a_label_with_one_side_missing_is_left_out_of_the_mean() -> None:
    targets = np.array([[1, 0], [0, 0], [1, 0]], dtype=float)
    predicted = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    values = label_metrics(predicted, targets)
    np.testing.assert_allclose(values["auroc"], [0.5, np.nan])
    assert multilabel_metrics(predicted, targets)["auroc"] == 0.5
    none = multilabel_metrics(predicted, np.ones((3, 2)))
    assert all(math.isnan(value) for value in none.values())
    with pytest.raises(DataError, match="no label is both present and absent"):
        multilabel_scores("f1", predicted, np.ones((3, 2)))


def test_refuses() -> None:
    features, targets = labelled(20, 5)
    with pytest.raises(DataError, match=r"\(19, 6\) and targets \(20, 3\)"):
        fit_labels(features[1:], targets, np.arange(19), 0)
    with pytest.raises(DataError, match=r"1, 0 or NaN for unknown, got \[-1.0\]"):
        fit_labels(features, np.nan_to_num(targets, nan=-1.0), np.arange(20), 0)
    with pytest.raises(DataError, match="got infinity"):
        fit_labels(features, np.where(targets == 1, np.inf, targets), np.arange(20), 0)
    with pytest.raises(DataError, match="probabilities are not finite"):
        multilabel_metrics(np.full((20, 3), np.nan), targets)
