"""Which variant of random encoders a run is compared with: the stronger one, found on labels that are drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sciencessl.evaluate.bags import all_samples, pooled
from sciencessl.evaluate.encoders import VARIANTS, Encoder
from sciencessl.evaluate.features import FeatureCache
from sciencessl.evaluate.kinds import LOSSES, held_out_loss
from sciencessl.evaluate.tasks import TaskData
from sciencessl.store.files import write_atomic
from sciencessl.store.format import digest

IN_WORDS = {
    "statistics": "batch-norm statistics of unlabelled training images",
    "branches": "all residual branches switched on",
}


@dataclass(frozen=True)
class Choice:
    """The variant chosen.

    Attributes:
        variant: One of `VARIANTS`.
        losses: Variant -> cross-validated loss, mean over encoders; empty where labels were too few to ask.
        n_labels: Labels that were asked.
        loss: What the loss is, in words.
    """

    variant: str
    losses: Mapping[str, float]
    n_labels: int
    loss: str

    @property
    def note(self) -> str:
        """For the foot of a table."""
        said = f"random weights with {IN_WORDS[self.variant]}"
        if not self.losses:
            return said
        text = ", ".join(f"{IN_WORDS[name]} {loss:.3f}" for name, loss in self.losses.items())
        asked = f"cross-validated {self.loss} on {self.n_labels} training labels"
        return f"{said}; the stronger of two by {asked} ({text})"


def choose_variant(
    variants: Mapping[str, Sequence[Encoder]], cache: FeatureCache, data: TaskData, rows: np.ndarray
) -> Choice:
    """The variant whose frozen head has the smaller cross-validated loss (`held_out_loss`) on one budget's own labels.

    Asked once for a transfer, on its largest budget, so that small budgets are given what they could not find out:
    this favours the baseline. So does it with folds, where the labels of the first pool are tested in other folds. With
    so few labels that nothing is tuned, and for segmentation, which has no such head, the first variant.

    Args:
        variants: Name -> encoders.
        cache: Of embeddings.
        data: The task.
        rows: (n,) positions in the pool of the labels to use.
    """
    if data.task.kind == "dense":
        return Choice(VARIANTS[0], {}, len(rows), "")
    kept = kept_choice(variants, cache, data, rows)
    if kept is not None:
        return kept
    index = data.train[rows]
    cache.fill([encoder for encoders in variants.values() for encoder in encoders], all_samples(data.train_bags, index))
    losses: dict[str, float] = {}
    for name, encoders in variants.items():
        asked = [held_out_loss(data, rows, pooled(partial(cache.get, encoder), data.train_bags, index), 0)
                 for encoder in encoders]
        known = [loss for loss in asked if loss is not None]
        if len(known) == len(encoders):
            losses[name] = float(np.mean(known))
    best = min(losses, key=lambda name: losses[name]) if len(losses) == len(variants) else VARIANTS[0]
    choice = Choice(best, losses, len(rows), LOSSES[data.task.kind])
    write_atomic(_path(variants, cache, data, rows), json.dumps(asdict(choice)).encode())
    return choice


def kept_choice(
    variants: Mapping[str, Sequence[Encoder]], cache: FeatureCache, data: TaskData, rows: np.ndarray
) -> Choice | None:
    """What `choose_variant` chose in an earlier call, or None."""
    try:
        return Choice(**json.loads(_path(variants, cache, data, rows).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _path(
    variants: Mapping[str, Sequence[Encoder]], cache: FeatureCache, data: TaskData, rows: np.ndarray
) -> Path:
    encoders = "".join(encoder.digest for group in variants.values() for encoder in group)
    units = "\n".join(map(str, data.train_units[rows]))
    samples = all_samples(data.train_bags, data.train[rows])
    key = digest(encoders.encode(), cache.store.digest.encode(), data.digest.encode(), samples.tobytes(),
                 units.encode(), data.task.kind.encode())
    return cache.folder / f"variant-{key}.json"
