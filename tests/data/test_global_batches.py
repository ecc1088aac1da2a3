"""The global batch of a step is one thing, for every world size, number of workers and step to start from.

Worker processes are stood in for by copies of the stream that went through pickle, asked in turn as DataLoader asks
them; `test_loader` shows that real ones give the same.
"""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.data import loader as module
from sciencessl.data.loader import BatchStream, Decoder
from sciencessl.data.mixture import mix_labelled
from sciencessl.data.order import Order, SampleOrder
from sciencessl.data.weights import Weights, weighted_order
from sciencessl.domains.galaxy.views import GalaxyViews, galaxy_views
from sciencessl.samples import Batch
from sciencessl.store.reader import Store

BATCH, TRAIN = 16, 48
WORLDS, WORKERS = (1, 2, 4, 8), (0, 1, 3)


def plain(longest: int) -> SampleOrder:
    return Order(TRAIN, 5, BATCH, longest)


def by_weight(longest: int) -> SampleOrder:
    return weighted_order(Weights(np.arange(TRAIN) % 5), 5, BATCH, longest_run=longest)


def half_labelled(longest: int) -> SampleOrder:
    return mix_labelled(np.arange(TRAIN) % 3 == 0, 0.5, 5, BATCH, longest_run=longest)


ORDERS: tuple[Callable[[int], SampleOrder], ...] = (plain, by_weight, half_labelled)


def stream(path: Path, order: SampleOrder, start: int = 0, rank: int = 0, world: int = 1) -> BatchStream:
    store = Store(path)
    split = store.split("train")
    return BatchStream(Decoder(store, "sciencessl.data.decode:decode"), order, split, galaxy_views, GalaxyViews(size=8),
                       {"number": np.arange(len(store))}, ["image"], start, rank, world)


