"""`benchmarks/gpu_step.py`, which is for a GPU, on the CPU: that it runs, and counts as it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("gpu_step")


def test_a_quick_run_on_the_cpu_has_a_row_for_each_memory_format(script: Any) -> None:
    options = script.parsed(["--quick", "--device", "cpu"])
    rows = list(script.rows_of(options, CPU))
    assert [(row["checkpointing"], row["memory_format"]) for row in rows] == [
        ("none", "channels_last"), ("none", "contiguous"), ("stage", "channels_last"), ("stage", "contiguous"),
    ]
    for row in rows:
        assert 0 < row["update_share"] < 1
        assert row["images_per_s"] == pytest.approx(4 / row["step_ms"] * 1e3)
        if row["checkpointing"] == "none":
            ratio = row["images_per_s"] / row["supervised_images_per_s"]
            assert row["efficiency"] == pytest.approx(8 / 3 * ratio)  # one round: its median is itself
    found = json.loads(json.dumps(script.result(options, CPU, rows)))
    fastest = max(rows[:2], key=lambda row: row["images_per_s"])
    assert found["absolute"]["efficiency"] == {"test_resnet": fastest["efficiency"]}
    assert set(found["absolute"]["update_share"]) == {"test_resnet", "test_resnet_stage"}
    assert found["absent"] == ["waits and memory: this was the CPU"]
    assert "efficiency     -" in script.shown(rows[2])
    assert "activations of each stage again" in script.shown(rows[2])


def test_the_share_of_the_update_is_its_time_over_that_of_the_step(script: Any) -> None:
    now = 0.0

    def passing(seconds: float) -> Callable[[], None]:
        def function() -> None:
            nonlocal now
            now += seconds

        return function

    class Step(SimpleNamespace):
        def __call__(self) -> None:
            passing(5.0)()
            self.optimizer.step()
            self.method.after_step()

    class Optimizer:
        def step(self) -> None:
            passing(2.0)()

    class Method:
        def after_step(self) -> None:
            passing(1.0)()

    clock = SimpleNamespace(mark=lambda: now, seconds=lambda first, last: last - first)
    step = Step(optimizer=Optimizer(), method=Method())
    assert script.update_share(step, clock, 4) == pytest.approx(3 / 8)
    assert vars(step.optimizer) == vars(step.method) == {}
    passing(1.0)()
    spent = script.rounds_of([step, passing(16.0)], clock, 2, 3)
    assert spent.tolist() == [[8.0, 16.0]] * 2


def test_a_batch_without_room_is_halved(script: Any) -> None:
    tried = []

    def measure(batch: int) -> int:
        tried.append(batch)
        if batch > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    assert script.fitting(64, measure) == 8
    assert tried == [64, 32, 16, 8]
    with pytest.raises(torch.OutOfMemoryError):
        script.fitting(4, lambda batch: measure(99))
