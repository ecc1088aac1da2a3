"""Segmentation: an encoder, frozen or trained, and a head that learns from the label images of one budget.

One recipe for all arms: cross-entropy over judged pixels of joint random views (`dense_views`), AdamW with a learning
rate that warms up and falls as a cosine, the weights after the last step; `frozen` and `random` train the head alone.
The whole tile is predicted at once, and the scores are enlarged bilinearly to the label image.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sciencessl.data.loader import BatchStream, Decoder, EvaluationStream, make_loader
from sciencessl.data.order import Order
from sciencessl.data.runs import longest_run
from sciencessl.errors import RunError
from sciencessl.evaluate.dense_head import Segmenter
from sciencessl.evaluate.dense_masks import Masks
from sciencessl.evaluate.dense_metrics import IGNORED, dense_metrics, dense_scores, pixel_counts
from sciencessl.evaluate.dense_views import MASK, dense_views
from sciencessl.evaluate.encoders import as_input, view_settings, worth_workers
from sciencessl.evaluate.finetune import LEARNING_RATES, WARMUP, Training, layer_groups
from sciencessl.evaluate.fits import Fit
from sciencessl.evaluate.linear import few_units, unit_folds
from sciencessl.evaluate.tasks import TaskData
from sciencessl.optim.schedules import warmup_cosine
from sciencessl.registry import load_domain
from sciencessl.store.reader import Store
from sciencessl.store.split import SplitIndex
from sciencessl.train.folder import ModelCard
from sciencessl.train.step import step_randomness

BATCH = 16
FIXED_LEARNING_RATE = 2e-3
"""Used where labels are so few that nothing is tuned (ours)."""

PROTOCOL = f"fcn 1, batch {BATCH}, rates {LEARNING_RATES} or {FIXED_LEARNING_RATE}"
"""What cached fits depend on besides their data; raised whenever the recipe changes."""


@dataclass(frozen=True)
class Segmented:
    """Samples with label images.

    Attributes:
        store: Where their images are.
        index: (n,) store indices.
        masks: Of them all, or of more.
        labels: (n,) numbers of their strata, by which folds are dealt.
        units: (n,) units, which no fold divides.
    """

    store: Store
    index: np.ndarray
    masks: Masks
    labels: np.ndarray
    units: np.ndarray

    def take(self, rows: np.ndarray) -> Segmented:
        """Some of them, by position."""
        return Segmented(self.store, self.index[rows], self.masks, self.labels[rows], self.units[rows])


def run_dense(
    encoder: nn.Module, card: ModelCard, rows: Segmented, test: Segmented, training: Training, seed: int,
    workers: int = 0,
) -> Fit:
    """Train on a budget's label images, tuned on these alone, and score the test.

    With more than `linear.FEW` units a stratum on average, the peak learning rate is chosen from `LEARNING_RATES` by
    the mean IoU on a held-out fold of the units, after training on the rest for `SEARCH_SHARE` of the steps; otherwise
    it is `FIXED_LEARNING_RATE`. The result is a pure function of the arguments but `workers`, on one machine and number
    of threads.

    Args:
        encoder: Weights to start from; left as they are.
        card: How its input is made.
        rows: Of the budget: the only labels that any choice may use.
        test: Whose labels are read only to score.
        training: Of the arm; its `stages` of the encoder learn.
        seed: Of all that is drawn.
        workers: Loader processes.

    Returns:
        A fit whose `probabilities` are (m, 3 K) pixels of each test sample: true positive, false positive and false
        negative ones of each class.

    Raises:
        ConfigError: When the encoder has fewer stages or no map, or the domain no views to use.
        RunError: When the weights are no longer finite at the end.
    """
    start = _Start(encoder, card, training, seed, workers)
    search = {} if few_units(rows.labels, rows.units) else start.search(rows)
    rate = max(search, key=lambda value: (search[value], -value)) if search else FIXED_LEARNING_RATE
    network = start.train(rows, rate)
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise RunError(
            f"training a {card.backbone} on {len(rows.index)} label images left weights that are not finite, at a peak "
            f"learning rate of {rate:g}; check the pretrained weights."
        )
    counts = start.counts(network, test)
    chosen = f"learning rate {rate:g}{'' if search else ' (fixed)'}, {training}"
    return Fit(counts.reshape(len(counts), -1).astype(np.float32), len(rows.index), max(1, len(search)), chosen,
               dense_metrics(counts, rows.masks.classes))


def step_seconds(encoder: nn.Module, card: ModelCard, rows: Segmented, training: Training) -> float:
    """Seconds of one step on this machine, loading included; the faster of two after one that warms up."""
    start = _Start(encoder, card, replace(training, max_steps=3), 0, 0)
    network = start.network(rows)
    times = [time.perf_counter() for _ in start.steps(network, rows, FIXED_LEARNING_RATE)]
    return min(later - earlier for earlier, later in itertools.pairwise(times))


def predict_masks(
    network: Segmenter, card: ModelCard, store: Store, index: np.ndarray, masks: Masks, workers: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(S, S) true class numbers and (S, S) predicted ones of each sample, in the order of `index`."""
    domain = load_domain(card.domain)
    stream = EvaluationStream(
        Decoder(store, domain.decode), index, partial(dense_views, domain.views, card.field, None), view_settings(card),
        [card.field], BATCH,
    )
    for batch in make_loader(stream, worth_workers(workers, len(index))):
        with torch.inference_mode():
            scores = network(as_input(batch, card))
            for position, score in zip(batch.index.tolist(), scores, strict=True):
                truth = masks[position]
                yield truth, enlarged(score[None], truth.shape[0])[0].argmax(dim=0).numpy()


