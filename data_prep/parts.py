"""Writing the rows that are missing, all of them or those of one part, on the engine that was asked for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sciencessl.data_prep.begin import find_begun, is_done
from sciencessl.data_prep.estimate import worker_count
from sciencessl.data_prep.on_ray import OnRay
from sciencessl.data_prep.plan import Plan
from sciencessl.data_prep.pool import Engine, InProcess, Processes
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Source, Task
from sciencessl.data_prep.write import Progress, write_rows
from sciencessl.errors import StoreError
from sciencessl.store.format import StoreHeader
from sciencessl.store.lock import only_writer
from sciencessl.store.seal import read_receipt


@dataclass(frozen=True)
class PartReport:
    """What one part did.

    Attributes:
        out: The store.
        part: `I/N`.
        rows_written: Rows of the part that were prepared now.
        rows_kept: Rows of the part that were there already.
        refused: Reason -> samples of the part that were not stored.
        seconds: Time it took.
    """

    out: Path
    part: str
    rows_written: int
    rows_kept: int
    refused: Mapping[str, int]
    seconds: float

    @property
    def summary(self) -> str:
        """For people."""
        refused = "".join(f", {count:,} {reason}" for reason, count in self.refused.items())
        return (f"part {self.part} of {self.out}: {self.rows_written} rows written, {self.rows_kept} were there, "
                f"{self.seconds:.1f} s{f'; refused{refused[1:]}' if refused else ''}")


def write_missing(
    out: Path, header: StoreHeader, tasks: Sequence[Task], source: Source, settings: PrepareSettings,
    progress: Progress | None,
) -> int:
    """Write those of some rows that are not done, and return how many these were.

    Raises:
        StoreError: As `write_rows` and `is_done`.
    """
    missing = [t for t in tasks if not is_done(out, t, header.config_digest, source, settings.verify_inputs)]
    if not missing:
        return 0
    total, left = (sum(entry.samples for task in some for entry in task.inputs) for some in (tasks, missing))
    with closing(_start_engine(settings, missing)) as engine:
        write_rows(engine, out, header, missing, source, progress, total - left, total)
    return len(missing)


def _start_engine(settings: PrepareSettings, tasks: Sequence[Task]) -> Engine:
    if settings.engine == "ray":
        return OnRay(settings.workers)
    workers = worker_count(settings, tasks)
    return Processes(workers) if workers else InProcess()


def prepare_part(
    out: Path, plan: Plan, source: Source, settings: PrepareSettings, progress: Progress | None
) -> PartReport:
    """Write the rows of one part that are missing, while others may write other rows of the same store.

    Raises:
        StoreError: When the store is not begun, or is being written as a whole; as `write_rows`.
    """
    started = time.monotonic()
    part, parts = map(int, settings.part.split("/"))
    tasks = plan.tasks[part::parts]
    with only_writer(out, shared=True):
        header = find_begun(out, plan)
        if header is None:
            raise StoreError(
                f"{out} is not begun, so no part of it can be written; run the same command with --engine slurm "
                "instead of --part first."
            )
        written = 0 if header.sealed else write_missing(out, header, tasks, source, settings, progress)
        receipts = [read_receipt(out, task.row) for task in tasks]
    refused: Counter[str] = Counter()
    for receipt in receipts:
        refused.update(receipt.refused if receipt else ())
    return PartReport(out, settings.part, written, len(tasks) - written, dict(sorted(refused.items())),
                      time.monotonic() - started)
