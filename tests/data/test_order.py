from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, spearmanr

from sciencessl.data.order import Order, augmentation_rng, derive_key, feistel
from sciencessl.errors import ConfigError

PINNED_KEY = 7681005530697964607
PINNED_RAW = [13684866327848084246, 2339719642715645068, 5876696639216365639]
PINNED_POSITIONS = [254, 710, 472, 217, 137, 556, 52, 512]


def run(order: Order, epochs: int, start: int = 0) -> np.ndarray:
    """Positions of whole epochs, one after the other, (epochs, n): many steps at once, a few of them checked alone."""
    n, batch = order.n, order.batch
    first = start * n // batch
    last = -(-(start + epochs) * n // batch)
    dealt = order.take(first * batch, last * batch)[1]
    for step in np.linspace(first, last - 1, 5).astype(int).tolist():
        assert np.array_equal(order.positions(step), dealt[(step - first) * batch :][:batch])
    return dealt[start * n - first * batch :][: epochs * n].reshape(epochs, n)


def plain_permutation(n: int, key: int) -> list[int]:
    """The same Feistel network written with Python integers, one value at a time."""
    word = 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
        return x ^ (x >> 31)

    half = ((n - 1).bit_length() + 1) // 2
    mask, key = (1 << half) - 1, mix(key)

    def once(x: int) -> int:
        left, right = x >> half, x & mask
        for i in range(8):
            left, right = right, left ^ (mix((right + key + (i + 1) * 0x9E3779B97F4A7C15) & word) & mask)
        return left << half | right

    out = []
    for x in range(n):
        x = once(x)
        while x >= n:
            x = once(x)
        out.append(x)
    return out


class TestFeistel:
    @settings(max_examples=60, deadline=None)
    @given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
    def test_is_a_bijection(self, n: int, key: int) -> None:
        assert np.array_equal(np.sort(feistel(np.arange(n), n, key)), np.arange(n))

    @pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 256, 257, 1000])
    def test_equals_plain_python(self, n: int) -> None:
        key = derive_key("reference", n)
        assert feistel(np.arange(n), n, key).tolist() == plain_permutation(n, key)

    @settings(max_examples=20, deadline=None)
    @given(n=st.integers(2**39, 2**40), key=st.integers(0, 2**64 - 1))
    def test_large_ranges_stay_inside_without_repeats(self, n: int, key: int) -> None:
        x = np.arange(n - 500, n)
        image = feistel(x, n, key)
        assert image.min() >= 0
        assert image.max() < n
        assert np.unique(image).size == x.size

    def test_every_permutation_of_four_is_reached_about_equally_often(self) -> None:
        draws = 4800
        seen = dict.fromkeys(itertools.permutations(range(4)), 0)
        for k in range(draws):
            seen[tuple(feistel(np.arange(4), 4, derive_key(k)).tolist())] += 1
        expected = draws / 24
        assert sum((count - expected) ** 2 / expected for count in seen.values()) < chi2.ppf(1 - 1e-6, 23)

    @pytest.mark.parametrize("n", [5, 16, 97])
    def test_images_are_uniform_over_keys(self, n: int) -> None:
        keys = np.array([derive_key("uniform", k) for k in range(200 * n)], dtype=np.uint64)
        for x in (0, n - 1):
            counts = np.bincount(feistel(np.full(keys.size, x), n, keys), minlength=n)
            assert ((counts - 200) ** 2 / 200).sum() < chi2.ppf(1 - 1e-6, n - 1)

    def test_neighbours_land_independently(self) -> None:
        n = 1 << 16
        image = feistel(np.arange(n), n, 7)
        assert abs(spearmanr(image[:-1], image[1:]).statistic) < 5 / np.sqrt(n)
        assert abs(spearmanr(np.arange(n), image).statistic) < 5 / np.sqrt(n)
        step = np.bincount(((image[1:] - image[:-1]) % n) * 64 // n, minlength=64)
        assert ((step - (n - 1) / 64) ** 2 / ((n - 1) / 64)).sum() < chi2.ppf(1 - 1e-6, 63)

    def test_neighbouring_keys_are_unrelated(self) -> None:
        n = 10_000
        a, b = (feistel(np.arange(n), n, key) for key in (3, 4))
        assert (a == b).sum() < 12
        assert abs(spearmanr(a, b).statistic) < 5 / np.sqrt(n)

    def test_sizes_and_keys_may_differ_by_element(self) -> None:
        sizes, keys = np.array([1, 5, 300, 5]), np.array([1, 2, 3, 4], dtype=np.uint64)
        x = np.array([0, 4, 299, 2])
        one_by_one = [int(feistel(np.array([v]), int(n), int(k))[0]) for v, n, k in zip(x, sizes, keys, strict=True)]
        assert feistel(x, sizes, keys).tolist() == one_by_one


class TestKeys:
    def test_derived_keys_are_pinned(self) -> None:
        assert derive_key("unit", 0) == PINNED_KEY
        assert derive_key("unit", np.int64(0)) == PINNED_KEY

    def test_parts_do_not_run_together(self) -> None:
        parts = [("ab", "c"), ("a", "bc"), ("abc",), (1, 2), (12,), ("1", 2), (1, "2"), (-1, 2)]
        assert len({derive_key(*p) for p in parts}) == len(parts)

    def test_augmentation_stream_is_pinned(self) -> None:
        rng = augmentation_rng(seed=1, epoch=2, index_or_key=3, view=1)
        assert isinstance(rng.bit_generator, np.random.Philox)
        assert rng.bit_generator.random_raw(3).tolist() == PINNED_RAW

    def test_augmentation_streams_are_independent(self) -> None:
        base = augmentation_rng(0, 0, 0, 0).random(4000)
        for key in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 2**127, 0)):
            assert abs(np.corrcoef(base, augmentation_rng(*key).random(4000))[0, 1]) < 5 / np.sqrt(4000)
        first = np.array([augmentation_rng(0, 0, i, v).random() for i in range(2000) for v in (0, 1)])
        assert abs(np.corrcoef(first[0::2], first[1::2])[0, 1]) < 5 / np.sqrt(2000)
        counts = np.bincount((first * 16).astype(int), minlength=16)
        assert ((counts - 250) ** 2 / 250).sum() < chi2.ppf(1 - 1e-6, 15)


