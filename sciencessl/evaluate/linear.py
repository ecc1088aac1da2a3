"""The frozen arm: logistic regression on embeddings, regularised by the budget's own labels and nothing else."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh, svd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sciencessl.errors import DataError

C_GRID: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse penalties tried, weakest fit first (ours; embeddings are standardised first)."""

FIXED_C = 1e-2
"""Inverse penalty at `FEW` units a class or fewer, where cross-validation would choose noise (ours)."""

FEW = 10
"""Mean number of labelled units a class up to which nothing is tuned."""

FOLDS = 5
"""Folds of the cross-validation over units."""

PATIENCE = 2
"""The search along C ends once the loss has risen this many times in a row."""


@dataclass(frozen=True)
class LinearHead:
    """A softmax layer on features as they are: what a saved model holds, and what fine-tuning starts from.

    Attributes:
        classes: (K',) sorted class ids that have a row.
        weight: (K', F) float32.
        bias: (K',) float32.
    """

    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class FittedClassifier:
    """A standardiser and a softmax layer, with how they were chosen.

    Attributes:
        classes: (K',) sorted class ids that the budget held.
        mean: (D,) of the budget's rows.
        scale: (D,) standard deviations of the budget's rows, 1 for a constant feature.
        coef: (D, K') on standardised features.
        intercept: (K',).
        c: Inverse penalty chosen.
        trials: Number of inverse penalties tried; 1 where `c` is fixed.
        fixed: Whether `c` is the default because labels were few.
        converged: Whether the final fit met its gradient tolerance.
        search: Inverse penalty -> cross-validated loss, empty where fixed.
    """

    classes: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    c: float
    trials: int = 1
    fixed: bool = True
    converged: bool = True
    search: dict[float, float] = field(default_factory=dict)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(M, D) features -> (M, K') scores of `classes`, in natural-log units."""
        scores: np.ndarray = (features - self.mean) / self.scale @ self.coef + self.intercept
        return scores

    def probabilities(self, features: np.ndarray, n_classes: int | None = None) -> np.ndarray:
        """(M, D) features -> (M, n_classes) probabilities by class id; 0 for a class that the budget lacked.

        `n_classes` defaults to the largest class id seen plus one.
        """
        width = int(self.classes[-1]) + 1 if n_classes is None else n_classes
        return spread_probabilities(self.logits(features), self.classes, width)

    def head(self) -> LinearHead:
        """The same classifier without the standardiser, which its weights take in."""
        weight = (self.coef / self.scale[:, None]).T
        bias = self.intercept - weight @ self.mean
        return LinearHead(self.classes, weight.astype(np.float32), bias.astype(np.float32))


def spread_probabilities(logits: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """(M, K') scores of `classes` -> (M, n_classes) float64 softmax by class id; 0 for a class without a score."""
    spread = np.zeros((len(logits), n_classes))
    spread[:, classes] = softmax(logits, axis=1)
    return spread


def held_out_losses(logits: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log loss of each row that can be scored, and its label; rows of a class without a score are left out.

    Args:
        logits: (M, K') scores of `classes`.
        classes: (K',) sorted class ids.
        labels: (M,) class ids.
    """
    scored = np.isin(labels, classes)
    column = np.searchsorted(classes, labels[scored])
    return -log_softmax(logits[scored], axis=1)[np.arange(len(column)), column], labels[scored]


def mean_over_classes(losses: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the mean loss of their rows: the criterion of every search."""
    _, of_class = np.unique(labels, return_inverse=True)
    return float(np.mean(np.bincount(of_class, losses) / np.bincount(of_class)))


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, units: np.ndarray, rng_seed: int
) -> FittedClassifier:
    """Fit multinomial logistic regression with an L2 penalty on the labels of one budget.

    Features are standardised on the budget's rows. The objective is scikit-learn's for `class_weight="balanced"`:
    sum_i w_i * cross_entropy_i + |W|^2 / (2 C), w_i = n / (K n_class), intercept unpenalised, with a softmax for two
    classes too (which equals their binary form at 2 C). With more than `FEW` units a class on average, C is chosen from
    `C_GRID` by stratified k-fold cross-validation over units, standardising anew in each fold; the criterion is
    the mean over classes of the mean log loss (finer than balanced accuracy, which ties at these sizes). The search
    climbs from the strongest penalty and stops when the loss has risen twice in a row. Otherwise C is `FIXED_C`.

    Args:
        features: (n, D) finite embeddings.
        labels: (n,) class ids >= 0. One class alone gives a constant prediction.
        units: (n,) unit of each row; rows of a unit never straddle folds.
        rng_seed: Seeds the folds.

    Returns:
        The classifier refitted on all n rows.

    Raises:
        DataError: For shapes that do not match, no rows, or values that are not finite.
    """
    features, labels, units = checked_rows(features, labels, units)
    with one_thread():
        search = {} if few_units(labels, units) else _search(features, labels, units, rng_seed)
        final = _balanced(features, labels).solve(best_c(search), tolerance=1e-6)
    return dataclasses.replace(final, trials=max(1, len(search)), fixed=not search, search=search)


def few_units(labels: np.ndarray, units: np.ndarray) -> bool:
    """Whether there are `FEW` units a class or fewer on average, so that defaults replace tuning.

    Units are counted, not rows: tiles of one patient do not make cross-validation over patients any surer.
    """
    return len(np.unique(units)) <= FEW * len(np.unique(labels))


def unit_folds(labels: np.ndarray, units: np.ndarray, rng_seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, held-out) positions of each of `FOLDS` folds, stratified by class, no unit on both sides."""
    # The grouped splitter loops over units in Python; where units are rows the plain one gives the same guarantee.
    grouped = len(np.unique(units)) < len(units)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    splitter = kind(n_splits=FOLDS, shuffle=True, random_state=rng_seed)
    with _quiet_rare_classes():
        return list(splitter.split(np.zeros((len(labels), 1)), labels, units if grouped else None))


def search_c(held_out_loss: Callable[[float], float]) -> dict[float, float]:
    """Inverse penalties tried -> held-out loss: up `C_GRID` until the loss has risen `PATIENCE` times in a row."""
    losses: dict[float, float] = {}
    rises, last = 0, np.inf
    for c in C_GRID:
        losses[c] = held_out_loss(c)
        rises = rises + 1 if losses[c] > last else 0
        last = losses[c]
        if rises == PATIENCE:
            break
    return losses


def best_c(search: dict[float, float]) -> float:
    """The inverse penalty of least held-out loss, the stronger penalty among equals; `FIXED_C` without a search."""
    return min(search, key=lambda value: (search[value], value)) if search else FIXED_C


def held_out_logits(
    features: np.ndarray, labels: np.ndarray, units: np.ndarray, rng_seed: int, c: float
) -> np.ndarray:
    """Logits of each row by the model that was fitted without the row's fold, as in the search of `fit_logistic`.

    Args:
        features: (n, D) finite embeddings.
        labels: (n,) class ids >= 0.
        units: (n,) unit of each row.
        rng_seed: Seeds the folds; the same as given to `fit_logistic`.
        c: Inverse penalty, such as the one that `fit_logistic` chose.

    Returns:
        (n, largest class id + 1); minus infinity for a class that the other folds lack.

    Raises:
        DataError: For shapes that do not match, values that are not finite, or labels too few to tune on.
    """
    features, labels, units = checked_rows(features, labels, units)
    if few_units(labels, units):
        raise DataError(
            f"held-out logits: {len(np.unique(units))} units are {FEW} a class or fewer, where nothing is tuned."
        )
    logits = np.full((len(labels), int(labels.max()) + 1), -np.inf)
    with one_thread():
        for train, held in unit_folds(labels, units, rng_seed):
            model = _balanced(features[train], labels[train]).solve(c, tolerance=1e-5)
            logits[np.ix_(held, model.classes)] = model.logits(features[held])
    return logits


def _search(features: np.ndarray, labels: np.ndarray, units: np.ndarray, rng_seed: int) -> dict[float, float]:
    folds = [
        (_balanced(features[train], labels[train]), features[held], labels[held])
        for train, held in unit_folds(labels, units, rng_seed)
    ]
    return search_c(lambda c: _held_out_loss(folds, c))


def _held_out_loss(folds: list[tuple[SoftmaxPath, np.ndarray, np.ndarray]], c: float) -> float:
    """Mean over classes of the mean log loss; rows of a class that the other folds lack are not scored."""
    parts = []
    for path, features, labels in folds:
        model = path.solve(c, tolerance=1e-5)
        parts.append(held_out_losses(model.logits(features), model.classes, labels))
    losses, classes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return mean_over_classes(losses, classes)


def _balanced(features: np.ndarray, labels: np.ndarray) -> SoftmaxPath:
    """Each row has one class, and each class the same total weight."""
    classes, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weight = (len(labels) / (len(classes) * counts))[position]
    return SoftmaxPath(features, np.eye(len(classes))[position], weight, classes)


class SoftmaxPath:
    """Solutions for one training set along C, each started from the last one.

    The features are rotated onto their principal axes, which leaves the penalty as it is, shrinks the problem to
    min(n, D) unknowns a class, and makes the Hessian nearly diagonal: dividing each axis by its expected curvature
    then takes L-BFGS a fraction of the iterations that it needs on the raw features. The optimum is the same.

    Args:
        features: (n, D) finite embeddings.
        target: (n, K') shares of the classes in each row, rows sum to 1.
        weight: (n,) weights of the rows, mean 1 so that C means the same whatever they are.
        classes: (K',) sorted ids of the columns of `target`.
    """

    def __init__(self, features: np.ndarray, target: np.ndarray, weight: np.ndarray, classes: np.ndarray) -> None:
        self.mean = features.mean(axis=0)
        deviation = features.std(axis=0)
        # A constant column of float32 embeddings leaves rounding noise of about 1e-7 of its value, not zero.
        self.scale = np.where(deviation > 1e-6 * np.abs(self.mean) + 1e-30, deviation, 1.0)
        self.rotated, self.axes = _principal_axes((features - self.mean) / self.scale)
        self.target, self.weight, self.classes = target, weight, classes
        self.solution = np.zeros((self.rotated.shape[1] + 1, len(classes)))

    def solve(self, c: float, tolerance: float) -> FittedClassifier:
        """Minimise for one C; `tolerance` bounds the largest preconditioned gradient per row."""
        n = len(self.rotated)
        k = max(2, len(self.classes))
        curvature = np.append((self.rotated**2).sum(axis=0), n) * (k - 1) / k**2
        penalty = np.append(np.full(self.rotated.shape[1], 1 / c), 0.0)
        step = (1 / np.sqrt(curvature + penalty))[:, None]
        design = np.hstack([self.rotated, np.ones((n, 1))]) * step.T
        found = minimize(
            _loss_and_gradient, (self.solution / step).ravel(), jac=True, method="L-BFGS-B",
            args=(design, self.target, self.weight, penalty[:, None] * step**2),
            options={"maxiter": 2000, "maxfun": 4000, "gtol": tolerance, "ftol": 0.0, "maxcor": 20},
        )
        self.solution = found.x.reshape(self.solution.shape) * step
        converged = bool(np.abs(found.jac).max() <= tolerance)
        coef, intercept = self.axes @ self.solution[:-1], self.solution[-1].copy()
        return FittedClassifier(self.classes, self.mean, self.scale, coef, intercept, c, converged=converged)


def _loss_and_gradient(
    flat: np.ndarray, design: np.ndarray, target: np.ndarray, weight: np.ndarray, penalty: np.ndarray
) -> tuple[float, np.ndarray]:
    """Penalised weighted cross-entropy and its gradient, both divided by the number of rows."""
    values = flat.reshape(design.shape[1], target.shape[1])
    logs = log_softmax(design @ values, axis=1)
    loss = -(weight @ (target * logs).sum(axis=1)) + 0.5 * (penalty * values**2).sum()
    gradient = design.T @ ((np.exp(logs) - target) * weight[:, None]) + penalty * values
    return float(loss) / len(design), gradient.ravel() / len(design)


def _principal_axes(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) -> coordinates (n, r) and orthonormal axes (D, r), r = min(n, D), with coordinates @ axes.T = features."""
    n, width = features.shape
    if n > width:
        # Any error of these eigenvectors is a rotation: it costs iterations at most, never accuracy.
        axes = eigh(features.T @ features)[1]
        return features @ axes, axes
    left, values, right = svd(features, full_matrices=False)
    return left * values, right.T


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS on one thread inside the block."""
    # These matrices are small: BLAS threads that wait for each other made fits ten times slower on a busy machine.
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@contextmanager
def _quiet_rare_classes() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        yield


def checked_rows(
    features: np.ndarray, labels: np.ndarray, units: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features in float64, labels and units, (n, D), (n, ...) and (n,).

    Raises:
        DataError: For shapes that do not match, no rows, or values that are not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    labels, units = np.asarray(labels), np.asarray(units)
    if features.ndim != 2 or not len(features) or not len(features) == len(labels) == len(units):
        raise DataError(
            f"logistic regression: features {features.shape}, labels {labels.shape} and units {units.shape} must be "
            "(n, D), (n,) and (n,) with n >= 1."
        )
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(axis=1)).sum())
        raise DataError(f"logistic regression: {bad} of {len(features)} embeddings are not finite; check the encoder.")
    return features, labels, units
