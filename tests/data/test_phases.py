from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciencessl.data.order import Order
from sciencessl.data.phases import ONE, Phases, make_phases, read_phases
from sciencessl.errors import ConfigError


def test_a_batch_that_stays_takes_one_a_step() -> None:
    assert make_phases([], 32, 160) == ONE
    assert [(ONE.factor(k), ONE.before(k), ONE.batches(k), ONE.steps(k)) for k in (0, 7)] == [
        (1, 0, range(1), 0), (1, 7, range(7, 8), 7)
    ]  # fmt: skip


def test_phases_by_hand() -> None:
    """Batch 32 for 5 epochs of 160: 25 steps. Batch 64 to epoch 10.2, 1632 samples or 51 batches: 13 steps to batch 51.
    Then four batches a step: 98 batches hold 11 whole ones, and 3 are left."""
    found = make_phases(["64@5", "128@10.2"], 32, 160)
    assert found == Phases((1, 2, 4), (0, 25, 38), (0, 25, 51))
    assert [found.factor(k) for k in (0, 24, 25, 37, 38, 100)] == [1, 1, 2, 2, 4, 4]
    assert [found.before(k) for k in (0, 25, 26, 38, 39)] == [0, 25, 27, 51, 55]
    assert (found.batches(24), found.batches(25), found.batches(38)) == (range(24, 25), range(25, 27), range(51, 55))
    assert [found.steps(k) for k in (0, 25, 26, 27, 51, 54, 55, 98)] == [0, 25, 25, 26, 38, 38, 39, 49]


def test_a_phase_starts_with_the_first_step_that_begins_at_its_epoch_or_later() -> None:
    assert make_phases(["200@1"], 100, 160).first_steps == (0, 2)
    assert make_phases(["200@1", "400@2"], 100, 110) == Phases((1, 2, 4), (0, 2, 3), (0, 2, 4))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 5)), max_size=4, unique_by=lambda x: x[0]), st.data())
def test_steps_take_all_batches_in_order_and_none_twice(drawn: list[tuple[int, int]], data: st.DataObject) -> None:
    # 25 batches an epoch, so that a step of any size fits into each phase
    found = make_phases([f"{8 * factor}@{epoch}" for epoch, factor in sorted(drawn)], 8, 40 * 5)
    steps = data.draw(st.integers(1, 1700))
    taken = [number for step in range(steps) for number in found.batches(step)]
    assert taken == list(range(found.before(steps)))
    assert found.steps(len(taken)) == steps
    assert found.steps(found.before(steps) - 1) == steps - 1


@pytest.mark.parametrize("world", [1, 2, 4])
def test_each_sample_still_comes_once_an_epoch_for_any_world(world: int) -> None:
    order, found = Order(96, seed=3, batch=8), make_phases(["16@0.5", "32@1.5"], 8, 96)
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


def test_words_say_batch_and_epoch() -> None:
    assert read_phases(["64@5", "128@10.25"], 32) == [(5.0, 64), (10.25, 128)]
    assert read_phases([], 32) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["64"], r"phases has '64'; expected BATCH@EPOCH. Fix: write 64@10 for 64 samples a step from epoch 10 on"),
        (["-64@5"], "expected BATCH@EPOCH"),
        (["64@nan"], "expected BATCH@EPOCH"),
        (["64@0"], r"phases has 64@0 after the start; epochs must be above 0 and rise. Fix: .*batch=32"),
        (["64@5", "128@5"], "phases has 128@5 after epoch 5"),
        (["64@5", "128@3"], "phases has 128@3 after epoch 5"),
        (["80@1"], "phases has 80@1; batches must be multiples of batch=32, .* Fix: take 64@1"),
        (["16@1"], "Fix: take 64@1"),
        (["0@1"], "phases has 0@1"),
    ],
)
def test_phases_that_are_none_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_phases(words, 32)


def test_phases_closer_than_a_step_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no step of 64 samples fits before the phase from epoch 1\.001 on, with ep"):
        make_phases(["64@1", "128@1.001"], 32, 160)
