"""Every registered method in two real processes: replicated and sharded, with micro-batches and label terms."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sciencessl import registry
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.setting_groups import ComputeConfig, Strategy
from sciencessl.testing.method_case import BATCH, STEPS, label_term
from sciencessl.testing.method_ranks import draws
from sciencessl.train.parallel import full_state, wrap
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.step import Network, Recipe, train_step
from tests.testing.test_method import case_of
from tests.train.two_processes import TwoProcesses

CPU = torch.device("cpu")
METHODS = [entry.name for entry in registry.methods()]


def learnt(ranks: Ranks, name: str, strategy: Strategy, accumulate: int, terms: bool) -> dict[str, Tensor]:
    """The state of a method after some steps in float64, each rank with its part of each micro-batch."""
    case = case_of(name)
    method = case.make().to(torch.float64)
    labels = [label_term(method.features).to(torch.float64)] if terms else []
    recipe = Recipe(STEPS, BATCH, accumulate, lambda step: 0.1, lambda x: x.to(torch.float64), "image")
    network = Network(method, labels, recipe)
    wrapped = wrap(network, ComputeConfig(strategy=strategy), ranks, CPU)
    optimizer = LARS(parameter_groups(network, 1e-4), lr=0.0, eta=0.1)
    size = BATCH // accumulate // ranks.world
    # From the second step on, what each process keeps of its own rows is not what one keeps of all.
    for step in range(1 if method.own_buffers else 2):
        batch = case.batch(step)
        starts = [(part * ranks.world + ranks.rank) * size for part in range(accumulate)]
        train_step(wrapped, optimizer, [batch.slice(start, start + size) for start in starts], step)
    state: dict[str, Any] = full_state(network)
    apart = [f"method.{own}" for own in method.own_buffers] + ["method._extra_state"] * bool(method.own_buffers)
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and key not in apart}


@functools.cache
def alone(name: str, accumulate: int, terms: bool) -> dict[str, Tensor]:
    """The same of one process."""
    return learnt(ALONE, name, "ddp", accumulate, terms)


@pytest.mark.parametrize(("strategy", "accumulate"), [("ddp", 1), ("ddp", 2), ("fsdp", 2)])
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_take_the_step_of_one(both: TwoProcesses, name: str, strategy: Strategy, accumulate: int) -> None:
    """Whatever is drawn differs between processes; the weights that come of it do not."""
    case = case_of(name)
    terms = accumulate > 1 or case.forward(case.make())[2] is None
    parts = both(learnt, name, strategy, accumulate, terms)
    for key, value in parts[0].items():
        assert torch.equal(value, parts[1][key]), key
        assert value.isfinite().all(), key
    whole = {} if draws(case) else alone(name, accumulate, terms)
    for key, value in whole.items():
        torch.testing.assert_close(parts[0][key], value, rtol=1e-6, atol=1e-6, msg=key)


def test_shards_are_of_heads_and_buffers_are_whole(both: TwoProcesses) -> None:
    assert all(found == (True, True) for found in both(sharded))


def sharded(ranks: Ranks) -> tuple[bool, bool]:
    """Whether each head of BYOL is in shards, and whether all buffers are whole."""
    case = case_of("byol")
    network = Network(case.make(), [], Recipe(STEPS, BATCH, 1, lambda step: 0.1, lambda x: x, "image"))
    wrap(network, ComputeConfig(strategy="fsdp"), ranks, CPU)
    heads = [child for child in network.method.children() if isinstance(child, nn.Sequential)]
    cut = all(type(head).__name__.startswith("FSDP") for head in heads)
    return cut and len(heads) == 5, all(type(buffer) is Tensor for buffer in network.buffers())
