"""What `prepare` would take, from preparing a few inputs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import cast

from sciencessl.data_prep.plan import Plan
from sciencessl.data_prep.pool import Engine, InProcess, Processes, WorkerDied
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.slurm import array_tasks
from sciencessl.data_prep.source import CRASHED, Input, Source, Task, is_refused
from sciencessl.data_prep.task import Tell, silent
from sciencessl.data_prep.write import blame
from sciencessl.errors import StoreError
from sciencessl.machine import cores
from sciencessl.store.writer import PreparedSample, Refusal

ESTIMATE_INPUTS, ESTIMATE_SAMPLES = 32, 512
WORKER_INPUTS, WORKER_BYTES = 500, 16 * 2**20
"""Inputs, or bytes of them, that take about as long to prepare as a process takes to start: half a second."""


@dataclass(frozen=True)
class PrepareEstimate:
    """What `prepare` would do, from preparing a few inputs drawn by key.

    Attributes:
        n_samples: Samples planned, without those that are known to be refused before anything is read.
        bytes: Payload bytes, estimated.
        seconds: Time, estimated for these workers; of one array task with `slurm`.
        core_seconds: Time of all cores together.
        engine: Who would prepare.
        array_tasks: Tasks of the SLURM array; 1 without one.
        workers: Processes side by side, in each array task; 0 is the calling process alone.
        scratch_bytes: Disk space for rows in hand, beside `bytes`: each is written under a temporary name first.
        refused: Reason -> refusals among the inputs tried, and all that are known before.
        tried: Inputs tried.
        rows: Rows of the store.
        guessed: Sentences on what columns and folders were taken for.
    """

    n_samples: int
    bytes: int
    seconds: float
    core_seconds: float
    engine: str
    array_tasks: int
    workers: int
    scratch_bytes: int
    refused: Mapping[str, int]
    tried: int
    rows: int
    guessed: tuple[str, ...]


def worker_count(settings: PrepareSettings, tasks: Sequence[Task]) -> int:
    """Processes for some rows, no more than one a row; 0 is this one. One a core unless told otherwise.

    Starting a process takes as long as preparing `WORKER_INPUTS` small images, so small stores get fewer.
    """
    if settings.workers is not None:
        return min(settings.workers, len(tasks))
    inputs = [entry for task in tasks for entry in task.inputs]
    worth = max(len(inputs) / WORKER_INPUTS, sum(entry.size for entry in inputs) / WORKER_BYTES)
    return min(cores(), len(tasks), math.ceil(worth) or 1)


def estimate(plan: Plan, source: Source, settings: PrepareSettings) -> PrepareEstimate:
    """Prepare a few inputs, keep nothing, and say what all would take.

    Raises:
        StoreError: When process after process dies.
    """
    inputs, known = _some_inputs(plan), _known_refusals(plan)
    with closing(InProcess() if settings.workers == 0 else Processes(1)) as engine:
        tried = _try(engine, source.for_tasks(), inputs)
    samples = plan.samples - sum(known.values())
    share = sum(entry.samples for entry in inputs) / max(samples, 1)
    core_seconds, stored = tried.seconds / share, tried.bytes
    rows, slurm = len(plan.tasks), settings.engine == "slurm"
    parts = array_tasks(settings, core_seconds, rows) if slurm else 1
    workers = min(settings.workers or 1, math.ceil(rows / parts)) if slurm else worker_count(settings, plan.tasks)
    at_once = parts * max(workers, 1)
    return PrepareEstimate(
        n_samples=samples, bytes=round(stored / share), seconds=core_seconds / at_once,
        core_seconds=core_seconds, engine=settings.engine,
        array_tasks=parts, workers=workers, scratch_bytes=round(stored / share / rows * min(at_once, rows)),
        refused=dict(Counter(tried.refused) + known), tried=len(inputs), rows=rows, guessed=source.guessed,
    )


def _some_inputs(plan: Plan) -> tuple[Input, ...]:
    """Inputs drawn by key, no more than give `ESTIMATE_SAMPLES`, but for the first that gives any."""
    tried = [entry for task in plan.tasks for entry in task.inputs if not is_refused(entry)]
    drawn = (tried or [entry for task in plan.tasks for entry in task.inputs])[:ESTIMATE_INPUTS]
    drawn.sort(key=lambda entry: entry.expected_bytes == 0)
    samples = [0, *accumulate(entry.samples for entry in drawn)]
    return tuple(entry for entry, before in zip(drawn, samples, strict=False) if before < ESTIMATE_SAMPLES)


def _known_refusals(plan: Plan) -> Counter[str]:
    return Counter(item.reason for task in plan.tasks for entry in task.inputs if is_refused(entry)
                   for item in entry.handle)


@dataclass(frozen=True)
class _Tried:
    seconds: float
    bytes: int
    refused: dict[str, int]


def _try(engine: Engine, source: Source, inputs: Sequence[Input]) -> _Tried:
    """Read inputs where a crash costs no more than itself."""
    try:
        return cast("_Tried", engine.call(_read, (source, inputs), 0))
    except WorkerDied:
        left = tuple(entry for entry in inputs if not blame(engine, source, entry))
    try:
        found = cast("_Tried", engine.call(_read, (source, left), 0))
    except WorkerDied as died:
        raise StoreError(f"nothing can be estimated: each process that tried {died}.") from None
    crashed = len(inputs) - len(left)  # 0 where a process died once
    return replace(found, refused={**found.refused, CRASHED: crashed}) if crashed else found


def _read(source: Source, inputs: Sequence[Input], tell: Tell = silent) -> _Tried:
    # The first file pays for loading decoders, which says nothing of the rest.
    list(source.read(Task(0, inputs[:1])))
    started = time.monotonic()
    items = list(source.read(Task(0, inputs)))
    return _Tried(
        seconds=time.monotonic() - started,
        bytes=sum(_payload_bytes(item) for item in items if isinstance(item, PreparedSample)),
        refused=dict(Counter(item.reason for item in items if isinstance(item, Refusal))),
    )


def _payload_bytes(sample: PreparedSample) -> int:
    return sum(len(v) if isinstance(v, bytes) else int(v.nbytes) for v in sample.payload.values())
