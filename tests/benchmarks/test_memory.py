"""`benchmarks/memory.py`: what a dry run counts, against every block that the allocator hands out in a real step."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("memory")


@pytest.mark.parametrize(
    ("backbone", "optimizer", "checkpointing", "precision", "px", "rows"),
    [
        ("resnet18", "lars", "none", "float32", 64, 8),
        ("resnet18", "adamw", "stage", "bfloat16", 64, 4),
        ("regnety_002", "lars", "none", "bfloat16", 64, 8),
        ("regnety_002", "adamw", "block", "float32", 64, 8),
        ("convnext_atto", "adamw", "none", "float32", 128, 2),
        ("convnext_atto", "lars", "stage", "bfloat16", 128, 2),
    ],
)
def test_the_estimate_is_within_fifteen_percent_of_the_allocator(
    script: Any, backbone: str, optimizer: str, checkpointing: str, precision: str, px: int, rows: int
) -> None:
    case = script.Case(backbone, optimizer, checkpointing, precision, px, rows)
    method = script.make_method(case)
    trace = script.estimate(case, method, CPU)
    assert trace.fullest.peak == pytest.approx(script.measure(case, method, CPU), rel=0.15)


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", ["none", "stage"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", ["resnet50", "regnety_016", "convnext_tiny"])
def test_the_estimate_is_within_fifteen_percent_of_a_gpu(
    script: Any, backbone: str, precision: str, checkpointing: str
) -> None:
    case = script.Case(backbone, "lars", checkpointing, precision, 224, 32)
    method, device = script.make_method(case), torch.device("cuda")
    trace = script.estimate(case, method, device)
    assert trace.fullest.peak == pytest.approx(script.measure(case, method, device), rel=0.15)


def test_the_allocator_is_seen_to_hand_out_and_take_back(script: Any) -> None:
    def apart() -> None:
        for _ in range(3):
            torch.zeros(2**18)

    def together() -> None:
        kept = [torch.zeros(2**18) for _ in range(3)]
        kept.append(kept[0] + kept[1])

    assert script.allocator_peak(apart) == 2**20
    assert script.allocator_peak(together) == 4 * 2**20


def test_it_prints_one_object(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script, "cases", lambda *_: [script.Case("test_resnet", px=32, rows=8)])
    monkeypatch.setattr(sys, "argv", ["memory.py", "--quick", "--json"])
    script.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["absent"]) == ("memory", [])
    assert found["absolute"]["worst"] == pytest.approx(1, abs=0.15)
