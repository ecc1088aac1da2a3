"""The vote equals a loop over neighbours; k is chosen without looking at one's own unit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate import knn
from sciencessl.evaluate.knn import FIXED_K, fit_knn, knn_predict
from sciencessl.evaluate.metrics import balanced_accuracy


def by_loops(bank, labels, queries, k, temperature, class_weighted, n_classes):
    answer = np.zeros((len(queries), n_classes))
    for i, query in enumerate(queries):
        cosines = [float(np.dot(query, b) / (np.linalg.norm(query) * np.linalg.norm(b))) for b in bank]
        for j in sorted(range(len(bank)), key=lambda j: -cosines[j])[:k]:
            size = sum(labels == labels[j]) if class_weighted else 1
            answer[i, labels[j]] += math.exp(cosines[j] / temperature) / size
    return answer / answer.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("class_weighted", [True, False])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (40, 0.5)])
def test_vote_equals_a_loop(monkeypatch: pytest.MonkeyPatch, k: int, temperature: float, class_weighted: bool) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(40, 6)), rng.normal(size=(23, 6))
    labels = rng.choice(4, size=40, p=[0.6, 0.2, 0.1, 0.1])
    expected = by_loops(bank, labels, queries, k, temperature, class_weighted, 5)
    got = knn_predict(bank, labels, queries, k, temperature, class_weighted, n_classes=5)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    monkeypatch.setattr(knn, "_BLOCK", 100)
    np.testing.assert_allclose(knn_predict(bank, labels, queries, k, temperature, class_weighted, 5), got, atol=1e-12)


def test_worked_vote() -> None:
    # Cosines 1, 0.6 and 0; T = 0.5: votes e^2, e^1.2, e^0 for classes 0, 1, 1.
    bank = np.array([[2.0, 0.0], [0.6, 0.8], [0.0, 5.0]])
    labels, query = np.array([0, 1, 1]), np.array([[3.0, 0.0]])
    plain = knn_predict(bank, labels, query, 3, 0.5, class_weighted=False)
    assert plain[0, 0] == pytest.approx(7.389056 / (7.389056 + 3.320117 + 1))
    weighted = knn_predict(bank, labels, query, 3, 0.5)
    assert weighted[0, 0] == pytest.approx(7.389056 / (7.389056 + (3.320117 + 1) / 2))


def test_zero_vectors_tiny_temperatures_and_float32_stay_finite() -> None:
    bank = np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32)
    got = knn_predict(bank, np.array([0, 1, 1]), bank, 3, 1e-4)
    np.testing.assert_allclose(got.sum(axis=1), 1)
    assert got[1, 1] == 1.0


def test_no_queries_give_no_rows() -> None:
    assert knn_predict(np.ones((2, 3)), np.array([0, 1]), np.empty((0, 3)), 1).shape == (0, 2)


def test_k_is_fixed_at_ten_a_class_or_fewer_and_bounded_by_the_bank() -> None:
    rng = np.random.default_rng(1)
    few = fit_knn(rng.normal(size=(20, 4)), np.tile([0, 1], 10), np.arange(20))
    assert (few.k, few.trials, few.fixed) == (FIXED_K, 1, True)
    assert fit_knn(rng.normal(size=(4, 4)), np.tile([0, 1], 2), np.arange(4)).k == 4


def test_search_equals_leaving_each_unit_out_by_hand() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(rng.integers(0, 2, 30), 2)
    features = rng.normal(size=(60, 5)) + labels[:, None]
    units = np.repeat(np.arange(30), 2)
    fitted = fit_knn(features, labels, units)
    assert list(fitted.search) == [1, 5, 10, 20, 50]
    assert fitted.trials == 5
    for k in (5, 20):
        chosen = np.empty(60)
        for i in range(60):
            others = units != units[i]
            chosen[i] = by_loops(features[others], labels[others], features[i : i + 1], k, 0.1, True, 2)[0, labels[i]]
        losses = -np.log(np.maximum(chosen, 1e-7))
        assert fitted.search[k] == pytest.approx(np.mean([losses[labels == c].mean() for c in (0, 1)]))
    assert fitted.k == min(fitted.search, key=fitted.search.get)


def test_near_copies_within_units_do_not_fool_the_choice() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(rng.integers(0, 2, 40), 5)
    features = np.repeat(rng.normal(size=(40, 20)), 5, axis=0) + 0.01 * rng.normal(size=(200, 20))
    by_unit = fit_knn(features, labels, np.repeat(np.arange(40), 5))
    by_row = fit_knn(features, labels, np.arange(200))
    assert by_row.k == 1
    assert by_unit.k >= 50


def test_separable_classes_are_found() -> None:
    rng = np.random.default_rng(4)
    labels = rng.choice(3, 300, p=[0.8, 0.1, 0.1])
    features = rng.normal(size=(300, 8)) + 6 * np.eye(8)[labels]
    fitted = fit_knn(features[:150], labels[:150], np.arange(150))
    assert balanced_accuracy(fitted.probabilities(features[150:], 3), labels[150:]) > 0.97


def test_a_class_of_one_unit_is_no_trouble() -> None:
    rng = np.random.default_rng(5)
    labels = np.array([0] * 20 + [1] * 19 + [2])
    fitted = fit_knn(rng.normal(size=(40, 3)), labels, np.arange(40))
    assert np.isfinite(list(fitted.search.values())).all()


def test_bad_input_is_refused() -> None:
    bank, labels = np.ones((3, 2)), np.array([0, 1, 1])
    for k in (0, 4):
        with pytest.raises(ConfigError, match=f"k = {k} must lie between 1 and the 3"):
            knn_predict(bank, labels, bank, k)
    with pytest.raises(ConfigError, match="temperature"):
        knn_predict(bank, labels, bank, 1, 0.0)
    with pytest.raises(DataError, match="must be"):
        knn_predict(bank, labels[:2], bank, 1)
    with pytest.raises(DataError, match="finite"):
        knn_predict(bank * np.nan, labels, bank, 1)
    with pytest.raises(DataError, match="one length"):
        fit_knn(bank, labels, np.arange(2))
