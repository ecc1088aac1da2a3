"""What `pretrain --dry-run` prints: steps, time, memory, and the lines that start the run on machines or on SLURM."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sciencessl.machine import GIB
from sciencessl.train.folder import CONFIG
from sciencessl.train.forecast import USABLE, ProcessMemory, RunEstimate
from sciencessl.verbs.output import REQUEUE

PER_MACHINE = 8
"""Most GPUs that a machine is taken to have."""
WARNING_SECONDS = 120
"""Time that SLURM leaves a job for its last checkpoint."""
NOT_PASSED_ON = {"--dry-run": 0, "--json": 0, "--processes": 1}
"""Words of a dry run that the run itself goes without, and how many words follow each."""
MIB = 2**20
_HEADER = ("processes", "images", "strategy", "checkpointing", "weights", "target", "gradients", "optimizer",
           "activations", "temporary", "gathered", "peak", "fits on")


@dataclass(frozen=True)
class Commands:
    """How to start the run.

    Attributes:
        processes: How many the lines start.
        torchrun: A line for one machine, or for each of several.
        sbatch: A batch script for SLURM.
    """

    processes: int
    torchrun: str
    sbatch: str


def start_commands(estimate: RunEstimate, arguments: Sequence[str], out: str) -> Commands:
    """The lines for the first number of several processes that the estimate is for, or for one.

    Args:
        estimate: What the dry run found.
        arguments: Words of its command line, with the verb.
        out: Run folder; empty for a place to be filled in.
    """
    counts = sorted({row.processes for row in estimate.memory} | {estimate.processes})
    processes = next((count for count in counts if count > 1), 1)
    words = ["-m", "sciencessl", *_passed_on(arguments)]
    if not out:
        words += ["--out", "RUN"]
    machine = max(size for size in range(1, PER_MACHINE + 1) if processes % size == 0)
    launcher = ["torchrun", "--nproc-per-node", str(machine)]
    if (machines := processes // machine) > 1:
        launcher += ["--nnodes", str(machines), "--rdzv-backend", "c10d", "--rdzv-endpoint", "FIRST_MACHINE:29500"]
    script = _batch_script(estimate, words, out or "RUN", machines, machine)
    return Commands(processes, shlex.join([*launcher, *words]), script)


def _passed_on(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skipped = 0
    for word in arguments:
        if skipped:
            skipped -= 1
        elif word.partition("=")[0] in NOT_PASSED_ON:
            skipped = 0 if "=" in word else NOT_PASSED_ON[word]
        else:
            kept.append(word)
    return kept


def _batch_script(estimate: RunEstimate, words: Sequence[str], out: str, machines: int, machine: int) -> str:
    new = shlex.join(["python", *words])
    again = shlex.join(["python", "-m", "sciencessl", "pretrain", "--resume", "--out", out])
    lines = [
        "#!/bin/bash",
        f"# Written by `sciencessl pretrain --dry-run`. {WARNING_SECONDS} s before its time is up the job writes a "
        "checkpoint and is",
        "# queued again; then it goes on where it stopped.",
        "#SBATCH --job-name=pretrain",
        f"#SBATCH --nodes={machines}",
        f"#SBATCH --ntasks-per-node={machine}",
        *([f"#SBATCH --gpus-per-node={machine}"] if estimate.device == "cuda" else ()),
        f"#SBATCH --cpus-per-task={estimate.workers + 1}",
        f"#SBATCH --signal=USR1@{WARNING_SECONDS}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"cd {shlex.quote(os.getcwd())} || exit 1",
        'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
        f"if [ -e {shlex.quote(str(Path(out) / CONFIG))} ]; then",
        f"  srun --kill-on-bad-exit=0 {again}",
        "else",
        f"  srun --kill-on-bad-exit=0 {new}",
        "fi",
        "code=$?",
        f'[ "$code" = {REQUEUE} ] && scontrol requeue "$SLURM_JOB_ID"',
        'exit "$code"',
    ]
    return "".join(f"{line}\n" for line in lines)


def estimate_text(estimate: RunEstimate, commands: Commands) -> str:
    """All of it for people."""
    return "\n".join([
        _length(estimate),
        f"{estimate.parameters / 1e6:.1f} M trainable parameters; {estimate.precision}, {estimate.memory_format}; "
        f"{estimate.operations_per_image / 1e9:.2f} GFLOP an image",
        "", *_memory_table(estimate.memory), "",
        f"{commands.processes} processes, by torchrun:", f"  {commands.torchrun}", "",
        f"{commands.processes} processes, as a script for sbatch:", commands.sbatch.rstrip(),
    ])


def _length(estimate: RunEstimate) -> str:
    text = f"{estimate.steps} steps, {estimate.epochs:.1f} epochs of {estimate.epoch_samples:,} samples"
    if estimate.seconds is None:
        return f"{text}; not timed"
    crew = "one process" if estimate.processes == 1 else f"{estimate.processes} processes"
    return f"{text}; about {_duration(estimate.seconds)} on this machine ({crew}, {estimate.device})"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _memory_table(rows: Sequence[ProcessMemory]) -> list[str]:
    from sciencessl.evaluate.tables import aligned

    if not rows:
        return ["memory: not counted"]
    unit, name = (GIB, "GiB") if max(row.peak_bytes for row in rows) >= GIB else (MIB, "MiB")
    cells: list[tuple[str, ...]] = [("", *_HEADER)]
    for row in rows:
        parts = row.parts
        sizes = (parts.parameters, parts.target, parts.gradients, parts.optimizer, parts.activations + parts.buffers,
                 parts.temporaries, parts.gathered, row.peak_bytes)
        cells.append(("*" if row.chosen else "", str(row.processes), str(row.images), row.strategy, row.checkpointing,
                      *(f"{size / unit:.2f}" for size in sizes),
                      f"{row.fits_gb} GB" if row.fits_gb else "none"))
    return [
        f"tensors of one process when it is fullest, in {name}, and the smallest device that holds them in "
        f"{USABLE:.0%} of its memory:",
        *aligned(cells, frozenset({1, 2, *range(5, 14)})),
        "images: of a micro-batch; *: as set now (--compute.strategy, --compute.checkpointing)",
    ]
