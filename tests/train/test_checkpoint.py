"""Checkpoints are whole or absent, and nothing is unpickled."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sciencessl.errors import RunError
from sciencessl.train.checkpoint import (
    SCHEMA,
    check_identity,
    checkpoint_path,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
    steps_taken,
)


def content(step: int = 3, **identity: str) -> dict[str, Any]:
    return {"weight": torch.arange(4.0), "sciencessl": {"schema": SCHEMA, "taken": step, "identity": identity}}


def silent(line: str) -> None:
    raise AssertionError(line)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 3)
    save_checkpoint(content(), path)
    assert path.name == "step-00000003.ckpt"
    assert torch.equal(load_checkpoint(path)["weight"], torch.arange(4.0))
    assert steps_taken(load_checkpoint(path)) == 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_the_old_one_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint_path(tmp_path, 3)
    save_checkpoint(content(), path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(content(4), path)
    assert steps_taken(load_checkpoint(path)) == 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]


class Trap:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


def test_a_file_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.ckpt"
    torch.save({**content(), "trap": Trap()}, path)
    with pytest.raises(RunError, match="cannot be read"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RunError, match="cannot be read"):
        load_checkpoint(path)


def test_what_is_no_checkpoint_of_ours_is_said(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.ckpt"
    with pytest.raises(RunError, match="there is no such checkpoint"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(RunError, match="checkpoint of schema None, expected 2"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(RunError, match="checkpoint of schema None"):
        load_checkpoint(path)


def test_the_newest_readable_one_is_used_and_the_two_newest_are_kept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path, silent) is None
    for step in (100, 20, 3):
        save_checkpoint(content(step), checkpoint_path(tmp_path, step))
    (tmp_path / "checkpoints" / "step-final.ckpt").write_bytes(b"")
    found = latest_checkpoint(tmp_path, silent)
    assert found is not None
    assert steps_taken(found[1]) == 100
    prune(tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000020.ckpt", "step-00000100.ckpt"]
    checkpoint_path(tmp_path, 100).write_bytes(b"torn")
    told: list[str] = []
    found = latest_checkpoint(tmp_path, told.append)
    assert found is not None
    assert steps_taken(found[1]) == 20
    assert len(told) == 1


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    check_identity(tmp_path, content(store="a", seed="0"), {"store": "a", "seed": "0"})
    with pytest.raises(RunError, match=r"was made with seed '0', this run has '1'"):
        check_identity(tmp_path, content(store="a", seed="0"), {"store": "a", "seed": "1"})
    with pytest.raises(RunError, match=r"made with views None"):
        check_identity(tmp_path, content(store="a"), {"store": "a", "views": "x"})
