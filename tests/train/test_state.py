"""A run that goes on from a checkpoint is the run that never stopped, under any strategy and world size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from sciencessl.errors import RunError
from sciencessl.methods.swav import Swav, SwavOptions
from sciencessl.setting_groups import OptimConfig
from sciencessl.train.checkpoint import Saver, checkpoint_path, read_checkpoint
from sciencessl.train.plan import build_optimizer
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.state import gather_state, restore_state
from tests.train.two_processes import TwoProcesses

WIDTH = 5
OPTIMISERS = [OptimConfig(name="lars", base_lr=0.5), OptimConfig(name="adamw", base_lr=0.01)]


class Counted(nn.Linear):
    """A layer with state that is no parameter and no buffer."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.calls])

    def set_extra_state(self, state: Tensor) -> None:
        (self.calls,) = state.tolist()


class Net(nn.Module):
    """Rows that do not divide evenly, a shared weight, a frozen copy, batch statistics, and a weight never used."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        first = nn.Linear(WIDTH, 7)
        self.body = nn.Sequential(first, nn.BatchNorm1d(7), nn.ReLU(), Counted(7, WIDTH))
        self.again = nn.Linear(WIDTH, 7)
        self.again.weight = first.weight
        self.last = nn.Linear(7, 1, bias=False)
        self.unused = nn.Parameter(torch.ones(3, 2))
        self.frozen = nn.Linear(WIDTH, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.again(self.body(x))) + self.frozen(x).sum(1, keepdim=True)
        return found


def layers(network: Net) -> Net:
    """As FSDP2 shards them over two processes."""
    mesh = DeviceMesh("cpu", torch.arange(2))
    fully_shard(network.frozen, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def train(network: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(step))
        network(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: (v.full_tensor() if isinstance(v, DTensor) else v).clone() for k, v in state.items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


def start(settings: OptimConfig, wrap: Callable[[Net], nn.Module], seed: int = 0) -> tuple[Net, nn.Module, Any]:
    network = Net(seed)
    through = wrap(network)
    return network, through, build_optimizer({"net": network}, settings, 256)


def alone(network: Net) -> nn.Module:
    return network


def begun(ranks: Ranks, run: Path, settings: OptimConfig, wrap: Callable[[Net], nn.Module]) -> dict[str, Tensor]:
    """Three steps and a checkpoint; the state then."""
    network, through, optimizer = start(settings, wrap)
    train(through, optimizer, 0, 3)
    state = gather_state({"net": network}, optimizer)
    saver, found = Saver(run, ranks, patience=30), whole(state)
    saver.save(state, {"taken": 3}, background=True)
    train(through, optimizer, 3, 4)
    saver.wait()
    return found


def restored(
    ranks: Ranks, run: Path, settings: OptimConfig, wrap: Callable[[Net], nn.Module], steps: int = 0
) -> dict[str, Tensor]:
    """The state of another start after it was brought to that of the checkpoint, and some steps more."""
    network, through, optimizer = start(settings, wrap, seed=1)
    path = checkpoint_path(run, 3)
    restore_state(path, read_checkpoint(path), {"net": network}, optimizer, ranks=ranks)
    train(through, optimizer, 3, 3 + steps)
    return whole(gather_state({"net": network}, optimizer))


@pytest.mark.parametrize("settings", OPTIMISERS, ids=lambda settings: settings.name)
def test_a_run_that_goes_on_is_the_one_that_never_stopped_bit_for_bit(settings: OptimConfig, tmp_path: Path) -> None:
    begun(ALONE, tmp_path, settings, alone)
    network, through, optimizer = start(settings, alone)
    train(through, optimizer, 0, 6)
    found = restored(ALONE, tmp_path, settings, alone, steps=3)
    assert same(found, gather_state({"net": network}, optimizer))
    key = {"lars": "momentum_buffer", "adamw": "exp_avg_sq"}[settings.name]
    assert found[f"optimizer/net.body.0.weight/{key}"].count_nonzero()
    assert torch.equal(found["net.body.3._extra_state"], torch.tensor([6]))
    assert not [name for name in found if "again.weight" in name or name.startswith("optimizer/net.unused")]


def ddp(network: Net) -> nn.Module:
    return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True)


@pytest.mark.parametrize("settings", OPTIMISERS, ids=lambda settings: settings.name)
def test_a_checkpoint_loads_under_another_strategy_and_world_size(
    settings: OptimConfig, tmp_path: Path, both: TwoProcesses
) -> None:
    wraps = {"alone": alone, "ddp": ddp, "fsdp": layers}
    for name, wrap in wraps.items():
        run = tmp_path / name
        saved = begun(ALONE, run, settings, alone) if wrap is alone else both(begun, run, settings, wrap)[0]
        for other in wraps.values():
            found = [restored(ALONE, run, settings, alone)] if other is alone else both(restored, run, settings, other)
            assert all(same(saved, each) for each in found), (name, other)
    # Two processes with the same rows are one process: a mean of equal gradients.
    one, two = restored(ALONE, tmp_path / "fsdp", settings, alone, 2), tmp_path / "alone"
    torch.testing.assert_close(both(restored, two, settings, layers, 2)[0], both(restored, two, settings, ddp, 2)[0])
    torch.testing.assert_close(both(restored, tmp_path / "fsdp", settings, layers, 2)[0], one)


def swav(queue: int) -> Swav:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    encoder.num_features = 6  # type: ignore[assignment]
    options = SwavOptions(hidden=8, out=4, prototypes=5, queue=queue)
    return Swav(encoder, options, torch.Generator().manual_seed(0))


def _saved_queue(ranks: Ranks, run: Path) -> None:
    method = swav(6)
    method.queue.fill_(ranks.rank)
    method.set_extra_state(torch.tensor([2, 6]))
    Saver(run, ranks, patience=30).save(gather_state({"method": method}), {"taken": 2}, own=["method.queue"])


def _loaded_queue(ranks: Ranks, path: Path) -> tuple[float, list[int]]:
    method = swav(6)
    restore_state(path, read_checkpoint(path), {"method": method}, own=["method.queue"], ranks=ranks)
    assert bool((method.queue == method.queue[0, 0, 0]).all())
    return float(method.queue[0, 0, 0]), method.get_extra_state().tolist()


def test_what_each_rank_has_of_its_own_comes_back_to_it(tmp_path: Path, both: TwoProcesses) -> None:
    both(_saved_queue, tmp_path)
    path = checkpoint_path(tmp_path, 2)
    assert both(_loaded_queue, path) == [(0.0, [2, 6]), (1.0, [2, 6])]
    # Another world size: rank r takes those of the rank r modulo the former one.
    assert [_loaded_queue(Ranks(rank, 3), path)[0] for rank in range(3)] == [0.0, 1.0, 0.0]
    _saved_queue(ALONE, tmp_path / "alone")
    assert [value for value, _ in both(_loaded_queue, checkpoint_path(tmp_path / "alone", 2))] == [0.0, 0.0]


def test_state_of_the_optimiser_is_left_alone_without_one(tmp_path: Path) -> None:
    saved = begun(ALONE, tmp_path, OPTIMISERS[1], alone)
    network, path = Net(1), checkpoint_path(tmp_path, 3)
    restore_state(path, read_checkpoint(path), {"net": network})
    found = gather_state({"net": network})
    assert same(found, {name: value for name, value in saved.items() if not name.startswith("optimizer/")})


def test_weights_keep_their_place_and_layout(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    weight, before = network.weight, network.weight.detach().clone()
    Saver(tmp_path).save(gather_state({"net": network}), {"taken": 1})
    with torch.no_grad():
        weight.zero_()
    path = checkpoint_path(tmp_path, 1)
    restore_state(path, read_checkpoint(path), {"net": network})
    assert network.weight is weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, before)


def test_a_checkpoint_of_another_model_is_refused_by_the_name_of_a_tensor(tmp_path: Path) -> None:
    Saver(tmp_path).save(gather_state({"net": nn.Linear(3, 2)}), {"taken": 1})
    path = checkpoint_path(tmp_path, 1)
    content = read_checkpoint(path)
    others = {
        "net.bias is float32 of shape (2,) there, and missing in this run; 1 tensors": nn.Linear(3, 2, bias=False),
        "net.weight is float32 of shape (2, 3) there, and float32 of shape (2, 4) in this": nn.Linear(4, 2),
        "net.bias is float32 of shape (2,) there, and float64 of shape (2,) in this run; 2": nn.Linear(3, 2).double(),
        "net.0.bias is missing there, and float32 of shape (2,) in this run; 4": nn.Sequential(nn.Linear(3, 2)),
    }
    for words, other in others.items():
        before = {name: value.clone() for name, value in gather_state({"net": other}).items()}
        with pytest.raises(RunError) as caught:
            restore_state(path, content, {"net": other})
        assert f"{path} is of another model: tensor {words}" in str(caught.value)
        assert same(before, gather_state({"net": other}))


def test_an_extra_state_that_is_no_tensor_is_refused() -> None:
    class Worded(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

    with pytest.raises(RunError, match=r"net\.0\._extra_state is a dict: only tensors are saved"):
        gather_state({"net": nn.Sequential(Worded())})
