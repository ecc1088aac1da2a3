"""What votes teach: against brute force, bounds, and what must not matter."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import betabinom, dirichlet_multinomial

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.acquisition import (
    expected_information,
    mutual_information,
    next_vote_entropy,
    outcome_count,
)
from sciencessl.spec import LabelSchema, Question

TREE = LabelSchema("tree", (
    Question("shape", ("smooth", "disk", "artifact")),
    Question("spiral", ("yes", "no"), ("shape_disk",)),
    Question("odd", ("yes", "no"), ("shape_smooth", "shape_disk")),
))


def drawn(members: int, samples: int, answers: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 101, (members, samples, answers))


def by_brute_force(alpha: np.ndarray, n: int) -> np.ndarray:
    """Entropies over every table of counts, with the distribution of another library."""
    counts = [k for k in product(range(n + 1), repeat=alpha.shape[2]) if sum(k) == n]
    found = []
    for sample in range(alpha.shape[1]):
        p = np.array([[dirichlet_multinomial.pmf(k, alpha[m, sample], n) for k in counts] for m in range(len(alpha))])
        mixture = p.mean(axis=0)
        found.append(-(mixture * np.log(mixture)).sum() + (p * np.log(p)).sum(axis=1).mean())
    return np.array(found)


@pytest.mark.parametrize(("answers", "n"), [(2, 1), (2, 9), (3, 6), (4, 4)])
def test_disagreement_equals_brute_force_over_all_outcomes(answers: int, n: int) -> None:
    alpha = drawn(2, 3, answers, seed=answers)
    np.testing.assert_allclose(mutual_information(alpha, n), by_brute_force(alpha, n), rtol=1e-9, atol=1e-12)


def test_two_answers_are_beta_binomial() -> None:
    a, b, n = np.array([2.0, 80.0, 7.5]), np.array([60.0, 3.0, 7.5]), 80
    p = np.array([betabinom.pmf(np.arange(n + 1), n, *pair) for pair in zip(a, b, strict=True)])
    mixture = p.mean(axis=0)
    wanted = (p * np.log(p / mixture)).sum(axis=1).mean()
    found = mutual_information(np.stack([a, b], axis=1)[:, None], n)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("answers", [2, 3, 6])
def test_one_member_and_equal_members_have_nothing_to_settle(answers: int) -> None:
    one = drawn(1, 5, answers)
    assert (mutual_information(one, 40) == 0).all()
    assert (mutual_information(np.repeat(one, 4, axis=0), 40) == 0).all()


@pytest.mark.parametrize("answers", [2, 3, 6])
def test_information_lies_between_nothing_and_the_log_of_the_members(answers: int) -> None:
    found = mutual_information(drawn(5, 20, answers), 80)
    assert (found > 0).all()
    assert (found <= np.log(5)).all()
    sure = np.full((answers, 1, answers), 1.0)
    sure[np.arange(answers), 0, np.arange(answers)] = 101.0  # member m is sure of answer m
    assert np.log(answers) * 0.9 < mutual_information(sure, 80)[0] <= np.log(answers)


def test_votes_that_scatter_by_themselves_teach_nothing_but_disagreement_does() -> None:
    unsure = np.array([[[1.0, 1.0]], [[1.1, 1.0]]])
    disagree = np.array([[[90.0, 3.0]], [[3.0, 90.0]]])
    assert mutual_information(unsure, 40)[0] < 0.01
    assert mutual_information(disagree, 40)[0] > 0.65
    question = LabelSchema("q", (Question("q", ("a", "b")),))
    np.testing.assert_allclose(next_vote_entropy(unsure, question)[0, 0], np.log(2), rtol=1e-3)


def test_neither_the_order_of_members_nor_that_of_answers_or_samples_matters() -> None:
    alpha = drawn(4, 6, 3)
    found = mutual_information(alpha, 40)
    np.testing.assert_allclose(mutual_information(alpha[::-1], 40), found, rtol=1e-12)
    np.testing.assert_allclose(mutual_information(alpha[..., [2, 0, 1]], 40), found, rtol=1e-9)
    np.testing.assert_array_equal(mutual_information(alpha[:, ::-1], 40)[::-1], found)


def test_more_volunteers_never_teach_less() -> None:
    alpha = drawn(3, 10, 3)
    found = np.array([mutual_information(alpha, n) for n in (1, 5, 20, 80)])
    assert (np.diff(found, axis=0) > 0).all()


def test_large_concentrations_lose_no_digits() -> None:
    # Differences of large gamma functions would: at 1e8 their error is about 1e-7, larger than what is asked here.
    near = np.array([[[1e8, 1e8]], [[1e8 * (1 + 1e-3), 1e8]]])
    n = 80
    p, q = 0.5, (1 + 1e-3) / (2 + 1e-3)
    gap = mutual_information(near, n)[0]
    # Two binomials so close to each other: I = n (p - q)^2 / (8 p (1 - p)) to first order.
    np.testing.assert_allclose(gap, n * (p - q) ** 2 / (8 * p * (1 - p)), rtol=1e-2)


def test_draws_agree_with_the_sum_and_do_not_depend_on_company() -> None:
    alpha = drawn(5, 12, 3, seed=3)
    exact = mutual_information(alpha, 40)
    found = mutual_information(alpha, 40, seed=1, most_outcomes=0)
    np.testing.assert_allclose(found, exact, atol=0.03)
    assert abs((found - exact).mean()) < 0.005  # no bias: the mean of twelve is nearer than each
    np.testing.assert_array_equal(mutual_information(alpha[:, 4:5], 40, seed=1, most_outcomes=0), found[4:5])
    np.testing.assert_array_equal(mutual_information(alpha, 40, seed=1, most_outcomes=0), found)
    assert (mutual_information(alpha, 40, seed=2, most_outcomes=0) != found).any()


def test_outcomes_are_as_many_as_are_counted() -> None:
    assert [outcome_count(answers, 24) for answers in (2, 3, 4, 5)] == [25, 325, 2925, 20475]


def test_a_question_counts_as_far_as_it_is_asked() -> None:
    alpha = drawn(3, 4, 7)
    found = expected_information(alpha, TREE, 20)
    fractions = np.stack([alpha[..., :3] / alpha[..., :3].sum(axis=2, keepdims=True)])[0].mean(axis=0)
    np.testing.assert_allclose(found[:, 0], mutual_information(alpha[..., :3], 20), rtol=1e-12)
    np.testing.assert_allclose(found[:, 1], fractions[:, 1] * mutual_information(alpha[..., 3:5], 20), rtol=1e-9)
    both = fractions[:, 0] + fractions[:, 1]
    np.testing.assert_allclose(found[:, 2], both * mutual_information(alpha[..., 5:], 20), rtol=1e-9)
    entropy = next_vote_entropy(alpha, TREE)
    np.testing.assert_allclose(entropy[:, 0], -(fractions * np.log(fractions)).sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize(("alpha", "n", "error", "message"), [
    (np.ones((0, 2, 2)), 5, ConfigError, "of one member or more"),
    (np.ones((2, 2, 1)), 5, ConfigError, "a question of two answers or more"),
    (np.ones((2, 2, 2)), 0, ConfigError, r"volunteers=0: give the number of votes expected on a question, 1 or more"),
    (np.full((2, 2, 2), np.nan), 5, DataError, "not positive and finite"),
    (np.zeros((2, 2, 2)), 5, DataError, "not positive and finite"),
])
def test_what_has_no_information_to_ask_for(alpha: np.ndarray, n: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mutual_information(alpha, n)


def test_a_question_without_samples_has_no_scores() -> None:
    assert mutual_information(np.ones((2, 0, 2)), 5).shape == (0,)
