"""Transport between instances: the worked numbers, an independent Sinkhorn, its limits, and gradients that are zero."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import cosines, negative_cosine
from sciencessl.losses.transport import scene_marginals, transport_loss, transport_plan

O = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]  # noqa: E741 (the paper's letter)
T = [[0.8, 0.6], [0.0, 1.0], [1.0, 0.0]]
C = [[0.2, 1.0, 0.0], [0.4, 0.0, 1.0], [0.04, 0.2, 0.4]]
B, A = [0.338983, 0.254237, 0.406780], [0.406780, 0.338983, 0.254237]
EVEN = [1 / 3] * 3


def rows(*values: object) -> Tensor:
    return torch.tensor([*values], dtype=torch.float64)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masses(seed: int, *shape: int) -> Tensor:
    return drawn(seed, *shape).softmax(dim=-1)


def numpy_plan(cost: np.ndarray, b: np.ndarray, a: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Sinkhorn-Knopp as published, not in the logarithm."""
    kernel = np.exp(-cost / epsilon)
    v = np.ones(len(b))
    for _ in range(iterations):
        u = a / (kernel.T @ v)
        v = b / (kernel @ u)
    return np.diag(v) @ kernel @ np.diag(u)


def test_costs_and_masses_of_three_instances_by_hand() -> None:
    torch.testing.assert_close(1 - cosines(rows(O), rows(T)), rows(C), atol=1e-12, rtol=0)
    slow, fast = rows([0.8, 0.6]), rows([0.6, 0.8])
    torch.testing.assert_close(scene_marginals(rows(O), [slow, slow]), rows(B), atol=1e-6, rtol=0)
    torch.testing.assert_close(scene_marginals(rows(T), [fast, fast]), rows(A), atol=1e-6, rtol=0)


def test_the_plan_of_three_instances_by_hand() -> None:
    b, a = scene_marginals(rows(O), [rows([0.8, 0.6])]), scene_marginals(rows(T), [rows([0.6, 0.8])])
    plan = transport_plan(rows(C), b, a, 0.1, 50)
    expected = [[0.088032, 0.000041, 0.250910], [0.003324, 0.250910, 0.000003], [0.315423, 0.088033, 0.003324]]
    torch.testing.assert_close(plan, rows(expected), atol=1e-6, rtol=0)
    assert float((plan * rows(C)).sum()) == pytest.approx(0.050533, abs=1e-6)
    assert float(transport_loss(rows(O), rows(T), b, a, 0.1, 50)) == pytest.approx(-0.949466, abs=1e-6)


@pytest.mark.parametrize(("epsilon", "iterations", "cost"), [(0.1, 50, 0.034191), (0.05, 200, 0.0146156)])
def test_even_masses_by_hand(epsilon: float, iterations: int, cost: float) -> None:
    plan = transport_plan(rows(C), rows(EVEN), rows(EVEN), epsilon, iterations)
    assert float((plan * rows(C)).sum()) == pytest.approx(cost, abs=1e-6)


def test_with_little_entropy_it_is_the_best_assignment() -> None:
    costs = np.array(C)
    best = min(itertools.permutations(range(3)), key=lambda order: costs[range(3), order].sum())
    assert best == (2, 1, 0)
    plan = transport_plan(rows(C), rows(EVEN), rows(EVEN), 0.002, 2000)[0]
    expected = np.zeros((3, 3))
    expected[range(3), best] = 1 / 3
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-4)
    assert float((plan * rows(C)[0]).sum()) == pytest.approx(0.0133333, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_published_iteration(seed: int) -> None:
    costs, b, a = drawn(seed, 5, 4, 6).abs(), masses(seed + 10, 5, 4), masses(seed + 20, 5, 6)
    plan = transport_plan(costs, b, a, 0.3, 7)
    for found, *given in zip(plan, costs, b, a, strict=True):
        np.testing.assert_allclose(found.numpy(), numpy_plan(*(x.numpy() for x in given), 0.3, 7), atol=1e-9)


def test_loss_and_masses_are_those_of_a_plain_computation() -> None:
    o, t, f, g = drawn(1, 4, 3, 5), drawn(2, 4, 3, 5), drawn(3, 2, 4, 5), drawn(4, 2, 4, 5)
    b, a = scene_marginals(o, list(g)), scene_marginals(t, list(f))
    found = transport_loss(o, t, b, a, 0.1, 50)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    for i in range(4):
        ours, theirs = unit(o[i].numpy()), unit(t[i].numpy())
        weights = []
        for vectors, scenes in ((ours, g), (theirs, f)):
            positive = np.maximum(vectors @ unit(scenes[:, i].numpy()).mean(axis=0), 0)
            weights.append(positive / positive.sum() if positive.any() else np.full(3, 1 / 3))
        plan = numpy_plan(1 - ours @ theirs.T, *weights, 0.1, 50)
        np.testing.assert_allclose([b[i].numpy(), a[i].numpy()], weights, atol=1e-9)
        assert float(found[i]) == pytest.approx(-(plan * (ours @ theirs.T)).sum(), abs=1e-6)


def test_much_entropy_and_equal_costs_leave_the_product_of_the_masses() -> None:
    b, a = masses(1, 2, 4), masses(2, 2, 4)
    product = b[:, :, None] * a[:, None, :]
    torch.testing.assert_close(transport_plan(drawn(3, 2, 4, 4).abs(), b, a, 1e7, 5), product, atol=1e-6, rtol=0)
    torch.testing.assert_close(transport_plan(torch.full((2, 4, 4), 0.7), b, a, 0.1, 5), product, atol=1e-12, rtol=0)


def test_the_masses_of_rows_are_met_and_those_of_columns_nearly() -> None:
    b, a = masses(1, 3, 4), masses(2, 3, 4)
    plan = transport_plan(drawn(3, 3, 4, 4).abs(), b, a, 0.5, 100)
    torch.testing.assert_close(plan.sum(dim=2), b, atol=1e-12, rtol=0)
    torch.testing.assert_close(plan.sum(dim=1), a, atol=1e-9, rtol=0)
    assert float(plan.min()) >= 0


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6, 1e-8, 1e-20])
def test_the_masses_of_rows_are_met_however_little_entropy_there_is(epsilon: float) -> None:
    """Logarithms of 1e8 are wrong by 8 in single precision: their exponentials would not be masses."""
    o, t, b = drawn(1, 8, 4, 16).float(), drawn(2, 8, 4, 16).float(), masses(3, 8, 4).float()
    plan = transport_plan(1 - cosines(o, t), b, masses(4, 8, 4).float(), epsilon, 50)
    torch.testing.assert_close(plan.sum(dim=2), b)
    assert float(plan.min()) >= 0
    assert float(transport_loss(o, t, b, b, epsilon, 50).abs().max()) <= 1


