"""What a step of each registered method takes, counted without values: operations over BYOL's, and memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from sciencessl import registry
from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.methods.byol import Byol
from sciencessl.testing.method_case import Case
from sciencessl.testing.method_steps import without_values
from sciencessl.train.estimate import count_operations
from sciencessl.train.memory import Silent, StepMemory, trace_step
from sciencessl.train.step import Wrapped, train_step
from tests.testing.test_method import ENCODERS, SMALL, case_of

METHODS = [entry.name for entry in registry.methods()]
SIDE, LARGE_SIDE = 24, 224
OTHER_SHAPES = {"univip": 1 + 4 / 2}
"""Costs at views that are all of one side, where `cost` is of small instances: by the formula of the method."""


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
    encoder: Callable[[], nn.Module] = wide_encoder
    side = SIDE
    if name in ENCODERS:
        side = LARGE_SIDE
        encoder = functools.partial(build_backbone, ENCODERS[name][0], 3, 0, size=side)
    case = dataclasses.replace(case, encoder=encoder, side=side)
    byol = dataclasses.replace(case, kind=Byol, options=SMALL)
    assert operations(case) / operations(byol) == pytest.approx(OTHER_SHAPES.get(name, case.kind.cost), rel=0.1)


def memory(case: Case, processes: int = 1) -> tuple[StepMemory, nn.Module]:
    with without_values(case) as (network, optimizer, batch):
        network.method.ranks = Silent(0, processes)
        trace = trace_step(network, optimizer, batch, lambda: train_step(Wrapped(network), optimizer, [batch], 0))
        return trace.fullest, network


def taken(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


@pytest.mark.parametrize("name", METHODS)
def test_the_memory_of_a_method_is_counted_and_its_parts_are_exact(name: str) -> None:
    """Weights, target and buffers are those of the method, with the rows of all processes as well."""
    counted, network = memory(case_of(name), 8)
    assert counted.parameters == taken(p for p in network.parameters() if p.requires_grad)
    assert counted.target == taken(p for p in network.parameters() if not p.requires_grad)
    assert counted.buffers == taken(network.buffers())
    assert counted.activations + counted.temporaries > 0


def test_a_longer_queue_takes_its_rows_and_nothing_else_that_stays() -> None:
    case = case_of("moco_v2")
    longer = dataclasses.replace(case, options=dataclasses.replace(case.options, queue=1212))
    (short, _), (long, _) = memory(case), memory(longer)
    assert long.buffers - short.buffers == 1200 * case.options.out * 4
    assert (long.parameters, long.target) == (short.parameters, short.target)
    assert long.peak > short.peak + 1200 * case.options.out * 4


def test_negatives_of_all_processes_are_in_the_memory_of_each() -> None:
    """Scores of the 16 views of a process with those of 64 processes, in place of its own, in float32."""
    case = case_of("simclr")
    (alone, _), (among, _) = memory(case), memory(case, 64)
    assert among.peak - alone.peak >= 4 * 16 * 16 * (64 - 1)
