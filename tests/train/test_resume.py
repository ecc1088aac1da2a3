"""A run that was stopped, killed or torn ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sciencessl.data.loader import loader_error
from sciencessl.errors import ConfigError, RunError, StoreError
from sciencessl.train import estimate, plan
from sciencessl.train.checkpoint import ABOUT, checkpoint_path, checkpoints, read_checkpoint
from sciencessl.train.folder import MODEL, WEIGHTS, read_metrics, read_model
from sciencessl.train.module import Pretraining
from tests.train.stored import stored

TIMING = {"images_per_s", "data_wait"}
Hook = Callable[[Pretraining], None]


def rows(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(run)]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def assert_equal_runs(one: Path, other: Path, steps: int = 9) -> None:
    """Weights of all networks, heads, batch statistics and target; optimiser; metrics; export."""
    first, second = (stored(checkpoint_path(run, steps)) for run in (one, other))
    assert {name.partition(".")[0] for name in first} >= {"method", "terms", "optimizer/method"}
    assert any(name.startswith("method.target_encoder") for name in first)
    assert same(first, second)
    contents = [read_checkpoint(checkpoint_path(run, steps)) for run in (one, other)]
    for part in ("taken", "identity", "loader"):
        assert same(contents[0][part], contents[1][part]), part
    assert rows(one) == rows(other)
    assert [row["step"] for row in rows(one)] == [2, 4, 6, 8, 9]
    exported, again = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert exported
    assert same(exported, again)


def at(monkeypatch: pytest.MonkeyPatch, hook: str, step: int, act: Hook) -> None:
    """Do something when that hook is called with so many steps taken."""
    inner = getattr(Pretraining, hook)

    def outer(self: Pretraining, *args: Any) -> Any:
        result = inner(self, *args)
        if self.taken == step:
            act(self)
        return result

    monkeypatch.setattr(Pretraining, hook, outer)


def request(module: Pretraining) -> None:
    module.stop_requested = True


def terminate(module: Pretraining) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("hook", "step", "act"),
    [
        ("training_step", 3, request),  # where a checkpoint is due anyway; the stop comes after the next step
        ("on_train_batch_start", 4, terminate),
        ("on_train_batch_end", 5, terminate),  # Lightning would leave here, though other ranks may begin a step
    ],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(
    hook: str, step: int, act: Hook, tmp_path: Path, tiny_run: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at(patch, hook, step, act)
        stopped = tiny_run(out)
    assert not stopped.finished
    assert stopped.steps == {"training_step": 4, "on_train_batch_start": 5, "on_train_batch_end": 6}[hook]
    assert checkpoints(out)[-1] == checkpoint_path(out, stopped.steps)
    assert not (out / MODEL).exists()
    told: list[str] = []
    result = tiny_run(out, resume=True, tell=told.append)
    assert (result.finished, result.steps) == (True, 9)
    assert told == [f"resuming after step {stopped.steps} of 9"]
    assert_equal_runs(finished, out)


def test_a_second_ctrl_c_ends_a_run_at_once(
    tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(module: Pretraining) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    at(monkeypatch, "on_train_batch_start", 4, twice)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "run")
    assert checkpoints(tmp_path / "run")[-1] == checkpoint_path(tmp_path / "run", 3)


def test_a_run_stopped_twice_and_trained_with_lars_is_the_same_too(
    tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"optim__name": "lars", "optim__base_lr": 0.5, "accumulate": 2, "labels": ["class"]}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tiny_run(whole, **changes)
    with monkeypatch.context() as patch:
        at(patch, "on_train_batch_start", 1, request)
        assert tiny_run(parts, **changes).steps == 2
    with monkeypatch.context() as patch:
        at(patch, "on_train_batch_start", 6, request)
        assert tiny_run(parts, resume=True).steps == 7
    assert tiny_run(parts, resume=True).finished
    assert_equal_runs(whole, parts)


def test_a_network_without_norms_goes_on_without_a_second_start_from_data(
    tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"norm": "none", "labels": ["class"]}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tiny_run(whole, **changes)
    with monkeypatch.context() as patch:
        at(patch, "on_train_batch_start", 4, request)
        assert tiny_run(parts, **changes).steps == 5
    with monkeypatch.context() as patch:
        patch.setattr(plan, "start_from_data", None)
        assert tiny_run(parts, resume=True).finished
    assert_equal_runs(whole, parts)


SCRIPT = """
import os, signal, sys

