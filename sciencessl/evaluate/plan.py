"""What a transfer will do: the task's samples, the label subsets, and the curves to draw on them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sciencessl.errors import ConfigError
from sciencessl.evaluate.abmil import PROTOCOL as ABMIL
from sciencessl.evaluate.asked_budgets import asked_budgets, trained_budgets
from sciencessl.evaluate.bags import all_samples
from sciencessl.evaluate.curves import (
    SAVED,
    TRAINED,
    Curve,
    Method,
    check_arms,
    default_arms,
    group_runs,
    make_curves,
    trains,
)
from sciencessl.evaluate.dense import PROTOCOL as DENSE
from sciencessl.evaluate.dense_masks import read_masks
from sciencessl.evaluate.encoders import Encoder, check_input
from sciencessl.evaluate.finetune import Training
from sciencessl.evaluate.fits import FitKey
from sciencessl.evaluate.folds import fold_data, load_whole, pooled, site_folds
from sciencessl.evaluate.foreign import find_encoder
from sciencessl.evaluate.kinds import FROZEN_HEADS
from sciencessl.evaluate.store_tasks import find_store_task
from sciencessl.evaluate.subsets import Budget, Draw, Subset, draw_subsets
from sciencessl.evaluate.tasks import TaskData, load_task
from sciencessl.evaluate.tested_on import load_across, load_held_out
from sciencessl.spec import TransferTask
from sciencessl.store.audited import Standing, check_audit
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.reader import Store
from sciencessl.store.remote import is_remote


@dataclass(frozen=True)
class Part:
    """One pool with the test samples that its fits are scored on: all there is, but for cross-validation.

    Attributes:
        data: Its samples.
        digest: Of all of the task that a fit depends on.
        subsets: For each seed, budget -> positions in the pool.
        place: (m,) positions of its test samples among all test samples.
        repeat: Of the cross-validation.
    """

    data: TaskData
    digest: str
    subsets: tuple[dict[Budget, Subset], ...]
    place: np.ndarray
    repeat: int = 0


@dataclass(frozen=True)
class Item:
    """One fit.

    Attributes:
        arm: Its arm.
        encoder: Its encoder.
        part: Pool and test samples.
        budget: Of its labels.
        seed: Number of the label subset.
    """

    arm: str
    encoder: Encoder
    part: Part
    budget: Budget
    seed: int

    @property
    def rows(self) -> np.ndarray:
        """Positions in the pool of the labels that it may look at."""
        return self.part.subsets[self.seed][self.budget].index


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first fit.

    Attributes:
        store: That labels are drawn from.
        test_store: That test samples lie in; most often the same.
        data: The task's samples: the pool, and every test sample.
        parts: The whole, or the folds of a cross-validation, repeat by repeat.
        budgets: In the order given.
        runs: The runs' encoders, in the order given.
        methods: The same, those together that differ in their seed only.
        curves: In the order of the table.
        out: Folder for results.
        trained_budgets: Those of the arms in `TRAINED`, some of `budgets`.
        trained_subsets: Subset seeds of these arms: the first ones, so that they pair with the others.
        training: Of the arm `finetune`.
        tested: What it is tested on, in words, where that is not split=test.
        draw: How label subsets are drawn.
        standing: What is known of samples that pool and test share.
    """

    store: Store
    test_store: Store
    data: TaskData
    parts: tuple[Part, ...]
    budgets: tuple[Budget, ...]
    runs: tuple[Encoder, ...]
    methods: tuple[Method, ...]
    curves: tuple[Curve, ...]
    out: Path
    trained_budgets: tuple[Budget, ...]
    trained_subsets: int
    training: Training
    tested: str = ""
    draw: Draw = "stratified"
    standing: Standing = field(default_factory=Standing)

    @property
    def subsets(self) -> tuple[dict[Budget, Subset], ...]:
        """Those of the first part, which stand for the others in notes."""
        return self.parts[0].subsets

    def seeds(self, budget: Budget, arm: str = "") -> range:
        """Subset seeds of a budget in an arm; all labels are one subset, whatever the seed."""
        if all(len(part.subsets[0][budget].index) == len(part.data.train) for part in self.parts):
            return range(1)
        return range(min(self.trained_subsets, len(self.subsets)) if self.trains(arm) else len(self.subsets))

    def trains(self, arm: str) -> bool:
        """Whether a fit of an arm trains a network."""
        return trains(self.data.task.kind, arm)

    def budgets_of(self, arm: str) -> tuple[Budget, ...]:
        """Budgets of an arm, in the order given."""
        return self.trained_budgets if self.trains(arm) else self.budgets

    def largest_budget(self, arm: str = "") -> Budget:
        """The budget of an arm with most labels in its first subset."""
        return max(self.budgets_of(arm), key=lambda budget: len(self.subsets[0][budget].index))

    def largest(self) -> np.ndarray:
        """Pool positions of the budget with most labels, first subset, first part."""
        return self.subsets[0][self.largest_budget()].index

    def training_of(self, arm: str) -> Training:
        """How an arm that trains a network does."""
        if arm == "scratch":
            return self.training.from_scratch
        return self.training.head_only if arm in ("linear", "frozen", "random") else self.training

    def items(self, curve: Curve, encoders: Sequence[Encoder]) -> Iterator[Item]:
        """Every fit of a curve, encoder by encoder so that features are held one at a time."""
        for encoder in encoders:
            for budget in self.budgets_of(curve.arm):
                for part in self.parts:
                    for seed in self.seeds(budget, curve.arm):
                        yield Item(curve.arm, encoder, part, budget, seed)

    def samples(self) -> np.ndarray:
        """Indices into `store` that some fit reads: labels drawn, and test samples that lie there."""
        drawn = [part.data.train[subset.index] for part in self.parts for seed, subsets in enumerate(part.subsets)
                 for budget, subset in subsets.items() if seed in self.seeds(budget)]
        pool = np.sort(all_samples(self.data.train_bags, np.unique(np.concatenate(drawn))))
        return np.union1d(pool, self.data.test_samples) if self.test_store is self.store else pool

    def key(self, item: Item) -> FitKey:
        """What the fit is cached under."""
        arm = item.arm
        head = f"{arm}: {self.training_of(arm)}" if arm in TRAINED else arm
        if self.data.task.kind == "dense":
            head = f"{DENSE}: {self.training_of(arm)}"
        elif arm in ("frozen", "random"):
            head = FROZEN_HEADS[self.data.task.kind]
        if arm == "abmil":
            head = ABMIL
        return FitKey(item.encoder.digest, head, item.part.digest, str(item.budget), item.seed)

    def model_folder(self, item: Item) -> Path | None:
        """Where the model of a fit is kept: of the first subset of the largest budget; None for any other fit."""
        if item.arm not in SAVED or not item.encoder.has_weights or self.data.task.kind in ("retrieval", "dense"):
            return None
        if item.seed or item.budget != self.largest_budget(item.arm) or len(self.parts) > 1:
            return None
        scratch = item.encoder.name.replace(" ", "-")  # ours; a run is called what its folder is called
        return self.out / "models" / (scratch if item.arm == "scratch" else f"{item.arm}-{item.encoder.name}")


