"""A saved model as a whole: an encoder and the classifier on it, from images to calibrated probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax

from sciencessl.errors import RunError, unknown_name
from sciencessl.evaluate.encoders import Encoder, run_encoder
from sciencessl.train.folder import HEAD, HeadCard, read_head

PREFIXES = {"class": "p_", "counts": "fraction_", "multilabel": "p_"}
"""Kind of task -> what the name of a class, answer or label follows in a column of predictions."""


@dataclass(frozen=True)
class SavedClassifier:
    """What `transfer` kept of an arm.

    Attributes:
        encoder: Frozen.
        card: Of the classifier.
        weight: (K, F), on the encoder's features as they are.
        bias: (K,).
    """

    encoder: Encoder
    card: HeadCard
    weight: np.ndarray
    bias: np.ndarray

    @property
    def columns(self) -> tuple[str, ...]:
        """(K,) names of what `probabilities` gives: `p_CLASS`, `p_LABEL` or `fraction_ANSWER`."""
        return tuple(f"{PREFIXES[self.card.kind]}{name}" for name in self.card.classes)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n, F) features -> (n, K) float32: a softmax for classes and counts, a sigmoid for each of several labels.

        Scores are divided by the temperature first, which makes the probabilities mean what they say as well as the
        budget's labels could tell (Guo et al. 2017). Features must be finite.
        """
        scores = features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        scores /= self.card.temperature
        values = expit(scores) if self.card.kind == "multilabel" else softmax(scores, axis=1)
        return np.asarray(values, dtype=np.float32)


def read_classifier(folder: Path) -> SavedClassifier:
    """The model in a folder that `transfer` saved.

    Raises:
        RunError: When the folder holds no encoder or no classifier, is damaged, or its classifier is of a kind that
            is not known or does not fit its encoder.
        DataError: When the encoder's weights are damaged.
    """
    saved = sorted(path.parents[1] for where in ("*", "models/*") for path in folder.glob(f"{where}/{HEAD}"))
    if saved:
        raise RunError(f"{folder} is no model but holds {len(saved)}; choose one: {', '.join(map(str, saved))}.")
    card, weight, bias = read_head(folder)
    encoder = run_encoder(folder)
    damaged = f"{folder / HEAD} cannot be used: "
    if card.kind not in PREFIXES:
        raise RunError(f"{damaged}{unknown_name('kind of task', card.kind, PREFIXES)} Use the version of sciencessl "
                       "that saved it.")
    if not 0 < card.temperature < float("inf"):
        raise RunError(f"{damaged}temperature {card.temperature} must be finite and above 0; run the transfer again.")
    expected = (len(card.classes), encoder.card.features)
    if weight.shape != expected or bias.shape != expected[:1]:
        raise RunError(f"{damaged}weights {weight.shape} and biases {bias.shape} must be {expected} and "
                       f"{expected[:1]}, for {len(card.classes)} classes on {expected[1]} features; run the transfer "
                       "again.")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise RunError(f"{damaged}some of its weights are not finite; run the transfer again.")
    return SavedClassifier(encoder, card, weight, bias)
