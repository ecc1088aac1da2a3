"""The ER estimators against the numbers of the method card, closed forms, SciPy and plain NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive, logsumexp

from sciencessl.errors import ConfigError
from sciencessl.losses.entropy import (
    Estimator,
    discrete_entropy,
    discrete_reconstruction,
    log_bessel,
    sphere_entropy,
    sphere_reconstruction,
    vmf_constant,
)

BOTH: tuple[Estimator, ...] = ("expectation", "average")
CROSS = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], dtype=torch.float64)
"""Card number 5: +-e1 and +-e2."""


def directions(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(size=(count, dimensions))
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def plain_entropy(rows: np.ndarray, kappa: float, estimator: Estimator) -> float:
    """From the density itself, c left out, for rows of any length."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    log_density = logsumexp(kappa * unit @ unit.T, axis=1) - math.log(len(unit))
    if estimator == "average":
        return float(-log_density.mean())
    weights = np.exp(log_density - logsumexp(log_density))
    return float(-(weights * log_density).sum())


def floored_constant(dimensions: int, kappa: float) -> float:
    """c as the released code has it: 1e-7 is added to a Bessel function that is far smaller in many dimensions."""
    bessel = math.exp(log_bessel(dimensions / 2 - 1, kappa))
    return -math.log(kappa) * (dimensions / 2 - 1) + dimensions / 2 * math.log(2 * math.pi) + math.log(bessel + 1e-7)


def loss(first: torch.Tensor, second: torch.Tensor, estimator: Estimator) -> float:
    return float(sphere_reconstruction(first, second).mean() - sphere_entropy(second, estimator=estimator))


@pytest.mark.parametrize("estimator", BOTH)
def test_card_number_1_the_published_example(estimator: Estimator) -> None:
    entropy = float(sphere_entropy(directions(1000, 1000), estimator=estimator))
    assert entropy + floored_constant(1000, 10) == pytest.approx(-249.3083, abs=5e-4)


def test_card_number_2_the_constant_in_three_dimensions_is_known() -> None:
    assert vmf_constant(3, 10) == pytest.approx(9.535292, abs=5e-7)
    assert vmf_constant(3, 10) == pytest.approx(-math.log(10 / (4 * math.pi * math.sinh(10))), rel=1e-13)


def test_card_number_3_an_even_sphere_has_the_log_of_its_area() -> None:
    """Less a little, because each point is its own neighbour: log(1 + 20 / N)."""
    found = float(sphere_entropy(directions(3000, 3))) + vmf_constant(3, 10)
    assert found == pytest.approx(2.5244, abs=2e-3)
    assert found == pytest.approx(math.log(4 * math.pi) - math.log1p(20 / 3000), abs=2e-3)


@pytest.mark.parametrize("estimator", BOTH)
def test_card_number_4_a_collapsed_batch(estimator: Estimator) -> None:
    rows = directions(1, 3).expand(6, 3)
    assert float(sphere_entropy(rows, estimator=estimator)) == pytest.approx(-10, abs=1e-12)
    assert float(sphere_entropy(rows, estimator=estimator)) + vmf_constant(3, 10) == pytest.approx(-0.464708, abs=5e-7)
    assert loss(rows, rows, estimator) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("estimator", BOTH)
def test_card_number_5_four_directions(estimator: Estimator) -> None:
    c = vmf_constant(3, 10)
    assert float(sphere_entropy(CROSS, estimator=estimator)) + c == pytest.approx(0.921495, abs=1e-6)
    assert float(sphere_reconstruction(CROSS, CROSS).mean()) + c == pytest.approx(-0.464708, abs=5e-7)
    assert loss(CROSS, CROSS, estimator) == pytest.approx(-1.386204, abs=1e-6)
    assert loss(CROSS, CROSS, estimator) > -math.log(4)


def test_card_number_6_two_choices_of_two_clusters() -> None:
    first, second = torch.tensor([[0.7, 0.3]]).double(), torch.tensor([[0.2, 0.8]]).double()
    assert float(discrete_entropy(torch.cat([first, second]))) == pytest.approx(0.688139, abs=1e-6)
    assert float(discrete_reconstruction(first, second)) == pytest.approx(1.114031, abs=1e-6)
    assert torch.equal(discrete_reconstruction(first, second), discrete_reconstruction(second, first))


def test_card_number_7_all_clusters_alike_and_one_alone() -> None:
    assert float(discrete_entropy(torch.full((3, 1000), 1e-3).double())) == pytest.approx(math.log(1000), abs=2e-4)
    assert float(discrete_entropy(torch.eye(1000).double())) == pytest.approx(6.907755, abs=2e-4)
    one = torch.eye(1000, dtype=torch.float64)[:1].expand(5, -1)
    assert float(discrete_entropy(one)) == pytest.approx(0, abs=2e-7)
    assert float(discrete_reconstruction(one, one).sum()) == pytest.approx(0, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 200), st.sampled_from(BOTH))
def test_card_number_8_rotation_order_and_length_change_nothing(seed: int, kappa: float, estimator: Estimator) -> None:
    rng = np.random.default_rng(seed)
    rows, others = (torch.from_numpy(rng.normal(size=(7, 4))) for _ in range(2))
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(4, 4)))[0])
    lengths = torch.from_numpy(rng.uniform(0.01, 100, size=(7, 1)))
    order = torch.from_numpy(rng.permutation(7))
    want = sphere_entropy(rows, kappa, estimator)
    for changed in (rows @ turn, rows * lengths, rows[order]):
        torch.testing.assert_close(sphere_entropy(changed, kappa, estimator), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        sphere_reconstruction(rows @ turn * lengths, others @ turn, kappa),
        sphere_reconstruction(rows, others, kappa), rtol=1e-9, atol=1e-9,
    )
    assert -kappa - 1e-9 <= float(want) <= math.log(7) - kappa + 1e-9
    found = float((sphere_reconstruction(rows, rows, kappa)).mean() - sphere_entropy(rows, kappa, "average"))
    assert -math.log(7) - 1e-9 <= found <= 1e-9


