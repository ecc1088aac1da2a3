"""What more processes bring where each keeps its batch: images a second of each, and what keeps them from more.

    python benchmarks/weak_scaling.py [--processes 1 2 4] [--quick] [--json]       on this machine
    torchrun --nnodes 4 --nproc-per-node 8 ... benchmarks/weak_scaling.py          on a cluster, at that size
    srun --ntasks-per-node 8 python benchmarks/weak_scaling.py                     in a SLURM job, the same

The real step (views to input, both networks, losses, backward, optimiser, moving average) on random 8-bit pictures that
are made once: no store, no decoding, no loader. Three rates in one job, per process, the slowest deciding:

- `one`: the first process takes steps of its own while all others wait;
- `apart`: every process takes steps of its own, at once. What is lost against `one` is lost to the shared machine:
  memory, cores, heat;
- `together`: the steps that `pretrain` takes. What is lost against `apart` is communication that computation does not
  hide, and waiting for the slowest.

Efficiency is `together` over `one`.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.machine import cores, cpu_model
from sciencessl.registry import load_method
from sciencessl.samples import Batch
from sciencessl.setting_groups import ComputeConfig, OptimConfig
from sciencessl.spec import InputStats
from sciencessl.train.parallel import joined, wrap
from sciencessl.train.place import NOWHERE, find_place
from sciencessl.train.plan import build_optimizer, memory_layout
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.step import Network, Recipe, Wrapped, train_step
from sciencessl.views.to_input import standardise

FIELD = "image"
STATS = InputStats((0.5,) * 3, (0.25,) * 3, (255.0,) * 3)
BATCHES = 4
"""Different batches that steps take in turn."""

Step = Callable[[Batch, int], Any]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], metavar="N",
                        help="of this machine, one measurement each (default: 1 2 4); under torchrun or srun theirs")
    parser.add_argument("--method", default="byol")
    parser.add_argument("--backbone", default="regnety_016", help="timm architecture (default: regnety_016)")
    parser.add_argument("--px", type=int, default=224, help="side of a view (default: 224)")
    parser.add_argument("--batch", type=int, default=64, help="samples of each process (default: 64)")
    parser.add_argument("--strategy", default="ddp", choices=("ddp", "fsdp"))
    parser.add_argument("--checkpointing", default="none", choices=("none", "stage", "block"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--sync-bn-ranks", type=int, default=0, metavar="N", help="0: all (default)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each rate (default: 20)")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them (default: 5)")
    parser.add_argument("--together-only", action="store_true", help="for networks that one process cannot hold whole")
    parser.add_argument("--quick", action="store_true", help="a small network and pictures: does it run?")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    options.heads = {"hidden": 64, "out": 16} if options.quick else {}
    if options.quick:
        options.backbone, options.px, options.batch, options.steps, options.warm_up = "test_resnet", 32, 8, 2, 1
    return options


def pictures(options: argparse.Namespace, views: int, rank: int) -> list[Batch]:
    """Random batches of this process."""
    rng = np.random.default_rng(rank)
    shape = (options.batch, 3, options.px, options.px)
    ids, index = [str(i) for i in range(options.batch)], np.arange(options.batch)
    return [
        Batch([{FIELD: torch.from_numpy(rng.integers(0, 256, shape, np.uint8))} for _ in range(views)], {}, ids, index)
        for _ in range(BATCHES)
    ]


def make_step(options: argparse.Namespace, ranks: Ranks, device: torch.device) -> tuple[Step, int]:
    """A function that takes one training step with these ranks, and the views that its batches have."""
    kind = load_method(options.method)
    encoder, generator = build_backbone(options.backbone, 3, 0), torch.Generator().manual_seed(0)
    method = kind(encoder, kind.Options(**options.heads), generator)
    batch = options.batch * ranks.world
    method.at_batch(batch)
    layout = memory_layout("channels_last" if device.type == "cuda" else "contiguous")
    recipe = Recipe(
        total_steps=10_000, batch=batch, accumulate=1, learning_rate=lambda step: 1e-3,
        to_input=lambda x: standardise(x.contiguous(memory_format=layout), STATS), field=FIELD,
        autocast=torch.bfloat16 if options.precision == "bfloat16" else None,
    )
    compute = ComputeConfig(strategy=options.strategy, checkpointing=options.checkpointing, compile=options.compile,
                            sync_bn_ranks=options.sync_bn_ranks if ranks.world > 1 else 0)
    network = Network(method.to(memory_format=layout), [], recipe)
    wrapped: Wrapped = wrap(network, compute, ranks, device)
    optimizer = build_optimizer({"method": method}, OptimConfig(name="lars"), batch)
    return lambda batch, step: train_step(wrapped, optimizer, [batch], step), kind.n_views


def seconds_per_step(options: argparse.Namespace, ranks: Ranks, everyone: Ranks, device: torch.device) -> float:
    """Of the slowest process that takes part; all that wait are at the same place when it begins and ends."""
    step, views = make_step(options, ranks, device)
    batches = pictures(options, views, everyone.rank)

    def some(count: int) -> float:
        meet(everyone)
        began = time.perf_counter()
        for number in range(count):
            step(batches[number % BATCHES], number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    some(options.warm_up)
    return slowest(some(options.steps), everyone) / options.steps


def meet(ranks: Ranks) -> None:
    """Wait for all."""
    ranks.sum(torch.zeros(1))


def slowest(seconds: float, ranks: Ranks) -> float:
    """The largest number of all processes, on all of them."""
    found = torch.tensor(seconds)
    if ranks.world > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


def wait_for_first(options: argparse.Namespace, ranks: Ranks) -> float:
    """What the others do while the first process takes steps: meet it as often."""
    for _ in (options.warm_up, options.steps):
        meet(ranks)
    return slowest(0.0, ranks) / options.steps


def measure(options: argparse.Namespace, ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """Images a second of each process: `one`, `apart`, `together`, and what follows from them."""
    seconds: dict[str, float] = {}
    rated = functools.partial(seconds_per_step, options, everyone=ranks, device=device)
    if not options.together_only:
        seconds["one"] = rated(ALONE) if ranks.rank == 0 else wait_for_first(options, ranks)
        tidy(device)
        if ranks.world > 1:
            seconds["apart"] = rated(ALONE)
            tidy(device)
    if ranks.world > 1:
        seconds["together"] = rated(ranks)
    row: dict[str, Any] = {"processes": ranks.world, "machines": machines(ranks)}
    row |= {f"{name}_images_per_s": options.batch / value for name, value in seconds.items()}
    if "apart" in seconds:
        row |= {"efficiency": seconds["one"] / seconds["together"],
                "shared_machine": 1 - seconds["one"] / seconds["apart"],
                "communication": 1 - seconds["apart"] / seconds["together"]}
    return row


def tidy(device: torch.device) -> None:
    """Give back what the network before has taken."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def machines(ranks: Ranks) -> int:
    """How many the processes are on."""
    names: list[Any] = [platform.node()] * ranks.world
    if ranks.world > 1:
        dist.all_gather_object(names, platform.node())
    return len(set(names))


