"""Models that a transfer leaves: the encoder and classifier of an arm's largest budget, as a run folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from sciencessl.evaluate.encoders import Encoder
from sciencessl.evaluate.finetune import BATCH, Training
from sciencessl.evaluate.fits import Fit, FitKey
from sciencessl.evaluate.tasks import TaskData
from sciencessl.store.reader import Store
from sciencessl.train.folder import HEAD, MODEL, HeadCard, ModelCard, StoreRecord, write_head, write_model

POOLING_OF = {"frozen": "mean", "max": "max", "abmil": "attention"}
"""Arm of a task of bags -> how its model pools."""


def save_model(
    folder: Path, arm: str, encoder: Encoder, fit: Fit, key: FitKey, store: Store, data: TaskData, training: Training
) -> None:
    """Write the model of a fit. `embed` and `transfer` take the folder as a run, whose card tells what it saw.

    The classifier's card comes last: with it the model is whole.

    Args:
        folder: Of the model; what an earlier transfer left there is replaced.
        arm: Its arm.
        encoder: What the fit started from.
        fit: Just computed, with its head.
        key: Of the fit.
        store: That it learned from.
        data: The task.
        training: Of the arm, where it trained a network.
    """
    assert fit.head is not None
    (folder / HEAD).unlink(missing_ok=True)
    card = encoder.card if fit.encoder is None else _trained(arm, encoder, fit, key, store, data, training)
    write_model(folder, card, fit.encoder or encoder.module)
    classes = tuple(data.classes[number] for number in fit.head.classes)
    head = HeadCard(data.task.name, ", ".join(data.task.label_columns), classes, arm, key.budget, key.subset_seed,
                    fit.n_labels, fit.chosen, key.name, data.task.kind, fit.temperature or 1.0)
    if data.task.kind == "bag":
        head = replace(head, bag=data.task.bag, pooling=POOLING_OF[arm])
    learned = vars(fit.attention) if fit.attention is not None else {}
    write_head(folder, head, fit.head.weight, fit.head.bias, **learned)


def holds_model(folder: Path, key: FitKey) -> bool:
    """Whether the whole model of a fit is there."""
    try:
        card = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        return (folder / MODEL).is_file() and bool(card["fit"] == key.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _trained(
    arm: str, encoder: Encoder, fit: Fit, key: FitKey, store: Store, data: TaskData, training: Training
) -> ModelCard:
    """The card of an encoder that has learned from the task's labels; what it started from is its `init_from`."""
    return replace(
        encoder.card, method=arm, steps=training.max_steps, images=training.max_steps * BATCH, seed=key.subset_seed,
        stores=(StoreRecord(str(store.path), store.digest, store.table_digests()),), sampling="",
        label_columns=data.task.label_columns, label_note="",
        label_rows=dict.fromkeys(data.task.label_columns, fit.n_labels),
        init_from=encoder.source,
    )
