"""The frozen head of each kind of task, and its scores: what a transfer asks without knowing the kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sciencessl.evaluate.dense_metrics import dense_scores
from sciencessl.evaluate.fits import Fit, run_fit
from sciencessl.evaluate.linear import few_units, fit_logistic, unit_folds
from sciencessl.evaluate.metrics import correct
from sciencessl.evaluate.multilabel import fit_labels, label_metrics, multilabel_metrics, multilabel_scores
from sciencessl.evaluate.retrieval import RetrievalScores, retrieval_scores
from sciencessl.evaluate.sample_scores import kappa_scores
from sciencessl.evaluate.tasks import TaskData
from sciencessl.evaluate.votes import fit_votes, mean_fractions, vote_metrics, vote_scores

FROZEN_HEADS: Mapping[str, str] = {
    "class": "logistic", "multilabel": "logistic of each label", "counts": "multinomial", "retrieval": "search",
    "bag": "logistic of the mean",
}
"""Kind of task -> name of the head that `frozen_fit` fits."""

IN_WORDS: Mapping[str, str] = {
    "class": "logistic regression", "multilabel": "logistic regression of each label",
    "counts": "multinomial regression of votes", "retrieval": "nearest labelled samples",
    "bag": "logistic regression on the mean over each bag", "dense": "a small convolutional head on the last map",
}
"""Kind of task -> the same for people."""


def output_width(data: TaskData) -> int:
    """Columns of `Fit.probabilities`: a class, label or answer each; both scores of a query for retrieval; three
    numbers of pixels of each class for segmentation."""
    if data.task.kind == "dense":
        return 3 * len(data.classes)
    return 2 if data.task.kind == "retrieval" else len(data.classes)


def frozen_fit(data: TaskData, rows: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Fit:
    """Fit the kind's head on a budget's rows, tuned on these alone, and score it on the test rows.

    Logistic regression for classes (of bags too, whose features are pooled), one for each label for several labels, a
    multinomial for votes; retrieval fits nothing, its budget is the pool that is searched.

    Args:
        data: The task.
        rows: (n,) positions in the pool of the budget's samples.
        train: (n, F) their features.
        test: (m, F) features of the test samples.
        seed: Of the folds.

    Returns:
        A fit whose `probabilities` are (m, `output_width`): class probabilities, probabilities of presence, expected
        fractions, or average precision and precision at k of each query.

    Raises:
        DataError: For features that are not finite or shapes that do not match.
    """
    return _FITS[data.task.kind](data, rows, train, test, seed)


LOSSES: Mapping[str, str] = {
    "class": "log loss", "multilabel": "log loss (mean over labels)", "counts": "log loss per vote",
    "retrieval": "loss (one minus mean average precision)", "bag": "log loss",
}
"""Kind -> what `held_out_loss` is, in words."""


def held_out_loss(data: TaskData, rows: np.ndarray, train: np.ndarray, seed: int) -> float | None:
    """Loss of the kind's head on a budget's own rows, each scored by a fit that did not see its unit.

    For heads that are tuned the smallest loss of the search; for retrieval, which fits nothing, each fold of the units
    is searched for in the others.

    Args:
        data: The task; only its pool is read.
        rows: (n,) positions in the pool of the budget's samples.
        train: (n, F) their features.
        seed: Of the folds.

    Returns:
        The loss, or None where labels are so few that nothing is tuned.

    Raises:
        DataError: As `frozen_fit`.
    """
    labels, units = data.train_labels[rows], data.train_units[rows]
    if data.task.kind == "retrieval":
        return None if few_units(labels, units) else _search_loss(train, labels, units, seed)
    if data.train_targets is None:
        searches = [fit_logistic(train, labels, units, seed).search]
    elif data.task.kind == "counts":
        searches = [fit_votes(train, data.train_targets[rows], units, seed).search]
    else:
        searches = [head.search for head in fit_labels(train, data.train_targets[rows], units, seed).heads if head]
    tuned = [min(search.values()) for search in searches if search]
    return float(np.mean(tuned)) if tuned else None


def _search_loss(features: np.ndarray, labels: np.ndarray, units: np.ndarray, seed: int) -> float:
    found = [retrieval_scores(features[pool], labels[pool], features[held], labels[held]).average_precision
             for pool, held in unit_folds(labels, units, seed)]
    return 1 - float(np.concatenate(found).mean())


def sample_scores(data: TaskData, outputs: np.ndarray) -> np.ndarray:
    """(m,) scores of the test samples in the task's primary metric, from `Fit.probabilities` of one fit.

    Their mean is the metric: `hierarchical_interval` takes them with strata for balanced accuracy (whose scores are
    right answers) and without for every other metric.
    """
    name, targets = data.task.metric, data.test_targets
    if data.task.kind == "retrieval":
        return outputs[:, 0 if name == "mean_average_precision" else 1].astype(np.float64)
    if data.task.kind == "dense":
        return dense_scores(name, outputs.reshape(len(outputs), 3, -1))
    if targets is None:
        score_class = kappa_scores if name == "quadratic_kappa" else correct
        return score_class(outputs, data.test_labels)
    score = multilabel_scores if data.task.kind == "multilabel" else vote_scores
    return score(name, outputs.astype(np.float64), targets)


def _fit_classes(data: TaskData, rows: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Fit:
    return run_fit("logistic", train, data.train_labels[rows], data.train_units[rows], test, data.test_labels,
                   len(data.classes), seed)


def _fit_labels(data: TaskData, rows: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Fit:
    targets, truth = _targets(data, rows)
    fitted = fit_labels(train, targets, data.train_units[rows], seed)
    found = fitted.probabilities(test)
    chosen = ", ".join(
        f"{name}: " + (f"C={head.c:g}" + (" (fixed)" if head.fixed else "") if head else "no label")
        for name, head in zip(data.classes, fitted.heads, strict=True)
    )
    each = {f"{metric} {name}": float(value) for metric, values in label_metrics(found, truth).items()
            for name, value in zip(data.classes, values, strict=True)}
    metrics = {**multilabel_metrics(found, truth), **each}
    return Fit(found.astype(np.float32), len(rows), fitted.trials, chosen, metrics, head=fitted.layer())


def _fit_votes(data: TaskData, rows: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Fit:
    counts, truth = _targets(data, rows)
    fitted = fit_votes(train, counts, data.train_units[rows], seed, dispersion=True)
    found = fitted.fractions(test)
    scattered = float(vote_scores("nll", found, truth, fitted.strength).mean())
    metrics = {**vote_metrics(found, truth, mean_fractions(counts)), "dirichlet_nll": scattered}
    chosen = f"C={fitted.model.c:g}" + (" (fixed)" if fitted.fixed else "") + f", strength={fitted.strength:.3g}"
    return Fit(found.astype(np.float32), len(rows), fitted.trials, chosen, metrics, head=fitted.model.head())


def _search(data: TaskData, rows: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Fit:
    found: RetrievalScores = retrieval_scores(train, data.train_labels[rows], test, data.test_labels)
    columns = np.stack([found.average_precision, found.precision_at_k], axis=1)
    metrics = dict(zip(("mean_average_precision", "precision_at_k"), columns.mean(axis=0).tolist(), strict=True))
    return Fit(columns.astype(np.float32), len(rows), 1, f"k={found.k} (fixed)", metrics)


def _targets(data: TaskData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert data.train_targets is not None  # `load_task` gives them for these kinds
    assert data.test_targets is not None
    return data.train_targets[rows], data.test_targets


_FITS: Mapping[str, Callable[[TaskData, np.ndarray, np.ndarray, np.ndarray, int], Fit]] = {
    "class": _fit_classes, "multilabel": _fit_labels, "counts": _fit_votes, "retrieval": _search,
    "bag": _fit_classes,
}