@pytest.mark.parametrize(("count", "shown"), [(4096, -45.48), (512, -47.35)])
def test_card_number_9_the_levels_of_the_paper(count: int, shown: float) -> None:
    c = floored_constant(128, 10)
    assert c == pytest.approx(-43.5568, abs=5e-5)
    even = c - math.log((math.exp(10) + (count - 1) * math.exp(100 / 256)) / count)
    assert even == pytest.approx(shown, abs=6e-3)
    drawn = directions(count, 128).float()
    assert float(sphere_entropy(drawn)) + c == pytest.approx(even, abs=0.02)


def test_card_number_9_a_collapse_in_256_dimensions() -> None:
    c = floored_constant(256, 10)
    assert c == pytest.approx(-73.2981, abs=5e-5)
    assert float(sphere_entropy(torch.ones(8, 256))) + c == pytest.approx(-83.30, abs=5e-3)


@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize("kappa", [0.5, 10.0, 60.0])
def test_values_and_gradients_equal_plain_numpy(kappa: float, estimator: Estimator) -> None:
    """Differences of the whole formula: the weights of the plug-in estimator learn as well."""
    rows = np.random.default_rng(3).normal(size=(6, 3))
    points = torch.from_numpy(rows).requires_grad_()
    entropy = sphere_entropy(points, kappa, estimator)
    assert float(entropy.detach()) == pytest.approx(plain_entropy(rows, kappa, estimator), rel=1e-12)
    (gradient,) = torch.autograd.grad(entropy, points)
    step = 1e-5
    for place in np.ndindex(rows.shape):
        ends = []
        for sign in (1, -1):
            moved = rows.copy()
            moved[place] += sign * step
            ends.append(plain_entropy(moved, kappa, estimator))
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-7 * max(kappa, 1))


@pytest.mark.parametrize("estimator", BOTH)
def test_it_spreads_a_batch_and_cannot_undo_a_full_collapse(estimator: Estimator) -> None:
    alive = directions(6, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(sphere_entropy(alive, estimator=estimator), alive)
    assert float(gradient.norm(dim=1).min()) > 1e-4
    with torch.no_grad():
        spread = sphere_entropy(alive + 0.01 * gradient, estimator=estimator)
        assert float(spread) > float(sphere_entropy(alive, estimator=estimator))
    collapsed = (torch.eye(4, dtype=torch.float64)[:1] * 3).repeat(6, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(sphere_entropy(collapsed, estimator=estimator), collapsed)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_reconstruction_alone_is_least_where_the_entropy_is_too() -> None:
    one, other = torch.ones(4, 3), directions(4, 3).float()
    assert float(sphere_reconstruction(one, one).mean()) == pytest.approx(-10)
    assert float(sphere_reconstruction(other, other).mean()) == pytest.approx(-10)
    assert float(sphere_entropy(one)) == pytest.approx(-10)
    assert float(sphere_entropy(other)) > -9


@pytest.mark.parametrize("order", [0, 0.5, 1, 3.5, 20])
@pytest.mark.parametrize("x", [1e-3, 0.7, 10.0, 300.0, 2000.0])
def test_the_logarithm_of_the_bessel_function_equals_scipys(order: float, x: float) -> None:
    scaled = float(ive(order, x))
    if scaled > 1e-290:
        assert log_bessel(order, x) == pytest.approx(math.log(scaled) + x, rel=1e-12, abs=1e-10)


def test_the_bessel_function_is_known_where_it_is_too_small_for_a_number() -> None:
    # A defect elsewhere: 1e-7 is added before the logarithm, which then is -16.118.
    assert ive(499, 10) == 0
    assert log_bessel(499, 10) == pytest.approx(-1801.956, abs=5e-4)
    assert floored_constant(1000, 10) - vmf_constant(1000, 10) == pytest.approx(-16.118 + 1801.956, abs=2e-3)


@pytest.mark.parametrize("estimator", BOTH)
def test_low_precision_is_raised_before_the_kernel(estimator: Estimator) -> None:
    points = directions(32, 16).to(torch.bfloat16)
    want = sphere_entropy(points.double(), estimator=estimator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sphere_entropy(points, estimator=estimator)
        chosen = points.softmax(dim=1)
        kinds = {discrete_entropy(chosen).dtype, discrete_reconstruction(chosen, chosen).dtype, found.dtype}
    assert kinds == {torch.float32}
    assert float(found) == pytest.approx(float(want), abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sphere_entropy(CROSS, 0.0), r"kappa is 0\.0; it must be above 0"),
        (lambda: sphere_entropy(CROSS, math.nan), "kappa is nan"),
        (lambda: sphere_entropy(CROSS, 1.0, "avarage"), "no entropy estimator named 'avarage'.*average"),
        (lambda: sphere_reconstruction(CROSS, CROSS[:2]), "they must be equal"),
        (lambda: discrete_reconstruction(CROSS, CROSS[:2]), r"\(4, 3\) and \(2, 3\) probabilities"),
        (lambda: log_bessel(-1, 1.0), "order -1 at 1.0; the order must be 0 or more"),
        (lambda: log_bessel(1, math.inf), "x finite and above 0"),
        (lambda: vmf_constant(1, 1.0), r"order -0\.5"),
        (lambda: vmf_constant(3, 0.0), "above 0"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
