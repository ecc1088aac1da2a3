"""Sharded Parquet with a row for each sample of a store, which a second call continues: of `embed` and `predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciencessl.errors import DataError, RunError
from sciencessl.evaluate.feature_table import SHARDS
from sciencessl.monitor.throughput import Progress
from sciencessl.plain import plain
from sciencessl.store.files import parquet_bytes, write_atomic
from sciencessl.store.format import SPLITS
from sciencessl.store.reader import Store

SHARD = 16_384
"""Rows of a file: so few that their embeddings fit into any memory, so many that opening the file costs nothing."""

Compute = Callable[[np.ndarray, Callable[[int, int], None]], dict[str, pa.Array]]
"""Store indices of a shard and what to call with (samples done, samples) -> columns that follow `id` and `split`."""


def chosen_samples(store: Store, split: str, verb: str) -> np.ndarray:
    """(n,) store indices of `train`, `val`, `test` or `all`, in store order.

    Args:
        store: The store.
        split: One of these.
        verb: What is to be done with them, for the error.

    Raises:
        StoreError: For another split.
        DataError: When the split is empty.
    """
    index = (store.present if split == "all" else store.split(split)).all()
    if not len(index):
        raise DataError(f"{store.path}: split={split} holds no samples, so there is nothing to {verb}.")
    return index


@dataclass(frozen=True)
class ShardFolder:
    """A folder of `part-00000.parquet`... and the card that says what is in them.

    A shard that is there is whole and stays as it is; the card, written before the first of them, tells whose it is.

    Attributes:
        out: The folder.
        what: What it holds, in one word: the card is `WHAT.json`.
        made_by: What it depends on, in words: another of these makes other values.
        store: Whose samples they are.
        index: (n,) store indices of the rows, in order.
        size: Rows of a shard.
        starts: Position of the first row of each shard; every `size` rows by default.
    """

    out: Path
    what: str
    made_by: str
    store: Store
    index: np.ndarray
    size: int = SHARD
    starts: tuple[int, ...] = ()

    @property
    def parts(self) -> list[tuple[Path, np.ndarray]]:
        """Each shard's file and the store indices of its rows."""
        starts = self.starts or range(0, len(self.index), self.size)
        ends = [*starts[1:], len(self.index)]
        return [(self.out / f"part-{number:05d}.parquet", self.index[start:end])
                for number, (start, end) in enumerate(zip(starts, ends, strict=True))]

    def holds(self, card: dict[str, Any], overwrite: bool) -> bool:
        """Whether shards in the folder are those of this card, so that they may stay.

        Raises:
            RunError: When the folder holds something else, unless that is other shards of ours to `overwrite`.
        """
        path = self._card
        if path.is_file():
            same = _same(path, card)
            if not same and not overwrite:
                raise RunError(f"{self.out} holds {self.what} of another {self.made_by}; choose another --out or "
                               "pass --overwrite.")
            return same
        if self.out.is_file():
            raise RunError(f"{self.out} is a file; --out names a folder. Choose another --out.")
        if self.out.exists() and any(self.out.iterdir()):
            raise RunError(f"{self.out} is not empty and holds no {self.what}; choose another --out.")
        return False

    def claim(self, card: dict[str, Any], overwrite: bool) -> None:
        """Make the folder that of this card: a new one, or one that `holds` its shards or may be overwritten.

        Raises:
            RunError: As `holds`.
        """
        if not self.holds(card, overwrite):
            for stale in self.out.glob(SHARDS):
                stale.unlink()
            write_atomic(self._card, json.dumps(plain(card), indent=1).encode())

    def fill(self, title: str, compute: Compute) -> int:
        """Compute and write the shards that are not there, one in memory at a time; returns the rows computed.

        Args:
            title: Of the progress bar.
            compute: Called for each of these shards.
        """
        ids, codes = self.store.ids, self.store.split_codes()
        progress = Progress(len(self.index), unit="image", title=title)
        computed = done = 0
        for path, part in self.parts:
            if not path.is_file():
                values = compute(part, partial(_advance, progress, done))
                write_atomic(path, parquet_bytes(pa.table({
                    "id": pa.array([ids[i] for i in part], pa.string()),
                    "split": pa.array([SPLITS[codes[i]] for i in part], pa.string()),
                    **values,
                })))
                computed += len(part)
            else:
                progress.update(done + len(part))
            done += len(part)
        progress.close()
        return computed

    @property
    def _card(self) -> Path:
        return self.out / f"{self.what}.json"


def _advance(progress: Progress, start: int, done: int, total: int) -> None:
    progress.update(start + done)


def _same(path: Path, card: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == plain(card))
    except ValueError:
        return False
