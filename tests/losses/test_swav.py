"""Codes and swapped prediction against the numbers of the method card and a plain Sinkhorn in NumPy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.errors import ConfigError
from sciencessl.losses.swav import sinkhorn_codes, swapped_prediction

SCORES = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.5]])
SEER = (0.03, 10)


def plain_sinkhorn(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """The published listing: a plan of prototypes by samples whose rows sum to 1 / P and columns to 1 / B in turn."""
    plan = np.exp((scores - scores.max()) / epsilon).T
    plan /= plan.sum()
    prototypes, samples = plan.shape
    for _ in range(iterations):
        plan /= plan.sum(axis=1, keepdims=True) * prototypes
        plan /= plan.sum(axis=0, keepdims=True) * samples
    return (plan * samples).T


def cross_entropy(code: np.ndarray, scores: np.ndarray, temperature: float) -> np.ndarray:
    logits = scores / temperature
    return np.log(np.exp(logits).sum(axis=1)) - (code * logits).sum(axis=1)


def cosines(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, size=shape)


@pytest.mark.parametrize(
    ("epsilon", "iterations", "first", "sums"),
    [
        (0.5, 3, [0.6564, 0.5615, 0.4619, 0.3202], [2.0001, 1.9999]),
        (0.05, 3, None, [2.2429, 1.7571]),
        (0.05, 100, [0.9976, 0.8818, 0.1203, 0.0003], [2.0, 2.0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_codes_of_the_card(
    epsilon: float, iterations: int, first: list[float] | None, sums: list[float], dtype: torch.dtype
) -> None:
    codes = sinkhorn_codes(torch.tensor(SCORES, dtype=dtype), epsilon, iterations)
    assert codes.dtype == dtype
    if first:
        np.testing.assert_allclose(codes[:, 0], first, atol=5e-5)
        np.testing.assert_allclose(codes[:, 1], 1 - np.array(first), atol=1.01e-4)
    np.testing.assert_allclose(codes.sum(dim=0), sums, atol=5e-5)


@pytest.mark.parametrize("setting", [SEER, (0.05, 3), (0.5, 1)])
@pytest.mark.parametrize("shape", [(12, 7), (5, 40), (1, 3)])
def test_codes_equal_the_plain_algorithm(setting: tuple[float, int], shape: tuple[int, int]) -> None:
    scores = cosines(shape)
    np.testing.assert_allclose(
        sinkhorn_codes(torch.from_numpy(scores), *setting), plain_sinkhorn(scores, *setting), rtol=1e-11, atol=1e-15
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(-50, 50))
def test_rows_of_codes_sum_to_one_and_a_constant_changes_nothing(
    seed: int, samples: int, prototypes: int, constant: float
) -> None:
    scores = torch.from_numpy(cosines((samples, prototypes), seed))
    codes = sinkhorn_codes(scores, *SEER)
    assert float(codes.min()) >= 0
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(samples, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn_codes(scores + constant, *SEER), codes, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scores_of_any_precision_and_size_give_finite_codes(dtype: torch.dtype) -> None:
    """A sample far from all prototypes has weights of e^-2000 in the plain algorithm, which then divides by zero."""
    scores = torch.from_numpy(cosines((16, 6))).to(dtype)
    scores[3] -= 60
    with np.errstate(invalid="ignore"):
        assert np.isnan(plain_sinkhorn(scores.to(torch.float64).numpy(), *SEER)[3]).all()
    codes = sinkhorn_codes(scores, *SEER)
    assert codes.dtype == torch.float32
    assert bool(codes.isfinite().all())
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = sinkhorn_codes(scores, *SEER)
    assert torch.equal(under_autocast, codes)


def test_single_precision_agrees_with_double() -> None:
    scores = cosines((64, 300)) * 0.8
    single = sinkhorn_codes(torch.from_numpy(scores.astype(np.float32)), *SEER)
    np.testing.assert_allclose(single, plain_sinkhorn(scores, *SEER), rtol=2e-4, atol=1e-7)


def test_codes_carry_no_gradient() -> None:
    assert not sinkhorn_codes(torch.rand(4, 3, requires_grad=True), *SEER).requires_grad


class TwoProcesses:
    """Two threads that reduce with each other, as two processes would."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=30)
        self.given: list[torch.Tensor] = [torch.empty(0)] * 2

    def all_reduce(self, rank: int) -> Callable[[torch.Tensor, str], torch.Tensor]:
        def reduce(tensor: torch.Tensor, operation: str) -> torch.Tensor:
            self.given[rank] = tensor
            self.barrier.wait()
            found = torch.maximum(*self.given) if operation == "max" else self.given[0] + self.given[1]
            self.barrier.wait()
            return found

        return reduce


