"""What the report says in sentences: numbers with their units, the run in a paragraph, the few-label table in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sciencessl.config import store_paths
from sciencessl.evaluate.results import NEVER_LEARNED, Row, TransferResult
from sciencessl.evaluate.tables import endpoint_text, resolution_text
from sciencessl.monitor.collapse import LOW_RANK, LOW_STD, REPRESENTATION, collapse_warnings
from sciencessl.store.audited import ACCEPTED

ARMS = {
    "frozen": "a logistic regression on frozen features",
    "knn": "nearest neighbours on frozen features",
    "max": "a logistic regression on the maximum of each frozen feature over a bag",
    "abmil": "gated attention over the frozen features of a bag",
    "linear": "a linear layer trained by gradient descent on frozen features with augmentation",
    "finetune": "fine-tuned",
    "scratch": "the same architecture trained from scratch",
    "random": "a logistic regression on features of random encoders",
}
METRICS = {
    "mean_iou": "mean IoU",
    "micro_iou": "micro IoU",
    "dice": "Dice score",
    "auroc": "area under the ROC curve",
    "f1": "F1 score",
    "brier": "Brier score",
    "nll": "negative log-likelihood",
    "quadratic_kappa": "quadratic weighted kappa",
    "rmse": "root mean square error of the fractions",
}
"""Metrics whose name is not their words."""

_ASKS = {
    "class": "tells {} apart",
    "bag": "tells bags of {} apart",
    "multilabel": "asks which of {} are present",
    "counts": "predicts the votes for {}",
    "dense": "tells pixels of {} apart",
    "retrieval": "looks for samples of the same class among {}",
}
_SOURCES = {
    "pretraining": "the pretraining seed", "subsets": "the label subset", "units": "the test units",
    "interactions": "their interactions",
}


def duration(seconds: float) -> str:
    """`37 s`, `8.2 min`, `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory(size: float) -> str:
    """`1.4 GiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def operations(count: float) -> str:
    """Floating-point operations with a unit of thousands: `1.6 TFLOP`."""
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MFLOP"