def main():
    from sciencessl.train.module import Pretraining
    from sciencessl.train.run import pretrain

    inner, kind = Pretraining.training_step, sys.argv[4]
    def training_step(self, batch, batch_idx):
        if self.taken == 5 and kind == "kill":
            self._saver.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.taken == 4 and kind == "terminate":
            os.killpg(0, signal.SIGTERM)
        return inner(self, batch, batch_idx)
    Pretraining.training_step = training_step
    result = pretrain(sys.argv[1], sys.argv[2], settings=eval(sys.argv[3]), tell=lambda line: None)
    sys.exit(0 if result.finished else 75)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(("kind", "code", "taken"), [("kill", -signal.SIGKILL, 3), ("terminate", 75, 5)])
def test_a_job_that_is_killed_or_terminated_with_its_workers_can_go_on(
    kind: str, code: int, taken: int, tmp_path: Path, tiny_run: Any, tiny_store: Path,
    tiny_settings: dict[str, Any], finished: Path,
) -> None:
    out, script = tmp_path / "run", tmp_path / "job.py"
    script.write_text(SCRIPT)
    settings = {**tiny_settings, "compute.workers": int(kind == "terminate")}
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_store), str(out), repr(settings), kind],
        start_new_session=True, capture_output=True, text=True, check=False, timeout=120,
    )
    assert done.returncode == code, done.stderr
    told: list[str] = []
    assert tiny_run(out, resume=True, tell=told.append).finished
    assert told == [f"resuming after step {taken} of 9"]
    assert_equal_runs(finished, out)


