"""What a transfer will do: the task's samples, the label subsets, and the curves to draw on them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciencessl.errors import ConfigError, unknown_name
from sciencessl.evaluate.encoders import VARIANTS, Encoder, check_input, random_encoder, scratch_encoder
from sciencessl.evaluate.finetune import Training, check_stages
from sciencessl.evaluate.fits import FitKey
from sciencessl.evaluate.foreign import find_encoder
from sciencessl.evaluate.subsets import Budget, Draw, Subset, draw_subsets, parse_budget
from sciencessl.evaluate.tasks import OBJECT, TaskData, find_task, load_task
from sciencessl.registry import load_domain
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.reader import Store

ARMS = ("frozen", "knn", "finetune", "scratch", "random")
DEFAULT_ARMS = ("frozen", "knn", "random")
TRAINED = ("finetune", "scratch")
"""Arms that train a network: a fit takes minutes, so they have fewer subsets."""

SAVED = ("frozen", "finetune", "scratch")
"""Arms whose model at the largest budget is kept."""

HEAD_OF = {"frozen": "logistic", "knn": "knn", "random": "logistic"}


@dataclass(frozen=True)
class Curve:
    """One line of the plot: an arm of one run, an architecture from scratch, or random encoders averaged.

    Attributes:
        name: Run, or group of encoders that never learned.
        arm: One of `ARMS`.
        variants: Name -> encoders; a run has one variant, itself, and random encoders those to choose from.
        baseline: Name of the random curve it is compared with; empty without one.
    """

    name: str
    arm: str
    variants: Mapping[str, tuple[Encoder, ...]]
    baseline: str = ""

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """Encoders that are averaged, of the first variant."""
        return next(iter(self.variants.values()))


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first fit.

    Attributes:
        store: Evaluated on.
        data: The task's samples.
        digest: Of all of the task that a fit depends on.
        budgets: In the order given.
        subsets: For each seed, budget -> positions in the pool.
        runs: The runs' encoders, in the order given.
        curves: In the order of the table.
        out: Folder for results.
        trained_subsets: Subset seeds of the arms in `TRAINED`: the first ones, so that they pair with the others.
        training: Of the arm `finetune`.
    """

    store: Store
    data: TaskData
    digest: str
    budgets: tuple[Budget, ...]
    subsets: tuple[dict[Budget, Subset], ...]
    runs: tuple[Encoder, ...]
    curves: tuple[Curve, ...]
    out: Path
    trained_subsets: int
    training: Training

    def seeds(self, budget: Budget, arm: str = "") -> range:
        """Subset seeds of a budget in an arm; all labels are one subset, whatever the seed."""
        if len(self.subsets[0][budget].index) == len(self.data.train):
            return range(1)
        return range(min(self.trained_subsets, len(self.subsets)) if arm in TRAINED else len(self.subsets))

    @property
    def largest_budget(self) -> Budget:
        """The budget with most labels in its first subset."""
        return max(self.budgets, key=lambda budget: len(self.subsets[0][budget].index))

    def largest(self) -> np.ndarray:
        """Pool positions of the budget with most labels, first subset."""
        return self.subsets[0][self.largest_budget].index

    def training_of(self, arm: str) -> Training:
        """How an arm in `TRAINED` trains."""
        return self.training.from_scratch if arm == "scratch" else self.training

    def samples(self) -> np.ndarray:
        """Store indices that some fit reads: labels drawn, and test."""
        drawn = [subset.index for seed, subsets in enumerate(self.subsets) for budget, subset in subsets.items()
                 if seed in self.seeds(budget)]
        return np.union1d(self.data.train[np.unique(np.concatenate(drawn))], self.data.test)

    def key(self, encoder: Encoder, arm: str, budget: Budget, seed: int) -> FitKey:
        """What the fit is cached under."""
        head = f"{arm}: {self.training_of(arm)}" if arm in TRAINED else HEAD_OF[arm]
        return FitKey(encoder.digest, head, self.digest, str(budget), seed)

    def model_folder(self, encoder: Encoder, arm: str, budget: Budget, seed: int) -> Path | None:
        """Where the model of a fit is kept: of the first subset of the largest budget; None for any other fit."""
        if arm not in SAVED or encoder.table is not None or budget != self.largest_budget or seed:
            return None
        name = encoder.name if arm == "scratch" else f"{arm}-{encoder.name}"
        return self.out / "models" / name.replace(" ", "-")


