"""What a step of each method takes on the CPU: against BYOL on the same encoder, and against lightly's version of it.

    python benchmarks/methods.py [--methods NAME...] [--backbone NAME | --heads] [--quick] [--json] [--threads N]
                                 [--rounds N]

Views are ready float tensors, so this is the step alone, as in `byol_step.py`: forward passes, loss, backward,
optimiser, what follows it. For each method BYOL, the method and lightly's take turns in one process. Every ratio is the
median over rounds of their processor time over ours, which a neighbour on the machine disturbs less than the clock:
above 1 we are faster. One thread or `--threads`.

Ours has the options of the method's preset, which are what `pretrain --method NAME` takes, LARS (AdamW where the
encoder is a ViT), and is in the midst of a run: warm-ups are over and queues are full. A batch is of 64 samples with
the views that the method needs: two of 64 px; one (MAE, CNN-JEPA, labels alone) or three (TriBYOL); for UniVIP eight
instances of 32 px beside its two scenes. `labels_only` learns ten classes by a linear head. ResNet-18 from one seed, or
`--backbone`; MAE, and BYOL beside it, a ViT-Tiny at 96 px. Precision and memory format are those that `pretrain` would
choose here for the encoder, for all alike.

With `--heads` the encoder is next to nothing (`Pooled`, 512 features): what is left is heads, loss, optimiser and
moving average, and a difference of a millisecond shows that a step of a second hides.

`absolute.methods` has, for each: images a second (source images, of processor time), `over_byol` (images a second over
those of BYOL), `cost` (what the method says of itself: operations over BYOL's with a large encoder and no heads), bytes
of the fullest moment and `memory_over_byol`, both as `pretrain --dry-run` counts them (`train.memory`). Memory of
others is not compared: they have no such count, and what the allocator hands out depends on what ran before.

`ratios` compares with lightly (`lightly_steps.py` says what its steps are and what is left out):

- `METHOD/lightly`: as its own benchmark has it, on torchvision's network where that has the architecture, else timm's.
- `METHOD/lightly_our_encoder`: the same on the encoder that we train, whose convolutions of small maps are our own:
  what is left is heads, loss, optimiser, moving average, queue.

The same for both: weights of the encoder, widths and depths of heads, batch, views, precision, memory format, what the
loss is of. They differ as the libraries do. Optimiser: each its own LARS; for MoCo v2, DINO and SimSiam lightly has
torch's SGD, which does less than our LARS; for MAE both have torch's AdamW, ours fused. lightly forwards both views of
SimCLR, Barlow Twins and VICReg at once, so that they share batch statistics, where ours does so for DINO and SwAV. MoCo
v2 is compared in one direction, as lightly has it; its key encoder has batch statistics of a shuffled batch, ours runs
in evaluation mode. MAE is compared on pixels as they are. Ours also finds the mean cosine that label terms are scaled
by, what it logs, and sets torch's generators for each step.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import lightly_steps
import numpy as np
import timm
import torch
from byol_step import CPU, Setting, Step, compared, seconds
from torch import Tensor, nn

from sciencessl import registry
from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError
from sciencessl.layers import read_yaml, shipped
from sciencessl.losses.labels import ClassLoss
from sciencessl.machine import keep_freed_memory
from sciencessl.methods.base import Method
from sciencessl.samples import Batch
from sciencessl.setting_groups import OptimConfig
from sciencessl.train.measure import choose
from sciencessl.train.memory import batch_like, no_storage, trace_step, without_storage
from sciencessl.train.plan import build_optimizer
from sciencessl.train.step import LabelTerm, Network, Recipe, Wrapped, train_step

STEPS = 10**6
BEGIN = STEPS // 2
"""Step of such a run that the first one is."""
CLASSES = 10
POOLED = "pooled"
"""Name of the encoder of `--heads`."""
VITS = {"mae": ("vit_tiny_patch16_224", 96)}
"""Encoder and pixels of methods that need another kind of encoder."""
PAIRED = {"moco_v2": {"symmetric": False}, "mae": {"normalised": False}}
"""What is set otherwise than in our preset where lightly's version is compared."""


