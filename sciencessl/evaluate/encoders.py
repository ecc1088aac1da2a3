"""Encoders to evaluate: that of a run, or one of the same architecture that never learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciencessl.backbones.timm_backbones import build_backbone, switch_on
from sciencessl.data.loader import Decoder, EvaluationStream, make_loader
from sciencessl.data.order import derive_key
from sciencessl.errors import ConfigError, DataError, RunError, unknown_name
from sciencessl.evaluate.colour_histogram import COLOUR_HISTOGRAM, colour_histograms
from sciencessl.evaluate.feature_table import FeatureTable
from sciencessl.registry import load_domain, resolve
from sciencessl.samples import Batch
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.train.folder import MODEL, WEIGHTS, ModelCard, read_model
from sciencessl.views.settings import FURTHER

ENOUGH_FOR_WORKERS = 2048
"""Samples below which starting a loader process takes longer than decoding them here."""

VARIANTS = ("statistics", "branches")
"""Of random encoders, the default first."""

STATISTICS_SAMPLES = 1024
"""Images of split=train, evenly spread over it, that batch-norm statistics of random encoders are taken from."""


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder and how its input is made.

    Attributes:
        name: Shown in tables: the run's folder name, `random N`, or what `foreign.find_encoder` calls it.
        card: Of the run, or of the run that a random encoder is compared with.
        module: In evaluation mode.
        digest: Of weights and input settings: what cached features are filed under.
        foreign: Whether its training is not on record.
        statistics: Whether its batch-norm statistics, or the stretch that it sees flux by, are taken from split=train
            before it embeds anything.
        source: Where its weights come from: a run folder or `timm:NAME`; empty for an encoder that never learned.
        table: Features that someone else computed; `module` then does nothing.
    """

    name: str
    card: ModelCard
    module: nn.Module
    digest: str
    foreign: bool = False
    statistics: bool = False
    source: str = ""
    table: FeatureTable | None = None

    @property
    def has_weights(self) -> bool:
        """Whether there is a network to train further, and an architecture to compare with; of a table of features
        and of a colour histogram there is none."""
        return bool(self.card.backbone)

    @property
    def input(self) -> str:
        """Digest of how its input is made: encoders of one input can share decoded images, and what never learned.

        How many views a method compares does not enter.
        """
        card = self.card
        views = sorted((name, value) for name, value in card.views.items() if name not in FURTHER)
        values = (card.domain, card.field, card.channels, card.stats, views)
        return digest(repr(values).encode())


def run_encoder(run: str | Path) -> Encoder:
    """The exported encoder of a finished run.

    Raises:
        RunError: When the folder holds no exported model, or its card is damaged.
        DataError: When its weights are damaged or do not fit its card.
    """
    path = local_path(run, "RUN")
    card = read_card(path)
    weights = path / WEIGHTS
    module = frozen(build_backbone(card.backbone, len(card.channels), 0, weights, card.norm, size=card.size))
    encoder = Encoder(path.resolve().name, card, module, "", source=str(path.resolve()))
    return replace(encoder, digest=digest(weights.read_bytes(), encoder.input.encode()))


def frozen(module: nn.Module) -> nn.Module:
    """In evaluation mode, laid out channels last: up to 1.7 times as fast on a CPU, with the same values."""
    ready: nn.Module = module.eval().to(memory_format=torch.channels_last)
    return ready


def read_card(run: Path) -> ModelCard:
    """The card of a finished run.

    Raises:
        RunError: When the folder holds no exported model, or its card is damaged.
    """
    try:
        return read_model(run)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run / MODEL} is damaged ({type(error).__name__}: {error}). Export the run again by continuing it with "
            "`sciencessl pretrain --resume`."
        ) from error


