"""Batches do not depend on the number of workers or ranks, and a loader that fails says why."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sciencessl.data.decode import decode
from sciencessl.data.loader import (
    BatchStream,
    Decoder,
    EvaluationStream,
    loader_error,
    make_loader,
)
from sciencessl.data.mixture import mix_labelled, mix_stores
from sciencessl.data.order import Order, SampleOrder
from sciencessl.data.weights import balance, weighted_order
from sciencessl.domains.galaxy.views import GalaxyViews, galaxy_views
from sciencessl.errors import ConfigError, DataError, RunError, StoreError
from sciencessl.samples import Batch, Sample
from sciencessl.spec import View, ViewRandom
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store

DECODE = "sciencessl.data.decode:decode"
TRAIN = 48
SIZE = 16


def stream(path: Path, batch: int = 10, **changes: Any) -> BatchStream:
    store = Store(path)
    split = store.split("train")
    values: dict[str, Any] = {
        "decoder": Decoder(store, DECODE), "order": Order(len(split), 3, batch), "split": split, "views": galaxy_views,
        "settings": GalaxyViews(size=SIZE), "labels": {"position": np.arange(len(store))}, "fields": ["image"],
    }
    return BatchStream(**{**values, **changes})


def take(source: BatchStream, workers: int, count: int) -> list[Batch]:
    batches = list(itertools.islice(make_loader(source, workers), count))
    assert len(batches) == count
    return batches


def assert_same(first: Batch, second: Batch) -> None:
    assert first.ids == second.ids
    assert np.array_equal(first.index, second.index)
    assert first.labels.keys() == second.labels.keys()
    assert all(torch.equal(first.labels[name], second.labels[name]) for name in first.labels)
    assert len(first.views) == len(second.views) == 2
    for one, other in zip(first.views, second.views, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("start", [0, 3])
def test_batches_are_the_same_for_any_number_of_workers(tiny_store: Path, start: int) -> None:
    """Steps 0 to 8 of 10 samples cross the end of the first epoch (48) at step 4."""
    direct = [stream(tiny_store).batch(step) for step in range(start, start + 6)]
    for workers in (0, 1, 3):
        for expected, batch in zip(direct, take(stream(tiny_store, start_step=start), workers, 6), strict=True):
            assert_same(expected, batch)


def _balanced(classes: np.ndarray) -> SampleOrder:
    return weighted_order(balance(classes), 3, 10)


def _half_labelled(classes: np.ndarray) -> SampleOrder:
    return mix_labelled(classes >= 0, 0.5, 3, 10)


@pytest.mark.parametrize("build", [_balanced, _half_labelled])
def test_batches_by_weight_and_by_ratio_are_the_same_for_any_number_of_workers_and_ranks(
    tiny_store: Path, build: Callable[[np.ndarray], SampleOrder]
) -> None:
    order = build(np.arange(TRAIN) % 4 - 1)
    direct = [stream(tiny_store, order=order).batch(step) for step in range(2, 6)]
    for workers in (0, 1, 3):
        found = take(stream(tiny_store, order=order, start_step=2), workers, 4)
        for expected, batch in zip(direct, found, strict=True):
            assert_same(expected, batch)
    parts = [stream(tiny_store, order=order, rank=rank, world=2).batch(2) for rank in (0, 1)]
    assert [i for part in parts for i in part.ids] == direct[0].ids
    images = torch.cat([part.views[0]["image"] for part in parts])
    assert torch.equal(images, direct[0].views[0]["image"])


def test_a_sample_that_comes_twice_in_an_epoch_looks_new_each_time(tiny_store: Path) -> None:
    classes = np.arange(TRAIN) * 0
    classes[0] = 1
    source = stream(tiny_store, order=weighted_order(balance(classes), 3, TRAIN))
    batch = source.batch(0)
    first = source.split.to_store(np.array([0]))[0]
    views = batch.views[0]["image"][torch.from_numpy(batch.index == first)]
    assert len(views) == 24
    assert len(torch.unique(views, dim=0)) == 24


def test_two_stores_give_their_share_of_each_batch(tiny_store: Path, tmp_path: Path, make_store: Any) -> None:
    stores = [Store(tiny_store), Store(make_store(tmp_path / "other.zarr", rows=1, each=15, seed=4))]
    joined = JoinedStores(stores)
    order = mix_stores([len(store.split("train")) for store in stores], (3, 1), 0, 8)
    source = stream(tiny_store, decoder=Decoder(joined, DECODE), order=order, split=joined.split("train"),
                    labels={"position": np.arange(len(joined))})
    for step, batch in enumerate(take(source, 0, 6)):
        other = batch.index >= 60
        assert other.sum() == 2
        assert np.array_equal(batch.labels["position"], batch.index)
        assert batch.ids == [
            stores[int(i >= 60)].keys(np.array([i - 60 * (i >= 60)])).tobytes().hex() for i in batch.index
        ]
        assert set(joined.split("train").all()) >= set(batch.index.tolist())
        assert order.taken(step + 1) == (6 * (step + 1), 2 * (step + 1))


def test_batches_hold_stored_pixels_and_aligned_labels(tiny_store: Path) -> None:
    store, batch = Store(tiny_store), stream(tiny_store).batch(0)
    assert len(batch) == 10
    assert [view["image"].shape for view in batch.views] == [(10, 3, SIZE, SIZE)] * 2
    assert batch.views[0]["image"].dtype == torch.uint8
    assert not torch.equal(batch.views[0]["image"], batch.views[1]["image"])
    assert np.array_equal(batch.labels["position"], batch.index)
    assert batch.ids == [key.tobytes().hex() for key in store.keys(batch.index)]
    assert set(store.split_codes()[batch.index]) == {0}


def test_only_for_a_gpu_every_tensor_of_a_batch_is_pinned_by_the_loader(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    source = stream(tiny_store)
    assert not make_loader(source, 0).pin_memory
    assert make_loader(source, 0, device=torch.device("cuda", 1)).pin_memory
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = source.batch(0)
    found = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert_same(found, batch)
    own = [*(view["image"] for view in batch.views), batch.labels["position"]]
    assert [id(tensor) for tensor in pinned] == [id(tensor) for tensor in own]
    assert found.views[0]["image"] is not own[0]
    assert_same(found.slice(2, 5), batch.slice(2, 5))


def test_every_sample_comes_once_an_epoch_and_looks_new_in_the_next(tiny_store: Path) -> None:
    batches = take(stream(tiny_store, batch=16), 1, 6)
    images: dict[int, list[torch.Tensor]] = {}
    for epoch in (batches[:3], batches[3:]):
        seen = Counter(int(i) for batch in epoch for i in batch.index)
        assert seen == dict.fromkeys(Store(tiny_store).split("train").all().tolist(), 1)
        for batch in epoch:
            for row, i in enumerate(batch.index):
                images.setdefault(int(i), []).append(batch.views[0]["image"][row])
    assert len(images) == TRAIN
    assert all(not torch.equal(first, second) for first, second in images.values())


def test_the_ranks_of_a_batch_make_up_the_batch(tiny_store: Path) -> None:
    for step in (0, 5):
        whole = stream(tiny_store).batch(step)
        parts = [stream(tiny_store, rank=rank, world=2).batch(step) for rank in (0, 1)]
        assert [len(part) for part in parts] == [5, 5]
        joined = Batch(
            [{"image": torch.cat([part.views[v]["image"] for part in parts])} for v in (0, 1)],
            {"position": torch.cat([part.labels["position"] for part in parts])},
            [i for part in parts for i in part.ids], np.concatenate([part.index for part in parts]),
        )
        assert_same(whole, joined)


def test_ranks_that_do_not_divide_the_slots_are_refused(tiny_store: Path) -> None:
    with pytest.raises(ConfigError, match="world size 3 does not divide"):
        stream(tiny_store, rank=0, world=3).batch(0)


def test_a_stream_pickles_as_settings_not_as_open_files(tiny_store: Path) -> None:
    source = stream(tiny_store)
    source.batch(0)
    raw = pickle.dumps(source)
    assert len(raw) < 20_000
    assert_same(pickle.loads(raw).batch(2), source.batch(2))


def test_evaluation_views_come_once_in_order_for_any_number_of_workers(tiny_store: Path) -> None:
    store = Store(tiny_store)
    index = np.array([5, 3, 40, 41, 7, 0, 59])
    for workers in (0, 2):
        source = EvaluationStream(Decoder(store, DECODE), index, galaxy_views, GalaxyViews(size=SIZE), ["image"], 3)
        batches = list(make_loader(source, workers))
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert np.array_equal(np.concatenate([batch.index for batch in batches]), index)
        assert [len(batch.views) for batch in batches] == [1, 1, 1]
        alone = EvaluationStream(Decoder(store, DECODE), index[3:4], galaxy_views, GalaxyViews(size=SIZE), ["image"])
        assert torch.equal(next(iter(alone)).views[0]["image"][0], batches[1].views[0]["image"][0])


def _uneven(settings: GalaxyViews) -> tuple[View, View]:
    def cut(sample: Sample, random: ViewRandom) -> list[Sample]:
        side = 4 + sample.index % 2
        return [Sample(fields={"image": sample.fields["image"][:side, :side]}, index=sample.index)]

    return cut, cut


def test_views_of_unequal_shape_are_refused_by_name(tiny_store: Path) -> None:
    with pytest.raises(DataError, match=r"view 0 of field 'image' is uint8 \(\d, \d, 3\) for the sample at index \d+"):
        stream(tiny_store, views=_uneven).batch(0)


def _failing(settings: GalaxyViews) -> tuple[View, View]:
    def fail(sample: Sample, random: ViewRandom) -> list[Sample]:
        raise DataError("no such view. Try another.")

    return fail, fail


def decoder_of(monkeypatch: pytest.MonkeyPatch, path: Path, function: Callable[..., np.ndarray]) -> Decoder:
    """A decoder of a domain with a `decode` of its own."""
    monkeypatch.setattr("sciencessl.data.decode.of_the_test", function, raising=False)
    return Decoder(Store(path), "sciencessl.data.decode:of_the_test")


def test_each_sample_is_decoded_once_for_all_its_views(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(payload: bytes, field: Any) -> np.ndarray:
        seen.append(len(payload))
        return decode(payload, field)

    def four_views(settings: GalaxyViews) -> tuple[View, View]:
        train, evaluate = galaxy_views(settings)
        return lambda sample, random: train(sample, random) + train(sample, random), evaluate

    decoder = decoder_of(monkeypatch, tiny_store, counted)
    for views, count in ((galaxy_views, 2), (four_views, 4)):
        seen.clear()
        batch = stream(tiny_store, decoder=decoder, views=views).batch(2)
        assert (len(batch.views), len(seen), len(set(batch.index))) == (count, 10, 10)
    seen.clear()
    list(EvaluationStream(decoder, np.arange(7), galaxy_views, GalaxyViews(size=SIZE), ["image"], 3))
    assert len(seen) == 7


def test_a_decode_is_told_what_the_view_needs_where_it_takes_it(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    def newer(payload: bytes, field: Any, least_px: float = np.inf) -> np.ndarray:
        told.append(least_px)
        return decode(payload, field)

    def older(stored: bytes, how: Any) -> np.ndarray:
        return decode(stored, how)

    settings, index = GalaxyViews(size=SIZE), np.arange(2)
    needs = [view.least_px["image"] for view in galaxy_views(settings)]  # type: ignore[attr-defined]
    assert needs[0] > needs[1] > SIZE
    decoder = decoder_of(monkeypatch, tiny_store, newer)
    expected = stream(tiny_store, decoder=decoder).batch(0)
    next(iter(EvaluationStream(decoder, index, galaxy_views, settings, ["image"])))
    decoder(index)
    decoder(index, lambda sample, random: [sample])
    assert told == [needs[0]] * 10 + [needs[1]] * 2 + [np.inf] * 4
    assert_same(expected, stream(tiny_store, decoder=decoder_of(monkeypatch, tiny_store, older)).batch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_view_names_the_sample(tiny_store: Path, workers: int) -> None:
    with pytest.raises(DataError, match="no such view") as caught:
        take(stream(tiny_store, views=_failing), workers, 1)
    everything = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "while making views of the sample at index" in everything


def test_an_error_from_a_worker_is_read_without_its_traceback(tiny_store: Path) -> None:
    with pytest.raises(DataError) as caught:
        take(stream(tiny_store, views=_failing), 1, 1)
    assert "Traceback" in str(caught.value)
    error = loader_error(caught.value)
    assert isinstance(error, DataError)
    first, note = str(error).splitlines()
    assert first == "no such view. Try another."
    assert note.startswith("while making views of the sample at index")


def test_only_errors_of_the_loader_are_taken_for_its_own() -> None:
    assert loader_error(ValueError("x")) is None
    assert loader_error(RuntimeError("x")) is None
    assert loader_error(ConfigError("x")) is None
    damaged = StoreError("row 3 is damaged")
    assert loader_error(damaged) is damaged


def _deadly(settings: GalaxyViews) -> tuple[View, View]:
    def die(sample: Sample, random: ViewRandom) -> list[Sample]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    return die, die


def test_a_worker_that_dies_ends_the_loop_with_advice(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    with pytest.raises(RuntimeError) as caught:
        take(stream(tiny_store, views=_deadly), 1, 1)
    error = loader_error(caught.value)
    assert isinstance(error, RunError)
    assert "a loader process ended unexpectedly" in str(error)
    assert "--resume" in str(error)


@dataclasses.dataclass(frozen=True)
class _Signalled(GalaxyViews):
    """Views that send a signal to their own process first."""


def _signalled(settings: GalaxyViews) -> tuple[View, View]:
    train, evaluate = galaxy_views(settings)

    def make(sample: Sample, random: ViewRandom) -> list[Sample]:
        for number in (signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        return train(sample, random)

    return make, evaluate


def test_workers_leave_signals_to_the_trainer(tiny_store: Path) -> None:
    batch = take(stream(tiny_store, views=_signalled), 1, 1)[0]
    assert_same(batch, stream(tiny_store).batch(0))


def test_sigterm_ends_a_worker_when_it_comes_from_the_trainer_alone(tiny_store: Path) -> None:
    """torchrun, for one, sends it to the whole process group: the trainer still needs batches to end with."""
    batches = iter(make_loader(stream(tiny_store), 1, prefetch=1))
    next(batches)
    (worker,) = batches._workers  # type: ignore[attr-defined]
    subprocess.run(["kill", str(worker.pid)], check=True)
    for step in range(1, 5):
        assert_same(next(batches), stream(tiny_store).batch(step))
    worker.terminate()
    worker.join(20)
    assert not worker.is_alive()


ABANDONED = """
import sys, time
from pathlib import Path
import numpy as np
from sciencessl.data.loader import BatchStream, Decoder, make_loader
from sciencessl.data.mixture import mix_labelled, mix_stores
from sciencessl.data.order import Order, SampleOrder
from sciencessl.data.weights import balance, weighted_order
from sciencessl.domains.galaxy.views import GalaxyViews, galaxy_views
from sciencessl.store.reader import Store

if __name__ == "__main__":
    store = Store(Path(sys.argv[1]))
    split = store.split("train")
    stream = BatchStream(Decoder(store, "sciencessl.data.decode:decode"), Order(len(split), 0, 8), split, galaxy_views,
                         GalaxyViews(size=16), {}, ["image"])
    loader = iter(make_loader(stream, 1))
    next(loader)
    print(loader._workers[0].pid, flush=True)
    time.sleep(60)
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_when_the_trainer_is_killed(tiny_store: Path, tmp_path: Path) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(ABANDONED)
    with subprocess.Popen([sys.executable, str(script), str(tiny_store)], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        worker = int(trainer.stdout.readline())
        assert _alive(worker)
        trainer.kill()
    deadline = time.monotonic() + 20
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)
