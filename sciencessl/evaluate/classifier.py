"""A saved model as a whole: an encoder and the classifier on it, from images to calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax

from sciencessl.errors import RunError, unknown_name
from sciencessl.evaluate.abmil import Attention
from sciencessl.evaluate.bags import POOLINGS, pool
from sciencessl.evaluate.encoders import Encoder, run_encoder
from sciencessl.train.folder import HEAD, HeadCard, read_whole_head

PREFIXES = {"class": "p_", "counts": "fraction_", "multilabel": "p_", "bag": "p_"}
"""Kind of task -> what the name of a class, answer or label follows in a column of predictions."""


@dataclass(frozen=True)
class SavedClassifier:
    """What `transfer` kept of an arm.

    Attributes:
        encoder: Frozen.
        card: Of the classifier.
        weight: (K, F), on the encoder's features as they are.
        bias: (K,).
        attention: That pools the samples of a bag, where it was learned.
    """

    encoder: Encoder
    card: HeadCard
    weight: np.ndarray
    bias: np.ndarray
    attention: Attention | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """(K,) names of what `probabilities` gives: `p_CLASS`, `p_LABEL` or `fraction_ANSWER`."""
        return tuple(f"{PREFIXES[self.card.kind]}{name}" for name in self.card.classes)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n, F) features -> (n, K) float32: a softmax for classes and counts, a sigmoid for each of several labels.

        Scores are divided by the temperature first, which makes the probabilities mean what they say as well as the
        budget's labels could tell (Guo et al. 2017). Features must be finite; of kind `bag` they are those of bags
        (`pooled`).
        """
        scores = features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        scores /= self.card.temperature
        values = expit(scores) if self.card.kind == "multilabel" else softmax(scores, axis=1)
        return np.asarray(values, dtype=np.float32)


    def weigh(self, features: np.ndarray) -> np.ndarray:
        """(n, F) features of one bag -> (n,) float64 shares of its samples in what is told of it; they add up to 1.

        Those of attention; the same for all of a mean; of a maximum the share of features that are highest in the
        sample, divided among equals (ours).
        """
        if self.attention is not None:
            return self.attention.weights(features)
        if self.card.pooling == "max":
            highest = features == features.max(axis=0)
            shares: np.ndarray = (highest / highest.sum(axis=0)).mean(axis=1)
            return shares
        return np.full(len(features), 1 / len(features))

    def pooled(self, features: np.ndarray) -> np.ndarray:
        """(n, F) features of one bag -> (F,) float64 that `probabilities` takes."""
        if self.attention is None:
            return pool(features, np.array([len(features)]), self.card.pooling).reshape(-1)
        weighed: np.ndarray = self.attention.weights(features) @ features
        return weighed


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
    card, stored = read_whole_head(folder)
    weight, bias = stored.pop("weight"), stored.pop("bias")
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
    return SavedClassifier(encoder, card, weight, bias, _attention(damaged, card, stored, encoder.card.features))


def _attention(damaged: str, card: HeadCard, stored: Mapping[str, np.ndarray], width: int) -> Attention | None:
    """The attention of a model of bags; None where it pools without."""
    if card.kind == "bag" and (not card.bag or card.pooling not in (*POOLINGS, "attention")):
        raise RunError(f"{damaged}of kind 'bag' it must name a column as bag, not {card.bag!r}, and pool by "
                       f"{', '.join(POOLINGS)} or attention, not {card.pooling!r}; run the transfer again.")
    if card.pooling != "attention":
        return None
    hidden = len(stored.get("score", ()))
    expected = {"tanh": (hidden, width), "tanh_bias": (hidden,), "gate": (hidden, width), "gate_bias": (hidden,),
                "score": (hidden,)}
    found = {name: array.shape for name, array in stored.items()}
    if found != expected or not hidden or not all(np.isfinite(array).all() for array in stored.values()):
        raise RunError(f"{damaged}its attention {found} must be {expected}, finite numbers; run the transfer again.")
    return Attention(**stored)
