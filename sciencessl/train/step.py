"""One training step, readable from top to bottom. It takes batches, never a store.

views -> online(views) -> target(views) -> pair loss + label terms -> backward -> [last micro-batch] optimiser ->
method.after_step. Nothing here waits for a device; the caller decides when a metric is read.
"""

from __future__ import annotations

import contextlib
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

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
    """What a step needs beside the method and the data.

    Attributes:
        total_steps: K.
        batch: Samples of one optimiser step, over all micro-batches.
        accumulate: Micro-batches of a step.
        learning_rate: Step -> learning rate.
        to_input: Stored pixels (B, C, H, W) -> model input.
        field: The field that the encoder sees.
        label_weight: w of the hybrid loss.
        seed: Of the step's own randomness (dropout): a pure function of (seed, step), so that resume is exact.
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
            return self.loss(outputs, labels)


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


def train_step(
    method: Method,
    terms: Sequence[LabelTerm],
    optimizer: Any,
    batches: Iterable[Batch],
    recipe: Recipe,
    step: int,
) -> StepResult:
    """Take one optimiser step over the micro-batches of one global batch.

    Args:
        method: The method; its parameters and those of `terms` are in the optimiser.
        terms: Label terms of the hybrid loss, none for plain self-supervision.
        optimizer: Has `param_groups`, `zero_grad` and `step`.
        batches: `recipe.accumulate` micro-batches of `recipe.batch` samples in all.
        recipe: See there.
        step: Index k of the step, from 0.

    Source: BYOL (arXiv 2006.07733), algorithm 1; the hybrid term is that of arXiv 2206.11927.
    """
    rate = recipe.learning_rate(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    with step_randomness(recipe.seed, step, next(method.parameters()).device):
        if recipe.accumulate == 1:
            online, metrics = _whole(method, terms, batches, recipe)
        else:
            online, metrics = _accumulated(method, terms, batches, recipe)
    optimizer.step()
    return StepResult({**metrics, "lr": rate, **method.after_step(step, recipe.total_steps)}, online)


@contextlib.contextmanager
def step_randomness(seed: int, step: int, device: torch.device = CPU) -> Iterator[None]:
    """Torch's generators of the CPU and of `device` are, inside, those of (seed, step); outside as if nothing had
    happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_key("step", seed, step) % 2**63)
        yield


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
    method: Method, terms: Sequence[LabelTerm], batches: Iterable[Batch], recipe: Recipe
) -> tuple[Online, dict[str, Tensor | float]]:
    """One forward, one backward."""
    (batch,) = batches
    done = _forward(method, terms, batch, recipe)
    metrics: dict[str, Tensor | float] = {}
    label_loss, rows = _label_mean(done.labels)
    if done.pair is None:
        total = label_loss * recipe.label_weight
    else:
        pair = done.pair.total / recipe.batch
        scale = done.pair.scale / recipe.batch
        metrics |= {"pair_loss": pair.detach(), "cosine": -scale}
        total, _ = hybrid_total(pair, scale.abs(), label_loss, rows, recipe.label_weight) if terms else (pair, pair)
    if terms:
        metrics |= {"label_loss": label_loss.detach(), "labelled": rows}
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    return done.online, {"loss": total.detach(), **metrics}


def _label_mean(labels: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sum over terms of the mean over labelled rows, and the number of labelled rows; zeros without a term."""
    if not labels:
        return torch.zeros(()), torch.zeros(())
    means = [total / rows.clamp(min=1) for total, rows in labels]
    return torch.stack(means).sum(), torch.stack([rows for _, rows in labels]).sum()


def _accumulated(
    method: Method, terms: Sequence[LabelTerm], batches: Iterable[Batch], recipe: Recipe
) -> tuple[Online, dict[str, Tensor | float]]:
    """Several micro-batches, one gradient.

    What the label loss is multiplied by is known only when the last micro-batch has been seen, so label gradients are
    collected beside the pair gradients and added at the end.
    """
    parameters = [p for group in (method, *terms) for p in group.parameters() if p.requires_grad]
    collected: list[list[Tensor]] = [[torch.zeros_like(p) for p in parameters] for _ in terms]
    pair = scale = torch.zeros(())
    sums = [(torch.zeros(()), torch.zeros(())) for _ in terms]
    has_pair = False
    for batch in batches:
        done = _forward(method, terms, batch, recipe)
        for gradients, (total, _) in zip(collected, done.labels, strict=True):
            _collect(gradients, total, parameters)
        if done.pair is not None:
            has_pair = True
            (done.pair.total / recipe.batch).backward()  # type: ignore[no-untyped-call]
            pair = pair + done.pair.total.detach() / recipe.batch
            scale = scale + done.pair.scale / recipe.batch
        sums = [
            (total + more.detach(), rows + more_rows)
            for (total, rows), (more, more_rows) in zip(sums, done.labels, strict=True)
        ]
    label_loss, rows = _label_mean(sums)
    coefficient = label_coefficient(scale.abs(), label_loss, rows, recipe.label_weight) if has_pair else torch.tensor(
        recipe.label_weight
    )
    for gradients, (_, count) in zip(collected, sums, strict=True):
        _add(parameters, gradients, coefficient / count.clamp(min=1))
    metrics: dict[str, Tensor | float] = {"loss": pair + coefficient * label_loss}
    if has_pair:
        metrics |= {"pair_loss": pair, "cosine": -scale}
    if terms:
        metrics |= {"label_loss": label_loss, "labelled": rows}
    return done.online, metrics


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
