"""What a step of each registered method takes, counted without values: operations over BYOL's, and memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from torch import Tensor, nn

from sciencessl import registry
from sciencessl.methods.byol import Byol
from sciencessl.testing.method_case import Case
from sciencessl.testing.method_steps import without_values
from sciencessl.train.estimate import count_operations
from sciencessl.train.memory import Silent, StepMemory, trace_step
from sciencessl.train.step import Wrapped, train_step
from tests.testing.test_method import ENCODERS, SMALL, case_of

METHODS = [entry.name for entry in registry.methods()]
SIDE = 24


def wide_encoder() -> nn.Module:
    """Convolutions that take thousands of times what the narrow heads take."""
    encoder: Any = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
    encoder.num_features = 128
    module: nn.Module = encoder
    return module


def operations(case: Case) -> int:
    with without_values(case) as (network, optimizer, batch):
        return count_operations(lambda: train_step(Wrapped(network), optimizer, [batch], 0))


@pytest.mark.parametrize("name", METHODS)
def test_the_cost_that_a_method_tells_is_what_its_step_takes(name: str) -> None:
    """Within a tenth, with narrow heads, and a label term, which takes nothing beside them."""
    case = case_of(name)
    if name not in ENCODERS:
        case = dataclasses.replace(case, encoder=wide_encoder, side=SIDE)
    byol = dataclasses.replace(case, kind=Byol, options=SMALL)
    assert operations(case) / operations(byol) == pytest.approx(case.kind.cost, rel=0.1)


def memory(case: Case, processes: int = 1) -> tuple[StepMemory, nn.Module]:
    with without_values(case) as (network, optimizer, batch):
        network.method.ranks = Silent(0, processes)
        trace = trace_step(network, optimizer, batch, lambda: train_step(Wrapped(network), optimizer, [batch], 0))
        return trace.fullest, network


def taken(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


@pytest.mark.parametrize("name", METHODS)
def test_the_memory_of_a_method_is_counted_and_its_parts_are_exact(name: str) -> None:
    """Weights, target and buffers are those of the method; among more processes, no part shrinks."""
    counted, network = memory(case_of(name))
    assert counted.parameters == taken(p for p in network.parameters() if p.requires_grad)
    assert counted.target == taken(p for p in network.parameters() if not p.requires_grad)
    assert counted.buffers == taken(network.buffers())
    among, _ = memory(case_of(name), 8)
    assert (among.parameters, among.target, among.buffers) == (counted.parameters, counted.target, counted.buffers)
    assert among.peak >= counted.peak
