from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from sciencessl.errors import DataError
from sciencessl.losses.classification import softmax_nll


def test_matches_numpy() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 4)) * 3
    target = np.array([0, 3, 1, 2, 2, 0])
    expected = -log_softmax(logits, axis=1)[np.arange(6), target]
    result = softmax_nll(torch.from_numpy(logits), torch.from_numpy(target))
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-13)


def test_equal_logits_cost_log_of_the_classes() -> None:
    assert softmax_nll(torch.zeros(1, 5), torch.tensor([2])).item() == pytest.approx(math.log(5), abs=1e-6)


@pytest.mark.parametrize("value", [2.0, 1e30, math.inf, math.nan])
def test_unlabelled_rows_are_exactly_zero_in_value_and_gradient(value: float) -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [value, -value, 0.0]], requires_grad=True)
    nll = softmax_nll(logits, torch.tensor([1, -1]))
    nll.sum().backward()
    assert logits.grad is not None
    assert nll[1].item() == 0.0
    assert torch.equal(logits.grad[1], torch.zeros(3))
    softmax = torch.softmax(logits.detach()[0], dim=0)
    torch.testing.assert_close(logits.grad[0], softmax - torch.tensor([0.0, 1.0, 0.0]))


def test_a_batch_without_labels_is_zero() -> None:
    assert torch.equal(softmax_nll(torch.ones(3, 2), torch.full((3,), -1)), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_float32_under_autocast(dtype: torch.dtype) -> None:
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    target = torch.arange(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll = softmax_nll(logits, target)
        assert softmax_nll(logits.double(), target).dtype == torch.float64
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll.double(), softmax_nll(logits.double(), target), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [3, -2])
def test_a_class_the_head_does_not_know_is_refused(bad: int) -> None:
    with pytest.raises(DataError, match=f"class {bad}"):
        softmax_nll(torch.zeros(2, 3), torch.tensor([0, bad]))


def test_nothing_is_read_from_a_device() -> None:
    target = torch.zeros(4, dtype=torch.int64, device="meta")
    assert softmax_nll(torch.ones(4, 3, device="meta"), target).shape == (4,)
