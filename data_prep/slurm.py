"""`--engine slurm`: the script of a job array whose tasks each write their rows of one store."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.spec import DomainSpec
from sciencessl.store.files import write_atomic

MOST_TASKS = 1000
"""SLURM's own default allows arrays of 1,001, and few sites raise it."""
TASK_SECONDS = 600
"""Work that a task should have, on one core: less is waiting in the queue and listing the sources."""
NOT_PASSED_ON = ("engine", "overwrite", "part", "slurm_options", "slurm_tasks")



@dataclass(frozen=True)
class ArrayScript:
    """What `prepare --engine slurm` left to be submitted.

    Attributes:
        out: The store, begun.
        script: The script of the array.
        tasks: Tasks of the array.
        rows: Rows of the store.
        task_seconds: Time of one task, estimated.
        commands: The two lines to type: the array; then, when it has ended, what finishes the store.
    """

    out: Path
    script: Path
    tasks: int
    rows: int
    task_seconds: float
    commands: tuple[str, str]

    @property
    def summary(self) -> str:
        """For people."""
        return "\n".join([
            f"{self.out} is laid, {self.rows} rows to be written by {self.tasks} array tasks of about "
            f"{self.task_seconds:.0f} s each. Submit:", *(f"  {line}" for line in self.commands),
            "The second seals the store, and writes what tasks that failed have left.",
        ])


def array_tasks(settings: PrepareSettings, core_seconds: float, rows: int) -> int:
    """Tasks of an array: as asked for, or so many that each has `TASK_SECONDS` of work; at most one a row."""
    return min(settings.slurm_tasks or min(math.ceil(core_seconds / TASK_SECONDS) or 1, MOST_TASKS), rows)


def write_array(
    out: Path, command: Sequence[str], options: str, tasks: int, rows: int, task_seconds: float
) -> ArrayScript:
    """Write `NAME.slurm.sh` beside a store that is begun.

    Args:
        out: The store.
        command: `prepare` without an engine.
        options: For `sbatch`, in one line.
        tasks: Tasks of the array.
        rows: Rows of the store.
        task_seconds: Time of one task, estimated.

    Raises:
        OSError: As the file system says.
    """
    script = out.absolute().with_name(f"{out.name.removesuffix('.zarr')}.slurm.sh")
    lines = [
        "#!/bin/bash",
        "# Written by `sciencessl prepare --engine slurm`. A task of the array writes its rows of the store;",
        "# run without an array, this writes whatever is missing and seals.",
        "#SBATCH --job-name=prepare",
        f"#SBATCH --array=0-{tasks - 1}",
        "#SBATCH --requeue",
        *([f"#SBATCH {options}"] if options else ()),
        "set -eu",
        f"cd {shlex.quote(os.getcwd())}",
        f'exec {shlex.join(command)} ${{SLURM_ARRAY_TASK_ID:+--part "$SLURM_ARRAY_TASK_ID/{tasks}"}}',
    ]
    write_atomic(script, "".join(f"{line}\n" for line in lines).encode())
    path = shlex.quote(str(script))
    after = f"--dependency=afterany:${{job%%;*}} {options}".strip()
    return ArrayScript(
        out=out, script=script, tasks=tasks, rows=rows, task_seconds=task_seconds,
        commands=(f"job=$(sbatch --parsable {path})", f"sbatch {after} --wrap {shlex.quote(f'bash {path}')}"),
    )


def plain_command(
    spec: DomainSpec, sources: Sequence[str | Path], out: Path, settings: PrepareSettings, domain_options: object | None
) -> list[str]:
    """The words that prepare the same store without an engine, by this interpreter and from this folder."""
    words = [sys.executable, "-m", "sciencessl", "prepare", spec.name, *map(str, sources), "--out", str(out)]
    return [*words, *_flags(settings), *(_flags(domain_options) if domain_options is not None else ())]


def _flags(settings: object) -> Iterator[str]:
    """Settings that differ from their defaults, as flags."""
    usual = type(settings)()
    for entry in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, entry.name)
        if entry.name in NOT_PASSED_ON or value == getattr(usual, entry.name):
            continue
        flag = f"--{entry.name.replace('_', '-')}"
        if isinstance(value, bool):
            yield flag
        elif isinstance(value, tuple):
            yield from (flag, *map(str, value))
        else:
            yield f"{flag}={value}"
