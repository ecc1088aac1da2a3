"""What a dry run finds: rows for processes, strategies and checkpointing, and what it does where a step won't fit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from sciencessl.errors import ConfigError
from sciencessl.losses import dirichlet
from sciencessl.machine import GIB
from sciencessl.train import forecast
from sciencessl.train.forecast import RunEstimate
from sciencessl.train.memory import StepMemory
from sciencessl.views import to_input

STEP_SECONDS = 0.5


@pytest.fixture
def dry(tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A dry run whose step takes half a second, and what it told."""
    monkeypatch.setattr(forecast, "seconds_per_step", lambda plan: STEP_SECONDS)
    told: list[str] = []

    def call(**changes: Any) -> tuple[RunEstimate, list[str]]:
        told.clear()
        found = tiny_run(tmp_path / "run", dry_run=True, tell=told.append, **changes)
        assert not (tmp_path / "run").exists()
        return found, told

    return call


def test_rows_are_for_processes_that_divide_the_slots(dry: Any) -> None:
    found, _ = dry()  # a batch of 8 has 8 slots
    seen = [(row.processes, row.images, row.strategy, row.checkpointing) for row in found.memory]
    assert seen == [(1, 8, "alone", kind) for kind in ("none", "stage")] + [
        (8, 1, strategy, kind) for strategy, kind in itertools.product(("ddp", "fsdp"), ("none", "stage"))
    ]
    assert [row.chosen for row in found.memory] == [True, False, True, False, False, False]
    assert all(row.peak_bytes == row.parts.peak and row.fits_gb == 16 for row in found.memory)
    assert found.seconds == 9 * STEP_SECONDS
    assert (found.processes, found.device, found.workers) == (1, "cpu", 0)


def test_asked_for_a_number_all_kinds_are_counted_and_odd_ones_lowered(dry: Any) -> None:
    found, told = dry(processes=3, compute__strategy="fsdp", compute__checkpointing="block", accumulate=2)
    assert told[-1] == "3 processes cannot share the 4 slots of a micro-batch evenly: 2 would train"
    assert {row.checkpointing for row in found.memory} == {"none", "stage", "block"}
    assert {(row.processes, row.images) for row in found.memory} == {(2, 2)}
    (chosen,) = (row for row in found.memory if row.chosen)
    assert (chosen.strategy, chosen.checkpointing) == ("fsdp", "block")


@pytest.mark.parametrize("settings", [
    {"method": "swav", "options__prototypes": 8, "options__queue": 16, "options__hidden": 16, "options__out": 8},
    {"method": "labels_only", "options__hidden": None, "options__out": None},
    {"method": "univip", "options__instances": 2, "views__instances": 2, "views__instance_size": 16},
    {"norm": "none", "branches_on": True, "compute__precision": "bfloat16"},
])
def test_methods_and_norms_are_counted_without_values(settings: dict[str, Any], dry: Any) -> None:
    found, _ = dry(processes=1, **settings)
    assert [row.checkpointing for row in found.memory] == ["none", "stage", "block"]
    assert all(row.parts.activations > 0 for row in found.memory)


def test_a_step_that_does_not_fit_is_counted_and_not_taken(dry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "memory_gib", lambda: (16.0, 0.001))
    monkeypatch.setattr(forecast, "_timed", lambda *_: pytest.fail("took a step"))
    found, told = dry(processes=1, compute__precision="auto")
    assert told[-1].startswith("not timed: a step takes 0.0 GiB, and 0.0 GiB are free; counted with float32, where a ")
    assert (found.seconds, found.steps, found.precision) == (None, 9, "float32")
    assert [row.processes for row in found.memory] == [1, 1, 1]
    assert found.operations_per_image > 1e6
    with pytest.raises(ConfigError, match=r"minutes is 3, and a step cannot be timed here: a step takes .* in epochs"):
        dry(steps=None, minutes=3.0)


def test_a_run_learns_as_always_after_its_dry_run(dry: Any, tiny_run: Any, tmp_path: Path) -> None:
    """Statistics and tables on the device are kept in caches, which a dry run in the same process fills."""
    to_input._constants.cache_clear()
    dirichlet._columns.cache_clear()
    dry(processes=1)
    assert to_input._constants.cache_info().misses
    assert dirichlet._columns.cache_info().misses
    assert tiny_run(tmp_path / "real", steps=1).finished


def test_a_method_that_asks_for_values_is_timed_and_said_not_to_be_counted(dry: Any, tmp_path: Path) -> None:
    source = tmp_path / "asking.py"
    source.write_text(
        "from sciencessl.methods.byol import Byol\n\n\n"
        "class Asking(Byol):\n"
        "    def target(self, views):\n"
        "        targets = super().target(views)\n"
        "        return [target * float(target.isfinite().all()) for target in targets]\n"
    )
    found, told = dry(method=f"{source}:Asking")
    assert found.memory == ()
    assert found.seconds == 9 * STEP_SECONDS
    assert "memory is not counted: a step of" in told[-1]
    assert "decides by the values of tensors (DataDependentOutputException" in told[-1]


@pytest.mark.parametrize(
    ("share", "device"), [(0.0, 16), (14.39, 16), (14.41, 24), (21.7, 40), (72.0, 80), (72.1, None)]
)
def test_a_device_has_a_tenth_to_spare(share: float, device: int | None) -> None:
    assert forecast._device_for(int(share * GIB)) == device


def test_a_gpu_is_asked_for_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = StepMemory(2**20, 2**20, 0, 2**20, 2**20, 2**24, 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GIB, 80 * GIB))
    assert forecast._lack(memory, torch.device("cuda")) == ""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 80 * GIB))
    assert forecast._lack(memory, torch.device("cuda")).endswith("0.0 GiB are free")
    assert forecast._lack(memory, torch.device("cpu")) == ""
