"""What a method is checked with: a tiny encoder, random pixels and labels, and a training of a few steps."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciencessl.losses.labels import ClassLoss
from sciencessl.methods.base import Method, Online, PairLoss
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.step import LabelTerm, Network, Recipe, Wrapped, train_step

BATCH, SIDE, FEATURES, CLASSES, STEPS = 8, 8, 6, 3, 6


def tiny_encoder() -> nn.Module:
    """One convolution with batch norm, (B, 3, H, W) -> (B, 6), always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder: Any = nn.Sequential(
            nn.Conv2d(3, FEATURES, 3), nn.BatchNorm2d(FEATURES), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
    encoder.num_features = FEATURES
    module: nn.Module = encoder
    return module


@dataclass(frozen=True)
class Case:
    """A method and what it is checked with.

    Attributes:
        kind: The class.
        options: Its settings.
        encoder: Builds an encoder, with the same weights each time.
        side: Pixels of a large view; small ones have half as many.
    """

    kind: type[Method]
    options: Any
    encoder: Callable[[], nn.Module]
    side: int

    def make(self, seed: int = 0) -> Method:
        """The method, drawn by a generator of that seed."""
        return self.kind(self.encoder(), self.options, torch.Generator().manual_seed(seed))

    def batch(self, step: int = 0, labelled: bool = True, extra: Sequence[int] = ()) -> Batch:
        """A batch of the views that the method needs, and of extra ones with so many pixels a side."""
        rng = np.random.default_rng(step)
        sides = [self.side] * self.kind.n_views + list(extra)
        pixels = [{"image": torch.from_numpy(rng.normal(size=(BATCH, 3, px, px)).astype("f4"))} for px in sides]
        classes = np.where(rng.uniform(size=BATCH) < 0.6, rng.integers(0, CLASSES, BATCH), -1)
        classes[0] = 1  # never without a label by chance
        labels = {"class": torch.from_numpy(classes if labelled else np.full(BATCH, -1))}
        return Batch(pixels, labels, [str(i) for i in range(BATCH)], np.arange(BATCH))

    def forward(self, method: Method, extra: Sequence[int] = ()) -> tuple[Online, list[Tensor], PairLoss | None]:
        """What a step asks of a method, with gradient, on the first batch."""
        views = [view["image"] for view in self.batch(extra=extra).views]
        online = method.online(views)
        with torch.no_grad():
            targets = method.target(views)
        return online, targets, method.pair_loss(online, targets)


def label_term(features: int) -> LabelTerm:
    """A label term of three classes."""
    return LabelTerm("class", ClassLoss(CLASSES), features, torch.Generator().manual_seed(1))


class Training:
    """A method with a label term, an optimiser and a count of steps: what a run consists of.

    Args:
        case: Gives the batches.
        method: Is trained.
        ranks: Share each batch, each with a thread of its own that calls this.
        dtype: Of pixels; that of the weights.
        **recipe: Further settings of `Recipe`.

    Attributes:
        gradients: Of the last step, summed over micro-batches and ranks.
        missed: Names of parameters that some backward pass did not reach.
    """

    def __init__(
        self, case: Case, method: Method, ranks: Ranks = ALONE, dtype: torch.dtype = torch.float32, **recipe: Any
    ) -> None:
        self.method, self.ranks, self.case = method, ranks, case
        self.term = label_term(method.features).to(dtype)
        self.modules = nn.ModuleDict({"method": method, "term": self.term})
        self.optimizer = LARS(parameter_groups(self.modules, 1e-4), lr=0.0, eta=0.1)
        self.taken = 0
        self.gradients: dict[str, Tensor] = {}
        self.missed: set[str] = set()
        self._recipe = {"learning_rate": lambda step: 0.1, "to_input": lambda x: x.to(dtype), **recipe}
        self._reached: set[str] = set()
        for name, parameter in self._trained().items():
            hook = parameter.register_post_accumulate_grad_hook
            hook(lambda _, name=name: self._reached.add(name))  # type: ignore[no-untyped-call]

    def step(self, labelled: bool = True, accumulate: int = 1, terms: bool = True) -> dict[str, Any]:
        """Take a step; its metrics."""
        size = BATCH // accumulate // self.ranks.world
        # A micro-batch is the next rows of the batch, and each rank has its part of each.
        starts = [(part * self.ranks.world + self.ranks.rank) * size for part in range(accumulate)]
        batch = self.case.batch(self.taken, labelled)
        parts = [batch.slice(start, start + size) for start in starts]
        network = self.network(accumulate, terms)
        result = train_step(Wrapped(network, self.ranks, None, self._meeting), self.optimizer, parts, self.taken)
        self.taken += 1
        return result.metrics

    def network(self, accumulate: int = 1, terms: bool = True) -> Network:
        """What a step calls."""
        recipe = Recipe(STEPS, BATCH, accumulate, field="image", **self._recipe)
        return Network(self.method, [self.term] if terms else [], recipe)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds."""
        return copy.deepcopy({"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load(self, state: dict[str, Any], taken: int) -> None:
        """Go on from a state after so many steps."""
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.taken = taken

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.method.named_parameters() if p.requires_grad}

    @contextlib.contextmanager
    def _meeting(self, last: bool) -> Iterator[None]:
        """As a wrapper does it: gradients of the ranks are averaged in the last backward pass of a step."""
        self._reached.clear()
        yield
        self.missed |= set(self._trained()) - self._reached
        if last:
            for parameter in self.modules.parameters():
                if parameter.grad is not None:
                    parameter.grad.copy_(self.ranks.sum(parameter.grad.clone()) / self.ranks.world)
            self.gradients = {name: p.grad.clone() for name, p in self._trained().items() if p.grad is not None}


def different(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names under which two states differ in a single bit, or that only one has."""
    shared = [name for name in first if name in second]
    unequal = [name for name in shared if not _equal(first[name], second[name])]
    return unequal + sorted(set(first) ^ set(second))


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return bool(first == second)
