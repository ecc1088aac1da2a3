"""Measured once at the start of a new run: precision, memory format, and what a step costs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sciencessl.setting_groups import MemoryFormat, Precision

GAIN = 1.10
"""What a choice must win by to replace the default: a run should not change with the noise of a measurement."""


@dataclass(frozen=True)
class Choice:
    """Precision and memory format, the images a second of each candidate, and of how many images at once."""

    precision: Precision
    memory_format: MemoryFormat
    measured: dict[str, float]
    images: int


def choose(
    encoder: nn.Module, shape: tuple[int, ...], precision: Precision, memory_format: MemoryFormat,
    device: torch.device,
) -> Choice:
    """Time forward and backward of an encoder in each allowed combination.

    The default (float32, contiguous) stays unless another is faster by more than 10 %; on the CPU in processor time, so
    that what else the machine does decides nothing. Weights, statistics and generators of `encoder` are left as they
    are: a copy is timed. Where a GPU has no room for the batch, which training may have with micro-batches or
    activations that are computed again, all are timed on half of it, or a quarter...

    Args:
        encoder: (B, C, H, W) -> (B, F).
        shape: (B, C, H, W) of a batch of one view.
        precision: `auto` or the only one allowed.
        memory_format: `auto` or the only one allowed.
        device: Where to time.
    """
    precisions: list[Precision] = ["float32", "bfloat16"] if precision == "auto" else [precision]
    formats: list[MemoryFormat] = ["contiguous", "channels_last"] if memory_format == "auto" else [memory_format]
    candidates = list(itertools.product(precisions, formats))
    if len(candidates) == 1:
        return Choice(*candidates[0], {}, shape[0])
    try:
        rates = {pair: _images_per_second(encoder, shape, *pair, device) for pair in candidates}
    except torch.OutOfMemoryError:
        if shape[0] == 1:
            raise
        rates = {}
    if not rates:  # outside of the handler, which holds on to what did not fit
        return choose(encoder, (shape[0] // 2, *shape[1:]), precision, memory_format, device)
    best = candidates[0]
    for pair, rate in rates.items():
        if rate > rates[best] and rate > GAIN * rates[candidates[0]]:
            best = pair
    return Choice(*best, {"/".join(pair): round(rate, 1) for pair, rate in rates.items()}, shape[0])


def _images_per_second(
    encoder: nn.Module, shape: tuple[int, ...], precision: str, memory_format: str, device: torch.device
) -> float:
    import copy

    layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    model = copy.deepcopy(encoder).to(device=device, memory_format=layout)  # type: ignore[call-overload]
    images = torch.zeros(shape, device=device).contiguous(memory_format=layout)

    def once() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            features = model(images)
        features.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    if device.type == "cpu":  # by its own work: other processes must not decide
        return shape[0] * torch.get_num_threads() / best_time(once, clock=time.process_time)
    return shape[0] / best_time(once)


def best_time(
    function: Callable[[], None], repeats: int = 3, patience: float = 1.0, clock: Callable[[], float] | None = None
) -> float:
    """Seconds of the fastest of `repeats` calls, after one to warm up: the least disturbed one.

    No further call is made once `patience` seconds have gone by: a start must not take as long as a short run. `clock`
    tells the time of a call, `time.perf_counter` by default.
    """
    clock = clock or time.perf_counter
    begun = time.perf_counter()
    function()
    times: list[float] = []
    while not times or (len(times) < repeats and time.perf_counter() - begun < patience):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times)
