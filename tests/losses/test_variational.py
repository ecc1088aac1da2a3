"""VSSL's terms against torch.distributions, the numbers of its card and samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from sciencessl.errors import ConfigError
from sciencessl.losses.variational import cosine_divergence, gaussian_divergence, reparameterised, squared_error

MEAN, VARIANCE = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0, 0.5]]).double()
TARGET_MEAN, TARGET_VARIANCE = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[2.0, 0.5]]).double()
CARD = (MEAN, VARIANCE.log(), TARGET_MEAN, TARGET_VARIANCE.log())


def random(rows: int = 20, width: int = 6, seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.normal(size=(rows, width))) for _ in range(4)]


def gaussian(mean: Tensor, log_variance: Tensor) -> Independent:
    return Independent(Normal(mean, (0.5 * log_variance).exp()), 1)


def test_the_divergence_is_that_of_the_card() -> None:
    """KL ln 2 / 2 = .3465736, expected log-likelihood -2.8378771, entropy 2.4913035: their sum is 0."""
    q, p = gaussian(*CARD[:2]), gaussian(*CARD[2:])
    likelihood = p.log_prob(MEAN) - 0.5 * (VARIANCE / TARGET_VARIANCE).sum(dim=1)
    found = gaussian_divergence(*CARD)
    assert found.item() == pytest.approx(0.3465736, abs=5e-8)
    assert found.item() == pytest.approx(math.log(2) / 2, abs=1e-12)
    assert likelihood.item() == pytest.approx(-2.8378771, abs=5e-8)
    assert q.entropy().item() == pytest.approx(2.4913035, abs=5e-8)
    assert (likelihood + q.entropy() + found).item() == pytest.approx(0.0, abs=1e-12)


def test_the_divergence_equals_that_of_torch() -> None:
    mean, log, target_mean, target_log = random()
    found = gaussian_divergence(mean, log, target_mean, target_log)
    torch.testing.assert_close(found, kl_divergence(gaussian(mean, log), gaussian(target_mean, target_log)),
                               rtol=0, atol=1e-6)
    assert (found > 0).all()


def test_the_divergence_is_zero_for_equal_gaussians_alone() -> None:
    mean, log, *_ = random()
    assert not gaussian_divergence(mean, log, mean, log).any()
    for changed in ((mean + 1e-3, log), (mean, log + 1e-3), (mean, log - 1e-3)):
        assert (gaussian_divergence(*changed, mean, log) > 0).all()
    near = gaussian_divergence(mean.float(), log.float() + 1e-4, mean.float(), log.float())
    assert (near >= 0).all()


def test_gradients_of_the_divergence_are_those_of_the_card() -> None:
    tensors = [tensor.requires_grad_() for tensor in random()]
    mean, log, target_mean, target_log = tensors
    gaussian_divergence(*tensors).sum().backward()
    torch.testing.assert_close(mean.grad, (mean - target_mean) / target_log.exp())
    torch.testing.assert_close(log.grad, ((log - target_log).exp() - 1) / 2)
    assert target_mean.grad is target_log.grad is None


def test_samples_have_the_likelihood_and_the_divergence_of_the_closed_forms() -> None:
    """2e5 samples: the expected log-likelihood of the card within 1 %, and the divergence as the mean of its log."""
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = reparameterised(MEAN.expand(200_000, 2), VARIANCE.log().expand(200_000, 2), noise)
    likelihood = gaussian(*CARD[2:]).log_prob(samples)
    assert likelihood.mean().item() == pytest.approx(-2.8378771, rel=0.01)
    own = gaussian(*CARD[:2]).log_prob(samples)
    assert (own - likelihood).mean().item() == pytest.approx(gaussian_divergence(*CARD).item(), rel=0.02)
    torch.testing.assert_close(samples.var(dim=0), VARIANCE[0], rtol=0.01, atol=0)


def test_the_gradient_of_a_sample_reaches_mean_and_log_variance() -> None:
    mean, log, noise, _ = random()
    mean.requires_grad_()
    log.requires_grad_()
    reparameterised(mean, log, noise).sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones_like(mean))
    torch.testing.assert_close(log.grad, 0.5 * (0.5 * log).exp() * noise)


def test_the_cosine_form_is_that_of_the_card() -> None:
    """(3, 4) and (4, 3): 1 - cos = .04, whatever their lengths; opposite log-variances cost 2 gamma more."""
    mean, target = torch.tensor([[3.0, 4.0]]).double(), torch.tensor([[4.0, 3.0]]).double()
    log = torch.tensor([[1.0, -1.0]]).double()
    for scale in (1.0, 0.01, 50.0):
        assert cosine_divergence(scale * mean, log, target, 3 * log + 2, 0.1).item() == pytest.approx(0.04, abs=1e-12)
    assert cosine_divergence(mean, log, target, -log, 0.1).item() == pytest.approx(0.04 + 0.2, abs=1e-12)
    assert cosine_divergence(mean, log, target, -log, 0.0).item() == pytest.approx(0.04, abs=1e-12)


def test_the_cosine_form_of_random_rows_equals_numpy() -> None:
    tensors = random()
    m, s, n, t = (tensor.numpy() for tensor in tensors)

    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))

    centred = [x - x.mean(axis=1, keepdims=True) for x in (s, t)]
    want = 1 - cosine(m, n) + 0.3 * (1 - cosine(*centred))
    np.testing.assert_allclose(cosine_divergence(*tensors, 0.3), want, atol=1e-12)


def test_equal_variances_have_a_finite_gradient_and_targets_have_none() -> None:
    mean, _, target_mean, target_log = random()
    log = torch.full_like(mean, -2.0).requires_grad_()
    target_mean.requires_grad_()
    target_log.requires_grad_()
    loss = cosine_divergence(mean.requires_grad_(), log, target_mean, torch.full_like(mean, -2.0), 0.1).sum()
    loss.backward()
    assert log.grad is not None
    assert not log.grad.any()
    cosine_divergence(mean, log, target_mean, target_log, 0.1).sum().backward()
    squared_error(mean, target_mean, 1.0).sum().backward()
    assert target_mean.grad is target_log.grad is None


def test_the_squared_error_is_the_likelihood_without_its_constant() -> None:
    prediction, target, *_ = random()
    density = Independent(Normal(target, torch.full_like(target, 0.5)), 1)
    constant = 0.5 * target.shape[1] * math.log(2 * math.pi * 0.25)
    torch.testing.assert_close(squared_error(prediction, target, 0.5), -density.log_prob(prediction) - constant)


def test_values_are_in_single_precision_at_least() -> None:
    half = [tensor.bfloat16() for tensor in random()]
    assert gaussian_divergence(*half).dtype == cosine_divergence(*half, 0.1).dtype == torch.float32
    torch.testing.assert_close(gaussian_divergence(*half), gaussian_divergence(*(t.float() for t in half)))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gaussians: shapes \[\(1, 2\), \(1, 2\), \(1, 2\), \(1, 3\)\]"):
        gaussian_divergence(*CARD[:3], torch.zeros(1, 3))
    with pytest.raises(ConfigError, match="expected one"):
        squared_error(torch.zeros(2, 3), torch.zeros(2, 1), 1.0)
