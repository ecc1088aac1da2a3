"""What only a GPU can show. `make test-gpu` runs these; without a GPU they are skipped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sciencessl.data.loader import make_loader
from sciencessl.train.folder import WEIGHTS, read_metrics
from sciencessl.train.module import Pretraining
from sciencessl.train.parallel import device_of
from tests.data.test_loader import assert_same, stream
from tests.train.device_steps import KINDS, Steps, trainer_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

CPU = torch.device("cpu")


@pytest.fixture
def gpu() -> torch.device:
    return device_of("cuda")


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Where torch refuses what makes the host wait."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_waits_is_refused(gpu: torch.device) -> None:
    with no_synchronisation(), pytest.raises(RuntimeError, match="synchronizing"):
        torch.ones((), device=gpu).item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits_for_the_gpu(kind: str, precision: str, gpu: torch.device) -> None:
    steps = Steps(KINDS[kind], gpu, precision)
    steps.batches = [batch.pin_memory() for batch in steps.batches]
    steps.take(0)
    with no_synchronisation():
        metrics = [steps.take(1), steps.take(2)]
    assert all(math.isfinite(float(row["loss"])) for row in metrics)
    weights = [*steps.wrapped.network.parameters()]
    assert all(weight.isfinite().all() and weight.dtype == torch.float32 for weight in weights)


def test_no_step_of_the_trainer_waits_where_nothing_is_logged(
    gpu: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(KINDS["hybrid"], gpu, "bfloat16")
    module = trainer_of(steps, gpu, tmp_path, monkeypatch)
    first, second, third = (batch.pin_memory() for batch in steps.batches)
    module.training_step(first, 0)
    with no_synchronisation():
        module.training_step(second, 1)
        module.training_step(third, 2)
    assert module.taken == 3
    module.on_train_end()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_a_gpu_are_those_of_the_cpu(kind: str, gpu: torch.device) -> None:
    states = []
    for device in (CPU, gpu):
        steps = Steps(KINDS[kind], device, "float64")
        losses = [float(steps.take(step)["loss"]) for step in range(3)]
        states.append((losses, state_of(steps)))
    (losses, expected), (found_losses, found) = states
    assert found_losses == pytest.approx(losses, abs=1e-9)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def state_of(steps: Steps) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in steps.wrapped.network.state_dict().items()}


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_pinned_memory(workers: int, gpu: torch.device, tiny_store: Path) -> None:
    source = stream(tiny_store)
    (batch,) = (batch for batch, _ in zip(make_loader(source, workers, device=gpu), range(1), strict=False))
    assert_same(batch, source.batch(0))
    tensors = [*(view["image"] for view in batch.views), *batch.labels.values()]
    assert tensors
    assert all(tensor.is_pinned() for tensor in tensors)
    assert batch.slice(2, 5).views[0]["image"].is_pinned()
    plain = source.batch(0).views[0]["image"]
    assert batch.views[0]["image"].stride() == plain.stride()


ON_GPU = {"compute__device": "cuda", "compute__workers": 1, "log__monitor_every": 2}


def test_a_run_on_a_gpu_is_logged_and_ends_with_an_encoder(tiny_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    auto = {"compute__precision": "auto", "compute__memory_format": "auto"}
    assert tiny_run(out, probes=["arms", "class"], **ON_GPU, **auto).finished
    rows = read_metrics(out)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 9]
    assert all(math.isfinite(row["loss"]) and row["peak_memory_bytes"] > 0 for row in rows)
    assert {"rankme", "probe_linear_class", "efficiency"} <= set(rows[-1])
    cost = json.loads((out / "cost.json").read_text())
    assert (cost["device"], cost["peak_memory_bytes"]) == ("cuda", rows[-1]["peak_memory_bytes"])
    assert all(weight.isfinite().all() for weight in load_file(out / WEIGHTS).values())


def test_a_run_that_a_gpu_began_goes_on_on_the_cpu_and_there_again(
    tiny_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "run", Pretraining.training_step

    def stopping(module: Pretraining, batch: Any, number: int) -> None:
        module.stop_requested = module.taken + 1 in (4, 6)
        step(module, batch, number)

    monkeypatch.setattr(Pretraining, "training_step", stopping)
    results = [tiny_run(out, **ON_GPU), tiny_run(out, resume=True, **{"compute.device": "cpu"}),
               tiny_run(out, resume=True)]
    assert [(result.steps, result.finished) for result in results] == [(4, False), (6, False), (9, True)]
    assert json.loads((out / "cost.json").read_text())["device"] == "cuda"


def test_the_dry_run_tells_the_peak_within_15_percent(tiny_run: Any, tmp_path: Path) -> None:
    peaks = {}
    for checkpointing in ("none", "stage"):
        settings = {
            "backbone": "resnet18", "batch": 40, "views__size": 192, "labels": [], "options__hidden": 1024, "steps": 3,
            "compute__device": "cuda", "compute__precision": "bfloat16", "compute__memory_format": "channels_last",
            "compute__checkpointing": checkpointing,
        }
        estimate = tiny_run(tmp_path / "dry", dry_run=True, **settings)
        (row,) = (row for row in estimate.memory if row.processes == 1 and row.chosen)
        assert tiny_run(tmp_path / checkpointing, **settings).finished
        cost = json.loads((tmp_path / checkpointing / "cost.json").read_text())
        peaks[checkpointing] = cost["peak_memory_bytes"]
        assert row.peak_bytes == pytest.approx(peaks[checkpointing], rel=0.15)
    assert peaks["stage"] < 0.8 * peaks["none"]