def loaded(source: BatchStream, workers: int) -> Iterator[Batch]:
    """The batches in the order in which a DataLoader with so many workers gives them."""
    if not workers:
        yield from source
        return
    streams = []
    for worker in range(workers):
        iterator = iter(pickle.loads(pickle.dumps(source)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "get_worker_info", lambda w=worker: SimpleNamespace(id=w, num_workers=workers))
            streams.append(itertools.chain([next(iterator)], iterator))
    for iterator in itertools.cycle(streams):
        yield next(iterator)


def joined(parts: list[Batch]) -> tuple[list[str], np.ndarray, torch.Tensor]:
    """Ids, numbers and both views of the batches of all ranks of one step."""
    views = [torch.cat([part.views[number]["image"] for part in parts]) for number in (0, 1)]
    numbers = np.concatenate([part.labels["number"].numpy() for part in parts])
    return [name for part in parts for name in part.ids], numbers, torch.stack(views)


@pytest.fixture(scope="module")
def global_batches(tiny_store: Path) -> Callable[[SampleOrder, int], Batch]:
    """Batches of one process without workers, each made alone by a stream that made no other."""
    return lambda order, step: stream(tiny_store, order).batch(step)


@settings(max_examples=25, deadline=None)
@given(
    build=st.sampled_from(ORDERS), world=st.sampled_from(WORLDS), workers=st.sampled_from(WORKERS),
    start=st.integers(0, 40), longest=st.sampled_from([1, 5, 8192]),
)
def test_ranks_and_workers_make_up_the_global_batch_from_any_step(
    tiny_store: Path, global_batches: Callable[[SampleOrder, int], Batch], build: Callable[[int], SampleOrder],
    world: int, workers: int, start: int, longest: int,
) -> None:
    order = build(longest)
    ranks = [loaded(stream(tiny_store, order, start, rank, world), workers) for rank in range(world)]
    for step in range(start, start + 4):
        ids, numbers, views = joined([next(rank) for rank in ranks])
        expected = global_batches(order, step)
        assert ids == expected.ids
        assert np.array_equal(numbers, expected.index)
        assert torch.equal(views, torch.stack([view["image"] for view in expected.views]))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("workers", WORKERS)
def test_each_sample_comes_once_an_epoch(tiny_store: Path, world: int, workers: int) -> None:
    steps = TRAIN // BATCH
    ranks = [loaded(stream(tiny_store, plain(4), 0, rank, world), workers) for rank in range(world)]
    for _ in range(2):
        seen = Counter(int(i) for rank in ranks for batch in itertools.islice(rank, steps) for i in batch.index)
        assert seen == dict.fromkeys(Store(tiny_store).split("train").all().tolist(), 1)


@pytest.mark.parametrize(("before", "after"), [((1, 0), (2, 3)), ((2, 2), (1, 1)), ((WORLDS[-1], 0), (1, 3))])
def test_a_run_that_goes_on_with_other_ranks_and_workers_takes_the_rest_of_the_epoch(
    tiny_store: Path, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """Each sample once: what was left when the run stopped is what comes, and none that came already."""
    epoch, stopped = TRAIN // BATCH, TRAIN // BATCH // 3

    def dealt(start: int, stop: int, world: int, workers: int) -> list[int]:
        ranks = [loaded(stream(tiny_store, plain(4), start, rank, world), workers) for rank in range(world)]
        return [int(i) for rank in ranks for batch in itertools.islice(rank, stop - start) for i in batch.index]

    seen, rest = dealt(0, stopped, *before), dealt(stopped, epoch, *after)
    assert len(seen) == stopped * BATCH > 0
    assert sorted(seen + rest) == sorted(Store(tiny_store).split("train").all().tolist())


MEASURED = """
import os, sys
from pathlib import Path
import numpy as np
from sciencessl.data import runs
from sciencessl.data.loader import BatchStream, Decoder, make_loader
from sciencessl.data.order import Order
from sciencessl.domains.galaxy.views import GalaxyViews, galaxy_views
from sciencessl.store.reader import Store

runs.KEPT_BYTES = 4 * 2**20  # here, so that it holds in the worker, which imports this file

def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def decode(payload, field):
    return np.zeros((8, 8, 3), np.uint8)

if __name__ == "__main__":
    store = Store(sys.argv[1])
    split = store.split("train")
    order = Order(len(split), 0, 32, longest_run=16, slots=4)
    decoder = Decoder(store, "measured:decode")
    stream = BatchStream(decoder, order, split, galaxy_views, GalaxyViews(size=8), {}, ["image"])
    loader = iter(make_loader(stream, 1))
    steps = len(split) // 32
    for step in range(3 * steps):
        next(loader)
        if step % (steps // 2) == steps // 2 - 1:
            print(resident(loader._workers[0].pid), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_of_a_worker_is_flat_over_epochs(tmp_path: Path) -> None:
    """A store of 80 MB, of which a worker keeps 4: what it takes in half an epoch it takes in three."""
    from sciencessl.spec import FieldSpec
    from sciencessl.store.format import StoreHeader
    from sciencessl.store.seal import seal
    from sciencessl.store.writer import PreparedSample, create_store, write_row

    rows, each, size = 4, 500, 40_000
    header = StoreHeader("galaxy", "x", {"image": FieldSpec("bytes", ("r", "g", "b"))}, rows, each, {}, "p", "c")
    create_store(tmp_path / "s.zarr", header, each * size)
    rng = np.random.default_rng(0)
    for row in range(rows):
        payloads = [{"image": rng.bytes(size)} for _ in range(each)]
        samples = [PreparedSample(f"{row}-{i}", "train", payload) for i, payload in enumerate(payloads)]
        write_row(tmp_path / "s.zarr", header, row, samples, [], "inputs")
    seal(tmp_path / "s.zarr", header)
    (tmp_path / "measured.py").write_text(MEASURED)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = subprocess.run([sys.executable, str(tmp_path / "measured.py"), str(tmp_path / "s.zarr")], check=True,
                           capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    resident = [int(line) for line in found.stdout.split()]
    assert len(resident) == 6
    assert max(resident[1:]) - resident[0] < 12 * 2**20
