"""The numbers are those of the card of arXiv 2307.13813, worked with NumPy before this code was written."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.errors import ConfigError
from sciencessl.optim.scaling import Hyperparameters, scale_hyperparameters, scaled_momentum
from sciencessl.optim.schedules import SCALING_RULES, ScalingRule
from sciencessl.optim.target import update_target

ADAM = Hyperparameters(4096, 1e-3, 0.996, 0.05, (0.9, 0.999), 1e-8, steps=312784.0, warmup=3127.0)
BYOL = Hyperparameters(4096, 3.2, 0.996, 1.5e-6, steps=1000.0, warmup=10.0)


def numbers(found: Hyperparameters) -> list[float]:
    values = dataclasses.asdict(found)
    return [x for value in values.values() for x in (value if isinstance(value, tuple) else (value,))]


@pytest.mark.parametrize(
    ("tau", "kappa", "expected"),
    [
        (0.996, 6, 0.976239), (0.99, 4, 0.960596), (0.996, 1 / 8, 0.999499), (0.996, 8, 0.968444),
        (0.996, 1 / 16, 0.999750),
    ],
)  # fmt: skip
def test_card_number_1(tau: float, kappa: float, expected: float) -> None:
    assert scaled_momentum(tau, kappa) == pytest.approx(expected, abs=5e-7)


def test_the_power_is_not_its_first_order() -> None:
    assert 1 - scaled_momentum(0.996, 6) == pytest.approx(0.02376, abs=5e-6)
    first_order = 6 * (1 - 0.996)
    assert first_order == pytest.approx(0.024)


Pair = tuple[float, float]


def averaged(tau: float, steps: int, drift: float = 0.0, start: Pair = (1.0, 2.0)) -> Pair:
    """Target and online after steps of a drift, with the function that training uses."""
    target, online = (torch.tensor([value], dtype=torch.float64) for value in start)
    for _ in range(steps):
        online += drift
        update_target([target], [online], tau)
    return float(target), float(online)


def test_card_number_2() -> None:
    small, _ = averaged(0.996, 6)
    large, _ = averaged(scaled_momentum(0.996, 6), 1)
    assert small == pytest.approx(1.0237612762, abs=1e-10)
    assert large == pytest.approx(small, abs=1e-12)


@settings(max_examples=30)
@given(st.floats(0.95, 1.0), st.integers(1, 8))
def test_one_scaled_update_is_many_small_ones_where_weights_stand_still(tau: float, kappa: int) -> None:
    assert averaged(scaled_momentum(tau, kappa), 1)[0] == pytest.approx(averaged(tau, kappa)[0], abs=1e-12)


def test_card_number_3() -> None:
    for base, rule in ((ADAM, "sqrt"), (BYOL, "linear"), (BYOL, "none")):
        twice = scale_hyperparameters(scale_hyperparameters(base, 2, rule), 3, rule)
        assert numbers(twice) == pytest.approx(numbers(scale_hyperparameters(base, 6, rule)), rel=1e-12)


def lag(tau: float, steps: int, kappa: int) -> float:
    target, online = averaged(tau, steps, -0.01 * kappa, start=(0.0, 0.0))
    return abs(online - target)


def test_card_number_4() -> None:
    """A constant gradient: the target stays as far behind, in samples, only where its momentum is scaled."""
    small = lag(0.996, 6000, 1)
    assert small == pytest.approx(2.490000, abs=5e-7)
    assert lag(scaled_momentum(0.996, 6), 1000, 6) == pytest.approx(2.465117, abs=5e-7)
    assert lag(scaled_momentum(0.996, 6), 1000, 6) == pytest.approx(small, rel=0.03)
    unscaled = lag(0.996, 1000, 6)
    assert unscaled == pytest.approx(14.67, abs=5e-3)
    assert unscaled != pytest.approx(small, rel=0.03)


@pytest.mark.parametrize("rule", SCALING_RULES)
def test_card_number_5(rule: ScalingRule) -> None:
    for base in (ADAM, BYOL, dataclasses.replace(ADAM, tau=0.1)):
        assert scale_hyperparameters(base, 1, rule) == base


@given(st.floats(1 / 16, 8.0), st.sampled_from(SCALING_RULES))
def test_card_number_6(kappa: float, rule: ScalingRule) -> None:
    found = scale_hyperparameters(ADAM, kappa, rule)
    assert found.batch * found.steps == pytest.approx(ADAM.batch * ADAM.steps)
    assert found.batch * found.warmup == pytest.approx(ADAM.batch * ADAM.warmup)


def test_the_table_of_the_card() -> None:
    assert scale_hyperparameters(BYOL, 4, "linear") == Hyperparameters(
        16384, 4 * 3.2, 0.996**4, 1.5e-6, (0.9, 0.999), 1e-8, 250.0, 2.5
    )
    found = scale_hyperparameters(ADAM, 4, "sqrt")
    expected = Hyperparameters(16384, 2e-3, 0.996**4, 0.1, (0.6, 0.996), 5e-9, 78196.0, 781.75)
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-12)
    assert scale_hyperparameters(ADAM, 4, "none") == dataclasses.replace(
        ADAM, batch=16384, tau=0.996**4, steps=78196.0, warmup=781.75
    )
    assert ADAM.batch * 6 == 24_576  # the headline of the abstract is kappa = 6


@pytest.mark.parametrize("rule", ["linear", "sqrt"])
def test_weight_decay_shrinks_by_as_much_an_epoch(rule: ScalingRule) -> None:
    """torch's AdamW without a gradient: four small steps, or one scaled one, up to second order in lr * decay."""

    def shrunk(by: Hyperparameters, steps: int) -> float:
        weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.AdamW([weight], by.learning_rate, by.betas, by.eps, by.weight_decay)
        for _ in range(steps):
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
        return 1 - float(weight.detach())

    small = shrunk(ADAM, 4)
    assert small == pytest.approx(4 * 1e-3 * 0.05, rel=1e-3)
    scaled = scale_hyperparameters(ADAM, 4, rule)
    assert shrunk(scaled, 1) == pytest.approx(small, rel=1e-3)
    if rule == "sqrt":
        assert shrunk(dataclasses.replace(scaled, weight_decay=0.05), 1) == pytest.approx(small / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("tau", "kappa", "said"),
    [
        (1.1, 2, r"tau 1.1 scaled by 2; expected tau in \[0, 1\]"),
        (float("nan"), 2, "tau nan"),
        (0.996, 0, "a ratio above 0"),
        (0.996, 8.5, "8.5 times the one that tau 0.996 belongs to; .* from 1/16 to 8 times"),
        (0.996, 1 / 17, "the batch is 1/17 of the one"),
        (0.9, 8, "tau 0.9 becomes 0.43 at 8 times its batch, below 0.5"),
        (0.0, 0.5, "becomes 0 at"),
    ],
)
def test_a_momentum_that_cannot_be_scaled_is_refused(tau: float, kappa: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scaled_momentum(tau, kappa)


def test_a_fixed_target_and_an_unchanged_batch_need_no_bounds() -> None:
    assert scaled_momentum(1.0, 100) == 1.0
    assert scaled_momentum(0.2, 1) == 0.2


def test_other_bad_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="ratio of batches is -1"):
        scale_hyperparameters(ADAM, -1, "none")
    with pytest.raises(ConfigError, match="ratio of batches is inf"):
        scale_hyperparameters(ADAM, math.inf, "none")
    with pytest.raises(ConfigError, match=r"beta 0.9 becomes -0.1 at 11 times its batch.*optim.reference_batch"):
        scale_hyperparameters(dataclasses.replace(ADAM, tau=1.0), 11, "sqrt")
    with pytest.raises(ConfigError, match="Did you mean 'sqrt'"):
        scale_hyperparameters(ADAM, 2, "sqr")  # type: ignore[arg-type]
