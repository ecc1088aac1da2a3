"""One training step, readable from top to bottom. It takes batches, never a store.

views -> online(views) -> target(views) -> pair loss + label terms -> backward -> [last micro-batch] optimiser ->
method.after_step. Nothing here waits for a device; the caller decides when a metric is read.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciencessl.data.order import derive_key
from sciencessl.losses.hybrid import hybrid_total, label_coefficient
from sciencessl.losses.labels import LabelLoss
from sciencessl.methods.base import Method, Online, PairLoss
from sciencessl.samples import Batch
from sciencessl.train.ranks import ALONE, Ranks

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
    """What a step needs beside the method and the data.

    Attributes:
        total_steps: K.
        batch: Samples of one optimiser step, over all micro-batches and ranks.
        accumulate: Micro-batches of a step.
        learning_rate: Step -> learning rate.
        to_input: Stored pixels (B, C, H, W) -> model input.
        field: The field that the encoder sees.
        label_weight: w of the hybrid loss.
        seed: Of the step's own randomness (dropout): a pure function of (seed, step, rank), so that resume is exact.
        autocast: bf16 under autocast, or None for full precision.
    """

    total_steps: int
    batch: int
    accumulate: int
    learning_rate: Callable[[int], float]
    to_input: Callable[[Tensor], Tensor]
    field: str
    label_weight: float = 1.0
    seed: int = 0
    autocast: torch.dtype | None = None


class LabelTerm(nn.Module):
    """A label head on the first view's representation, and its loss. The head has no moving average.

    Args:
        name: Key of the labels in a batch.
        loss: Head builder and loss.
        features: F.
        generator: Draws the head's weights.
    """

    def __init__(self, name: str, loss: LabelLoss, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.name = name
        self.loss = loss
        self.head = loss.head(features, generator)

    def forward(self, representation: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, F) -> sum of the loss over labelled rows, and their number."""
        labels = batch.labels[self.name].to(representation.device, non_blocking=True)
        with torch.autocast(representation.device.type, enabled=False):
            outputs = self.head(representation.to(next(self.head.parameters()).dtype))
            total, rows = self.loss(outputs, labels)
        if outputs.requires_grad and not total.requires_grad:
            # A loss may be a constant where nothing is labelled. Ranks wait for each other in the backward pass, so
            # there has to be one on each.
            total = total + outputs[:0].sum()
        return total, rows


@dataclass(frozen=True)
class StepResult:
    """What a step leaves: scalars on the device, and the last micro-batch's outputs for the monitors."""

    metrics: dict[str, Tensor | float]
    online: Online


@dataclass(frozen=True)
class _Forward:
    online: Online
    pair: PairLoss | None
    labels: list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Sums:
    """What a step adds up, without gradient: shares of pair loss and scale, sum and rows of each label loss."""

    pair: Tensor | None
    scale: Tensor
    labels: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, done: _Forward, batch: int) -> _Sums:
        labels = [(total.detach(), rows) for total, rows in done.labels]
        if done.pair is None:
            return cls(None, torch.zeros(()), labels)
        return cls(done.pair.total.detach() / batch, done.pair.scale / batch, labels)

    def __add__(self, other: _Sums) -> _Sums:
        labels = [(a + c, b + d) for (a, b), (c, d) in zip(self.labels, other.labels, strict=True)]
        pair = None if self.pair is None or other.pair is None else self.pair + other.pair
        return _Sums(pair, self.scale + other.scale, labels)

    def over(self, ranks: Ranks, device: torch.device) -> _Sums:
        """Summed over the ranks, in one message."""
        own = [self.scale, *itertools.chain(*self.labels), *([] if self.pair is None else [self.pair])]
        if ranks.world == 1 or not own:
            return self
        packed = ranks.sum(torch.stack([value.to(device, torch.float64) for value in own]))
        scale, *rest = (value.to(mine.dtype) for value, mine in zip(packed.unbind(), own, strict=True))
        pair = None if self.pair is None else rest.pop()
        return _Sums(pair, scale, list(zip(rest[::2], rest[1::2], strict=True)))


def train_step(
    method: Method,
    terms: Sequence[LabelTerm],
    optimizer: Any,
    batches: Iterable[Batch],
    recipe: Recipe,
    step: int,
    ranks: Ranks = ALONE,
) -> StepResult:
    """Take one optimiser step over the micro-batches of one global batch.

    Args:
        method: The method; its parameters and those of `terms` are in the optimiser.
        terms: Label terms of the hybrid loss, none for plain self-supervision.
        optimizer: Has `param_groups`, `zero_grad` and `step`.
        batches: `recipe.accumulate` micro-batches; with those of the other ranks `recipe.batch` samples in all.
        recipe: See there.
        step: Index k of the step, from 0.
        ranks: The processes that share the batch, each with its part of it (`SampleOrder.rank_part`), the same
            weights and the same optimiser state. Losses and gradients are summed over them, so that weights stay the
            same, and are those of one process with the whole batch; layers with batch statistics need
            `sync_bn.convert`. Only dropout differs: each rank draws its own. Metrics are those of the whole batch,
            `online` is this rank's part.

    Source: BYOL (arXiv 2006.07733), algorithm 1; the hybrid term is that of arXiv 2206.11927.
    """
    rate = recipe.learning_rate(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    with step_randomness(recipe.seed, step, next(method.parameters()).device, ranks.rank):
        take = _whole if recipe.accumulate == 1 else _accumulated
        online, metrics = take(method, terms, batches, recipe, ranks)
    ranks.sum_gradients(_trainable(method, terms))
    optimizer.step()
    return StepResult({**metrics, "lr": rate, **method.after_step(step, recipe.total_steps)}, online)


@contextlib.contextmanager
def step_randomness(seed: int, step: int, device: torch.device = CPU, rank: int = 0) -> Iterator[None]:
    """Torch's generators of the CPU and of `device` are, inside, those of (seed, step, rank); outside as if nothing had
    happened."""
    # Without it, the rows of every rank would be dropped by the same masks.
    own = [rank] if rank else []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_key("step", seed, step, *own) % 2**63)
        yield


