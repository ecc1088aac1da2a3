from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.fits import HEADS, Fit, FitKey, load_fit, run_fit, save_fit
from sciencessl.evaluate.linear import fit_logistic

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
KEY = FitKey("encoder", "logistic", "task", "50", 0)


@pytest.fixture
def data() -> Data:
    """Train features, labels, units, test features, test labels: 60 and 30 rows of 3 classes."""
    rng = np.random.default_rng(0)
    labels, test_labels = np.arange(60) % 3, np.arange(30) % 3
    centres = rng.normal(size=(3, 8))
    train = centres[labels] + rng.normal(size=(60, 8))
    test = centres[test_labels] + rng.normal(size=(30, 8))
    return train, labels, np.array([f"u{i}" for i in range(60)]), test, test_labels


@pytest.mark.parametrize("head", HEADS)
def test_choices_do_not_depend_on_the_test_set(head: str, data: Data) -> None:
    train, labels, units, test, test_labels = data
    whole = run_fit(head, train, labels, units, test, test_labels, 3, 0)
    shuffled = run_fit(head, train, labels, units, test, test_labels[::-1].copy(), 3, 0)
    other = run_fit(head, train, labels, units, 100 * test[:5], test_labels[:5], 3, 0)
    assert whole.chosen == shuffled.chosen == other.chosen
    assert whole.trials == shuffled.trials == other.trials > 1
    assert np.array_equal(whole.probabilities, shuffled.probabilities)
    assert whole.metrics["balanced_accuracy"] != shuffled.metrics["balanced_accuracy"]
    # Test rows are scored one by one: none moves another, so nothing was standardised on them.
    alone = run_fit(head, train, labels, units, test[:1], test_labels[:1], 3, 0)
    np.testing.assert_allclose(alone.probabilities, whole.probabilities[:1], atol=1e-6)


def test_the_logistic_head_is_the_classifier_of_the_budget(data: Data) -> None:
    train, labels, units, test, test_labels = data
    fit = run_fit("logistic", train, labels, units, test, test_labels, 3, 5)
    classifier = fit_logistic(train, labels, units, 5)
    np.testing.assert_allclose(fit.probabilities, classifier.probabilities(test, 3), atol=1e-7)
    assert fit.chosen == f"C={classifier.c:g}"
    assert fit.n_labels == 60


def test_a_class_without_a_label_keeps_its_column(data: Data) -> None:
    train, labels, units, test, test_labels = data
    few = labels < 2
    fit = run_fit("knn", train[few], labels[few], units[few], test, test_labels, 3, 0)
    assert fit.probabilities.shape == (30, 3)
    assert (fit.probabilities[:, 2] == 0).all()


def test_bad_input(data: Data) -> None:
    train, labels, units, test, test_labels = data
    with pytest.raises(ConfigError, match=r"no head named 'knnn'. Did you mean 'knn'"):
        run_fit("knnn", train, labels, units, test, test_labels, 3, 0)
    with pytest.raises(DataError, match="60 of 60 embeddings are not finite"):
        run_fit("logistic", train * np.nan, labels, units, test, test_labels, 3, 0)


def test_a_fit_is_cached_by_all_that_it_depends_on(tmp_path: Path) -> None:
    fit = Fit(np.full((4, 2), 0.5, np.float32), 50, 3, "C=1", {"auroc": float("nan"), "nll": 0.5})
    save_fit(tmp_path, KEY, fit)
    found = load_fit(tmp_path, KEY, (4, 2))
    assert found is not None
    assert np.array_equal(found.probabilities, fit.probabilities)
    assert (found.n_labels, found.trials, found.chosen) == (50, 3, "C=1")
    assert np.isnan(found.metrics["auroc"])
    assert found.metrics["nll"] == 0.5
    others = [FitKey("e", "logistic", "task", "50", 0), FitKey("encoder", "knn", "task", "50", 0),
              FitKey("encoder", "logistic", "t", "50", 0), FitKey("encoder", "logistic", "task", "51", 0),
              FitKey("encoder", "logistic", "task", "50", 1)]
    assert all(load_fit(tmp_path, key, (4, 2)) is None for key in others)


def test_a_damaged_or_foreign_fit_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_fit(tmp_path, KEY, Fit(np.zeros((4, 2), np.float32), 1, 1, "", {}))
    assert load_fit(tmp_path, KEY, (5, 2)) is None
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert load_fit(tmp_path, KEY, (4, 2)) is None
    path.write_bytes(whole)
    assert load_fit(tmp_path, KEY, (4, 2)) is not None
    monkeypatch.setattr("sciencessl.evaluate.fits.PROTOCOL", -1)
    assert load_fit(tmp_path, KEY, (4, 2)) is None