def random_encoder(card: ModelCard, number: int, variant: str = "statistics") -> Encoder:
    """The same architecture and input as a run's, with weights that never learned from an image.

    As initialised it would be a straw man: batch norm divides by no statistics, and initialisers switch residual
    branches off (the last norm scale of a block, or its layer scale, starts near zero). So there are two variants,
    neither the stronger one for all architectures; `baseline.choose_variant` says which is used:

    - `statistics`: batch-norm statistics are those of unlabelled training images (see `take_statistics`);
    - `branches`: every branch is switched on, and statistics stay as initialised.

    Both at once was weaker than either. Balanced accuracy at 750 labels as initialised, with statistics, with branches
    on: galaxies, RegNetY-002 0.52, 0.55, 0.63; galaxies, ResNet-18 0.65, 0.70, 0.64; CIFAR-10, RegNetY-002 0.23, 0.24,
    0.28; lung tissue, RegNetY-002 0.77, 0.74, 0.76 (means of 5, 3, 3 and 3 encoders at 64 px). Source: ours.

    A run without norms has counterparts with batch norm, whose statistics of training images are the start that such a
    run takes from data.

    Args:
        card: Of the run that it is compared with.
        number: Weights are a pure function of it and the architecture.
        variant: One of `VARIANTS`.

    Raises:
        ConfigError: For an unknown variant.
    """
    if variant not in VARIANTS:
        raise ConfigError(unknown_name("variant of random encoders", variant, VARIANTS))
    card, seed = _blank(card, "random"), derive_key("random encoder", number) % 2**63
    module = frozen(build_backbone(card.backbone, len(card.channels), seed, norm=card.norm, size=card.size))
    if variant == "branches":
        switch_on(module)
    encoder = Encoder(f"random {number}", card, module, "", statistics=variant == "statistics")
    key = f"random {number} {variant} {_architecture(card)}"
    return replace(encoder, digest=digest(key.encode(), encoder.input.encode()))


def scratch_encoder(card: ModelCard, name: str) -> Encoder:
    """What the arm `scratch` starts from: the architecture and input of a run, with batch norm where that has no
    norms. `fresh_module` gives the weights."""
    card = _blank(card, "scratch")
    encoder = Encoder(name, card, fresh_module(card, 0), "")
    return replace(encoder, digest=digest(f"scratch {_architecture(card)}".encode(), encoder.input.encode()))


def fresh_module(card: ModelCard, seed: int) -> nn.Module:
    """A card's architecture as its initialiser leaves it; a pure function of it and the seed."""
    key = derive_key("scratch", seed) % 2**63
    return frozen(build_backbone(card.backbone, len(card.channels), key, norm=card.norm, size=card.size))


def _architecture(card: ModelCard) -> str:
    return card.backbone if card.norm == "batch" else f"{card.backbone} {card.norm}"


def _blank(card: ModelCard, method: str) -> ModelCard:
    return replace(card, method=method, label_columns=(), label_note="", label_rows={}, steps=0, images=0, stores=(),
                   init_from="", sampling="", probe_columns=(), license="", averaged=(),
                   norm="batch" if card.norm == "none" else card.norm)


def check_input(encoder: Encoder, store: Store) -> None:
    """An encoder reads stores that have its field with its channels; a table of features has seen them.

    Raises:
        DataError: When this one does not.
    """
    card = encoder.card
    if encoder.table is not None:
        return
    found = store.header.fields.get(card.field)
    if found is None or found.channels != card.channels:
        have = {name: list(spec.channels) for name, spec in store.header.fields.items()}
        raise DataError(
            f"{encoder.name} was trained on field {card.field!r} with channels {list(card.channels)}; {store.path} "
            f"has {have}. Prepare the data with the same source and domain."
        )