def stop_after(taken: int, out: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    with monkeypatch.context() as patch:
        at(patch, "on_train_batch_start", taken - 1, request)
        assert tiny_run(out, **changes).steps == taken


def test_a_torn_checkpoint_is_passed_over_aloud(
    tmp_path: Path, tiny_run: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_after(7, out, tiny_run, monkeypatch)
    torn = checkpoints(out)[-1]
    (shard,) = torn.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    told: list[str] = []
    assert tiny_run(out, resume=True, tell=told.append).finished
    assert told[0].startswith("warning: ")
    assert torn.name in told[0]
    assert "torn" in told[0]
    assert "step-00000006" in told[0]
    assert told[1] == "resuming after step 6 of 9"
    assert_equal_runs(finished, out)


def test_a_run_without_a_readable_checkpoint_is_not_begun_anew_in_silence(
    tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_after(2, out, tiny_run, monkeypatch)
    (checkpoints(out)[0] / ABOUT).write_bytes(b"nothing")
    with pytest.raises(RunError, match="no checkpoint can be read"):
        tiny_run(out, resume=True)


def test_a_run_that_ended_before_its_first_checkpoint_starts_over(
    tmp_path: Path, tiny_run: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_after(2, out, tiny_run, monkeypatch)
    shutil.rmtree(checkpoints(out)[0])
    told: list[str] = []
    assert tiny_run(out, resume=True, tell=told.append).finished
    assert told == ["no checkpoint yet: starting over"]
    assert_equal_runs(finished, out)


def test_an_export_that_was_missed_is_made_good(
    tmp_path: Path, tiny_run: Any, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("sciencessl.train.run._export", lambda *args: None)
        tiny_run(out)
    assert not (out / WEIGHTS).exists()
    assert tiny_run(out, resume=True).finished
    assert_equal_runs(finished, out)
    assert read_model(out).steps == read_model(finished).steps == 9


def test_resuming_measures_nothing(tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*args: Any) -> None:
        raise AssertionError("a resumed run measured")

    out = tmp_path / "run"
    stop_after(2, out, tiny_run, monkeypatch)
    for name in ("choose", "seconds_per_step", "operations_per_image"):
        monkeypatch.setattr(estimate, name, measured)
    for name in ("settle", "operations_per_image"):
        monkeypatch.setattr(f"sciencessl.train.run.{name}", measured)
    assert tiny_run(out, resume=True).finished


def test_resuming_takes_no_other_settings(tmp_path: Path, tiny_run: Any, finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"own settings; got batch, seed as well.*--init-from"):
        tiny_run(finished, resume=True, batch=4, seed=1)
    with pytest.raises(ConfigError, match="got method as well"):
        tiny_run(finished, resume=True, method="labels_only")
    with pytest.raises(ConfigError, match="got config as well"):
        tiny_run(finished, resume=True, config=["more.yaml"])
    with pytest.raises(ConfigError, match="one of the two"):
        tiny_run(finished, resume=True, overwrite=True)
    with pytest.raises(RunError, match=r"holds no run.*without --resume"):
        tiny_run(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("backbone: test_resnet", "backbone: test_efficientnet", "backbone"),
        ("  hidden: 16", "  hidden: 24", "options"),
        ("seed: 0", "seed: 1", "seed"),
        ("  size: 32", "  size: 40", "views"),
        ("base_lr: 0.01", "base_lr: 0.5", "optimiser"),
        ("scaling: linear", "scaling: none", "optimiser"),
        ("tau_batch: 0", "tau_batch: 8", "options"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(
    old: str, new: str, name: str, tmp_path: Path, tiny_run: Any, finished: Path
) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    text = (finished / "config.yaml").read_text()
    assert old in text
    (out / "config.yaml").write_text(text.replace(old, new))
    shutil.copytree(checkpoint_path(finished, 6), checkpoint_path(out, 6))
    with pytest.raises(RunError, match=rf"step-00000006 was made with {name} .*this run has .*--init-from"):
        tiny_run(out, resume=True)


def test_a_checkpoint_of_another_store_or_of_other_labels_or_samples_is_refused(
    tmp_path: Path, tiny_run: Any, make_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    from sciencessl.store.removals import remove
    from sciencessl.store.tables import write_table

    out, other = tmp_path / "run", make_store(tmp_path / "other.zarr", seed=1)
    mine = make_store(tmp_path / "mine.zarr")
    stop_after(2, out, tiny_run, monkeypatch, data=mine, labels=["class"])
    with pytest.raises(RunError, match="made with stores \\['"):
        tiny_run(out, resume=True, data=other)
    remove(mine, ["g2"], "blurred")
    with pytest.raises(RunError, match="made with withdrawn samples 'none', this run has '"):
        tiny_run(out, resume=True)
    ids = [f"g{i}" for i in range(60)]
    write_table(mine, "later", pa.table({"id": ids, "score": [0.5] * 60}))
    write_table(mine, "labels", pa.table({"id": ids, "class": ["a", "b"] * 30}))
    with pytest.raises(RunError, match="made with tables "):
        tiny_run(out, resume=True)


def test_a_store_that_has_moved_and_has_a_new_table_is_the_same_store(
    tmp_path: Path, tiny_run: Any, make_store: Callable[..., Path], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    from sciencessl.store.tables import write_table

    out, mine = tmp_path / "run", make_store(tmp_path / "mine.zarr")
    stop_after(4, out, tiny_run, monkeypatch, data=mine)
    moved = mine.rename(tmp_path / "moved.zarr")
    write_table(moved, "later", pa.table({"id": ["g0"], "score": [0.5]}))
    with pytest.raises(StoreError, match=r"--resume: .*mine\.zarr is no store.* moved, say where with --data"):
        tiny_run(out, resume=True)
    assert tiny_run(out, resume=True, data=moved).finished
    assert_equal_runs(finished, out)


def test_steps_before_a_failure_of_the_loader_are_kept(
    tmp_path: Path, tiny_run: Any, make_store: Callable[..., Path], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sciencessl.data.loader import BatchStream
    from sciencessl.errors import StoreError

    inner = BatchStream.batch

    def batch(self: BatchStream, step: int) -> Any:
        if step == 5:
            raise StoreError("row 1 of field 'image' is damaged")
        return inner(self, step)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(BatchStream, "batch", batch)
        with pytest.raises(StoreError, match="row 1"):
            tiny_run(out)
    assert loader_error(StoreError("x")) is not None
    # Lightning asks for a batch ahead: the step that was to come is not taken any more.
    assert checkpoints(out)[-1] == checkpoint_path(out, 4)
    assert "row 1" in (out / "train.log").read_text()
    assert json.loads((out / "cost.json").read_text())["steps"] == 4
    assert tiny_run(out, resume=True).finished
    assert_equal_runs(finished, out)


DRAWN: dict[str, dict[str, Any]] = {
    "mixture": {"sampling__rates": [3, 1], "sampling__balance": "class", "labels": ["class"]},
    "weighted": {"sampling__weights": "smooth_yes"},
    "labelled": {"sampling__labelled_share": 0.25, "labels": ["class"]},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_store: Path, make_store: Callable[..., Path]) -> list[Path]:
    return [tiny_store, make_store(tmp_path_factory.mktemp("other") / "other.zarr", seed=1, each=20)]


@pytest.mark.parametrize("kind", DRAWN)
def test_a_run_that_draws_its_samples_goes_on_the_same(
    kind: str, tmp_path: Path, tiny_run: Any, pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pair if kind == "mixture" else pair[:1]
    whole = tmp_path / "whole"
    tiny_run(whole, data=data, **DRAWN[kind])
    for workers, taken in {"mixture": ((0, 4), (1, 5)), "weighted": ((0, 7), (1, 2)), "labelled": ((0, 5),)}[kind]:
        parts = tmp_path / f"parts-{workers}"
        stop_after(taken, parts, tiny_run, monkeypatch, data=data, compute__workers=workers, **DRAWN[kind])
        assert tiny_run(parts, data=data, resume=True).finished
        assert_equal_runs(whole, parts)


def test_a_run_that_draws_otherwise_is_refused_by_what_differs(
    tmp_path: Path, tiny_run: Any, pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the loader counts what steps have taken: batches that a worker made ahead are not in it."""
    from sciencessl.store.reader import Store

    out, stores = tmp_path / "run", [Store(path) for path in pair]
    stop_after(3, out, tiny_run, monkeypatch, data=pair, compute__workers=1, **DRAWN["mixture"])
    assert read_checkpoint(checkpoint_path(out, 3))["loader"] == [
        {"stores": [store.digest], "tables": [{"labels": store.table("labels").digest}], "samples": taken}
        for store, taken in zip(stores, (18, 6), strict=True)
    ]
    text = (out / "config.yaml").read_text()
    for old, new, message in (
        ("  rates:\n  - 3\n", "  rates:\n  - 2\n", r"samples in part 1 of its order 18, this run has 16"),
        ("  balance: class\n", "  balance: night\n", r"made with sampling '80 samples, .*, rates 3, 1, weights"),
        ("exponent: 1.0", "exponent: 0.5", r"made with sampling '80 samples, .*, rates 3, 1, weights"),
        ("balance: class\n", "balance: ''\n", r"made with sampling .* this run has '80 samples, .* rates 3, 1'"),
    ):
        assert old in text
        (out / "config.yaml").write_text(text.replace(old, new))
        with pytest.raises(RunError, match=message):
            tiny_run(out, resume=True)
    (out / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"learns from .*tiny.zarr, .*other.zarr; --data names 1 stores, expected 2"):
        tiny_run(out, resume=True, data=pair[:1])
    with pytest.raises(RunError, match="made with stores in part 1 of its order"):
        tiny_run(out, resume=True, data=pair[::-1])
