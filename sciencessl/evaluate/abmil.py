"""The arm `abmil`: attention over the samples of a bag, learned from the labels of bags (Ilse, Tomczak & Welling 2018).

Gated attention, their equation 9, on features as they are: a_k = softmax_k(w . (tanh(V h_k) * sigmoid(U h_k))), the
bag is z = sum_k a_k h_k, and a softmax layer on z tells its class. Attention and layer start at zero, which is the mean
over the bag: what is learned beyond it has to be in the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import expit, softmax
from torch import Tensor, nn
from torch.nn import functional

from sciencessl.errors import DataError
from sciencessl.evaluate.calibration import fit_temperature
from sciencessl.evaluate.linear import (
    FOLDS,
    few_units,
    held_out_losses,
    mean_over_classes,
    spread_probabilities,
    unit_folds,
)
from sciencessl.train.measure import best_time

HIDDEN = 64
"""Rows of V and U (ours; 128 in the paper, which learns the features too)."""

BATCH = 4
"""Bags of a step (ours)."""

STEPS: tuple[int, ...] = (25, 50, 100, 200)
"""Lengths of training, between which cross-validation over units chooses (ours)."""

FIXED_STEPS = 100
"""Length where labels are so few that nothing is tuned (ours)."""

LEARNING_RATE = 5e-3
WEIGHT_DECAY = 1e-2
"""Of AdamW (ours)."""

PROTOCOL = f"gated attention, {HIDDEN} hidden, steps {STEPS} or {FIXED_STEPS}, rate {LEARNING_RATE}, batch {BATCH}"
"""What cached fits depend on besides their data."""


@dataclass(frozen=True)
class BagFeatures:
    """Features of bags.

    Attributes:
        values: (T, F) float32 of all samples, bag after bag.
        sizes: (b,) samples of each bag, 1 or more.
    """

    values: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def bags(self) -> list[np.ndarray]:
        """(n, F) features of each bag."""
        return np.split(self.values, np.cumsum(self.sizes)[:-1])


@dataclass(frozen=True)
class Attention:
    """Gated attention on features as they are.

    Attributes:
        tanh: (L, F) V.
        tanh_bias: (L,).
        gate: (L, F) U.
        gate_bias: (L,).
        score: (L,) w.
    """

    tanh: np.ndarray
    tanh_bias: np.ndarray
    gate: np.ndarray
    gate_bias: np.ndarray
    score: np.ndarray

    def weights(self, features: np.ndarray) -> np.ndarray:
        """(n, F) features of one bag -> (n,) float64 weights, which add up to 1."""
        seen = np.tanh(features @ self.tanh.T + self.tanh_bias) * expit(features @ self.gate.T + self.gate_bias)
        found: np.ndarray = softmax((seen @ self.score).astype(np.float64))
        return found


@dataclass(frozen=True)
class FittedAbmil:
    """Attention and the layer on what it pools, with how long they learned.

    Attributes:
        classes: (K',) sorted class ids that the budget held.
        weight: (K', F) float32, on features as they are.
        bias: (K',) float32.
        attention: Likewise.
        steps: Of the training.
        search: Steps -> cross-validated loss; empty where `steps` is fixed because labels were few.
        temperature: That makes the budget's labels likeliest, each scored by a fit without its unit; 1 where fixed.
    """

    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    attention: Attention
    steps: int
    search: dict[int, float] = field(default_factory=dict)
    temperature: float = 1.0

    def logits(self, features: BagFeatures) -> np.ndarray:
        """(b, K') scores of `classes` for b bags."""
        pooled = np.stack([self.attention.weights(bag) @ bag for bag in features.bags()])
        scores: np.ndarray = pooled @ self.weight.T.astype(np.float64) + self.bias
        return scores

    def probabilities(self, features: BagFeatures, n_classes: int) -> np.ndarray:
        """(b, n_classes) probabilities by class id; 0 for a class that the budget lacked."""
        return spread_probabilities(self.logits(features), self.classes, n_classes)


class AttentionNet(nn.Module):
    """What is trained: standardised (n, F) features of each of b bags -> (b, K') scores.

    Args:
        mean: (F,) that features were centred at.
        scale: (F,) that they were divided by.
        classes: K'.
        generator: Draws V and U.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        width = len(mean)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        drawn = torch.randn(2, HIDDEN, width, generator=generator) / width**0.5
        self.tanh, self.gate = nn.Parameter(drawn[0]), nn.Parameter(drawn[1])
        self.tanh_bias, self.gate_bias = nn.Parameter(torch.zeros(HIDDEN)), nn.Parameter(torch.zeros(HIDDEN))
        self.score = nn.Parameter(torch.zeros(HIDDEN))
        self.weight, self.bias = nn.Parameter(torch.zeros(classes, width)), nn.Parameter(torch.zeros(classes))

    def forward(self, bags: Sequence[Tensor]) -> Tensor:
        """Scores of bags."""
        together = torch.cat(tuple(bags))
        seen = torch.tanh(functional.linear(together, self.tanh, self.tanh_bias))
        seen = seen * torch.sigmoid(functional.linear(together, self.gate, self.gate_bias))
        scores = (seen @ self.score).split([len(bag) for bag in bags])  # type: ignore[no-untyped-call]
        pooled = [torch.softmax(score, dim=0) @ bag for score, bag in zip(scores, bags, strict=True)]
        return functional.linear(torch.stack(pooled), self.weight, self.bias)

    def fitted(self, classes: np.ndarray, steps: int) -> FittedAbmil:
        """As it is now, with the standardiser taken into the weights."""
        mean, scale = (value.double().numpy() for value in (self.mean, self.scale))
        taken = {name: value.detach().double().numpy() for name, value in self.named_parameters()}
        raw = {}
        for name in ("tanh", "gate", "weight"):
            of_bias = "bias" if name == "weight" else f"{name}_bias"
            raw[name] = taken[name] / scale
            raw[of_bias] = taken[of_bias] - raw[name] @ mean
        single = {name: value.astype(np.float32) for name, value in {**raw, "score": taken["score"]}.items()}
        weight, bias = single.pop("weight"), single.pop("bias")
        return FittedAbmil(classes, weight, bias, Attention(**single), steps)


def fit_abmil(features: BagFeatures, labels: np.ndarray, units: np.ndarray, seed: int) -> FittedAbmil:
    """Learn attention and classes from the bags of one budget.

    AdamW on cross-entropy in which each class has the same weight, `BATCH` bags a step in a shuffled order; features
    are standardised on the budget's samples, each bag weighing the same. With more than `linear.FEW` units a class on
    average the number of steps is chosen from `STEPS` by stratified cross-validation over units, by the mean over
    classes of the mean log loss, as the logistic regression chooses its penalty. Otherwise it is `FIXED_STEPS`.

    Args:
        features: Of the bags.
        labels: (b,) class ids >= 0. One class alone gives a constant prediction.
        units: (b,) unit of each bag; bags of a unit never straddle folds.
        seed: Of the folds, the first weights and the order of bags.

    Raises:
        DataError: For shapes that do not match, no bags, or features that are not finite.
    """
    _check(features, labels, units)
    if few_units(labels, units):
        return _last(_train(features, labels, (FIXED_STEPS,), seed))
    logits = {steps: np.full((len(labels), int(labels.max()) + 1), -np.inf) for steps in STEPS}
    bags = features.bags()
    for train, held in unit_folds(labels, units, seed):
        inside, outside = _take(bags, train), _take(bags, held)
        for fitted in _train(inside, labels[train], STEPS, seed):
            logits[fitted.steps][np.ix_(held, fitted.classes)] = fitted.logits(outside)
    search = {steps: _loss(found, labels) for steps, found in logits.items()}
    best = min(search, key=lambda steps: (search[steps], steps))
    fitted = _last(_train(features, labels, (best,), seed))
    temperature = fit_temperature(logits[best], labels)
    return FittedAbmil(fitted.classes, fitted.weight, fitted.bias, fitted.attention, best, search, temperature)


def step_seconds(size: int, width: int, classes: int) -> float:
    """Seconds of one step on this machine.

    Args:
        size: Samples of a bag.
        width: F.
        classes: K'.
    """
    rng = np.random.default_rng(0)
    features = BagFeatures(rng.normal(size=(BATCH * size, width)).astype(np.float32), np.full(BATCH, size))
    labels = np.arange(BATCH) % classes

    def once() -> None:
        _last(_train(features, labels, (1,), 0))

    return best_time(once, repeats=2)


def steps_of(labels: np.ndarray, units: np.ndarray) -> int:
    """Steps of a fit, those of the search too, at most."""
    return FIXED_STEPS if few_units(labels, units) else STEPS[-1] * (1 + FOLDS)


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes; a bag whose class its fold's fit lacks is not scored."""
    known = np.isfinite(logits[np.arange(len(labels)), labels])
    losses, scored = held_out_losses(logits[known], np.arange(logits.shape[1]), labels[known])
    return mean_over_classes(losses, scored)


def _take(bags: Sequence[np.ndarray], rows: np.ndarray) -> BagFeatures:
    chosen = [bags[row] for row in rows]
    return BagFeatures(np.concatenate(chosen), np.array([len(bag) for bag in chosen]))


def _last(found: Iterator[FittedAbmil]) -> FittedAbmil:
    *_, last = found
    return last


def _train(features: BagFeatures, labels: np.ndarray, stops: Sequence[int], seed: int) -> Iterator[FittedAbmil]:
    """What is learned after each number of steps in `stops`, which ascend."""
    generator = torch.Generator().manual_seed(seed)
    classes, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weight = torch.tensor((len(labels) / (len(classes) * counts)).astype(np.float32))
    mean, scale = _standardiser(features)
    bags = [(torch.from_numpy(np.ascontiguousarray(bag, np.float32)) - mean) / scale for bag in features.bags()]
    target = torch.from_numpy(position)
    net = AttentionNet(mean, scale, len(classes), generator)
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    order = _order(len(bags), generator)
    for step in range(1, stops[-1] + 1):
        rows = [next(order) for _ in range(min(BATCH, len(bags)))]
        losses = functional.cross_entropy(net([bags[row] for row in rows]), target[rows], reduction="none")
        optimiser.zero_grad()
        (losses * weight[target[rows]]).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step in stops:
            yield net.fitted(classes, step)


def _order(count: int, generator: torch.Generator) -> Iterator[int]:
    """Bags, each once before any comes again."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _standardiser(features: BagFeatures) -> tuple[Tensor, Tensor]:
    bags = features.bags()
    mean = np.mean([bag.mean(axis=0, dtype=np.float64) for bag in bags], axis=0)
    variance = np.mean([((bag - mean) ** 2).mean(axis=0) for bag in bags], axis=0)
    deviation = np.sqrt(variance)
    # A constant feature leaves rounding noise of about 1e-7 of its value, not zero.
    scale = np.where(deviation > 1e-6 * np.abs(mean) + 1e-30, deviation, 1.0)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)


def _check(features: BagFeatures, labels: np.ndarray, units: np.ndarray) -> None:
    values, sizes = features.values, features.sizes
    if values.ndim != 2 or not len(sizes) or sizes.min() < 1 or sizes.sum() != len(values) or (
        labels.shape != sizes.shape or units.shape != sizes.shape
    ):
        raise DataError(
            f"attention: features {values.shape}, sizes {sizes.shape} that add up to {int(sizes.sum())}, labels "
            f"{labels.shape} and units {units.shape} must be (T, F), (b,) of 1 or more, (b,) and (b,), b >= 1."
        )
    broken = int((~np.isfinite(values)).any(axis=1).sum())
    if broken:
        raise DataError(f"attention: features of {broken} of {len(values)} samples are not finite.")
