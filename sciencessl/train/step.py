"""One training step, readable from top to bottom. It takes batches, never a store.

views -> online(views) -> target(views) -> pair loss + label terms -> backward -> [last micro-batch] optimiser ->
method.after_step. Nothing here waits for a device; the caller decides when a metric is read.

Between processes everything is a sum: a rank's loss is its own rows' share of the loss of the whole batch, and the
gradient of the whole is the sum of what the ranks found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciencessl.backbones.norms import statistics_kept
from sciencessl.data.order import derive_key
from sciencessl.data.phases import ONE, Phases
from sciencessl.losses.hybrid import hybrid_total
from sciencessl.losses.labels import LabelLoss
from sciencessl.methods.base import Method, Online, PairLoss
from sciencessl.optim.scaling import Hyperparameters, set_hyperparameters
from sciencessl.samples import Batch
from sciencessl.train.ranks import ALONE, Ranks

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
    """What a step needs beside the method and the data.

    Attributes:
        total_steps: K.
        batch: Samples of one optimiser step, over all micro-batches and ranks; of the first one where batches grow.
        accumulate: Micro-batches of a step; likewise.
        learning_rate: Step -> learning rate.
        to_input: Stored pixels (B, C, H, W) -> model input.
        field: The field that the encoder sees.
        label_weight: w of the hybrid loss.
        seed: Of the step's own randomness (dropout): a pure function of (seed, step, rank), so that resume is exact.
        autocast: bf16 under autocast, or None for full precision.
        phases: How batches grow: a step takes several of `batch`, each in `accumulate` micro-batches.
        at_batch: Samples of a step -> weight decay, betas and epsilon that belong to them, where batches grow.
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
    phases: Phases = ONE
    at_batch: Callable[[int], Hyperparameters] | None = None

    def at(self, step: int) -> Recipe:
        """The same with the batch and the micro-batches of a step."""
        factor = self.phases.factor(step)
        return dataclasses.replace(self, batch=self.batch * factor, accumulate=self.accumulate * factor)

    def images(self, steps: int) -> int:
        """Samples that the first steps take."""
        return self.phases.before(steps) * self.batch


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
class Forward:
    """What the network made of a micro-batch: this rank's rows.

    Attributes:
        online: Outputs of the online network.
        targets: Outputs of the target network, one a view; none without a target.
        pair: The pair loss; None for a method without one.
        labels: For each label term the sum of its loss, and the number of labelled rows.
    """

    online: Online
    targets: list[Tensor]
    pair: PairLoss | None
    labels: list[tuple[Tensor, Tensor]]


class Network(nn.Module):
    """All that is trained, as one module: what a wrapper (DDP, FSDP2) has to see a whole forward pass of.

    Args:
        method: The method.
        terms: Label terms of the hybrid loss, none for plain self-supervision.
        recipe: Of the step.
    """

    def __init__(self, method: Method, terms: Sequence[LabelTerm], recipe: Recipe) -> None:
        super().__init__()
        self.method = method
        self.terms = nn.ModuleList(terms)
        self.recipe = recipe

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def forward(self, batch: Batch) -> Forward:
        """Stored pixels of all views -> outputs and losses."""
        method, recipe = self.method, self.recipe
        device = self.device
        views = [recipe.to_input(view[recipe.field].to(device, non_blocking=True)) for view in batch.views]
        with torch.autocast(device.type, dtype=recipe.autocast, enabled=recipe.autocast is not None):
            online = method.online(views)
            with torch.no_grad():
                targets = method.target(views)
            pair = method.pair_loss(online, targets)
        return Forward(online, targets, pair, [term(online.representations[0], batch) for term in self.terms])


@dataclass(frozen=True)
class Wrapped:
    """A network and how it is computed; as it stands, by one process without a wrapper.

    Attributes:
        network: The network itself: its parameters are those of the optimiser.
        ranks: The processes that share each batch, with equal weights: see `parallel.wrap`.
        through: What to call in its place.
        meeting: Given whether a backward pass is the last of its step, what to run forward and backward in: gradients
            meet in the last one. Wrappers average over the ranks, so each rank's loss is multiplied by their number.
    """

    network: Network
    ranks: Ranks = ALONE
    through: Callable[[Batch], Forward] | None = None
    meeting: Callable[[bool], AbstractContextManager[Any]] = lambda last: nullcontext()

    def __call__(self, batch: Batch) -> Forward:
        """Forward through the wrapper."""
        done: Forward = (self.through or self.network)(batch)
        return done


@dataclass(frozen=True)
class StepResult:
    """What a step leaves: scalars on the device, and the last micro-batch's outputs for the monitors.

    Attributes:
        metrics: Of the whole batch.
        online: This rank's rows.
        targets: This rank's rows.
    """

    metrics: dict[str, Tensor | float]
    online: Online
    targets: list[Tensor]


