"""The curves of a few-label plot: arms, and what each draws from. Runs that differ in seed only are one method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciencessl.errors import ConfigError, SciencesslError, unknown_name
from sciencessl.evaluate.encoders import VARIANTS, Encoder, random_encoder, scratch_encoder
from sciencessl.evaluate.finetune import Training
from sciencessl.evaluate.results import NEVER_LEARNED
from sciencessl.evaluate.stages import check_stages
from sciencessl.layers import read_yaml
from sciencessl.spec import TransferTask
from sciencessl.train.folder import CONFIG

ARMS = ("frozen", "knn", "max", "abmil", "linear", "finetune", "scratch", "random")
TRAINED = ("linear", "finetune", "scratch")
"""Arms that train a network: a fit takes minutes, so they have fewer subsets."""

SAVED = ("frozen", "max", "abmil", "linear", "finetune", "scratch")
"""Arms whose model at the largest budget is kept."""

ANY_KIND = ("frozen", "random")
"""Arms for every kind of task."""

OF_KIND = {
    "class": ("frozen", "knn", *TRAINED, "random"), "bag": ("frozen", "max", "abmil", "random"),
    "dense": ("frozen", "finetune", "scratch", "random"),
}
"""Kind -> its arms; other kinds have `ANY_KIND`."""

OWN = {"seed", "steps", "data", "compute", "log"}
"""Settings in which the runs of one method may differ: machine, place, and what they are averaged over."""

STEPS_APART = 1.25
"""Most steps over fewest of one method: runs whose length was given in minutes take what the machine gives (ours)."""


@dataclass(frozen=True)
class Curve:
    """One line of the plot: an arm of one run or method, an architecture from scratch, or random encoders averaged.

    Attributes:
        name: Run, method, or group of encoders that never learned.
        arm: One of `ARMS`.
        variants: Name -> encoders; a run or method has one variant, itself, and random encoders those to choose from.
        baseline: Name of the random curve it is compared with; empty without one.
        scratch: Name of the curve from scratch of its architecture; empty without one.
    """

    name: str
    arm: str
    variants: Mapping[str, tuple[Encoder, ...]]
    baseline: str = ""
    scratch: str = ""

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """Encoders that are averaged, of the first variant."""
        return next(iter(self.variants.values()))


@dataclass(frozen=True)
class Method:
    """Runs that differ in their pretraining seed only, in the order of their seeds; most often one run.

    Attributes:
        name: Of the run, or what the names of several have in common.
        runs: Their encoders.
    """

    name: str
    runs: tuple[Encoder, ...]


def group_runs(encoders: Sequence[Encoder]) -> tuple[Method, ...]:
    """The methods among runs, in the order in which they first occur.

    Runs are one method when their resolved settings agree but for `OWN`, their training data are the same, their seeds
    differ, and none took more than `STEPS_APART` times the steps of another.
    """
    groups: dict[Any, list[Encoder]] = {}
    for number, encoder in enumerate(encoders):
        settings = _settings(encoder)
        data = tuple(store.digest for store in encoder.card.stores)
        key = number if settings is None else (repr(settings), data, encoder.card.features)
        groups.setdefault(key, []).append(encoder)
    methods = []
    for group in groups.values():
        seeds, steps = {e.card.seed for e in group}, [e.card.steps for e in group]
        alike = len(seeds) == len(group) and max(steps) <= STEPS_APART * max(min(steps), 1)
        parts = [sorted(group, key=lambda e: e.card.seed)] if alike else [[encoder] for encoder in group]
        methods += [tuple(part) for part in parts]
    names = [_common_name([encoder.name for encoder in runs]) for runs in methods]
    return tuple(Method(name if names.count(name) == 1 else runs[0].name, runs)
                 for name, runs in zip(names, methods, strict=True))


def _settings(encoder: Encoder) -> dict[str, Any] | None:
    """Resolved settings of a run without those that may differ within a method; None for anything but a run."""
    path = Path(encoder.source) / CONFIG
    if not encoder.source or not path.is_file():
        return None
    try:
        return {name: value for name, value in read_yaml(path).items() if name not in OWN}
    except SciencesslError:
        return None


def _common_name(names: Sequence[str]) -> str:
    """`byol` for byol-1, byol-2 and byol-seed3; the first name where they have nothing in common."""
    if len(names) == 1:
        return names[0]
    stems = {re.sub(r"(?:(?:^|[-_. ]+)(?:seed|s))?[-_. ]*\d+$", "", name) for name in names}
    return stems.pop() if len(stems) == 1 and "" not in stems else names[0]


def trains(kind: str, arm: str) -> bool:
    """Whether a fit of an arm trains a network: of segmentation all do, a head at least."""
    return arm in TRAINED or kind == "dense"


def default_arms(task: TransferTask) -> tuple[str, ...]:
    """Arms where none are asked for: those that take seconds a fit."""
    return {"class": ("frozen", "knn", "random"), "bag": ("frozen", "abmil", "random")}.get(task.kind, ANY_KIND)


def check_arms(encoders: Sequence[Encoder], task: TransferTask, arms: Sequence[str], training: Training) -> None:
    """Refuse arms that do not exist, that a kind of task does not have, or that no run can take part in.

    Raises:
        ConfigError: Saying which, and what to do.
    """
    own = OF_KIND.get(task.kind, ANY_KIND)
    for arm in arms:
        if arm == "mean" and task.kind == "bag":
            raise ConfigError(f"arm 'mean': pooling by the mean is what --arms frozen does for bags; choose among "
                              f"{' '.join(own)}.")
        if arm not in ARMS:
            raise ConfigError(unknown_name("arm", arm, ARMS))
        if arm not in own:
            kinds = " and ".join(repr(kind) for kind, known in OF_KIND.items() if arm in known)
            raise ConfigError(f"task {task.name!r} is of kind {task.kind!r}; arm {arm!r} is for kind {kinds}. Choose "
                              f"among --arms {' '.join(own)}.")
    without = [encoder.name for encoder in encoders if not encoder.has_weights]
    lacking = [arm for arm in arms or default_arms(task)
               if (trains(task.kind, arm) or (arm == "random" and arms)) and len(without) == len(encoders)]
    if lacking:
        rest = " ".join(arm for arm in own if not trains(task.kind, arm) and arm != "random")
        raise ConfigError(
            f"{', '.join(without)}: features without an encoder have no weights to train and no architecture, which "
            f"arm {lacking[0]!r} needs; {f'choose --arms {rest}, or ' if rest else ''}give a run beside them."
        )
    if "finetune" in arms:
        for encoder in encoders:
            if encoder.has_weights:
                check_stages(encoder.module, training.stages)


def make_curves(
    methods: Sequence[Method], arms: Sequence[str], count: int, task_kind: str = "class"
) -> tuple[Curve, ...]:
    """Methods arm by arm, then what never learned: from scratch and random, for each architecture and input among them.

    Args:
        methods: From `group_runs`. Those without weights are left out of arms that train a network.
        arms: Some of `ARMS`.
        count: Random encoders of each architecture.
        task_kind: Of the task.
    """
    runs = [method.runs[0] for method in methods]
    kinds = {_kind(run): run for run in reversed(runs) if run.has_weights}
    endings = {kind: _ending(run, list(kinds.values())) for kind, run in kinds.items()}
    randoms = {kind: f"random{ending}" for kind, ending in endings.items()} if "random" in arms else {}
    scratches = {kind: f"scratch{ending}" for kind, ending in endings.items()} if "scratch" in arms else {}
    curves = [
        Curve(method.name, arm, {"": method.runs}, randoms.get(_kind(run), ""), scratches.get(_kind(run), ""))
        for arm in ARMS if arm in arms and arm not in NEVER_LEARNED
        for method, run in zip(methods, runs, strict=True) if run.has_weights or not trains(task_kind, arm)
    ]
    for like, name in reversed(scratches.items()):
        curves.append(Curve(name, "scratch", {"": (scratch_encoder(kinds[like].card, name),)}, randoms.get(like, "")))
    for like, name in reversed(randoms.items()):
        variants = {v: tuple(random_encoder(kinds[like].card, i, v) for i in range(count)) for v in VARIANTS}
        curves.append(Curve(name, "random", variants))
    return tuple(curves)


def _kind(run: Encoder) -> tuple[str, str, str]:
    return run.card.backbone, run.card.norm, run.input


def _ending(run: Encoder, kinds: Sequence[Encoder]) -> str:
    """What tells apart curves that never learned, as in `random`: ` ARCHITECTURE` or ` like RUN` where there are
    several architectures or inputs."""
    if len(kinds) == 1:
        return ""
    alone = [other.card.backbone for other in kinds].count(run.card.backbone) == 1
    return f" {run.card.backbone}" if alone else f" like {run.name}"
