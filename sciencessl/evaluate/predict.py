"""`predict`: a store through a model that `transfer` saved, into sharded Parquet of calibrated probabilities."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import ConfigError
from sciencessl.evaluate.classifier import SavedClassifier, read_classifier
from sciencessl.evaluate.encoders import check_input, compute_embeddings, require_finite
from sciencessl.evaluate.export_words import card_sentences
from sciencessl.evaluate.predict_bags import (
    ATTENTION,
    BAGS,
    MAPS,
    BagShards,
    bag_predictions,
    remove_maps,
    store_bags,
    whole_bags,
    write_bags,
    write_maps,
)
from sciencessl.evaluate.shards import SHARD, ShardFolder, chosen_samples
from sciencessl.evaluate.tables import WIDTH, aligned
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.sides import Side, value_text
from sciencessl.store.tables import some_names
from sciencessl.train.measure import best_time

ALL = "all"
TIMED = 64
"""Images of the batch that a dry run times."""

_HEADINGS = {
    "class": ("class", "predicted", "mean probability"),
    "bag": ("class", "predicted bags", "mean probability"),
    "counts": ("answer", "most likely", "mean fraction"),
    "multilabel": ("label", "p > 0.5", "mean probability"),
}

_PRIOR = {
    "class": "Fits weigh classes alike, so probabilities are those where classes are equally frequent; where class c "
             "has the share q_c, multiply by q_c and divide by the sum.",
    "multilabel": "Fits weigh presence and absence alike, so probabilities are those where a label is present as often "
                  "as absent; where it has the share q, multiply the odds by q / (1 - q).",
}
_PRIOR["bag"] = _PRIOR["class"]
"""Kind -> what its probabilities assume of the frequencies; fractions of votes assume nothing."""


@dataclass(frozen=True)
class ClassCount:
    """What was predicted of one class, answer or label.

    Attributes:
        name: Of it.
        samples: Where it is the most probable; for several labels, where its probability is above one half.
        mean: Of its probability or fraction over all samples.
        labelled: Samples that the store's label column says are of it; None where there is no such column, or none of
            its values is a class of the model.
    """

    name: str
    samples: int
    mean: float
    labelled: int | None


@dataclass(frozen=True)
class PredictResult:
    """What `predict` wrote.

    Attributes:
        out: Folder of the shards.
        samples: Rows in all shards.
        columns: Of every shard.
        shards: Number of files.
        computed: Rows computed by this call; the rest was there already.
        seconds: Wall time.
        kind: Kind of the model's task.
        classes: What was predicted, in the order of the columns.
        saw: What encoder and classifier learned from and what probabilities assume, a sentence each.
        bags: Rows of `bags.parquet`; 0 for a model of samples.
        maps: Bags with a picture and a GeoJSON in `maps`.
    """

    out: Path
    samples: int
    columns: tuple[str, ...]
    shards: int
    computed: int
    seconds: float
    kind: str
    classes: tuple[ClassCount, ...]
    saw: tuple[str, ...]
    bags: int = 0
    maps: int = 0


@dataclass(frozen=True)
class PredictEstimate:
    """What `predict` would do.

    Attributes:
        samples: Rows in all shards.
        columns: Of every shard.
        shards: Number of files.
        missing: Rows that are not there yet.
        seconds: That these would take on this machine, from the time of one batch.
    """

    samples: int
    columns: tuple[str, ...]
    shards: int
    missing: int
    seconds: float


def predict(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    split: str = "all",
    keep: Sequence[str] = (),
    dry_run: bool = False,
    overwrite: bool = False,
    workers: int = 1,
) -> PredictResult | PredictEstimate:
    """Write what a saved model says of every sample. Shards that are there are kept: a call resumes.

    Columns: `id`; `split`; a float32 for each class that the model learned, in [0, 1]; what is kept of the store. For
    classes they are `p_CLASS`, which add up to 1, followed by `predicted`, the most probable class, and `confidence`,
    its probability; for votes `fraction_ANSWER`, expected fractions that add up to 1; for several labels `p_LABEL`,
    each the probability that the label is present. All are calibrated as `SavedClassifier.probabilities` says; those of
    classes and labels are for equal frequencies (`_PRIOR`).

    A model of bags is asked for each bag as a whole, with its samples of the split; samples that have none are left
    out. Columns are then those of its bag, the bag itself, and `attention`, the share of the sample in what is told of
    its bag, which adds up to 1 over the bag (`SavedClassifier.weigh`). `bags.parquet` has a row for each bag. Where the
    store says where on its slide a tile lies, `maps` has for each bag a GeoJSON of its tiles and a picture.

    Args:
        model: A folder that `transfer` saved: `OUT/models/NAME`.
        data: A sealed store, with labels or without.
        out: Folder for `part-00000.parquet`... and `predictions.json`, which tells what made them.
        split: `train`, `val`, `test` or `all`.
        keep: Columns of the store's rows and tables to carry over, as `Store.column` gives them; `all` for every one.
        dry_run: Count, time one batch and write nothing.
        overwrite: Replace predictions of something else that are in `out`.
        workers: Loader processes.

    Raises:
        ConfigError: When a column to keep has the name of one of ours.
        RunError: When `model` has no classifier or is damaged; when `out` holds predictions of another model, store,
            split or columns, or other files.
        StoreError: When the store is missing or unsealed, or has no such split or column.
        DataError: When the split is empty, the store lacks the encoder's field or channels, or features are not finite.
    """
    started = time.perf_counter()
    classifier, store = read_classifier(local_path(model, "MODEL")), Store(data)
    check_input(classifier.encoder, store)
    shards = _shards(classifier, store, chosen_samples(store, split, "predict"), local_path(out))
    own = ("id", "split", *classifier.columns, *(("predicted", "confidence") if _has_one(classifier) else ()),
           *((ATTENTION,) if classifier.card.kind == "bag" else ()))
    kept = kept_columns(store, [*filter(None, [classifier.card.bag]), *keep], own)
    columns, card = (*own, *kept), _card(classifier, shards, split, list(kept))
    if dry_run:
        held = shards.holds(card, overwrite)
        return _estimate(classifier, shards, columns, held)
    if not shards.holds(card, overwrite):
        remove_maps(shards.out)
    shards.claim(card, overwrite)

    def compute(part: np.ndarray, advance: Callable[[int, int], None]) -> dict[str, pa.Array]:
        features = compute_embeddings(classifier.encoder, store, part, workers, advance)
        found = _predictions(classifier, store, part, features)
        return {**found, **{name: column.take(pa.array(part)) for name, column in kept.items()}}

    computed = shards.fill("predict", compute)
    bags, maps = _of_bags(classifier, shards)
    classes = _count(classifier, shards)
    seconds = time.perf_counter() - started
    return PredictResult(shards.out, len(shards.index), columns, len(shards.parts), computed, seconds,
                         classifier.card.kind, classes, (*card["saw"], *_advice(classes, split)), bags, maps)


def _shards(classifier: SavedClassifier, store: Store, index: np.ndarray, out: Path) -> ShardFolder:
    """Of samples in store order, or bag after bag."""
    starts: tuple[int, ...] = ()
    if classifier.card.kind == "bag":
        bags = store_bags(classifier, store, index)
        index, starts = bags.samples, whole_bags(bags, SHARD)
    return ShardFolder(out, "predictions", "model, store, split or --keep", store, index, SHARD, starts)


def _of_bags(classifier: SavedClassifier, shards: ShardFolder) -> tuple[int, int]:
    """How many bags and maps there are; all are written."""
    if classifier.card.kind != "bag":
        return 0, 0
    whole = BagShards(classifier.card.bag, shards.parts)
    bags = write_bags(shards.out, whole, (*classifier.columns, "predicted", "confidence")).num_rows
    return bags, write_maps(shards.out, whole, shards.store, bags)


def _has_one(classifier: SavedClassifier) -> bool:
    """Whether each sample, or bag, is of one class."""
    return classifier.card.kind in ("class", "bag")


def kept_columns(store: Store, keep: Sequence[str], own: Sequence[str]) -> dict[str, pa.Array]:
    """Columns to carry over: name -> all N values, of one type, whichever of them a shard holds.

    Args:
        store: Of the samples.
        keep: Names; `all` for every one.
        own: Columns of the predictions themselves.

    Raises:
        ConfigError: When a name is among `own`.
        StoreError: When the store has no such column.
    """
    known = store.columns()
    every = [name for name in known if name not in ("id", "split")]
    names = dict.fromkeys(name for asked in keep for name in (every if asked == ALL else [asked]))
    taken = [name for name in names if name in own]
    if taken:
        raise ConfigError(
            f"--keep {taken[0]}: the predictions have a column {taken[0]!r} of their own; keep other columns of "
            f"{store.path}, by name, and join this one by 'id'."
        )
    return {name: pa.array(store.column(name), from_pandas=True) for name in names}


def _card(classifier: SavedClassifier, shards: ShardFolder, split: str, keep: list[str]) -> dict[str, Any]:
    """What the shards depend on, and what their reader must know."""
    store, encoder, head = shards.store, classifier.encoder, classifier.card
    known = store.columns()
    attention = [] if classifier.attention is None else vars(classifier.attention).values()
    learned = (
        f"The classifier learned from {head.n_labels:,} labels of {head.column} (task {head.task}, arm {head.arm}, "
        f"budget {head.budget}, label subset {head.subset_seed}; {head.chosen}; temperature {head.temperature:.3g})."
    )
    return {
        "encoder": encoder.digest,
        "head": asdict(head),
        "weights": digest(classifier.weight.tobytes(), classifier.bias.tobytes(),
                          *(array.tobytes() for array in attention)),
        "saw": [learned, f"The encoder ({encoder.card.backbone}, {encoder.card.method}) learned from "
                         + " ".join(card_sentences(encoder.card)),
                *([_PRIOR[head.kind]] if head.kind in _PRIOR else [])],
        "store": store.digest,
        "withdrawn": store.removals_digest,
        "tables": {known[name]: store.table(known[name]).digest for name in keep if known[name] != "rows"},
        "split": split,
        "keep": keep,
        "shard": shards.size,
        "samples": len(shards.index),
    }


def _estimate(
    classifier: SavedClassifier, shards: ShardFolder, columns: tuple[str, ...], held: bool
) -> PredictEstimate:
    missing = sum(len(part) for path, part in shards.parts if not (held and path.is_file()))
    rows = shards.index[:TIMED]

    def once() -> None:
        compute_embeddings(classifier.encoder, shards.store, rows, 0)

    seconds = best_time(once, repeats=1) / len(rows) * missing
    return PredictEstimate(len(shards.index), columns, len(shards.parts), missing, seconds)


def _predictions(
    classifier: SavedClassifier, store: Store, part: np.ndarray, features: np.ndarray
) -> dict[str, pa.Array]:
    require_finite(features, store, part, classifier.encoder.name)
    attention = None
    if classifier.card.kind == "bag":
        names = Side(store, part, "samples").texts(classifier.card.bag)
        values, attention = bag_predictions(classifier, names, features)
    else:
        values = classifier.probabilities(features)
    found = {name: pa.array(column) for name, column in zip(classifier.columns, values.T, strict=True)}
    if _has_one(classifier):
        best = values.argmax(axis=1)
        found["predicted"] = pa.array([classifier.card.classes[number] for number in best], pa.string())
        found["confidence"] = pa.array(values.max(axis=1))
    if attention is not None:
        found[ATTENTION] = pa.array(attention)
    return found


def _count(classifier: SavedClassifier, shards: ShardFolder) -> tuple[ClassCount, ...]:
    """Over all shards, one in memory at a time; of bags over these."""
    names = classifier.card.classes
    samples, total = np.zeros(len(names), np.int64), np.zeros(len(names))
    of_bags = classifier.card.kind == "bag"
    paths = [shards.out / BAGS] if of_bags else [path for path, _ in shards.parts]
    counted = 0
    for path in paths:
        table = pq.read_table(path, columns=list(classifier.columns))
        counted += len(table)
        values = np.stack([table[name].to_numpy() for name in classifier.columns], axis=1)
        several = classifier.card.kind == "multilabel"
        samples += (values > 0.5).sum(0) if several else np.bincount(values.argmax(1), minlength=len(names))
        total += values.sum(axis=0, dtype=np.float64)
    labelled = _labelled(classifier, shards)
    means = total / counted
    return tuple(
        ClassCount(name, int(samples[i]), float(means[i]), labelled[name] if labelled else None)
        for i, name in enumerate(names)
    )


def _labelled(classifier: SavedClassifier, shards: ShardFolder) -> Counter[str]:
    """Class -> samples with this label; empty where the store does not say."""
    column = classifier.card.column
    if not _has_one(classifier) or column not in shards.store.columns():
        return Counter()
    index = shards.index
    if classifier.card.kind == "bag":
        index = store_bags(classifier, shards.store, np.sort(index)).first
    found = Counter(value_text(value) for value in shards.store.column(column)[index].tolist())
    return Counter({name: found[name] for name in classifier.card.classes if found[name]})


def _advice(classes: Sequence[ClassCount], split: str) -> list[str]:
    if split == "test" or classes[0].labelled is None:
        return []
    return ["The labels that it learned from may be among those of these samples: what it is worth is for "
            "`sciencessl transfer` to say, on split=test."]


def predict_text(result: PredictResult) -> str:
    """What was predicted, as a table for a terminal, and what the model learned from."""
    labelled = result.classes[0].labelled is not None
    rows = [(*_HEADINGS[result.kind], *(("labelled",) if labelled else ()))]
    for found in result.classes:
        cells = (found.name, f"{found.samples:,}", f"{found.mean:.3f}")
        rows.append((*cells, *((f"{found.labelled:,}",) if labelled else ())))
    saw = [textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in result.saw]
    return "\n".join([
        *aligned(rows, frozenset({1, 2, 3})), "", *saw,
        f"{result.samples:,} predictions in {result.shards} shards ({result.computed:,} computed now, "
        f"{result.seconds:.1f} s): {result.out}",
        *([f"{result.bags:,} bags in {result.out / BAGS}"] if result.bags else []),
        *([f"{result.maps:,} maps of attention (PNG, and GeoJSON for QuPath) in {result.out / MAPS}"] if result.maps
          else []),
    ])


def estimate_text(estimate: PredictEstimate) -> str:
    """What `predict` would do, for people."""
    return (
        f"would write {estimate.samples:,} predictions in {estimate.shards} shards ({estimate.missing:,} to compute, "
        f"about {estimate.seconds:.0f} s); columns {some_names(estimate.columns, 12)}"
    )