@dataclass(frozen=True)
class Request:
    """What `transfer` is asked for; the attributes are its arguments.

    Raises:
        ConfigError: For numbers that are out of range, or that exclude each other.
    """

    runs: tuple[str | Path, ...]
    data: str | Path
    out: Path
    task: str = ""
    labels: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    subsets: int = 10
    random_encoders: int = 5
    draw: Draw = "stratified"
    finetune_labels: tuple[str, ...] = ()
    finetune_subsets: int = 3
    training: Training = field(default_factory=Training)
    folds: int = 0
    repeats: int = 1
    test: str = ""
    accept_leak: bool = False
    folds_by: str = ""

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("subsets", "random_encoders", "finetune_subsets", "repeats")}
        if min(counts.values()) < 1 or not self.runs:
            raise ConfigError(
                f"transfer needs a run, and 1 or more of each: {len(self.runs)} runs, "
                f"{', '.join(f'{name}={count}' for name, count in counts.items())}."
            )
        if self.folds and self.test:
            raise ConfigError(
                f"--folds {self.folds} tests every labelled sample of the store once, --test {self.test} others; give "
                "one of them."
            )
        if self.repeats > 1 and not self.folds:
            raise ConfigError(f"--repeats {self.repeats} deals the folds anew: give --folds too.")
        if self.folds_by and (not self.folds or self.repeats > 1):
            raise ConfigError(f"--folds-by {self.folds_by} needs --folds, and no --repeats: the best deal is one.")


