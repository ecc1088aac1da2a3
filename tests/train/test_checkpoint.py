"""Checkpoints are whole or absent, whoever is killed, and nothing is unpickled."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sciencessl.errors import RunError
from sciencessl.train.checkpoint import (
    ABOUT,
    SCHEMA,
    Saver,
    check_identity,
    check_loader,
    checkpoint_path,
    checkpoints,
    latest_checkpoint,
    prune,
    read_checkpoint,
    steps_taken,
)
from sciencessl.train.ranks import Ranks
from sciencessl.train.tensor_files import read_into, write_parts
from tests.train.two_processes import REPO, TwoProcesses

FILE = "shard-00001-model-00001-of-00001.safetensors"


def weights(value: float = 0.0) -> dict[str, Tensor]:
    return {"weight": torch.arange(4.0) + value, "count": torch.tensor(3), "none": torch.zeros(0, 2)}


def save(run: Path, step: int, **about: Any) -> Path:
    Saver(run).save(weights(step), {"taken": step, **about})
    return checkpoint_path(run, step)


def weight(path: Path) -> Tensor:
    found = {name: torch.full_like(tensor, 9) for name, tensor in weights().items()}
    read_into(path, found)
    return found["weight"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def silent(line: str) -> None:
    raise AssertionError(line)


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    path = save(tmp_path, 3, identity={"seed": "0"})
    assert path.name == "step-00000003"
    assert names(path) == [ABOUT, FILE]
    content = read_checkpoint(path)
    assert (content["schema"], content["world"], steps_taken(content)) == (SCHEMA, 1, 3)
    assert content["identity"] == {"seed": "0"}
    assert content["files"][FILE]["bytes"] == (path / FILE).stat().st_size
    assert torch.equal(weight(path), torch.arange(4.0) + 3)
    assert names(path.parent) == [path.name]


def test_a_write_that_fails_leaves_the_old_one_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 3)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"rank 0 cannot write .*step-00000004: .*No space left.*go on .*--resume"):
        save(tmp_path, 4)
    assert names(path.parent) == [path.name]
    assert torch.equal(weight(path), torch.arange(4.0) + 3)


def test_a_save_in_the_background_is_of_the_moment_and_the_next_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def write(*args: Any) -> list[str]:
        assert go.wait(20)
        return write_parts(*args)

    monkeypatch.setattr("sciencessl.train.checkpoint.write_parts", write)
    state, saver = weights(), Saver(tmp_path)
    saver.save(state, {"taken": 1}, background=True)
    assert not saver.done()
    assert checkpoints(tmp_path) == []
    state["weight"].add_(100)
    threading.Timer(0.2, go.set).start()
    saver.save(state, {"taken": 2}, background=True)
    assert checkpoints(tmp_path)[:1] == [checkpoint_path(tmp_path, 1)]
    saver.wait()
    assert saver.done()
    assert torch.equal(weight(checkpoint_path(tmp_path, 1)), torch.arange(4.0))
    assert torch.equal(weight(checkpoint_path(tmp_path, 2)), torch.arange(4.0) + 100)


def test_an_error_in_the_background_comes_with_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    saver = Saver(tmp_path)
    saver.save(weights(), {"taken": 1}, background=True)
    with pytest.raises(RunError, match="rank 0 cannot write"):
        saver.wait()
    saver.wait()


def test_any_damage_to_any_file_is_found_and_the_one_before_is_used(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2, identity={"seed": "0"}, loader=[{"samples": 16}])
    whole = tmp_path / "whole"
    shutil.copytree(path, whole)

    def cut(raw: bytes) -> bytes:
        return raw[:-1]

    def flip_first(raw: bytes) -> bytes:
        return bytes([raw[0] ^ 1]) + raw[1:]

    def flip_last_digit(raw: bytes) -> bytes:
        place = max(raw.rfind(b"%d" % digit) for digit in range(10))
        return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]

    for name in (ABOUT, FILE):
        for damage in (cut, flip_first, flip_last_digit, None):
            shutil.rmtree(path)
            shutil.copytree(whole, path)
            raw = (path / name).read_bytes()
            (path / name).unlink() if damage is None else (path / name).write_bytes(damage(raw))
            told: list[str] = []
            found = latest_checkpoint(tmp_path, told.append)
            assert found is not None
            assert found[0] == checkpoint_path(tmp_path, 1), (name, damage)
            assert len(told) == 1
            assert told[0].startswith(f"warning: {path}")
            assert name in told[0]
            assert told[0].endswith("Using the one before it, step-00000001.")


def test_reasons_say_what_was_found_and_what_was_expected(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    raw = (path / FILE).read_bytes()
    (path / FILE).write_bytes(raw[:-1])
    with pytest.raises(RunError, match=rf"is torn: {FILE} has bytes {len(raw) - 1}, .*expected bytes {len(raw)}, "):
        read_checkpoint(path)
    (path / FILE).unlink()
    with pytest.raises(RunError, match=f"{FILE} has error No such file or directory, expected bytes"):
        read_checkpoint(path)
    (path / FILE).write_bytes(raw)
    (path / "shard-00002.safetensors").write_bytes(raw)
    with pytest.raises(RunError, match=r"shard-00002\.safetensors does not belong to the checkpoint"):
        read_checkpoint(path)
    with pytest.raises(RunError, match="no checkpoint can be read"):
        latest_checkpoint(tmp_path, silent)


class Trap:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_a_file_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / FILE).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RunError, match="is torn"):
        read_checkpoint(path)
    with pytest.raises(RunError, match="cannot be read"):
        weight(path)
    torch.save({"trap": Trap()}, tmp_path / "checkpoints" / "step-00000002.ckpt")
    with pytest.raises(RunError, match=r"step-00000002.ckpt cannot be continued: .*before checkpoints were folders"):
        latest_checkpoint(tmp_path, silent)


def test_what_is_no_checkpoint_of_ours_is_said(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001"
    with pytest.raises(RunError, match="there is no such checkpoint"):
        read_checkpoint(path)
    path.mkdir()
    with pytest.raises(RunError, match=r"checkpoint.json cannot be read \(FileNotFoundError\).*no checkpoint of ours"):
        read_checkpoint(path)
    for text, match in [
        ("{", r"cannot be read \(JSONDecodeError\)"), ("[1]", "of schema None, expected 3"),
        ('{"schema": 4}', "of schema 4, expected 3"), ('{"schema": 3}', "does not match its own digest"),
    ]:
        (path / ABOUT).write_text(text)
        with pytest.raises(RunError, match=match):
            read_checkpoint(path)


def test_the_newest_is_used_and_the_two_newest_are_kept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path, silent) is None
    for step in (20, 100, 10**9):
        save(tmp_path, step)
    for name in ("step-final", ".step-00000007.tmp"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000100", "step-1000000000"]
    found = latest_checkpoint(tmp_path, silent)
    assert found is not None
    assert steps_taken(found[1]) == 10**9
    prune(tmp_path, 1)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-1000000000"]
    Saver(tmp_path)
    assert names(tmp_path / "checkpoints") == ["step-1000000000", "step-final"]


def test_a_torn_one_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    (path / FILE).write_bytes(b"")
    save(tmp_path, 2)
    assert torch.equal(weight(path), torch.arange(4.0) + 2)
    assert names(path.parent) == [path.name]


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    content = {"identity": {"store": "a", "seed": "0"}, "loader": [{"stores": ["x"], "tables": [{}], "samples": 16}]}
    check_identity(tmp_path, content, {"store": "a", "seed": "0"})
    with pytest.raises(RunError, match=r"was made with seed '0', this run has '1'.*--init-from"):
        check_identity(tmp_path, content, {"store": "a", "seed": "1"})
    with pytest.raises(RunError, match=r"made with views None"):
        check_identity(tmp_path, content, {"views": "x"})
    check_loader(tmp_path, content, [{"stores": ["x"], "tables": [{}], "samples": 16}])
    with pytest.raises(RunError, match=r"made with samples 16, this run has 24"):
        check_loader(tmp_path, content, [{"stores": ["x"], "tables": [{}], "samples": 24}])


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from sciencessl.train import checkpoint as ckpt

def before(owner, name, count):
    inner = getattr(owner, name)
    def outer(*args, **options):
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **options)
    setattr(owner, name, outer)

points = [(ckpt, "write_parts", 1), (os, "fsync", 1), (ckpt, "_commit", 1), (os, "fsync", 2),
          (ckpt, "_flush_folder", 1), (Path, "replace", 2), (Path, "replace", 3), (ckpt, "prune", 1),
          (shutil, "rmtree", 1)]
earlier = Path(sys.argv[1]) / "earlier"
for step in (1, 2):
    ckpt.Saver(earlier).save({"w": torch.full((4,), float(step))}, {"taken": step})
for k, point in enumerate(points):
    run = Path(sys.argv[1]) / str(k)
    shutil.copytree(earlier, run)
    pid = os.fork()
    if not pid:
        before(*point)
        ckpt.Saver(run).save({"w": torch.full((4,), 3.0)}, {"taken": 3})
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), point
"""


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 0, done.stderr
    steps = []
    for k in range(9):
        run = tmp_path / str(k)
        found = latest_checkpoint(run, silent)
        assert found is not None
        steps.append(steps_taken(found[1]))
        state = {"w": torch.zeros(4)}
        read_into(found[0], state)
        assert torch.equal(state["w"], torch.full((4,), float(steps[-1])))
        Saver(run)
        assert not [name for name in names(run / "checkpoints") if not name.startswith("step-")]
    assert steps == [2, 2, 2, 2, 2, 2, 3, 3, 3]


