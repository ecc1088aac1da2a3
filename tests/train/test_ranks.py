"""Steps over two processes against the same steps of one process with the whole batch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sciencessl.data.order import Order
from sciencessl.errors import ConfigError
from sciencessl.losses.labels import ClassLoss, VoteLoss
from sciencessl.methods.base import Method
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.labels_only import LabelsOnly, LabelsOnlyOptions
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.optim.schedules import peak_learning_rate, warmup_cosine
from sciencessl.samples import Batch
from sciencessl.setting_groups import ComputeConfig, Strategy
from sciencessl.train.parallel import full_state, wrap
from sciencessl.train.ranks import ALONE, Ranks, block_of_ranks
from sciencessl.train.step import LabelTerm, Network, Recipe, step_randomness, train_step
from tests.train.two_processes import TwoProcesses

SAMPLES, BATCH, STEPS, FEATURES = 50, 8, 10, 6
ORDER = Order(SAMPLES, seed=3, batch=BATCH)
VOTES = ((0, 2), (2, 5))
PEAK = peak_learning_rate(40.0, BATCH)


class Encoder(nn.Sequential):
    """With batch statistics, or without."""

    num_features = FEATURES

    def __init__(self, batch_statistics: bool) -> None:
        norm = nn.BatchNorm2d(4) if batch_statistics else nn.GroupNorm(1, 4)
        super().__init__(nn.Conv2d(3, 4, 2), norm, nn.ReLU(), nn.Flatten(), nn.Linear(36, FEATURES))
        self.norm_kind = "batch" if batch_statistics else "group_ws"


class CountedByol(Byol):
    """BYOL that counts the moves of its target."""

    moves = 0

    def after_step(self, step: int, total: int) -> dict[str, float]:
        self.moves += 1
        return super().after_step(step, total)


class CountedLars(LARS):
    """LARS that counts its steps."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        return super().step(closure)


class Silent(ClassLoss):
    """A loss that is a plain zero where no row is labelled, as a domain may write it."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not (labels >= 0).any():
            return torch.zeros((), dtype=outputs.dtype), torch.zeros((), dtype=outputs.dtype)
        return super().__call__(outputs, labels)


def samples(index: np.ndarray, turns: np.ndarray) -> Batch:
    """Rows that are a function of sample and turn; two thirds have votes, only few a class."""
    noise = [np.random.default_rng([int(i), int(t)]) for i, t in zip(index, turns, strict=True)]
    views = [{"image": torch.from_numpy(np.stack([g.normal(1, 2, (3, 4, 4)) for g in noise]))} for _ in range(2)]
    votes = np.random.default_rng(0).integers(0, 9, (SAMPLES, 5))
    votes[::3] = 0
    classes = np.where(np.arange(SAMPLES) % 7 == 0, np.arange(SAMPLES) % 3, -1)
    labels = {"votes": torch.from_numpy(votes[index].astype(np.float32)), "class": torch.from_numpy(classes[index])}
    return Batch(views, labels, [str(i) for i in index], index)


def build(name: str, batch_statistics: bool) -> tuple[Method, list[LabelTerm]]:
    torch.manual_seed(0)
    encoder, generator = Encoder(batch_statistics), torch.Generator().manual_seed(1)
    if name == "labels_only":
        method: Method = LabelsOnly(encoder, LabelsOnlyOptions(), generator)
    else:
        method = CountedByol(encoder, ByolOptions(hidden=9, out=4, tau_base=0.9), generator)
    # Labels only learns from classes alone: a rank without any has nothing to go back through.
    terms = [] if name == "byol" else [LabelTerm("class", Silent(3), FEATURES, generator)]
    if name == "hybrid":
        terms.append(LabelTerm("votes", VoteLoss(VOTES), FEATURES, generator))
        terms[1].head.dropout = 0.0  # type: ignore[assignment]
    return method, terms


def pretrained(
    ranks: Ranks, name: str, dtype: torch.dtype = torch.float64, steps: int = STEPS, accumulate: int = 1,
    strategy: Strategy = "ddp",
) -> dict[str, Any]:
    """Steps on this rank's slices of the order; weights, metrics of each step, and how often what moved."""
    method, terms = build(name, batch_statistics=accumulate == 1)
    recipe = Recipe(STEPS, BATCH, accumulate, lambda step: warmup_cosine(step, 2, STEPS, PEAK),
                    lambda x: x.to(dtype), "image", label_weight=0.7)
    network = Network(method, terms, recipe).to(dtype)
    wrapped = wrap(network, ComputeConfig(strategy=strategy), ranks, torch.device("cpu"))
    optimizer = CountedLars(parameter_groups(network, 1e-3), lr=0.0)
    metrics = []
    for step in range(steps):
        turns, positions = ORDER.rank_part(step, ranks.rank, ranks.world)
        mine = samples(positions, turns)
        size = len(mine) // accumulate
        parts = [mine.slice(start, start + size) for start in range(0, len(mine), size)]
        result = train_step(wrapped, optimizer, parts, step)
        metrics.append({key: float(value) for key, value in result.metrics.items()})
    moves = (optimizer.steps, getattr(method, "moves", optimizer.steps))
    return {"state": full_state(network), "metrics": metrics, "moves": moves}


