"""How near the memory that `pretrain --dry-run` counts comes to what the allocator hands out in a real step.

    python benchmarks/memory.py [--quick] [--json] [--device cuda]

The real step (views to input, both networks, losses, backward, optimiser, moving average) on zeros, with small heads,
so that activations weigh. The estimate is `sciencessl.train.memory`, on tensors without storage. The measurement knows
nothing of it: every block that torch's allocator hands out and takes back, summed in order (on a GPU
`torch.cuda.max_memory_allocated`). It includes what libraries take for a moment, such as oneDNN's scratch of a small
depthwise convolution. Estimate over measurement, 1 being exact.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.machine import cpu_model
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.samples import Batch
from sciencessl.setting_groups import Checkpointing, OptimConfig
from sciencessl.train.memory import Trace, batch_like, no_storage, trace_step, without_storage
from sciencessl.train.parallel import checkpoint_activations
from sciencessl.train.plan import build_optimizer
from sciencessl.train.step import Network, Recipe, Wrapped, train_step

STEPS = 2
"""Steps that are measured: the first makes the optimiser's state, the second finds it."""
HEADS = ByolOptions(hidden=64, out=16)
BACKBONES = ("resnet18", "regnety_002", "convnext_atto")
GPU_BACKBONES = ("resnet50", "regnety_016", "regnety_032", "convnext_tiny")
KINDS: tuple[tuple[str, Checkpointing, str], ...] = (
    ("lars", "none", "float32"), ("lars", "none", "bfloat16"), ("adamw", "stage", "bfloat16"),
    ("adamw", "block", "float32"),
)


@dataclass(frozen=True)
class Case:
    """One step."""

    backbone: str
    optimizer: str = "lars"
    checkpointing: Checkpointing = "none"
    precision: str = "float32"
    px: int = 64
    rows: int = 16

    def __str__(self) -> str:
        return f"{self.backbone}/{self.optimizer}/{self.checkpointing}/{self.precision}"


def make_method(case: Case) -> Byol:
    """What is trained, on the CPU."""
    return Byol(build_backbone(case.backbone, 3, 0), HEADS, torch.Generator().manual_seed(0))


def make_batch(case: Case, rows: int) -> Batch:
    """Two views of black images."""
    views = [{"image": torch.zeros((rows, 3, case.px, case.px), dtype=torch.uint8)} for _ in range(2)]
    return Batch(views, {}, [""] * rows, np.zeros(rows, np.int64))


def lay_out(case: Case, method: Byol) -> tuple[Network, torch.optim.Optimizer]:
    """A network and its optimiser, of a copy that is changed."""
    low = torch.bfloat16 if case.precision == "bfloat16" else None
    recipe = Recipe(10, case.rows, 1, lambda step: 0.1, lambda x: x.float() / 255, "image", autocast=low)
    network = Network(method, [], recipe)
    checkpoint_activations(method, case.checkpointing)
    settings = OptimConfig(name=case.optimizer)  # type: ignore[arg-type]
    return network, build_optimizer({"method": method}, settings, case.rows)


def estimate(case: Case, method: Byol, device: torch.device) -> Trace:
    """Without taking the step."""
    with no_storage():
        copied = without_storage(method, device, torch.contiguous_format)
        network, optimizer = lay_out(case, copied)
        batch = batch_like(make_batch(case, 1), case.rows)
        return trace_step(network, optimizer, batch, lambda: train_step(Wrapped(network), optimizer, [batch], 1))


def measure(case: Case, method: Byol, device: torch.device) -> int:
    """By taking it."""

    def steps() -> None:
        network, optimizer = lay_out(case, copy.deepcopy(method).to(device))
        batch = make_batch(case, case.rows)
        for step in range(STEPS):
            train_step(Wrapped(network), optimizer, [batch], step)

    return _gpu_peak(steps) if device.type == "cuda" else allocator_peak(steps)


def allocator_peak(function: Callable[[], object]) -> int:
    """Most bytes that torch's CPU allocator had handed out at once during a call."""
    gc.collect()  # what is taken back of earlier calls would count as less
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    assert found.profiler is not None
    assert found.profiler.kineto_results is not None
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def _gpu_peak(function: Callable[[], object]) -> int:
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    return int(torch.cuda.max_memory_allocated()) - before


def cases(quick: bool, gpu: bool) -> list[Case]:
    """What is compared."""
    if quick:
        return [Case("resnet18", rows=4)]
    names, size = (GPU_BACKBONES, {"px": 224, "rows": 64}) if gpu else (BACKBONES, {"px": 128, "rows": 8})
    return [Case(name, *kind, **size) for name in names for kind in KINDS]


def main() -> None:
    """Print each case, and the worst."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    found: dict[str, float] = {}
    for case in cases(arguments.quick, device.type == "cuda"):
        method = make_method(case)
        peak = estimate(case, method, device).fullest.peak
        real = measure(case, method, device)
        found[str(case)] = round(peak / real, 4)
        if not arguments.json:
            print(f"{case!s:<45} {peak / 2**20:9.1f} MiB counted {real / 2**20:9.1f} measured {peak / real:7.3f}")
    worst = max(found.values(), key=lambda ratio: abs(ratio - 1))
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu_model()
    if arguments.json:
        print(json.dumps({"name": "memory", "hardware": name, "ratios": {}, "absent": [],
                          "absolute": {"estimate_over_measured": found, "worst": worst}}))
    else:
        print(f"worst: {worst:.3f} ({name})")


if __name__ == "__main__":
    main()