def number(value: float | None) -> str:
    """Three decimals; a dash for what is missing or undefined."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def metric_name(result: TransferResult) -> str:
    """The primary metric of a table in words."""
    return METRICS.get(result.metric, result.metric.replace("_", " "))


def metric_unit(result: TransferResult) -> str:
    """The unit of the primary metric; empty for a share or another number without one."""
    if result.metric != "nll":
        return ""
    return "nats a vote" if result.kind == "counts" else "nats a sample"


def curves(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each encoder and arm, fewest labels first; curves in the order of the table."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.encoder, row.arm), []).append(row)
    return [sorted(curve, key=lambda row: row.n_labels) for curve in found.values()]


def curve_name(encoder: str, arm: str) -> str:
    """`byol, frozen`; the name alone where it is that of the arm."""
    return encoder if arm in NEVER_LEARNED else f"{encoder}, {arm}"


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def training_sentence(name: str, config: Mapping[str, Any], domain: str, finished: bool) -> str:
    """What was trained on what; `domain` is empty where the store is out of reach."""
    method, labels = config.get("method", "?"), [str(label) for label in config.get("labels") or ()]
    learned = f"by {method}{' with' if labels and method != 'labels_only' else ''}"
    learned += f" {'from ' if method == 'labels_only' else ''}labels of {listed(labels)}" if labels else ""
    start = f" It started from {config['init_from']}." if config.get("init_from") else " It started from scratch."
    stores = listed(store_paths(config.get("data", ""))) or "an unknown store"
    where = f"{stores}{f' ({domain} domain)' if domain else ''}"
    encoder = f"{'is' if finished else 'is to be'} a {config.get('backbone') or 'default'} encoder"
    return f"{name} {encoder} trained {learned}, on split=train of {where}.{start}"


def drawn_otherwise(config: Mapping[str, Any]) -> bool:
    """Whether the samples of a run came otherwise than each once an epoch."""
    asked = config.get("sampling", {})
    return any(asked.get(name) for name in ("balance", "weights", "labelled_share", "rates"))


def batch_words(config: Mapping[str, Any]) -> str:
    """Images of a step, and what they grew to.

    >>> batch_words({"batch": 16, "phases": ["32@1.5", "64@3"]})
    '16 images at first, 32 from epoch 1.5 on, 64 from epoch 3 on'
    """
    phases = [word.split("@") for word in config.get("phases") or ()]
    grown = "".join(f", {batch} from epoch {epoch} on" for batch, epoch in phases)
    return f"{config.get('batch', '?')} images{f' at first{grown}' if grown else ''}"


def length_sentence(config: Mapping[str, Any], cost: Mapping[str, Any], train: int, taken: int, finished: bool) -> str:
    """How long, and how many images were seen."""
    if "images_seen" not in cost:
        begun = f"Its last logged step is {taken:,}" if taken else "It has not logged a step yet"
        return f"{begun} of {config.get('steps', 0):,}; it has not written its cost, so it is running or was stopped."
    passes = f", {cost['images_seen'] / train:.1f} passes over {train:,} training samples" if train else ""
    if drawn_otherwise(config) and cost.get("sampling"):
        passes = f", {cost['images_seen'] / cost['epoch_samples']:.1f} epochs; {cost['sampling'][0]}"
    end = "" if finished else " It has not finished: `sciencessl pretrain --resume` continues it."
    return (
        f"It took {cost['steps']:,} steps of {batch_words(config)}, {cost['images_seen']:,} images seen{passes}.{end}"
    )


def cost_sentence(cost: Mapping[str, Any]) -> str:
    """What it cost; empty while that is not known."""
    if "images_seen" not in cost:
        return ""
    tried = cost.get("tuning_trials", 0)
    trials = f"{tried} trials of its settings before it" if tried else "no tuning of its settings on record"
    return (
        f"It cost {duration(cost['wall_seconds'])} on {cost['device']} ({cost['device_hours']:.3g} device-hours, about "
        f"{operations(cost['estimated_operations'])}, peak memory {memory(cost['peak_memory_bytes'])}), with {trials}."
    )


def seen_sentence(
    config: Mapping[str, Any], note: str, transfers: Sequence[TransferResult], name: str, leak: str = ""
) -> str:
    """What pretraining saw: the marks of the transfers where there are any, else the labels that it read."""
    marks = [f"What pretraining saw of task {t.task}{f', tested on {t.tested}' if t.tested else ''}: {t.marks[name]}"
             for t in transfers if name in t.marks]
    if marks:
        return " ".join(marks)
    labels = [str(label) for label in config.get("labels") or ()]
    asked = config.get("sampling", {})
    column = asked.get("balance") or asked.get("weights") or ""
    drawn = f", as often as column {column} says," if column else ""
    noted = f" ({note})" if note and (labels or column) else ""
    read = f"labels of {listed(labels)}" if labels else "no labels"
    probes = [str(name) for name in config.get("probes") or ()]
    read += f"; online probes read {listed(probes)}, from which it did not learn" if probes else ""
    shared = f" {ACCEPTED}: {leak}." if leak else ""
    return f"Pretraining read the images of split=train{drawn} and {read}{noted}.{shared}"


def few_label_sentences(result: TransferResult) -> list[str]:
    """The few-label table in words: what the test set can resolve, then each arm against random encoders."""
    tested = f"It was tested on {result.tested}. " if result.tested else ""
    sentences = [
        f"Task {result.task} {_ASKS.get(result.kind, _ASKS['class']).format(listed(result.classes))}. {tested}"
        f"{_resolution(result)}{' Lower is better.' if result.lower_is_better else ''}"
    ]
    sentences += [f"{text[0].upper()}{text[1:]}." for text in map(endpoint_text, result.endpoints)]
    metric = metric_name(result)
    return sentences + [_arm_sentence(rows, metric) for rows in curves(result.rows) if rows[0].arm != "random"]


def _resolution(result: TransferResult) -> str:
    tested = f"Its {result.n_test:,} test samples"
    if math.isnan(result.resolution):
        return f"{tested} resolve what the intervals say: no bound is known beforehand for {metric_name(result)}."
    told = resolution_text(result.resolution, metric_name(result))
    return f"{tested}: {told}."


def one_checkpoint_each(rows: Sequence[Row]) -> bool:
    """Whether no curve of the table speaks for more than one pretraining seed."""
    return all(row.seeds == 1 for row in rows if row.arm not in NEVER_LEARNED)


def band_note(rows: Sequence[Row]) -> str:
    """What the intervals of the table speak for."""
    random = " (random: encoders too)" if any(row.seeds > 1 for row in rows if row.arm == "random") else ""
    note = f"95 % intervals over label subsets and test units{random}"
    if one_checkpoint_each(rows):
        return f"{note}, for this checkpoint only"
    alone = sorted({row.encoder for row in rows if row.seeds == 1 and row.arm not in NEVER_LEARNED})
    several = note.replace("over label", "over pretraining seeds, label")
    return f"{several}; for this checkpoint only: {listed(alone)}" if alone else several


def variance_sentences(result: TransferResult) -> list[str]:
    """Where the uncertainty of each curve's largest budget comes from, in percent; only curves with two sources."""
    last = [rows[-1] for rows in curves(result.rows)]
    return [_variance_sentence(row) for row in last if len(row.parts) > 1 and sum(row.parts.values()) > 0]


