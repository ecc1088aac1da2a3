"""The script of a job array: what it says, and what comes of running it."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sciencessl.config import parse_settings
from sciencessl.data_prep.engine import PrepareSettings, prepare
from sciencessl.data_prep.slurm import array_tasks, plain_command, write_array
from sciencessl.domains.galaxy.sources import GalaxyPrepare
from sciencessl.domains.web import SPEC
from sciencessl.flags import add_settings, given
from sciencessl.store.reader import Store

ODD = "it's a $(touch oops) \"folder\" `x` \\ *"


@pytest.mark.parametrize(("asked", "core_seconds", "rows", "tasks"), [
    (None, 1.0, 16, 1),
    (None, 6001.0, 200, 11),
    (None, 6001.0, 8, 8),
    (None, 1e9, 120_000, 1000),
    (7, 1e9, 120_000, 7),
    (5000, 1.0, 120_000, 5000),
    (50, 1.0, 16, 16),
])
def test_tasks_of_an_array(asked: int | None, core_seconds: float, rows: int, tasks: int) -> None:
    assert array_tasks(PrepareSettings(slurm_tasks=asked), core_seconds, rows) == tasks


def test_words_reach_the_command_as_they_were_whatever_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ODD).mkdir()
    monkeypatch.chdir(tmp_path / ODD)
    array = write_array(Path("s.zarr"), ["printf", "%s\\n", ODD, ""], "--partition=cpu -t 5", 4, 20, 60.0)
    assert array.script == tmp_path / ODD / "s.slurm.sh"
    options = [line for line in array.script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --array=0-3" in options
    assert options[-1] == "#SBATCH --partition=cpu -t 5"

    def run(**environment: str) -> str:
        return subprocess.run(
            ["bash", str(array.script)], cwd="/", env={"PATH": os.environ["PATH"], **environment}, check=True,
            capture_output=True, text=True,
        ).stdout

    assert run() == f"{ODD}\n\n"
    assert run(SLURM_ARRAY_TASK_ID="3") == f"{ODD}\n\n--part\n3/4\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([ODD, "s.slurm.sh"])


def test_the_command_carries_every_setting_but_the_engine() -> None:
    settings = PrepareSettings(
        catalogue="-c.csv", label=("a b", "c"), keep=("all",), test_fraction=0.25, resize_px=64, verify_inputs=True,
        workers=3, engine="slurm", slurm_tasks=4, slurm_options="-p x", overwrite=True,
    )
    own = GalaxyPrepare(simulate_votes_from="class", simulate_seed=5)
    words = plain_command(SPEC, ["in", Path("b")], Path("s.zarr"), settings, own)
    assert words[1:8] == ["-m", "sciencessl", "prepare", "web", "in", "b", "--out"]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for kind in (PrepareSettings, GalaxyPrepare):
        add_settings(parser, kind, "settings")
    found = parser.parse_args(words[9:])
    parsed: list[Any] = [
        parse_settings(kind, given(found, kind), "", dict.fromkeys(given(found, kind), "flags"))
        for kind in (PrepareSettings, GalaxyPrepare)
    ]
    assert parsed[0] == PrepareSettings(
        catalogue="-c.csv", label=("a b", "c"), keep=("all",), test_fraction=0.25, resize_px=64, verify_inputs=True,
        workers=3,
    )
    assert parsed[1] == own


SBATCH = """#!/bin/bash
# Runs what SLURM would: all tasks of the array at once, one of them twice as after a requeue; then the wrapped command.
echo "$*" >> {log}
if [ "$1" = --parsable ]; then
  for task in 0 1 1; do SLURM_ARRAY_TASK_ID=$task bash "$2" >> {log} 2>&1 & done
  wait
  echo "77;cluster"
else
  sh -c "${{@: -1}}" >> {log} 2>&1
fi
"""


def test_the_printed_lines_make_the_store_that_one_process_makes(
    write_images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_images([f"{name}/{i}.jpg" for name in "ab" for i in range(12)], "the data")
    whole = prepare(SPEC, [folder], tmp_path / "whole.zarr", PrepareSettings(workers=0))
    log = tmp_path / "log"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(SBATCH.format(log=log))
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    settings = PrepareSettings(engine="slurm", slurm_tasks=2, workers=0, slurm_options="--time=5")
    array: Any = prepare(SPEC, ["the data"], Path("s.zarr"), settings)
    assert (array.tasks, array.rows) == (2, 16)
    assert all(line in array.summary for line in array.commands)
    subprocess.run(["bash", "-c", "\n".join(array.commands)], check=True, timeout=120)
    told = log.read_text()
    assert Store(tmp_path / "s.zarr").digest == whole.manifest_digest, told  # type: ignore[union-attr]
    assert "nothing to do" not in told
    assert "--dependency=afterany:77 --time=5 --wrap bash" in told
    assert "part 0/2 of s.zarr: 8 rows written, 0 were there" in told
