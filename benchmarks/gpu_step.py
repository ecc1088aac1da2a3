"""A step of BYOL on a GPU: efficiency, the share of optimiser and moving average, memory, and whether the host waits.

    python benchmarks/gpu_step.py [--quick] [--json] [--device cuda|cpu] [--backbones NAME ...]

The real step (`train_step` with LARS) on random 8-bit pictures in pinned memory, without store and loader: 224 px,
bfloat16, heads of 4096 and 256 units, in both memory formats. Where a batch has no room, half of it is taken.

- `efficiency`: source images a second times 8/3, over the images a second at which the bare encoder goes forward and
  backward, of the same batch in the same precision and memory format, its input ready and without an optimiser. Two
  views forward and backward through the online network and forward through the target are 8/3 of one forward and
  backward. The median over rounds in which both take turns.
- `update_share`: time on the GPU of LARS and the moving average together, over that of the whole step.
- `waits`: how often the host waits for the GPU in a step, as torch counts (`torch.cuda.set_sync_debug_mode`).
- `peak_memory_bytes`: the most that tensors take.

`--checkpointed` (RegNetY-320) is trained with the activations of each stage computed again, and has no efficiency: its
baseline would be other work. On the CPU, which is there to try the script, nothing is said of waits and memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.machine import cores, cpu_model
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.monitor.throughput import BYOL_WORK
from sciencessl.samples import Batch
from sciencessl.setting_groups import Checkpointing, ComputeConfig, OptimConfig
from sciencessl.spec import InputStats
from sciencessl.train.parallel import device_of, wrap
from sciencessl.train.plan import build_optimizer, memory_layout
from sciencessl.train.ranks import ALONE
from sciencessl.train.step import Network, Recipe, train_step
from sciencessl.views.to_input import standardise

FIELD = "image"
STATS = InputStats((0.5,) * 3, (0.25,) * 3, (255.0,) * 3)
FORMATS = ("channels_last", "contiguous")

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What is measured, and how it is computed."""

    backbone: str
    px: int
    batch: int
    memory_format: str
    device: torch.device
    checkpointing: Checkpointing = "none"
    hidden: int = 4096

    @property
    def layout(self) -> torch.memory_format:
        """Torch's name of the memory format."""
        return memory_layout(self.memory_format)

    def pictures(self) -> Batch:
        """Two views of random pixels, pinned for a GPU."""
        shape = (self.batch, self.px, self.px, 3)
        rng = np.random.default_rng(0)
        views = [{FIELD: torch.from_numpy(rng.integers(0, 256, shape, np.uint8)).permute(0, 3, 1, 2)} for _ in "12"]
        batch = Batch(views, {}, [""] * self.batch, np.arange(self.batch))
        return batch.pin_memory() if self.device.type == "cuda" else batch


class Clock:
    """Marks on the device's own line of work, and the seconds between them."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def mark(self) -> Any:
        """Now; on a GPU when it has done what was asked so far."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, first: Any, last: Any) -> float:
        """From one mark to another, which is waited for."""
        if not self._cuda:
            return float(last - first)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3


class Step:
    """Steps of BYOL as the trainer takes them."""

    def __init__(self, setting: Setting) -> None:
        method = Byol(build_backbone(setting.backbone, 3, 0), ByolOptions(setting.hidden), torch.Generator())
        method.to(memory_format=setting.layout)  # type: ignore[call-overload]
        method.at_batch(setting.batch)
        recipe = Recipe(
            total_steps=10**6, batch=setting.batch, accumulate=1, learning_rate=lambda step: 1e-3, field=FIELD,
            to_input=lambda x: standardise(x.contiguous(memory_format=setting.layout), STATS), autocast=torch.bfloat16,
        )
        compute = ComputeConfig(checkpointing=setting.checkpointing)
        self.method = method
        self.wrapped = wrap(Network(method, [], recipe), compute, ALONE, setting.device)
        self.optimizer = build_optimizer({"method": method}, OptimConfig(name="lars"), setting.batch)
        self.batch = setting.pictures()

    def __call__(self) -> None:
        train_step(self.wrapped, self.optimizer, [self.batch], 0)


def supervised(setting: Setting) -> Callable[[], None]:
    """Forward and backward of the encoder on one view, which is there as its input."""
    encoder = build_backbone(setting.backbone, 3, 0).to(setting.device, memory_format=setting.layout)  # type: ignore[call-overload]
    shape = (setting.batch, 3, setting.px, setting.px)
    view = torch.randn(shape, device=setting.device).contiguous(memory_format=setting.layout)

    def step() -> None:
        encoder.zero_grad()
        with torch.autocast(setting.device.type, dtype=torch.bfloat16):
            features = encoder(view)
        features.float().square().mean().backward()

    return step


def rounds_of(functions: Sequence[Callable[[], None]], clock: Clock, rounds: int, steps: int) -> np.ndarray:
    """(rounds, functions) seconds of a call. They take turns of some calls each; a round before is not counted."""
    spent = []
    for _ in range(rounds + 1):
        row = []
        for function in functions:
            begin = clock.mark()
            for _ in range(steps):
                function()
            row.append(clock.seconds(begin, clock.mark()) / steps)
        spent.append(row)
    return np.array(spent[1:])


def update_share(step: Any, clock: Clock, steps: int) -> float:
    """Share of optimiser and moving average in the time of a step."""
    marks: list[tuple[Any, Any]] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            begin = clock.mark()
            found = function(*given)
            marks.append((begin, clock.mark()))
            return found

        return call

    step.optimizer.step, step.method.after_step = timed(step.optimizer.step), timed(step.method.after_step)
    begin = clock.mark()
    for _ in range(steps):
        step()
    whole = clock.seconds(begin, clock.mark())
    del step.optimizer.step, step.method.after_step  # what the classes have comes back
    return sum(clock.seconds(*pair) for pair in marks) / whole


