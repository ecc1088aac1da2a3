"""`report`: a run as one self-contained HTML page, with its figures as PNG beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sciencessl.config import store_paths
from sciencessl.errors import DataError, RegistryError, RunError, SciencesslError
from sciencessl.evaluate import report_words as words
from sciencessl.evaluate.few_label_figures import (
    PANELS,
    PRINTED,
    confusion_figure,
    difference_figure,
    reliability_figure,
)
from sciencessl.evaluate.figures import collapse_figure, learning_figure
from sciencessl.evaluate.gallery import EmbeddingSection, ViewStrip, embedding_section, view_strips
from sciencessl.evaluate.plots import few_label_figure
from sciencessl.evaluate.results import RESULT, TransferResult, read_result
from sciencessl.evaluate.tables import endpoint_text
from sciencessl.registry import load_domain, load_method
from sciencessl.spec import DomainSpec
from sciencessl.store.files import write_atomic
from sciencessl.store.format import SPLITS
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.train.folder import CONFIG, COST, MODEL, ModelCard, read_metrics, read_model
from sciencessl.views.figures import figure_picture
from sciencessl.views.pictures import Picture

PAGE = "index.html"
FIGURES: Mapping[str, tuple[Callable[[TransferResult], Any], str]] = {
    "few_labels": (few_label_figure, "{} against the number of labels, with 95 % intervals"),
    "differences": (difference_figure, "Differences in {} with 95 % intervals"),
    "reliability": (reliability_figure, "Accuracy against confidence"),
    "confusion": (confusion_figure, "Shares of each true class by predicted class"),
}
"""Name of each few-label figure -> how it is drawn, and what it shows; the metric is filled in."""


@dataclass(frozen=True)
class RunRecord:
    """What lies in a run folder, as far as it got.

    Attributes:
        path: The folder.
        name: Its name.
        config: `config.yaml`.
        config_text: The same as text.
        overrides: Dotted names that were set on the command line -> value as text.
        environment: `environment.json`.
        cost: `cost.json`.
        metrics: Lines of `metrics.jsonl`.
        warnings: Warnings of `train.log`, without their time.
        card: Of the exported model; None before the run has finished.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    config_text: str
    overrides: Mapping[str, str]
    environment: Mapping[str, Any]
    cost: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]
    card: ModelCard | None


@dataclass(frozen=True)
class FewLabels:
    """One transfer: the result, its figures by name (None where it has nothing to draw), and its table in words."""

    result: TransferResult
    pictures: Mapping[str, Picture | None]
    sentences: tuple[str, ...]
    folder: Path
    has_run: bool


def report(
    run: str | Path, transfers: Sequence[str | Path] = (), data: str | Path = "", out: str | Path | None = None,
    samples: int = 2000,
) -> Path:
    """Write `RUN/report/index.html`: everything a reader wants to know of a run, in one file that asks for no other.

    What is not there yet (no metrics, no exported model, no transfer, the store moved) is said in its place.

    Args:
        run: Run folder, finished or not.
        transfers: Folders that `transfer` wrote; by default every `RUN/transfer*` that holds a result.
        data: Store to show samples of; by default the one that the run was trained on.
        out: Folder of page and figures, `RUN/report` by default.
        samples: Most samples to embed for map and neighbours.

    Returns:
        The page.

    Raises:
        RunError: When `run` is no run folder, or a transfer folder holds no result.
    """
    record = read_run(local_path(run, "RUN"))
    folder = record.path / "report" if out is None else local_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    beside = sorted(path.parent for path in record.path.glob(f"transfer*/{RESULT}"))
    found = [local_path(path, "--transfer") for path in transfers] or beside
    results = [_few_labels(read_result(path), path, record.name, number, folder) for number, path in enumerate(found)]
    page = _render({
        **_words(record, results, data),
        **_curves(record, folder),
        **_samples(record, data, results, samples, folder),
        "record": record,
        "results": results,
        "costs": _costs(record, results),
        "panels": PANELS,
        "printed": PRINTED,
        "settings": _settings(record),
        "stores": store_paths(record.config.get("data", "")),
    })
    write_atomic(folder / PAGE, page.encode())
    return folder / PAGE


