"""Embeddings that a transfer needs, computed once and kept; only samples that some fit or the test reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sciencessl.evaluate.cache import read_arrays, write_arrays
from sciencessl.evaluate.encoders import Encoder, embed_together
from sciencessl.evaluate.plan import Plan
from sciencessl.monitor.throughput import Progress
from sciencessl.store.format import digest
from sciencessl.store.reader import Store


class FeatureCache:
    """Embeddings of one store by encoder, one file each; samples asked for later are added.

    Args:
        folder: Of the files.
        store: The store.
        workers: Loader processes.
        statistics: Store that encoders take batch-norm statistics from, where they do; by default `store`.
    """

    def __init__(self, folder: Path, store: Store, workers: int = 1, statistics: Store | None = None) -> None:
        self.folder = folder
        self.store = store
        self.workers = workers
        self.statistics = statistics or store

    def missing(self, encoder: Encoder, index: np.ndarray) -> np.ndarray:
        """The sorted store indices among `index` that have no embedding yet; none for a table of features."""
        if encoder.table is not None:
            return np.zeros(0, np.int64)
        return np.setdiff1d(index, self._read(encoder)[0])

    def fill(self, encoders: Sequence[Encoder], index: np.ndarray) -> None:
        """Compute what is missing. Encoders of one input that lack the same samples share the decoding.

        Args:
            encoders: Whose embeddings are wanted.
            index: Store indices, in any order.
        """
        groups: dict[tuple[str, bytes], list[Encoder]] = {}
        for encoder in {encoder.digest: encoder for encoder in encoders}.values():
            groups.setdefault((encoder.input, self.missing(encoder, index).tobytes()), []).append(encoder)
        for (_, raw), group in groups.items():
            wanted = np.frombuffer(raw, dtype=np.int64)
            if len(wanted):
                self._compute(group, wanted)

    def get(self, encoder: Encoder, index: np.ndarray) -> np.ndarray:
        """(n, F) embeddings of samples that `fill` was asked for, in the order of `index`."""
        if encoder.table is not None:
            ids = self.store.ids
            return encoder.table.rows([ids[i] for i in index])
        known, values = self._read(encoder)
        rows: np.ndarray = values[np.searchsorted(known, index)]
        return rows

    def _compute(self, encoders: Sequence[Encoder], index: np.ndarray) -> None:
        names = encoders[0].name if len(encoders) == 1 else f"{len(encoders)} encoders"
        progress = Progress(len(index), unit="image", title=f"embed with {names}")
        # In store order, so that each window of a row is read once.
        found = embed_together(encoders, self.store, index, self.workers, lambda done, _: progress.update(done),
                               self.statistics)
        progress.close()
        for encoder, values in zip(encoders, found, strict=True):
            known, kept = self._read(encoder)
            merged = np.concatenate([known, index])
            order = np.argsort(merged)
            write_arrays(self._path(encoder), index=merged[order], values=np.concatenate([kept, values])[order])

    def _path(self, encoder: Encoder) -> Path:
        parts = [encoder.digest, self.store.digest]
        if encoder.statistics and self.statistics is not self.store:
            parts.append(self.statistics.digest)
        if encoder.statistics and self.statistics.removals_digest:
            parts.append(self.statistics.removals_digest)
        return self.folder / f"{digest(*(part.encode() for part in parts))}.npz"

    def _read(self, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
        stored = read_arrays(self._path(encoder))
        if stored is None or stored.keys() != {"index", "values"}:
            return np.zeros(0, np.int64), np.zeros((0, encoder.card.features), np.float32)
        return stored["index"], stored["values"]


class Features:
    """Features of a plan's samples: of the store that labels are drawn from, and of the one that is tested on.

    Attributes:
        pool: Cache of the former.
        test: Cache of the latter; the same where there is one store.
    """

    def __init__(self, plan: Plan, workers: int = 1) -> None:
        folder = plan.out / "features"
        self.plan = plan
        self.pool = FeatureCache(folder, plan.store, workers)
        same = plan.test_store is plan.store
        self.test = self.pool if same else FeatureCache(folder, plan.test_store, workers, plan.store)
        self._held: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}

    def fill(self, encoders: Sequence[Encoder]) -> None:
        """Compute what is missing for any fit of these encoders."""
        self.pool.fill(encoders, self.plan.samples())
        if self.test is not self.pool:
            self.test.fill(encoders, self.plan.data.test_samples)

    def missing(self, encoder: Encoder) -> int:
        """How many embeddings `fill` would compute."""
        lacking = len(self.pool.missing(encoder, self.plan.samples()))
        if self.test is not self.pool:
            lacking += len(self.test.missing(encoder, self.plan.data.test_samples))
        return lacking

    def of_pool(self, encoder: Encoder, index: np.ndarray) -> np.ndarray:
        """(n, F) features of samples of the store that labels are drawn from."""
        return self._get("pool", encoder, index)

    def of_test(self, encoder: Encoder, index: np.ndarray) -> np.ndarray:
        """(m, F) features of test samples."""
        return self._get("pool" if self.test is self.pool else "test", encoder, index)

    def _get(self, where: str, encoder: Encoder, index: np.ndarray) -> np.ndarray:
        """Of the encoder at hand, whose features are held."""
        held = self._held.get(where)
        if held is None or held[0] != encoder.digest:
            samples = self.plan.samples() if where == "pool" else np.unique(self.plan.data.test_samples)
            cache = self.pool if where == "pool" else self.test
            held = self._held[where] = encoder.digest, samples, cache.get(encoder, samples)
        found: np.ndarray = held[2][np.searchsorted(held[1], index)]
        return found
