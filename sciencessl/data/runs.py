"""Reading a shuffled order at the speed of a sequential one: whole runs are read once and kept while they are in use.

A read costs about as much as two megabytes of data, and a checksum covers a chunk of up to four: sample by sample, a
shuffled epoch would take several times as long to read as to decode. An order deals runs of consecutive samples
(`SampleOrder.run_of`), a bounded number of which is in use at a time, so each is read in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sciencessl.data.order import Int64, Order, cut_batch
from sciencessl.grouping import places_of
from sciencessl.store.joined import JoinedStores
from sciencessl.store.kept import Kept
from sciencessl.store.reader import Store
from sciencessl.store.remote import read_each
from sciencessl.store.seal import required_receipt
from sciencessl.store.split import SplitIndex

IN_USE_BYTES = 384 * 2**20
"""Payloads of all runs that an order has in use at a time, over all ranks, as its runs are sized."""
KEPT_BYTES = 512 * 2**20
"""Most payload bytes that a process keeps: what is in use, and some for runs of unequal size."""
RUN_BYTES = 8 * 2**20
"""Longest run: twice as long reads no faster."""
GAP_BYTES = 2 * 2**20
"""Samples that nobody asked for are read along where they are fewer bytes than a read costs."""
ROWS = 16
"""Rows that are asked for the size of a sample."""


def sample_bytes(store: Store | JoinedStores) -> int:
    """Mean payload bytes of a sample, 1 or more, from the receipts of a few rows; the largest of joined stores."""
    if isinstance(store, JoinedStores):
        return max(sample_bytes(one) for one in store.stores)
    rows = np.unique(np.linspace(0, store.header.rows - 1, ROWS).astype(int))
    receipts = [required_receipt(store.path, int(row)) for row in rows]
    samples = sum(receipt.samples for receipt in receipts)
    return max(1, sum(receipt.payload_bytes for receipt in receipts) // max(samples, 1))


def longest_run(store: Store | JoinedStores, batch: int, slots: int | None = None, parts: int = 1) -> int:
    """Samples of the longest run that an order over a store should deal: what is in use then fits `IN_USE_BYTES`.

    Where all of the store does, nothing but `RUN_BYTES` bounds a run.

    Args:
        store: One store, or several joined.
        batch: Global batch size.
        slots: As in `Order`: each is a stream, so more slots make shorter runs.
        parts: Orders of a mixture, each with streams of its own.

    Raises:
        ConfigError: For slots that do not divide the batch.
        StoreError: When a receipt is missing or damaged.
    """
    streams = cut_batch("longest_run", batch, slots) * parts
    size = sample_bytes(store)
    fits = size * len(store) <= IN_USE_BYTES
    return max(1, (RUN_BYTES if fits else min(RUN_BYTES, IN_USE_BYTES // (streams * (Order.mix_units + 1)))) // size)


@dataclass(frozen=True, eq=False)
class Read:
    """Samples as they were read.

    Attributes:
        index: (K,) int64 store indices.
        keys: (K, 16) uint8 keys.
        payloads: Field -> K payloads.
    """

    index: Int64
    keys: np.ndarray
    payloads: Mapping[str, list[bytes | np.ndarray]]

    @cached_property
    def nbytes(self) -> int:
        """Payload bytes."""
        return sum(len(p) if isinstance(p, bytes) else p.nbytes for values in self.payloads.values() for p in values)


class RunCache:
    """Samples of a split by position, read run by run; the runs used last are kept, up to `KEPT_BYTES` and one.

    Args:
        store: Where they lie.
        split: Which they are.
        fields: Fields that are read; all by default.
    """

    def __init__(
        self, store: Store | JoinedStores, split: SplitIndex, fields: Sequence[str] | None = None
    ) -> None:
        self._store = store
        self._fields = tuple(store.header.fields) if fields is None else tuple(fields)
        self._split = split
        self._path = (store.stores[0] if isinstance(store, JoinedStores) else store).path
        self._gap = max(1, GAP_BYTES // sample_bytes(store))
        self._kept: Kept[Read] = Kept(KEPT_BYTES)

    @property
    def nbytes(self) -> int:
        """Payload bytes that are kept."""
        return self._kept.nbytes

    def __call__(self, positions: Int64, first: Int64, stop: Int64) -> Read:
        """The samples at positions, in the order asked for. Arrays are read-only, as they are kept.

        Args:
            positions: (K,) positions in the split.
            first: (K,) first position of the run that each lies in.
            stop: (K,) one after its last.

        Raises:
            StoreError: When a row is damaged.
        """
        payloads: dict[str, list[bytes | np.ndarray]] = {name: [b""] * len(positions) for name in self._fields}
        index = np.empty(len(positions), np.int64)
        keys = np.empty((len(positions), 16), np.uint8)
        for where, run in self._runs(first, stop):
            local = positions[where] - first[where]
            index[where], keys[where] = run.index[local], run.keys[local]
            for name, values in run.payloads.items():
                for place, at in zip(where.tolist(), local.tolist(), strict=True):
                    payloads[name][place] = values[at]
        return Read(index, keys, payloads)

    def _runs(self, first: Int64, stop: Int64) -> Iterator[tuple[Int64, Read]]:
        """Each run once, and where it is asked for: first those that are kept; the others as they are read."""
        missing = []
        for start, where in places_of(first):
            kept = self._kept.find(start)
            if kept is None:
                missing.append((start, where))
            else:
                yield where, kept
        bounds = [(start, int(stop[where[0]])) for start, where in missing]
        read = read_each(self._path, lambda run: self._read(self._split.to_store(np.arange(*run))), bounds)
        for (start, where), run in zip(missing, read, strict=True):
            self._kept.keep(start, run)
            yield where, run

    def _read(self, index: Int64) -> Read:
        """Samples at store indices, in one read for all that lie close together."""
        order = np.argsort(index, kind="stable")
        ascending, back = index[order], np.argsort(order).tolist()
        payloads: dict[str, list[bytes | np.ndarray]] = {name: [] for name in self._fields}
        for piece in np.split(ascending, np.flatnonzero(np.diff(ascending) > self._gap) + 1):
            first, stop = int(piece[0]), int(piece[-1]) + 1
            places = (piece - first).tolist()
            for name, values in payloads.items():
                found = self._store.consecutive(name, first, stop)
                # Arrays of one read are views of one: of a few among many, copies let the others go.
                few = len(places) < len(found)
                values += [_kept(found[place], few) for place in places]
        given = {name: [values[place] for place in back] for name, values in payloads.items()}
        return Read(index, self._store.keys(index), given)


def _kept(payload: bytes | np.ndarray, copy: bool) -> bytes | np.ndarray:
    if isinstance(payload, np.ndarray):
        payload = payload.copy() if copy else payload
        payload.flags.writeable = False
    return payload
