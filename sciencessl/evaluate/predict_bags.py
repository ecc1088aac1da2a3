"""What a model of bags says of a store: probabilities of each bag, the attention of its samples, and maps of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import DataError, StoreError, did_you_mean
from sciencessl.evaluate.attention_maps import map_name, tile_boxes, write_map
from sciencessl.evaluate.bags import Bags, group_bags
from sciencessl.evaluate.classifier import SavedClassifier
from sciencessl.monitor.throughput import Progress
from sciencessl.store.files import parquet_bytes, write_atomic
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side

ATTENTION = "attention"
BAGS = "bags.parquet"
MAPS = "maps"


def store_bags(classifier: SavedClassifier, store: Store, index: np.ndarray) -> Bags:
    """The bags of samples, by the column that the model's task names.

    Args:
        classifier: Of kind `bag`.
        store: Of the samples.
        index: (n,) their store indices, ascending. Those without a name of a bag are left out.

    Raises:
        StoreError: When the store has no such column.
        DataError: When no sample has a value in it.
    """
    column, known = classifier.card.bag, store.columns()
    if column not in known:
        raise StoreError(
            f"{store.path} has no column {column!r}, which names the bags of {classifier.encoder.name}."
            f"{did_you_mean(column, known)} Columns: {', '.join(sorted(known))}. Prepare with one (--keep {column})."
        )
    names = Side(store, index, "samples").texts(column)
    if not (names != "").any():
        raise DataError(f"{store.path}: none of {len(index)} samples has a value in {column!r}, which names its bag.")
    return group_bags(names[names != ""], index[names != ""])


def whole_bags(bags: Bags, size: int) -> tuple[int, ...]:
    """Positions in `bags.samples` at which shards start: each of `size` samples or more, but for the last."""
    starts = [0]
    for end in bags.start[1:-1].tolist():
        if end - starts[-1] >= size:
            starts.append(end)
    return tuple(starts)


def bag_predictions(
    classifier: SavedClassifier, names: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n, K) probabilities of the bag of each sample, and (n,) float64 attention.

    Args:
        classifier: Of kind `bag`.
        names: (n,) bag of each sample; those of one bag follow each other.
        features: (n, F) finite.
    """
    sizes = np.diff([*_starts(names), len(names)])
    parts = np.split(features, np.cumsum(sizes)[:-1])
    told = classifier.probabilities(np.stack([classifier.pooled(part) for part in parts]))
    return np.repeat(told, sizes, axis=0), np.concatenate([classifier.weigh(part) for part in parts])


def _starts(names: np.ndarray) -> list[int]:
    return [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist()]


@dataclass(frozen=True)
class BagShards:
    """Shards of predictions in which the samples of a bag follow each other.

    Attributes:
        column: That names the bag.
        parts: Each shard's file and the store indices of its rows.
    """

    column: str
    parts: list[tuple[Path, np.ndarray]]

    def bags(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Rows of each bag and their store indices."""
        for path, index in self.parts:
            table = pq.read_table(path)
            starts = _starts(np.array(table[self.column].to_pylist(), dtype=object))
            for start, end in zip(starts, [*starts[1:], len(index)], strict=True):
                yield table.slice(start, end - start), index[start:end]


def write_bags(out: Path, shards: BagShards, columns: Sequence[str]) -> pa.Table:
    """Write `bags.parquet`: a row for each bag, its name, how many samples it has, and what is predicted of it.

    Args:
        out: Folder of the predictions.
        shards: Of them.
        columns: That are the same for all samples of a bag.
    """
    first = [(table.slice(0, 1).select([shards.column, *columns]), len(index)) for table, index in shards.bags()]
    told = pa.concat_tables([table for table, _ in first])
    told = told.add_column(1, "samples", pa.array([count for _, count in first]))
    write_atomic(out / BAGS, parquet_bytes(told))
    return told


def write_maps(out: Path, shards: BagShards, store: Store, bags: int) -> int:
    """Write a map of each bag into `maps` that is not there; returns how many there are, 0 where the store does not say
    where samples lie.

    Args:
        out: Folder of the predictions.
        shards: Of them.
        store: Of the samples.
        bags: How many there are.
    """
    boxes = tile_boxes(store)
    if boxes is None:
        return 0
    progress = Progress(bags, unit="map", title="predict: maps")
    for number, (table, index) in enumerate(shards.bags(), 1):
        row = table.slice(0, 1).to_pylist()[0]
        name = str(row[shards.column])
        if not (out / MAPS / f"{map_name(name)}.png").is_file():
            title = f"{name}: {row['predicted']} ({row['confidence']:.2f}), {len(index):,} tiles"
            write_map(out / MAPS, name, title, store, index, boxes[index], np.asarray(table[ATTENTION]))
        progress.update(number)
    progress.close()
    return bags


def remove_maps(out: Path) -> None:
    """Delete the maps of other predictions."""
    for stale in [*(out / MAPS).glob("*.png"), *(out / MAPS).glob("*.geojson")]:
        stale.unlink()
