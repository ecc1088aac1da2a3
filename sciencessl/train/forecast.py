"""What `pretrain --dry-run` finds: memory of a process, for several numbers of them; steps; time on this machine."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sciencessl.config import FullConfig
from sciencessl.errors import ConfigError
from sciencessl.machine import GIB, memory_gib
from sciencessl.setting_groups import Checkpointing
from sciencessl.train.estimate import count_operations, operations_per_image, seconds_per_step, settle
from sciencessl.train.initial import initial_words
from sciencessl.train.memory import (
    UNTRACEABLE,
    Kept,
    Silent,
    StepMemory,
    batch_like,
    built_without_storage,
    no_storage,
    per_process,
    trace_step,
    without_storage,
)
from sciencessl.train.parallel import checkpoint_activations, shared_slots, stages, usable_world
from sciencessl.train.plan import Plan, build_optimizer, make_plan, make_recipe, memory_layout, sample_batch
from sciencessl.train.ranks import Ranks
from sciencessl.train.sampling_words import sampling_words, tell_sampling
from sciencessl.train.step import Network, Wrapped, train_step
from sciencessl.train.sync_bn import convert

PROCESSES = (1, 8, 64)
"""Shown where none are asked for: one, a machine, and a rack of them."""
DEVICES_GB = (16, 24, 40, 80)
"""Memory of devices that there are."""
USABLE = 0.9
"""Share of a device's memory that tensors get: context, libraries and gaps between tensors take the rest."""
COUNTED = 2
"""Images that operations are counted on: batch statistics need two."""
TRACED = 2
"""Micro-batches of a traced step, where it has more: a second one meets gradients of the first, as others do."""


@dataclass(frozen=True)
class ProcessMemory:
    """Tensor bytes of each of some processes that train together, at the fullest moment of a step.

    Attributes:
        processes: How many they are.
        images: Source images that one computes at a time.
        strategy: `ddp` or `fsdp`; `alone` for one process.
        checkpointing: Of activations.
        peak_bytes: All that `parts` says.
        parts: What it is made of.
        fits_gb: The smallest of `DEVICES_GB` with room for it; None where none has.
        chosen: Whether strategy and checkpointing are those of the settings.
    """

    processes: int
    images: int
    strategy: Kept
    checkpointing: Checkpointing
    peak_bytes: int
    parts: StepMemory
    fits_gb: int | None
    chosen: bool


@dataclass(frozen=True)
class RunEstimate:
    """What `dry_run` found out: nothing was written.

    Attributes:
        steps: Optimiser steps.
        seconds: Expected training time with the processes that measured it; None where a step does not fit here.
        processes: How many measured it.
        device: What it was measured on, `cpu` or `cuda`.
        workers: Loader processes of each.
        parameters: Trainable parameters.
        precision: Chosen precision.
        memory_format: Chosen memory format.
        operations_per_image: Floating-point operations of one source image in training.
        epoch_samples: Samples of an epoch.
        epochs: How many of them the steps are.
        sampling: What an epoch is, and what else there is to say of it, in words.
        memory: A row for each number of processes, strategy and kind of checkpointing; none where a step cannot be
            traced.
    """

    steps: int
    seconds: float | None
    processes: int
    device: str
    workers: int
    parameters: int
    precision: str
    memory_format: str
    operations_per_image: float
    epoch_samples: int
    epochs: float
    sampling: tuple[str, ...]
    memory: tuple[ProcessMemory, ...]


