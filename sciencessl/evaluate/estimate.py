"""How long a transfer would take: one batch or step of everything is timed, nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sciencessl.evaluate.abmil import step_seconds as step_seconds_of_bags
from sciencessl.evaluate.abmil import steps_of
from sciencessl.evaluate.dense import step_seconds as step_seconds_of_masks
from sciencessl.evaluate.encoders import Encoder, embed_together
from sciencessl.evaluate.features import Features
from sciencessl.evaluate.finetune import BATCH, LEARNING_RATES, Labelled, step_seconds
from sciencessl.evaluate.fitter import segmented
from sciencessl.evaluate.linear import few_units
from sciencessl.evaluate.plan import Item, Plan
from sciencessl.evaluate.results import ArmEstimate
from sciencessl.train.measure import best_time

FORWARD = 1 / 3
"""Of a training step: a backward pass costs about two forward passes."""


def estimate_arms(plan: Plan, features: Features, todo: Sequence[Item]) -> tuple[int, tuple[ArmEstimate, ...]]:
    """Embeddings to compute, and what each arm would take.

    Args:
        plan: What is asked.
        features: Of its samples.
        todo: The fits that are not done.
    """
    images, found = 0, []
    seen: set[str] = set()
    for arm in dict.fromkeys(curve.arm for curve in plan.curves):
        items = [item for item in todo if item.arm == arm]
        embeds = items and plan.data.task.kind != "dense"
        encoders = {e.digest: e for e in _embedders(plan, arm) if embeds and e.digest not in seen}
        seen |= encoders.keys()
        lacking = {name: features.missing(encoder) for name, encoder in encoders.items()}
        images += sum(lacking.values())
        seconds = _embedding(plan, encoders, lacking)
        if plan.trains(arm):
            seconds += _training(plan, items)
        if arm == "abmil":
            seconds += _attention(plan, items)
        found.append(ArmEstimate(arm, len(items), seconds / 3600))
    return images, tuple(found)


def _embedders(plan: Plan, arm: str) -> list[Encoder]:
    """Encoders whose features an arm reads; of random ones, both variants."""
    return [encoder for curve in plan.curves if curve.arm == arm != "scratch"
            for group in curve.variants.values() for encoder in group]


def _embedding(plan: Plan, encoders: dict[str, Encoder], lacking: dict[str, int]) -> float:
    """Seconds; encoders of one architecture and input take the same time, so one of them is timed."""
    rates: dict[tuple[str, str, str], float] = {}
    total = 0.0
    for name, encoder in encoders.items():
        kind = encoder.card.backbone, encoder.card.norm, encoder.input
        if lacking[name] and kind not in rates:
            rates[kind] = _image_seconds(plan, replace(encoder, statistics=False))
        total += lacking[name] * rates.get(kind, 0.0)
    return total


def _image_seconds(plan: Plan, encoder: Encoder) -> float:
    index = plan.samples()[:BATCH]

    def once() -> None:
        embed_together([encoder], plan.store, index, 0)

    return best_time(once, repeats=1) / len(index)


def _training(plan: Plan, items: Sequence[Item]) -> float:
    """Seconds of all trainings of an arm: those of the search too, and scoring the test samples."""
    steps: dict[str, float] = {}
    total = 0.0
    for item in items:
        data, rows, encoder = item.part.data, item.rows, item.encoder
        labels, units = data.train_labels[rows], data.train_units[rows]
        training = plan.training_of(item.arm)
        if encoder.digest not in steps and data.task.kind == "dense":
            steps[encoder.digest] = step_seconds_of_masks(encoder.module, encoder.card, segmented(plan, item), training)
        if encoder.digest not in steps:
            labelled = Labelled(plan.store, data.train[rows], labels, units)
            steps[encoder.digest] = step_seconds(encoder.module, encoder.card, labelled, training)
        tried = 0 if few_units(labels, units) else len(LEARNING_RATES) * training.trial.max_steps
        batches = training.max_steps + tried + FORWARD * len(data.test) / BATCH
        total += batches * steps[encoder.digest]
    return total


def _attention(plan: Plan, items: Sequence[Item]) -> float:
    """Seconds of all fits of attention; a step takes time in proportion to the samples of its bags."""
    data = plan.data
    samples = max(1, len(data.pool_samples) // len(data.train))
    steps: dict[int, float] = {}
    total = 0.0
    for item in items:
        width, own = item.encoder.card.features, item.part.data
        if width not in steps:
            steps[width] = step_seconds_of_bags(samples, width, len(data.classes))
        total += steps_of(own.train_labels[item.rows], own.train_units[item.rows]) * steps[width]
    return total
