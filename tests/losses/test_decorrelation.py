"""Losses of features against NumPy and torch's own batch norm, covariance and correlation, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.decorrelation import barlow_twins, vicreg_covariance, vicreg_invariance, vicreg_spread

SHAPES = [(9, 4), (4, 9), (6, 6)]
"""More rows than features, fewer, and as many."""


def rows(seed: int, shape: tuple[int, int] = (9, 4), dtype: str = "f8") -> Tensor:
    return torch.from_numpy((np.random.default_rng(seed).normal(size=shape) * 1.5 + 0.7).astype(dtype))


def hadamard(count: int) -> Tensor:
    """`count` - 1 features of mean 0 and variance 1 that are uncorrelated over `count` rows."""
    matrix = np.ones((1, 1))
    while len(matrix) < count:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return torch.from_numpy(matrix[:, 1:])


@pytest.mark.parametrize("shape", SHAPES)
def test_barlow_twins_is_the_published_formula(shape: tuple[int, int]) -> None:
    """The correlation matrix written out, beside torch's batch norm without scale and shift."""
    first, second = rows(0, shape), rows(1, shape)
    left, right = (torch.nn.functional.batch_norm(x, None, None, training=True).numpy() for x in (first, second))
    c = left.T @ right / shape[0]
    want = 0.0
    for i in range(shape[1]):
        for j in range(shape[1]):
            want += (1 - c[i, i]) ** 2 if i == j else 0.0051 * c[i, j] ** 2
    assert float(barlow_twins(first, second)) == pytest.approx(want, rel=1e-6)


def test_correlations_are_those_of_the_batch() -> None:
    """But for the eps of the norm, the entries are NumPy's correlation coefficients."""
    first, second = 1e3 * rows(0), 1e3 * rows(1)
    c = np.corrcoef(first.numpy().T, second.numpy().T)[:4, 4:]
    want = ((1 - np.diag(c)) ** 2).sum() + 0.5 * ((c**2).sum() - (np.diag(c) ** 2).sum())
    assert float(barlow_twins(first, second, 0.5)) == pytest.approx(want, rel=1e-6)


def test_equal_views_of_uncorrelated_features_cost_nothing() -> None:
    features = 1e3 * hadamard(8)
    assert float(barlow_twins(features, features, 1.0)) == pytest.approx(0.0, abs=1e-9)


def test_constant_features_correlate_with_nothing() -> None:
    constant = torch.full((9, 4), 3.0).requires_grad_()
    loss = barlow_twins(constant, constant, 1.0)
    loss.backward()
    assert float(loss.detach()) == 4.0
    assert bool(constant.grad.isfinite().all())


def test_features_that_all_say_the_same_cost_redundancy_alone() -> None:
    """D (D - 1) correlations of 1, each worth lambda."""
    same = (1e3 * rows(0)[:, :1]).expand(-1, 4)
    assert float(barlow_twins(same, same, 0.01)) == pytest.approx(0.01 * 12, rel=1e-6)


def test_scale_shift_and_order_of_rows_do_not_matter_to_barlow_twins() -> None:
    first, second = 1e3 * rows(0), 1e3 * rows(1)
    order = torch.tensor([3, 1, 4, 0, 8, 5, 7, 2, 6])
    changed = barlow_twins((5 * first + 100)[order], second[order])
    assert float(changed) == pytest.approx(float(barlow_twins(first, second)), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_vicregs_terms_are_the_published_formulas(shape: tuple[int, int]) -> None:
    x, y = rows(0, shape).numpy() / 2, rows(1, shape).numpy()
    covariance = np.cov(x.T)
    off = covariance - np.diag(np.diag(covariance))
    spread = np.maximum(0, 1 - np.sqrt(x.var(axis=0, ddof=1) + 1e-4)).mean()
    assert spread > 0
    assert float(vicreg_covariance(torch.from_numpy(x))) == pytest.approx((off**2).sum() / shape[1], rel=1e-6)
    assert float(vicreg_spread(torch.from_numpy(x))) == pytest.approx(spread, rel=1e-6)
    found = vicreg_invariance(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(found, ((x - y) ** 2).mean(axis=1), rtol=1e-6)


def test_spread_is_0_for_a_variance_of_1_and_almost_1_for_none() -> None:
    wide = hadamard(8) * math.sqrt(8 / 7)
    assert float(vicreg_spread(wide)) == 0.0
    assert float(vicreg_spread(wide / 2)) == pytest.approx(1 - math.sqrt(0.25 * 64 / 49 + 1e-4), rel=1e-6)
    constant = torch.full((8, 3), 2.0).requires_grad_()
    loss = vicreg_spread(constant)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.99)
    assert bool(constant.grad.isfinite().all())


def test_uncorrelated_features_have_no_covariance_and_equal_views_no_distance() -> None:
    features = hadamard(8)
    assert float(vicreg_covariance(features)) == pytest.approx(0.0, abs=1e-12)
    assert torch.equal(vicreg_invariance(features, features), torch.zeros(8, dtype=torch.float64))


def test_gradients_are_right_whichever_way_the_products_are_summed() -> None:
    for shape in SHAPES:
        first, second = rows(0, shape).requires_grad_(), rows(1, shape).requires_grad_()
        assert torch.autograd.gradcheck(lambda a, b: barlow_twins(a, b, 0.1), (first, second))
        assert torch.autograd.gradcheck(vicreg_covariance, (first,))
        assert torch.autograd.gradcheck(vicreg_spread, (first,))


def test_a_lone_row_gives_finite_losses() -> None:
    lone = rows(0, (1, 4))
    for loss in (barlow_twins(lone, lone), vicreg_spread(lone), vicreg_covariance(lone)):
        assert bool(loss.isfinite())


def test_losses_are_in_single_precision_under_autocast_and_for_half_the_bits() -> None:
    for shape in SHAPES:
        first, second = rows(0, shape, "f4"), rows(1, shape, "f4")
        exact = [barlow_twins(first, second), vicreg_covariance(first), vicreg_spread(first)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [barlow_twins(first, second), vicreg_covariance(first), vicreg_spread(first)]
            half = [barlow_twins(first.bfloat16(), second), vicreg_covariance(first.bfloat16())]
        assert all(torch.equal(a, b) for a, b in zip(exact, found, strict=True))
        assert {loss.dtype for loss in half} == {torch.float32}


@pytest.mark.parametrize("loss", [barlow_twins, vicreg_invariance])
def test_views_of_different_shapes_are_refused(loss: object) -> None:
    with pytest.raises(ConfigError, match=r"shapes \(9, 4\) and \(1, 4\); they must be equal"):
        loss(rows(0), rows(1)[:1])  # type: ignore[operator]
