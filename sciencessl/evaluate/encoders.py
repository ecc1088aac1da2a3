"""Encoders to evaluate: that of a run, or a random one of the same architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.data.loader import Decoder, EvaluationStream, make_loader
from sciencessl.data.order import derive_key
from sciencessl.errors import DataError
from sciencessl.registry import load_domain, resolve
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.train.folder import WEIGHTS, ModelCard, read_model


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder and how its input is made.

    Attributes:
        name: Shown in tables: the run's folder name, or `random N`.
        card: Of the run, or of the run that a random encoder is compared with.
        module: In evaluation mode.
        digest: Of weights and input settings: what cached features are filed under.
        foreign: Whether its training is not on record.
    """

    name: str
    card: ModelCard
    module: nn.Module
    digest: str
    foreign: bool = False


def run_encoder(run: str | Path) -> Encoder:
    """The exported encoder of a finished run.

    Raises:
        RunError: When the run holds no exported model.
        DataError: When its weights do not fit its card.
    """
    path = Path(run)
    card = read_model(path)
    weights = path / WEIGHTS
    module = build_backbone(card.backbone, len(card.channels), 0, weights).eval()
    return Encoder(path.resolve().name, card, module, digest(weights.read_bytes(), _input_key(card)))


def random_encoder(card: ModelCard, number: int) -> Encoder:
    """The same architecture and input as a run's, with weights that never saw an image."""
    seed = derive_key("random encoder", number) % 2**63
    module = build_backbone(card.backbone, len(card.channels), seed).eval()
    blank = replace(card, method="random", label_columns=(), label_note="", steps=0, images=0, store="",
                    store_digest="", init_from="")
    key = digest(f"random {number} {card.backbone}".encode(), _input_key(card))
    return Encoder(f"random {number}", blank, module, key)


def _input_key(card: ModelCard) -> bytes:
    return repr((card.domain, card.field, card.channels, card.stats, sorted(card.views.items()))).encode()


def check_input(encoder: Encoder, store: Store) -> None:
    """An encoder reads stores that have its field with its channels.

    Raises:
        DataError: When this one does not.
    """
    card = encoder.card
    found = store.header.fields.get(card.field)
    if found is None or found.channels != card.channels:
        have = {name: list(spec.channels) for name, spec in store.header.fields.items()}
        raise DataError(
            f"{encoder.name} was trained on field {card.field!r} with channels {list(card.channels)}; {store.path} "
            f"has {have}. Prepare the data with the same source and domain."
        )


@torch.inference_mode()
def compute_embeddings(
    encoder: Encoder,
    store: Store,
    index: np.ndarray,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """(n, F) float32 embeddings of samples of a store, in the order of `index`.

    Args:
        encoder: A frozen encoder.
        store: A store that it can read.
        index: (n,) store indices.
        workers: Loader processes; 0 decodes in this one.
        progress: Called with (samples done, samples).

    Raises:
        DataError: When the store lacks the encoder's field or channels.
    """
    check_input(encoder, store)
    card = encoder.card
    domain = load_domain(card.domain)
    function = resolve(domain.to_input)
    views = domain.train_options(**_settings(card))
    stream = EvaluationStream(Decoder(store, domain.decode), np.asarray(index), domain.views, views, [card.field])
    parts: list[Tensor] = []
    done = 0
    for batch in make_loader(stream, workers if len(index) > stream.size else 0):
        parts.append(encoder.module(function(batch.views[0][card.field], card.stats)).float())
        done += len(batch)
        if progress:
            progress(done, len(index))
    if not parts:
        return np.zeros((0, card.features), np.float32)
    return torch.cat(parts).numpy()


def _settings(card: ModelCard) -> dict[str, object]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in card.views.items()}
