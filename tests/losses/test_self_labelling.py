"""Masks and means of pairs of samples: the numbers of CCSL's card, and the edges where nothing is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.losses.regression import cosines
from sciencessl.losses.self_labelling import best_of_row, choose_pairs, chosen_mean

P = torch.tensor([[1.0, 0.0], [0.9, 0.4], [0.0, 1.0]], dtype=torch.float64)
T = torch.tensor([[1.0, 0.1], [1.0, 0.3], [0.1, 1.0]], dtype=torch.float64)
S = [[0.995037, 0.957826, 0.099504], [0.949689, 0.991976, 0.495051], [0.099504, 0.287348, 0.995037]]


def at(mask: Tensor) -> set[tuple[int, ...]]:
    return {tuple(place) for place in mask.nonzero().tolist()}


def test_the_matrix_is_that_of_the_card() -> None:
    found = cosines(P, T)
    np.testing.assert_allclose(found, S, atol=5e-7)
    torch.testing.assert_close(cosines(7 * P, 0.1 * T), found)


def test_masks_and_losses_are_those_of_the_card() -> None:
    found = cosines(P, T)
    alike, unlike = choose_pairs(found, 0.8, 0.2)
    assert (at(alike), at(unlike)) == ({(0, 1), (1, 0)}, {(0, 2), (2, 0)})
    assert float((2 - 2 * found.diagonal()).mean()) == pytest.approx(0.0119666, abs=5e-8)
    assert float(chosen_mean(2 - 2 * found, alike)) == pytest.approx(0.0924850, abs=5e-8)
    assert float(chosen_mean(found.clamp(min=0), unlike)) == pytest.approx(0.0995037, abs=5e-8)


def test_a_sample_is_no_pair_with_itself_wherever_its_column_is() -> None:
    scores = torch.ones(2, 5)
    for first in (0, 2, 3):
        alike, unlike = choose_pairs(scores, 0.5, 1.0, first)
        want = {(row, column) for row in range(2) for column in range(5) if column != first + row}
        assert at(alike) == at(unlike) == want


def test_the_order_of_a_batch_orders_the_masks() -> None:
    order = torch.tensor([2, 0, 1])
    masks = choose_pairs(cosines(P, T), 0.8, 0.2)
    for mask, moved in zip(masks, choose_pairs(cosines(P[order], T[order]), 0.8, 0.2), strict=True):
        assert torch.equal(moved, mask[order][:, order])


def test_thresholds_are_met_by_equality() -> None:
    alike, unlike = choose_pairs(torch.tensor([[0.0, 0.8], [0.2, 0.0]], dtype=torch.float64), 0.8, 0.2)
    assert (at(alike), at(unlike)) == ({(0, 1)}, {(1, 0)})


def test_no_pair_costs_zero_and_has_zero_gradient() -> None:
    """A defect elsewhere: the mean of an empty selection is NaN, and one batch without pairs ends a run."""
    found = cosines(P, T).requires_grad_()
    alike, _ = choose_pairs(found, 1.01, 0.2)
    loss = chosen_mean(2 - 2 * found, alike)
    loss.backward()
    assert loss.item() == 0
    assert found.grad is not None
    assert not found.grad.any()


def test_gradient_reaches_chosen_predictions_alone() -> None:
    p = P.clone().requires_grad_()
    found = cosines(p, T)
    alike, _ = choose_pairs(found, 0.8, 0.2)
    assert not alike.requires_grad
    chosen_mean(2 - 2 * found, alike).backward()
    assert p.grad is not None
    assert p.grad[:2].any(dim=1).all()
    assert not p.grad[2].any()


def test_a_mean_over_pairs_of_several_processes_divides_by_all_of_them() -> None:
    costs, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]])
    assert chosen_mean(costs, mask, torch.tensor(6)).item() == pytest.approx(0.5)


def test_the_best_of_a_row_stay() -> None:
    scores = torch.tensor([[0.9, 0.95, 0.1, 0.85], [0.3, 0.2, 0.1, 0.0], [0.1, 0.2, 0.9, 0.3]])
    mask = scores >= 0.25
    assert at(best_of_row(scores, mask, 1)) == {(0, 1), (1, 0), (2, 2)}
    assert at(best_of_row(scores, mask, 2)) == {(0, 0), (0, 1), (1, 0), (2, 2), (2, 3)}
    for most in (0, 4, 9):
        assert torch.equal(best_of_row(scores, mask, most), mask)
    ties = best_of_row(torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool), 2)
    assert ties.sum(dim=1).tolist() == [2, 2, 2]


def test_a_sigmoid_of_a_cosine_reaches_neither_threshold() -> None:
    """In [0.268941, 0.731059], so that both masks of CSSL would be empty; five times a cosine is enough."""
    ends = torch.sigmoid(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    np.testing.assert_allclose(ends, [0.268941, 0.731059], atol=5e-7)
    extremes = cosines(torch.cat([P, -P]), torch.cat([P, -P]))
    assert not any(mask.any() for mask in choose_pairs(torch.sigmoid(extremes), 0.8, 0.2))
    assert all(mask.any() for mask in choose_pairs(torch.sigmoid(5 * extremes), 0.8, 0.2))
    assert math.log(4) == pytest.approx(1.386, abs=5e-4)
