"""Posteriors of vote fractions, against scipy's distributions, brute-force draws and simulated votes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.posterior import (
    asked,
    count_distribution,
    expected_fractions,
    log_likelihood,
    mixture_quantiles,
)
from sciencessl.losses.dirichlet import dirichlet_multinomial_nll
from sciencessl.spec import LabelSchema, Question

GROUPS = ((0, 3), (3, 5))
SCHEMA = LabelSchema("tree", (
    Question("smooth", ("yes", "disk", "artifact")),
    Question("edge", ("yes", "no"), ("smooth_disk",)),
    Question("merging", ("yes", "no"), ("smooth_yes", "smooth_disk")),
))  # fmt: skip


def _alpha(members: int, samples: int, answers: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1.0, 101.0, (members, samples, answers))


def _draws(alpha: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, K) fractions of one question of one sample: a member, then its Dirichlet."""
    each = [rng.dirichlet(own, count // len(alpha)) for own in alpha]
    return np.concatenate(each)


def test_one_member_has_the_means_and_quantiles_of_a_beta() -> None:
    alpha = _alpha(1, 50)
    for low, high in GROUPS:
        own = alpha[0, :, low:high]
        total = own.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(expected_fractions(alpha, GROUPS)[:, low:high], own / total, rtol=1e-12)
        found = mixture_quantiles(alpha, GROUPS, (0.05, 0.5, 0.95))[:, :, low:high]
        for p, values in zip((0.05, 0.5, 0.95), found, strict=True):
            np.testing.assert_allclose(values, stats.beta(own, total - own).ppf(p), atol=1e-10)


def test_quantiles_invert_the_mean_of_the_members_cdfs() -> None:
    alpha = _alpha(4, 40)
    for low, high in GROUPS:
        own = alpha[:, :, low:high]
        betas = stats.beta(own, own.sum(axis=2, keepdims=True) - own)
        for p in (0.001, 0.05, 0.5, 0.95):
            (found,) = mixture_quantiles(alpha, GROUPS, (p,))
            np.testing.assert_allclose(betas.cdf(found[:, low:high]).mean(axis=0), p, atol=1e-9)


def test_draws_of_the_mixture_have_its_means_and_quantiles() -> None:
    alpha = np.array([[[20.0, 5.0, 2.0]], [[3.0, 30.0, 1.5]], [[6.0, 6.0, 6.0]]])
    drawn = _draws(alpha[:, 0], 300_000, np.random.default_rng(1))
    np.testing.assert_allclose(expected_fractions(alpha, ((0, 3),))[0], drawn.mean(axis=0), atol=2e-3)
    found = mixture_quantiles(alpha, ((0, 3),), (0.05, 0.5, 0.95))[:, 0]
    np.testing.assert_allclose(found, np.quantile(drawn, (0.05, 0.5, 0.95), axis=0), atol=5e-3)


def test_the_interval_of_members_that_disagree_holds_both() -> None:
    # A defect elsewhere: the median of the members' quantiles leaves out what half of them say.
    alpha = np.array([[[90.0, 10.0]], [[10.0, 90.0]], [[10.0, 90.0]]])
    lower, upper = mixture_quantiles(alpha, ((0, 2),), (0.05, 0.95))[:, 0, 0]
    betas = stats.beta(alpha[:, 0, 0], alpha[:, 0, 1])
    assert betas.cdf(upper).mean() - betas.cdf(lower).mean() == pytest.approx(0.9, abs=1e-9)
    assert lower < 0.1 < 0.9 < upper
    narrow = [np.median(betas.ppf(p)) for p in (0.05, 0.95)]
    assert betas.cdf(narrow[1]).mean() - betas.cdf(narrow[0]).mean() < 0.62


@pytest.mark.parametrize("members", [1, 3])
def test_nine_of_ten_true_fractions_lie_in_the_interval(members: int) -> None:
    rng = np.random.default_rng(2)
    alpha = rng.uniform(1, 20, (members, 4000, 3))
    chosen = alpha[rng.integers(members, size=4000), np.arange(4000)]
    gammas = rng.gamma(chosen)
    truth = gammas / gammas.sum(axis=1, keepdims=True)
    lower, upper = mixture_quantiles(alpha, ((0, 3),), (0.05, 0.95))
    inside = ((truth > lower) & (truth < upper)).mean(axis=0)
    np.testing.assert_allclose(inside, 0.9, atol=0.02)  # four standard errors


def test_quantiles_of_members_that_are_nearly_sure() -> None:
    alpha = np.array([[[1e-3, 1.0]], [[1.0, 1e-3]], [[1e5, 1e5]]])
    found = mixture_quantiles(alpha, ((0, 2),), (0.1, 0.5, 0.9))[:, 0, 0]
    np.testing.assert_allclose(found, (0.0, 0.5, 1.0), atol=1e-2)


def test_quantiles_rise_with_the_probability_and_equal_members_are_one() -> None:
    alpha = _alpha(1, 20)
    many = np.repeat(alpha, 3, axis=0)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    found = mixture_quantiles(many, GROUPS, levels)
    assert (np.diff(found, axis=0) > 0).all()
    np.testing.assert_allclose(found, mixture_quantiles(alpha, GROUPS, levels), atol=1e-8)
    mixed = _alpha(3, 20)
    np.testing.assert_allclose(mixture_quantiles(mixed, GROUPS, levels), mixture_quantiles(mixed[::-1], GROUPS, levels),
                               atol=1e-8)
    assert mixture_quantiles(mixed, GROUPS, ()).shape == (0, 20, 5)


def test_how_often_a_question_is_asked_is_the_mean_over_members() -> None:
    alpha = np.array([[[8.0, 1.0, 1.0, 5.0, 5.0, 1.0, 1.0]], [[2.0, 6.0, 2.0, 5.0, 5.0, 1.0, 1.0]]])
    # A question after any of two answers: theirs add up, which one parent a question cannot say.
    np.testing.assert_allclose(asked(alpha, SCHEMA), [[1.0, (0.1 + 0.6) / 2, (0.9 + 0.8) / 2]])
    deep = LabelSchema("deep", (*SCHEMA.questions[:2], Question("arms", ("yes", "no"), ("edge_no",))))
    alpha = np.array([[[1.0, 9.0, 2.0, 1.0, 9.0, 1.0, 1.0]], [[9.0, 1.0, 2.0, 9.0, 1.0, 1.0, 1.0]]])
    expected = (9 / 12 * 0.9 + 1 / 12 * 0.1) / 2  # the fractions' own means would give 5 / 12 * 0.5
    assert asked(alpha, deep)[0, 2] == pytest.approx(expected)


def test_likelihoods_of_the_method_card() -> None:
    def one(alpha: Any, votes: Any) -> float:
        return float(log_likelihood(np.array([[alpha]]), np.array([votes]), ((0, len(votes)),))[0, 0])

    assert one([5.0, 3.0, 1.0], [8, 2, 0]) == pytest.approx(-2.690112500, abs=1e-8)
    assert one([1.0, 1.0, 1.0], [3, 4, 3]) == pytest.approx(-4.189654742, abs=1e-8)
    assert one([5.0, 3.0, 1.0], [1, 0, 0]) == pytest.approx(-0.587786665, abs=1e-8)
    assert one([2.0, 5.0], [3, 1]) == pytest.approx(-2.351375257, abs=1e-8)
    assert one([5e5, 3e5, 2e5], [5, 3, 2]) == pytest.approx(-2.4645259, abs=1e-6)
    assert one([5.0, 3.0, 1.0], [0, 0, 0]) == 0.0


def test_the_likelihood_is_that_of_the_training_loss_and_of_its_mean_over_members() -> None:
    alpha, votes = _alpha(3, 12), np.random.default_rng(3).poisson(2.0, (12, 5)).astype(float)
    votes[4, 3:] = 0
    each = [-dirichlet_multinomial_nll(torch.tensor(votes), torch.tensor(own), GROUPS).numpy() for own in alpha]
    np.testing.assert_allclose(log_likelihood(alpha[:1], votes, GROUPS), each[0], atol=1e-10)
    mixture = np.log(np.mean(np.exp(each), axis=0))
    np.testing.assert_allclose(log_likelihood(alpha, votes, GROUPS), mixture, atol=1e-10)
    assert log_likelihood(alpha, votes, GROUPS)[4, 1] == 0.0
    unlikely = np.array([[0.0, 900.0]])
    far = np.array([[[100.0, 1.0]], [[101.0, 1.0]]])
    assert np.isfinite(log_likelihood(far, unlikely, ((0, 2),))).all()


def test_predicted_counts_are_mixtures_of_beta_binomials() -> None:
    alpha = _alpha(2, 30, 5, seed=4)
    votes = np.random.default_rng(5).poisson(6.0, (30, 5)).astype(float)
    below, up_to = count_distribution(alpha, votes, GROUPS)
    for low, high in GROUPS:
        own, k = alpha[:, :, low:high], votes[:, low:high]
        predicted = stats.betabinom(k.sum(axis=1, keepdims=True), own, own.sum(axis=2, keepdims=True) - own)
        np.testing.assert_allclose(below[:, low:high], predicted.cdf(k - 1).mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(up_to[:, low:high], predicted.cdf(k).mean(axis=0), atol=1e-9)
    below, up_to = count_distribution(alpha, np.zeros((30, 5)), GROUPS)
    assert (below == 0).all()
    np.testing.assert_allclose(up_to, 1.0)


def test_counts_that_a_member_holds_for_impossible_lie_at_its_end() -> None:
    alpha, votes = np.array([[[1.0, 505.0]], [[50.0, 50.0]]]), np.array([[2000.0, 0.0]])
    below, up_to = count_distribution(alpha, votes, ((0, 2),))  # probabilities of 1e-545 and 1e-70
    np.testing.assert_allclose(below, [[1.0, 0.0]], atol=1e-9)
    np.testing.assert_allclose(up_to, [[1.0, 0.0]], atol=1e-9)


def test_votes_beyond_counting_take_no_longer() -> None:
    alpha = np.random.default_rng(6).uniform(1, 101, (2, 12, 5))
    fractions = np.random.default_rng(7).dirichlet([2.0] * 5, 12)
    votes = np.rint(fractions * 25_000)
    below, up_to = count_distribution(alpha, votes, ((0, 5),))
    others = alpha.sum(axis=2, keepdims=True) - alpha
    exact = stats.betabinom(votes.sum(axis=1, keepdims=True), alpha, others)
    np.testing.assert_allclose(below, exact.cdf(votes - 1).mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(up_to, exact.cdf(votes).mean(axis=0), atol=1e-3)
    most, _ = count_distribution(alpha, np.rint(fractions * 1e12), ((0, 5),))
    np.testing.assert_allclose(most, stats.beta(alpha, others).cdf(fractions).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("votes", [1, 4, 40])
def test_draws_between_both_ends_of_true_counts_are_uniform_however_few_the_votes(votes: int) -> None:
    rng = np.random.default_rng(votes)
    alpha = rng.uniform(1, 15, (3, 3000, 3))
    gammas = rng.gamma(alpha[rng.integers(3, size=3000), np.arange(3000)])
    counts = rng.multinomial(votes, gammas / gammas.sum(axis=1, keepdims=True))
    below, up_to = count_distribution(alpha, counts, ((0, 3),))
    drawn = below + rng.random(below.shape) * (up_to - below)
    assert min(stats.kstest(column, "uniform").pvalue for column in drawn.T) > 1e-3


@pytest.mark.parametrize(("alpha", "groups", "error", "message"), [
    (np.ones((0, 4, 5)), GROUPS, ConfigError, "there is no member"),
    (np.ones((4, 5)), GROUPS, ConfigError, r"concentrations \(4, 5\) must be \(members, samples, 5 answers\)"),
    (np.ones((1, 4, 6)), GROUPS, ConfigError, r"\(1, 4, 6\) must be \(members, samples, 5 answers\)"),
    (np.ones((1, 4, 5)), ((0, 3), (4, 5)), ConfigError, "do not tile the answers"),
    (np.ones((1, 4, 5)), (), ConfigError, "do not tile the answers"),
    (np.zeros((1, 4, 5)), GROUPS, DataError, "not positive and finite"),
    (np.full((1, 4, 5), np.nan), GROUPS, DataError, "not positive and finite"),
])  # fmt: skip
def test_what_is_no_posterior(alpha: Any, groups: Any, error: Any, message: str) -> None:
    for call in (lambda: expected_fractions(alpha, groups), lambda: mixture_quantiles(alpha, groups, (0.5,))):
        with pytest.raises(error, match=message):
            call()


def test_probabilities_and_counts_that_are_none() -> None:
    alpha = np.ones((1, 4, 5))
    for p in (0.0, 1.0, 1.5):
        with pytest.raises(ConfigError, match=f"probability {p} must be above 0 and below 1"):
            mixture_quantiles(alpha, GROUPS, (0.5, p))
    with pytest.raises(ConfigError, match=r"counts \(3, 5\) must be \(4, 5\)"):
        log_likelihood(alpha, np.ones((3, 5)), GROUPS)
    for bad in (-1.0, np.nan):
        with pytest.raises(DataError, match="counts must be finite and 0 or more"):
            count_distribution(alpha, np.full((4, 5), bad), GROUPS)
