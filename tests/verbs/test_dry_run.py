"""The text of a dry run, and the lines that start what it was about."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from sciencessl.train.forecast import ProcessMemory, RunEstimate
from sciencessl.train.memory import StepMemory
from sciencessl.verbs.dry_run import estimate_text, start_commands

PARTS = StepMemory(2**30, 2**30, 0, 2**29, 2**31, 5 * 2**30, 0, 2**28)
ROWS = tuple(
    ProcessMemory(processes, 256 // processes, strategy, "none", PARTS.peak, PARTS, fits, chosen)  # type: ignore[arg-type]
    for processes, strategy, fits, chosen in ((1, "alone", 16, True), (8, "ddp", 16, True), (8, "fsdp", None, False))
)
ESTIMATE = RunEstimate(1000, 7300.0, 1, "cuda", 5, 25_600_000, "bfloat16", "channels_last", 3.2e10, 5000, 51.2,
                       ("an epoch is 5,000 samples",), ROWS)
WORDS = ["pretrain", "--data", "my store.zarr", "--dry-run", "--processes", "8", "--json", "--steps", "1000",
         "--processes=4", "--out", "runs/a"]
KEPT = ["pretrain", "--data", "my store.zarr", "--steps", "1000", "--out", "runs/a"]


def test_torchrun_gets_the_words_of_the_dry_run_but_for_its_own() -> None:
    commands = start_commands(ESTIMATE, WORDS, "runs/a")
    assert commands.processes == 8
    assert shlex.split(commands.torchrun) == ["torchrun", "--nproc-per-node", "8", "-m", "sciencessl", *KEPT]


def test_many_processes_are_laid_out_over_machines_of_at_most_eight() -> None:
    wide = dataclasses.replace(ESTIMATE, memory=(dataclasses.replace(ROWS[1], processes=24),))
    commands = start_commands(wide, WORDS, "runs/a")
    assert commands.torchrun.startswith("torchrun --nproc-per-node 8 --nnodes 3 --rdzv-backend c10d --rdzv-endpoint ")
    assert {"#SBATCH --nodes=3", "#SBATCH --ntasks-per-node=8", "#SBATCH --gpus-per-node=8"} <= set(
        commands.sbatch.splitlines()
    )


def test_a_run_folder_that_is_not_named_yet_is_a_place_to_fill_in() -> None:
    commands = start_commands(dataclasses.replace(ESTIMATE, device="cpu"), KEPT[:-2], "")
    assert commands.torchrun.endswith("--out RUN")
    assert "if [ -e RUN/config.yaml ]; then" in commands.sbatch
    assert "gpus" not in commands.sbatch


@pytest.mark.parametrize(("code", "begun"), [(0, False), (75, False), (75, True), (1, True)])
def test_the_batch_script_starts_or_goes_on_and_queues_itself_again_after_75(
    code: int, begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run by bash, with programs in place of SLURM's that write down their words."""
    work, called = tmp_path / "my work", tmp_path / "called"
    for name, ends in (("srun", code), ("scontrol", 0)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/bash\necho "{name} $@" >> {shlex.quote(str(called))}\nexit {ends}\n')
        program.chmod(0o755)
    work.mkdir()
    monkeypatch.chdir(work)
    if begun:
        (work / "runs" / "a").mkdir(parents=True)
        (work / "runs" / "a" / "config.yaml").touch()
    script = start_commands(ESTIMATE, WORDS, "runs/a").sbatch
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", "SLURM_CPUS_PER_TASK": "6"}
    ended = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, check=False)
    assert ended.returncode == code
    words = "pretrain --resume --out runs/a" if begun else " ".join(KEPT)
    lines = [f"srun --kill-on-bad-exit=0 python -m sciencessl {words}"]
    assert called.read_text().splitlines() == lines + (["scontrol requeue 42"] if code == 75 else [])


def test_the_script_is_told_of_its_end_in_time_and_may_be_queued_again() -> None:
    lines = start_commands(ESTIMATE, WORDS, "runs/a").sbatch.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {"#SBATCH --signal=USR1@120", "#SBATCH --requeue", "#SBATCH --cpus-per-task=6"} <= set(lines)


def test_the_text_has_a_line_for_each_row() -> None:
    lines = estimate_text(ESTIMATE, start_commands(ESTIMATE, WORDS, "runs/a")).splitlines()
    assert lines[0] == "1000 steps, 51.2 epochs of 5,000 samples; about 2.0 hours on this machine (one process, cuda)"
    assert lines[1] == "25.6 M trainable parameters; bfloat16, channels_last; 32.00 GFLOP an image"
    sizes = ["1.00", "1.00", "0.50", "2.00", "5.00", "0.00", "0.25", "9.75"]
    assert lines[5].split() == ["*", "1", "256", "alone", "none", *sizes, "16", "GB"]
    assert lines[7].split()[:3] == ["8", "32", "fsdp"]
    assert lines[7].endswith("none")
    assert max(map(len, lines[3:8])) <= 140


def test_the_text_says_what_was_not_found_out() -> None:
    bare = dataclasses.replace(ESTIMATE, seconds=None, memory=())
    lines = estimate_text(bare, start_commands(bare, WORDS, "runs/a")).splitlines()
    assert lines[0].endswith("samples; not timed")
    assert "memory: not counted" in lines
    assert "  torchrun --nproc-per-node 1 -m sciencessl pretrain" in "\n".join(lines)