def test_the_order_of_instances_is_only_that_of_the_plan() -> None:
    o, t, b, a = drawn(1, 2, 4, 5), drawn(2, 2, 4, 5), masses(3, 2, 4), masses(4, 2, 4)
    order, other = [2, 0, 3, 1], [1, 3, 0, 2]
    costs = 1 - cosines(o, t)
    plan = transport_plan(costs, b, a, 0.1, 50)
    moved = transport_plan(costs[:, order][:, :, other], b[:, order], a[:, other], 0.1, 50)
    torch.testing.assert_close(moved, plan[:, order][:, :, other], atol=1e-12, rtol=0)
    loss = transport_loss(o, t, b, a, 0.1, 50)
    torch.testing.assert_close(transport_loss(o[:, order], t[:, other], b[:, order], a[:, other], 0.1, 50), loss)


def test_one_instance_is_one_term_of_byol() -> None:
    o, t = drawn(1, 6, 1, 5), drawn(2, 6, 1, 5)
    one = torch.ones(6, 1, dtype=torch.float64)
    torch.testing.assert_close(transport_loss(o, t, one, one, 0.1, 50), negative_cosine(o[:, 0], t[:, 0]))


def test_masses_that_are_all_zero_become_even_and_some_zeros_stay() -> None:
    """A defect elsewhere: unequal or zero masses become NaN, and a run of 800 epochs ended in its 34th."""
    away = rows([[1.0, 0.0], [0.0, 1.0]])
    assert scene_marginals(away, [rows([-1.0, -1.0])]).tolist() == [[0.5, 0.5]]
    some = scene_marginals(away, [rows([-1.0, 1.0])])
    assert some.tolist() == [[0.0, 1.0]]
    plan = transport_plan(rows([[0.1, 0.5], [0.3, 0.2]]), some, rows([0.25, 0.75]), 0.1, 20)
    torch.testing.assert_close(plan, rows([[0.0, 0.0], [0.25, 0.75]]), atol=1e-12, rtol=0)
    zero = transport_loss(torch.zeros(2, 3, 4, requires_grad=True), torch.zeros(2, 3, 4),
                          *[torch.full((2, 3), 1 / 3)] * 2, 0.1, 50)
    zero.sum().backward()
    assert zero.tolist() == [0.0, 0.0]


def test_nothing_but_the_online_cosines_carries_gradient() -> None:
    o, t, scene = (x.requires_grad_() for x in (drawn(1, 3, 4, 5), drawn(2, 3, 4, 5), drawn(3, 3, 5)))
    b, a = scene_marginals(o, [scene]), scene_marginals(t, [scene])
    plan = transport_plan(1 - cosines(o, t), b, a, 0.1, 50)
    assert not any(found.requires_grad for found in (b, a, plan))
    transport_loss(o, t, b, a, 0.1, 50).sum().backward()
    assert t.grad is None
    assert scene.grad is None
    assert o.grad is not None
    other = o.detach().clone().requires_grad_()
    (-(cosines(other, t.detach()) * plan).sum()).backward()
    torch.testing.assert_close(o.grad, other.grad)


def test_small_precision_computes_in_full_and_stays_finite_where_plain_exponentials_vanish() -> None:
    """exp(-2 / 0.005) is 0 in float32."""
    o = torch.nn.functional.normalize(drawn(1, 2, 3, 8), dim=2).to(torch.bfloat16)
    loss = transport_loss(o, -o, *[torch.full((2, 3), 1 / 3)] * 2, 0.005, 50)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()


@pytest.mark.parametrize(("epsilon", "iterations", "masses_of"), [(0.0, 5, 3), (-1.0, 5, 3), (0.1, 0, 3), (0.1, 5, 2)])
def test_what_it_cannot_transport_is_refused(epsilon: float, iterations: int, masses_of: int) -> None:
    even = torch.full((1, masses_of), 1 / masses_of)
    with pytest.raises(ConfigError, match=r"transport: epsilon is .*expected an epsilon above 0, 1 iteration or more"):
        transport_plan(rows(C), even, even, epsilon, iterations)