def count_waits(step: Callable[[], None]) -> int:
    """How often the host waits for the GPU in a step."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in told)


def measured(setting: Setting, rounds: int, steps: int) -> dict[str, Any]:
    """The numbers of one setting."""
    clock, step, on_gpu = Clock(setting.device), Step(setting), setting.device.type == "cuda"
    row: dict[str, Any] = {
        "backbone": setting.backbone, "memory_format": setting.memory_format, "checkpointing": setting.checkpointing,
        "batch": setting.batch, "waits": None, "peak_memory_bytes": None, "efficiency": None,
    }
    step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        step()
        row |= {"peak_memory_bytes": torch.cuda.max_memory_allocated(), "waits": count_waits(step)}
    functions: list[Callable[[], None]] = [step, *([] if setting.checkpointing != "none" else [supervised(setting)])]
    spent = rounds_of(functions, clock, rounds, steps)
    row |= {"step_ms": 1e3 * float(np.median(spent[:, 0])), "update_share": update_share(step, clock, steps),
            "images_per_s": setting.batch / float(np.median(spent[:, 0]))}
    if len(functions) == 2:
        row |= {"supervised_images_per_s": setting.batch / float(np.median(spent[:, 1])),
                "efficiency": BYOL_WORK * float(np.median(spent[:, 1] / spent[:, 0]))}
    return row


def fitting(batch: int, measure: Callable[[int], T]) -> T:
    """What is measured with a batch, or with half of it where that has no room, and so on."""
    while True:
        try:
            return measure(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        batch //= 2
        tidy()


def tidy() -> None:
    """Give back what a GPU still holds of what was measured before."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def rows_of(options: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows, one after the other."""
    wanted: list[tuple[str, Checkpointing]] = [
        *((name, "none") for name in options.backbones), *((name, "stage") for name in options.checkpointed)
    ]
    for backbone, checkpointing in wanted:
        for memory_format in FORMATS:
            def measure(batch: int, own: tuple[Any, ...] = (memory_format, device, checkpointing, options.hidden),
                        name: str = backbone) -> dict[str, Any]:
                return measured(Setting(name, options.px, batch, *own), options.rounds, options.steps)

            yield fitting(options.batch, measure)
            tidy()


def result(options: argparse.Namespace, device: torch.device, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The object that `--json` prints: of two memory formats the faster one counts."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row["backbone"] if row["checkpointing"] == "none" else f"{row['backbone']}_{row['checkpointing']}"
        if name not in best or row["images_per_s"] > best[name]["images_per_s"]:
            best[name] = row
    on_gpu = device.type == "cuda"
    names = ("efficiency", "update_share", "waits", "peak_memory_bytes", "images_per_s", "memory_format", "batch")
    told = torch.cuda.get_device_name(device) if on_gpu else f"{cpu_model()}, {cores()} cores"
    return {
        "name": "gpu_step", "ratios": {},
        "hardware": f"{told}; torch {torch.__version__}, CUDA {torch.version.cuda if on_gpu else 'none'}",
        "absolute": {
            **{key: {name: row[key] for name, row in best.items() if row[key] is not None} for key in names},
            "settings": {"px": options.px, "precision": "bfloat16", "rounds": options.rounds, "steps": options.steps},
            "rows": list(rows),
        },
        "absent": [] if on_gpu else ["waits and memory: this was the CPU"],
    }


def shown(row: dict[str, Any]) -> str:
    """A row for people."""
    efficiency = "-" if row["efficiency"] is None else f"{row['efficiency']:.2f}"
    memory = "-" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**30:.1f} GiB"
    again = "" if row["checkpointing"] == "none" else f", activations of each {row['checkpointing']} again"
    return (f"{row['backbone']:12} {row['memory_format']:13} batch {row['batch']:4}  efficiency {efficiency:>5}  "
            f"{row['images_per_s']:8.1f} images/s  {row['step_ms']:7.1f} ms  update {row['update_share']:6.2%}  "
            f"waits {'-' if row['waits'] is None else row['waits']}  peak {memory}{again}")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="*", default=["resnet50", "regnety_016", "regnety_032", "regnety_160"],
                        metavar="NAME", help="timm architectures (default: ResNet-50, RegNetY-016, 032 and 160)")
    parser.add_argument("--checkpointed", nargs="*", default=["regnety_320"], metavar="NAME",
                        help="with activations computed again by stage (default: RegNetY-320)")
    parser.add_argument("--px", type=int, default=224, help="side of a view (default: 224)")
    parser.add_argument("--batch", type=int, default=128, help="samples of a step, at most (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--steps", type=int, default=5, help="of each round (default: 5)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="a tiny network and pictures: does it run?")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    options.hidden = 4096
    if options.quick:
        options.backbones = options.checkpointed = ["test_resnet"]
        options.px, options.batch, options.rounds, options.steps, options.hidden = 32, 4, 1, 1, 64
    return options


def main() -> None:
    """Measure and print, a row as soon as it is known."""
    options = parsed()
    device = device_of(options.device)
    rows = []
    for row in rows_of(options, device):
        rows.append(row)
        if not options.json:
            print(shown(row), flush=True)
    found = result(options, device, rows)
    print(json.dumps(found) if options.json else found["hardware"])


if __name__ == "__main__":
    main()