def make_plan(
    runs: Sequence[str | Path], data: str | Path, out: Path, task: str, labels: Sequence[str], arms: Sequence[str],
    subsets: int, random_encoders: int, draw: Draw, trained_subsets: int, training: Training,
) -> Plan:
    """Settle a transfer. Nothing is computed or written.

    Raises:
        ConfigError, DataError, RunError, StoreError: As `transfer` says.
    """
    _check_request(runs, arms, {"subsets": subsets, "random_encoders": random_encoders,
                                "finetune_subsets": trained_subsets})
    store = Store(data)
    chosen = find_task(load_domain(store.header.domain).tasks, task)
    if chosen.kind != "class":
        raise ConfigError(
            f"task {chosen.name!r} is of kind {chosen.kind!r}; few-label curves are drawn for kind 'class'."
        )
    found = load_task(store, chosen)
    budgets = _budgets(store, found, labels, draw)
    drawn = tuple(_draw(found, budgets, seed, draw) for seed in range(subsets))
    encoders = tuple(find_encoder(run, store) for run in runs)
    names = [encoder.name for encoder in encoders]
    if len(set(names)) < len(names):
        raise ConfigError(f"runs share folder names ({', '.join(names)}); give each run folder a name of its own.")
    for encoder in encoders:
        check_input(encoder, store)
    _check_arms(encoders, arms, training)
    curves = _curves(encoders, arms, random_encoders)
    plan = Plan(store, found, _digest(store, found, draw), budgets, drawn, encoders, curves, out, trained_subsets,
                training)
    needed = [store.ids[i] for i in plan.samples()] if any(encoder.table for encoder in encoders) else []
    for encoder in encoders:
        if encoder.table is not None:
            encoder.table.rows(needed)
    return plan


def _check_request(runs: Sequence[str | Path], arms: Sequence[str], counts: Mapping[str, int]) -> None:
    for arm in arms:
        if arm not in ARMS:
            raise ConfigError(unknown_name("arm", arm, ARMS))
    if min(counts.values()) < 1 or not runs or not arms:
        raise ConfigError(
            f"transfer needs a run and an arm, and 1 or more of each: {len(runs)} runs, {len(arms)} arms, "
            f"{', '.join(f'{name}={count}' for name, count in counts.items())}."
        )


def _check_arms(encoders: Sequence[Encoder], arms: Sequence[str], training: Training) -> None:
    """Refuse arms that need weights where there is a table of features only, and stages that a run does not have."""
    tables = [encoder.name for encoder in encoders if encoder.table is not None]
    lacking = [arm for arm in arms if (arm == "finetune" and tables)
               or (arm in ("scratch", "random") and len(tables) == len(encoders))]
    if lacking:
        raise ConfigError(
            f"{', '.join(tables)}: a table of features has no weights to train and no architecture, which arm "
            f"{lacking[0]!r} needs; with it choose --arms frozen knn, or transfer the encoder itself."
        )
    if "finetune" in arms:
        for encoder in encoders:
            check_stages(encoder.module, training.stages)


def _digest(store: Store, data: TaskData, draw: str) -> str:
    task = data.task
    parts = (store.digest, task.name, task.unit, draw, data.classes, data.digest, data.train_units.tolist())
    return digest(canonical_json(parts), data.train.tobytes(), data.test.tobytes(), data.test_labels.tobytes())


