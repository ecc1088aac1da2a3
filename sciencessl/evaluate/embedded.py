"""Embeddings of a store's samples on disk, read a file at a time: any number of samples in little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import DataError
from sciencessl.evaluate.encoders import Encoder, embed_together
from sciencessl.evaluate.feature_table import SHARDS, FeatureTable
from sciencessl.evaluate.shards import SHARD, ShardFolder
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import first_line

EMBEDDING = "embedding"
"""Column of the one encoder of a folder; of several, encoder i has `embedding_i`."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of n samples by one encoder.

    Attributes:
        parts: Where each part is read, and (m,) positions of its samples among the n; -1 for samples that are not.
        samples: n.
    """

    parts: tuple[tuple[Callable[[], np.ndarray], np.ndarray], ...]
    samples: int

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(m,) positions and their (m, F) float32 embeddings, part by part.

        Raises:
            DataError: When an embedding is not finite.
        """
        for read, place in self.parts:
            rows = place >= 0
            values = read()[rows].astype(np.float32)
            if not np.isfinite(values).all():
                broken = int((~np.isfinite(values)).any(axis=1).sum())
                raise DataError(f"{broken:,} embeddings are not finite; look at the encoder's training curve, and "
                                "embed again.")
            yield place[rows], values

    def pick(self, places: np.ndarray) -> np.ndarray:
        """(p, F) float32 embeddings of p different positions, in their order."""
        order, found = np.argsort(places), []
        for place, values in self.blocks():
            rows = np.flatnonzero(np.isin(place, places))
            found.append((place[rows], values[rows]))
        got, values = (np.concatenate(each) for each in zip(*found, strict=True))
        picked = np.empty_like(values)
        picked[order] = values[np.argsort(got)]
        return picked

    def centre(self) -> np.ndarray:
        """(F,) float64 mean of all embeddings; zeros without any."""
        total = sum(values.sum(axis=0, dtype=np.float64) for _, values in self.blocks())
        return np.asarray(total / max(self.samples, 1))


def read_folder(folder: Path, store: Store, index: np.ndarray, column: str = EMBEDDING) -> Embedded:
    """Embeddings of samples that lie in a folder of `embed`, or of `embed_into`, which may hold others too.

    Args:
        folder: With `part-*.parquet`.
        store: Whose ids they go by.
        index: (n,) store indices that are wanted.
        column: Of the encoder.

    Raises:
        DataError: When some are not there, or a file is no such table.
    """
    wanted = {store.ids[i]: position for position, i in enumerate(index.tolist())}
    parts = []
    for file in sorted(folder.glob(SHARDS)):
        place = np.array([wanted.pop(name, -1) for name in read_ids(file).to_pylist()], dtype=np.int64)
        parts.append((_reader(file, column), place))
    if wanted:
        raise DataError(
            f"{folder} has no embedding of {len(wanted):,} of the {len(index):,} samples that are needed, the first "
            f"being {next(iter(wanted))!r}. Embed all of {store.path} (`sciencessl embed`, --split all)."
        )
    return Embedded(tuple(parts), len(index))


def read_ids(file: Path) -> pa.ChunkedArray:
    """The ids of one file of embeddings.

    Raises:
        DataError: When it is damaged or has none.
    """
    try:
        return pq.read_table(file, columns=["id"])["id"]
    except (pa.ArrowException, OSError, KeyError) as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"{file} cannot be read ({what}). Embed again.") from error


def _reader(file: Path, column: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            values = pq.read_table(file, columns=[column])[column].combine_chunks()
            flat = values.flatten().to_numpy(zero_copy_only=False)
        except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
            what = f"{type(error).__name__}: {first_line(error)}"
            raise DataError(f"{file} has no lists {column!r} ({what}). Embed again.") from error
        return np.asarray(flat).reshape(len(values), -1)

    return read


def read_rows(table: FeatureTable, store: Store, index: np.ndarray) -> Embedded:
    """Embeddings of samples out of a table of features, which is in memory as it is.

    Raises:
        DataError: When some are not there.
    """
    values = table.rows([store.ids[i] for i in index])
    return Embedded(((lambda: values, np.arange(len(index))),), len(index))


@dataclass(frozen=True)
class EmbeddedFolder:
    """A folder that holds, or will hold, embeddings of samples by encoders of one input.

    Attributes:
        folder: Of the shards.
        encoders: One or several.
        store: Of the samples.
        index: (n,) store indices.
    """

    folder: Path
    encoders: Sequence[Encoder]
    store: Store
    index: np.ndarray

    def missing(self, overwrite: bool) -> int:
        """How many samples are not there yet; writes nothing.

        Raises:
            RunError: When the folder holds something else, unless that is to be overwritten.
        """
        held = self._shards.holds(self._card, overwrite)
        return sum(len(part) for file, part in self._shards.parts if not (held and file.is_file()))

    def fill(self, title: str, overwrite: bool, workers: int = 1) -> list[Embedded]:
        """Compute what is missing, and open the embeddings of each encoder.

        Raises:
            RunError: As `missing`.
            DataError: When the store lacks the encoders' field or channels, or an embedding is not finite.
        """
        shards = self._shards
        shards.claim(self._card, overwrite)

        def compute(part: np.ndarray, advance: Callable[[int, int], None]) -> dict[str, pa.Array]:
            found = embed_together(self.encoders, self.store, part, workers, advance)
            return {name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
                    for name, values in zip(self._columns, found, strict=True)}

        shards.fill(title, compute)
        return [read_folder(self.folder, self.store, self.index, name) for name in self._columns]

    @property
    def _columns(self) -> list[str]:
        several = len(self.encoders) > 1
        return [f"{EMBEDDING}_{number}" if several else EMBEDDING for number in range(len(self.encoders))]

    @property
    def _shards(self) -> ShardFolder:
        return ShardFolder(self.folder, "embeddings", "encoder, store or samples", self.store, self.index, SHARD)

    @property
    def _card(self) -> dict[str, object]:
        return {"encoders": [encoder.digest for encoder in self.encoders], "store": self.store.digest,
                "withdrawn": self.store.removals_digest, "samples": len(self.index), "shard": SHARD,
                "index": digest(self.index.tobytes())}


def is_embed_folder(path: Path) -> bool:
    """Whether a path is a folder that `embed` wrote."""
    return path.is_dir() and any(path.glob(SHARDS))