def _trainable(method: Method, terms: Sequence[LabelTerm]) -> list[nn.Parameter]:
    return [p for group in (method, *terms) for p in group.parameters() if p.requires_grad]


def _forward(method: Method, terms: Sequence[LabelTerm], batch: Batch, recipe: Recipe) -> _Forward:
    device = next(method.parameters()).device
    views = [recipe.to_input(view[recipe.field].to(device, non_blocking=True)) for view in batch.views]
    with torch.autocast(device.type, dtype=recipe.autocast, enabled=recipe.autocast is not None):
        online = method.online(views)
        with torch.no_grad():
            targets = method.target(views)
        pair = method.pair_loss(online, targets)
    return _Forward(online, pair, [term(online.representations[0], batch) for term in terms])


def _whole(
    method: Method, terms: Sequence[LabelTerm], batches: Iterable[Batch], recipe: Recipe, ranks: Ranks
) -> tuple[Online, dict[str, Tensor | float]]:
    """One forward, one backward."""
    (batch,) = batches
    done = _forward(method, terms, batch, recipe)
    sums = _Sums.of(done, recipe.batch).over(ranks, done.online.representations[0].device)
    pair = None if done.pair is None else done.pair.total / recipe.batch
    share = _total(pair, [total for total, _ in done.labels], sums, recipe)
    if share.requires_grad:
        share.backward()  # type: ignore[no-untyped-call]
    return done.online, _metrics(_total(sums.pair, [total for total, _ in sums.labels], sums, recipe), sums)


def _total(pair: Tensor | None, labels: Sequence[Tensor], sums: _Sums, recipe: Recipe) -> Tensor:
    """The loss of the step, or a rank's share of it, from pair and label losses of the step or of a rank."""
    label_loss, rows = _label_mean([(total, rows) for total, (_, rows) in zip(labels, sums.labels, strict=True)])
    if pair is None:
        return label_loss * recipe.label_weight
    if not labels:
        return pair
    everything, _ = _label_mean(sums.labels)
    return hybrid_total(pair, sums.scale.abs(), label_loss, rows, recipe.label_weight, everything)[0]


def _metrics(loss: Tensor, sums: _Sums) -> dict[str, Tensor | float]:
    metrics: dict[str, Tensor | float] = {"loss": loss}
    if sums.pair is not None:
        metrics |= {"pair_loss": sums.pair, "cosine": -sums.scale}
    if sums.labels:
        label_loss, rows = _label_mean(sums.labels)
        metrics |= {"label_loss": label_loss, "labelled": rows}
    return metrics


def _label_mean(labels: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sum over terms of the mean over labelled rows, and the number of labelled rows; zeros without a term."""
    if not labels:
        return torch.zeros(()), torch.zeros(())
    means = [total / rows.clamp(min=1) for total, rows in labels]
    return torch.stack(means).sum(), torch.stack([rows for _, rows in labels]).sum()


def _accumulated(
    method: Method, terms: Sequence[LabelTerm], batches: Iterable[Batch], recipe: Recipe, ranks: Ranks
) -> tuple[Online, dict[str, Tensor | float]]:
    """Several micro-batches, one gradient.

    What the label loss is multiplied by is known only when the last micro-batch has been seen, so label gradients are
    collected beside the pair gradients and added at the end.
    """
    parameters = _trainable(method, terms)
    collected: list[list[Tensor]] = [[torch.zeros_like(p) for p in parameters] for _ in terms]
    sums: _Sums | None = None
    for batch in batches:
        done = _forward(method, terms, batch, recipe)
        for gradients, (total, _) in zip(collected, done.labels, strict=True):
            _collect(gradients, total, parameters)
        if done.pair is not None:
            (done.pair.total / recipe.batch).backward()  # type: ignore[no-untyped-call]
        found = _Sums.of(done, recipe.batch)
        sums = found if sums is None else sums + found
    assert sums is not None
    sums = sums.over(ranks, done.online.representations[0].device)
    label_loss, rows = _label_mean(sums.labels)
    coefficient = torch.tensor(recipe.label_weight)
    if sums.pair is not None:
        coefficient = label_coefficient(sums.scale.abs(), label_loss, rows, recipe.label_weight)
    for gradients, (_, count) in zip(collected, sums.labels, strict=True):
        _add(parameters, gradients, coefficient / count.clamp(min=1))
    pair = torch.zeros(()) if sums.pair is None else sums.pair
    return done.online, _metrics(pair + coefficient * label_loss, sums)


def _collect(gradients: list[Tensor], total: Tensor, parameters: list[nn.Parameter]) -> None:
    """Add the gradient of one label sum; the graph stays for the pair loss."""
    if not total.requires_grad:
        return
    found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    for gradient, new in zip(gradients, found, strict=True):
        if new is not None:
            gradient += new


def _add(parameters: list[nn.Parameter], gradients: list[Tensor], factor: Tensor) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        scaled = gradient * factor
        parameter.grad = scaled if parameter.grad is None else parameter.grad + scaled
