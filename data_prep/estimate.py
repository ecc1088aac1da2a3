"""What `prepare` would take, from preparing a few inputs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sciencessl.data_prep.plan import Plan
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.slurm import array_tasks
from sciencessl.data_prep.source import Source, Task
from sciencessl.machine import cores
from sciencessl.store.writer import PreparedSample, Refusal

ESTIMATE_INPUTS = 32
WORKER_INPUTS, WORKER_BYTES = 500, 16 * 2**20
"""Inputs, or bytes of them, that take about as long to prepare as a process takes to start: half a second."""


@dataclass(frozen=True)
class PrepareEstimate:
    """What `prepare` would do, from preparing a few inputs drawn by key.

    Attributes:
        n_samples: Samples planned, refused ones included.
        bytes: Payload bytes, estimated.
        seconds: Time, estimated for these workers; of one array task with `slurm`.
        engine: Who would prepare.
        array_tasks: Tasks of the SLURM array; 1 without one.
        workers: Processes side by side, in each array task; 0 is the calling process alone.
        scratch_bytes: Disk space for rows in hand, beside `bytes`: each is written under a temporary name first.
        refused: Reason -> refusals among the inputs tried.
        tried: Inputs tried.
        rows: Rows of the store.
        guessed: Sentences on what columns and folders were taken for.
    """

    n_samples: int
    bytes: int
    seconds: float
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
    """Prepare a few inputs, keep nothing, and say what all would take."""
    inputs = [entry for task in plan.tasks for entry in task.inputs][:ESTIMATE_INPUTS]
    # The first file pays for loading decoders, which says nothing of the rest.
    list(source.read(Task(0, inputs[:1])))
    started = time.monotonic()
    items = list(source.read(Task(0, inputs)))
    share = sum(entry.samples for entry in inputs) / plan.samples
    core_seconds = (time.monotonic() - started) / share
    stored = sum(_payload_bytes(item) for item in items if isinstance(item, PreparedSample))
    rows, slurm = len(plan.tasks), settings.engine == "slurm"
    parts = array_tasks(settings, core_seconds, rows) if slurm else 1
    workers = min(settings.workers or 1, math.ceil(rows / parts)) if slurm else worker_count(settings, plan.tasks)
    at_once = parts * max(workers, 1)
    return PrepareEstimate(
        n_samples=plan.samples, bytes=round(stored / share), seconds=core_seconds / at_once, engine=settings.engine,
        array_tasks=parts, workers=workers, scratch_bytes=round(stored / share / rows * min(at_once, rows)),
        refused=dict(Counter(item.reason for item in items if isinstance(item, Refusal))),
        tried=len(inputs), rows=rows, guessed=source.guessed,
    )


def _payload_bytes(sample: PreparedSample) -> int:
    return sum(len(v) if isinstance(v, bytes) else int(v.nbytes) for v in sample.payload.values())
