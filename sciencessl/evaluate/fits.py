"""Single fits of a transfer: one encoder, one head, one label subset. Each is cached, so that a transfer resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from sciencessl.errors import ConfigError, unknown_name
from sciencessl.evaluate.abmil import Attention, BagFeatures, fit_abmil
from sciencessl.evaluate.cache import DAMAGED, read_arrays, write_arrays
from sciencessl.evaluate.calibration import budget_temperature
from sciencessl.evaluate.finetune import Labelled, Training, fit_network
from sciencessl.evaluate.knn import fit_knn
from sciencessl.evaluate.linear import LinearHead, fit_logistic
from sciencessl.evaluate.metrics import all_metrics
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.reader import Store
from sciencessl.train.folder import ModelCard

HEADS = ("logistic", "knn")
"""How features become classes."""

PROTOCOL = 3
"""Raised whenever a head, its search or a metric changes, so that no cached fit of older rules is mixed in."""


@dataclass(frozen=True)
class FitKey:
    """What a fit depends on, and nothing else: equal keys are the same fit.

    Attributes:
        encoder: Digest of weights and input.
        head: One of `HEADS`, or an arm that trains a network and its settings in words.
        task: Digest of the task's samples, labels and units.
        budget: Spelling of the label budget.
        subset_seed: Number of the subset.
    """

    encoder: str
    head: str
    task: str
    budget: str
    subset_seed: int

    @property
    def name(self) -> str:
        """File name of the cached fit."""
        return digest(canonical_json({**self.__dict__, "protocol": PROTOCOL}))


@dataclass(frozen=True)
class Fit:
    """The outcome of one fit.

    Attributes:
        probabilities: (m, K) float32 on the test samples.
        n_labels: Labels used.
        trials: Settings tried on the budget's own labels.
        chosen: The setting chosen, in words.
        metrics: Metric -> value on the test samples.
        temperature: T that calibrates the probabilities p, as softmax(log p / T), fitted on the budget's labels; None
            where the head has none.
        head: The classifier on features, where it is linear; not cached.
        encoder: The network below it, where the fit trained one; not cached.
        attention: What pools the samples of a bag below the classifier, where it was learned; not cached.
    """

    probabilities: np.ndarray
    n_labels: int
    trials: int
    chosen: str
    metrics: Mapping[str, float]
    temperature: float | None = None
    head: LinearHead | None = None
    encoder: nn.Module | None = None
    attention: Attention | None = None


def run_fit(
    head: str, train: np.ndarray, labels: np.ndarray, units: np.ndarray, test: np.ndarray, test_labels: np.ndarray,
    n_classes: int, seed: int,
) -> Fit:
    """Fit a head on a budget's rows, tuned on these rows alone, and score it on the test rows.

    Args:
        head: One of `HEADS`.
        train: (n, F) features of the budget's samples: the only labels that any choice may use.
        labels: (n,) class numbers.
        units: (n,) units, which cross-validation never divides.
        test: (m, F) features.
        test_labels: (m,) class numbers, read only to score.
        n_classes: K.
        seed: Of the folds.

    Raises:
        ConfigError: For an unknown head.
        DataError: For features that are not finite or shapes that do not match.
    """
    linear = temperature = None
    if head == "logistic":
        classifier = fit_logistic(train, labels, units, seed)
        temperature = budget_temperature(classifier, train, labels, units, seed)
        probabilities, trials = classifier.probabilities(test, n_classes), classifier.trials
        chosen = f"C={classifier.c:g}" + (" (fixed)" if classifier.fixed else "")
        linear = classifier.head()
    elif head == "knn":
        neighbours = fit_knn(train, labels, units)
        probabilities, trials = neighbours.probabilities(test, n_classes), neighbours.trials
        chosen = f"k={neighbours.k}" + (" (fixed)" if neighbours.fixed else "")
    else:
        raise ConfigError(unknown_name("head", head, HEADS))
    probabilities = probabilities.astype(np.float32)
    metrics = all_metrics(probabilities, test_labels)
    return Fit(probabilities, len(labels), trials, chosen, metrics, temperature, linear)


def run_attention(
    train: BagFeatures, labels: np.ndarray, units: np.ndarray, test: BagFeatures, test_labels: np.ndarray,
    n_classes: int, seed: int,
) -> Fit:
    """Learn attention over bags from a budget's labels, tuned on these alone (`abmil.fit_abmil`), and score it.

    Args:
        train: The budget's bags.
        labels: (b,) class numbers.
        units: (b,) units, which cross-validation never divides.
        test: The test bags.
        test_labels: (m,) class numbers, read only to score.
        n_classes: K.
        seed: Of all that is drawn.

    Raises:
        DataError: For features that are not finite or shapes that do not match.
    """
    fitted = fit_abmil(train, labels, units, seed)
    probabilities = fitted.probabilities(test, n_classes).astype(np.float32)
    chosen = f"{fitted.steps} steps{'' if fitted.search else ' (fixed)'}"
    return Fit(probabilities, len(labels), max(1, len(fitted.search)), chosen, all_metrics(probabilities, test_labels),
               fitted.temperature, LinearHead(fitted.classes, fitted.weight, fitted.bias), attention=fitted.attention)


def run_training(
    encoder: nn.Module, card: ModelCard, rows: Labelled, test_store: Store, test: np.ndarray, test_labels: np.ndarray,
    n_classes: int, training: Training, seed: int, workers: int = 0,
) -> Fit:
    """Train a network on a budget's rows, tuned on these rows alone (`finetune.fit_network`), and score it.

    Args:
        encoder: Weights to start from.
        card: How its input is made.
        rows: The budget's samples: the only labels that any choice may use.
        test_store: That the test samples lie in.
        test: (m,) indices into it.
        test_labels: (m,) class numbers, read only to score.
        n_classes: K.
        training: Of the arm.
        seed: Of all that is drawn.
        workers: Loader processes.

    Raises:
        ConfigError, RunError: As `fit_network` says.
    """
    fitted = fit_network(encoder, card, rows, training, seed, workers)
    probabilities = fitted.probabilities(test_store, test, n_classes).astype(np.float32)
    chosen = f"learning rate {fitted.rate:g}{'' if fitted.search else ' (fixed)'}, {training}"
    return Fit(probabilities, len(rows.labels), fitted.trials, chosen, all_metrics(probabilities, test_labels),
               fitted.temperature, fitted.network.head(), fitted.network.encoder)


def load_fit(folder: Path, key: FitKey, shape: tuple[int, int]) -> Fit | None:
    """A cached fit, or None where it was never done, its file is damaged, or it is of another (m, K) `shape`."""
    stored = read_arrays(folder / f"{key.name}.npz")
    try:
        if stored is None or stored["probabilities"].shape != shape:
            return None
        meta = json.loads(bytes(stored["meta"]).decode())
        return Fit(stored["probabilities"], meta["n_labels"], meta["trials"], meta["chosen"], meta["metrics"],
                   meta["temperature"])
    except DAMAGED:
        return None


def save_fit(folder: Path, key: FitKey, fit: Fit) -> None:
    """Cache a fit."""
    meta = {"n_labels": fit.n_labels, "trials": fit.trials, "chosen": fit.chosen, "metrics": dict(fit.metrics),
            "temperature": fit.temperature}
    raw = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    write_arrays(folder / f"{key.name}.npz", probabilities=fit.probabilities, meta=raw)