@dataclass(frozen=True)
class _Sums:
    """What a step adds up, without gradient: shares of pair loss, scale and what is logged beside them, sum and rows of
    each label loss."""

    pair: Tensor | None
    scale: Tensor
    labels: list[tuple[Tensor, Tensor]]
    logged: dict[str, Tensor]

    @classmethod
    def of(cls, done: Forward, batch: int) -> _Sums:
        labels = [(total.detach(), rows) for total, rows in done.labels]
        if done.pair is None:
            return cls(None, torch.zeros((), device=done.online.representations[0].device), labels, {})
        logged = {name: value / batch for name, value in done.pair.logged.items()}
        return cls(done.pair.total.detach() / batch, done.pair.scale / batch, labels, logged)

    def __add__(self, other: _Sums) -> _Sums:
        labels = [(a + c, b + d) for (a, b), (c, d) in zip(self.labels, other.labels, strict=True)]
        pair = None if self.pair is None or other.pair is None else self.pair + other.pair
        logged = {name: value + other.logged[name] for name, value in self.logged.items()}
        return _Sums(pair, self.scale + other.scale, labels, logged)

    def over(self, ranks: Ranks, device: torch.device) -> _Sums:
        """Summed over the ranks, in one message."""
        pair = [] if self.pair is None else [self.pair]
        own = [self.scale, *pair, *self.logged.values(), *itertools.chain(*self.labels)]
        if ranks.world == 1:
            return self
        packed = ranks.sum(torch.stack([value.to(device, torch.float64) for value in own]))
        values = iter([value.to(mine.dtype) for value, mine in zip(packed.unbind(), own, strict=True)])
        scale, summed = next(values), next(values) if pair else None
        logged = {name: next(values) for name in self.logged}
        return _Sums(summed, scale, [(total, next(values)) for total in values], logged)


def train_step(wrapped: Wrapped, optimizer: Any, batches: Iterable[Batch], step: int) -> StepResult:
    """Take one optimiser step over the micro-batches of one global batch.

    Layers with batch statistics need `sync_bn.convert` where several ranks are to be as one. Only dropout differs then:
    each rank draws its own.

    Args:
        wrapped: The network; its trainable parameters are in the optimiser.
        optimizer: Has `param_groups`, `zero_grad` and `step`.
        batches: `recipe.accumulate` micro-batches; with those of the other ranks `recipe.batch` samples in all.
        step: Index k of the step, from 0.

    Source: BYOL (arXiv 2006.07733), algorithm 1; the hybrid term is that of arXiv 2206.11927.
    """
    network, recipe = wrapped.network, wrapped.network.recipe.at(step)
    rate = _begin(network.method, optimizer, recipe, step)
    optimizer.zero_grad()
    with step_randomness(recipe.seed, step, network.device, wrapped.ranks.rank):
        done, sums = _backward(wrapped, list(batches), recipe)
    for parameter in network.method.resting():
        parameter.grad = None
    optimizer.step()
    metrics = _metrics(_total(sums.pair, [total for total, _ in sums.labels], sums, recipe), sums)
    told = network.method.after_step(*_place(recipe, step))
    return StepResult({**metrics, "lr": rate, **told}, done.online, done.targets)


def _begin(method: Method, optimizer: Any, recipe: Recipe, step: int) -> float:
    """Set what belongs to a step and to its batch; the learning rate. No weight and no moment changes."""
    method.at_step(*_place(recipe, step))
    rate = recipe.learning_rate(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    if recipe.phases != ONE:
        method.at_batch(recipe.batch)
        if recipe.at_batch is not None:
            set_hyperparameters(optimizer, recipe.at_batch(recipe.batch))
    return rate


def _place(recipe: Recipe, step: int) -> tuple[int, int]:
    """Index of a step and their number, counted in batches of the first size."""
    return recipe.phases.before(step), recipe.phases.before(recipe.total_steps)


@contextlib.contextmanager
def step_randomness(seed: int, step: int, device: torch.device = CPU, rank: int = 0) -> Iterator[None]:
    """Torch's generators of the CPU and of `device` are, inside, those of (seed, step, rank); outside as if nothing had
    happened."""
    # Without it, the rows of every rank would be dropped by the same masks.
    own = [rank] if rank else []
    with _forked(device):
        torch.manual_seed(derive_key("step", seed, step, *own) % 2**63)
        yield


def _forked(device: torch.device) -> AbstractContextManager[Any]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _backward(wrapped: Wrapped, batches: list[Batch], recipe: Recipe) -> tuple[Forward, _Sums]:
    """Gradients of the step; outputs of the last micro-batch, and the sums of the step."""
    ranks = wrapped.ranks
    sums = _survey(wrapped, batches, recipe) if len(batches) > 1 and wrapped.network.terms else None
    found: list[_Sums] = []
    for number, batch in enumerate(batches):
        with wrapped.meeting(number == len(batches) - 1):
            done = wrapped(batch)
            own = _Sums.of(done, recipe.batch)
            if sums is None and done.labels:
                # What the label term is multiplied by hangs on the losses of all ranks.
                sums = own.over(ranks, wrapped.network.device)
            pair = None if done.pair is None else done.pair.total / recipe.batch
            share = _total(pair, [total for total, _ in done.labels], sums or own, recipe)
            if share.requires_grad:
                (share * ranks.world).backward()  # type: ignore[no-untyped-call]
            found.append(own)
    return done, sums or sum(found[1:], found[0]).over(ranks, wrapped.network.device)


@torch.no_grad()
def _survey(wrapped: Wrapped, batches: list[Batch], recipe: Recipe) -> _Sums:
    """The sums of a step of several micro-batches, before any backward pass.

    What the label loss is multiplied by is known only when the last micro-batch has been seen. One more forward pass
    costs less than gradients of the label loss kept apart, and works under every wrapper. Draws what the pass with
    gradient will draw, and leaves generators and running statistics as they are.
    """
    network = wrapped.network
    with _forked(network.device), statistics_kept(network):
        found = [_Sums.of(network(batch), recipe.batch) for batch in batches]
    return sum(found[1:], found[0]).over(wrapped.ranks, network.device)


def _total(pair: Tensor | None, labels: Sequence[Tensor], sums: _Sums, recipe: Recipe) -> Tensor:
    """The loss of the step, or a rank's or micro-batch's share of it, from its own pair and label losses."""
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
        metrics |= {"pair_loss": sums.pair, "cosine": -sums.scale, **sums.logged}
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
