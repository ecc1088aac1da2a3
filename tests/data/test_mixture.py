"""Mixtures: exact shares in every run of samples, parts that stay what they are, and any step first."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.data.mixture import Mixture, mix_labelled, mix_stores
from sciencessl.data.order import Order
from sciencessl.data.weights import Weights, weighted_order
from sciencessl.errors import ConfigError


def parts_of(mixture: Mixture, start: int, stop: int) -> np.ndarray:
    """The part of each sample of a run, read off the turns."""
    return mixture.take(start, stop)[0] % len(mixture.parts)


class TestShares:
    @settings(max_examples=60, deadline=None)
    @given(
        a=st.integers(1, 50), b=st.integers(1, 50), start=st.integers(0, 2**60), length=st.integers(1, 300),
    )
    def test_every_run_of_two_parts_holds_its_share_rounded_down_or_up(
        self, a: int, b: int, start: int, length: int
    ) -> None:
        mixture = mix_stores((70, 90), (a, b), seed=0, batch=16)
        count = int((parts_of(mixture, start, start + length) == 0).sum())
        assert count in (length * a // (a + b), -(-length * a // (a + b)))

    @settings(max_examples=40, deadline=None)
    @given(
        rates=st.lists(st.integers(1, 30), min_size=3, max_size=6), start=st.integers(0, 10**6),
        length=st.integers(1, 300),
    )
    def test_every_run_of_k_parts_is_less_than_k_minus_1_off(self, rates: list[int], start: int, length: int) -> None:
        mixture = mix_stores([50] * len(rates), rates, seed=0, batch=16)
        counts = np.bincount(parts_of(mixture, start, start + length), minlength=len(rates))
        assert (np.abs(counts - length * np.array(rates) / sum(rates)) < len(rates) - 1).all()
        whole = np.bincount(parts_of(mixture, start, start + sum(rates)), minlength=len(rates))
        assert whole.tolist() == rates

    @settings(max_examples=30, deadline=None)
    @given(rates=st.lists(st.integers(1, 9), min_size=1, max_size=4), steps=st.integers(1, 40))
    def test_each_part_runs_through_its_own_order(self, rates: list[int], steps: int) -> None:
        sizes = [30 + 7 * k for k in range(len(rates))]
        mixture = mix_stores(sizes, rates, seed=3, batch=12)
        turns, positions = mixture.take(0, 12 * steps)
        for k, part in enumerate(mixture.parts):
            mine = turns % len(rates) == k
            epochs, expected = part.take(0, int(mine.sum()))
            assert np.array_equal(positions[mine], expected + sum(sizes[:k]))
            assert np.array_equal(turns[mine] // len(rates), epochs)
            assert mixture.taken(steps)[k] == mine.sum()

    def test_part_numbers_and_counts_agree_with_what_is_taken(self) -> None:
        mixture = mix_stores((40, 60, 80), (3, 2, 2), seed=1, batch=10)
        counts = np.zeros(3, int)
        for step in range(30):
            assert mixture.taken(step) == tuple(counts)
            parts = mixture.part_of(step)
            assert np.array_equal(parts, np.searchsorted([40, 100], mixture.positions(step), side="right"))
            counts += np.bincount(parts, minlength=3)


class TestOrder:
    @pytest.mark.parametrize("batch", [64, 24])
    def test_ranks_hold_their_share_and_make_up_the_batch(self, batch: int) -> None:
        mixture = mix_stores((1009, 333), (3, 1), seed=1, batch=batch)
        for world, step in itertools.product((1, 2, 4, 8), (0, 15, 400)):
            parts = [mixture.rank_part(step, rank, world) for rank in range(world)]
            assert np.array_equal(np.concatenate([p for _, p in parts]), mixture.positions(step))
            for _, positions in parts:
                assert abs((positions >= 1009).sum() - batch / world / 4) < 1

    def test_any_step_can_be_the_first(self) -> None:
        def fresh() -> Mixture:
            weighted = weighted_order(Weights(np.arange(500) % 5), 7, 12)
            mixture = Mixture((Order(300, 1, 12), weighted), (2, 3), 0, 24, offsets=(0, 300))
            return pickle.loads(pickle.dumps(mixture))  # type: ignore[no-any-return]

        whole = fresh()
        forward = [whole.take(step * 24, (step + 1) * 24) for step in range(60)]
        for step in np.random.default_rng(0).permutation(60)[:20].tolist():
            for found, expected in zip(fresh().take(step * 24, (step + 1) * 24), forward[step], strict=True):
                assert np.array_equal(found, expected)

    def test_turns_of_a_sample_never_repeat_though_parts_share_it(self) -> None:
        mixture = Mixture((Order(30, 1, 8), Order(30, 2, 8)), (1, 1), 0, 16)
        turns, positions = mixture.take(0, 600)
        assert len(np.unique(np.column_stack([turns, positions]), axis=0)) == 600

    def test_tickets_of_a_part_are_its_share_of_a_ticket(self) -> None:
        mixture = mix_stores((10**6, 10**6), (3, 1), seed=0, batch=1024)
        assert mixture.slot_count == 64
        assert [part.batch // part.slot_count for part in mixture.parts] == [12, 4]

    def test_the_order_is_pinned(self) -> None:
        mixture = mix_stores((400, 600), (2, 1), seed=0, batch=9)
        turns, positions = mixture.take(2000, 2009)
        assert (turns.tolist(), positions.tolist()) == (PINNED_TURNS, PINNED_POSITIONS)


class TestLabelled:
    def test_every_batch_holds_the_share_and_each_part_its_epochs(self) -> None:
        labelled = np.random.default_rng(0).random(2000) < 0.05
        mixture = mix_labelled(labelled, 0.25, seed=0, batch=64)
        for step in range(100):
            assert labelled[mixture.positions(step)].sum() == 16
        assert mixture.length == 2000
        positions = np.concatenate([mixture.positions(step) for step in range(200)])
        for chosen in (labelled, ~labelled):
            members, of_part = int(chosen.sum()), positions[chosen[positions]]
            for epoch in range(len(of_part) // members):
                once = of_part[epoch * members : (epoch + 1) * members]
                assert np.array_equal(np.sort(once), np.flatnonzero(chosen))

    def test_a_share_that_does_not_divide_the_batch_is_met_up_to_one(self) -> None:
        labelled = np.arange(500) < 60
        mixture = mix_labelled(labelled, 1 / 3, seed=0, batch=50)
        counts = [int(labelled[mixture.positions(step)].sum()) for step in range(99)]
        assert set(counts) == {16, 17}
        assert sum(counts) == 99 * 50 // 3

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1e-6, 0.99999])
    def test_a_share_out_of_range_is_refused(self, share: float) -> None:
        with pytest.raises(ConfigError, match=r"share of labelled samples is .* above 0 and below 1"):
            mix_labelled(np.arange(9) < 4, share, 0, 8)

    @pytest.mark.parametrize("labelled", [np.zeros(9, bool), np.ones(9, bool)])
    def test_one_kind_alone_is_refused(self, labelled: np.ndarray) -> None:
        with pytest.raises(ConfigError, match=f"{labelled.sum()} of 9 samples are labelled"):
            mix_labelled(labelled, 0.5, 0, 8)


def test_bad_settings() -> None:
    part = Order(10, 0, 4)
    with pytest.raises(ConfigError, match="2 parts with 1 rates and 0 offsets"):
        Mixture((part, part), (1,), 0, 8)
    with pytest.raises(ConfigError, match="2 parts with 2 rates and 1 offsets"):
        Mixture((part, part), (1, 1), 0, 8, offsets=(0,))
    for rates in ((0, 1), (10**6, 1)):
        with pytest.raises(ConfigError, match=r"rates are .* whole numbers from 1, 1000000 in all"):
            Mixture((part, part), rates, 0, 8)
    with pytest.raises(ConfigError, match="Mixture: slots=5 must divide batch=12"):
        Mixture((part,), (1,), 0, 12, slots=5)


PINNED_TURNS = [6, 3, 6, 6, 3, 6, 6, 3, 6]
PINNED_POSITIONS = [394, 837, 95, 93, 897, 372, 385, 588, 376]
