"""Bytes of a step that is never taken, against closed forms and a step that is taken by two processes.

How near the count comes to what the allocator hands out is tested with `benchmarks/memory.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.samples import Batch
from sciencessl.setting_groups import Checkpointing, ComputeConfig, OptimConfig, Strategy
from sciencessl.train.memory import (
    Silent,
    StepMemory,
    Trace,
    batch_like,
    built_without_storage,
    no_storage,
    per_process,
    trace_step,
    without_storage,
)
from sciencessl.train.parallel import checkpoint_activations, heads, trunk, wrap
from sciencessl.train.plan import build_optimizer
from sciencessl.train.ranks import Ranks
from sciencessl.train.step import Network, Recipe, Wrapped, train_step
from sciencessl.train.sync_bn import convert
from tests.train.two_processes import TwoProcesses

CPU = torch.device("cpu")
PX = 32


def make_method(hidden: int = 32) -> Byol:
    encoder = build_backbone("test_resnet", 3, 0)
    return Byol(encoder, ByolOptions(hidden=hidden, out=8), torch.Generator().manual_seed(0))


def make_batch(rows: int) -> Batch:
    views = [{"image": torch.zeros((rows, 3, PX, PX), dtype=torch.uint8)} for _ in range(2)]
    return Batch(views, {"class": torch.zeros(rows, dtype=torch.int64)}, [""] * rows, np.zeros(rows, np.int64))


def make_network(method: Byol, rows: int) -> Network:
    return Network(method, [], Recipe(10, rows, 1, lambda step: 0.1, lambda x: x.float() / 255, "image"))


def traced(
    rows: int, optimizer: str = "lars", checkpointing: Checkpointing = "none", micro_batches: int = 1,
    method: Byol | None = None, world: int = 1,
) -> tuple[Trace, Network, torch.optim.Optimizer]:
    method = method or make_method()
    with no_storage():
        network = make_network(without_storage(method, CPU, torch.contiguous_format), rows)
        checkpoint_activations(network.method, checkpointing)
        if world > 1:
            convert(network, Silent(0, world))
        settings: Any = OptimConfig(name=optimizer)  # type: ignore[arg-type]
        made = build_optimizer({"method": network.method}, settings, rows)
        batch = batch_like(make_batch(1), rows * micro_batches)
        parts = [batch.slice(k * rows, (k + 1) * rows) for k in range(micro_batches)]
        return trace_step(network, made, batch, lambda: train_step(Wrapped(network), made, parts, 1)), network, made


def nbytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(("optimizer", "buffers"), [("lars", 1), ("adamw", 2)])
def test_what_stays_is_counted_to_the_byte(optimizer: str, buffers: int) -> None:
    method = make_method()
    trace, _, _ = traced(4, optimizer, method=method)
    weights = [p for p in method.parameters() if p.requires_grad]
    steps = 4 * len(weights) if optimizer == "adamw" else 0
    for memory in trace:
        assert memory.parameters == nbytes(weights)
        assert memory.target == nbytes(p for p in method.parameters() if not p.requires_grad)
        assert memory.buffers == nbytes(method.buffers())
        assert memory.optimizer == buffers * memory.parameters + steps
    assert trace.update.gradients == trace.update.parameters
    # LARS makes a whole list of updates, of all weights that it scales; AdamW works in place.
    scaled = nbytes(p for p in weights if p.ndim > 1)
    assert trace.update.temporaries == pytest.approx(scaled if optimizer == "lars" else 0, rel=0.02, abs=1)


def test_activations_grow_with_the_rows_and_nothing_else_does() -> None:
    few, more, most = (traced(rows)[0].passes for rows in (128, 192, 256))
    assert most.activations - more.activations == more.activations - few.activations > 0
    for name in ("parameters", "target", "buffers", "optimizer"):
        assert getattr(few, name) == getattr(most, name)


def test_checkpoints_keep_less() -> None:
    everything, stages = (traced(128, checkpointing=by)[0].passes for by in ("none", "stage"))
    assert stages.activations < 0.85 * everything.activations  # most of this tiny encoder's are of its stem
    assert stages.peak - stages.activations == pytest.approx(everything.peak - everything.activations, rel=0.01)


def test_a_second_micro_batch_meets_the_gradients_of_the_first() -> None:
    one, two = traced(8)[0].passes, traced(8, micro_batches=2)[0].passes
    pixels = 2 * 8 * 3 * PX * PX + 8 * 8
    assert two.peak == pytest.approx(one.peak + one.parameters + pixels, rel=0.02)


def test_weights_of_the_network_are_left_alone() -> None:
    method = make_method()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    traced(4, method=method)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(p.grad is None and not isinstance(p, FakeTensor) for p in method.parameters())


def test_a_network_far_larger_than_this_machine_is_built_and_counted() -> None:
    mode = no_storage()
    with built_without_storage(mode):
        huge = nn.Sequential(*[nn.Linear(2**14, 2**14) for _ in range(64)])
    assert nbytes(huge.parameters()) == 64 * 4 * (2**28 + 2**14)
    assert all(isinstance(p, FakeTensor) for p in huge.parameters())
    with mode:
        copied = without_storage(huge, torch.device("cpu"), torch.contiguous_format)
        assert copied(torch.empty(3, 2**14)).shape == (3, 2**14)
    assert not isinstance(nn.Linear(2, 2).weight, FakeTensor)


def test_modules_are_built_as_always_after_a_failure() -> None:
    with pytest.raises(KeyError), built_without_storage(no_storage()):
        raise KeyError
    assert not isinstance(nn.Linear(2, 2).weight, FakeTensor)


def test_the_fuller_moment_is_that_of_a_step() -> None:
    low = StepMemory(1, 2, 3, 4, 5, 6, 7, 8)
    assert low.peak == 36
    high = dataclasses.replace(low, temporaries=17)
    assert Trace(low, high).fullest is Trace(high, low).fullest is high


def test_ddp_holds_all_and_room_for_all_gradients() -> None:
    trace, network, optimizer = traced(16)
    alone = per_process(trace, network, optimizer, 1, "alone")
    assert alone == trace.fullest
    shared = per_process(trace, network, optimizer, 2, "ddp")
    assert shared.gradients == shared.parameters
    assert dataclasses.replace(shared, gradients=0) == dataclasses.replace(alone, gradients=0)


def test_fsdp_holds_parts_that_are_rounded_up_and_the_groups_at_work() -> None:
    trace, network, optimizer = traced(16)
    weights = [p for p in network.parameters() if p.requires_grad]
    found = per_process(trace, network, optimizer, 3, "fsdp")
    assert found.parameters == sum(-(-p.shape[0] // 3) * p[:1].nbytes for p in weights) > nbytes(weights) / 3
    assert found.optimizer == found.parameters
    assert found.activations == trace.passes.activations
    groups = [*trunk(network.method), *heads(network.method)]
    sizes = sorted((nbytes(group.parameters()) for group in groups), reverse=True)
    root = nbytes(network.parameters()) - sum(sizes)
    assert found.gathered == root + sizes[0] + sizes[1] + sizes[0]  # the largest one learns, and its gradient travels


def test_scalars_are_in_every_part() -> None:
    trace, network, optimizer = traced(4, "adamw")
    many = per_process(trace, network, optimizer, 10**6, "fsdp")
    assert many.optimizer == sum(2 * p[:1].nbytes + 4 for p in network.parameters() if p.requires_grad)


def most_of_one(ranks: Ranks, strategy: Strategy, rows: int) -> int:
    """Most bytes that the allocator of one of two processes had handed out in steps that they took together."""
    import gc

    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        network = make_network(make_method(hidden=512), 2 * rows)
        wrapped = wrap(network, ComputeConfig(strategy=strategy), ranks, CPU)
        optimizer = build_optimizer({"method": network.method}, OptimConfig(), rows)
        for step in range(2):
            train_step(wrapped, optimizer, [make_batch(rows)], step)
    assert found.profiler is not None
    assert found.profiler.kineto_results is not None
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_each_of_two_processes_holds_what_was_counted(strategy: Strategy, both: TwoProcesses) -> None:
    rows = 16
    real = max(both(most_of_one, strategy, rows))
    trace, network, optimizer = traced(rows, method=make_method(hidden=512), world=2)
    found = per_process(trace, network, optimizer, 2, strategy)  # type: ignore[arg-type]
    assert found.peak == pytest.approx(real, rel=0.15)
