"""The frozen arm finds scikit-learn's optimum, and tunes on the budget's own units only."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sciencessl.errors import DataError
from sciencessl.evaluate import linear
from sciencessl.evaluate.linear import (
    C_GRID,
    FIXED_C,
    few_units,
    fit_logistic,
    held_out_losses,
    mean_over_classes,
    unit_folds,
)


def blobs(n: int, width: int, classes: int, seed: int, gap: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=n, p=np.linspace(1, 2, classes) / np.linspace(1, 2, classes).sum())
    labels[:classes] = np.arange(classes)
    mixing = rng.normal(size=(width, width)) * np.logspace(0, -1.5, width)
    centres = rng.normal(size=(classes, width)) * gap
    return (rng.normal(size=(n, width)) + centres[labels]) @ mixing + 3.0, labels


def reference(features: np.ndarray, labels: np.ndarray, c: float) -> LogisticRegression:
    model = LogisticRegression(C=c, class_weight="balanced", tol=1e-10, max_iter=20_000)
    return model.fit(features, labels)


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize(("n", "width"), [(200, 20), (60, 100)])
def test_optimum_is_scikit_learns(monkeypatch: pytest.MonkeyPatch, n: int, width: int, c: float) -> None:
    features, labels = blobs(n, width, 3, seed=1)
    monkeypatch.setattr(linear, "C_GRID", (c,))
    monkeypatch.setattr(linear, "FIXED_C", c)
    ours = fit_logistic(features, labels, np.arange(n), 0)
    scaled = StandardScaler().fit_transform(features)
    theirs = reference(scaled, labels, c)
    assert ours.converged
    np.testing.assert_allclose(ours.coef.T, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(ours.probabilities(features), theirs.predict_proba(scaled), atol=2e-4)


def test_two_classes_are_the_binary_form_at_twice_the_c(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(150, 12, 2, seed=2)
    monkeypatch.setattr(linear, "C_GRID", (0.05,))
    ours = fit_logistic(features, labels, np.arange(150), 0)
    scaled = StandardScaler().fit_transform(features)
    np.testing.assert_allclose(
        ours.probabilities(features), reference(scaled, labels, 0.1).predict_proba(scaled), atol=2e-4
    )


def test_search_equals_cross_validation_by_hand() -> None:
    features, labels = blobs(240, 15, 3, seed=3)
    units = np.arange(240) // 2
    fitted = fit_logistic(features, labels, units, 5)
    for c in (1e-4, 1e-2, 1e-1):
        held_out = np.empty(240)
        for train, test in unit_folds(labels, units, 5):
            scaler = StandardScaler().fit(features[train])
            model = reference(scaler.transform(features[train]), labels[train], c)
            held_out[test] = np.log(model.predict_proba(scaler.transform(features[test])))[range(len(test)),
                                                                                            labels[test]]
        by_hand = np.mean([-held_out[labels == k].mean() for k in range(3)])
        assert fitted.search[c] == pytest.approx(by_hand, rel=1e-3)
    assert fitted.c == min(fitted.search, key=fitted.search.get)
    assert fitted.trials == len(fitted.search)
    assert not fitted.fixed


def test_search_stops_after_two_rises() -> None:
    features, _ = blobs(120, 60, 2, seed=4)
    labels = np.random.default_rng(0).integers(0, 2, 120)
    fitted = fit_logistic(features, labels, np.arange(120), 0)
    losses = list(fitted.search.values())
    assert tuple(fitted.search) == C_GRID[: len(losses)]
    assert len(losses) < len(C_GRID)
    assert losses[-1] > losses[-2] > losses[-3]


def test_ten_a_class_or_fewer_is_not_tuned() -> None:
    features, labels = blobs(90, 10, 3, seed=5)
    chosen = np.concatenate([np.flatnonzero(labels == k)[:10] for k in range(3)])
    few = fit_logistic(features[chosen], labels[chosen], chosen, 0)
    assert (few.c, few.trials, few.fixed, few.search) == (FIXED_C, 1, True, {})
    more = fit_logistic(features, labels, np.arange(90), 0)
    assert more.trials > 1


def test_few_counts_units_and_not_rows() -> None:
    labels = np.tile([0, 1], 100)
    assert few_units(labels, np.arange(200) // 10)
    assert not few_units(labels, np.arange(200) // 9)


def test_units_never_straddle_folds_and_every_row_is_held_out_once() -> None:
    labels = np.repeat(np.random.default_rng(1).integers(0, 3, 50), 4)
    units = np.repeat(np.arange(50), 4)
    held = np.zeros(200, dtype=int)
    for train, test in unit_folds(labels, units, 7):
        assert not set(units[train]) & set(units[test])
        held[test] += 1
    assert (held == 1).all()


def test_near_copies_within_units_do_not_fool_the_tuner() -> None:
    # Labels are noise but constant in a unit: whoever validates by row sees copies of training rows.
    rng = np.random.default_rng(2)
    labels = np.repeat(rng.integers(0, 2, 60), 5)
    features = np.repeat(rng.normal(size=(60, 40)), 5, axis=0) + 0.01 * rng.normal(size=(300, 40))
    by_unit = fit_logistic(features, labels, np.repeat(np.arange(60), 5), 0)
    by_row = fit_logistic(features, labels, np.arange(300), 0)
    assert by_unit.c <= 1e-3
    assert by_row.c >= 1.0


def test_a_class_of_one_unit_does_not_stop_the_search() -> None:
    features, labels = blobs(120, 8, 2, seed=6)
    labels[-1] = 2
    fitted = fit_logistic(features, labels, np.arange(120), 0)
    assert fitted.trials > 1
    assert np.isfinite(list(fitted.search.values())).all()


def test_one_class_alone_predicts_itself_and_missing_classes_get_zero() -> None:
    features = np.random.default_rng(0).normal(size=(6, 4))
    one = fit_logistic(features, np.full(6, 1), np.arange(6), 0)
    np.testing.assert_array_equal(one.probabilities(features, 3), np.tile([0.0, 1.0, 0.0], (6, 1)))
    two = fit_logistic(features, np.array([0, 2] * 3), np.arange(6), 0)
    spread = two.probabilities(features, 4)
    assert (spread[:, [1, 3]] == 0).all()
    np.testing.assert_allclose(spread.sum(axis=1), 1)


def test_balanced_weights_move_the_boundary_to_the_middle() -> None:
    rng = np.random.default_rng(8)
    labels = np.repeat([0, 1], [900, 100])
    features = rng.normal(size=(1000, 1)) + np.where(labels == 1, 1.0, -1.0)[:, None]
    fitted = fit_logistic(features, labels, np.arange(1000), 0)
    assert fitted.probabilities(np.array([[0.0]]))[0, 1] == pytest.approx(0.5, abs=0.06)


def test_standardiser_is_the_budgets_own_and_constant_features_are_harmless() -> None:
    features, labels = blobs(80, 5, 2, seed=9)
    features = np.hstack([features, np.full((80, 1), 7.0)]).astype(np.float32)
    fitted = fit_logistic(features, labels, np.arange(80), 0)
    np.testing.assert_allclose(fitted.mean, features.astype(np.float64).mean(axis=0))
    assert fitted.scale[-1] == 1.0
    assert np.isfinite(fitted.probabilities(features + 100)).all()


def test_scale_of_the_embeddings_does_not_matter_and_folds_follow_the_seed() -> None:
    features, labels = blobs(120, 6, 2, seed=10)
    units = np.arange(120)
    one = fit_logistic(features, labels, units, 0)
    two = fit_logistic(features * 1e-3 - 5, labels, units, 0)
    np.testing.assert_allclose(one.probabilities(features), two.probabilities(features * 1e-3 - 5), atol=1e-4)
    assert fit_logistic(features, labels, units, 0).search == one.search
    assert fit_logistic(features, labels, units, 1).search != one.search


def test_bad_input_is_refused() -> None:
    features, labels = blobs(10, 3, 2, seed=0)
    with pytest.raises(DataError, match="must be"):
        fit_logistic(features, labels[:9], np.arange(10), 0)
    features[2, 1] = np.nan
    with pytest.raises(DataError, match="1 of 10 embeddings are not finite"):
        fit_logistic(features, labels, np.arange(10), 0)


def test_a_head_takes_the_standardiser_in() -> None:
    rng = np.random.default_rng(4)
    labels = np.tile([0, 2, 5], 8)
    features = rng.normal(size=(24, 6)) * 10.0 ** np.arange(-3, 3) + 5
    fitted = fit_logistic(features, labels, np.arange(24), 0)
    head = fitted.head()
    assert head.classes.tolist() == [0, 2, 5]
    assert (head.weight.shape, head.weight.dtype, head.bias.shape) == ((3, 6), np.float32, (3,))
    np.testing.assert_allclose(features @ head.weight.T + head.bias, fitted.logits(features), atol=2e-2)


def test_held_out_losses_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]))
    losses, labels = held_out_losses(logits, np.array([1, 4]), np.array([4, 3, 1]))
    assert labels.tolist() == [4, 1]
    np.testing.assert_allclose(losses, -np.log([0.5, 0.9]))
    assert mean_over_classes(np.array([1.0, 3.0, 8.0]), np.array([0, 0, 7])) == pytest.approx((2 + 8) / 2)
