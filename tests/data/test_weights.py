"""Weighted epochs: exact counts, no list of draws, and what holds for `Order` holds for them."""

from __future__ import annotations

import itertools
import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from sciencessl.data import weights as module
from sciencessl.data.order import Order
from sciencessl.data.weights import WeightedOrder, Weights, WeightSums, balance, sum_weights, weighted_order
from sciencessl.errors import ConfigError, DataError


def epoch_counts(order: WeightedOrder, n: int, epoch: int) -> np.ndarray:
    """How often each sample comes in an epoch."""
    positions = order.take(epoch * order.length, (epoch + 1) * order.length)[1]
    return np.bincount(positions, minlength=n)


def assert_floor_or_ceil(counts: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Counts are rounded down or up; the tolerance is what rounding the expected counts may cost."""
    assert (counts >= np.floor(expected - tolerance)).all()
    assert (counts <= np.ceil(expected + tolerance)).all()


def skewed(n: int, seed: int) -> np.ndarray:
    """A few heavy samples, many light ones, some of no weight."""
    rng = np.random.default_rng(seed)
    values = rng.exponential(size=n) ** 2
    values[rng.random(n) < 0.2] = 0.0
    values[rng.integers(n)] = 20.0
    return values


class TestCounts:
    @settings(max_examples=40, deadline=None)
    @given(n=st.integers(1, 3000), draws=st.integers(1, 5000), batch=st.integers(1, 70), seed=st.integers(0, 1000))
    def test_each_sample_comes_floor_or_ceil_of_its_expected_count(
        self, n: int, draws: int, batch: int, seed: int
    ) -> None:
        values = skewed(n, seed)
        order = weighted_order(Weights(values), seed, batch, draws)
        for epoch in (0, 1, 7):
            counts = epoch_counts(order, n, epoch)
            assert counts.sum() == draws
            assert_floor_or_ceil(counts, draws * values / values.sum())
            assert not counts[values == 0].any()

    def test_equal_weights_give_each_sample_once(self) -> None:
        for value in (1.0, 4.0):
            order = weighted_order(Weights(np.full(2003, value)), seed=1, batch=30)
            assert (order.length, order.passes) == (2003, 1)
            assert (epoch_counts(order, 2003, 3) == 1).all()

    def test_whole_expected_counts_come_exactly(self) -> None:
        values = np.array([0, 1, 2, 3, 0, 6, 4] * 300)
        order = weighted_order(Weights(values), seed=2, batch=16, draws=int(values.sum()))
        assert np.array_equal(epoch_counts(order, len(values), 5), values)

    def test_blocks_and_chunks_of_the_pass_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = skewed(5000, 4)
        found = []
        for block, chunk in ((64, 2**20), (64, 700), (8, 100)):
            monkeypatch.setattr(module, "BLOCK", block)
            monkeypatch.setattr(module, "CHUNK", chunk)
            order = weighted_order(Weights(values), 0, 32)
            found.append(order.sums)
            assert_floor_or_ceil(epoch_counts(order, 5000, 2), order.length * values / values.sum())
        assert found[0].digest == found[1].digest
        assert np.array_equal(found[0].before, [*found[2].before[::8], found[2].before[-1]])

    def test_weights_that_differ_inside_a_block_alone_have_another_digest(self) -> None:
        one, other = (sum_weights(Weights(np.array(pair * 20))) for pair in ([1.0, 3.0], [3.0, 1.0]))
        assert np.array_equal(one.before, other.before)
        assert one.digest != other.digest

    def test_many_samples_keep_a_bounded_number_of_sums(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BLOCK", 4)
        monkeypatch.setattr(module, "MOST_BLOCKS", 10)
        values = skewed(1003, 1)
        order = weighted_order(Weights(values), 0, 32)
        assert len(order.sums.before) == 11
        assert_floor_or_ceil(epoch_counts(order, 1003, 1), order.length * values / values.sum())

    def test_over_epochs_each_sample_has_its_expected_count(self) -> None:
        values = np.array([0.1, 0.25, 0.5, 0.9, 1.0, 1.3, 2.5, 3.45] * 40)
        order = weighted_order(Weights(values), seed=5, batch=20)
        epochs = 300
        counts = sum(epoch_counts(order, len(values), e) for e in range(epochs))
        expected = order.length * values / values.sum()
        part = expected % 1
        sigma = np.sqrt(epochs * part * (1 - part))
        uneven = sigma > 1e-3
        z = (counts - epochs * expected)[uneven] / sigma[uneven]
        assert np.abs(z).max() < 5
        # The blocks' starts make neighbours dependent, so the sum of squares is only about a chi-square.
        assert (z**2).sum() < 2 * chi2.ppf(1 - 1e-6, len(z))

    def test_neighbours_of_half_weight_are_not_bound_to_the_same_partners(self) -> None:
        """With one start for all, each epoch would show the even or the odd samples, all of them."""
        order = weighted_order(Weights(np.full(20_480, 0.5)), seed=0, batch=64, draws=10_240)
        counts = epoch_counts(order, 20_480, 0)
        evens = counts.reshape(-1, 64)[:, ::2].sum(axis=1) / 32
        assert set(evens.tolist()) == {0.0, 1.0}
        assert 100 < evens.sum() < 220


class TestOrder:
    def test_a_pass_holds_a_sample_once_and_repeats_are_far_apart(self) -> None:
        values = np.ones(40_000)
        values[::100] = 30.0
        order = weighted_order(Weights(values), seed=3, batch=64)
        assert order.passes == 24  # 30 * 40000 / 51600, rounded up
        positions = order.take(0, order.length)[1]
        for heavy in (0, 100, 39_900):
            at = np.sort(np.flatnonzero(positions == heavy))
            assert len(at) in (23, 24)
            # Random times: no batch holds many of them, and they fill the epoch.
            assert np.bincount(at // 64).max() <= 3
            assert at[0] < 0.4 * order.length
            assert at[-1] > 0.6 * order.length

    def test_batches_have_the_composition_of_the_weights(self) -> None:
        rng = np.random.default_rng(0)
        classes = rng.choice(4, size=30_000, p=[0.7, 0.2, 0.08, 0.02])
        order = weighted_order(balance(classes), seed=1, batch=128)
        counts = np.array([np.bincount(classes[order.positions(step)], minlength=4) for step in range(200)])
        chi = ((counts - 32) ** 2 / 32).sum(axis=1).mean() / 3
        assert 0.8 < chi < 1.2

    def test_turns_of_a_sample_never_repeat(self) -> None:
        values = skewed(300, 2)
        order = weighted_order(Weights(values), seed=3, batch=16)
        turns, positions = order.take(0, 5 * order.length)
        assert len(np.unique(np.column_stack([turns, positions]), axis=0)) == 5 * order.length

    @pytest.mark.parametrize("batch", [64, 24])
    def test_rank_slices_make_up_the_global_batch(self, batch: int) -> None:
        order = weighted_order(Weights(skewed(1009, 0)), seed=1, batch=batch)
        for world, step in itertools.product((1, 2, 4, 8), (0, 13, 400)):
            parts = [order.rank_part(step, rank, world) for rank in range(world)]
            assert np.array_equal(np.concatenate([p for _, p in parts]), order.positions(step))
            assert np.array_equal(np.concatenate([t for t, _ in parts]), order.epochs(step))

    def test_any_step_can_be_the_first(self) -> None:
        values = skewed(2000, 6)
        order = weighted_order(Weights(values), 4, 64)
        forward = [order.positions(step) for step in range(80)]
        for step in np.random.default_rng(0).permutation(80)[:20].tolist():
            fresh = pickle.loads(pickle.dumps(weighted_order(Weights(values), 4, 64)))
            assert np.array_equal(fresh.positions(step), forward[step])

    def test_seeds_and_epochs_draw_other_samples(self) -> None:
        values = np.full(2000, 0.3)
        one, other = (weighted_order(Weights(values), seed, 20, 600) for seed in (0, 1))
        first, second, third = (epoch_counts(o, 2000, e) for o, e in ((one, 0), (one, 1), (other, 0)))
        for a, b in ((first, second), (first, third)):
            # 0.3 of the 600 drawn are drawn again by chance.
            assert 100 < (a & b).sum() < 260

    def test_the_order_is_pinned(self) -> None:
        order = weighted_order(Weights(np.arange(1000) % 7), seed=0, batch=8)
        turns, positions = order.take(1040, 1048)
        assert (turns.tolist(), positions.tolist()) == (PINNED_TURNS, PINNED_POSITIONS)

    def test_an_epoch_of_weights_one_and_zero_is_an_order_of_those_of_weight_one(self) -> None:
        chosen = np.random.default_rng(1).random(3000) < 0.2
        order = weighted_order(Weights(chosen), seed=2, batch=32)
        assert order.length == chosen.sum()
        assert order.steps_per_epoch == chosen.sum() / 32
        for epoch in (0, 3):
            assert np.array_equal(epoch_counts(order, 3000, epoch), chosen)
        plain = Order(order.length, 2, 32)
        assert np.array_equal(order.positions(9), np.flatnonzero(chosen)[plain.positions(9)])

    @pytest.mark.parametrize(
        "weights",
        [
            np.ones(60_000), np.arange(60_000) % 10 == 0, 1.0 + np.arange(60_000) % 20,
            np.where(np.arange(60_000) % 10, 1.0, 40.0), np.where(np.arange(60_000) < 6000, 40.0, 1.0),
        ],
        ids=["equal", "tenth", "uniform", "scattered", "sorted"],
    )
    def test_no_more_samples_are_in_use_than_in_a_plain_order(self, weights: np.ndarray) -> None:
        """However heavy some are: a loader that keeps this much reads a run once for all draws of a mixing block."""
        longest, batch, slots = 64, 64, 4
        order = weighted_order(Weights(weights), 0, batch, slots=slots, longest_run=longest)
        block = order.order.mix_units * order.order.unit // order.order.ticket_size
        for start in (0, 200):
            found = [order.run_of(order.positions(step)) for step in range(start, start + max(1, block))]
            first, stop = (np.concatenate(side) for side in zip(*found, strict=True))
            used, where = np.unique(first, return_index=True)
            # In the time of a block a stream sees two of them, each of mix_units units and a piece of another.
            assert (stop[where] - used).sum() <= 2 * (order.order.mix_units + 1) * slots * longest


class Simulated:
    """A billion weights that are computed when asked for: every tenth sample weighs six times the others."""

    def __init__(self, n: int = 10**9) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return np.where(positions % 10 == 0, 3.0, 0.5)

    def sums(self, block: int) -> WeightSums:
        """What the pass over them finds, in closed form."""
        borders = np.minimum(np.arange(0, self.n + block, block), self.n)
        return WeightSums(self.n, block, 0.5 * borders + 2.5 * -(-borders // 10), self.n, 3.0, "")


def test_a_billion_samples_cost_no_pass_little_memory_and_little_time() -> None:
    few = Simulated(12_345)
    assert np.array_equal(sum_weights(Weights(few)).before, few.sums(64).before)
    sums = Simulated().sums(-(-(10**9) // 2**21))
    tracemalloc.start()
    began = time.process_time()
    order = weighted_order(Weights(Simulated()), 0, 4096, sums=sums)
    found = np.concatenate([order.positions(step) for step in (0, 123_456_789)])
    elapsed = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert elapsed < 4
    assert peak < 200e6
    assert order.passes == 4  # 3.0 of a mean of 0.75
    heavy = (found % 10 == 0).mean()
    assert abs(heavy - 0.4) < 5 * np.sqrt(0.4 * 0.6 / len(found))


class TestBalance:
    CLASSES = np.repeat([0, 1, 3], [800, 150, 50])

    def shares(self, exponent: float) -> np.ndarray:
        weights = balance(self.CLASSES, exponent)
        found = np.bincount(self.CLASSES, weights(np.arange(1000)))
        return np.asarray(found / found.sum())

    @pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
    def test_a_class_has_its_tempered_share(self, exponent: float) -> None:
        tempered = np.array([800.0, 150.0, 0.0, 50.0]) ** (1 - exponent) * [1, 1, 0, 1]
        np.testing.assert_allclose(self.shares(exponent), tempered / tempered.sum(), rtol=1e-12)

    def test_a_balanced_epoch_holds_classes_equally_often(self) -> None:
        order = weighted_order(balance(self.CLASSES), seed=0, batch=10, draws=999)
        for epoch in range(3):
            counts = epoch_counts(order, 1000, epoch)
            assert_floor_or_ceil(counts, np.repeat([333 / 800, 333 / 150, 333 / 50], [800, 150, 50]))
            per_class = np.bincount(self.CLASSES, counts)
            assert np.abs(per_class[[0, 1, 3]] - 333).max() <= 2

    def test_samples_without_a_class_come_as_often_as_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "CHUNK", 7)
        classes = np.where(np.arange(1000) % 4 == 0, -1, self.CLASSES)
        order = weighted_order(balance(classes), seed=0, batch=10)
        assert (epoch_counts(order, 1000, 1)[classes == -1] == 1).all()

    def test_exponents_outside_their_range_and_labels_that_are_absent_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"exponent of class balance is 1\.5; it must be 0"):
            balance(self.CLASSES, 1.5)
        with pytest.raises(DataError, match="none of 5 samples has a class"):
            balance(np.full(5, -1))


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_named(wrong: float) -> None:
    values = np.ones(1000)
    values[700] = wrong
    with pytest.raises(DataError, match=rf"weight {wrong} of the sample at position 700: .* 0 or more"):
        sum_weights(Weights(values))


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="none of 9 samples weighs more than 0"):
        weighted_order(Weights(np.zeros(9)), 0, 4)
    with pytest.raises(ConfigError, match="n must be 1 to"):
        weighted_order(Weights(np.ones(9)), 0, 4, draws=0)


def test_steps_of_very_long_runs_are_found() -> None:
    order = weighted_order(Weights(np.array([1.0, 2.0, 3.0])), 0, 8)
    assert set(order.positions(2**55).tolist()) <= {0, 1, 2}


PINNED_TURNS = [4, 4, 3, 3, 3, 3, 3, 3]
PINNED_POSITIONS = [34, 923, 551, 201, 737, 401, 411, 102]
