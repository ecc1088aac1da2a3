"""Whole runs of several processes: the same as one, whatever is killed, and whoever goes on with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sciencessl.methods.byol import Byol
from sciencessl.setting_groups import Strategy
from sciencessl.train.checkpoint import ABOUT, checkpoint_path, checkpoints, read_checkpoint
from sciencessl.train.folder import MODEL, WEIGHTS, read_metrics
from sciencessl.train.module import Pretraining
from sciencessl.train.ranks import Ranks
from sciencessl.train.run import RunResult, pretrain
from sciencessl.train.vote_head import read_vote_head
from tests.train.stored import stored
from tests.train.test_resume import assert_equal_runs
from tests.train.two_processes import TwoProcesses

LABELS = ["class"]
"""Without votes, whose head has dropout: each rank draws its own."""


def run_part(
    ranks: Ranks, store: Path, out: Path, settings: dict[str, Any], resume: bool = False, stop: int | None = None,
    method: str = "",
) -> tuple[int, bool, list[str]]:
    """A run, or the next part of it, in both processes; the second one gets SIGTERM after so many steps."""
    told: list[str] = []
    inner = Pretraining.training_step

    def step(self: Pretraining, batch: Any, batch_idx: int) -> None:
        inner(self, batch, batch_idx)
        if ranks.rank == 1 and self.taken == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    Pretraining.training_step = step  # type: ignore[method-assign]
    try:
        result = pretrain("" if resume else store, out, method, settings=settings, resume=resume, tell=told.append)
    finally:
        Pretraining.training_step = inner  # type: ignore[method-assign]
    assert isinstance(result, RunResult)
    return result.steps, result.finished, told


@pytest.fixture(scope="module")
def settings(tiny_settings: dict[str, Any]) -> dict[str, Any]:
    # Not AdamW: its first steps are signs of gradients, and those of gradients near zero are rounding.
    return {**tiny_settings, "labels": LABELS, "optim.name": "lars", "optim.base_lr": 2.0}


@pytest.fixture(scope="module")
def replicated(
    both: TwoProcesses, tiny_store: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run of two processes that nothing happened to."""
    out = tmp_path_factory.mktemp("replicated") / "run"
    assert [x[:2] for x in both(run_part, tiny_store, out, settings)] == [(9, True)] * 2
    return out


def assert_close_runs(one: Path, other: Path) -> None:
    """Nine steps in float32 on batches of eight: rounding grows from step to step."""
    first, second = (stored(checkpoint_path(run, 9)) for run in (one, other))
    assert first.keys() == second.keys()
    for name in (name for name in first if not name.startswith("optimizer/")):
        torch.testing.assert_close(second[name], first[name], rtol=2e-3, atol=2e-3, msg=name)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_swav_of_two_processes_balances_its_codes_as_one(
    strategy: Strategy, both: TwoProcesses, tiny_store: Path, settings: dict[str, Any], tiny_run: Any, tmp_path: Path
) -> None:
    """Prototypes that rest, then learn; two queues of one step each, for one of the same rows."""
    changes = {**settings, "steps": 4, "labels": [], "options.prototypes": 6, "options.frozen_steps": 2}
    own = {**changes, "options.queue": 4, "compute.strategy": strategy}
    assert [x[:2] for x in both(run_part, tiny_store, tmp_path / "two", own, False, None, "swav")] == [(4, True)] * 2
    alone = {**changes, "options.queue": 8}
    tiny_run(tmp_path / "one", method="swav", **{name.replace(".", "__"): value for name, value in alone.items()})
    one, two = (stored(checkpoint_path(tmp_path / name, 4)) for name in ("one", "two"))
    assert [x["method._extra_state"].tolist() for x in (one, two)] == [[4, 8], [4, 4]]
    for name in (name for name in one if name.startswith(("method.encoder", "method.projector", "method.prototypes"))):
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-3, msg=name)
    queues = torch.cat([two["method.queue@0"], two["method.queue@1"]], dim=1)
    torch.testing.assert_close(queues, one["method.queue@0"], rtol=1e-3, atol=1e-3)