def read_run(path: Path) -> RunRecord:
    """What lies in a run folder.

    Raises:
        RunError: When it is no run folder.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is no run folder: it has no {CONFIG}. Give a folder that `sciencessl pretrain` wrote.")
    text = (path / CONFIG).read_text(encoding="utf-8")
    lines = _text(path / "overrides.txt").splitlines()
    log = [line.partition(" WARNING ")[2] for line in _text(path / "train.log").splitlines() if " WARNING " in line]
    return RunRecord(
        path, path.resolve().name, yaml.safe_load(text) or {}, text,
        {name: value for name, _, value in (line.partition("=") for line in lines)},
        json.loads(_text(path / "environment.json") or "{}"), json.loads(_text(path / COST) or "{}"),
        read_metrics(path), log, _card(path),
    )


def _card(run: Path) -> ModelCard | None:
    if not (run / MODEL).is_file():
        return None
    try:
        return read_model(run)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run / MODEL} is damaged ({type(error).__name__}: {error}). Export the run again by continuing it with "
            "`sciencessl pretrain --resume`."
        ) from error


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _few_labels(result: TransferResult, folder: Path, run: str, number: int, out: Path) -> FewLabels:
    score, pictures = words.metric_name(result), {}
    for name, (draw, alt) in FIGURES.items():
        figure, file = draw(result), f"{name}.png" if number == 0 else f"{name}_{number + 1}.png"
        alt = f"{alt.format(score)}, task {result.task}"
        pictures[name] = None if figure is None else figure_picture(figure, out, file, alt)
    named = {row.encoder for row in result.rows}
    has_run = run in named or any(run in runs for method, runs in result.members.items() if method in named)
    return FewLabels(result, pictures, tuple(words.few_label_sentences(result)), folder, has_run)


def _stores(record: RunRecord, data: str | Path) -> list[Store]:
    """The one asked for, or else those that the run was trained on."""
    return [Store(path) for path in store_paths(data) or store_paths(record.config.get("data", "")) or ("",)]


def _words(record: RunRecord, results: Sequence[FewLabels], data: str | Path) -> dict[str, Any]:
    """Title and summary; what the store tells is left out where it cannot be read."""
    try:
        stores = _stores(record, data)
        domain, train = stores[0].header.domain, sum(len(store.split("train")) for store in stores)
    except SciencesslError:
        domain, train = record.card.domain if record.card else "", 0
    finished, config = record.card is not None, record.config
    note = record.card.label_note.partition(":")[0] if record.card else ""
    taken = int(record.metrics[-1]["step"]) if record.metrics else 0
    title = _method_title(str(config.get("method", "")))
    run = [
        words.training_sentence(record.name, config, domain, finished),
        words.length_sentence(config, record.cost, train, taken, finished),
        words.cost_sentence(record.cost),
    ]
    leak = record.card.leak if record.card else ""
    saw = words.seen_sentence(config, note, [found.result for found in results], record.name, leak)
    summary = [" ".join(filter(None, run)), saw]
    return {"domain": domain, "method_title": title, "finished": finished, "summary": summary}


def _method_title(name: str) -> str:
    """One line on the method; a local file is not run just to be described."""
    try:
        return "" if ".py:" in name else str(load_method(name).title)
    except RegistryError:
        return ""


def _curves(record: RunRecord, folder: Path) -> dict[str, Any]:
    pictures: dict[str, Picture | None] = {"learning": None, "collapse": None}
    learning, collapse = learning_figure(record.metrics), collapse_figure(record.metrics)
    if learning is not None:
        alt = "Losses, learning rate and speed against the optimiser step"
        pictures["learning"] = figure_picture(learning, folder, "learning.png", alt)
    if collapse is not None:
        alt = "Spread, effective rank and RankMe against the optimiser step, the healthy zone in green"
        pictures["collapse"] = figure_picture(collapse, folder, "collapse.png", alt)
    spoken = words.gauge_sentences(record.metrics, record.warnings)
    return {**pictures, "gauge_sentences": spoken}


def _samples(
    record: RunRecord, data: str | Path, results: Sequence[FewLabels], samples: int, folder: Path
) -> dict[str, Any]:
    """Everything that needs the store, each part with the reason why it is missing where it is."""
    shown: dict[str, Any] = {"strips": (), "embedding": None, "data": [], "missing_parts": {}}
    try:
        stores = _stores(record, data)
        store = stores[0]
        domain = load_domain(store.header.domain)
    except SciencesslError as error:
        return {**shown, "missing_parts": dict.fromkeys(("views", "embedding", "data"), str(error))}
    try:
        shown["data"] = [_store_facts(store, record) for store in stores]
    except SciencesslError as error:
        shown["missing_parts"]["data"] = str(error)
    try:
        shown["strips"] = _strips(record, store, domain, folder)
    except (SciencesslError, TypeError) as error:  # TypeError: settings of another version of the domain
        shown["missing_parts"]["views"] = str(error)
    try:
        shown["embedding"] = _embedding(record, store, domain, results, samples, folder)
    except SciencesslError as error:
        shown["missing_parts"]["embedding"] = str(error)
    return shown


def _strips(record: RunRecord, store: Store, domain: DomainSpec, folder: Path) -> tuple[ViewStrip, ...]:
    return view_strips(store, domain, record.config.get("views") or {}, int(record.config.get("seed", 0)), folder)


def _embedding(
    record: RunRecord, store: Store, domain: DomainSpec, results: Sequence[FewLabels], samples: int, folder: Path
) -> EmbeddingSection:
    if record.card is None:
        raise RunError("The run has exported no encoder yet.")
    section = embedding_section(record.path, store, domain, results[0].result.task if results else "", samples, folder)
    if section is None:
        raise DataError("The store has fewer than two training samples.")
    return section


def _store_facts(store: Store, record: RunRecord) -> dict[str, Any]:
    same = record.card is None or store.digest in [seen.digest for seen in record.card.stores]
    return {
        "path": str(store.path),
        "digest": store.digest,
        "same": same,
        "splits": {name: len(store.split(name)) for name in SPLITS},
        "total": len(store.present),
        "refused": Counter(store.refusals()["reason"].to_pylist()).most_common(),
        "fields": store.header.fields,
        "tables": [store.table(name) for name in store.tables],
    }


def _costs(record: RunRecord, results: Sequence[FewLabels]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(method, run, cost) of this run and of every run in the transfers that has written its cost, a method together.

    The method is empty where the run is no member of one.
    """
    costs: dict[str, Mapping[str, Any]] = {record.name: record.cost}
    method: dict[str, str] = {}
    for found in results:
        costs = {**found.result.cost, **costs}
        method |= {run: name for name, runs in found.result.members.items() for run in runs}
    grouped: dict[str, list[str]] = {}
    for run, cost in costs.items():
        if "images_seen" in cost:
            grouped.setdefault(method.get(run, run), []).append(run)
    return [(method.get(run, ""), run, costs[run]) for runs in grouped.values() for run in runs]


def _settings(record: RunRecord) -> list[tuple[str, list[tuple[str, str, str | None]]]]:
    """Groups of settings: name of the group, then (name, resolved value, what the user gave, None for nothing)."""
    own = [(k, v) for k, v in record.config.items() if not isinstance(v, Mapping)]
    groups = [("run", "", own)]
    groups += [(k, f"{k}.", list(v.items())) for k, v in record.config.items() if isinstance(v, Mapping) and v]
    return [
        (group, [(name, _shown(value), record.overrides.get(f"{prefix}{name}")) for name, value in values])
        for group, prefix, values in groups
    ]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "empty" if value == "" else str(value)


def _render(context: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    import sciencessl

    environment = Environment(
        loader=PackageLoader("sciencessl.evaluate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": words.duration, "memory": words.memory, "number": words.number, "operations": words.operations,
    }
    environment.globals |= {
        "endpoint_text": endpoint_text, "version": sciencessl.__version__, "words": words,
    }
    return environment.get_template("report.html.j2").render(context)
