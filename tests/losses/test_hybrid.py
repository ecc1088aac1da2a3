from __future__ import annotations

import math

import pytest
import torch

from sciencessl.losses.dirichlet import dirichlet_multinomial_nll
from sciencessl.losses.hybrid import hybrid_total, label_coefficient
from sciencessl.losses.regression import byol_regression, negative_cosine

GROUPS = ((0, 3), (3, 5))


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def problem(scale: float = 1.0, unlabelled: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Total and gradient of one hybrid step on three labelled rows and some unlabelled ones."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    counts = torch.tensor([[1.0, 2, 0, 3, 1], [4, 0, 0, 0, 2], [0, 0, 7, 0, 1]])
    pair = negative_cosine(features, target).mean()
    concentrations = features.exp() + 1
    every = torch.cat([concentrations, concentrations[:1].expand(unlabelled, 5)])
    votes = torch.cat([counts, torch.zeros(unlabelled, 5)])
    nll = scale * dirichlet_multinomial_nll(votes, every, GROUPS)
    rows = (votes > 0).any(dim=1).sum()
    total, _ = hybrid_total(pair, pair.abs(), nll.sum(), rows, 0.7)
    (gradient,) = torch.autograd.grad(total, features)
    return total.detach(), gradient


def test_card_example_in_the_authors_form() -> None:
    pair = scalar(-0.8)
    total, mean = hybrid_total(pair, pair.abs(), scalar(37.0), scalar(10.0), 0.5)
    assert float(total) == pytest.approx(-0.4, abs=1e-15)
    assert float(mean) == pytest.approx(3.7, abs=1e-15)


def test_a_thousandfold_label_loss_changes_neither_total_nor_gradient() -> None:
    total, gradient = problem()
    for scale in (1000.0, 1e-3):
        other, same = problem(scale)
        torch.testing.assert_close(other, total, rtol=1e-14, atol=0)
        torch.testing.assert_close(same, gradient, rtol=1e-12, atol=1e-15)
    exact = problem(1024.0)
    assert torch.equal(exact[0], total)
    assert torch.equal(exact[1], gradient)


def test_unlabelled_rows_change_nothing() -> None:
    for mine, theirs in zip(problem(unlabelled=5), problem(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-15)


def test_gradient_is_weight_times_magnitude_times_that_of_the_logarithm() -> None:
    label = scalar(12.0).requires_grad_()
    magnitude = scalar(0.9).requires_grad_()
    total, mean = hybrid_total(scalar(0.2), magnitude, label, scalar(4.0), 0.5)
    total.backward()
    assert label.grad is not None
    assert float(label.grad) == pytest.approx(0.5 * 0.9 / 12.0, rel=1e-14)
    assert magnitude.grad is None
    assert not mean.requires_grad


@pytest.mark.parametrize(
    ("label_sum", "rows"), [(0.0, 0.0), (5.0, 0.0), (0.0, 3.0), (math.nan, 3.0), (math.inf, 3.0), (1e-320, 3.0)]
)
def test_without_a_usable_label_loss_only_the_pair_is_left(label_sum: float, rows: float) -> None:
    label = scalar(label_sum).requires_grad_()
    pair = scalar(-0.3).requires_grad_()
    total, mean = hybrid_total(pair, pair.abs(), label, scalar(rows), 2.0)
    total.backward()
    assert torch.equal(total.detach(), pair.detach())
    assert label.grad is not None
    assert torch.equal(label.grad, scalar(0.0))
    assert pair.grad is not None
    assert float(pair.grad) == 1.0
    if rows == 0.0:
        assert float(mean) == 0.0
    else:
        assert float(mean) == pytest.approx(label_sum / rows, nan_ok=True)


def test_weight_zero_is_the_pair_alone() -> None:
    label = scalar(4.0).requires_grad_()
    total, _ = hybrid_total(scalar(-0.3), scalar(0.3), label, scalar(2.0), 0.0)
    total.backward()
    assert float(total.detach()) == -0.3
    assert label.grad is not None
    assert float(label.grad) == 0.0


def label_gradient(angle: float, magnitude_of: str) -> float:
    """Size of the label gradient when prediction and target are `angle` apart."""
    prediction = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    pair = 2 * byol_regression(prediction, target).mean()
    magnitudes = {"cosine": negative_cosine(prediction, target).mean().abs(), "loss": pair}
    label = scalar(3.0).requires_grad_()
    hybrid_total(pair, magnitudes[magnitude_of], label, scalar(1.0), 1.0)[0].backward()
    assert label.grad is not None
    return float(label.grad)


def test_near_convergence_the_labels_keep_their_weight() -> None:
    assert label_gradient(0.01, "cosine") == pytest.approx(1 / 3, rel=1e-4)
    assert label_gradient(0.01, "cosine") > label_gradient(1.0, "cosine")


def test_scaling_by_the_regression_loss_would_switch_the_labels_off() -> None:
    assert label_gradient(0.01, "loss") < 1e-3 * label_gradient(0.01, "cosine")
    assert label_gradient(0.01, "loss") < 1e-3 * label_gradient(1.0, "loss")


def test_parts_with_the_global_coefficient_add_up_to_the_whole() -> None:
    sums, rows = [scalar(5.0), scalar(0.0), scalar(7.5)], [scalar(2.0), scalar(0.0), scalar(1.0)]
    coefficient = label_coefficient(scalar(0.8), sum(sums, scalar(0)), sum(rows, scalar(0)), 0.5)
    whole, _ = hybrid_total(scalar(-0.8), scalar(0.8), scalar(12.5), scalar(3.0), 0.5)
    assert float(scalar(-0.8) + sum(coefficient * part for part in sums)) == pytest.approx(float(whole), abs=1e-15)


def test_a_label_loss_below_zero_still_descends() -> None:
    label = scalar(-2.0).requires_grad_()
    hybrid_total(scalar(0.0), scalar(1.0), label, scalar(1.0), 1.0)[0].backward()
    assert label.grad is not None
    assert float(label.grad) == 0.5


def test_nothing_is_read_from_a_device() -> None:
    parts = [torch.ones((), device="meta") for _ in range(4)]
    total, mean = hybrid_total(*parts, 0.5)
    assert total.shape == mean.shape == ()
