"""Runs are read once, whole and bounded: what comes out is what the store holds, whatever was asked before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciencessl.data import runs as module
from sciencessl.data.decode import decode
from sciencessl.data.mixture import mix_stores
from sciencessl.data.order import Order
from sciencessl.data.runs import RunCache, longest_run, sample_bytes
from sciencessl.errors import ConfigError
from sciencessl.spec import FieldSpec
from sciencessl.store.format import StoreHeader
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.split import SplitIndex
from sciencessl.store.writer import PreparedSample, create_store, write_row


class Counted(Store):
    """A store that counts its reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[tuple[int, int, int]] = []

    def read_window(self, name: str, row: int, lo: int, hi: int) -> np.ndarray:
        self.reads.append((row, lo, hi))
        return super().read_window(name, row, lo, hi)


def grid(positions: np.ndarray, size: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    first = positions // size * size
    return first, np.minimum(first + size, n)


def equal(one: bytes | np.ndarray, other: bytes | np.ndarray) -> bool:
    return one == other if isinstance(one, bytes) else np.array_equal(one, other)


@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_are_those_of_the_store_in_the_order_asked_for(tiny_store: Path, split: str) -> None:
    store = Store(tiny_store)
    index = store.split(split)
    cache = RunCache(store, index)
    rng = np.random.default_rng(0)
    for size in (1, 5, 100):
        positions = rng.integers(0, len(index), 9)
        read = cache(positions, *grid(positions, size, len(index)))
        expected = index.to_store(positions)
        assert np.array_equal(read.index, expected)
        assert np.array_equal(read.keys, store.keys(expected))
        assert all(map(equal, read.payloads["image"], store.payloads("image", expected)))
        cache = RunCache(store, index)


def test_indices_may_lie_in_any_order(tiny_store: Path) -> None:
    store = Store(tiny_store)
    index = np.array([40, 3, 59, 17, 0, 41, 16])
    read = RunCache(store, SplitIndex(index, index + 1))(np.arange(7), np.zeros(7, int), np.full(7, 7))
    assert np.array_equal(read.index, index)
    assert all(map(equal, read.payloads["image"], store.payloads("image", index)))


def array_store(path: Path) -> Path:
    fields = {"image": FieldSpec("array", ("g", "r"), "float32", shape=(4, 4))}
    header = StoreHeader("galaxy", "x", fields, 1, 8, {}, "p", "c")
    create_store(path, header, 1)
    samples = [PreparedSample(f"s{i}", "train", {"image": np.full((2, 4, 4), i, np.float32)}) for i in range(8)]
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    return path


def test_kept_arrays_cannot_be_written_to_and_decoded_ones_are_the_callers_own(tmp_path: Path) -> None:
    store = Store(array_store(tmp_path / "arrays.zarr"))
    split, spec = store.split("train"), store.header.fields["image"]
    cache, positions = RunCache(store, split), np.array([0, 1, 1])
    first = cache(positions, *grid(positions, 4, len(split))).payloads["image"]
    for payload in first:
        assert isinstance(payload, np.ndarray)
        with pytest.raises(ValueError, match="read-only"):
            payload += 1
        before = payload.copy()
        decoded = decode(payload, spec)
        decoded += 1
        assert np.array_equal(payload, before)


def test_a_run_is_read_once_and_in_one_piece(tiny_store: Path) -> None:
    store = Counted(tiny_store)
    split = store.split("train")
    cache, positions = RunCache(store, split), np.arange(len(split))
    for _ in range(3):
        cache(positions, np.zeros_like(positions), np.full_like(positions, len(split)))
    assert [row for row, _, _ in store.reads] == [0, 1]


def test_an_epoch_reads_each_byte_about_once(tiny_store: Path) -> None:
    store = Counted(tiny_store)
    split = store.split("train")
    order = Order(len(split), 0, 4, longest_run=6, slots=1)
    cache = RunCache(store, split)
    for step in range(12):
        positions = order.positions(step)
        cache(positions, *order.run_of(positions))
    total = sum(len(payload) for payload in Store(tiny_store).payloads("image", split.all()))
    assert len(set(store.reads)) == len(store.reads)
    assert sum(hi - lo for _, lo, hi in store.reads) == total


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Counted(tiny_store)
    split = store.split("train")
    sizes = [len(payload) for payload in store.payloads("image", split.all())]
    monkeypatch.setattr(module, "KEPT_BYTES", 3 * max(sizes))
    cache = RunCache(store, split)
    for position in range(10):
        cache(np.array([position]), np.array([position]), np.array([position + 1]))
        assert cache.nbytes <= 3 * max(sizes)
    store.reads.clear()
    cache(np.array([9, 8]), np.array([9, 8]), np.array([10, 9]))
    assert not store.reads
    cache(np.array([0]), np.array([0]), np.array([1]))
    assert len(store.reads) == 1


@pytest.mark.parametrize("gap", [1, 2**21])
def test_far_samples_are_read_apart_and_near_ones_together(
    tiny_store: Path, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GAP_BYTES", gap)
    store = Counted(tiny_store)
    index = np.arange(0, 30, 2)
    cache = RunCache(store, SplitIndex(index, index + 1))
    positions = np.arange(len(index))
    read = cache(positions, np.zeros_like(positions), np.full_like(positions, len(index)))
    assert len(store.reads) == (len(index) if gap == 1 else 1)
    assert all(map(equal, read.payloads["image"], Store(tiny_store).payloads("image", index)))


@pytest.mark.parametrize("batch", [1, 6, 32, 64, 96, 256, 4096])
@pytest.mark.parametrize("size", [800, 31_000])
def test_runs_in_use_fit_the_budget(
    tiny_store: Path, batch: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "sample_bytes", lambda store: size)
    monkeypatch.setattr(Store, "__len__", lambda store: 10**9)
    run = longest_run(Store(tiny_store), batch)
    order = Order(10**9, 0, batch, run)
    assert (order.mix_units + 1) * order.slot_count * order.unit * size <= module.IN_USE_BYTES
    assert order.unit * size <= module.RUN_BYTES
    assert 2 * order.unit * size > min(module.RUN_BYTES, 2**20)


@pytest.mark.parametrize("parts", [2, 4])
def test_runs_in_use_of_a_mixture_fit_the_budget_of_one_order(
    tiny_store: Path, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "sample_bytes", lambda store: 31_000)
    monkeypatch.setattr(Store, "__len__", lambda store: 10**9)
    run = longest_run(Store(tiny_store), 256, parts=parts)
    mixture = mix_stores([10**8] * parts, [1] * parts, 0, 256, longest_run=run)
    held = sum((part.mix_units + 1) * part.slot_count * part.unit for part in mixture.parts)
    assert module.IN_USE_BYTES / 2 < held * 31_000 <= module.IN_USE_BYTES


def test_runs_of_a_store_that_fits_as_a_whole_are_as_long_as_a_read_is_worth(tiny_store: Path) -> None:
    store = Store(tiny_store)
    assert longest_run(store, 4096) == module.RUN_BYTES // sample_bytes(store)


def test_the_size_of_a_sample_is_the_mean_of_its_payloads(tiny_store: Path) -> None:
    store = Store(tiny_store)
    sizes = [len(payload) for payload in store.payloads("image", np.arange(len(store)))]
    assert sample_bytes(store) == sum(sizes) // len(sizes)
    assert sample_bytes(JoinedStores([store, store])) == sample_bytes(store)


def test_slots_that_do_not_divide_the_batch_are_refused(tiny_store: Path) -> None:
    with pytest.raises(ConfigError, match="slots=5 must divide batch=12"):
        longest_run(Store(tiny_store), 12, 5)
