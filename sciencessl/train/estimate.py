"""What a new run measures before it starts: precision, memory format, the length in steps, and the cost of a step."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sciencessl.config import RunConfig
from sciencessl.data.loader import make_loader
from sciencessl.errors import ConfigError
from sciencessl.machine import cores
from sciencessl.optim.schedules import epochs_to_steps
from sciencessl.samples import Batch
from sciencessl.train.measure import choose
from sciencessl.train.place import find_place
from sciencessl.train.plan import Plan, build, make_stream, sample_batch
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.step import train_step

TIMED_SECONDS = (2.0, 15.0)
TIMED_SHARE = 0.03
TIMED_STEPS = (2, 200)
"""A step is timed for a share of the minutes asked for, within bounds in seconds and in steps: two seconds on a busy
machine were a third off, and a run's length hangs on it."""
CHOICE_IMAGES = 32
"""Images a candidate is timed on where no accelerator wants to be filled."""


def check_length(run: RunConfig) -> None:
    """A run needs a length.

    Raises:
        ConfigError: When none of epochs, steps and minutes is set.
    """
    if not (run.epochs or run.steps or run.minutes):
        raise ConfigError("the run has no length: give one of --epochs, --steps and --minutes, such as --minutes 10.")


def settle(plan: Plan, tell: Callable[[str], None]) -> float | None:
    """Replace what is `auto` in the plan's settings, and epochs or minutes by steps. Only a new run measures.

    Returns:
        Seconds of a step of the first batch, where minutes made it necessary to measure them.
    """
    run, ranks = plan.config.run, plan.ranks
    micro = max(1, run.batch // run.accumulate // ranks.world)
    views = sample_batch(plan, 1).views
    shape = views[0][plan.store.primary].shape
    images = micro if plan.device.type == "cuda" else min(micro, CHOICE_IMAGES)
    choice = ranks.from_first(lambda: choose(
        plan.method.encoder, (images, *shape[1:]), run.compute.precision, run.compute.memory_format, plan.device
    ))
    if choice.measured:
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in choice.measured.items())
        tell(f"chose {choice.precision}, {choice.memory_format} (images/s of the encoder: {rates})")
    if len(views) == plan.method.n_views and choice.images == micro:  # what `cost` counts, at the shape of a step
        plan.supervised = choice.measured.get(f"{choice.precision}/{choice.memory_format}", 0.0)
    compute = dataclasses.replace(
        run.compute, precision=choice.precision, memory_format=choice.memory_format,
        device="cuda" if plan.device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        workers=run.compute.workers if run.compute.workers >= 0 else loader_workers(find_place().local_world),
    )
    run = dataclasses.replace(run, compute=compute, slots=plan.order.slot_count)
    plan.config = dataclasses.replace(plan.config, run=run)
    seconds = seconds_per_step(plan) if run.minutes else None
    steps = _steps(plan, seconds)
    epochs, batches = plan.images(steps) / plan.order.length, plan.phases.before(steps)
    if steps <= plan.phases.first_steps[-1]:
        raise ConfigError(f"phases: {run.phases[-1]} never begins, since the run ends after {epochs:.3g} epochs. Train "
                          "for longer, or leave that phase out.")
    if seconds is not None:
        tell(f"{steps} steps of {seconds * batches / steps:.2f} s fill {run.minutes:g} minutes ({epochs:.1f} epochs)")
    run = dataclasses.replace(run, steps=steps, epochs=0.0, minutes=0.0)
    plan.config = dataclasses.replace(plan.config, run=run)
    return seconds


def loader_workers(processes: int) -> int:
    """Loader processes for each of the processes that train on this machine."""
    return max(1, min(8, cores() // processes - 1))


def _steps(plan: Plan, seconds: float | None) -> int:
    run = plan.config.run
    if seconds is not None:
        batches = int(run.minutes * 60 / seconds)
    elif run.epochs:
        batches = epochs_to_steps(1, round(run.epochs * plan.order.length), run.batch)
    else:
        check_length(run)
        return run.steps
    return max(1, plan.phases.steps(batches))


def probe_step(plan: Plan, ranks: Ranks = ALONE) -> Callable[[Batch], None]:
    """A function that takes one step on copies, laid out in memory as the run's are: nothing of the run is touched.

    Args:
        plan: Of the run.
        ranks: Those that take the step together, each with its part of a batch.
    """
    wrapped, optimizer = build(copy.deepcopy(plan.method), copy.deepcopy(plan.terms), plan, ranks)
    accumulate = plan.config.run.accumulate

    def once(batch: Batch) -> None:
        size = len(batch) // accumulate
        parts = [batch.slice(start, start + size) for start in range(0, size * accumulate, size)]
        train_step(wrapped, optimizer, parts, 0)
        if plan.device.type == "cuda":
            torch.cuda.synchronize()

    return once


def seconds_per_step(plan: Plan) -> float:
    """A step and its data, measured through the real loader: workers and trainer share the cores."""
    once = probe_step(plan, plan.ranks)
    run = plan.config.run
    workers = run.compute.workers
    seconds = min(max(TIMED_SHARE * 60 * run.minutes, TIMED_SECONDS[0]), TIMED_SECONDS[1])
    loader = iter(make_loader(make_stream(plan, 0), workers, prefetch=1, device=plan.device))
    # First windows, first allocations, and what was prefetched meanwhile.
    _repeat(lambda: once(next(loader)), TIMED_SECONDS[0], 1, workers + 2, plan.ranks)
    taken, elapsed = _repeat(lambda: once(next(loader)), seconds, *TIMED_STEPS, plan.ranks)
    return elapsed / taken


def _repeat(function: Callable[[], None], seconds: float, least: int, most: int, ranks: Ranks) -> tuple[int, float]:
    """Call until so many seconds have gone by on the first rank; calls made and its seconds."""
    start, calls, elapsed = time.perf_counter(), 0, 0.0
    while calls < least or (elapsed < seconds and calls < most):
        function()
        calls += 1
        elapsed = ranks.from_first(lambda: time.perf_counter() - start)
    return calls, elapsed


def operations_per_image(plan: Plan) -> float:
    """Floating-point operations of one source image in training, counted on a small batch."""
    count = 2 * plan.config.run.accumulate
    batch = sample_batch(plan, count)
    return count_operations(lambda: probe_step(plan)(batch)) / count


def count_operations(step: Callable[[], object]) -> int:
    """Floating-point operations of a step."""
    from torch.utils.flop_counter import FlopCounterMode

    formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        step()
    return int(counter.get_total_flops())


def _convolution_backward(
    gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], bias: Any, stride: Any, padding: Any,
    dilation: Any, transposed: bool, output_padding: Any, groups: int, wanted: Sequence[bool], **_: Any,
) -> int:
    """Operations of a convolution's gradients by input and by weight, each as many as its forward pass.

    Torch's own formula leaves the groups out, and counts a grouped convolution several times over.
    """
    places = math.prod(x if transposed else gradient)
    return 2 * places * math.prod(weight[1:]) * (int(wanted[0]) + int(wanted[1]))
