"""From a sealed store to batches of views: the worker yields whole batches of its rank, in the stored dtype.

Nothing that a worker holds is needed to resume: which sample comes when, and how it is augmented, is a pure function
of (seed, epoch, step), so the state of a run is the number of tickets taken.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sciencessl.data.decode import takes_least_px
from sciencessl.data.order import SampleOrder, augmentation_rng
from sciencessl.data.phases import ONE, Phases
from sciencessl.data.runs import RunCache
from sciencessl.errors import (
    DataError,
    MissingExtraError,
    OutOfReachError,
    RunError,
    SciencesslError,
    StoreError,
)
from sciencessl.machine import end_with_parent
from sciencessl.registry import resolve
from sciencessl.samples import Batch, Sample
from sciencessl.spec import View, ViewRandom
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.split import SplitIndex

FORKSERVER_PRELOAD = ["sciencessl.data.loader", "sciencessl.views.operations"]
"""Imported once by the server that loader processes are forked from, instead of by each of them."""

CPU = torch.device("cpu")

Payloads = Mapping[str, Sequence[bytes | np.ndarray]]
"""Field -> what the store holds of it, one payload a sample."""

_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback")


class Decoder:
    """Samples of a store by index, decoded. Picklable; opens the store on first use in each process.

    Args:
        store: The sealed store, or several joined.
        decode: `module:function` of the domain: stored bytes or array and its field -> (H, W, C).
    """

    def __init__(self, store: Store | JoinedStores, decode: str) -> None:
        self.store = store
        self._target = decode

    @functools.cached_property
    def _decode(self) -> Callable[..., np.ndarray]:
        function: Callable[..., np.ndarray] = resolve(self._target)
        return function

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "_target": self._target}

    def __call__(self, index: np.ndarray, view: View | None = None) -> list[Sample]:
        """Decoded samples, in the order asked for; arguments as in `decode`."""
        return list(self.decode(index, self.read(index, view), view))

    def read(self, index: np.ndarray, view: View | None = None) -> dict[str, list[bytes | np.ndarray]]:
        """What the store holds of samples: field -> one payload each; with a view, of the fields that it reads."""
        return {name: self.store.payloads(name, index) for name in self.fields(view)}

    def fields(self, view: View | None) -> tuple[str, ...]:
        """The fields of the store that a view reads: those of its `reads` that are there, by default the primary one.
        None reads them all."""
        known = tuple(self.store.header.fields)
        if view is None:
            return known
        return tuple(name for name in known if name in getattr(view, "reads", (self.store.primary,)))

    def decode(self, index: np.ndarray, payloads: Payloads, view: View | None = None) -> Iterator[Sample]:
        """Samples from what was read of them, each decoded when its turn comes, once for all its views.

        Args:
            index: Store indices.
            payloads: What was read; samples have these fields, and `meta["channels"]` the names of their channels.
            view: What they are for: a large JPEG is decoded no larger than its `least_px` asks. None decodes in full.
        """
        least = getattr(view, "least_px", {}) if takes_least_px(self._decode) else {}
        told = {name: {"least_px": px} for name, px in least.items()}
        fields = {name: self.store.header.fields[name] for name in payloads}
        meta = {"channels": {name: spec.channels for name, spec in fields.items()}}
        for i, position in enumerate(index):
            yield Sample(
                {name: self._decode(payloads[name][i], spec, **told.get(name, {})) for name, spec in fields.items()},
                meta, index=int(position),
            )


@dataclass(frozen=True)
class ViewRandomness:
    """The generators of one sample in one epoch: call it with the number of the view."""

    seed: int
    epoch: int
    key: int

    def __call__(self, view: int) -> np.random.Generator:
        return augmentation_rng(self.seed, self.epoch, self.key, view)


def apply_view(view: View, sample: Sample, random: ViewRandom) -> list[Sample]:
    """The views of a sample; an error names the sample that it came from."""
    try:
        return view(sample, random)
    except Exception as error:
        error.add_note(f"while making views of the sample at index {sample.index}")
        raise


def collate(samples: Iterable[Sequence[Sample]], count: int, names: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    """`count` lists of V views -> V dictionaries of (B, C, H, W) tensors in the stored dtype, channels last in memory.

    Each sample is copied into its place as it comes, while the processor still has it at hand.

    Raises:
        DataError: When the views of one number differ in shape or dtype.
    """
    arrays: list[dict[str, np.ndarray]] = []
    for row, views in enumerate(samples):
        if not arrays:
            arrays = [{name: _room(count, view.fields[name]) for name in names} for view in views]
        for number, (view, places) in enumerate(zip(views, arrays, strict=True)):
            for name, place in places.items():
                image = view.fields[name]
                if image.shape != place.shape[1:] or image.dtype != place.dtype:
                    raise DataError(
                        f"view {number} of field {name!r} is {image.dtype} {image.shape} for the sample at index "
                        f"{view.index} and {place.dtype} {place.shape[1:]} for the first of its batch; views of one "
                        "number have one shape. Resize or crop in `views`."
                    )
                place[row] = image
    return [{name: torch.from_numpy(place).permute(0, 3, 1, 2) for name, place in places.items()} for places in arrays]


def _room(count: int, image: np.ndarray) -> np.ndarray:
    return np.empty((count, *image.shape), image.dtype)


class BatchStream(IterableDataset[Batch]):
    """The endless stream of one rank's batches, from any step on.

    Args:
        decoder: Reads and decodes samples.
        order: Which sample stands where.
        split: The samples that `order` orders.
        views: Settings -> (train views, evaluation view); picklable, called once in each worker.
        settings: The argument of `views`.
        labels: Name -> labels of all N samples of the store, aligned with it.
        fields: Fields whose views are wanted.
        start_step: First step to yield.
        rank: Of this process.
        world: Number of processes.
        phases: How many batches of the order each step takes.
    """

    def __init__(
        self,
        decoder: Decoder,
        order: SampleOrder,
        split: SplitIndex,
        views: Callable[[Any], tuple[View, View]],
        settings: Any,
        labels: Mapping[str, np.ndarray],
        fields: list[str],
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        phases: Phases = ONE,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.order = order
        self.split = split
        self._views = views
        self._settings = settings
        self.labels = dict(labels)
        self.fields = fields
        self.start_step = start_step
        self.rank = rank
        self.world = world
        self.phases = phases

    @functools.cached_property
    def _train_view(self) -> View:
        return self._views(self._settings)[0]

    @functools.cached_property
    def _runs(self) -> RunCache:
        return RunCache(self.decoder.store, self.split, self.decoder.fields(self._train_view))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_train_view", "_runs")}

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.start_step + number
        while True:
            yield self.batch(step)
            step += count

    def batch(self, step: int) -> Batch:
        """The rank's part of the global batch of a step: of each batch of the order in it, one after the other."""
        parts = [self.order.rank_part(number, self.rank, self.world) for number in self.phases.batches(step)]
        turns, positions = (np.concatenate(part) for part in zip(*parts, strict=True))
        read = self._runs(positions, *self.order.run_of(positions))
        return self._batch(read.index, turns, read.keys, read.payloads)

    def make(self, index: np.ndarray, turns: np.ndarray) -> Batch:
        """The batch of given samples.

        Args:
            index: (B,) int64 store indices.
            turns: (B,) int64, which enter the augmentation: in an `Order` the epochs.
        """
        return self._batch(index, turns, self.decoder.store.keys(index), self.decoder.read(index, self._train_view))

    def _batch(self, index: np.ndarray, turns: np.ndarray, keys: np.ndarray, payloads: Payloads) -> Batch:
        samples = zip(self.decoder.decode(index, payloads, self._train_view), turns.tolist(), keys, strict=True)
        views = (
            apply_view(self._train_view, sample, ViewRandomness(self.order.seed, turn, _as_int(key)))
            for sample, turn, key in samples
        )
        return Batch(
            views=collate(views, len(index), self.fields),
            labels={name: torch.from_numpy(values[index]) for name, values in self.labels.items()},
            ids=[key.tobytes().hex() for key in keys],
            index=index,
        )


