"""`embed`: a store through an encoder, into sharded Parquet."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.backbones.licenses import license_words
from sciencessl.errors import ConfigError, DataError, RunError, unknown_name
from sciencessl.evaluate.encoders import check_input, compute_embeddings
from sciencessl.evaluate.foreign import find_encoder
from sciencessl.evaluate.shards import SHARD, ShardFolder, chosen_samples
from sciencessl.evaluate.slide_h5 import FOLDER, PLACE, hdf5, require_places, write_slide_files
from sciencessl.evaluate.stream import embed_stream
from sciencessl.preparation import PLAN_SUFFIXES
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path

DTYPES = ("float32", "float16")
FORMATS = ("parquet", "h5")


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
        terms: What the licence of the weights asks for, in words; empty where it asks for nothing.
        slides: HDF5 files written beside the shards, one a slide; 0 without any.
        refused: Reason -> samples that a plan could not read; they are listed in `refused.csv` of the folder.
        guessed: Sentences on the files of a plan.
    """

    out: Path
    samples: int
    features: int
    shards: int
    computed: int
    seconds: float
    terms: str = ""
    slides: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()


def embed(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    split: str = "all",
    dtype: Literal["float32", "float16"] = "float32",
    workers: int = 1,
    overwrite: bool = False,
    format: Literal["parquet", "h5"] = "parquet",
) -> EmbedResult:
    """Write `id`, `split` and `embedding` of every sample. Shards that are there are kept: a call resumes.

    Of tiles, the columns `PLACE` are written too, which say where on a slide each lies.

    Args:
        run: A finished run, or weights by name as `foreign.find_encoder` takes them.
        data: A sealed store, or a prepare plan (FILE.yaml) that is read and not stored: see `stream.embed_stream`.
        out: Folder for `part-00000.parquet`... and `embeddings.json`.
        split: `train`, `val`, `test` or `all`.
        dtype: Of the stored values.
        workers: Loader processes.
        overwrite: Replace embeddings of something else that are in `out`.
        format: `h5` also writes the folder `h5` with `SLIDE.h5` for each slide, as `slide_h5.write_slide_files` does.

    Raises:
        ConfigError: For another `dtype` or `format`, or a table of features instead of an encoder.
        RunError: When `out` holds embeddings of another encoder or store, or other files.
        StoreError: When the store is missing or unsealed, or has no such split.
        DataError: When the split is empty, the store lacks the encoder's field or channels, or values do not fit
            `dtype`.
    """
    started = time.perf_counter()
    if dtype not in DTYPES:
        raise ConfigError(unknown_name("dtype of embeddings", dtype, DTYPES))
    if format not in FORMATS:
        raise ConfigError(unknown_name("format of embeddings", format, FORMATS))
    if str(data).endswith(PLAN_SUFFIXES):
        return _streamed(run, local_path(data, "--data"), local_path(out), split, dtype, overwrite, format)
    store = Store(data)
    if format == "h5":
        require_places([*store.columns()], str(store.path))
        hdf5(Path(out) / FOLDER)
    encoder = find_encoder(run, store)
    if encoder.table is not None:
        raise ConfigError(f"{run} is a table of features: there is no encoder in it to embed {store.path} with.")
    shards = ShardFolder(local_path(out), "embeddings", "encoder, store or split", store,
                         chosen_samples(store, split, "embed"), SHARD)
    check_input(encoder, store)
    samples, features = len(shards.index), encoder.card.features
    placed = {name: store.column(name) for name in PLACE} if {*PLACE} <= {*store.columns()} else {}
    card = {"encoder": encoder.digest, "store": store.digest, "split": split, "dtype": dtype, "shard": SHARD,
            "withdrawn": store.removals_digest, "samples": samples, "features": features}
    shards.claim(card | ({"placed": True} if placed else {}), overwrite)

    def compute(part: np.ndarray, advance: Callable[[int, int], None]) -> dict[str, pa.Array]:
        values = _cast(compute_embeddings(encoder, store, part, workers, advance), dtype)
        return {**{name: pa.array(column[part]) for name, column in placed.items()}, "embedding": as_lists(values)}

    computed = shards.fill("embed", compute)
    slides = _write_slides([path for path, _ in shards.parts], shards.out / FOLDER, format, computed)
    seconds = time.perf_counter() - started
    terms = license_words(encoder.card.license)
    return EmbedResult(shards.out, samples, features, len(shards.parts), computed, seconds, terms, slides)


def _streamed(
    run: str | Path, plan: Path, out: Path, split: str, dtype: str, overwrite: bool, format: str
) -> EmbedResult:
    started = time.perf_counter()
    found = embed_stream(run, plan, out, split, overwrite, lambda values: _cast(values, dtype))
    slides = _write_slides(found.paths, out / FOLDER, format, found.computed)
    card = found.encoder.card
    return EmbedResult(out, found.samples, card.features, len(found.paths), found.computed,
                       time.perf_counter() - started, license_words(card.license), slides, found.refused,
                       found.guessed)


def _write_slides(shards: Sequence[Path], folder: Path, format: str, computed: int) -> int:
    if format == "h5":
        return write_slide_files(shards, folder)
    if computed:
        shutil.rmtree(folder, ignore_errors=True)  # of what was here before
    return 0


def as_lists(values: np.ndarray) -> pa.Array:
    """(n, F) values as a column of n lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _cast(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if not np.isfinite(cast).all():
        largest = float(np.abs(values).max())
        raise DataError(
            f"embeddings reach {largest:.3g}, which is not a finite {dtype}; use float32, or check the run."
        )
    return cast


def read_embeddings(folder: str | Path) -> tuple[list[str], np.ndarray]:
    """Ids and (n, F) values that `embed` wrote.

    Raises:
        RunError: When the folder holds none.
    """
    parts = sorted(Path(folder).glob("part-*.parquet"))
    if not parts:
        raise RunError(f"{folder} holds no embeddings; make them with `sciencessl embed`.")
    table = pa.concat_tables([pq.read_table(part, columns=["id", "embedding"]) for part in parts])
    width = table.schema.field("embedding").type.list_size
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return table["id"].to_pylist(), flat.reshape(-1, width)