def assert_as_one(parts: list[dict[str, Any]], whole: dict[str, Any], tolerance: float) -> None:
    for part in parts:
        assert part["moves"] == whole["moves"] == (len(whole["metrics"]),) * 2
        for name, value in whole["state"].items():
            assert torch.equal(part["state"][name], parts[0]["state"][name])
            torch.testing.assert_close(part["state"][name], value, rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(part["metrics"], whole["metrics"], strict=True):
            assert list(ours) == list(theirs)
            assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["byol", "hybrid", "labels_only"])
def test_ten_steps_of_two_processes_are_those_of_one(both: TwoProcesses, name: str, strategy: Strategy) -> None:
    """Batch norm, LARS, moving average, label terms of which a rank often has no row, metrics: to 1e-9."""
    whole = pretrained(ALONE, name)
    assert_as_one(both(pretrained, name, torch.float64, STEPS, 1, strategy), whole, 1e-9)
    before = build(name, batch_statistics=True)[0].double().state_dict()
    weight = "encoder.4.weight"
    assert (whole["state"][f"method.{weight}"] - before[weight]).abs().max() > 1e-3  # there was something to compare


def test_a_rank_often_has_no_row_of_a_class() -> None:
    labelled = [
        [bool((samples(*ORDER.rank_part(step, rank, 2)[::-1]).labels["class"] >= 0).any()) for rank in range(2)]
        for step in range(STEPS)
    ]
    assert {tuple(pair) for pair in labelled} >= {(True, False), (False, True)}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_step_in_single_precision(both: TwoProcesses, strategy: Strategy) -> None:
    whole = pretrained(ALONE, "hybrid", torch.float32, 1)
    assert_as_one(both(pretrained, "hybrid", torch.float32, 1, 1, strategy), whole, 1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["byol", "hybrid", "labels_only"])
def test_two_processes_of_two_micro_batches_are_one_batch(both: TwoProcesses, name: str, strategy: Strategy) -> None:
    """Without batch statistics; optimiser and target move once a step."""
    parts = both(pretrained, name, torch.float64, STEPS, 2, strategy)
    whole = pretrained(ALONE, name, torch.float64, STEPS, 4)
    assert_as_one(parts, whole, 1e-9)


def wrong_block(ranks: Ranks) -> str:
    with pytest.raises(ConfigError) as raised:
        block_of_ranks(3)
    return str(raised.value)


def test_a_block_that_does_not_divide_the_run_is_refused(both: TwoProcesses) -> None:
    for said in both(wrong_block):
        assert re.fullmatch(r"a group of 3 ranks does not divide the 2 of the run; use one of \[1, 2\]\.", said)
    assert block_of_ranks(1) == ALONE


def test_ranks_draw_their_own_dropout() -> None:
    def draw(*where: Any) -> Tensor:
        with step_randomness(*where):
            return torch.rand(4)

    cpu = torch.device("cpu")
    assert torch.equal(draw(0, 7), draw(0, 7, cpu, 0))
    assert torch.equal(draw(0, 7, cpu, 1), draw(0, 7, cpu, 1))
    assert not torch.equal(draw(0, 7, cpu, 1), draw(0, 7, cpu, 0))
    assert not torch.equal(draw(0, 7, cpu, 1), draw(0, 8, cpu, 1))
