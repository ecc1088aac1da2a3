"""The arms that train a network on a budget's labels: fine-tuning a pretrained encoder, and training from scratch.

One recipe for both: class-balanced cross-entropy on the first training view of the domain, AdamW with a learning rate
that warms up and falls as a cosine, batches of `BATCH`. Fine-tuning starts its head from the logistic regression on
frozen features (LP-FT, arXiv 2202.10054) and lets earlier stages learn more slowly; training from scratch starts from
zeros and does not. Batch norm in stages that are trained is in training mode, as in the published recipes, so that its
statistics become those of the budget's images; stages that are not trained stay in evaluation mode throughout. There
is no early stopping: the weights after the last step are used.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sciencessl.data.loader import BatchStream, Decoder, make_loader
from sciencessl.data.order import Order
from sciencessl.data.runs import longest_run
from sciencessl.errors import ConfigError, RunError
from sciencessl.evaluate.calibration import temperature_of
from sciencessl.evaluate.encoders import as_input, evaluation_stream, view_settings, worth_workers
from sciencessl.evaluate.linear import (
    FittedClassifier,
    LinearHead,
    few_units,
    fit_logistic,
    held_out_losses,
    mean_over_classes,
    spread_probabilities,
    unit_folds,
)
from sciencessl.evaluate.stages import check_stages, stage_of
from sciencessl.losses.classification import softmax_nll
from sciencessl.optim.groups import adapts
from sciencessl.optim.schedules import warmup_cosine
from sciencessl.registry import load_domain
from sciencessl.spec import UNLABELLED, View
from sciencessl.store.reader import Store
from sciencessl.store.split import SplitIndex
from sciencessl.train.folder import ModelCard
from sciencessl.train.step import step_randomness

BATCH = 32
WARMUP = 0.1
"""Share of the steps in which the learning rate rises."""

WEIGHT_DECAY = 0.05
LEARNING_RATES: tuple[float, ...] = (1e-4, 5e-4, 2e-3)
"""Tried on a held-out fold where there are more than `linear.FEW` units a class (ours)."""

SEARCH_SHARE = 0.5
"""Of the steps of a fit, that each rate is tried with: the schedule is as much shorter (ours)."""

FIXED_LEARNING_RATE = 5e-4
"""Used where there are no more."""

LABELS = "class"


@dataclass(frozen=True)
class Training:
    """What is the same for every fit of an arm.

    Attributes:
        max_steps: Optimiser steps, 1 or more.
        stages: How many of the encoder's last stages are trained, besides the head; 0 for the head alone, None for all.
        layer_decay: Factor on the learning rate from each stage to the one before it; the last stage has one factor
            less than the head. 1 for one rate everywhere. 0.75 is the usual value (BEiT, arXiv 2106.08254).

    Raises:
        ConfigError: For fewer steps than 1 or stages than 0.
    """

    max_steps: int = 300
    stages: int | None = None
    layer_decay: float = 0.75

    def __post_init__(self) -> None:
        if self.max_steps < 1 or (self.stages is not None and self.stages < 0):
            raise ConfigError(
                f"training arms: max_steps={self.max_steps} must be 1 or more, and stages={self.stages} 0 or more, or "
                "all."
            )

    @property
    def trial(self) -> Training:
        """The same for trying a rate."""
        return replace(self, max_steps=max(1, round(SEARCH_SHARE * self.max_steps)))

    @property
    def from_scratch(self) -> Training:
        """The same for weights that never learned: they have no stage worth keeping or sparing."""
        return replace(self, stages=None, layer_decay=1.0)

    @property
    def head_only(self) -> Training:
        """The same for a linear layer on an encoder that stays as it is."""
        return replace(self, stages=0)

    def __str__(self) -> str:
        return f"{self.max_steps} steps, {'all' if self.stages is None else self.stages} stages"


@dataclass(frozen=True)
class Labelled:
    """The labelled samples of one budget: all that a fit may look at.

    Attributes:
        store: Where their images are.
        index: (n,) store indices.
        labels: (n,) class ids >= 0.
        units: (n,) units, which no fold divides.
        features: (n, F) features of the encoder to start from, or None where it never learned.
    """

    store: Store
    index: np.ndarray
    labels: np.ndarray
    units: np.ndarray
    features: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Labelled:
        """Some of them, by position."""
        features = None if self.features is None else self.features[rows]
        return Labelled(self.store, self.index[rows], self.labels[rows], self.units[rows], features)


class Tuned(nn.Module):
    """An encoder of which the last `stages` are trained (all for None), below a head that always is.

    Raises:
        ConfigError: When the encoder has fewer stages than that.
    """

    def __init__(self, encoder: nn.Module, stages: int | None) -> None:
        super().__init__()
        self.encoder = encoder
        check_stages(encoder, stages)
        of = stage_of(encoder)
        count = max(of.values()) + 1
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(stages is None or of[name] >= count - stages)

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for parts of the encoder that are not trained: their norms and dropout stay as they are
        at evaluation."""
        super().train(mode)
        for part in self.encoder.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
        return self