def estimate(
    full: FullConfig, ranks: Ranks, device: torch.device, tell: Callable[[str], None], processes: int = 0
) -> RunEstimate:
    """Count the memory of a run, and time its step where that fits on this machine.

    Args:
        full: Settings of a new run.
        ranks: The processes that estimate together; every one of them must call this.
        device: Of this process.
        tell: Receives lines for people.
        processes: How many to count the memory for; 0: `PROCESSES`, or `ranks` where they are several.

    Raises:
        ConfigError: For a setting that cannot be, and for a length in minutes where a step cannot be timed.
    """
    mode = no_storage()
    shapes = _shapes(full, mode, ranks, device)
    tell_sampling(shapes.sampling, shapes.store, tell)
    asked = processes or (ranks.world if ranks.world > 1 else 0)
    counts = _counts(asked, shared_slots(full.run), tell)
    own = full.run.compute.checkpointing
    lack, untraced = ranks.from_first(lambda: _tried(shapes, mode, ranks.world))
    if untraced:
        tell(f"memory is not counted: {untraced}")
        counts = []
    seconds, operations = _untimed(shapes, mode, lack, tell) if lack else _timed(full, shapes, tell)
    run, images = shapes.config.run, shapes.images(shapes.config.run.steps)
    kinds = [kind for kind in _kinds(shapes) if asked or kind in ("none", "stage", own)]
    rows = [row for count in counts for kind in kinds for row in _memory(shapes, mode, count, kind)]
    trained = [p for m in (shapes.method, *shapes.terms) for p in m.parameters() if p.requires_grad]
    return RunEstimate(
        steps=run.steps, seconds=None if seconds is None else seconds * images / run.batch, processes=ranks.world,
        device=device.type, workers=run.compute.workers, parameters=sum(p.numel() for p in trained),
        precision=run.compute.precision, memory_format=run.compute.memory_format,
        operations_per_image=operations, epoch_samples=shapes.order.length,
        epochs=images / shapes.order.length, sampling=tuple(sampling_words(shapes.sampling, shapes.store)),
        memory=tuple(sorted(rows, key=lambda row: (row.processes, row.strategy))),
    )


def _tried(shapes: Plan, mode: FakeTensorMode, processes: int) -> tuple[str, str]:
    """Why a step cannot be taken here, and why it cannot be traced, in words; empty where it can."""
    try:
        rows = _memory(shapes, mode, processes, shapes.config.run.compute.checkpointing)
        row = next(row for row in rows if row.chosen)
        return _lack(row.parts, shapes.device), ""
    except UNTRACEABLE as error:
        method = shapes.config.run.method
        return "", f"a step of {method} decides by the values of tensors ({type(error).__name__}: {error})"


def _timed(full: FullConfig, shapes: Plan, tell: Callable[[str], None]) -> tuple[float | None, float]:
    """Seconds of a step of the first batch, and operations an image; settles what is `auto` in the plan."""
    plan = make_plan(full, ranks=shapes.ranks, device=shapes.device)
    for line in initial_words(plan.initial):
        tell(line)
    seconds = settle(plan, tell) or seconds_per_step(plan)
    shapes.config = plan.config
    return seconds, operations_per_image(plan)


def _untimed(
    shapes: Plan, mode: FakeTensorMode, lack: str, tell: Callable[[str], None]
) -> tuple[float | None, float]:
    """The same without taking a step: what is `auto` is settled at its default."""
    run = shapes.config.run
    if run.minutes:
        raise ConfigError(f"minutes is {run.minutes:g}, and a step cannot be timed here: {lack}. Give the run a length "
                          "in epochs or steps.")
    usual: dict[str, Any] = {"precision": "float32", "memory_format": "contiguous"}
    chosen = {name: value for name, value in usual.items() if getattr(run.compute, name) == "auto"}
    words = f"; counted with {' and '.join(chosen.values())}, where a run would measure" if chosen else ""
    tell(f"not timed: {lack}{words}")
    run = dataclasses.replace(run, compute=dataclasses.replace(run.compute, **chosen))
    shapes.config = dataclasses.replace(shapes.config, run=run)
    settle(shapes, tell)
    example = sample_batch(shapes, 1)
    with mode:
        network, optimizer = _laid_out(shapes)
        batch = batch_like(example, COUNTED)
        operations = count_operations(lambda: train_step(Wrapped(network), optimizer, [batch], 0)) / COUNTED
    return None, operations


