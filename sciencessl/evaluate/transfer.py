"""`transfer`: few-label curves of encoders on a task, paired, with what pretraining saw beside every number."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciencessl.errors import ConfigError, StoreError, unknown_name
from sciencessl.evaluate.encoders import Encoder, compute_embeddings, random_encoder, run_encoder
from sciencessl.evaluate.fits import Fit, FitKey, load_fit, run_fit, save_fit
from sciencessl.evaluate.metrics import correct
from sciencessl.evaluate.results import Row, TransferEstimate, TransferResult
from sciencessl.evaluate.seen import Mark, what_pretraining_saw
from sciencessl.evaluate.statistics import Interval, hierarchical_interval, planned_resolution
from sciencessl.evaluate.subsets import Budget, Draw, Subset, draw_subsets, parse_budget
from sciencessl.evaluate.tasks import TaskData, find_task, load_task
from sciencessl.monitor.throughput import Progress
from sciencessl.registry import load_domain
from sciencessl.store.files import parquet_bytes, write_atomic
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.reader import Store
from sciencessl.train.folder import COST

ARMS = ("frozen", "knn", "random")
HEAD_OF = {"frozen": "logistic", "knn": "knn", "random": "logistic"}
RESULT = "transfer.json"


@dataclass(frozen=True)
class _Setup:
    store: Store
    data: TaskData
    digest: str
    budgets: tuple[Budget, ...]
    subsets: tuple[dict[Budget, Subset], ...]
    arms: tuple[tuple[str, tuple[Encoder, ...]], ...]
    out: Path

    def seeds(self, budget: Budget) -> range:
        """Subset seeds of a budget; all labels are one subset, whatever the seed."""
        return range(1 if len(self.subsets[0][budget].index) == len(self.data.train) else len(self.subsets))


def transfer(
    runs: Sequence[str | Path],
    data: str | Path,
    out: str | Path,
    task: str = "",
    labels: Sequence[str] = (),
    arms: Sequence[str] = ARMS,
    subsets: int = 10,
    random_encoders: int = 5,
    draw: Draw = "stratified",
    workers: int = 1,
    dry_run: bool = False,
) -> TransferResult | TransferEstimate:
    """Draw few-label curves of runs and of random encoders on a task of the store's domain.

    Labels are tuned on the budget's own rows, subsets are shared by all arms, and the interval covers label subsets
    and test units together, for this checkpoint only. A second call reuses every fit.

    Args:
        runs: Finished runs.
        data: A sealed store with the task's column.
        out: Folder for results.
        task: Name of a task of the domain; may be left out when there is one.
        labels: Label budgets; the task's own by default.
        arms: Any of `frozen`, `knn` and `random`.
        subsets: Label subsets drawn for each budget.
        random_encoders: Encoders in the random arm.
        draw: `stratified`, or `random` for rare classes.
        workers: Loader processes.
        dry_run: Count what there is to do; write nothing.

    Raises:
        ConfigError: For an unknown task, arm or budget.
        StoreError: When the task's column is absent.
        DataError: When classes or units are too few, or a group is in both splits.
    """
    started = time.perf_counter()
    setup = _set_up(runs, data, Path(out), task, labels, arms, subsets, random_encoders, draw)
    counts = np.bincount(setup.data.test_labels)
    resolution = planned_resolution(counts[counts > 0])
    if dry_run:
        return _estimate(setup, resolution)
    _write_subsets(setup)
    fits, done = _all_fits(setup, workers)
    result = TransferResult(
        out=setup.out, task=setup.data.task.name, unit=setup.data.task.unit, classes=setup.data.classes,
        n_pool=len(setup.data.train), n_test=len(setup.data.test), resolution=resolution,
        marks={e.name: _mark(e, setup).sentence for arm, es in setup.arms if arm != "random" for e in es},
        rows=tuple(_table(setup, fits)), cost={e.name: c for e, c in _costs(runs)},
        dropped=setup.data.dropped, seconds=time.perf_counter() - started, fits=done,
    )
    _write(result)
    return result


def _set_up(
    runs: Sequence[str | Path], data: str | Path, out: Path, task: str, labels: Sequence[str], arms: Sequence[str],
    subsets: int, random_encoders: int, draw: Draw,
) -> _Setup:
    for arm in arms:
        if arm not in ARMS:
            raise ConfigError(unknown_name("arm", arm, ARMS))
    if subsets < 1 or random_encoders < 1 or not runs:
        raise ConfigError(
            f"transfer needs a run, subsets={subsets} and random_encoders={random_encoders}; all must be 1 or more."
        )
    store = Store(data)
    found = load_task(store, find_task(load_domain(store.header.domain).tasks, task))
    budgets = tuple(parse_budget(text) for text in (labels or found.task.budgets))
    drawn = tuple(
        draw_subsets(found.train_labels, found.train_units, budgets, seed, found.digest, found.task.name, draw)
        for seed in range(subsets)
    )
    encoders = tuple(run_encoder(run) for run in runs)
    names = [encoder.name for encoder in encoders]
    if len(set(names)) < len(names):
        raise ConfigError(f"runs share folder names ({', '.join(names)}); give each run folder a name of its own.")
    chosen: list[tuple[str, tuple[Encoder, ...]]] = [(a, encoders) for a in ("frozen", "knn") if a in arms]
    if "random" in arms:
        randoms = tuple(random_encoder(encoders[0].card, number) for number in range(random_encoders))
        chosen.append(("random", randoms))
    return _Setup(store, found, _task_digest(store, found, draw), budgets, drawn, tuple(chosen), out)


def _task_digest(store: Store, data: TaskData, draw: str) -> str:
    parts = (store.digest, data.task.name, data.task.unit, draw, data.classes, data.digest)
    return digest(canonical_json(parts), data.train.tobytes(), data.test.tobytes(), data.test_labels.tobytes())


def _estimate(setup: _Setup, resolution: float) -> TransferEstimate:
    keys = [key for key, *_ in _work(setup)]
    encoders = {encoder.digest: encoder for _, group in setup.arms for encoder in group}
    missing = [e for e in encoders.values() if not _features_path(setup, e).is_file()]
    samples = len(setup.data.train) + len(setup.data.test)
    return TransferEstimate(
        fits=sum(load_fit(setup.out / "fits", key) is None for key in keys), embeddings=samples * len(missing),
        resolution=resolution, n_pool=len(setup.data.train), n_test=len(setup.data.test),
    )


def _work(setup: _Setup) -> list[tuple[FitKey, str, Encoder, Budget, int]]:
    """Every fit, encoder by encoder so that features are held one at a time."""
    return [
        (FitKey(encoder.digest, HEAD_OF[arm], setup.digest, str(budget), seed), arm, encoder, budget, seed)
        for arm, encoders in setup.arms
        for encoder in encoders
        for budget in setup.budgets
        for seed in setup.seeds(budget)
    ]


def _features_path(setup: _Setup, encoder: Encoder) -> Path:
    return setup.out / "features" / f"{digest(encoder.digest.encode(), setup.digest.encode())}.npy"


def _features(setup: _Setup, encoder: Encoder, workers: int) -> np.ndarray:
    """(n + m, F) embeddings of pool and test, cached."""
    path = _features_path(setup, encoder)
    if path.is_file():
        cached: np.ndarray = np.load(path, allow_pickle=False)
        return cached
    index = np.concatenate([setup.data.train, setup.data.test])
    progress = Progress(len(index), unit="image", title=f"embed {encoder.name}")
    order = np.argsort(index)  # reading in store order opens each row once
    values = np.empty((len(index), encoder.card.features), np.float32)
    values[order] = compute_embeddings(encoder, setup.store, index[order], workers, lambda n, _: progress.update(n))
    progress.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return values


def _all_fits(setup: _Setup, workers: int) -> tuple[dict[tuple[str, str, str, int], Fit], int]:
    """(arm, encoder, budget, seed) -> fit, and how many were computed now."""
    work = _work(setup)
    progress = Progress(len(work), unit="fit", title="transfer")
    fits: dict[tuple[str, str, str, int], Fit] = {}
    computed = 0
    held: tuple[str, np.ndarray] = ("", np.empty(0))
    data = setup.data
    for done, (key, arm, encoder, budget, seed) in enumerate(work, start=1):
        fit = load_fit(setup.out / "fits", key)
        if fit is None:
            if held[0] != encoder.digest:
                held = (encoder.digest, _features(setup, encoder, workers))
            pool, test = held[1][: len(data.train)], held[1][len(data.train) :]
            index = setup.subsets[seed][budget].index
            fit = run_fit(
                key.head, pool[index], data.train_labels[index], data.train_units[index], test, data.test_labels,
                len(data.classes), seed,
            )
            save_fit(setup.out / "fits", key, fit)
            computed += 1
        fits[arm, encoder.name, str(budget), seed] = fit
        progress.update(done)
    progress.close()
    return fits, computed


def _table(setup: _Setup, fits: Mapping[tuple[str, str, str, int], Fit]) -> list[Row]:
    rows = []
    for arm, encoders in setup.arms:
        groups = [encoders] if arm == "random" else [(encoder,) for encoder in encoders]
        for group in groups:
            rows += [_row(setup, fits, arm, group, budget) for budget in setup.budgets]
    return rows


def _row(
    setup: _Setup, fits: Mapping[tuple[str, str, str, int], Fit], arm: str, group: Sequence[Encoder], budget: Budget
) -> Row:
    seeds = setup.seeds(budget)
    chosen = [[fits[arm, encoder.name, str(budget), seed] for encoder in group] for seed in seeds]
    scores = _scores(chosen, setup)
    interval = _interval(scores, setup)
    baseline = _baseline(setup, fits, budget)
    difference = None if baseline is None or arm == "random" else _interval(scores - baseline, setup)
    flat = [fit for one in chosen for fit in one]
    metrics = {name: float(np.mean([fit.metrics[name] for fit in flat])) for name in flat[0].metrics}
    return Row(
        encoder="random" if arm == "random" else group[0].name, arm=arm, budget=str(budget),
        n_labels=flat[0].n_labels, subsets=len(seeds), encoders=len(group), metric="balanced_accuracy",
        score=interval.mean, low=interval.low, high=interval.high,
        difference=None if difference is None else difference.mean,
        difference_low=None if difference is None else difference.low,
        difference_high=None if difference is None else difference.high,
        trials=float(np.mean([fit.trials for fit in flat])),
        saw="none" if arm == "random" else _mark(group[0], setup).level,
        note=setup.subsets[0][budget].note, metrics=metrics,
    )


def _scores(chosen: Sequence[Sequence[Fit]], setup: _Setup) -> np.ndarray:
    """(S, m) correctness of each test sample, averaged over encoders."""
    labels = setup.data.test_labels
    return np.array([np.mean([correct(fit.probabilities, labels) for fit in one], axis=0) for one in chosen])


def _baseline(setup: _Setup, fits: Mapping[tuple[str, str, str, int], Fit], budget: Budget) -> np.ndarray | None:
    randoms = dict(setup.arms).get("random")
    if randoms is None:
        return None
    chosen = [[fits["random", e.name, str(budget), seed] for e in randoms] for seed in setup.seeds(budget)]
    return _scores(chosen, setup)


def _interval(scores: np.ndarray, setup: _Setup) -> Interval:
    """Over label subsets and test units at once; strata make the mean a balanced accuracy."""
    return hierarchical_interval(scores, setup.data.test_units, strata=setup.data.test_labels)


def _mark(encoder: Encoder, setup: _Setup) -> Mark:
    """What the encoder's pretraining saw of the task, from its card and from keys."""
    card = encoder.card
    derived = setup.store.derived_from()
    seen = _train_keys_hold_test(encoder, setup)
    counts = dict.fromkeys(card.label_columns, 0)
    mark = what_pretraining_saw(
        counts, setup.data.task.column, derived, bool(seen), foreign=encoder.foreign or seen is None,
        task_where=tuple(setup.data.task.where),
    )
    note = f" {card.label_note.partition(':')[0]}." if card.label_note else ""
    return dataclasses.replace(mark, sentence=mark.sentence.replace(" (0 labelled samples)", "") + note)


