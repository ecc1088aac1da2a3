"""A tiny encoder, views and a step for tests of methods: float64, to compare with NumPy to the last digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciencessl.methods.base import Method, Online
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.train.step import Network, Recipe, Wrapped, train_step

FEATURES, BATCH, STEPS = 6, 8, 10


class Encoder(nn.Sequential):
    """Views of any size to features."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, FEATURES, 3), nn.BatchNorm2d(FEATURES), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


def build(kind: type[Method], seed: int = 0, **options: Any) -> Any:
    """A method with small heads, in float64."""
    torch.manual_seed(seed)
    small = {"hidden": 9, "out": 5, "tau_base": 0.9, **options}
    return kind(Encoder(), kind.Options(**small), torch.Generator().manual_seed(seed)).double()


def views(number: int = 2, small: int = 0, step: int = 0, batch: int = BATCH) -> list[Tensor]:
    """Large views of 8 px, then small ones of 4."""
    rng = np.random.default_rng(step)
    sides = [8] * number + [4] * small
    return [torch.from_numpy(rng.normal(size=(batch, 3, side, side))) for side in sides]


def outputs(rng: np.random.Generator, number: int, rows: int = 6, out: int = 5) -> list[Tensor]:
    """Predictions or targets: tensors that ask for gradient."""
    return [torch.from_numpy(rng.normal(size=(rows, out))).requires_grad_() for _ in range(number)]


def predicted(*predictions: Tensor) -> Online:
    """What a loss of predictions reads."""
    return Online([], list(predictions), list(predictions))


def at_cosine(*cosines: float) -> list[Tensor]:
    """Vectors of one row at these cosines from (1, 0)."""
    return [torch.tensor([[c, math.sqrt(1 - c * c)]], dtype=torch.float64) for c in cosines]


def loss_of(method: Method, given: Sequence[Tensor]) -> Tensor:
    """Mean loss of a forward pass over rows, with gradient."""
    online = method.online(given)
    with torch.no_grad():
        targets = method.target(given)
    pair = method.pair_loss(online, targets)
    assert pair is not None
    return pair.total / pair.rows


def gradients(method: Method, given: Sequence[Tensor]) -> dict[str, Tensor]:
    """Of each trained parameter, from the loss of a forward pass."""
    method.zero_grad()
    loss_of(method, given).backward()
    assert all(p.grad is None for p in method.parameters() if not p.requires_grad)
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def train(method: Method, steps: int, given: Sequence[Tensor]) -> list[dict[str, float]]:
    """Whole steps on one batch; what each logs."""
    recipe = Recipe(STEPS, len(given[0]), 1, lambda step: 0.1, lambda x: x, "image")
    batch = Batch([{"image": view} for view in given], {}, ["x"] * len(given[0]), np.arange(len(given[0])))
    wrapped = Wrapped(Network(method, [], recipe))
    optimizer = LARS(parameter_groups(method, 1e-4), lr=0.0, eta=0.1)
    found = [train_step(wrapped, optimizer, [batch], step).metrics for step in range(steps)]
    return [{name: float(value) for name, value in metrics.items()} for metrics in found]


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows over their length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
