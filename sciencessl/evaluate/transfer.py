"""`transfer`: few-label curves of encoders on a task, paired, with what pretraining saw beside every number."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciencessl.errors import RunError
from sciencessl.evaluate.baseline import Choice, choose_variant, kept_choice
from sciencessl.evaluate.encoders import Encoder, fresh_module
from sciencessl.evaluate.estimate import estimate_arms
from sciencessl.evaluate.features import FeatureCache
from sciencessl.evaluate.finetune import Labelled, Training
from sciencessl.evaluate.fits import Fit, load_fit, run_fit, run_training, save_fit
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.metrics import correct
from sciencessl.evaluate.models import holds_model, save_model
from sciencessl.evaluate.plan import DEFAULT_ARMS, HEAD_OF, TRAINED, Curve, Plan, make_plan
from sciencessl.evaluate.results import RESULT, TransferEstimate, TransferResult
from sciencessl.evaluate.subsets import Budget, Draw
from sciencessl.evaluate.summary import Outcome, make_endpoints, make_rows, resolution
from sciencessl.monitor.throughput import Progress
from sciencessl.store.files import parquet_bytes, write_atomic
from sciencessl.train.folder import COST


def transfer(
    runs: Sequence[str | Path],
    data: str | Path,
    out: str | Path,
    task: str = "",
    labels: Sequence[str] = (),
    arms: Sequence[str] = DEFAULT_ARMS,
    subsets: int = 10,
    random_encoders: int = 5,
    draw: Draw = "stratified",
    workers: int = 1,
    dry_run: bool = False,
    finetune_subsets: int = 3,
    max_steps: int = 300,
    stages: int | None = None,
) -> TransferResult | TransferEstimate:
    """Draw few-label curves of runs and of what never learned, on a task of the store's domain.

    Arms: `frozen` is logistic regression on the encoder's features (the linear probe), `knn` nearest neighbours on
    them, `finetune` trains encoder and classifier (`finetune.fit_network`), `scratch` does so from fresh weights of the
    same architecture, and `random` is `frozen` on random encoders.

    Labels are tuned on the budget's own rows, subsets are shared by all arms, and the interval covers label subsets
    and test units together, for this checkpoint only. Every run, in either arm, is compared with logistic regression
    on random encoders of its own architecture and input, of the variant that is stronger without pretraining
    (`baseline.choose_variant`). A second call reuses every fit. The model of the first subset of the largest budget of
    `frozen`, `finetune` and `scratch` is kept as a run folder, `out/models/ARM-NAME`, with its classifier.

    Args:
        runs: Finished runs, or what else `foreign.find_encoder` takes; tables of features in `frozen` and `knn` only.
        data: A sealed store with the task's column.
        out: Folder for results.
        task: Name of a task of the domain; may be left out when there is one.
        labels: Label budgets; by default the task's own, as far as the pool can fill them.
        arms: Any of `plan.ARMS`; those that train networks take minutes a fit.
        subsets: Label subsets drawn for each budget.
        random_encoders: Encoders in the random arm.
        draw: `stratified`, or `random` for rare classes.
        workers: Loader processes.
        dry_run: Count what there is to do and time one step of it; write nothing.
        finetune_subsets: Label subsets of the arms that train networks: the first ones.
        max_steps: Optimiser steps of one training.
        stages: How many of the encoder's last stages `finetune` trains; 0 for the head alone, None for all.

    Raises:
        ConfigError: For an unknown task, arm or budget, a budget that the pool cannot fill or whose unit is not the
            task's, runs that share a folder name, a table of features in an arm that needs weights, or more stages
            than an encoder has.
        StoreError: When the store was never sealed or the task's column is absent.
        RunError: When a run is not finished or damaged, or `out` holds the table of another task or store.
        DataError: When classes or units are too few, a group is in both splits, a run's weights are damaged, it reads
            other channels, or a table lacks a sample.
    """
    started = time.perf_counter()
    plan = make_plan(runs, data, Path(out), task, labels, arms, subsets, random_encoders, draw, finetune_subsets,
                     Training(max_steps, stages))
    _check_out(plan)
    cache = FeatureCache(plan.out / "features", plan.store, workers)
    if dry_run:
        return _estimate(plan, cache)
    write_atomic(plan.out / "subsets.parquet", parquet_bytes(_subset_table(plan)))
    outcomes, choices, done = _all_fits(plan, cache)
    marks = {run.name: mark_encoder(run, plan.store, plan.data) for run in plan.runs}
    result = TransferResult(
        out=plan.out, task=plan.data.task.name, unit=plan.data.task.unit, classes=plan.data.classes,
        n_pool=len(plan.data.train), n_test=len(plan.data.test), resolution=resolution(plan),
        marks={name: mark.sentence for name, mark in marks.items()},
        rows=make_rows(plan, outcomes, {name: mark.level for name, mark in marks.items()}),
        cost=_costs(runs, plan.runs), dropped=plan.data.dropped, seconds=time.perf_counter() - started, fits=done,
        endpoints=make_endpoints(plan, outcomes), notes=tuple(_notes(plan, choices)), store=plan.store.digest,
    )
    _write(result)
    return result


def _check_out(plan: Plan) -> None:
    try:
        found = json.loads((plan.out / RESULT).read_text(encoding="utf-8"))
        same = (found["task"], found["store"]) == (plan.data.task.name, plan.store.digest)
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        return  # damaged: written anew
    if not same:
        raise RunError(
            f"{plan.out} holds the few-label table of task {found['task']!r} on another store or of another task; "
            "choose another --out."
        )


def _estimate(plan: Plan, cache: FeatureCache) -> TransferEstimate:
    work = [item for curve in plan.curves for item in _work(plan, curve, curve.encoders)]
    todo = [item for item in work if _cached(plan, *item) is None]
    embeddings, arms = estimate_arms(plan, cache, todo)
    return TransferEstimate(len(todo), embeddings, resolution(plan), len(plan.data.train), len(plan.data.test), arms)


def _work(plan: Plan, curve: Curve, encoders: Sequence[Encoder]) -> Iterator[tuple[str, Encoder, Budget, int]]:
    """Every fit of a curve, encoder by encoder so that features are held one at a time."""
    for encoder in encoders:
        for budget in plan.budgets:
            for seed in plan.seeds(budget, curve.arm):
                yield curve.arm, encoder, budget, seed


def _cached(plan: Plan, arm: str, encoder: Encoder, budget: Budget, seed: int) -> Fit | None:
    """A fit that is done, its model too where that is kept."""
    key, folder = plan.key(encoder, arm, budget, seed), plan.model_folder(encoder, arm, budget, seed)
    if folder is not None and not holds_model(folder, key):
        return None
    return load_fit(plan.out / "fits", key, (len(plan.data.test), len(plan.data.classes)))


def _all_fits(
    plan: Plan, cache: FeatureCache
) -> tuple[dict[tuple[str, str], dict[Budget, Outcome]], dict[str, Choice], int]:
    """Outcomes of every curve, the variant chosen for each random one, and how many fits were computed now."""
    _fill(plan, cache)
    choices = {c.name: choose_variant(c.variants, cache, plan.data, plan.largest()) for c in plan.curves
               if c.arm == "random"}
    chosen = {(c.arm, c.name): c.variants[choices[c.name].variant] if c.arm == "random" else c.encoders
              for c in plan.curves}
    progress = Progress(sum(len(list(_work(plan, c, chosen[c.arm, c.name]))) for c in plan.curves), unit="fit",
                        title="transfer")
    outcomes: dict[tuple[str, str], dict[Budget, Outcome]] = {}
    computed = done = 0
    for curve in plan.curves:
        key = curve.arm, curve.name
        found: dict[Budget, list[tuple[int, np.ndarray, Fit]]] = {}
        fitter = _Fitter(plan, cache)
        for arm, encoder, budget, seed in _work(plan, curve, chosen[key]):
            fit = _cached(plan, arm, encoder, budget, seed)
            if fit is None:
                fit = fitter.fit(encoder, arm, budget, seed)
                computed += 1
            found.setdefault(budget, []).append((seed, correct(fit.probabilities, plan.data.test_labels), fit))
            done += 1
            progress.update(done)
        outcomes[key] = {budget: _outcome(fits) for budget, fits in found.items()}
    progress.close()
    return outcomes, choices, computed


def _fill(plan: Plan, cache: FeatureCache) -> None:
    """Embeddings of all encoders that still have a fit to do, together, so that images are decoded once."""
    lacking: list[Encoder] = []
    for curve in plan.curves:
        candidates = curve.encoders
        if curve.arm == "random":
            choice = kept_choice(curve.variants, cache, plan.data, plan.largest())
            if choice is None:
                lacking += [encoder for group in curve.variants.values() for encoder in group]
                continue
            candidates = curve.variants[choice.variant]
        elif curve.arm == "scratch":
            continue
        lacking += [e for e in candidates if any(_cached(plan, *item) is None for item in _work(plan, curve, [e]))]
    cache.fill(lacking, plan.samples())


class _Fitter:
    """Fits of one curve; holds the features of the encoder at hand."""

    def __init__(self, plan: Plan, cache: FeatureCache) -> None:
        self.plan = plan
        self.cache = cache
        self._held: tuple[str, np.ndarray, np.ndarray] | None = None

    def fit(self, encoder: Encoder, arm: str, budget: Budget, seed: int) -> Fit:
        """Compute a fit and keep it; its model first, where that is kept, so that a fit that is done has one."""
        plan = self.plan
        rows = plan.subsets[seed][budget].index
        fit = self._train(encoder, arm, rows, seed) if arm in TRAINED else self._head(encoder, arm, rows, seed)
        key, folder = plan.key(encoder, arm, budget, seed), plan.model_folder(encoder, arm, budget, seed)
        if folder is not None:
            save_model(folder, arm, encoder, fit, key, plan.store, plan.data, plan.training_of(arm))
        save_fit(plan.out / "fits", key, fit)
        return fit

    def _head(self, encoder: Encoder, arm: str, rows: np.ndarray, seed: int) -> Fit:
        data = self.plan.data
        train, test = (self._features(encoder, index) for index in (data.train[rows], data.test))
        return run_fit(HEAD_OF[arm], train, data.train_labels[rows], data.train_units[rows], test, data.test_labels,
                       len(data.classes), seed)

    def _train(self, encoder: Encoder, arm: str, rows: np.ndarray, seed: int) -> Fit:
        data, scratch = self.plan.data, arm == "scratch"
        index = data.train[rows]
        labelled = Labelled(self.plan.store, index, data.train_labels[rows], data.train_units[rows],
                            None if scratch else self._features(encoder, index))
        start = fresh_module(encoder.card, seed) if scratch else encoder.module
        return run_training(start, encoder.card, labelled, data.test, data.test_labels, len(data.classes),
                            self.plan.training_of(arm), seed, self.cache.workers)

    def _features(self, encoder: Encoder, index: np.ndarray) -> np.ndarray:
        if self._held is None or self._held[0] != encoder.digest:
            samples = self.plan.samples()
            self._held = encoder.digest, samples, self.cache.get(encoder, samples)
        _, samples, values = self._held
        found: np.ndarray = values[np.searchsorted(samples, index)]
        return found


def _outcome(fits: Sequence[tuple[int, np.ndarray, Fit]]) -> Outcome:
    seeds = sorted({seed for seed, _, _ in fits})
    hits = np.array([np.mean([right for number, right, _ in fits if number == seed], axis=0) for seed in seeds])
    every = [fit for _, _, fit in fits]
    return Outcome(
        hits, float(np.mean([fit.n_labels for fit in every])), float(np.mean([fit.trials for fit in every])),
        {name: float(np.mean([fit.metrics[name] for fit in every])) for name in every[0].metrics},
    )


def _notes(plan: Plan, choices: Mapping[str, Choice]) -> Iterator[str]:
    for curve in plan.curves:
        if curve.arm == "random":
            count = len(curve.encoders)
            yield (f"{curve.name}: logistic regression on {count} {curve.encoders[0].card.backbone} encoders, "
                   f"{choices[curve.name].note}")


def _costs(runs: Sequence[str | Path], encoders: Sequence[Encoder]) -> dict[str, dict[str, Any]]:
    found = {}
    for run, encoder in zip(runs, encoders, strict=True):
        path = Path(run) / COST
        if path.is_file():
            found[encoder.name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _subset_table(plan: Plan) -> pa.Table:
    """Every subset by id: what another tool needs to fit on the same labels."""
    ids, data = plan.store.ids, plan.data
    rows = [
        (str(budget), seed, ids[data.train[i]], data.classes[data.train_labels[i]], str(data.train_units[i]))
        for seed, drawn in enumerate(plan.subsets)
        for budget, subset in drawn.items()
        if seed in plan.seeds(budget)
        for i in subset.index
    ]
    columns = zip(("budget", "subset_seed", "id", "class", "unit"), zip(*rows, strict=True), strict=True)
    return pa.table({name: list(values) for name, values in columns})


def _write(result: TransferResult) -> None:
    from sciencessl.evaluate.plots import few_label_figure, save_figure
    from sciencessl.evaluate.tables import table_csv

    write_atomic(result.out / RESULT, json.dumps(result.to_json(), indent=1, allow_nan=False).encode())
    write_atomic(result.out / "table.csv", table_csv(result.rows).encode())
    save_figure(few_label_figure(result), result.out / "curve.png")
