"""`embed` without a store: samples are read under a prepare plan, seen by the encoder, and forgotten."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.encoders import Encoder, check_input, compute_embeddings
from sciencessl.evaluate.foreign import BASELINE, find_encoder
from sciencessl.evaluate.shards import ShardFolder
from sciencessl.evaluate.slide_h5 import PLACE
from sciencessl.monitor.throughput import Progress
from sciencessl.preparation import open_plan
from sciencessl.store.files import parquet_bytes, write_atomic
from sciencessl.store.format import SPLITS, StoreHeader, sample_key
from sciencessl.store.reader import Store
from sciencessl.store.writer import PreparedSample, Refusal

REFUSED = "refused.csv"
_TOLD = b"refused"
"""Key of a shard's metadata that holds what was refused of its row."""


@dataclass(frozen=True)
class HeldSamples:
    """Samples of one row in memory, in the order of a store; stands for the store where payloads are read.

    Attributes:
        path: Of the plan, for errors.
        header: Of the store that it would be.
        samples: In stored order.
    """

    path: Path
    header: StoreHeader
    samples: Sequence[PreparedSample] = ()

    @classmethod
    def of_row(cls, path: Path, header: StoreHeader, samples: Sequence[PreparedSample]) -> HeldSamples:
        """By split and key, as `write_row` lays them."""
        order = {name: place for place, name in enumerate(SPLITS)}
        keyed = sorted(samples, key=lambda sample: (order[sample.split], sample_key(header.source, sample.id)))
        return cls(path, header, keyed)

    def as_store(self) -> Store:
        """For functions that read nothing but header, keys and payloads."""
        return cast(Store, self)

    @property
    def primary(self) -> str:
        """Name of the field that encoders see."""
        return next(name for name, spec in self.header.fields.items() if spec.primary)

    def keys(self, index: np.ndarray) -> np.ndarray:
        """(B, 16) uint8 keys."""
        raw = b"".join(sample_key(self.header.source, self.samples[i].id) for i in index)
        return np.frombuffer(raw, np.uint8).reshape(-1, 16)

    def payloads(self, name: str, index: np.ndarray) -> list[bytes | np.ndarray]:
        """What a store would hold of a field."""
        return [self.samples[i].payload[name] for i in index]

    def places(self) -> dict[str, pa.Array]:
        """The columns that say where tiles lie; nothing for other samples."""
        if not self.samples or not {*PLACE} <= {*self.samples[0].columns}:
            return {}
        return {name: pa.array([sample.columns[name] for sample in self.samples]) for name in PLACE}


@dataclass(frozen=True)
class Streamed:
    """What `embed_stream` wrote.

    Attributes:
        paths: A shard for each row of the plan.
        refused: Reason -> samples and files that gave none.
        samples: Rows in all shards.
        computed: Rows computed by this call.
        encoder: That embedded them.
        guessed: Sentences on the files, as `prepare` says them.
    """

    paths: Sequence[Path]
    refused: Mapping[str, int]
    samples: int
    computed: int
    encoder: Encoder
    guessed: tuple[str, ...]


def embed_stream(
    run: str | Path, plan: Path, out: Path, split: str, overwrite: bool, as_stored: Callable[[np.ndarray], np.ndarray]
) -> Streamed:
    """Embed what a plan reads. A shard that is there is kept: a call resumes, as long as no file has changed.

    One row of the plan is in memory at a time, encoded as it would be stored (some 128 MiB, rarely 256); what the
    source finds out about its files is kept beside the folder, as beside a store. Values are those of the stored way:
    samples are decoded from the same bytes in the same order, though cut into batches by rows.

    Args:
        run: As in `embed`.
        plan: YAML file, see `preparation.open_plan`.
        out: Folder of the shards and of `refused.csv`.
        split: One of train, val, test, or all.
        overwrite: Replace embeddings of something else.
        as_stored: Brings float32 values to the dtype that is stored.

    Raises:
        ConfigError: For a plan that is none, or something else than an encoder with weights.
        RunError: When the folder holds something else.
        DataError: When the plan's files cannot be used at all, or not one sample is left.
    """
    if str(run).startswith(BASELINE):
        raise ConfigError(f"{run} takes its bins from a whole store, and a plan is read once; prepare a store of it.")
    stream = open_plan(plan, out)
    try:
        nothing = HeldSamples(plan, stream.header).as_store()
        encoder = find_encoder(run, nothing)
        if encoder.table is not None:
            raise ConfigError(f"{run} is a table of features: there is no encoder in it to embed {plan} with.")
        check_input(encoder, nothing)
        dtype = str(as_stored(np.zeros((0, 1), np.float32)).dtype)
        card = {"encoder": encoder.digest, "plan": stream.digest, "split": split, "dtype": dtype}
        made_by = "encoder, plan (or files) or split"
        ShardFolder(out, "embeddings", made_by, nothing, np.zeros(0, np.int64)).claim(card, overwrite)
        paths = [out / f"part-{row:05d}.parquet" for row in range(len(stream.tasks))]
        progress, done, computed = Progress(max(1, stream.expected(split)), unit="image", title="embed"), 0, 0
        for row, path in enumerate(paths):
            if not path.is_file():
                write_atomic(path, parquet_bytes(_shard(plan, stream, row, split, encoder, as_stored)))
                computed += pq.read_metadata(path).num_rows
            done += pq.read_metadata(path).num_rows
            progress.update(done)
        progress.close()
    finally:
        stream.close()
    refused = [told for path in paths for told in _refusals(path)]
    _write_refusals(out / REFUSED, refused)
    if not done:
        raise DataError(f"{plan}: split={split} gives no samples to embed; {len(refused)} were refused, as listed in "
                        f"{out / REFUSED}.")
    return Streamed(paths, Counter(reason for _, reason, _ in refused), done, computed, encoder,
                    stream.guessed)


def _shard(
    plan: Path, stream: Any, row: int, split: str, encoder: Encoder, as_stored: Callable[[np.ndarray], np.ndarray]
) -> pa.Table:
    """Embeddings of a row, and in the metadata what was refused of it."""
    samples: list[PreparedSample] = []
    refused: list[tuple[str, str, str]] = []
    for item in stream.read(row, split):
        if isinstance(item, Refusal):
            refused.append((item.id, item.reason, item.detail))
        else:
            samples.append(item)
    held = HeldSamples.of_row(plan, stream.header, samples)
    index = np.arange(len(samples))
    values = as_stored(compute_embeddings(encoder, held.as_store(), index, workers=0))
    table = pa.table({
        "id": pa.array([sample.id for sample in held.samples], pa.string()),
        "split": pa.array([sample.split for sample in held.samples], pa.string()),
        **held.places(),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), encoder.card.features),
    })
    return table.replace_schema_metadata({_TOLD: json.dumps(refused)})


def _refusals(path: Path) -> list[tuple[str, str, str]]:
    told = json.loads((pq.read_schema(path).metadata or {}).get(_TOLD, b"[]"))
    return [(str(name), str(reason), str(detail)) for name, reason, detail in told]


def _write_refusals(path: Path, refused: Sequence[tuple[str, str, str]]) -> None:
    """As `prepare` lists them; nothing where there are none."""
    if not refused:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "reason", "detail"])
    rows.writerows(refused)
    write_atomic(path, text.getvalue().encode())