def segmentation_notes(data: TaskData) -> Iterator[str]:
    """What calling every pixel the pool's commonest class reaches, and which classes the test lacks."""
    assert data.train_targets is not None  # `load_task` gives them for this kind
    assert data.test_targets is not None
    tested = data.test_targets.sum(axis=0)
    called = int(data.train_targets.sum(axis=0).argmax())
    reached = float(tested[called] / tested.sum() / np.count_nonzero(tested))
    yield f"chance: mean IoU {reached:.3f}, of calling every pixel {data.classes[called]!r}"
    lacking = [name for name, pixels in zip(data.classes, tested, strict=True) if not pixels]
    if lacking:
        yield (f"the test has no pixel of {', '.join(map(repr, lacking))}: no intersection to speak of, so means over "
               "classes leave it out")


def enlarged(scores: Tensor, size: int) -> Tensor:
    """(B, K, h, w) scores -> (B, K, size, size), bilinearly."""
    return functional.interpolate(scores, (size, size), mode="bilinear", align_corners=False)


def masked_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy over judged pixels; 0 where there are none.

    Args:
        scores: (B, K, h, w).
        masks: (B, S, S) class numbers, or `IGNORED`.
    """
    target = masks.long()
    total = functional.cross_entropy(enlarged(scores, target.shape[-1]), target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp(min=1)


@dataclass(frozen=True)
class _Start:
    """Where a fit starts from, whatever the rate and the rows."""

    encoder: nn.Module
    card: ModelCard
    training: Training
    seed: int
    workers: int

    def network(self, rows: Segmented) -> Segmenter:
        size = int(view_settings(self.card).size)
        return Segmenter(self.encoder, self.card, size, len(rows.masks.classes), self.training.stages, self.seed)

    def search(self, rows: Segmented) -> dict[float, float]:
        """Peak rate -> mean IoU on the held-out fold; -1 where training broke down."""
        kept, held = unit_folds(rows.labels, rows.units, self.seed)[0]
        short = replace(self, training=self.training.trial)
        found = {}
        for rate in LEARNING_RATES:
            network = short.train(rows.take(kept), rate)
            whole = all(bool(parameter.isfinite().all()) for parameter in network.parameters())
            found[rate] = float(dense_scores("mean_iou", self.counts(network, rows.take(held))).mean()) if whole else -1
        return found

    def counts(self, network: Segmenter, test: Segmented) -> np.ndarray:
        """(m, 3, K) of `pixel_counts`."""
        pairs = predict_masks(network, self.card, test.store, test.index, test.masks, self.workers)
        return np.stack([pixel_counts(truth, told, len(test.masks.classes)) for truth, told in pairs])

    def train(self, rows: Segmented, rate: float) -> Segmenter:
        """The network after the last step, in evaluation mode."""
        network = self.network(rows)
        for _ in self.steps(network, rows, rate):
            pass
        return network.requires_grad_(False).eval()

    def steps(self, network: Segmenter, rows: Segmented, rate: float) -> Iterator[None]:
        """Train, one step at a time."""
        total = self.training.max_steps
        optimizer = torch.optim.AdamW(layer_groups(network, self.training.layer_decay), lr=rate)
        loader = make_loader(self._stream(rows), worth_workers(self.workers, total * BATCH))
        network.train()
        for number, batch in enumerate(itertools.islice(loader, total)):
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * warmup_cosine(number, round(WARMUP * total), total, rate)
            with step_randomness(self.seed, number):
                loss = masked_loss(network(as_input(batch, self.card)), batch.views[0][MASK][:, 0])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield

    def _stream(self, rows: Segmented) -> BatchStream:
        """Joint training views of the rows and no others, every row once an epoch."""
        domain = load_domain(self.card.domain)
        return BatchStream(
            Decoder(rows.store, domain.decode),
            Order(len(rows.index), self.seed, BATCH, longest_run(rows.store, BATCH)),
            SplitIndex(rows.index, rows.index + 1),
            partial(dense_views, domain.views, self.card.field, rows.masks.take(rows.index)), view_settings(self.card),
            {}, [self.card.field, MASK],
        )