class Pooled(nn.Module):
    """(B, 3, H, W) -> (B, 512): means of 4 x 4 fields through a linear layer and batch norm."""

    num_features, norm_kind = 512, "batch"

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.layers = nn.Sequential(
                nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, self.num_features),
                nn.BatchNorm1d(self.num_features),
            )

    def forward(self, images: Tensor) -> Tensor:
        """As the class says."""
        features: Tensor = self.layers(images)
        return features


@dataclass(frozen=True)
class Case(Setting):
    """A method, and how it is computed.

    Attributes:
        method: Name.
        changes: Options that differ from the preset's.
    """

    method: str = "byol"
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> type[Method]:
        """Class of the method."""
        return registry.load_method(self.method)

    @property
    def options(self) -> Any:
        """Those of the preset, and the changes."""
        preset = read_yaml(shipped("method")[self.method]).get("options", {})
        return self.kind.Options(**{**preset, **dict(self.changes)})

    @property
    def optimizer(self) -> str:
        """Its name."""
        return "adamw" if "vit" in self.backbone else "lars"

    def encoder(self) -> nn.Module:
        """Ours, for the size of the views."""
        if self.backbone == POOLED:
            return Pooled()
        drop_path = getattr(self.options, "drop_path", 0.0)
        return build_backbone(self.backbone, 3, 0, size=self.px, drop_path=drop_path)

    def views(self) -> list[Tensor]:
        """Views of noise, laid out as the weights are."""
        noise, instances = torch.Generator().manual_seed(1), getattr(self.options, "instances", 0)
        sides = [self.px] * 2 + [self.px // 2] * 2 * instances if instances else [self.px] * self.kind.n_views
        shapes = [(self.batch, 3, side, side) for side in sides]
        return [torch.randn(shape, generator=noise).contiguous(memory_format=self.layout) for shape in shapes]

    def samples(self) -> Batch:
        """The views as a batch, with classes."""
        labels = {"class": torch.arange(self.batch) % CLASSES}
        return Batch([{"image": view} for view in self.views()], labels, [""] * self.batch, np.arange(self.batch))


def make_method(case: Case) -> Method:
    """What is trained, laid out, with its queue filled."""
    method = case.kind(case.encoder(), case.options, torch.Generator().manual_seed(0))
    method.check_views([view.shape[1:] for view in case.views()])
    method.to(memory_format=case.layout)  # type: ignore[call-overload]
    if case.method == "swav":
        method.set_extra_state(torch.tensor([BEGIN, case.options.queue]))
    return method


def label_terms(case: Case, method: Method) -> list[LabelTerm]:
    """Of the method that learns from labels alone."""
    if case.method != "labels_only":
        return []
    return [LabelTerm("class", ClassLoss(CLASSES), method.features, torch.Generator().manual_seed(0))]


def lay_out(case: Case, method: Method, terms: Sequence[LabelTerm]) -> tuple[Network, torch.optim.Optimizer]:
    """Network and optimiser, as `pretrain` makes them."""
    low = torch.bfloat16 if case.precision == "bfloat16" else None
    recipe = Recipe(
        STEPS, case.batch, 1, lambda step: case.rate,
        lambda pixels: pixels.float().contiguous(memory_format=case.layout), "image", autocast=low,
    )
    network = Network(method, terms, recipe)
    settings = OptimConfig(name=case.optimizer)  # type: ignore[arg-type]
    return network, build_optimizer({"method": method, "terms": network.terms}, settings, case.batch)


def ours(case: Case) -> Step:
    """`train_step` of the trainer."""
    method = make_method(case)
    network, optimizer = lay_out(case, method, label_terms(case, method))
    wrapped, batch = Wrapped(network), case.samples()
    return lambda number: train_step(wrapped, optimizer, [batch], BEGIN + number)


def peak(case: Case) -> int:
    """Bytes of the fullest moment of a step, from stored pixels of 8 bits on, counted without taking it."""
    method, batch = make_method(case), dataclasses.replace(case, batch=1).samples()
    terms = label_terms(case, method)
    views = [{"image": view["image"].to(torch.uint8)} for view in batch.views]
    with no_storage():
        empty = [without_storage(module, CPU, case.layout) for module in (method, *terms)]
        network, optimizer = lay_out(case, empty[0], empty[1:])
        rows = batch_like(dataclasses.replace(batch, views=views), case.batch)
        step = partial(train_step, Wrapped(network), optimizer, [rows], BEGIN)
        return trace_step(network, optimizer, rows, step).fullest.peak


def their_encoder(case: Case) -> nn.Module:
    """torchvision's network with the weights of ours, or timm's where it has none of that name."""
    import torchvision

    if case.backbone == POOLED:
        return case.encoder()
    weights = case.encoder().state_dict()
    if hasattr(torchvision.models, case.backbone):
        network: nn.Module = getattr(torchvision.models, case.backbone)()
        network.fc = nn.Identity()
    else:
        sized = {"img_size": case.px} if "vit" in case.backbone else {}
        network = timm.create_model(case.backbone, num_classes=0, **sized)
    network.load_state_dict(weights)
    return network


def lightly(case: Case, encoder: nn.Module) -> Step:
    """lightly's step of the method."""
    encoder.to(memory_format=case.layout)  # type: ignore[call-overload]
    features = int(case.encoder().num_features)  # type: ignore[arg-type]
    task = lightly_steps.Task(encoder, features, case.options, case.views(), STEPS, case.rate, case.autocast)
    step = lightly_steps.STEPS[case.method](task)
    return lambda number: step(BEGIN + number)


def with_lightly(case: Case, steps: dict[str, Step]) -> None:
    """Add lightly's steps of a method, and ours as it is compared with them where that is not the preset's.

    Raises:
        ImportError: Without lightly.
    """
    if case.method not in lightly_steps.STEPS:
        return
    paired = dataclasses.replace(case, changes=tuple(PAIRED.get(case.method, {}).items()))
    with contextlib.redirect_stdout(sys.stderr):  # what it tells on being loaded
        steps["lightly"] = lightly(paired, their_encoder(case))
        if case.optimizer == "lars" and case.backbone != POOLED:
            steps["lightly_our_encoder"] = lightly(paired, case.encoder())
    if paired != case:
        steps["paired"] = ours(paired)


@dataclass
class Found:
    """What is measured.

    Attributes:
        methods: Name -> its numbers.
        ratios: Against lightly.
        absent: What could not be measured, and why.
        encoders: Name -> pixels, precision, memory format, optimiser.
    """

    methods: dict[str, dict[str, float]]
    ratios: dict[str, float]
    absent: list[str]
    encoders: dict[str, dict[str, Any]]


def measure_method(case: Case, byol: Step, byol_peak: int, rounds: int, found: Found) -> None:
    """Add the numbers of a method, beside those of BYOL on the same encoder."""
    try:
        steps = {"ours": ours(case), "byol": byol}
    except ConfigError as error:
        found.absent.append(f"{case.method}: {error}")
        return
    try:
        with_lightly(case, steps)
    except ImportError as error:
        found.absent.append(f"{case.method}/lightly: {error}")
    spent = seconds(steps, rounds)
    memory = peak(case)
    found.methods[case.method] = {
        "images_per_s": case.batch / float(np.median(spent["ours"][:, 1])),
        "over_byol": compared(spent, "ours")["byol"][1], "cost": case.kind.cost,
        "peak_bytes": memory, "memory_over_byol": memory / byol_peak,
    }
    against = compared(spent, "paired" if "paired" in steps else "ours")
    found.ratios |= {f"{case.method}/{name}": against[name][1] for name in steps if name.startswith("lightly")}


def measure(settings: Sequence[tuple[Case, Sequence[str]]], rounds: int) -> dict[str, Any]:
    """All numbers.

    Args:
        settings: BYOL on an encoder, and the methods that are compared with it.
        rounds: Of each method.
    """
    found = Found({}, {}, [], {})
    for given, names in settings:
        chosen = choose(given.encoder(), (given.batch, 3, given.px, given.px), "auto", "auto", CPU)
        base = dataclasses.replace(given, precision=chosen.precision, memory_format=chosen.memory_format)
        found.encoders[base.backbone] = {"px": base.px, "precision": base.precision, "optimizer": base.optimizer,
                                         "memory_format": base.memory_format}
        byol, byol_peak = ours(base), peak(base)
        for name in names:
            measure_method(dataclasses.replace(base, method=name), byol, byol_peak, rounds, found)
            told = {key: value for key, value in found.ratios.items() if key.startswith(f"{name}/")}
            print(name, found.methods.get(name), told, file=sys.stderr, flush=True)
    return {
        "name": "methods",
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores, "
                    f"load {os.getloadavg()[0]:.1f}, torch {version('torch')}",
        "ratios": found.ratios,
        "absolute": {"methods": found.methods, "encoders": found.encoders, "rounds": rounds,
                     "batch": settings[0][0].batch},
        "absent": found.absent,
    }


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    absolute, ratios = found["absolute"], found["ratios"]
    print(f"batch {absolute['batch']}, {absolute['rounds']} rounds; {found['hardware']}")
    for name, encoder in absolute["encoders"].items():
        print(f"{name}: {encoder['px']} px, {encoder['precision']}, {encoder['memory_format']}, {encoder['optimizer']}")
    print(f"{'':14}  {'':>8}  {'images/s':>8}  {'':>6}  {'':>6}  {'memory':>8}  lightly's time over ours")
    print(f"{'':14}  {'images/s':>8}  {'/ BYOL':>8}  {'1/cost':>6}  {'MiB':>6}  {'/ BYOL':>8}  its own, our encoder")
    for name, row in absolute["methods"].items():
        against = [ratios.get(f"{name}/{other}") for other in ("lightly", "lightly_our_encoder")]
        told = "  ".join("" if ratio is None else f"{ratio:.2f}" for ratio in against)
        print(f"{name:14}  {row['images_per_s']:8.1f}  {row['over_byol']:8.2f}  {1 / row['cost']:6.2f}  "
              f"{row['peak_bytes'] / 2**20:6.0f}  {row['memory_over_byol']:8.2f}  {told}")
    print("absent:", "; ".join(found["absent"]) or "none")


def settings_of(names: Sequence[str], backbone: str, px: int, batch: int) -> list[tuple[Case, Sequence[str]]]:
    """BYOL on each encoder, and what is compared with it there."""
    others = [name for name in names if name in VITS and backbone != POOLED]
    usual = [name for name in names if name not in others]
    settings: list[tuple[Case, Sequence[str]]] = [(Case(backbone, px, batch), usual)] if usual else []
    return settings + [(Case(*VITS[name], batch), [name]) for name in others]


def main() -> None:
    """Measure and print."""
    known = [entry.name for entry in registry.methods()]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=known, default=known, metavar="NAME", help="(default: all)")
    encoder = parser.add_mutually_exclusive_group()
    encoder.add_argument("--backbone", default="resnet18", help="(default: resnet18)")
    encoder.add_argument("--heads", action="store_const", dest="backbone", const=POOLED, help="next to no encoder")
    parser.add_argument("--quick", action="store_true", help="2 rounds, 16 samples")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rounds, batch = (2, 16) if options.quick else (options.rounds, 64)
    found = measure(settings_of(options.methods, options.backbone, 64, batch), rounds)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
