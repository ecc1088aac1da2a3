"""`transfer`: few-label curves of encoders on a task, paired, with what pretraining saw beside every number."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from sciencessl.errors import ConfigError, RunError, did_you_mean
from sciencessl.evaluate.baseline import Choice, choose_variant, kept_choice
from sciencessl.evaluate.curves import ARMS
from sciencessl.evaluate.dense import BATCH as DENSE_BATCH
from sciencessl.evaluate.dense import segmentation_notes
from sciencessl.evaluate.encoders import Encoder
from sciencessl.evaluate.estimate import estimate_arms
from sciencessl.evaluate.features import Features
from sciencessl.evaluate.finetune import BATCH, Training
from sciencessl.evaluate.fitter import Fitter, cached_fit, train_side_by_side
from sciencessl.evaluate.folds import few_units_note
from sciencessl.evaluate.groups import named_groups
from sciencessl.evaluate.kinds import IN_WORDS
from sciencessl.evaluate.leak_check import FOLDER, Leaks, check_leak
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.outcomes import Gathered, Outcome
from sciencessl.evaluate.plan import Plan, Request, make_plan
from sciencessl.evaluate.results import RESULT, Detail, TransferEstimate, TransferResult
from sciencessl.evaluate.seen import Mark
from sciencessl.evaluate.subsets import Budget, Draw
from sciencessl.evaluate.summary import lower_is_better, make_endpoints, make_rows, resolution
from sciencessl.monitor.throughput import Progress
from sciencessl.store.files import parquet_bytes, write_atomic
from sciencessl.store.remote import local_path
from sciencessl.train.folder import COST


def transfer(
    runs: Sequence[str | Path],
    data: str | Path,
    out: str | Path,
    task: str = "",
    labels: Sequence[str] = (),
    arms: Sequence[str] = (),
    subsets: int = 10,
    random_encoders: int = 5,
    draw: Draw = "stratified",
    workers: int = 1,
    dry_run: bool = False,
    finetune_labels: Sequence[str] = (),
    finetune_subsets: int = 3,
    max_steps: int = 300,
    stages: int | None = None,
    by: str = "",
    folds: int = 0,
    repeats: int = 1,
    folds_by: str = "",
    test: str = "",
    jobs: int = 1,
    accept_leak: bool = False,
    tell: Callable[[str], None] = print,
) -> TransferResult | TransferEstimate:
    """Draw few-label curves of runs and of what never learned, on a task of the store's domain.

    Arms: `frozen` is logistic regression on the encoder's features (the linear probe), `knn` nearest neighbours on
    them, `linear` trains a classifier on augmented views by gradient descent, `finetune` encoder and classifier
    (`finetune.fit_network`), `scratch` does so from fresh weights of the same architecture, and `random` is `frozen` on
    random encoders. For other kinds of task there are `frozen` (`kinds.frozen_fit`), `random` and what
    `curves.OF_KIND` lists; of segmentation (`dense.run_dense`) these train a head by gradient descent, of bags `frozen`
    and `random` pool by the mean, `max` by the maximum, and `abmil` learns attention (`abmil.fit_abmil`).

    Everything is tuned on the budget's own rows, and subsets are shared by all arms. The interval covers label subsets
    and test units together, for this checkpoint only; runs that differ in their pretraining seed only are one method,
    whose interval covers pretraining seeds too (`curves.group_runs`). Every method, in any arm, is compared with
    logistic regression on random encoders of its own architecture and input, of the variant that is stronger without
    pretraining (`baseline.choose_variant`). A second call reuses every fit. The model of the first subset of an arm's
    largest budget is kept as a run folder with its classifier, `out/models/ARM-NAME`, but for `knn` and `random`.

    Args:
        runs: Finished runs, or what else `foreign.find_encoder` takes; tables of features in `frozen` and `knn` only.
        data: A sealed store with the task's column.
        out: Folder for results.
        task: Name of a task of the domain, or a YAML file; may be left out when there is one.
        labels: Label budgets; by default the task's own, as far as the pool can fill them.
        arms: Any of `curves.ARMS`, by default those that take seconds a fit; those that train networks take minutes.
        subsets: Label subsets drawn for each budget.
        random_encoders: Encoders in the random arm.
        draw: `stratified`, or `random` for rare classes.
        workers: Loader processes.
        dry_run: Count what there is to do and time one step of it; write nothing.
        finetune_labels: Label budgets of the arms that train networks, some of `labels`; by default all.
        finetune_subsets: Label subsets of the arms that train networks: the first ones.
        max_steps: Optimiser steps of one training.
        stages: How many of the encoder's last stages `finetune` trains; 0 for the head alone, None for all.
        folds: Cross-validation over units instead of split=test: every labelled sample of split=train and split=test is
            tested once, by fits on the other folds (`folds.fold_data`). No model is kept.
        repeats: How often the folds are dealt.
        folds_by: Column whose values no fold divides, such as `site`; see `folds.site_folds`.
        test: What is tested on instead of split=test: a sealed store (every labelled sample in it), or `COLUMN=VALUE`
            (those with it, which no label is drawn from).
        jobs: Processes that train networks side by side, each with its share of the cores: faster for small networks on
            a CPU (a RegNetY-002 at 64 px learned 1.7 times as fast with two on two cores). Frozen arms take no part.
        accept_leak: Go on where pool and test share samples, where pretraining saw copies of test samples, or where an
            audit says so; every mark and row then tells.
        tell: Receives lines for people before the work begins.
        by: Column of the store that is tested on; the score in each of its categories or bins is given too.

    Raises:
        ConfigError: For an unknown task, arm or budget, a budget that the pool cannot fill or whose unit is not the
            task's, runs that share a folder name, a table of features in an arm that needs weights, or more stages
            than an encoder has.
        StoreError: When the store was never sealed or the task's column is absent.
        RunError: When a run is not finished or damaged, or `out` holds the table of another task or store.
        DataError: When classes or units are too few, a run's weights are damaged, it reads other channels, or a table
            lacks a sample.
        LeakError: When `check_leak` or the audit of the store found a leak; `out/leak` shows the pairs.
    """
    started = time.perf_counter()
    if jobs < 1:
        raise ConfigError(f"jobs={jobs}: give the number of processes that train networks side by side, 1 or more.")
    request = Request(
        tuple(runs), data, local_path(out), task, tuple(labels), tuple(arms), subsets, random_encoders, draw,
        tuple(finetune_labels), finetune_subsets, Training(max_steps, stages), folds, repeats, test,
        accept_leak, folds_by,
    )
    plan, leaks = _settled(request, by, tell, dry_run)
    features = Features(plan, workers)
    if dry_run:
        return _estimate(plan, features)
    write_atomic(plan.out / "subsets.parquet", parquet_bytes(_subset_table(plan)))
    _fill(plan, features)
    ahead = train_side_by_side(request, plan, jobs) if jobs > 1 else 0
    outcomes, details, choices, done = _all_fits(plan, features, by)
    marks = {run.name: _mark(plan, leaks, run) for run in plan.runs}
    result = TransferResult(
        out=plan.out, task=plan.data.task.name, unit=plan.data.task.unit, classes=plan.data.classes,
        n_pool=len(plan.data.train), n_test=len(plan.data.test), resolution=resolution(plan),
        marks={name: mark.sentence for name, mark in marks.items()},
        rows=make_rows(plan, outcomes, {name: mark.shown for name, mark in marks.items()}),
        cost=_costs(runs, plan.runs), dropped=plan.data.dropped, seconds=time.perf_counter() - started,
        fits=ahead + done,
        endpoints=make_endpoints(plan, outcomes),
        notes=(*_notes(plan, choices), *_chance(plan, outcomes)), store=plan.store.digest,
        kind=plan.data.task.kind, metric=plan.data.task.metric, lower_is_better=lower_is_better(plan), details=details,
        by=by, tested=plan.tested,
        members={method.name: tuple(run.name for run in method.runs) for method in plan.methods
                 if len(method.runs) > 1},
        draw=plan.draw, leaks=tuple(each.record() for each in leaks.compared),
    )
    _write(result)
    return result


def _settled(request: Request, by: str, tell: Callable[[str], None], dry_run: bool) -> tuple[Plan, Leaks]:
    """What is to be done, and what the test shares with what was learned from; of folds the first deal stands for the
    others."""
    plan = make_plan(request)
    _check_out(plan)
    if by:
        _check_by(plan, by)
    folds = [part.data for part in plan.parts[: max(request.folds, 1)]]
    leaks = check_leak(plan.store, plan.data, plan.test_store, folds=folds, runs=plan.runs,
                       accept=request.accept_leak, folder=None if dry_run else plan.out / FOLDER)
    for line in (*plan.standing.lines, *leaks.lines()):
        tell(line)
    standing = replace(plan.standing, leak=plan.standing.leak or leaks.pool)
    return replace(plan, standing=standing), leaks


def _mark(plan: Plan, leaks: Leaks, run: Encoder) -> Mark:
    seen = leaks.seen[run.name]
    return leaks.marked(run.name, mark_encoder(run, plan.store, plan.data, plan.test_store, plan.standing.leak, seen))


def _check_out(plan: Plan) -> None:
    try:
        found = json.loads((plan.out / RESULT).read_text(encoding="utf-8"))
        pairs = {
            "of task": (found["task"], plan.data.task.name),
            "on a store of digest": (found["store"], plan.store.digest),
            "tested on": (found["tested"] or "split=test", plan.tested or "split=test"),
        }
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        return  # damaged: written anew
    differ = [f"{what} {there!r} and not {asked!r}" for what, (there, asked) in pairs.items() if there != asked]
    if differ:
        raise RunError(f"{plan.out} holds a few-label table {', '.join(differ)}; choose another --out.")


def _check_by(plan: Plan, by: str) -> None:
    store = plan.test_store
    if by not in store.columns():
        raise ConfigError(f"--by {by}: {store.path} has no such column.{did_you_mean(by, store.columns())} Columns: "
                          f"{', '.join(sorted(store.columns()))}.")
    try:
        named_groups(store.column(by)[plan.data.test])
    except ConfigError as error:
        raise ConfigError(f"--by {by}: {error}") from None


def _estimate(plan: Plan, features: Features) -> TransferEstimate:
    work = [item for curve in plan.curves for item in plan.items(curve, curve.encoders)]
    todo = [item for item in work if cached_fit(plan, item) is None]
    embeddings, arms = estimate_arms(plan, features, todo)
    return TransferEstimate(len(todo), embeddings, resolution(plan), len(plan.data.train), len(plan.data.test), arms)


def _all_fits(
    plan: Plan, features: Features, by: str
) -> tuple[dict[tuple[str, str], dict[Budget, Outcome]], tuple[Detail, ...], dict[str, Choice], int]:
    """Outcomes of every curve, a closer look at each, the variant chosen for each random one, and how many fits were
    computed now."""
    choices = {c.name: choose_variant(c.variants, features.pool, plan.parts[0].data, plan.largest())
               for c in plan.curves if c.arm == "random"}
    chosen = {(c.arm, c.name): c.variants[choices[c.name].variant] if c.arm == "random" else c.encoders
              for c in plan.curves}
    total = sum(len(list(plan.items(c, chosen[c.arm, c.name]))) for c in plan.curves)
    progress = Progress(total, unit="fit", title="transfer")
    outcomes: dict[tuple[str, str], dict[Budget, Outcome]] = {}
    details = []
    computed = done = 0
    for curve in plan.curves:
        encoders = chosen[curve.arm, curve.name]
        number = {encoder.digest: i for i, encoder in enumerate(encoders)}
        found = {budget: Gathered(plan, curve, budget, len(encoders)) for budget in plan.budgets_of(curve.arm)}
        fitter = Fitter(plan, features)
        for item in plan.items(curve, encoders):
            fit = cached_fit(plan, item)
            if fit is None:
                fit = fitter.fit(item)
                computed += 1
            found[item.budget].add(number[item.encoder.digest], item, fit)
            done += 1
            progress.update(done)
        outcomes[curve.arm, curve.name] = {budget: gathered.outcome() for budget, gathered in found.items()}
        details.append(found[plan.largest_budget(curve.arm)].detail(by))
    progress.close()
    return outcomes, tuple(details), choices, computed


def _fill(plan: Plan, features: Features) -> None:
    """Embeddings of all encoders that still have a fit to do, together, so that images are decoded once."""
    lacking: list[Encoder] = []
    if plan.data.task.kind == "dense":  # heads look at maps, which are not kept
        return
    for curve in plan.curves:
        candidates = curve.encoders
        if curve.arm == "random":
            choice = kept_choice(curve.variants, features.pool, plan.parts[0].data, plan.largest())
            if choice is None:
                lacking += [encoder for group in curve.variants.values() for encoder in group]
                continue
            candidates = curve.variants[choice.variant]
        elif curve.arm == "scratch":
            continue
        lacking += [e for e in candidates if any(cached_fit(plan, item) is None for item in plan.items(curve, [e]))]
    features.fill(lacking)


def _notes(plan: Plan, choices: Mapping[str, Choice]) -> Iterator[str]:
    for curve in plan.curves:
        if curve.arm == "random":
            backbone, count = curve.encoders[0].card.backbone, len(curve.encoders)
            whom = f"{count} {backbone} encoders" if count > 1 else f"one {backbone} encoder"
            alone = "" if count > 1 else "; intervals say nothing of other random weights"
            yield f"{curve.name}: {IN_WORDS[plan.data.task.kind]} on {whom}, {choices[curve.name].note}{alone}"
    dense = plan.data.task.kind == "dense"
    for arm in (arm for arm in ARMS if plan.trains(arm) and any(curve.arm == arm for curve in plan.curves)):
        yield f"{arm}: {plan.training_of(arm)}, batches of {DENSE_BATCH if dense else BATCH}"
    if dense:
        yield from segmentation_notes(plan.data)
    bags = plan.data.train_bags
    if bags is not None:
        yield (f"labels, budgets and scores are of bags ({plan.data.task.bag}), not of their samples: "
               f"{len(plan.data.pool_samples):,} samples in {len(plan.data.train):,} bags to draw from, "
               f"{len(plan.data.test_samples):,} in {len(plan.data.test):,} to test on")
    if plan.draw == "random":
        yield "labels drawn at random, whatever their class, as they would come"
    if len(plan.parts) > 1:
        yield from filter(None, [few_units_note(len(set(plan.data.test_units)))])


def _chance(plan: Plan, outcomes: Mapping[tuple[str, str], Mapping[Budget, Outcome]]) -> Iterator[str]:
    """What votes are predicted by without a look at any image."""
    name = f"mean_{plan.data.task.metric}"
    for (_, arm), found in outcomes.items():
        metrics = found[plan.largest_budget(arm)].metrics
        if name in metrics:
            yield (f"chance: {plan.data.task.metric} {metrics[name]:.3f}, of the mean fractions of the largest budget "
                   "for every sample")
            return


def _costs(runs: Sequence[str | Path], encoders: Sequence[Encoder]) -> dict[str, dict[str, Any]]:
    found = {}
    for run, encoder in zip(runs, encoders, strict=True):
        path = Path(run) / COST
        if path.is_file():
            found[encoder.name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _subset_table(plan: Plan) -> pa.Table:
    """Every subset by id: what another tool needs to fit on the same labels. Folds are numbered through all repeats."""
    rows = [
        (number, str(budget), seed, data.train_ids[i], data.strata[data.train_labels[i]], str(data.train_units[i]))
        for number, part in enumerate(plan.parts)
        for data in [part.data]
        for seed, drawn in enumerate(part.subsets)
        for budget, subset in drawn.items()
        if seed in plan.seeds(budget)
        for i in subset.index
    ]
    columns = zip(("fold", "budget", "subset_seed", "id", "class", "unit"), zip(*rows, strict=True), strict=True)
    return pa.table({name: list(values) for name, values in columns})


def _write(result: TransferResult) -> None:
    from sciencessl.evaluate.plots import few_label_figure, save_figure
    from sciencessl.evaluate.tables import table_csv

    write_atomic(result.out / RESULT, json.dumps(result.to_json(), indent=1, allow_nan=False).encode())
    write_atomic(result.out / "table.csv", table_csv(result.rows).encode())
    save_figure(few_label_figure(result), result.out / "curve.png")