def make_plan(request: Request) -> Plan:
    """Settle a transfer. Nothing is computed or written.

    Raises:
        ConfigError, DataError, RunError, StoreError: As `transfer` says.
    """
    store = Store(request.data)
    task = find_store_task(store, request.task)
    other, data, folds, tested = _tested_on(store, task, request)
    standing = _standing(store, other, request)
    encoders = _encoders(request.runs, store)
    check_arms(encoders, task, request.arms, request.training)
    smallest = min(folds, key=lambda fold: len(fold.train))
    budgets = asked_budgets(store, smallest, request.labels)
    parts = tuple(_part(store, other, fold, budgets, request, np.searchsorted(data.test, fold.test),
                        number // max(request.folds, 1)) for number, fold in enumerate(folds))
    methods = group_runs(encoders)
    curves = make_curves(methods, request.arms or default_arms(task), request.random_encoders,
                         task.kind)
    plan = Plan(store, other, data, parts, budgets, encoders, methods, curves, request.out,
                trained_budgets(budgets, request.finetune_labels), request.finetune_subsets, request.training, tested,
                request.draw, standing)
    _check_inputs(plan)
    return plan


def _tested_on(
    store: Store, task: TransferTask, request: Request
) -> tuple[Store, TaskData, list[TaskData], str]:
    """The store that test samples lie in, the task as a whole, the same part by part, and what is special in words."""
    if request.folds:
        whole = load_whole(store, task)
        by, times = request.folds_by, f", dealt {request.repeats} times" if request.repeats > 1 else ""
        folds = site_folds(whole, store, request.folds, by) if by else [
            fold for repeat in range(request.repeats) for fold in fold_data(whole, request.folds, repeat)]
        said = f"every labelled sample once, in {request.folds} folds by {by or whole.task.unit}{times}"
        return store, pooled(whole), folds, said
    column, equals, value = request.test.partition("=")
    if equals and not is_remote(request.test) and not Path(request.test).exists():
        data = load_held_out(store, task, column, value)
        return store, data, [data], f"{column}={value}, which no label is drawn from"
    if request.test:
        other = Store(request.test)
        data = load_across(store, task, other)
        return other, data, [data], f"all {len(data.test):,} labelled samples of {other.path}"
    data = load_task(store, task)
    return store, data, [data], ""


def _standing(store: Store, other: Store, request: Request) -> Standing:
    """What the audit says of this test: it speaks of splits or of another store. Of folds, and of a value that is held
    out, it says nothing."""
    if other is store and (request.folds or request.test):
        return Standing()
    return check_audit(store, None if other is store else other, accept=request.accept_leak)


def _check_inputs(plan: Plan) -> None:
    """Every encoder must be able to read what it will be asked for."""
    for encoder in plan.runs:
        if encoder.table is None:
            check_input(encoder, plan.test_store)
            continue
        encoder.table.rows([plan.store.ids[i] for i in plan.samples()])
        encoder.table.rows([plan.test_store.ids[i] for i in plan.data.test_samples])


def _encoders(runs: Sequence[str | Path], store: Store) -> tuple[Encoder, ...]:
    given = [str(run).rstrip("/") for run in runs]
    twice = sorted({run for run in given if given.count(run) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)}: given more than once; a run counts once.")
    encoders = tuple(find_encoder(run, store) for run in runs)
    names = [encoder.name for encoder in encoders]
    if len(set(names)) < len(names):
        raise ConfigError(f"runs share folder names ({', '.join(names)}); give each run folder a name of its own.")
    for encoder in encoders:
        check_input(encoder, store)
    return encoders


def _part(
    store: Store, other: Store, data: TaskData, budgets: Sequence[Budget], request: Request, place: np.ndarray,
    repeat: int,
) -> Part:
    drawn = tuple(_draw(data, budgets, seed, request.draw) for seed in range(request.subsets))
    return Part(data, _digest(store, other, data, request.draw), drawn, place, repeat)


def _digest(store: Store, other: Store, data: TaskData, draw: str) -> str:
    task = data.task
    parts = (store.digest, other.digest, task.name, task.kind, task.metric, task.unit, draw, data.classes, data.digest,
             data.train_units.tolist(), *filter(None, [store.removals_digest, "ordered" if task.ordered else ""]))
    targets = b"" if data.test_targets is None else data.test_targets.tobytes()
    inside = [] if data.train_bags is None else [data.pool_samples.tobytes(), data.test_samples.tobytes()]
    if task.kind == "dense":
        sides = (store, data.train), (other, data.test)
        inside = [read_masks(side, task, data.classes, index).digest.encode() for side, index in sides]
    return digest(canonical_json(parts), data.train.tobytes(), data.test.tobytes(), data.test_labels.tobytes(), targets,
                  *inside)


def _draw(data: TaskData, budgets: Sequence[Budget], seed: int, draw: Draw) -> dict[Budget, Subset]:
    try:
        return draw_subsets(data.train_labels, data.train_units, budgets, seed, data.digest, data.task.name, draw)
    except ConfigError as error:
        raise ConfigError(class_names(str(error), data.strata)) from None


def class_names(text: str, classes: Sequence[str]) -> str:
    """A note on class ids, with the classes' names."""
    text = re.sub(r"class id (\d+)", lambda found: f"class {classes[int(found[1])]!r}", text)
    return re.sub(
        r"class ids \[([\d, ]+)\]",
        lambda found: "classes " + ", ".join(repr(classes[int(number)]) for number in found[1].split(",")), text,
    )
