"""The run folder: what a run writes, and what others read of it.

`config.yaml overrides.txt environment.json cost.json train.log metrics.jsonl logs/ checkpoints/ exported/ report/`
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as attribute
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.errors import RunError
from sciencessl.setting_groups import Norm
from sciencessl.spec import InputStats
from sciencessl.store.files import write_atomic

MODEL = "exported/model.json"
WEIGHTS = "exported/encoder.safetensors"
HEAD = "exported/head.json"
HEAD_WEIGHTS = "exported/head.safetensors"
CONFIG = "config.yaml"
OVERRIDES = "overrides.txt"
METRICS = "metrics.jsonl"
LOGS = "logs"
COST = "cost.json"
OLD_STORE = {"path": "store", "digest": "store_digest", "tables": "table_digests"}
LIBRARIES = ("sciencessl", "torch", "timm", "lightning", "albumentations", "numpy", "zarr", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class StoreRecord:
    """A training store as a run read it.

    Attributes:
        path: As given.
        digest: Its manifest digest.
        tables: Digests of the tables beside it.
    """

    path: str
    digest: str
    tables: Mapping[str, str] = attribute(default_factory=dict)


@dataclass(frozen=True)
class ModelCard:
    """What it takes to use an exported encoder, and what it saw.

    Attributes:
        domain: Name of the domain.
        method: Name of the method.
        backbone: timm architecture.
        field: Field of a sample that the encoder sees.
        channels: Names of its input channels.
        features: F.
        stats: Input statistics.
        views: The domain's view settings.
        steps: Optimiser steps taken.
        images: Source images seen.
        seed: Of the run.
        stores: The training stores; none for an encoder that did not learn here.
        label_columns: Columns whose labels the run saw, and that decided how often samples came.
        label_note: Where those labels come from, in words.
        init_from: Where the encoder started from; empty for a fresh one.
        label_rows: Question or column -> rows of split=train that had a label or value in it.
        sampling: How samples were drawn, in words; empty where each came once an epoch.
        leak: What an audit found the splits of the training stores to share, where that was accepted; else empty.
        norm: What normalises it; with other than `batch` it is no stock architecture.
        probe_columns: Columns that only online probes read: it did not learn from them, but runs may be chosen by them.
        license: Of the weights of others that it started from, where it has a name; it holds for this encoder too.
        averaged: What it is the mean of, in words; none for an encoder that was trained.
        module: What the method calls it: `encoder`, or `target_encoder` of a method that exports that.
        size: Side in pixels of the images that it is built for; 0 where its architecture takes any, or has the size
            that timm declares.
    """

    domain: str
    method: str
    backbone: str
    field: str
    channels: tuple[str, ...]
    features: int
    stats: InputStats
    views: Mapping[str, Any]
    steps: int
    images: int
    seed: int
    stores: tuple[StoreRecord, ...] = ()
    label_columns: tuple[str, ...] = ()
    label_note: str = ""
    init_from: str = ""
    label_rows: Mapping[str, int] = attribute(default_factory=dict)
    sampling: str = ""
    leak: str = ""
    norm: Norm = "batch"
    probe_columns: tuple[str, ...] = ()
    license: str = ""
    averaged: tuple[str, ...] = ()
    module: str = "encoder"
    size: int = 0


def write_model(run: Path, card: ModelCard, encoder: Any) -> None:
    """Write an encoder (a module, or its state) as safetensors, then the card that makes it count."""
    from safetensors.torch import save

    state = encoder if isinstance(encoder, dict) else encoder.state_dict()
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_atomic(run / WEIGHTS, save(state))
    write_atomic(run / MODEL, json.dumps(asdict(card), indent=1).encode())


def read_model(run: Path) -> ModelCard:
    """The card of a finished run.

    Raises:
        RunError: When the folder holds none.
    """
    path = run / MODEL
    if not path.is_file():
        begun = (run / CONFIG).is_file()
        fix = "The run did not finish: continue it with `sciencessl pretrain --resume`." if begun else "It is no run."
        raise RunError(f"{run} has no exported model ({MODEL}). {fix}")
    values = json.loads(path.read_text(encoding="utf-8"))
    stats: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.pop("stats").items()}
    for name in ("channels", "label_columns", "probe_columns", "averaged"):
        values[name] = tuple(values.get(name, ()))
    if "store" in values:  # as cards were written while a run had one store
        records = [{name: values.pop(old) for name, old in OLD_STORE.items() if old in values}]
        values["stores"] = records if records[0]["path"] else []
    stores = tuple(StoreRecord(**record) for record in values.pop("stores"))
    return ModelCard(stats=InputStats(**stats), stores=stores, **values)


@dataclass(frozen=True)
class HeadCard:
    """What the classifier of a saved model answers, and how it was made.

    Attributes:
        task: Name of the task.
        column: Its label column, or several with commas between.
        classes: Class names, one for each row of the weights.
        arm: Of the transfer that made it.
        budget: Spelling of its label budget.
        subset_seed: Number of its label subset.
        n_labels: Labels that it learned from.
        chosen: The settings chosen, in words.
        fit: Name of the fit that it is the model of.
        kind: Kind of the task: `class` gives softmax probabilities, `counts` softmax fractions, `multilabel` a sigmoid
            for each label; `bag` the former for bags of samples.
        temperature: That scores are divided by before the softmax, fitted on the budget's own labels.
        bag: Of kind `bag` the column that names the bag of a sample.
        pooling: Of kind `bag` what makes one vector of the features of a bag: `mean`, `max` or `attention`.
    """

    task: str
    column: str
    classes: tuple[str, ...]
    arm: str
    budget: str
    subset_seed: int
    n_labels: int
    chosen: str
    fit: str
    kind: str = "class"
    temperature: float = 1.0
    bag: str = ""
    pooling: str = ""


def write_head(run: Path, card: HeadCard, weight: np.ndarray, bias: np.ndarray, **pooling: np.ndarray) -> None:
    """Write a classifier on the exported encoder's features: weights (K, F) and biases (K,), then the card.

    `pooling` is what was learned of how bags are pooled, by name.
    """
    from safetensors.numpy import save

    write_atomic(run / HEAD_WEIGHTS, save({"weight": np.ascontiguousarray(weight), "bias": bias, **pooling}))
    write_atomic(run / HEAD, json.dumps(asdict(card), indent=1).encode())


def read_head(run: Path) -> tuple[HeadCard, np.ndarray, np.ndarray]:
    """The classifier of a model that `transfer` saved: its card, weights (K, F) and biases (K,).

    Raises:
        RunError: When the folder holds none, or it is damaged.
    """
    card, stored = read_whole_head(run)
    return card, stored["weight"], stored["bias"]


def read_whole_head(run: Path) -> tuple[HeadCard, dict[str, np.ndarray]]:
    """The same with all arrays that `write_head` was given, by name.

    Raises:
        RunError: As `read_head`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (run / HEAD).is_file():
        raise RunError(f"{run} has no classifier ({HEAD}); `sciencessl transfer` saves models that have one.")
    try:
        values = json.loads((run / HEAD).read_text(encoding="utf-8"))
        stored = load_file(run / HEAD_WEIGHTS)
        card = HeadCard(**{**values, "classes": tuple(values["classes"])})
        return card, {"weight": stored["weight"], "bias": stored["bias"], **stored}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(
            f"{run / HEAD} is damaged ({type(error).__name__}: {error}); run the transfer again."
        ) from error