def _curves(runs: Sequence[Encoder], arms: Sequence[str], count: int) -> tuple[Curve, ...]:
    """Runs arm by arm, then what never learned: from scratch and random, for each architecture and input among them."""
    kinds = {(run.card.backbone, run.input): run for run in reversed(runs) if run.table is None}
    endings = {kind: _ending(run, list(kinds.values())) for kind, run in kinds.items()}
    randoms = {kind: f"random{ending}" for kind, ending in endings.items()} if "random" in arms else {}
    curves = [
        Curve(run.name, arm, {"": (run,)}, randoms.get((run.card.backbone, run.input), ""))
        for arm in ("frozen", "knn", "finetune") if arm in arms
        for run in runs
    ]
    for kind, ending in reversed(endings.items() if "scratch" in arms else ()):
        name = f"scratch{ending}"
        curves.append(Curve(name, "scratch", {"": (scratch_encoder(kinds[kind].card, name),)}, randoms.get(kind, "")))
    for kind, name in reversed(randoms.items()):
        variants = {v: tuple(random_encoder(kinds[kind].card, i, v) for i in range(count)) for v in VARIANTS}
        curves.append(Curve(name, "random", variants))
    return tuple(curves)


def _ending(run: Encoder, kinds: Sequence[Encoder]) -> str:
    """What tells apart curves that never learned, as in `random`: ` ARCHITECTURE` or ` like RUN` where there are
    several architectures or inputs."""
    if len(kinds) == 1:
        return ""
    alone = [other.card.backbone for other in kinds].count(run.card.backbone) == 1
    return f" {run.card.backbone}" if alone else f" like {run.name}"


def _budgets(store: Store, data: TaskData, labels: Sequence[str], draw: Draw) -> tuple[Budget, ...]:
    """The budgets asked for; of the task's own, those that the pool can fill."""
    budgets = tuple(dict.fromkeys(parse_budget(text) for text in labels or data.task.budgets))
    for budget in budgets:
        _check_unit(store, data, budget)
    lacks = {budget: reason for budget in budgets if (reason := _lacks(data, budget))}
    if labels and lacks:
        budget, reason = next(iter(lacks.items()))
        raise ConfigError(f"label budget '{budget}' of task {data.task.name!r}: {reason}. Ask for fewer, or for 'all'.")
    usable = tuple(budget for budget in budgets if budget not in lacks)
    return usable if usable and not lacks else tuple(dict.fromkeys((*usable, Budget("all"))))


def _lacks(data: TaskData, budget: Budget) -> str:
    """Why the pool cannot fill a budget; empty where it can."""
    pool, units = np.bincount(data.train_labels), len(set(data.train_units))
    if budget.kind == "total" and budget.amount > pool.sum():
        return f"split=train holds only {pool.sum()} labelled samples"
    if budget.kind == "per_class" and budget.amount > pool.max():
        return f"no class of split=train has so many; the largest holds {pool.max()}"
    if budget.kind == "units" and budget.amount > units:
        return f"split=train holds only {units} units ({data.task.unit})"
    return ""


def _check_unit(store: Store, data: TaskData, budget: Budget) -> None:
    if budget.kind != "units":
        return
    unit = data.task.unit
    known = {"unit", unit, *(("sample", "galaxy", "image") if unit == OBJECT else ())}
    if unit == "group":
        known |= _names_of_group(store)
    word = budget.unit.lower().strip()
    if word not in known | {f"{name}s" for name in known}:
        raise ConfigError(
            f"label budget '{budget}' counts {budget.unit}, but the unit of task {data.task.name!r} on {store.path} is "
            f"{unit!r}; write '{budget.amount:g} units'."
        )


def _names_of_group(store: Store) -> set[str]:
    """Row columns that hold the same values as `group`: the name it had in the catalogue is one of them."""
    group = store.column("group").tolist()
    rows = [name for name, where in store.columns().items() if where == "rows" and name not in ("id", "split")]
    return {name.lower() for name in rows if store.column(name).tolist() == group}


def _draw(data: TaskData, budgets: Sequence[Budget], seed: int, draw: Draw) -> dict[Budget, Subset]:
    try:
        return draw_subsets(data.train_labels, data.train_units, budgets, seed, data.digest, data.task.name, draw)
    except ConfigError as error:
        raise ConfigError(class_names(str(error), data.classes)) from None


def class_names(text: str, classes: Sequence[str]) -> str:
    """A note on class ids, with the classes' names."""
    text = re.sub(r"class id (\d+)", lambda found: f"class {classes[int(found[1])]!r}", text)
    return re.sub(
        r"class ids \[([\d, ]+)\]",
        lambda found: "classes " + ", ".join(repr(classes[int(number)]) for number in found[1].split(",")), text,
    )
