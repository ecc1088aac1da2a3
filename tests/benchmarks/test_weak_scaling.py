"""`benchmarks/weak_scaling.py`: the real step under both strategies, in two processes of this machine, tiny."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sciencessl.train.ranks import ALONE, Ranks
from tests.train.two_processes import TwoProcesses

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "weak_scaling.py"


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("weak_scaling")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoProcesses]:
    with TwoProcesses(tmp_path_factory.mktemp("ranks")) as processes:
        yield processes


def measured(ranks: Ranks, *arguments: str) -> dict[str, Any]:
    """In a process of its own, which imports the script by its file too."""
    spec = importlib.util.spec_from_file_location("weak_scaling", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    row: dict[str, Any] = module.measure(module.parsed(["--quick", *arguments]), ranks, torch.device("cpu"))
    return row


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_agree_on_three_rates(strategy: str, two: TwoProcesses) -> None:
    first, second = two(measured, "--strategy", strategy)
    assert first == second  # the slowest decides, for all
    assert (first["processes"], first["machines"]) == (2, 1)
    one, apart, together = (first[f"{name}_images_per_s"] for name in ("one", "apart", "together"))
    assert first["efficiency"] == pytest.approx(together / one)
    assert first["shared_machine"] == pytest.approx(1 - apart / one)
    assert first["communication"] == pytest.approx(1 - together / apart)


def test_a_network_that_one_process_cannot_hold_is_measured_together(two: TwoProcesses) -> None:
    row, _ = two(measured, "--together-only", "--strategy", "fsdp", "--checkpointing", "stage")
    assert set(row) == {"processes", "machines", "together_images_per_s"}


def test_one_process_is_what_others_are_compared_with(script: Any) -> None:
    row = script.measure(script.parsed(["--quick", "--precision", "bfloat16"]), ALONE, torch.device("cpu"))
    assert set(row) == {"processes", "machines", "one_images_per_s"}


def test_each_count_is_started_by_torchrun_and_told_in_one_object(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command)
        count = int(command[4].partition("=")[2])
        row = {"processes": count, "machines": 1, "one_images_per_s": 10.0}
        row |= {"efficiency": 0.8, "shared_machine": 0.1, "communication": 0.11} if count > 1 else {}
        found = script.result(script.parsed(["--quick"]), "a CPU", [row])
        return SimpleNamespace(returncode=0, stdout=f"a line of torch's\n{json.dumps(found)}\n")

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["weak_scaling.py", "--quick", "--processes", "1", "2"])
    script.main()
    told = capsys.readouterr().out
    assert [command[2:5] for command in asked] == [
        ["torch.distributed.run", "--standalone", f"--nproc-per-node={n}"] for n in (1, 2)
    ]
    assert all(command[-1] == "--json" for command in asked)
    assert "1 processes on 1: images/s of each: one 10.0\n" in told
    assert "efficiency 80%, shared machine 10%, communication 11%" in told
    monkeypatch.setattr("sys.argv", ["weak_scaling.py", "--quick", "--json", "--processes", "2"])
    script.main()
    assert json.loads(capsys.readouterr().out)["ratios"] == {"efficiency_2": 0.8}
    monkeypatch.setattr(script.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1, stdout=""))
    with pytest.raises(SystemExit, match="2 processes ended with code 1"):
        script.main()
