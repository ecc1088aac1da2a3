"""What a step of BYOL takes on the CPU: against other libraries, and against supervised learning of the same encoder.

    python benchmarks/byol_step.py [--quick] [--json] [--threads N] [--rounds N]

Both views are ready float tensors, so this is the step alone: online and target forward, loss, backward, optimiser,
moving average. All take turns in one process, and a ratio is the median over rounds of their time divided by ours:
above 1 we are faster. `ratios` are by the clock; `absolute.processor_ratios` are by processor time, which a neighbour
on the machine disturbs less, and which with one thread is that of the clock on an idle machine.

The same for all: ResNet-18 from the same weights, 64 px, batch 64, heads of 4096 hidden and 256 output units with batch
norm, batch statistics of each view on its own (each view is forwarded on its own), LARS with momentum 0.9, decay 1e-6
on what is neither bias nor norm, a constant learning rate of 0.45 * 64 / 256, two threads or `--threads`. Precision and
memory format are those that `pretrain` would choose here (`measure.choose`), but for the first. `pretrain` lets the
process keep freed memory (`keep_freed_memory`), which helps whoever runs in it: here all of them.

- `lightly_as_published`: float32, contiguous, torchvision's ResNet. `training_step` of lightly's own BYOL benchmark
  (benchmarks/imagenet/resnet50/byol.py), line by line: momentum by `cosine_schedule`, `update_momentum` of backbone
  and projector before the forward passes, `BYOLProjectionHead` and `BYOLPredictionHead`, `NegativeCosineSimilarity`
  times 2, its `LARS` over `get_weight_decay_parameters`. Left out, as they are no part of ours: its trainer, its
  logging, its online classifier.
- `lightly_same_precision`: the same in the chosen precision and memory format.
- `stable_pretraining`: `BYOL` with `forward` and `BYOLLoss`, its `LARS` with `exclude_bias_n_norm`, and the update of
  both `TeacherStudentWrapper`s as its callback makes it, on timm's ResNet. Left out: its trainer.
- `solo_learn`: cannot be measured, `absent` says why.

BYOL efficiency, `absolute.efficiency`: source images a second times 8/3, over the images a second that the bare encoder
trains at. Two views forward and backward through the online network and forward through the target are 8/3 of one
forward and backward, so 1 means that heads, loss, optimiser and moving average cost nothing. The baseline is forward,
mean square of the features, backward, of the same encoder in the same precision and memory format at the same batch,
without classifier and optimiser; ours has all of its parts. 224 px, 16 images a step: more would take gigabytes of
activations.

`absolute.matmul_gflops` says what bfloat16 is worth here: where it is not above float32, `choose` keeps float32, and
"as published" and "same precision" differ in the memory format alone.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.machine import keep_freed_memory
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.train.measure import choose
from sciencessl.train.plan import memory_layout
from sciencessl.train.step import Network, Recipe, Wrapped, train_step

STEPS = 10**6
"""Length of the run that schedules think they are in: the momentum stays at its start."""
HIDDEN, OUT, DECAY, MOMENTUM, TAU = 4096, 256, 1e-6, 0.9, 0.99
SOLO_LEARN = "solo_learn: solo-learn 1.0.2, the newest on the package index, requires torch==1.9.1"
CPU = torch.device("cpu")

Step = Callable[[int], object]


@dataclass(frozen=True)
class Setting:
    """What is compared, and how it is computed."""

    backbone: str
    px: int
    batch: int
    precision: str = "float32"
    memory_format: str = "contiguous"
    hidden: int = HIDDEN

    @property
    def rate(self) -> float:
        """Learning rate."""
        return 0.45 * self.batch / 256

    @property
    def layout(self) -> torch.memory_format:
        """Torch's name of the memory format."""
        return memory_layout(self.memory_format)

    def autocast(self) -> torch.autocast:
        """Where forward passes run."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bfloat16")

    def encoder(self) -> nn.Module:
        """Ours."""
        return build_backbone(self.backbone, 3, 0)

    def views(self) -> list[Tensor]:
        """Two views of noise, laid out as the weights are."""
        noise = torch.Generator().manual_seed(1)
        shape = (self.batch, 3, self.px, self.px)
        return [torch.randn(shape, generator=noise).contiguous(memory_format=self.layout) for _ in range(2)]


def chosen(setting: Setting) -> Setting:
    """The same in the precision and memory format that `pretrain` would take."""
    found = choose(setting.encoder(), (setting.batch, 3, setting.px, setting.px), "auto", "auto", CPU)
    return Setting(setting.backbone, setting.px, setting.batch, found.precision, found.memory_format, setting.hidden)


def ours(setting: Setting) -> Step:
    """`train_step` of the trainer."""
    method = Byol(setting.encoder(), ByolOptions(setting.hidden, OUT, TAU), torch.Generator().manual_seed(0))
    method.to(memory_format=setting.layout)  # type: ignore[call-overload]
    optimizer = LARS(parameter_groups(method, DECAY), lr=setting.rate, momentum=MOMENTUM)
    recipe = Recipe(
        STEPS, setting.batch, 1, lambda step: setting.rate, lambda pixels: pixels, "image",
        autocast=torch.bfloat16 if setting.precision == "bfloat16" else None,
    )
    network = Wrapped(Network(method, [], recipe))
    batch = Batch([{"image": view} for view in setting.views()], {}, [""] * setting.batch, torch.arange(setting.batch))
    return lambda step: train_step(network, optimizer, [batch], step)


def supervised(setting: Setting) -> Step:
    """Forward and backward of the encoder on one view."""
    encoder, view = setting.encoder().to(memory_format=setting.layout), setting.views()[0]  # type: ignore[call-overload]

    def step(number: int) -> None:
        encoder.zero_grad()
        with setting.autocast():
            features = encoder(view)
        features.float().square().mean().backward()

    return step


def lightly_same_precision(setting: Setting) -> Step:
    """lightly's own benchmark of BYOL, see above."""
    import torchvision
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models import modules
    from lightly.models.utils import get_weight_decay_parameters, update_momentum
    from lightly.utils.lars import LARS as TheirLARS
    from lightly.utils.scheduler import cosine_schedule

    backbone = getattr(torchvision.models, setting.backbone)()
    backbone.fc = nn.Identity()
    backbone.load_state_dict(setting.encoder().state_dict())
    width = build_backbone(setting.backbone, 3, 0).num_features
    online = nn.ModuleList([backbone, modules.BYOLProjectionHead(width, setting.hidden, OUT),
                            modules.BYOLPredictionHead(OUT, setting.hidden, OUT)])
    target = nn.ModuleList([copy.deepcopy(backbone), modules.BYOLProjectionHead(width, setting.hidden, OUT)])
    for module in (online, target):
        module.to(memory_format=setting.layout)
    decayed, rest = get_weight_decay_parameters(list(online))
    optimizer = TheirLARS([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=setting.rate,
                          momentum=MOMENTUM, weight_decay=DECAY)
    criterion, views = NegativeCosineSimilarity(), setting.views()

    @torch.no_grad()
    def forward_teacher(x: Tensor) -> Tensor:
        return target[1](target[0](x).flatten(start_dim=1))

    def forward_student(x: Tensor) -> Tensor:
        return online[2](online[1](online[0](x).flatten(start_dim=1)))

    def step(number: int) -> None:
        momentum = cosine_schedule(step=number, max_steps=STEPS, start_value=TAU, end_value=1.0)
        update_momentum(online[0], target[0], m=momentum)
        update_momentum(online[1], target[1], m=momentum)
        with setting.autocast():
            targets = [forward_teacher(view) for view in views]
            predictions = [forward_student(view) for view in views]
            loss = 2 * criterion(targets[0], predictions[1]) + 2 * criterion(targets[1], predictions[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def lightly_as_published(setting: Setting) -> Step:
    """The same in float32, contiguous."""
    return lightly_same_precision(Setting(setting.backbone, setting.px, setting.batch, hidden=setting.hidden))


def stable_pretraining(setting: Setting) -> Step:
    """Its method, loss, optimiser and callback, see above."""
    from stable_pretraining.methods.byol import BYOL
    from stable_pretraining.optim.lars import LARS as TheirLARS

    encoder = timm.create_model(setting.backbone, num_classes=0)
    encoder.load_state_dict(setting.encoder().state_dict())
    dims = (setting.hidden, OUT)
    method = BYOL(encoder, dims, dims, ema_decay_start=TAU).to(memory_format=setting.layout)
    method.train()
    optimizer = TheirLARS([p for p in method.parameters() if p.requires_grad], lr=setting.rate, momentum=MOMENTUM,
                          weight_decay=DECAY, exclude_bias_n_norm=True)
    views = setting.views()

    def step(number: int) -> None:
        with setting.autocast():
            loss = method(*views).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for wrapper in (method.backbone, method.projector):
            wrapper.update_ema_coefficient(number, STEPS)
            wrapper.update_teacher()

    return step


PEERS: tuple[Callable[[Setting], Step], ...] = (lightly_as_published, lightly_same_precision, stable_pretraining)
EFFICIENCY = ("resnet18", "resnet50", "regnety_002", "regnety_016")


def installed(setting: Setting) -> tuple[dict[str, Step], list[str]]:
    """Ours and the peers that are here, and why the others are not."""
    steps, absent = {"ours": ours(setting)}, [SOLO_LEARN]
    for make in PEERS:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what they tell on being loaded
                steps[make.__name__] = make(setting)
        except ImportError as error:
            absent.append(f"{make.__name__}: {error}")
    return steps, absent


def seconds(steps: dict[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """For each, (rounds, 2): seconds by the clock and of processor time. They take turns; the first round warms up."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            clock, processor = time.perf_counter(), time.process_time()
            step(number)
            spent[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: np.array(values[1:]) for name, values in spent.items()}


def compared(spent: dict[str, np.ndarray], to: str) -> dict[str, list[float]]:
    """Median over rounds of the time of each over that of `to`: by the clock and by processor time."""
    return {name: np.median(times / spent[to], axis=0).tolist() for name, times in spent.items() if name != to}


def efficiency(setting: Setting, rounds: int) -> dict[str, Any]:
    """BYOL efficiency of an encoder, and what it comes from."""
    setting = chosen(setting)
    spent = seconds({"byol": ours(setting), "supervised": supervised(setting)}, rounds)
    by_clock, by_processor = compared(spent, "byol")["supervised"]
    rates = {name: setting.batch / float(np.median(times[:, 0])) for name, times in spent.items()}
    return {"efficiency": 8 / 3 * by_clock, "processor": 8 / 3 * by_processor, "images_per_s": rates,
            "precision": setting.precision, "memory_format": setting.memory_format, "batch": setting.batch}


def matmul_gflops(size: int = 1024) -> dict[str, float]:
    """Speed of square matrix products, by precision."""
    def best(dtype: torch.dtype) -> float:
        a = torch.randn(size, size).to(dtype)
        spent = seconds({"mm": lambda number: a @ a}, 5)["mm"]
        return 2 * size**3 / float(spent[:, 0].min()) / 1e9

    return {"float32": best(torch.float32), "bfloat16": best(torch.bfloat16)}


def measure(setting: Setting, rounds: int, efficiencies: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All numbers."""
    setting = chosen(setting)
    steps, absent = installed(setting)
    spent = seconds(steps, rounds)
    ratios = compared(spent, "ours")
    return {
        "name": "byol_step",
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores, "
                    f"load {os.getloadavg()[0]:.1f}, torch {version('torch')}",
        "ratios": {name: by_clock for name, (by_clock, _) in ratios.items()},
        "absolute": {
            "efficiency": {name: found["efficiency"] for name, found in efficiencies.items()},
            "processor_ratios": {name: by_processor for name, (_, by_processor) in ratios.items()},
            "processor_efficiency": {name: found["processor"] for name, found in efficiencies.items()},
            "step_ms": {name: 1e3 * float(np.median(times[:, 0])) for name, times in spent.items()},
            "setting": {"backbone": setting.backbone, "px": setting.px, "batch": setting.batch, "rounds": rounds,
                        "precision": setting.precision, "memory_format": setting.memory_format},
            "efficiency_settings": efficiencies,
            "matmul_gflops": matmul_gflops(),
        },
        "absent": absent,
    }


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    absolute = found["absolute"]
    setting = absolute["setting"]
    print(f"{setting['backbone']}, {setting['px']} px, batch {setting['batch']}, {setting['precision']}, "
          f"{setting['memory_format']}; {found['hardware']}")
    rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in absolute["matmul_gflops"].items())
    print("matrix products:", rates)
    for name, time_ms in absolute["step_ms"].items():
        against = (f"  ours is {found['ratios'][name]:.2f} times faster ({absolute['processor_ratios'][name]:.2f} in "
                   "processor time)" if name != "ours" else "")
        print(f"  {name:24} {time_ms:8.0f} ms a step{against}")
    for name, row in absolute["efficiency_settings"].items():
        rates = row["images_per_s"]
        print(f"  {name:12} efficiency {row['efficiency']:.2f} ({row['processor']:.2f} in processor time): "
              f"{rates['byol']:.2f} source images/s, {rates['supervised']:.2f} supervised, {row['precision']}, "
              f"{row['memory_format']}, batch {row['batch']}")
    print("absent:", "; ".join(found["absent"]) or "none")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds, efficiency of two encoders at 112 px")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads (default: 2)")
    parser.add_argument("--rounds", type=int, default=11, help="rounds; efficiency takes half as many")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    names, px, batch, rounds = EFFICIENCY, 224, 16, max(1, options.rounds // 2)
    if options.quick:
        names, px, batch, rounds = ("resnet18", "regnety_002"), 112, 8, 3
    efficiencies = {name: efficiency(Setting(name, px, batch), rounds) for name in names}
    found = measure(Setting("resnet18", 64, 64), 3 if options.quick else options.rounds, efficiencies)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
