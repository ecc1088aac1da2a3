"""`embed`: a store through an encoder, into sharded Parquet."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import ConfigError, DataError, RunError, unknown_name
from sciencessl.evaluate.encoders import check_input, compute_embeddings
from sciencessl.evaluate.foreign import find_encoder
from sciencessl.monitor.throughput import Progress
from sciencessl.store.files import parquet_bytes, write_atomic
from sciencessl.store.format import SPLITS
from sciencessl.store.reader import Store

SHARD = 16_384
CARD = "embeddings.json"
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class EmbedResult:
    """What `embed` wrote.

    Attributes:
        out: Folder of the shards.
        samples: Rows in all shards.
        features: Width F.
        shards: Number of files.
        computed: Rows computed by this call; the rest was there already.
        seconds: Wall time.
    """

    out: Path
    samples: int
    features: int
    shards: int
    computed: int
    seconds: float


def embed(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    split: str = "all",
    dtype: Literal["float32", "float16"] = "float32",
    workers: int = 1,
    overwrite: bool = False,
) -> EmbedResult:
    """Write `id`, `split` and `embedding` of every sample. Shards that are there are kept: a call resumes.

    Args:
        run: A finished run, or `timm:NAME@FILE`.
        data: A sealed store.
        out: Folder for `part-00000.parquet`... and `embeddings.json`.
        split: `train`, `val`, `test` or `all`.
        dtype: Of the stored values.
        workers: Loader processes.
        overwrite: Replace embeddings of something else that are in `out`.

    Raises:
        ConfigError: For another `dtype`, or a table of features instead of an encoder.
        RunError: When `out` holds embeddings of another encoder or store, or other files.
        StoreError: When the store is missing or unsealed, or has no such split.
        DataError: When the split is empty, the store lacks the encoder's field or channels, or values do not fit
            `dtype`.
    """
    started = time.perf_counter()
    if dtype not in DTYPES:
        raise ConfigError(unknown_name("dtype of embeddings", dtype, DTYPES))
    folder, store = Path(out), Store(data)
    encoder = find_encoder(run, store)
    if encoder.table is not None:
        raise ConfigError(f"{run} is a table of features: there is no encoder in it to embed {store.path} with.")
    index = np.arange(len(store)) if split == "all" else store.split(split).all()
    if not len(index):
        raise DataError(f"{store.path}: split={split} holds no samples, so there is nothing to embed.")
    check_input(encoder, store)
    card = {"encoder": encoder.digest, "store": store.digest, "split": split, "dtype": dtype, "shard": SHARD,
            "samples": len(index), "features": encoder.card.features}
    _claim(folder, card, overwrite)
    codes = store.split_codes()
    computed = 0
    progress = Progress(len(index), unit="image", title="embed")
    starts = range(0, len(index), SHARD)
    for number, start in enumerate(starts):
        path = folder / f"part-{number:05d}.parquet"
        part = index[start : start + SHARD]
        if not path.is_file():
            values = compute_embeddings(encoder, store, part, workers, partial(_advance, progress, start))
            write_atomic(path, parquet_bytes(_table(store, part, codes, _cast(values, dtype))))
            computed += len(part)
        progress.update(start + len(part))
    progress.close()
    return EmbedResult(folder, len(index), encoder.card.features, len(starts), computed, time.perf_counter() - started)


def _advance(progress: Progress, start: int, done: int, total: int) -> None:
    progress.update(start + done)


def _claim(folder: Path, card: dict[str, object], overwrite: bool) -> None:
    """Make the folder that of these embeddings, or refuse."""
    path = folder / CARD
    if path.is_file():
        if _same(path, card):
            return
        if not overwrite:
            raise RunError(f"{folder} holds embeddings of another encoder, store or split; choose another --out or "
                           "pass --overwrite.")
    elif folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no embeddings; choose another --out.")
    for stale in folder.glob("part-*.parquet"):
        stale.unlink()
    write_atomic(path, json.dumps(card, indent=1).encode())


def _same(path: Path, card: dict[str, object]) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == card)
    except ValueError:
        return False


def _cast(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if not np.isfinite(cast).all():
        largest = float(np.abs(values).max())
        raise DataError(
            f"embeddings reach {largest:.3g}, which is not a finite {dtype}; use float32, or check the run."
        )
    return cast


def _table(store: Store, index: np.ndarray, codes: np.ndarray, values: np.ndarray) -> pa.Table:
    ids = store.ids
    flat = pa.array(values.ravel())
    return pa.table({
        "id": pa.array([ids[i] for i in index], pa.string()),
        "split": pa.array([SPLITS[codes[i]] for i in index], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, values.shape[1]),
    })


def read_embeddings(folder: str | Path) -> tuple[list[str], np.ndarray]:
    """Ids and (n, F) values that `embed` wrote.

    Raises:
        RunError: When the folder holds none.
    """
    parts = sorted(Path(folder).glob("part-*.parquet"))
    if not parts:
        raise RunError(f"{folder} holds no embeddings; make them with `sciencessl embed`.")
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    width = table.schema.field("embedding").type.list_size
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return table["id"].to_pylist(), flat.reshape(-1, width)