class Network(Tuned):
    """A copy of an encoder with a softmax layer on top: (B, C, H, W) -> (B, K') scores.

    The layer keeps the standardiser of the classifier that it starts from, so that its learning rate means the same
    whatever the size of the features.

    Args:
        encoder: Copied, so that it stays as it is.
        start: The first weights of the layer.
        stages: As in `Training`; parameters of the other stages need no gradient.

    Raises:
        ConfigError: When the encoder has fewer stages than that.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: nn.Module, start: FittedClassifier, stages: int | None) -> None:
        super().__init__(copy.deepcopy(encoder), stages)
        self.start = start
        self.register_buffer("mean", _single(start.mean))
        self.register_buffer("scale", _single(start.scale))
        self.weight = nn.Parameter(_single(start.coef.T))
        self.bias = nn.Parameter(_single(start.intercept))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes that `start` has."""
        return functional.linear((self.encoder(x).float() - self.mean) / self.scale, self.weight, self.bias)

    def head(self) -> LinearHead:
        """The layer as it is now, on features as they are."""
        coef, intercept = (value.detach().double().numpy() for value in (self.weight.T, self.bias))
        return replace(self.start, coef=coef, intercept=intercept).head()


def _single(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def layer_groups(network: Tuned, layer_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of the trained parameters: `params`, `weight_decay` and `scale`, the factor on the rate.

    The head has scale 1, stage s of S has `layer_decay ** (S - s)`. Biases and norms do not decay.
    """
    of = stage_of(network.encoder)
    count = max(of.values()) + 1
    scales = [(layer_decay ** (count - of[name]), p) for name, p in network.encoder.named_parameters()]
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    head = [(1.0, p) for name, p in network.named_parameters() if not name.startswith("encoder.")]
    for scale, parameter in [*scales, *head]:
        if parameter.requires_grad:
            groups.setdefault((scale, adapts(parameter)), []).append(parameter)
    return [
        {"params": parameters, "scale": scale, "weight_decay": WEIGHT_DECAY if adapt else 0.0}
        for (scale, adapt), parameters in groups.items()
    ]


@dataclass(frozen=True)
class FittedNetwork:
    """A trained network, with how it was chosen.

    Attributes:
        network: In evaluation mode.
        card: How its input is made.
        rate: Peak learning rate chosen.
        trials: Settings tried on the budget's own labels, those of the head's first weights included.
        search: Peak learning rate -> loss on the held-out fold; empty where fixed.
        workers: Loader processes.
        temperature: That makes the scores likeliest on the held-out fold (`calibration.fit_temperature`), of the
            network that learned with the chosen rate from the rest; 1 where nothing was held out.
    """

    network: Network
    card: ModelCard
    rate: float
    trials: int = 1
    search: dict[float, float] = field(default_factory=dict)
    workers: int = 0
    temperature: float = 1.0

    def probabilities(self, store: Store, index: np.ndarray, n_classes: int) -> np.ndarray:
        """(m, n_classes) probabilities by class id of samples in their evaluation view; 0 for a class not learned."""
        scores = _scores(self.network, self.card, store, index, self.workers)
        return spread_probabilities(scores, self.network.start.classes, n_classes)


def fit_network(
    encoder: nn.Module, card: ModelCard, rows: Labelled, training: Training, seed: int, workers: int = 0
) -> FittedNetwork:
    """Train an encoder and a softmax layer on the labels of one budget.

    With more than `linear.FEW` units a class on average, the peak learning rate is chosen from `LEARNING_RATES`: one
    fold of the units is held out, each rate is trained on the rest for `SEARCH_SHARE` of the steps, and the smallest
    mean over classes of the log loss on the fold wins (the smaller rate among equals). Then all rows are trained on.
    Otherwise the rate is `FIXED_LEARNING_RATE`.

    The result is a pure function of the arguments but `workers`, on one machine and number of threads; no global
    generator is read or moved.

    Args:
        encoder: Weights to start from; left as they are.
        card: How its input is made: domain, field, view settings, input statistics.
        rows: Of the budget.
        training: Of the arm.
        seed: Of folds, order, augmentation and dropout.
        workers: Loader processes.

    Raises:
        ConfigError: When the encoder has fewer stages than are to be trained.
        RunError: When the weights are no longer finite at the end.
    """
    start = _Start(encoder, card, training, seed, workers)
    trial = replace(start, training=training.trial)
    tried = {} if few_units(rows.labels, rows.units) else trial.search(rows)
    search = {rate: held.loss for rate, held in tried.items()}
    rate = min(search, key=lambda value: (search[value], value)) if search else FIXED_LEARNING_RATE
    first = start.classifier(rows)
    network = start.train(rows, first, rate)
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise RunError(
            f"training a {card.backbone} on {len(rows.index)} labels left weights that are not finite, at a peak "
            f"learning rate of {rate:g}; check the pretrained weights."
        )
    temperature = tried[rate].temperature if tried else 1.0
    return FittedNetwork(network, card, rate, max(1, len(search) + len(first.search)), search, workers, temperature)


def step_seconds(encoder: nn.Module, card: ModelCard, rows: Labelled, training: Training) -> float:
    """Seconds of one step on this machine, loading included; the faster of two after one that warms up."""
    short = replace(training, max_steps=3)
    times = _Start(encoder, card, short, 0, 0).times(rows)
    return min(later - earlier for earlier, later in itertools.pairwise(times))


@dataclass(frozen=True)
class _Held:
    """How a learning rate did on the held-out fold; loss infinite where training broke down."""

    loss: float = np.inf
    temperature: float = 1.0


@dataclass(frozen=True)
class _Start:
    """Where a fit starts from, whatever the rate and the rows."""

    encoder: nn.Module
    card: ModelCard
    training: Training
    seed: int
    workers: int

    def classifier(self, rows: Labelled) -> FittedClassifier:
        """The first weights of the head: logistic regression, or zeros where there are no features."""
        if rows.features is None:
            classes, width = np.unique(rows.labels), self.card.features
            zeros = np.zeros((width, len(classes)))
            return FittedClassifier(classes, np.zeros(width), np.ones(width), zeros, zeros[0], c=0.0)
        return fit_logistic(rows.features, rows.labels, rows.units, self.seed)

    def search(self, rows: Labelled) -> dict[float, _Held]:
        """Peak rate -> how it did on the held-out fold."""
        kept, held = unit_folds(rows.labels, rows.units, self.seed)[0]
        train, test = rows.take(kept), rows.take(held)
        first = self.classifier(train)
        found = {}
        for rate in LEARNING_RATES:
            scores = _scores(self.train(train, first, rate), self.card, test.store, test.index, self.workers)
            loss = mean_over_classes(*held_out_losses(scores, first.classes, test.labels))
            whole = np.isfinite(loss)
            found[rate] = _Held(loss, temperature_of(scores, first.classes, test.labels)) if whole else _Held()
        return found

    def train(self, rows: Labelled, first: FittedClassifier, rate: float) -> Network:
        """The network after the last step, in evaluation mode."""
        network = Network(self.encoder, first, self.training.stages)
        for _ in self.steps(network, rows, rate):
            pass
        return network.requires_grad_(False).eval()

    def times(self, rows: Labelled) -> list[float]:
        """The clock after each step."""
        network = Network(self.encoder, self.classifier(replace(rows, features=None)), self.training.stages)
        return [time.perf_counter() for _ in self.steps(network, rows, FIXED_LEARNING_RATE)]

    def steps(self, network: Network, rows: Labelled, rate: float) -> Iterator[None]:
        """Train, one step at a time."""
        total = self.training.max_steps
        optimizer = torch.optim.AdamW(layer_groups(network, self.training.layer_decay), lr=rate)
        target, counts = np.unique(rows.labels, return_inverse=True, return_counts=True)[1:]
        weight = torch.tensor(len(target) / (len(counts) * counts), dtype=torch.float32)
        loader = make_loader(self._stream(rows, target), worth_workers(self.workers, total * BATCH))
        network.train()
        for number, batch in enumerate(itertools.islice(loader, total)):
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * warmup_cosine(number, round(WARMUP * total), total, rate)
            labels = batch.labels[LABELS]
            with step_randomness(self.seed, number):
                losses = softmax_nll(network(as_input(batch, self.card)), labels)
            optimizer.zero_grad()
            (weight[labels] * losses).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield

    def _stream(self, rows: Labelled, target: np.ndarray) -> BatchStream:
        """The first training view of the rows and no others, every row once an epoch."""
        domain = load_domain(self.card.domain)
        labels = np.full(len(rows.store), UNLABELLED, np.int64)
        labels[rows.index] = target
        return BatchStream(
            Decoder(rows.store, domain.decode),
            Order(len(rows.index), self.seed, BATCH, longest_run(rows.store, BATCH)),
            SplitIndex(rows.index, rows.index + 1), partial(_first_view, domain.views), view_settings(self.card),
            {LABELS: labels}, [self.card.field],
        )


def _first_view(views: Callable[[Any], tuple[View, View]], settings: Any) -> tuple[View, View]:
    """A domain's views without the second training view, where they can do without making it."""
    train, evaluate = views(settings)
    return getattr(train, "first", train), evaluate


@torch.inference_mode()
def _scores(network: Network, card: ModelCard, store: Store, index: np.ndarray, workers: int) -> np.ndarray:
    """(m, K') scores of samples in their evaluation view."""
    batches = make_loader(evaluation_stream(card, store, index), worth_workers(workers, len(index)))
    return torch.cat([torch.zeros(0, len(network.bias)), *(network(as_input(b, card)) for b in batches)]).numpy()