def compute_embeddings(
    encoder: Encoder,
    store: Store,
    index: np.ndarray,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """(n, F) float32 embeddings of samples of a store, in the order of `index`: `embed_together` for one encoder."""
    return embed_together([encoder], store, index, workers, progress)[0]


@torch.inference_mode()
def embed_together(
    encoders: Sequence[Encoder],
    store: Store,
    index: np.ndarray,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    statistics: Store | None = None,
) -> list[np.ndarray]:
    """Embeddings by encoders of one input, whose images are decoded once for all of them.

    Args:
        encoders: Frozen encoders with the same `input`.
        store: A store that they can read.
        index: (n,) store indices.
        workers: Loader processes; 0 decodes in this one, and so do any for few samples.
        progress: Called with (samples done, samples).
        statistics: Store that batch-norm statistics are taken from, where encoders ask for it; by default `store`.

    Returns:
        (n, F) float32 for each encoder, in the order of `index`.

    Raises:
        ConfigError: When the encoders' inputs differ.
        DataError: When the store lacks their field or channels.
    """
    if len({encoder.input for encoder in encoders}) != 1:
        raise ConfigError(f"encoders {[e.name for e in encoders]} do not have one input; embed them one by one.")
    check_input(encoders[0], store)
    card = encoders[0].card
    if card.method == COLOUR_HISTOGRAM:
        few = worth_workers(workers, len(index))
        return [colour_histograms(store, index, statistics or store, few, progress)] * len(encoders)
    take_statistics([encoder for encoder in encoders if encoder.statistics], statistics or store)
    parts: list[list[Tensor]] = [[torch.zeros(0, encoder.card.features)] for encoder in encoders]
    done = 0
    for batch in make_loader(evaluation_stream(card, store, index), worth_workers(workers, len(index))):
        x = as_input(batch, card)
        for encoder, values in zip(encoders, parts, strict=True):
            values.append(encoder.module(x).float())
        done += len(batch)
        if progress:
            progress(done, len(index))
    return [torch.cat(values).numpy() for values in parts]


@torch.inference_mode()
def take_statistics(encoders: Sequence[Encoder], store: Store) -> None:
    """Set the batch-norm statistics of encoders to those of unlabelled images of split=train, in evaluation views.

    One pass in training mode over up to `STATISTICS_SAMPLES` images: each layer normalises by its batch, and keeps the
    plain mean over batches of means and variances. Layers without such statistics are left as they are.

    Args:
        encoders: With one input; their modules are changed.
        store: Whose split=train is read.
    """
    normed = [encoder for encoder in encoders if any(True for _ in _batch_norms(encoder.module))]
    if not normed:
        return
    split = store.split("train")
    if len(split) < 2:
        return
    positions = np.unique(np.linspace(0, len(split) - 1, min(len(split), STATISTICS_SAMPLES)).astype(np.int64))
    card = normed[0].card
    kept = [(layer, layer.momentum) for encoder in normed for layer in _batch_norms(encoder.module)]
    for layer, _ in kept:
        layer.reset_running_stats()
        layer.momentum = None  # the cumulative mean
        layer.train()
    for batch in evaluation_stream(card, store, split.to_store(positions)):
        x = as_input(batch, card)
        for encoder in normed:
            if len(x) > 1:
                encoder.module(x)
    for layer, momentum in kept:
        layer.momentum = momentum
        layer.eval()


def _batch_norms(module: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            yield layer


def worth_workers(workers: int, samples: int) -> int:
    """Loader processes for so many samples: none where starting one takes longer than decoding them here."""
    return workers if samples > ENOUGH_FOR_WORKERS else 0


def as_input(batch: Batch, card: ModelCard) -> Tensor:
    """The first view of a batch as model input (B, C, H, W), with the statistics of a card, channels last."""
    function = resolve(load_domain(card.domain).to_input)
    x: Tensor = function(batch.views[0][card.field], card.stats)
    return x.contiguous(memory_format=torch.channels_last)


def evaluation_stream(card: ModelCard, store: Store, index: np.ndarray) -> EvaluationStream:
    """Evaluation views of samples of a store as an encoder of that card sees them, in the order of `index`."""
    domain = load_domain(card.domain)
    return EvaluationStream(
        Decoder(store, domain.decode), np.asarray(index), domain.views, view_settings(card), [card.field]
    )


def view_settings(card: ModelCard) -> Any:
    """The argument of the domain's `views` that a card was trained with.

    Raises:
        RunError: When the domain has other settings now.
    """
    domain = load_domain(card.domain)
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in card.views.items()}
    try:
        return domain.train_options(**settings)
    except TypeError as error:
        raise RunError(
            f"a run was trained with view settings that domain {card.domain!r} does not have ({error}); "
            "evaluate it with the version of sciencessl that trained it."
        ) from error


def require_finite(features: np.ndarray, store: Store, index: np.ndarray, name: str) -> None:
    """Refuse features that are no numbers.

    Args:
        features: (n, F) of some samples.
        store: Where these lie.
        index: (n,) their store indices.
        name: Of the encoder.

    Raises:
        DataError: Naming how many samples have such features, and the first.
    """
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if broken.size:
        raise DataError(
            f"features of {broken.size} of {len(index)} samples of {store.path} are not finite, the first of id "
            f"{store.ids[index[broken[0]]]!r}. Look at that image (`sciencessl store show`); if it is sound, the "
            f"encoder of {name} is broken: look at its training curve."
        )