def _train_keys_hold_test(encoder: Encoder, setup: _Setup) -> bool | None:
    """Whether a test sample was in the run's split=train; None where its store is out of reach."""
    if encoder.card.store_digest == setup.store.digest:
        return False  # one store, and split=train is all that pretraining reads
    try:
        other = Store(encoder.card.store)
    except StoreError:
        return None
    if other.digest != encoder.card.store_digest:
        return None
    seen = {key.tobytes() for key in other.keys(other.split("train").all())}
    return any(key.tobytes() in seen for key in setup.store.keys(setup.data.test))


def _costs(runs: Sequence[str | Path]) -> list[tuple[Encoder, dict[str, Any]]]:
    found = []
    for run in runs:
        path = Path(run) / COST
        if path.is_file():
            found.append((run_encoder(run), json.loads(path.read_text(encoding="utf-8"))))
    return found


def _write_subsets(setup: _Setup) -> None:
    """Every subset by id: what another tool needs to fit on the same labels."""
    ids = setup.store.ids
    rows = [
        (str(budget), seed, ids[setup.data.train[i]])
        for seed, drawn in enumerate(setup.subsets)
        for budget, subset in drawn.items()
        if seed in setup.seeds(budget)
        for i in subset.index
    ]
    budget, seed, identifier = zip(*rows, strict=True)
    table = pa.table({"budget": list(budget), "subset_seed": list(seed), "id": list(identifier)})
    write_atomic(setup.out / "subsets.parquet", parquet_bytes(table))


def _write(result: TransferResult) -> None:
    from sciencessl.evaluate.plots import few_label_figure, save_figure
    from sciencessl.evaluate.tables import table_csv

    write_atomic(result.out / RESULT, json.dumps(result.to_json(), indent=1, default=_finite).encode())
    write_atomic(result.out / "table.csv", table_csv(result.rows).encode())
    save_figure(few_label_figure(result), result.out / "curve.png")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else str(value)

