"""Regression of cells: the card's numbers, NumPy, and no gradient where none belongs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciencessl.errors import ConfigError
from sciencessl.losses.cells import cell_regression, over_cells
from sciencessl.losses.regression import negative_cosine


def test_the_numbers_of_the_card() -> None:
    """p = (3, 4) / 5, h = (1, 0): 0.08 + 0.32 = 0.40 = 1 - cos, whatever their lengths."""
    p, h = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    assert float(cell_regression(p / 5, h)) == pytest.approx(0.40, abs=1e-6)
    assert float(cell_regression(2 * p, 9 * h)) == pytest.approx(0.40, abs=1e-6)
    channels = torch.nn.functional.smooth_l1_loss(p / 5, h, reduction="none")
    np.testing.assert_allclose(channels, [0.08, 0.32], atol=1e-6)
    assert float(1 + negative_cosine(p, h)) == pytest.approx(0.40, abs=1e-6)


def test_it_is_the_published_formula() -> None:
    """Written out in NumPy; with negative features channels can be more than 1 apart, where it is linear."""
    rng = np.random.default_rng(0)
    p, h = rng.normal(size=(3, 4, 5, 2)), rng.normal(size=(3, 4, 5, 2))
    d = p / np.linalg.norm(p, axis=-1, keepdims=True) - h / np.linalg.norm(h, axis=-1, keepdims=True)
    expected = np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5).sum(axis=-1)
    assert (np.abs(d) > 1).any()
    found = cell_regression(torch.from_numpy(p), torch.from_numpy(h))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_on_features_of_a_relu_it_is_one_minus_the_cosine() -> None:
    rng = np.random.default_rng(1)
    p, h = (torch.from_numpy(rng.normal(size=(50, 9)).clip(0) + 1e-3) for _ in range(2))
    torch.testing.assert_close(cell_regression(p, h), 1 + negative_cosine(p, h), rtol=0, atol=1e-12)


def test_cells_that_are_not_wanted_have_no_gradient_even_where_they_are_no_numbers() -> None:
    p = torch.rand(2, 3, 3, 4, requires_grad=True)
    h = torch.rand(2, 3, 3, 4, requires_grad=True)
    wanted = torch.zeros(2, 3, 3, dtype=torch.bool)
    wanted[0, 0] = wanted[1, :, 2] = True
    total = over_cells(cell_regression(p, h), wanted)
    total.backward()
    torch.testing.assert_close(total, cell_regression(p, h)[wanted].sum())
    assert not p.grad[~wanted].any()
    assert p.grad[wanted].any(dim=-1).all()
    assert h.grad is None
    values = torch.tensor([1.0, float("nan")])
    assert float(over_cells(values, torch.tensor([True, False]))) == 1.0


def test_it_is_computed_in_single_precision_at_least_and_zero_vectors_are_finite() -> None:
    p = torch.zeros(2, 4, dtype=torch.bfloat16, requires_grad=True)
    loss = cell_regression(p, torch.ones(2, 4, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [0.5, 0.5]
    loss.sum().backward()
    assert p.grad.isfinite().all()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 3\) and target \(1, 3\)"):
        cell_regression(torch.zeros(2, 3), torch.zeros(1, 3))