def begin(run: Path, overwrite: bool) -> None:
    """Make an empty run folder.

    Raises:
        RunError: When something is there already and `overwrite` is not set, or another process trains in it.
    """
    file = next((path for path in (run, *run.parents) if path.is_file()), None)
    if file is not None:
        raise RunError(f"{file} is a file; --out names a folder, new or of a run. Choose another --out.")
    if run.exists() and any(run.iterdir()):
        if not overwrite:
            raise RunError(
                f"{run} exists and is not empty. --resume continues that run, --overwrite deletes it, "
                "or choose another --out."
            )
        if not (run / CONFIG).is_file():
            raise RunError(
                f"{run} is no run folder (no {CONFIG}), so --overwrite will not delete it; remove it yourself."
            )
        with occupied(run):
            shutil.rmtree(run)
    run.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def occupied(run: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder; where the file system has no such locks (NFS), in vain.

    Raises:
        RunError: When one does.
    """
    number = os.open(run, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{run} is in use: another process trains in it. Wait until it has ended, end it, or choose "
                    "another --out."
                ) from None
        yield
    finally:
        os.close(number)


def environment() -> dict[str, Any]:
    """Versions, machine and threads: what one would want to know when numbers differ."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "argv": sys.argv[1:],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def library_version(name: str) -> str:
    """Installed version of a distribution, or `absent`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line.

    Args:
        run: Run folder.
        step: Lines after this step are dropped: a resumed run writes them again, the same.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / METRICS
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(row)) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of `metrics.jsonl`; a torn last line is left out."""
    path = run / METRICS
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it was logged."""
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]
