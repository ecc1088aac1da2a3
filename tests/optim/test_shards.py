"""Optimisers and moving average of two processes that hold half of each tensor: those of one with the whole."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARC, LARS
from sciencessl.optim.shards import is_sharded, layout, own_parts, whole_norms
from sciencessl.optim.target import TargetUpdater, update_target
from sciencessl.train.ranks import Ranks
from tests.train.two_processes import TwoProcesses

STEPS = 4


class Uneven(nn.Module):
    """Rows that two processes cannot share equally: 5 to 3 and 2, 1 to 1 and none."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {"five": (5, 3), "one": (1, 4), "still": (2, 2), "zero": (4, 2), "bias": (3,)}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)))
        nn.init.zeros_(self.zero)
        self.parts = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2)).double()

    def forward(self, step: int) -> Tensor:
        loss: Tensor = 0.0 * self.still.sum()
        for number, parameter in enumerate((self.five, self.one, self.zero, self.bias)):
            loss = loss + (parameter * torch.linspace(-1.0, number + step, parameter.numel()).view_as(parameter)).sum()
        return loss + self.parts(torch.linspace(0.0, step, 6, dtype=torch.float64).view(2, 3)).square().sum()


def _sharded(module: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(module.parts)
    return fully_shard(module, reshard_after_forward=True)


def _walk(kind: type[LARS], module: nn.Module, target: nn.Module) -> list[np.ndarray]:
    optimiser = kind(parameter_groups(module, 0.05), lr=0.3)
    updater = TargetUpdater([(target, module)])
    for step in range(STEPS):
        optimiser.zero_grad()
        module(step).backward()
        target(step)
        optimiser.step()
        updater.update(0.9)
    found = [*module.parameters(), *target.parameters(), *(optimiser.state[p]["momentum_buffer"] for p in
                                                          module.parameters())]  # fmt: skip
    return [(x.full_tensor() if is_sharded(x) else x).detach().numpy() for x in found]


def _both_ways(ranks: Ranks, kind: type[LARS]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    from torch.distributed.tensor import DTensor

    torch.manual_seed(0)
    online = Uneven()
    target = copy.deepcopy(online).requires_grad_(False)
    whole = _walk(kind, copy.deepcopy(online), copy.deepcopy(target))
    shards, others = _sharded(online), _sharded(target)
    assert all(isinstance(p, DTensor) for p in (*shards.parameters(), *others.parameters()))
    assert [len(part) for part in own_parts([online.five, online.one])] == ([3, 1] if ranks.rank == 0 else [2, 0])
    return whole, _walk(kind, shards, others)


@pytest.mark.parametrize("kind", [LARS, LARC])
def test_two_processes_with_shards_are_one_with_whole_tensors(both: TwoProcesses, kind: type[LARS]) -> None:
    for whole, shards in both(_both_ways, kind):
        for one, two in zip(whole, shards, strict=True):
            np.testing.assert_allclose(two, one, rtol=0, atol=1e-12)


def _norms(ranks: Ranks) -> tuple[list[float], list[float], bool]:
    module = Uneven()
    plain = list(module.parameters())
    expected = [float(np.linalg.norm(p.detach().numpy())) for p in plain]
    _sharded(module)
    shards = [p.detach() for p in module.parameters()]
    found = whole_norms(own_parts(shards), shards[0])
    return expected, found.tolist(), layout(plain[0]) == layout(shards[0])


def test_norms_of_shards_are_those_of_the_whole(both: TwoProcesses) -> None:
    for expected, found, alike in both(_norms):
        np.testing.assert_allclose(found, expected, rtol=1e-15)
        assert not alike


def _mixed(ranks: Ranks) -> str:
    module = Uneven()
    plain = [p.detach().clone() for p in module.parameters()]
    try:
        update_target(plain, list(_sharded(module).parameters()), 0.5)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_target_in_other_shards_is_refused(both: TwoProcesses) -> None:
    for message in both(_mixed):
        assert "spread over processes; wrap both modules alike" in message


def test_without_processes_a_tensor_is_its_own_part() -> None:
    tensors: list[Any] = [torch.ones(3, 4), torch.full((2,), 3.0)]
    assert not is_sharded(tensors[0])
    assert all(part is tensor for part, tensor in zip(own_parts(tensors), tensors, strict=True))
    np.testing.assert_allclose(whole_norms(tensors, tensors[0]), [12**0.5, 18**0.5], rtol=1e-7)
    assert layout(tensors[0]) == layout(tensors[1]) != layout(tensors[0].double())
