"""Attention over bags: its closed form, what must not matter to it, and what it finds that a mean cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciencessl.errors import DataError
from sciencessl.evaluate import abmil
from sciencessl.evaluate.abmil import Attention, AttentionNet, BagFeatures, FittedAbmil, fit_abmil
from sciencessl.evaluate.bags import pool
from sciencessl.evaluate.linear import fit_logistic

RNG = np.random.default_rng(0)


def needles(bags: int, seed: int, sizes: tuple[int, ...] = (24,)) -> tuple[BagFeatures, np.ndarray]:
    """Bags of class 1 have one sample, the first, with a peak in feature 0."""
    rng = np.random.default_rng(seed)
    labels = np.arange(bags) % 2
    parts = []
    for number, label in enumerate(labels):
        part = rng.normal(size=(sizes[number % len(sizes)], 8))
        part[0, 0] += 5 * label
        parts.append(part.astype(np.float32))
    return BagFeatures(np.concatenate(parts), np.array([len(part) for part in parts])), labels


@pytest.fixture(scope="module")
def fitted() -> FittedAbmil:
    features, labels = needles(60, 1)
    return fit_abmil(features, labels, np.arange(60), 0)


def test_attention_of_two_samples_worked_by_hand() -> None:
    attention = Attention(np.array([[1.0]]), np.zeros(1), np.array([[0.0]]), np.zeros(1), np.array([2.0]))
    # Scores 2 tanh(0) / 2 = 0 and 2 tanh(1) / 2 = tanh(1).
    second = math.exp(math.tanh(1)) / (1 + math.exp(math.tanh(1)))
    np.testing.assert_allclose(attention.weights(np.array([[0.0], [1.0]])), [1 - second, second])


def test_attention_adds_up_to_one_and_the_order_of_samples_does_not_matter(fitted: FittedAbmil) -> None:
    bag = RNG.normal(size=(50, 8))
    turned = RNG.permutation(50)
    weights = fitted.attention.weights(bag)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    np.testing.assert_allclose(fitted.attention.weights(bag[turned]), weights[turned])
    sizes = np.array([50])
    np.testing.assert_allclose(fitted.logits(BagFeatures(bag[turned], sizes)), fitted.logits(BagFeatures(bag, sizes)))


def test_what_is_kept_is_what_was_trained() -> None:
    net = AttentionNet(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    bag = RNG.normal(size=(7, 2)).astype(np.float32)
    kept = net.fitted(np.arange(3), 1).logits(BagFeatures(bag, np.array([7])))
    standardised = (torch.from_numpy(bag) - net.mean) / net.scale
    np.testing.assert_allclose(kept, net([standardised]).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(kept, net([standardised[:2], standardised]).detach().numpy()[1:], atol=1e-5)


def test_at_first_it_is_the_mean_over_the_bag() -> None:
    net = AttentionNet(torch.zeros(2), torch.ones(2), 2, torch.Generator().manual_seed(0))
    attention = net.fitted(np.arange(2), 0).attention
    np.testing.assert_allclose(attention.weights(RNG.normal(size=(5, 2))), 0.2)


def test_one_sample_of_a_bag_decides_which_a_mean_hardly_tells(fitted: FittedAbmil) -> None:
    (train, labels), (test, truth) = needles(60, 1), needles(100, 2)
    told = fitted.probabilities(test, 2)
    assert (told.argmax(axis=1) == truth).mean() > 0.85
    scores = {}
    for pooling in ("mean", "max"):
        head = fit_logistic(pool(train.values, train.sizes, pooling), labels, np.arange(60), 0)
        chosen = head.probabilities(pool(test.values, test.sizes, pooling)).argmax(axis=1)
        scores[pooling] = (chosen == truth).mean()
    assert scores["mean"] < 0.75
    assert scores["max"] > 0.9
    looked = [fitted.attention.weights(bag).argmax() for bag, label in zip(test.bags(), truth, strict=True) if label]
    assert np.mean(np.array(looked) == 0) > 0.8


def test_tuning_uses_the_labels_of_the_budget_and_few_labels_tune_nothing(fitted: FittedAbmil) -> None:
    assert set(fitted.search) == set(abmil.STEPS)
    assert fitted.steps == min(fitted.search, key=lambda steps: fitted.search[steps])
    assert 0.02 <= fitted.temperature <= 50
    few, labels = needles(16, 3)
    fixed = fit_abmil(few, labels, np.arange(16), 0)
    assert (fixed.steps, fixed.search, fixed.temperature) == (abmil.FIXED_STEPS, {}, 1.0)
    # 60 bags of 8 patients are few, however many bags there are.
    many, labels = needles(60, 3)
    assert fit_abmil(many, labels, np.arange(60) // 8, 0).search == {}


def test_a_fit_is_a_function_of_its_seed() -> None:
    features, labels = needles(12, 4)
    one, same, other = (fit_abmil(features, labels, np.arange(12), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.weight, same.weight)
    assert not np.array_equal(one.weight, other.weight)


def test_bags_of_one_sample_beside_one_of_ten_thousand() -> None:
    features, labels = needles(12, 5, (1, 1, 3, 10_000))
    fitted = fit_abmil(features, labels, np.arange(12), 0)
    told = fitted.probabilities(features, 3)
    assert np.isfinite(told).all()
    np.testing.assert_allclose(told.sum(axis=1), 1)
    assert (told[:, 2] == 0).all()
    assert fitted.attention.weights(features.bags()[0]).tolist() == [1.0]


def test_a_budget_of_one_class_predicts_it() -> None:
    features, _ = needles(5, 6)
    told = fit_abmil(features, np.ones(5, int), np.arange(5), 0).probabilities(features, 2)
    np.testing.assert_allclose(told, np.tile([0.0, 1.0], (5, 1)))


def test_bad_input_is_refused() -> None:
    features, labels = needles(12, 7)
    with pytest.raises(DataError, match=r"labels \(11,\) and units \(12,\) must be"):
        fit_abmil(features, labels[:11], np.arange(12), 0)
    with pytest.raises(DataError, match="add up to 12"):
        fit_abmil(BagFeatures(features.values, np.ones(12, int)), labels, np.arange(12), 0)
    broken = features.values.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="features of 1 of 288 samples are not finite"):
        fit_abmil(BagFeatures(broken, features.sizes), labels, np.arange(12), 0)