def _one_fails(ranks: Ranks, run: Path) -> str:
    saver = Saver(run, ranks, patience=20)
    saver.save(weights(1), {"taken": 1})

    def full(*args: Any) -> list[str]:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == 1:
            patch.setattr("sciencessl.train.checkpoint.write_parts", full)
        with pytest.raises(RunError) as caught:
            saver.save(weights(2), {"taken": 2})
    return str(caught.value)


class Ended:
    """The main thread when Python is about to end."""

    def is_alive(self) -> bool:
        return False


def _one_is_gone(ranks: Ranks, run: Path, ended: bool) -> str:
    saver = Saver(run, ranks, patience=20 if ended else 0.3)
    if ranks.rank == 1:
        return ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sciencessl.train.checkpoint.GRACE", 0.2)
        if ended:
            patch.setattr(threading, "main_thread", Ended)
        with pytest.raises(RunError) as caught:
            saver.save(weights(), {"taken": 1})
    return str(caught.value)


def test_a_rank_that_fails_or_is_gone_is_named(tmp_path: Path, both: TwoProcesses) -> None:
    first, second = both(_one_fails, tmp_path / "fails")
    assert first.startswith("rank 0 cannot write ")
    assert "rank 1 says: [Errno 28] No space left on device" in first
    assert second.startswith("rank 1 cannot write ")
    assert names(tmp_path / "fails" / "checkpoints") == ["step-00000001"]
    for ended in (False, True):
        gone = both(_one_is_gone, tmp_path / "gone", ended)[0]
        assert "rank 1 has written nothing in 0 s" in gone
        assert "one shared file system" in gone
        assert names(tmp_path / "gone" / "checkpoints") == []