def test_two_processes_train_what_one_does(replicated: Path, tiny_run: Any, tmp_path: Path) -> None:
    tiny_run(tmp_path / "alone", labels=LABELS, optim__name="lars", optim__base_lr=2.0)
    assert_close_runs(tmp_path / "alone", replicated)
    mine, theirs = (read_metrics(run) for run in (tmp_path / "alone", replicated))
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] == [2, 4, 6, 8, 9]
    for one, two in zip(mine, theirs, strict=True):
        for name in ("loss", "pair_loss", "cosine", "label_loss", "labelled", "lr", "tau", "images"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), name
    about = read_checkpoint(checkpoint_path(replicated, 9))
    assert about["world"] == 2
    assert "2 processes, ddp, each with 4 of 8 samples" in (replicated / "train.log").read_text()


@pytest.mark.parametrize("stop", [3, 5])
def test_a_stop_asked_of_one_rank_stops_all_and_the_run_ends_with_the_same_bits(
    stop: int, both: TwoProcesses, tiny_store: Path, settings: dict[str, Any], replicated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert [x[:2] for x in both(run_part, tiny_store, out, settings, False, stop)] == [(stop + 2, False)] * 2
    assert not (out / MODEL).exists()
    assert checkpoints(out)[-1] == checkpoint_path(out, stop + 2)
    (_, finished, told), (_, _, silent) = both(run_part, tiny_store, out, {}, True)
    assert (finished, told, silent) == (True, [f"resuming after step {stop + 2} of 9"], [])
    assert_equal_runs(replicated, out)


@pytest.mark.parametrize(("first", "second"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_a_run_goes_on_under_another_strategy_and_world_size(
    first: Strategy, second: Strategy, both: TwoProcesses, tiny_store: Path, tiny_run: Any, settings: dict[str, Any],
    replicated: Path, tmp_path: Path,
) -> None:
    """Two processes, then one, then two again."""
    out = tmp_path / "run"
    both(run_part, tiny_store, out, {**settings, "compute.strategy": first}, False, 2)
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        inner = Pretraining.on_train_batch_start

        def stop(self: Pretraining, *args: Any) -> Any:
            self.stop_requested = self.taken == 5
            return inner(self, *args)

        patch.setattr(Pretraining, "on_train_batch_start", stop)
        assert tiny_run(out, resume=True, tell=told.append).steps == 6
    assert told == ["resuming after step 4 of 9, with 1 processes after 2"]
    (_, finished, told), _ = both(run_part, tiny_store, out, {"compute.strategy": second}, True)
    assert finished
    assert told == ["resuming after step 6 of 9, with 2 processes after 1"]
    assert_close_runs(replicated, out)


def test_a_sharded_run_exports_its_vote_head_whole(
    both: TwoProcesses, tiny_store: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    changes = {**settings, "labels": ["smooth", "arms"], "steps": 2, "compute.strategy": "fsdp"}
    assert [x[:2] for x in both(run_part, tiny_store, tmp_path / "run", changes)] == [(2, True)] * 2
    trained = stored(checkpoint_path(tmp_path / "run", 2))["terms.0.head.linear.weight"]
    assert torch.equal(torch.tensor(read_vote_head(tmp_path / "run").weight), trained)


def test_a_torn_checkpoint_of_two_ranks_is_passed_over_aloud(
    both: TwoProcesses, tiny_store: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    sharded = {**settings, "compute.strategy": "fsdp"}
    both(run_part, tiny_store, whole, sharded)
    both(run_part, tiny_store, out, sharded, False, 5)
    shards = sorted(checkpoint_path(out, 7).glob("*.safetensors"))
    assert len(shards) == 2
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    (_, _, told), _ = both(run_part, tiny_store, out, {}, True)
    assert told[0].startswith("warning: ")
    assert "torn" in told[0]
    assert told[1] == "resuming after step 6 of 9"
    assert_equal_runs(whole, out)


def test_a_foreign_checkpoint_is_refused_on_all_ranks(both: TwoProcesses, replicated: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(replicated, out)
    for path in checkpoints(out):
        (path / ABOUT).write_text("{}")
    first, second = both(fails, out)
    assert first.startswith("RunError: ")
    assert "no checkpoint can be read" in first
    assert second.startswith("FirstRankError: ")


def fails(ranks: Ranks, out: Path) -> str:
    try:
        pretrain("", out, resume=True, tell=lambda line: None)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def breaks(ranks: Ranks, store: Path, out: Path, settings: dict[str, Any]) -> str:
    inner = Byol.pair_loss

    def full(self: Byol, *args: Any) -> Any:
        if self.ranks.world > 1:  # not where operations are counted, before the run
            raise RuntimeError("out of memory")
        return inner(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Byol, "pair_loss", full)
        try:
            pretrain(store, out, settings=settings, tell=lambda line: None)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


def test_what_fails_within_a_sharded_step_is_what_is_said(
    both: TwoProcesses, tiny_store: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    sharded = {**settings, "compute.strategy": "fsdp"}
    assert both(breaks, tiny_store, tmp_path / "run", sharded) == ["RuntimeError: out of memory"] * 2


COMMAND = """
import os, signal, sys
from sciencessl.train.module import Pretraining

kind, victim, at = os.environ["KIND"], int(os.environ["VICTIM"]), int(os.environ["AT"])
inner = Pretraining.training_step

def training_step(self, batch, batch_idx):
    if self.wrapped.ranks.rank == victim and self.taken == at:
        self.written()
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "terminate":
            os.kill(os.getppid(), signal.SIGTERM)
    return inner(self, batch, batch_idx)

Pretraining.training_step = training_step

if __name__ == "__main__":
    from sciencessl.cli import main
    main()
"""


def command(script: Path, kind: str, victim: int, at: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it until that happens to a rank, or to the command, before the step of that number."""
    script.write_text(COMMAND)
    environ = {**os.environ, "KIND": kind, "VICTIM": str(victim), "AT": str(at), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(script), "pretrain", "--processes", "2", *words], env=environ, capture_output=True,
        text=True, check=False, timeout=600,
    )


def flags(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() if name != "labels" for word in (f"--{name}", str(value))]


def test_one_command_of_two_processes_survives_signals_and_kills(
    tiny_store: Path, settings: dict[str, Any], replicated: Path, tmp_path: Path
) -> None:
    """SIGTERM to the command: exit 75; kill -9 of a rank: exit 1 at once; continued, the same bits."""
    out, script = tmp_path / "run", tmp_path / "job.py"
    started = ("--data", str(tiny_store), "--out", str(out), *flags(settings), "--labels", *LABELS)
    done = command(script, "terminate", 1, 1, *started)
    assert done.returncode == 75, done.stderr
    assert done.stdout.count("stopped with a checkpoint; continue with --resume") == 1
    (last,) = checkpoints(out)
    done = command(script, "kill", 1, 8, "--resume", "--out", str(out))
    assert done.returncode == 1, done.stderr
    assert "sciencessl: error: process 1 of 2 was ended by signal 9 (Killed, as when memory runs out). " in done.stderr
    assert "sciencessl: error: another process of the run has ended" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / MODEL).exists()
    assert checkpoints(out)[-1] == checkpoint_path(out, 6) != last
    done = command(script, "none", 0, 0, "--resume", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "resuming after step 6 of 9" in done.stdout
    assert_equal_runs(replicated, out)


@pytest.mark.slow
def test_a_sharded_regnet_that_is_killed_twice_ends_with_the_same_weights(tiny_store: Path, tmp_path: Path) -> None:
    """RegNetY-016 under FSDP2 on two processes: each of them is killed once, between checkpoints and just after one."""
    settings = {
        "backbone": "regnety_016", "batch": 8, "steps": 9, "views.size": 32, "compute.strategy": "fsdp",
        "compute.precision": "float32", "compute.memory_format": "contiguous", "compute.threads": 1,
        "compute.workers": 1, "compute.checkpointing": "stage", "log.every": 2, "log.checkpoint_every": 2,
    }
    whole, out, script = tmp_path / "whole", tmp_path / "run", tmp_path / "job.py"
    done = command(script, "none", 0, 0, "--data", str(tiny_store), "--out", str(whole), *flags(settings))
    assert done.returncode == 0, done.stderr
    done = command(script, "kill", 1, 3, "--data", str(tiny_store), "--out", str(out), *flags(settings))
    assert done.returncode == 1, done.stderr
    done = command(script, "kill", 0, 6, "--resume", "--out", str(out))
    assert done.returncode == 1, done.stderr
    done = command(script, "none", 0, 0, "--resume", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "resuming after step " in done.stdout
    first, second = (stored(checkpoint_path(run, 9)) for run in (whole, out))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    exported = [load_file(run / WEIGHTS) for run in (whole, out)]
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in exported[0])