def measure_here(options: argparse.Namespace) -> dict[str, Any] | None:
    """One measurement by the processes of a launcher; what the first of them tells."""
    with joined(find_place().world, options.device, print) as place:
        assert place is not None
        ranks, device = place
        row = measure(options, ranks, device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_model()}, {cores()} cores"
    return {"hardware": name, "row": row} if ranks.rank == 0 else None


def started(options: argparse.Namespace, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Measurements of this machine, each by as many processes as asked for, started by torchrun."""
    threads = str(max(1, cores() // max(options.processes)))  # as many for each measurement, or they would not compare
    found = []
    for count in options.processes:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
                   __file__, *arguments, "--json"]
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
        if done.returncode:
            sys.exit(f"weak_scaling.py: {count} processes ended with code {done.returncode}; see above.")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def result(options: argparse.Namespace, hardware: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The object that `--json` prints."""
    names = ("method", "backbone", "px", "batch", "strategy", "checkpointing", "compile", "precision", "sync_bn_ranks")
    return {
        "name": "weak_scaling", "hardware": f"{hardware}; torch {torch.__version__}",
        "ratios": {f"efficiency_{row['processes']}": row["efficiency"] for row in rows if "efficiency" in row},
        "absolute": {"settings": {name: getattr(options, name) for name in names}, "rows": list(rows)}, "absent": [],
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    settings = found["absolute"]["settings"]
    lines = [found["hardware"], ", ".join(f"{name} {value}" for name, value in settings.items())]
    for row in found["absolute"]["rows"]:
        rates = [f"{name} {row[key]:.1f}" for name in ("one", "apart", "together")
                 if (key := f"{name}_images_per_s") in row]
        lost = [f"{name.replace('_', ' ')} {row[name]:.0%}"
                for name in ("efficiency", "shared_machine", "communication") if name in row]
        lines.append(f"{row['processes']:5} processes on {row['machines']}: images/s of each: {', '.join(rates)}"
                     f"{'; ' if lost else ''}{', '.join(lost)}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print; several processes of a launcher print once."""
    arguments = sys.argv[1:]
    options = parsed(arguments)
    if find_place() == NOWHERE:
        parts = started(options, arguments)
        found = result(options, parts[0]["hardware"].partition("; torch")[0],
                       [row for part in parts for row in part["absolute"]["rows"]])
    else:
        here = measure_here(options)
        if here is None:
            return
        found = result(options, here["hardware"], [here["row"]])
    print(json.dumps(found) if options.json else table(found), flush=True)


if __name__ == "__main__":
    main()
