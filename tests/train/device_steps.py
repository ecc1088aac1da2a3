"""Steps of each kind, small, on any device: what tests of waiting and of GPUs take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sciencessl.losses.dirichlet import DirichletHead
from sciencessl.losses.labels import ClassLoss, LabelLoss, VoteLoss
from sciencessl.methods.base import Method
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.labels_only import LabelsOnly, LabelsOnlyOptions
from sciencessl.methods.swav import Swav, SwavOptions
from sciencessl.monitor.probes import Probes
from sciencessl.samples import Batch
from sciencessl.setting_groups import ComputeConfig, LogConfig, OptimConfig
from sciencessl.spec import InputStats, LabelSchema, Question
from sciencessl.train.cost import begin_cost
from sciencessl.train.labels import LabelSet
from sciencessl.train.module import Pretraining
from sciencessl.train.parallel import wrap
from sciencessl.train.plan import build_optimizer
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.step import LabelTerm, Network, Recipe, Wrapped, train_step
from sciencessl.train.sync_bn import convert
from sciencessl.views.to_input import standardise

ROWS = 8
VOTES = ((0, 2), (2, 5))
STATS = InputStats((0.5,) * 3, (0.25,) * 3, (255.0,) * 3)


class Encoder(nn.Module):
    """Two stages with batch norm: on `meta`, timm's smallest network takes seconds a step."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer1, self.layer2 = self._stage(3, 6), self._stage(6, 12)

    def _stage(self, channels: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, width, 3, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 12)."""
        y: Tensor = self.layer2(self.layer1(x)).mean(dim=(2, 3))
        return y


class Kind(NamedTuple):
    """Of a step: what is trained, with what."""

    method: Callable[[nn.Module, torch.Generator], Method]
    sides: tuple[int, ...]
    optimizer: str
    labels: bool = False
    accumulate: int = 1
    checkpointing: str = "none"


def _byol(encoder: nn.Module, generator: torch.Generator) -> Method:
    return Byol(encoder, ByolOptions(hidden=16, out=8), generator)


def _swav(encoder: nn.Module, generator: torch.Generator) -> Method:
    options = SwavOptions(hidden=16, out=8, norm=True, prototypes=12, frozen_steps=1, queue=ROWS)
    return Swav(encoder, options, generator)


def _labels_only(encoder: nn.Module, generator: torch.Generator) -> Method:
    return LabelsOnly(encoder, LabelsOnlyOptions(), generator)


KINDS = {
    "byol with activations again": Kind(_byol, (32, 32), "lars", checkpointing="stage"),
    "hybrid": Kind(_byol, (32, 32), "lars", labels=True),
    "hybrid in micro-batches": Kind(_byol, (32, 32), "lars", labels=True, accumulate=2),
    "swav": Kind(_swav, (32, 32, 16, 16), "larc"),
    "labels only": Kind(_labels_only, (32,), "adamw", labels=True),
}


class Steps:
    """Steps of one kind, and their batches, on the CPU.

    Args:
        kind: One of `KINDS`, or a change of it.
        device: Where it computes.
        precision: `float32`, `bfloat16`, or `float64`: nothing is then dropped at random, so that devices agree.
        ranks: `ALONE`, or a `memory.Silent`.
    """

    def __init__(self, kind: Kind, device: torch.device, precision: str = "float32", ranks: Ranks = ALONE) -> None:
        self.kind = kind
        self.batches = [_batch(seed, kind.sides) for seed in range(3)]
        generator = torch.Generator().manual_seed(1)
        method = kind.method(Encoder(), generator)
        losses: dict[str, LabelLoss] = {"votes": VoteLoss(VOTES), "class": ClassLoss(3)} if kind.labels else {}
        terms = [LabelTerm(name, loss, method.features, generator) for name, loss in losses.items()]
        recipe = Recipe(
            total_steps=100, batch=ROWS, accumulate=kind.accumulate, learning_rate=lambda step: 0.1, field="image",
            to_input=_doubled if precision == "float64" else _standardised,
            autocast=torch.bfloat16 if precision == "bfloat16" else None,
        )
        network = Network(method.to(memory_format=torch.channels_last), terms, recipe)
        if precision == "float64":
            network.double()
            for head in network.modules():
                if isinstance(head, DirichletHead):
                    head.dropout = 0.0
        self.wrapped = _wrapped(network, kind, ranks, device)
        optimizer = OptimConfig(name=kind.optimizer)  # type: ignore[arg-type]
        self.optimizer = build_optimizer({"method": method, "terms": network.terms}, optimizer, ROWS)

    def take(self, step: int) -> dict[str, Any]:
        """Take one; its metrics, unread."""
        batch, size = self.batches[step % len(self.batches)], ROWS // self.kind.accumulate
        parts = [batch.slice(start, start + size) for start in range(0, ROWS, size)]
        return train_step(self.wrapped, self.optimizer, parts, step).metrics


def _standardised(x: Tensor) -> Tensor:
    return standardise(x.contiguous(memory_format=torch.channels_last), STATS)


def _doubled(x: Tensor) -> Tensor:
    return x.double() / 255


def trainer_of(steps: Steps, device: torch.device, run: Path, monkeypatch: pytest.MonkeyPatch) -> Pretraining:
    """Lightning's module of the steps, with probes, as if begun; it logs nothing before step 50."""
    schema = LabelSchema("votes", (Question("a", ("x", "y")), Question("b", ("x", "y", "z"))))
    votes, classes = (steps.batches[0].labels[name].numpy() for name in ("votes", "class"))
    sets = [LabelSet("votes", schema, (), votes, (), "", ()),
            LabelSet("class", None, ("r", "g", "b"), classes, (), "", ())]
    probes = Probes(sets, steps.wrapped.network.method.features, bank=16).to(device)
    begin_cost(run, 1.0, ROWS, [])
    log = LogConfig(every=50, loggers=())
    module = Pretraining(steps.wrapped, steps.optimizer, log, run, lambda step: {}, str, probes)
    monkeypatch.setattr(module, "optimizers", lambda: steps.optimizer)
    module.on_train_start()
    return module


def _wrapped(network: Network, kind: Kind, ranks: Ranks, device: torch.device) -> Wrapped:
    if ranks.world == 1:
        return wrap(network, ComputeConfig(checkpointing=kind.checkpointing), ranks, device)  # type: ignore[arg-type]
    return Wrapped(convert(network.to(device), ranks), ranks)


def _batch(seed: int, sides: tuple[int, ...]) -> Batch:
    rng = np.random.default_rng(seed)
    views = [{"image": torch.from_numpy(rng.integers(0, 256, (ROWS, side, side, 3), np.uint8)).permute(0, 3, 1, 2)}
             for side in sides]
    votes, classes = rng.integers(0, 9, (ROWS, 5)).astype(np.float32), np.array([2, -1, 0, 1, -1, -1, 0, 2])
    votes[::3] = 0
    labels = {"votes": torch.from_numpy(votes), "class": torch.from_numpy(classes)}
    return Batch(views, labels, [str(i) for i in range(ROWS)], np.arange(ROWS))