def test_two_processes_give_the_codes_of_one() -> None:
    """Of batches of different size."""
    scores = cosines((12, 7))
    parts, together = [scores[:5], scores[5:]], TwoProcesses()
    with ThreadPoolExecutor(2) as pool:
        found = [
            pool.submit(sinkhorn_codes, torch.from_numpy(part), *SEER, together.all_reduce(rank))
            for rank, part in enumerate(parts)
        ]
        codes = np.concatenate([one.result().numpy() for one in found])
    np.testing.assert_allclose(codes, plain_sinkhorn(scores, *SEER), rtol=1e-10)
    alone = np.concatenate([plain_sinkhorn(part, *SEER) for part in parts])
    assert np.abs(alone - codes).max() > 0.05


def test_the_cross_entropy_of_the_card() -> None:
    codes = sinkhorn_codes(torch.from_numpy(SCORES), 0.5, 3)
    scores = torch.from_numpy(SCORES)
    loss = swapped_prediction([torch.zeros(4, 2, dtype=torch.float64), scores], [codes], 0.1)
    assert float(loss.mean()) == pytest.approx(2.136482, abs=5e-7)


@pytest.mark.parametrize("assigning", [1, 2, 5])
def test_every_code_is_predicted_from_every_other_crop(assigning: int) -> None:
    crops, temperature = [cosines((4, 3), seed) for seed in range(5)], 0.1
    codes = [plain_sinkhorn(crop, *SEER) for crop in crops[:assigning]]
    want = np.mean([
        np.mean([cross_entropy(code, crop, temperature) for p, crop in enumerate(crops) if p != i], axis=0)
        for i, code in enumerate(codes)
    ], axis=0)
    loss = swapped_prediction([*map(torch.from_numpy, crops)], [*map(torch.from_numpy, codes)], temperature)
    np.testing.assert_allclose(loss, want, rtol=1e-12)


def test_the_gradient_is_that_of_the_softmax_and_reaches_scores_only() -> None:
    """By hand for two crops: (softmax(s / T) - q) / (2 T) for each crop and the code of the other."""
    crops = [torch.from_numpy(cosines((4, 3), seed)).requires_grad_() for seed in range(2)]
    codes = [torch.from_numpy(plain_sinkhorn(cosines((4, 3), seed), *SEER)).requires_grad_() for seed in (2, 3)]
    swapped_prediction(crops, codes, 0.1).sum().backward()
    for crop, code in zip(crops, reversed(codes), strict=True):
        want = ((crop / 0.1).softmax(dim=1) - code).detach() / (2 * 0.1)
        torch.testing.assert_close(crop.grad, want)
        assert code.grad is None


def test_the_loss_is_in_single_precision_at_least() -> None:
    scores = [torch.from_numpy(cosines((4, 3), seed)).to(torch.bfloat16) for seed in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = swapped_prediction(scores, [sinkhorn_codes(scores[0], *SEER)], 0.1)
    assert loss.dtype == torch.float32
    assert float(swapped_prediction([torch.zeros(1, 8)] * 2, [torch.full((1, 8), 1 / 8)], 0.1)) == pytest.approx(
        np.log(8)
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: swapped_prediction([s], [s], 0.1),
        lambda s: swapped_prediction([s, s], [], 0.1),
        lambda s: swapped_prediction([s, s], [s, s, s], 0.1),
        lambda s: swapped_prediction([s, s[:2]], [s], 0.1),
        lambda s: swapped_prediction([s, s], [s], 0.0),
        lambda s: sinkhorn_codes(s, 0.0, 3),
        lambda s: sinkhorn_codes(s, 0.05, 0),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises(ConfigError, match=r"swapped prediction: \d crops|codes: epsilon is"):
        wrong(torch.rand(4, 3))