def _as_int(key: np.ndarray) -> int:
    return int.from_bytes(key.tobytes(), "little")


def make_loader(
    stream: IterableDataset[Any], workers: int, prefetch: int = 4, device: torch.device = CPU
) -> DataLoader[Any]:
    """A DataLoader over a stream of whole batches.

    Workers come from a fork server, never from a fork of the trainer: decoders and Zarr hold threads and locks. The
    order of batches does not depend on their number.

    Args:
        stream: Yields batches.
        workers: Processes; 0 loads in this one.
        prefetch: Batches that each worker makes ahead.
        device: Where batches will go: for a GPU they come in page-locked memory.
    """
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=_context() if workers else None,
        worker_init_fn=_start_worker if workers else None,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=False,
        pin_memory=device.type == "cuda",
        # Streams draw nothing from torch; without one of its own a loader moves the caller's global generator.
        generator=torch.Generator(),
    )


def start_server() -> None:
    """Start the process that loader workers are forked from: its imports then run beside the caller's own work.

    It and they do not take part in the signals to a whole job: the trainer answers, and they serve it until then.
    """
    _context()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))  # a process inherits it
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> Any:
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FORKSERVER_PRELOAD)
    return context


def _start_worker(worker: int) -> None:
    """One core a worker: the decoder's and torch's own threads would fight with the other workers."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Sent to the whole job, these are the trainer's to answer. SIGTERM is how it ends a worker itself.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))  # before there are threads, which inherit it
        threading.Thread(target=_end_at_its_word, daemon=True).start()
    end_with_parent()


def _end_at_its_word() -> None:
    trainer = multiprocessing.parent_process()
    while trainer is not None:
        if signal.sigwaitinfo((signal.SIGTERM,)).si_pid == trainer.pid:
            os._exit(1)


def loader_error(error: Exception) -> Exception | None:
    """What went wrong while loading, in one sentence; None when the error is none of the loader's.

    A process that is gone becomes a `RunError`. An error of ours that was raised in a worker, and carries the
    worker's traceback as its message, becomes what was raised.
    """
    text = str(error)
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return RunError(
            f"a loader process ended unexpectedly ({text.splitlines()[0]}). Often the machine ran out of memory: use "
            "a smaller batch or fewer compute.workers, then --resume."
        )
    if isinstance(error, SciencesslError):
        if _IN_WORKER.match(text):
            name = f"{type(error).__module__}.{type(error).__qualname__}: "
            return type(error)(text.rpartition(name)[2].strip())
        return error if isinstance(error, StoreError | OutOfReachError | MissingExtraError) else None
    return None


class EvaluationStream(IterableDataset[Batch]):
    """Evaluation views of given samples, once, in order, in batches.

    Args:
        decoder: Reads and decodes samples.
        index: Store indices.
        views: As in `BatchStream`.
        settings: The argument of `views`.
        fields: Fields whose views are wanted.
        batch: Samples a batch.
    """

    def __init__(
        self,
        decoder: Decoder,
        index: np.ndarray,
        views: Callable[[Any], tuple[View, View]],
        settings: Any,
        fields: list[str],
        batch: int = 256,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.index = index
        self._views = views
        self._settings = settings
        self.fields = fields
        self.size = batch

    @functools.cached_property
    def _view(self) -> View:
        return self._views(self._settings)[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_view"}

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for start in range(number * self.size, len(self.index), count * self.size):
            yield self._batch(self.index[start : start + self.size])

    def _batch(self, index: np.ndarray) -> Batch:
        keys = self.decoder.store.keys(index)
        samples = zip(self.decoder.decode(index, self.decoder.read(index, self._view), self._view), keys, strict=True)
        views = (apply_view(self._view, sample, ViewRandomness(0, 0, _as_int(key))) for sample, key in samples)
        ids = [key.tobytes().hex() for key in keys]
        return Batch(collate(views, len(index), self.fields), {}, ids, index)
