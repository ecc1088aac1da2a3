"""Metrics of class probabilities on a test set; classes that the test set lacks are left out, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from sciencessl.errors import ConfigError, DataError, unknown_name

PROBABILITY_FLOOR = 1e-7
"""Smallest probability that `nll` sees: a vote of nobody for the true class costs 16.1 nats, not infinity."""


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of (N,) labels that are the most probable class of (N, K) probabilities, in [0, 1].

    Raises:
        DataError: For shapes that do not match, no rows, or values that are not finite.
    """
    return float(correct(probabilities, labels).mean())


def balanced_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean recall over the classes that occur in the test labels, in [0, 1]; chance is 1 / (classes predicted).

    Raises:
        DataError: As `accuracy`.
    """
    hits = correct(probabilities, labels)
    sizes = np.bincount(labels)
    recall = np.bincount(labels, hits)[sizes > 0] / sizes[sizes > 0]
    return float(recall.mean())


def auroc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Macro area under the one-against-rest ROC over classes with both sides in the test set; NaN when none has.

    Raises:
        DataError: As `accuracy`.
    """
    return _macro(auroc_by_class(probabilities, labels))


def average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Macro average precision, one against rest, over classes with both sides in the test set; NaN when none has.

    Chance is the class's frequency. For a rare positive class read its entry of `average_precision_by_class`.

    Raises:
        DataError: As `accuracy`.
    """
    return _macro(average_precision_by_class(probabilities, labels))


def nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood in nats, probabilities clipped at `PROBABILITY_FLOOR`.

    Raises:
        DataError: As `accuracy`.
    """
    _check(probabilities, labels)
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(chosen, PROBABILITY_FLOOR, 1.0)).mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Brier score summed over classes, mean over rows, in [0, 2] (Brier 1950, the form for several classes).

    Raises:
        DataError: As `accuracy`.
    """
    _check(probabilities, labels)
    error = probabilities - np.eye(probabilities.shape[1])[labels]
    return float((error**2).sum(axis=1).mean())


def auroc_by_class(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K,) area under the ROC of each class against the rest; NaN for a class with one side missing.

    Raises:
        DataError: As `accuracy`.
    """
    return _by_class(roc_auc_score, probabilities, labels)


def average_precision_by_class(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K,) average precision of each class against the rest; NaN for a class with one side missing.

    Raises:
        DataError: As `accuracy`.
    """
    return _by_class(average_precision_score, probabilities, labels)


def correct(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) float 1 where the most probable class is the label, else 0: what `hierarchical_interval` takes.

    Raises:
        DataError: As `accuracy`.
    """
    _check(probabilities, labels)
    hits: np.ndarray = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    return hits


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K, K) int64 numbers of test samples: row the label, column the most probable class.

    Raises:
        DataError: As `accuracy`.
    """
    _check(probabilities, labels)
    width = probabilities.shape[1]
    return np.bincount(labels * width + probabilities.argmax(axis=1), minlength=width**2).reshape(width, width)


def classes_missing(labels: np.ndarray, n_classes: int) -> list[int]:
    """Class ids below `n_classes` that do not occur in the test labels."""
    return np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0).tolist()


Metric = Callable[[np.ndarray, np.ndarray], float]
"""(N, K) probabilities and (N,) labels -> a number."""

METRICS: Mapping[str, Metric] = {
    "balanced_accuracy": balanced_accuracy,
    "accuracy": accuracy,
    "auroc": auroc,
    "average_precision": average_precision,
    "nll": nll,
    "brier": brier,
}
"""Metrics by the name that a task gives."""

LOWER_IS_BETTER = frozenset({"nll", "brier", "rmse"})
"""Names of metrics, of any kind of task, whose smaller values are better."""


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ConfigError: For an unknown name; the message lists all.
    """
    if name not in METRICS:
        raise ConfigError(unknown_name("metric", name, METRICS))
    return METRICS[name]


def all_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every metric of `METRICS` by name.

    Raises:
        DataError: As `accuracy`.
    """
    return {name: function(probabilities, labels) for name, function in METRICS.items()}


def _by_class(score: Callable[..., float], probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _check(probabilities, labels)
    values = np.full(probabilities.shape[1], np.nan)
    for class_id in range(probabilities.shape[1]):
        positive = labels == class_id
        if positive.any() and not positive.all():
            values[class_id] = score(positive, probabilities[:, class_id])
    return values


def _macro(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _check(probabilities: np.ndarray, labels: np.ndarray) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise DataError(
            f"metrics: probabilities {probabilities.shape} and labels {labels.shape} must be (N, K) and (N,), N >= 1."
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise DataError(
            f"metrics: labels run from {labels.min()} to {labels.max()} but there are {probabilities.shape[1]} columns "
            "of probabilities; drop unlabelled rows and give every class a column."
        )
    if not np.isfinite(probabilities).all():
        raise DataError("metrics: some probabilities are not finite; check the embeddings and the fit.")