def _shapes(full: FullConfig, mode: FakeTensorMode, ranks: Ranks, device: torch.device) -> Plan:
    """The plan of a run whose weights have no values, as if they came later."""
    # Only values hang on branches_on, and it reads them.
    still = dataclasses.replace(full, run=dataclasses.replace(full.run, branches_on=False))
    plan = make_plan(still, continued=True, ranks=ranks, device=device, within=built_without_storage(mode))
    # What is kept in caches from step to step, such as statistics on the device, would else be without values for ever.
    example, recipe = sample_batch(plan, 1), make_recipe(plan)
    with torch.no_grad():
        for view in example.views:
            recipe.to_input(view[recipe.field].to(device))
        for term in plan.terms:
            copy.deepcopy(term).to(device)(torch.zeros(1, plan.method.features, device=device), example)
    return plan


def _counts(asked: int, slots: int, tell: Callable[[str], None]) -> list[int]:
    """Numbers of processes that can share a micro-batch."""
    if not asked:
        return [count for count in PROCESSES if slots % count == 0]
    usable = usable_world(asked, slots)
    if usable < asked:
        tell(f"{asked} processes cannot share the {slots} slots of a micro-batch evenly: {usable} would train")
    return [usable]


def _kinds(plan: Plan) -> tuple[Checkpointing, ...]:
    """Kinds of checkpointing that the encoder can have."""
    return get_args(Checkpointing) if stages(plan.method.encoder) else ("none",)


def _lack(parts: StepMemory, device: torch.device) -> str:
    """Why a step cannot be taken on this machine, in words; empty where it can.

    The plan of a run holds weights of its own beside those that are tried.
    """
    needed = (parts.peak + parts.parameters + parts.target) / GIB
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] / GIB
    elif (found := memory_gib()) is not None:
        free = found[1]
    else:
        return ""
    return f"a step takes {needed:.1f} GiB, and {free:.1f} GiB are free" if needed > USABLE * free else ""


def _memory(plan: Plan, mode: FakeTensorMode, processes: int, checkpointing: Checkpointing) -> Iterator[ProcessMemory]:
    """What each process holds, under either strategy where there are several."""
    run = plan.config.run
    micro = max(1, run.batch // processes // run.accumulate)
    count = run.accumulate * max(plan.phases.factors)
    example = sample_batch(plan, 1)
    with mode:
        network, optimizer = _laid_out(plan)
        checkpoint_activations(network.method, checkpointing)
        if processes > 1:
            network.method.ranks = Silent(0, processes)
        if processes > 1 and (network.recipe.autocast is not None or micro == 1):
            # In float32 it takes as much memory as torch's own, and much time to trace; which refuses a single row.
            convert(network, network.method.ranks)
        batch = batch_like(example, micro * count)
        parts = [batch.slice(k * micro, (k + 1) * micro) for k in range(min(count, TRACED))]
        trace = trace_step(network, optimizer, batch, lambda: train_step(Wrapped(network), optimizer, parts, 0))
    strategies: tuple[Kept, ...] = ("ddp", "fsdp") if processes > 1 else ("alone",)
    for strategy in strategies:
        memory = per_process(trace, network, optimizer, processes, strategy)
        usual = "ddp" if run.compute.strategy == "auto" else run.compute.strategy
        chosen = strategy in ("alone", usual) and checkpointing == run.compute.checkpointing
        yield ProcessMemory(processes, micro, strategy, checkpointing, memory.peak, memory, _device_for(memory.peak),
                            chosen)


def _laid_out(plan: Plan) -> tuple[Network, torch.optim.Optimizer]:
    """A copy of the network of a plan without values, for one process, and its optimiser."""
    run = plan.config.run
    layout = memory_layout(run.compute.memory_format)
    method, *terms = without_storage(torch.nn.ModuleList([plan.method, *plan.terms]), plan.device, layout)
    network = Network(method, terms, make_recipe(plan))  # type: ignore[arg-type]
    return network, build_optimizer({"method": network.method, "terms": network.terms}, run.optim, run.batch)


def _device_for(peak: int) -> int | None:
    return next((size for size in DEVICES_GB if peak <= USABLE * size * GIB), None)
