from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciencessl.data.order import Order
from sciencessl.data.phases import ONE, Phases, check_phases, make_phases
from sciencessl.errors import ConfigError


def test_a_batch_that_stays_takes_one_a_step() -> None:
    assert make_phases([], 32, 160) == ONE
    assert [(ONE.factor(k), ONE.before(k), ONE.batches(k), ONE.steps(k)) for k in (0, 7)] == [
        (1, 0, range(1), 0), (1, 7, range(7, 8), 7)
    ]  # fmt: skip


def test_phases_by_hand() -> None:
    """Batch 32 for 5 epochs of 160: 25 steps. Batch 64 to epoch 10.2, 1632 samples or 51 batches: 13 steps to batch 51.
    Then four batches a step: 98 batches hold 11 whole ones, and 3 are left."""
    found = make_phases([(5, 64), (10.2, 128)], 32, 160)
    assert found == Phases((1, 2, 4), (0, 25, 38), (0, 25, 51))
    assert [found.factor(k) for k in (0, 24, 25, 37, 38, 100)] == [1, 1, 2, 2, 4, 4]
    assert [found.before(k) for k in (0, 25, 26, 38, 39)] == [0, 25, 27, 51, 55]
    assert (found.batches(24), found.batches(25), found.batches(38)) == (range(24, 25), range(25, 27), range(51, 55))
    assert [found.steps(k) for k in (0, 25, 26, 27, 51, 54, 55, 98)] == [0, 25, 25, 26, 38, 38, 39, 49]


def test_a_phase_starts_with_the_first_step_that_begins_at_its_epoch_or_later() -> None:
    assert make_phases([(1, 64)], 100, 160).first_steps == (0, 2)
    assert make_phases([(1, 200), (2, 400)], 100, 110) == Phases((1, 2, 4), (0, 2, 3), (0, 2, 4))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 5)), max_size=4, unique_by=lambda x: x[0]), st.data())
def test_steps_take_all_batches_in_order_and_none_twice(drawn: list[tuple[int, int]], data: st.DataObject) -> None:
    phases = [(float(epoch), 8 * factor) for epoch, factor in sorted(drawn)]
    check_phases(phases, 8)
    found = make_phases(phases, 8, 40 * 5)  # 25 batches an epoch, so a step of any size fits into each phase
    steps = data.draw(st.integers(1, 1700))
    taken = [number for step in range(steps) for number in found.batches(step)]
    assert taken == list(range(found.before(steps)))
    assert found.steps(len(taken)) == steps
    assert found.steps(found.before(steps) - 1) == steps - 1


@pytest.mark.parametrize("world", [1, 2, 4])
def test_each_sample_still_comes_once_an_epoch_for_any_world(world: int) -> None:
    order, found = Order(96, seed=3, batch=8), make_phases([(0.5, 16), (1.5, 32)], 8, 96)
    seen = []
    for step in range(found.steps(4 * 96 // 8)):
        ranks = [
            np.concatenate([order.rank_slice(number, rank, world) for number in found.batches(step)])
            for rank in range(world)
        ]
        whole = np.concatenate([order.positions(number) for number in found.batches(step)])
        assert sorted(np.concatenate(ranks)) == sorted(whole)
        seen.append(whole)
    samples = np.concatenate(seen)
    assert len(samples) >= 3 * 96
    for epoch in range(3):
        assert sorted(samples[epoch * 96 : (epoch + 1) * 96]) == list(range(96))


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([(0, 64)], "from epoch 0 after one from epoch 0; they have to come in order"),
        ([(5, 64), (5, 128)], "from epoch 5 after one from epoch 5"),
        ([(5, 64), (3, 128)], r"from epoch 3 after one .* begins with batch=32.*\[\[10, 64\], \[20, 128\]\]"),
        ([(float("nan"), 64)], "have to come in order"),
        ([(1, 48)], "48 samples a step from epoch 1 on; it must be a multiple of batch=32"),
        ([(1, 0)], "0 samples a step"),
        ([(1, -32)], "-32 samples a step"),
    ],
)
def test_phases_that_are_none_are_refused(phases: list[tuple[float, int]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_phases(phases, 32)


def test_phases_closer_than_a_step_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no step of 64 samples fits before the phase from epoch 1\.001 on, with ep"):
        make_phases([(1, 64), (1.001, 128)], 32, 160)
