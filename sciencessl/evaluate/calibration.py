"""Whether probabilities mean what they say: a temperature from the budget's own labels, reliability on the test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.linear import FittedClassifier, held_out_logits
from sciencessl.evaluate.metrics import correct

_TEMPERATURES = (0.02, 50.0)
"""Range in which the temperature is looked for."""


def temperature_of(scores: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> float:
    """`fit_temperature` of (n, k) scores of a model that knows k classes, whose ids are `classes`."""
    logits = np.full((len(labels), 1 + max(int(labels.max()), int(classes.max()))), -np.inf)
    logits[:, classes] = scores
    return fit_temperature(logits, labels)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T at which softmax(logits / T) makes the labels likeliest (Guo et al. 2017).

    Args:
        logits: (n, K) of models that have not seen their rows; minus infinity for a class that a model lacks.
        labels: (n,) class ids. Rows whose class their model lacks are left out.

    Returns:
        T in [0.02, 50]; above 1 where the logits are too sure.

    Raises:
        DataError: For shapes that do not match, or no row whose class its model knows.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(f"temperature: logits {logits.shape} and labels {labels.shape} must be (n, K) and (n,).")
    scored = np.isfinite(logits[np.arange(len(labels)), labels])
    if not scored.any():
        raise DataError(f"temperature: none of {len(labels)} rows has a logit of its own class.")
    known, own = logits[scored], labels[scored]

    def loss(log_temperature: float) -> float:
        logs = log_softmax(known / np.exp(log_temperature), axis=1)
        return float(-logs[np.arange(len(own)), own].mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


def budget_temperature(
    classifier: FittedClassifier, features: np.ndarray, labels: np.ndarray, units: np.ndarray, rng_seed: int
) -> float:
    """The temperature of a classifier, from cross-validated logits of the labels it was fitted on.

    The test set never enters. 1 where the classifier's C is fixed because labels were few: nothing is tuned there.

    Args:
        classifier: From `fit_logistic` on these rows with this seed.
        features: (n, D) embeddings of the budget.
        labels: (n,) class ids.
        units: (n,) units; rows of a unit never straddle folds.
        rng_seed: Seeds the folds.

    Raises:
        DataError: For shapes that do not match or values that are not finite.
    """
    if classifier.fixed:
        return 1.0
    return fit_temperature(held_out_logits(features, labels, units, rng_seed, classifier.c), labels)


def tempered(classifier: FittedClassifier, features: np.ndarray, n_classes: int, temperature: float) -> np.ndarray:
    """(M, n_classes) probabilities of (M, D) features at a temperature; 0 for a class that the budget lacked."""
    spread = np.zeros((len(features), n_classes))
    spread[:, classifier.classes] = softmax(classifier.logits(features) / temperature, axis=1)
    return spread


@dataclass(frozen=True)
class ReliabilityBin:
    """Test samples whose confidence (probability of the most probable class) is alike.

    Attributes:
        n: Number of samples.
        confidence: Their mean confidence.
        accuracy: Share that is right.
        low: Lower end of the 95 % Wilson interval of the accuracy, as if samples were independent.
        high: Upper end.
    """

    n: int
    confidence: float
    accuracy: float
    low: float
    high: float


def reliability_table(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Confidence against accuracy in bins of equal numbers of samples, least sure first.

    Samples of equal confidence are never divided, so that there may be fewer bins.

    Args:
        probabilities: (N, K).
        labels: (N,) class ids.
        bins: At most this many, 1 or more.

    Raises:
        ConfigError: For fewer than one bin.
        DataError: As `metrics.accuracy`.
    """
    if bins < 1:
        raise ConfigError(f"reliability: bins = {bins} must be 1 or more.")
    hits, confidence = correct(probabilities, labels), probabilities.max(axis=1)
    order = np.argsort(confidence, kind="stable")
    hits, confidence = hits[order], confidence[order]
    starts = np.searchsorted(confidence, confidence[(np.arange(bins) * len(hits)) // bins])
    groups = np.split(np.arange(len(hits)), np.unique(starts)[1:])
    return tuple(_bin(hits[group], confidence[group]) for group in groups)


def _bin(hits: np.ndarray, confidence: np.ndarray) -> ReliabilityBin:
    right = int(hits.sum())
    ends = binomtest(right, len(hits)).proportion_ci(0.95, method="wilson")
    return ReliabilityBin(len(hits), float(confidence.mean()), right / len(hits), float(ends.low), float(ends.high))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Mean over samples of the gap between accuracy and confidence of their bin, in [0, 1] (Naeini et al. 2015).

    Bins hold equal numbers of samples. It is above 0 by chance alone, by roughly 0.4 / sqrt(samples in a bin) at an
    accuracy of one half: compare arms on the same test set only.

    Args:
        probabilities: (N, K).
        labels: (N,) class ids.
        bins: As in `reliability_table`.

    Raises:
        ConfigError: For fewer than one bin.
        DataError: As `metrics.accuracy`.
    """
    table = reliability_table(probabilities, labels, bins)
    return sum(row.n * abs(row.accuracy - row.confidence) for row in table) / len(labels)
