from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciencessl.errors import ConfigError
from sciencessl.optim.schedules import epochs_to_steps, peak_learning_rate, target_momentum, warmup_cosine

IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.996), (25, 0.996586), (50, 0.998), (75, 0.999414), (100, 1.0)]
)
def test_card_number_4(step: int, expected: float) -> None:
    assert target_momentum(step, 100, 0.996) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.999), (25, 0.9991464), (50, 0.9995), (75, 0.9998536), (100, 1.0)]
)
def test_momentum_without_batch_statistics(step: int, expected: float) -> None:
    """Base 0.999, as arXiv 2010.10241 takes it with group norm and standardised weights."""
    assert target_momentum(step, 100, 0.999) == pytest.approx(expected, abs=5e-8)


def test_the_last_momentum_is_exactly_one_and_constant_is_constant() -> None:
    assert target_momentum(312784, 312784, 0.996) == 1.0
    assert {target_momentum(step, 10, 0.99, "constant") for step in range(11)} == {0.99}


def test_card_number_8() -> None:
    assert epochs_to_steps(1000, IMAGENET, 4096) == 312784
    assert epochs_to_steps(10, IMAGENET, 4096) == 3127


def test_rate_and_warm_up_without_batch_statistics() -> None:
    """arXiv 2010.10241: base rate 0.24 with group norm, and 50 epochs of warm-up without any norm."""
    assert peak_learning_rate(0.24, 4096) == pytest.approx(3.84, abs=1e-15)
    assert epochs_to_steps(50, IMAGENET, 4096) == 15639


def test_seer_sees_a_billion_images_once() -> None:
    """124,500 steps of 496 GPUs with 16 images each; the whole epoch is 126k, of which 4.3648 % are warm-up."""
    assert epochs_to_steps(1, 988_032_000, 496 * 16) == 124_500
    assert epochs_to_steps(1, 988_031_999, 496 * 16) == 124_499
    steps = epochs_to_steps(1, 10**9, 496 * 16)
    assert round(steps, -3) == 126_000
    assert round(0.043648 * steps) == 5_500
    assert peak_learning_rate(0.3, 496 * 16) == pytest.approx(9.3)
    assert peak_learning_rate(0.3, 512 * 16) == pytest.approx(9.6)


def test_the_published_learning_rate() -> None:
    peak = peak_learning_rate(0.2, 4096)
    assert peak == pytest.approx(3.2, abs=1e-15)
    assert warmup_cosine(0, 3127, 312784, peak) == 0.0
    assert warmup_cosine(1, 3127, 312784, peak) == pytest.approx(3.2 / 3127, rel=1e-14)
    assert warmup_cosine(3127, 3127, 312784, peak) == peak
    assert warmup_cosine(312784, 3127, 312784, peak) == 0.0


def test_cosine_halfway_and_at_a_quarter() -> None:
    assert warmup_cosine(60, 20, 100, 2.0) == pytest.approx(1.0, abs=1e-15)
    assert warmup_cosine(40, 20, 100, 2.0) == pytest.approx(1.0 + math.sqrt(0.5), abs=1e-14)
    assert warmup_cosine(10, 20, 100, 2.0) == 1.0


def test_the_published_end_of_seer_and_a_constant_rate() -> None:
    peak = peak_learning_rate(0.3, 7936)
    assert peak == pytest.approx(9.3, rel=1e-15)
    assert warmup_cosine(124500, 5434, 124500, peak, 0.001) == pytest.approx(0.0093, rel=1e-12)
    assert warmup_cosine(60, 20, 100, 2.0, 0.25) == pytest.approx(1.25, abs=1e-15)
    assert warmup_cosine(10, 20, 100, 2.0, 0.25) == 1.0
    assert {warmup_cosine(step, 20, 100, 2.0, 1.0) for step in range(20, 101)} == {2.0}


def test_runs_without_and_with_only_warm_up() -> None:
    assert warmup_cosine(0, 0, 10, 2.0) == 2.0
    assert [warmup_cosine(step, 4, 4, 2.0) for step in range(5)] == [0.0, 0.5, 1.0, 1.5, 2.0]


@given(st.integers(1, 5000), st.data())
def test_schedules_are_monotone_within_their_range(total: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, total))
    step = data.draw(st.integers(0, total - 1))
    assert 0.9 <= target_momentum(step, total, 0.9) <= target_momentum(step + 1, total, 0.9) <= 1.0
    now, after = (warmup_cosine(k, warmup, total, 3.0) for k in (step, step + 1))
    assert 0.0 <= min(now, after) <= max(now, after) <= 3.0
    assert (after >= now) if step < warmup else (after <= now)


@pytest.mark.parametrize(("step", "total"), [(0, 0), (0, -1), (-1, 10), (11, 10)])
def test_steps_outside_the_run_are_refused(step: int, total: int) -> None:
    with pytest.raises(ConfigError):
        target_momentum(step, total, 0.99)
    with pytest.raises(ConfigError):
        warmup_cosine(step, 0, total, 1.0)


def test_other_bad_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="base"):
        target_momentum(0, 10, 1.1)
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        target_momentum(0, 10, 0.9, "cosin")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="warm-up"):
        warmup_cosine(0, 11, 10, 1.0)
    with pytest.raises(ConfigError, match="peak"):
        warmup_cosine(0, 1, 10, float("nan"))
    for final in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="final learning rate"):
            warmup_cosine(0, 1, 10, 1.0, final)
    with pytest.raises(ConfigError, match="batch"):
        peak_learning_rate(0.2, 0)
    with pytest.raises(ConfigError, match="samples"):
        epochs_to_steps(1, 0, 4)