def _variance_sentence(row: Row) -> str:
    total, names = sum(row.parts.values()), _SOURCES
    if row.arm == "random":
        names = {**names, "pretraining": "the random encoder"}
    shares = [f"{100 * part / total:.0f}\N{NO-BREAK SPACE}% from {names.get(name, name)}"
              for name, part in row.parts.items()]
    return f"{curve_name(row.encoder, row.arm)} at {_labels(row)}: {listed(shares)}."


def _arm_sentence(rows: Sequence[Row], metric: str) -> str:
    first, last = rows[0], rows[-1]
    text = f"{first.encoder}, {ARMS.get(first.arm, first.arm)}: {metric} {first.score:.3f} at {_labels(first)}"
    text += f" and {last.score:.3f} at {_labels(last)}." if len(rows) > 1 else "."
    compared = [row for row in rows if row.difference is not None]
    if not compared:
        return f"{text} There are no random encoders to compare it with."
    verdicts = [
        _verdict("above the random encoders", [row for row in compared if verdict(row) == "above"]),
        _verdict("below the random encoders", [row for row in compared if verdict(row) == "below"]),
        _verdict("not resolved", [row for row in compared if verdict(row) == "not resolved"]),
    ]
    spoken = "; ".join(part for part in verdicts if part)
    return f"{text} {spoken[0].upper()}{spoken[1:]}."


def _verdict(what: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return f"{what} at {listed([f'{row.n_labels:,} ({row.difference:+.3f})' for row in rows])} labels"


def _labels(row: Row) -> str:
    return f"{row.n_labels:,} labels"


def verdict(row: Row) -> str:
    """`above`, `below`, `not resolved`, or nothing where there is no comparison."""
    if row.resolved is None or row.difference is None:
        return ""
    if not row.resolved:
        return "not resolved"
    return "above" if row.difference > 0 else "below"


def tone(row: Row, lower_is_better: bool) -> str:
    """`good`, `bad` or `unresolved`: how the verdict is to be seen."""
    said = verdict(row)
    if said not in ("above", "below"):
        return "unresolved"
    return "good" if (said == "below") == lower_is_better else "bad"


def gauge_sentences(rows: Sequence[Mapping[str, Any]], warnings: Sequence[str]) -> list[str]:
    """The collapse gauge in words: warnings of the log first, then the last reading."""
    read = [row for row in rows if row.get("std") is not None]
    words = [f"Warning in the log: {warning}" for warning in warnings]
    if not read:
        return [*words, "The gauge was not read."]
    last = read[-1]
    healthy = not collapse_warnings(last).keys() & REPRESENTATION
    calm = "No warning was logged. " if not warnings else ""
    words.append(
        f"{calm}At step {last['step']:,}, the last reading, the spread is {last['std']:.2f} (healthy: above "
        f"{LOW_STD:g}) and {last['effective_rank']:.1f} directions are in use (healthy: above {LOW_RANK:g}): the "
        f"representation {'is spread out' if healthy else 'has collapsed'}."
    )
    if last.get("projection_std") is None:
        words.append("This method has no projections, so only the representation is shown.")
    return words