class TestOrder:
    @pytest.mark.parametrize(
        ("n", "batch"), [(1, 1), (1, 7), (3, 16), (17, 64), (64, 64), (97, 10), (1000, 96), (1009, 64), (5000, 7)]
    )
    @pytest.mark.parametrize("longest_run", [1, 8192])
    def test_each_sample_once_an_epoch(self, n: int, batch: int, longest_run: int) -> None:
        order = Order(n, seed=3, batch=batch, longest_run=longest_run)
        for epoch in run(order, epochs=4):
            assert np.array_equal(np.sort(epoch), np.arange(n))

    @settings(max_examples=40, deadline=None)
    @given(
        n=st.integers(1, 4000), per_slot=st.integers(1, 9), slots=st.integers(1, 12), mix=st.integers(1, 5),
        longest_run=st.integers(1, 50), start=st.integers(0, 1000),
    )
    def test_each_sample_once_for_any_setting(
        self, n: int, per_slot: int, slots: int, mix: int, longest_run: int, start: int
    ) -> None:
        order = Order(n, 5, per_slot * slots, longest_run, mix, slots)
        assert np.array_equal(np.sort(run(order, 2, start)), np.tile(np.arange(n), (2, 1)))

    def test_large_units_keep_each_sample_once(self) -> None:
        order = Order(50_021, seed=0, batch=32, slots=1)
        assert order.unit == 3126
        for epoch in run(order, epochs=2):
            assert np.array_equal(np.sort(epoch), np.arange(order.n))

    def test_epochs_run_on_inside_a_batch(self) -> None:
        order = Order(10, seed=0, batch=4)
        assert [order.epochs(step).tolist() for step in (0, 2, 4, 5)] == [
            [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2],
        ]
        assert [order.epoch_of(step) for step in (0, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]
        assert order.steps_per_epoch == 2.5
        assert Order(3, 0, 10).epochs(0).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]

    def test_first_epoch_equals_the_definition_written_out(self) -> None:
        n, batch, mix = 4999, 12, 3
        order = Order(n, seed=8, batch=batch, mix_units=mix, slots=4)
        m, streams, u = 3, 4, 4999 // (16 * 4)
        assert (order.ticket_size, order.slot_count, order.unit) == (m, streams, u)
        base = n // (m * streams) * m
        lengths = [base + int(np.clip(n % (m * streams) - v * m, 0, m)) for v in range(streams)]
        starts = [0, *np.cumsum(lengths)[:-1].tolist()]
        dealt = run(order, 1)[0]
        # The dealt sequence seen stream by stream must be blocks of the same samples as the unit deal gives.
        i = np.arange(n)
        stream, ordinal = i // m % streams, i // (m * streams) * m + i % m
        place = np.asarray(starts)[stream] + ordinal
        assert np.array_equal(np.sort(place), i)
        sequence = np.empty(n, dtype=np.int64)
        sequence[place] = dealt
        raw = order._deal(np.zeros(n, dtype=np.int64), i)
        for start, length in zip(starts, lengths, strict=True):
            for first in range(start, start + length, mix * u):
                block = slice(first, min(first + mix * u, start + length))
                assert sorted(sequence[block]) == sorted(raw[block])
        units = raw[: n // u * u].reshape(-1, u)
        assert (np.diff(units, axis=1) == 1).all()
        # Units have the same borders in every epoch: a loader reads them whole.
        assert (units[:, 0] % u == 0).all()
        assert np.array_equal(raw[n // u * u :], np.arange(n // u * u, n))

    @pytest.mark.parametrize("batch", [64, 24])
    def test_rank_slices_make_up_the_global_batch(self, batch: int) -> None:
        order = Order(1009, seed=1, batch=batch)
        for world, step in itertools.product((1, 2, 4, 8), (0, 15, 16, 400)):
            parts = [order.rank_slice(step, rank, world) for rank in range(world)]
            assert np.array_equal(np.concatenate(parts), order.positions(step))

    def test_world_sizes_that_do_not_divide_name_those_that_do(self) -> None:
        order = Order(100, seed=0, batch=96)
        assert order.slot_count == 32
        with pytest.raises(ConfigError, match=r"world size 3 .* 32 slots .*\[1, 2, 4, 8, 16, 32\]"):
            order.rank_slice(0, 0, 3)
        with pytest.raises(ConfigError, match="rank 2"):
            order.rank_slice(0, 2, 2)

    def test_bad_settings(self) -> None:
        with pytest.raises(ConfigError, match=r"slots=5 must divide batch=12; try \[1, 2, 3, 4, 6, 12\]"):
            Order(10, 0, 12, slots=5)
        with pytest.raises(ConfigError, match=r"n must be 1 to 2\*\*40 samples"):
            Order(2**40 + 1, 0, 4)
        for wrong in ({"n": 0}, {"batch": 0}, {"longest_run": 0}, {"mix_units": 0}, {"slots": 0}):
            with pytest.raises(ConfigError):
                Order(**{"n": 10, "seed": 0, "batch": 4, **wrong})

    def test_steps_may_be_asked_in_any_order(self) -> None:
        order = Order(5000, seed=4, batch=64)
        forward = [order.positions(step) for step in range(100)]
        for step in np.random.default_rng(0).permutation(100):
            assert np.array_equal(Order(5000, 4, 64).positions(int(step)), forward[step])

    def test_seeds_and_epochs_differ(self) -> None:
        n = 2000
        first, second = run(Order(n, 0, 40), 2)
        other = run(Order(n, 1, 40), 1)[0]
        for a, b in ((first, second), (first, other)):
            assert (a == b).sum() < 10
            assert abs(spearmanr(a, b).statistic) < 5 / np.sqrt(n)

    def test_order_is_pinned(self) -> None:
        assert Order(1000, seed=0, batch=8).positions(130).tolist() == PINNED_POSITIONS

    def test_a_billion_samples_cost_no_memory_and_little_time(self) -> None:
        order = Order(10**9, seed=0, batch=4096)
        assert order.unit == 8192
        order.positions(0)
        tracemalloc.start()
        began = time.perf_counter()
        for step in (1, 10**5, 244_140, 10**7):
            got = order.positions(step)
            assert got.min() >= 0
            assert got.max() < 10**9
            assert np.unique(got).size >= 4096 - 8
        elapsed = time.perf_counter() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50e6
        assert elapsed < 4

    def test_steps_past_64_bits_of_samples(self) -> None:
        order = Order(2**40, seed=0, batch=4096)
        step = 2**62
        assert order.epoch_of(step) == 2**34
        assert np.unique(order.positions(step)).size == 4096

    @settings(max_examples=40, deadline=None)
    @given(n=st.integers(1, 5000), slots=st.integers(1, 4), longest=st.integers(1, 300))
    def test_runs_tile_the_samples_and_hold_units_whole(self, n: int, slots: int, longest: int) -> None:
        order = Order(n, 0, 4 * slots, longest, slots=slots)
        first, stop = order.run_of(np.arange(n))
        assert np.array_equal(np.unique(first), np.append(0, np.unique(stop)[:-1]))
        assert stop.max() == n
        assert (stop - first).max() <= longest
        units = np.arange(n) // order.unit * order.unit
        assert ((first <= units) & (np.minimum(units + order.unit, n) <= stop)).all()

    @pytest.mark.parametrize(("n", "longest"), [(40_000, 64), (400_000, 64), (40_000, 8192)])
    def test_few_runs_are_in_use_at_a_time(self, n: int, longest: int) -> None:
        """A stream starts inside a unit, so its blocks touch one more; in the time of a block it sees two of them."""
        order = Order(n, 0, 64, longest)
        steps = np.arange(100, 100 + order.mix_units * order.unit // order.ticket_size)
        used = np.unique(np.concatenate([order.run_of(order.positions(int(step)))[0] for step in steps]))
        assert len(used) <= 2 * (order.mix_units + 1) * order.slot_count
        at_once = np.unique(order.run_of(np.concatenate([order.positions(s) for s in (100, 101, 102)]))[0])
        assert len(at_once) <= 1.1 * (order.mix_units + 1) * order.slot_count

    @pytest.mark.parametrize("epoch", [0, 1, 2])
    def test_a_slot_reads_few_units_at_a_time(self, epoch: int) -> None:
        # n is prime, so epochs start inside tickets; a slot still reads one stream and no other.
        order = Order(200_003, seed=0, batch=64, slots=4)
        m, window = order.ticket_size, order.mix_units * order.unit
        first = -(-epoch * order.n // 64)
        steps = range(first, first + window // m)
        slot = np.concatenate([order.positions(step)[m : 2 * m] for step in steps])
        assert order.unit == 3125
        # Inside one block or across the border of two, each of mix_units units and a piece of another.
        assert np.unique(slot // order.unit).size <= 2 * (order.mix_units + 1)

    def test_a_slot_reads_one_stream_in_every_epoch(self) -> None:
        order = Order(10_007, seed=0, batch=24, slots=4)
        for slot in range(4):
            for epoch in range(3):
                first = -(-epoch * order.n // 24) + 1
                numbers = [step * 24 + slot * 6 + j for step in range(first, first + 400) for j in range(6)]
                within = np.array(numbers) - epoch * order.n
                assert np.unique(order._ticket(np.full_like(within, epoch), within)[0]).size == 1

    @pytest.mark.parametrize(("n", "batch"), [(20_000, 64), (60_000, 32)])
    def test_time_and_position_are_unrelated(self, n: int, batch: int) -> None:
        order = Order(n, seed=2, batch=batch)
        for epoch in run(order, epochs=2):
            units = n // order.unit
            assert abs(spearmanr(np.arange(n), epoch).statistic) < 5 / np.sqrt(units)
            # A batch draws from all over the data: its mean position has the spread of a random draw.
            means = epoch[: n // batch * batch].reshape(-1, batch).mean(axis=1) / n
            assert means.std() < 2.5 * np.sqrt(1 / 12 / batch)
