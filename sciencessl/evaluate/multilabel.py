"""Several labels at once, each present, absent or unknown: one logistic regression a label, and macro metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sciencessl.errors import DataError
from sciencessl.evaluate.linear import FittedClassifier, LinearHead, fit_logistic
from sciencessl.evaluate.sample_scores import LabelScores, auroc_scores, average_precision_scores, f1_scores

CERTAIN = 30.0
"""Log odds that stand for the constant predictions 1 and 0 in a linear layer."""

SCORES: Mapping[str, LabelScores] = {
    "average_precision": average_precision_scores,
    "auroc": auroc_scores,
    "f1": f1_scores,
}
"""Metrics by name: of one label; the task's is their mean over labels."""


@dataclass(frozen=True)
class FittedLabels:
    """One classifier a label.

    Attributes:
        heads: L classifiers of absent (0) against present (1); None for a label that the budget says nothing of.
    """

    heads: tuple[FittedClassifier | None, ...]

    @property
    def trials(self) -> int:
        """Settings tried, over all labels."""
        return sum(head.trials for head in self.heads if head)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(M, D) features -> (M, L) probabilities that a label is present; 0.5 where the budget says nothing of it."""
        columns = [
            head.probabilities(features, 2)[:, 1] if head else np.full(len(features), 0.5) for head in self.heads
        ]
        return np.stack(columns, axis=1)

    def layer(self) -> LinearHead:
        """The same as one linear layer, a row a label, whose sigmoid is the probability of presence."""
        rows = [_presence(head) for head in self.heads]
        width = max(len(weight) for weight, _ in rows)
        weight = np.stack([row if len(row) else np.zeros(width, np.float32) for row, _ in rows])
        return LinearHead(np.arange(len(rows)), weight, np.array([bias for _, bias in rows], np.float32))


def _presence(head: FittedClassifier | None) -> tuple[np.ndarray, float]:
    """Weights (F,) and bias of the log odds of presence; no weights where the budget says nothing of the label."""
    if head is None:
        return np.zeros(0, np.float32), 0.0
    if len(head.classes) == 1:
        return np.zeros(len(head.mean), np.float32), CERTAIN if head.classes[0] == 1 else -CERTAIN
    linear = head.head()
    return linear.weight[1] - linear.weight[0], float(linear.bias[1] - linear.bias[0])


def fit_labels(features: np.ndarray, targets: np.ndarray, units: np.ndarray, rng_seed: int) -> FittedLabels:
    """Fit and tune each label by itself, as `fit_logistic` does for two classes, on the rows where it is known.

    So presence and absence weigh the same, C is chosen for each label by cross-validation over units of the budget, and
    a label that is present (or absent) throughout the budget gives the constant prediction 1 (or 0).

    Args:
        features: (n, D) finite embeddings.
        targets: (n, L) 1, 0 or NaN for unknown.
        units: (n,) unit of each row.
        rng_seed: Seeds the folds.

    Raises:
        DataError: For shapes that do not match, values other than these, or features that are not finite.
    """
    _check(features, targets)
    known = np.isfinite(targets)
    return FittedLabels(tuple(
        fit_logistic(features[rows], targets[rows, label].astype(np.int64), units[rows], rng_seed)
        if rows.any() else None
        for label, rows in enumerate(known.T)
    ))


def label_metrics(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Metric -> (L,) values, one a label; NaN for a label that the test set does not show both present and absent.

    Args:
        probabilities: (N, L) probabilities that a label is present.
        targets: (N, L) 1, 0 or NaN for unknown; unknown ones are left out of their label's metrics.

    Raises:
        DataError: For shapes that do not match, other values, or probabilities that are not finite.
    """
    return {
        name: np.array([np.nan if part is None else part.mean() for part in _parts(name, probabilities, targets)])
        for name in SCORES
    }


def multilabel_metrics(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Metric -> mean over the labels that the test set shows both present and absent; NaN where none is.

    Average precision of chance is a label's frequency; F1 is at a probability of 0.5 of classifiers for which presence
    and absence weigh the same.

    Args:
        probabilities: (N, L), as `label_metrics`.
        targets: (N, L), as `label_metrics`.

    Raises:
        DataError: As `label_metrics`.
    """
    values = label_metrics(probabilities, targets)
    return {name: float(value[~np.isnan(value)].mean()) if not np.isnan(value).all() else float("nan")
            for name, value in values.items()}


def multilabel_scores(name: str, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) scores whose mean is the macro metric: what `hierarchical_interval` takes, without strata.

    Args:
        name: One of `SCORES`.
        probabilities: (N, L), as `label_metrics`.
        targets: (N, L), as `label_metrics`.

    Raises:
        DataError: As `label_metrics`, and when no label is shown both present and absent.
    """
    parts = [part for part in _parts(name, probabilities, targets) if part is not None]
    if not parts:
        raise DataError("multilabel: no label is both present and absent in the test set; there is nothing to score.")
    scores: np.ndarray = np.mean(parts, axis=0)
    return scores


def _parts(name: str, probabilities: np.ndarray, targets: np.ndarray) -> list[np.ndarray | None]:
    """For each label (N,) scores whose mean is its metric, or None: rows where it is unknown have no influence."""
    _check(probabilities, targets)
    if not np.isfinite(probabilities).all():
        raise DataError("multilabel: some probabilities are not finite; check the embeddings and the fit.")
    parts: list[np.ndarray | None] = []
    for predicted, label in zip(probabilities.T, targets.T, strict=True):
        known = np.isfinite(label)
        positive = label[known] == 1
        if not positive.any() or positive.all():
            parts.append(None)
            continue
        own = SCORES[name](positive, predicted[known])
        whole = np.full(len(label), own.mean())
        whole[known] += (own - own.mean()) * (len(label) / len(own))
        parts.append(whole)
    return parts


def _check(rows: np.ndarray, targets: np.ndarray) -> None:
    if rows.ndim != 2 or targets.ndim != 2 or len(rows) != len(targets) or not targets.size:
        raise DataError(f"multilabel: {rows.shape} and targets {targets.shape} must be (n, D) and (n, L), not empty.")
    odd = np.unique(targets[np.isfinite(targets) & (targets != 0) & (targets != 1)])
    if odd.size or np.isinf(targets).any():
        raise DataError(f"multilabel: targets must be 1, 0 or NaN for unknown, got {odd[:3].tolist() or 'infinity'}.")
