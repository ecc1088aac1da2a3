"""Metrics of class probabilities on a test set; classes that the test set lacks are left out, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

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


def quadratic_kappa(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights of label against most probable class; 1 is agreement, 0 is chance.

    1 - sum_ij d_ij O_ij / sum_ij d_ij E_ij with d_ij = (i - j)^2, O the shares of (label, prediction) and E those that
    the same margins would give by chance (Cohen 1968): a miss by two classes costs as much as four by one. Class ids
    must be in their order, equally far apart. NaN where labels and predictions are all of one class.

    Raises:
        DataError: As `accuracy`.
    """
    observed, by_chance = kappa_costs(probabilities, labels)
    return 1 - float(observed.mean() / by_chance.mean()) if by_chance.any() else float("nan")


def kappa_costs(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) squared distance of each row's prediction from its label, and (N,) that expected by chance.

    The latter is the mean of what its label costs against all predictions and its prediction against all labels, so
    that `quadratic_kappa` is 1 minus the ratio of their means.

    Raises:
        DataError: As `accuracy`.
    """
    _check(probabilities, labels)
    truth, told = labels.astype(np.float64), probabilities.argmax(axis=1).astype(np.float64)
    against_told = (truth - told.mean()) ** 2 + told.var()
    against_truth = (told - truth.mean()) ** 2 + truth.var()
    return (truth - told) ** 2, (against_told + against_truth) / 2


def sensitivity_at_95(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Highest sensitivity to the last class at a specificity of at least 95 %, in [0, 1]; NaN with one side missing.

    It is read off the ROC curve of these very rows: no threshold is carried over from labels that were drawn, so it
    says what a threshold could reach on this test set, not what one that was fixed before does reach. Only thresholds
    between rows count, nothing is interpolated: with fewer than 20 rows of the other class none of these may be above.

    Raises:
        DataError: As `accuracy`.
    """
    _check(probabilities, labels)
    positive = labels == probabilities.shape[1] - 1
    if positive.all() or not positive.any():
        return float("nan")
    false, true, _ = roc_curve(positive, probabilities[:, -1], drop_intermediate=False)
    return float(true[false <= ALLOWED_FALSE + 1e-12].max())


def classes_missing(labels: np.ndarray, n_classes: int) -> list[int]:
    """Class ids below `n_classes` that do not occur in the test labels."""
    return np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0).tolist()


ALLOWED_FALSE = 0.05
"""Share of the other class that `sensitivity_at_95` lets through."""

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
"""Metrics of class probabilities by name, whatever the classes mean; `ordered_metrics` has more."""

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


def ordered_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`quadratic_kappa`, and of two classes `sensitivity_at_95`, for classes that are in an order.

    Raises:
        DataError: As `accuracy`.
    """
    found = {"quadratic_kappa": quadratic_kappa(probabilities, labels)}
    if probabilities.shape[1] == 2:
        found["sensitivity_at_95"] = sensitivity_at_95(probabilities, labels)
    return found


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
