"""The vote head finds the multinomial optimum of scikit-learn, and its scores the likelihoods of SciPy and torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from scipy.stats import dirichlet_multinomial
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sciencessl.errors import DataError
from sciencessl.evaluate import linear
from sciencessl.evaluate.linear import FIXED_C, unit_folds
from sciencessl.evaluate.votes import (
    fit_strength,
    fit_votes,
    mean_fractions,
    vote_metrics,
    vote_nll,
    vote_scores,
)
from sciencessl.losses.dirichlet import dirichlet_multinomial_nll


def ballots(n: int, seed: int, strength: float = math.inf) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, 5), votes (n, 3) with a different number of voters each, and the true fractions."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 5)) * [1, 2, 3, 1, 1] + 2
    logits = (features - 2)[:, :3] * [1.2, 0.3, 0.1]
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = truth if math.isinf(strength) else np.array([rng.dirichlet(strength * p) for p in truth])
    return features, np.array([rng.multinomial(rng.integers(5, 60), p) for p in drawn]).astype(float), truth


def reference(features: np.ndarray, counts: np.ndarray, c: float) -> LogisticRegression:
    """Every answer of every row as a row of its own, weighted by its votes."""
    n, k = counts.shape
    weight = (counts / counts.sum(axis=1).mean()).ravel()
    model = LogisticRegression(C=c, tol=1e-10, max_iter=20_000)
    return model.fit(np.repeat(features, k, axis=0), np.tile(np.arange(k), n), sample_weight=weight)


@pytest.mark.parametrize("c", [1e-3, 1e-1, 10.0])
def test_optimum_is_scikit_learns(monkeypatch: pytest.MonkeyPatch, c: float) -> None:
    features, counts, _ = ballots(120, 0)
    monkeypatch.setattr(linear, "C_GRID", (c,))
    fitted = fit_votes(features, counts, np.arange(120), 0)
    scaled = StandardScaler().fit_transform(features)
    expected = reference(scaled, counts, c).predict_proba(scaled)
    np.testing.assert_allclose(fitted.fractions(features), expected, atol=2e-4)


def test_without_a_penalty_it_is_the_maximum_likelihood_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    features, counts, _ = ballots(80, 1)
    monkeypatch.setattr(linear, "C_GRID", (1e8,))
    fractions = fit_votes(features, counts, np.arange(80), 0).fractions(features)
    # The score equations of the multinomial: residual votes are orthogonal to every feature and to the constant.
    residual = counts - counts.sum(axis=1, keepdims=True) * fractions
    design = np.hstack([StandardScaler().fit_transform(features), np.ones((80, 1))])
    assert np.abs(design.T @ residual).max() < 1e-3 * counts.sum()


def test_search_equals_cross_validation_by_hand() -> None:
    features, counts, _ = ballots(100, 2)
    units = np.arange(100) // 2
    fitted = fit_votes(features, counts, units, 4)
    for c in (1e-4, 1e-2):
        loss = 0.0
        for train, held in unit_folds(counts.argmax(axis=1), units, 4):
            scaler = StandardScaler().fit(features[train])
            model = reference(scaler.transform(features[train]), counts[train], c)
            loss -= (counts[held] * model.predict_log_proba(scaler.transform(features[held]))).sum()
        assert fitted.search[c] == pytest.approx(loss / counts.sum(), rel=1e-3)
    assert fitted.model.c == min(fitted.search, key=fitted.search.get)
    assert (fitted.trials, fitted.fixed) == (len(fitted.search), False)


def test_rows_without_votes_are_ignored() -> None:
    features, counts, _ = ballots(90, 3)
    more = np.vstack([features, np.full((10, 5), 99.0)])
    one = fit_votes(features, counts, np.arange(90), 0)
    two = fit_votes(more, np.vstack([counts, np.zeros((10, 3))]), np.arange(100), 0)
    np.testing.assert_array_equal(one.fractions(features), two.fractions(features))


def test_few_units_are_not_tuned_and_an_answer_without_votes_gets_none() -> None:
    features, counts, _ = ballots(20, 4)
    counts[:, 1] = 0
    fitted = fit_votes(features, counts, np.arange(20), 0, dispersion=True)
    assert (fitted.model.c, fitted.trials, fitted.fixed, fitted.strength) == (FIXED_C, 1, True, math.inf)
    fractions = fitted.fractions(features)
    assert (fractions[:, 1] == 0).all()
    np.testing.assert_allclose(fractions.sum(axis=1), 1)


def test_strength_is_found_where_votes_scatter_and_infinite_where_they_do_not() -> None:
    features, counts, truth = ballots(800, 5, strength=12.0)
    assert fit_strength(truth, counts) == pytest.approx(12.0, rel=0.1)
    fitted = fit_votes(features, counts, np.arange(800), 0, dispersion=True)
    assert fitted.strength == pytest.approx(12.0, rel=0.15)
    grid = np.geomspace(1, 100, 400)
    best = grid[np.argmin([vote_nll(truth, counts, s).sum() for s in grid])]
    assert fit_strength(truth, counts) == pytest.approx(best, rel=0.02)
    even = np.tile([20.0, 10.0, 10.0], (30, 1))
    assert fit_strength(np.tile([0.5, 0.25, 0.25], (30, 1)), even) == math.inf


def test_likelihood_is_scipys_and_torchs_without_the_coefficient() -> None:
    _, counts, truth = ballots(25, 6, strength=5.0)
    coefficient = gammaln(counts.sum(axis=1) + 1) - gammaln(counts + 1).sum(axis=1)
    pairs = zip(counts.astype(int), truth, strict=True)
    scipys = [-dirichlet_multinomial.logpmf(k, 7.0 * p, k.sum()) for k, p in pairs]
    np.testing.assert_allclose(vote_nll(truth, counts, 7.0), scipys + coefficient, rtol=1e-9)
    torchs = dirichlet_multinomial_nll(torch.tensor(counts), torch.tensor(7.0 * truth), [(0, 3)])[:, 0].numpy()
    np.testing.assert_allclose(vote_nll(truth, counts, 7.0), torchs + coefficient, rtol=1e-9)
    np.testing.assert_allclose(vote_nll(truth, counts, 1e7), vote_nll(truth, counts), rtol=1e-4)


def test_metrics_worked() -> None:
    counts = np.array([[3.0, 1.0], [0.0, 4.0], [2.0, 0.0]])
    fractions = np.array([[0.5, 0.5], [0.25, 0.75], [0.8, 0.2]])
    pooled = mean_fractions(counts)
    np.testing.assert_allclose(pooled, [0.5, 0.5])
    values = vote_metrics(fractions, counts, pooled)
    assert values["nll"] == pytest.approx(-(4 * math.log(0.5) + 4 * math.log(0.75) + 2 * math.log(0.8)) / 10)
    # Squared errors, mean over answers: 0.25^2, 0.25^2, 0.2^2; weights 4, 4, 2.
    assert values["rmse"] == pytest.approx(math.sqrt((8 * 0.0625 + 2 * 0.04) / 10))
    assert values["mean_nll"] == pytest.approx(math.log(2))
    assert values["mean_rmse"] == pytest.approx(math.sqrt((4 * 0.0625 + 6 * 0.25) / 10))


@pytest.mark.parametrize("name", ["nll", "rmse"])
def test_scores_are_the_slopes_of_the_metric_by_the_weight_of_a_sample(name: str) -> None:
    _, counts, truth = ballots(12, 7)
    fractions = np.roll(truth, 1, axis=0)

    def weighted(w: np.ndarray) -> float:
        votes = counts.sum(axis=1)
        if name == "nll":
            return float(-(w[:, None] * counts * np.log(fractions)).sum() / (w * votes).sum())
        error = ((counts / votes[:, None] - fractions) ** 2).mean(axis=1)
        return float(np.sqrt((w * votes * error).sum() / (w * votes).sum()))

    scores = vote_scores(name, fractions, counts)
    assert scores.mean() == pytest.approx(weighted(np.ones(12)))
    for j in range(12):
        step = 1e-6 * np.eye(12)[j]
        slope = (weighted(1 + step) - weighted(1 - step)) / 2e-6
        assert scores[j] == pytest.approx(scores.mean() + 12 * slope, rel=1e-5)


def test_no_error_has_no_slope() -> None:
    assert vote_scores("rmse", np.array([[0.5, 0.5]] * 2), np.array([[2.0, 2.0], [1.0, 1.0]])).tolist() == [0.0, 0.0]


def test_refuses() -> None:
    features, counts, truth = ballots(10, 8)
    with pytest.raises(DataError, match="none of the 10 samples has a vote"):
        fit_votes(features, np.zeros((10, 3)), np.arange(10), 0)
    with pytest.raises(DataError, match="0 or more; a missing count is 0"):
        fit_votes(features, counts - 99, np.arange(10), 0)
    with pytest.raises(DataError, match=r"counts \(10, 3\) and fractions \(10, 2\)"):
        vote_nll(truth[:, :2], counts)
    with pytest.raises(DataError, match="fractions are not finite"):
        vote_nll(truth * np.nan, counts)
