from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.optim.target import TargetUpdater, update_target

AWKWARD = (-0.0, 0.0, 1.5, -math.inf, math.nan, 1e-40)


def pair(seed: int = 0) -> tuple[nn.Sequential, nn.Sequential]:
    """(target, online) with different weights and different batch statistics."""
    generator = torch.Generator().manual_seed(seed)
    online = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    target = copy.deepcopy(online).requires_grad_(False)
    for tensor in (*online.parameters(), *target.parameters()):
        tensor.data.normal_(generator=generator)
    for module in (online, target, online):
        module(torch.randn(8, 4, generator=generator))
    return target, online


def bits(tensors: list[torch.Tensor]) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in tensors]


def test_card_number_5() -> None:
    target = [torch.tensor([1.0], dtype=torch.float64)]
    update_target(target, [torch.tensor([2.0], dtype=torch.float64)], 0.996)
    assert float(target[0]) == pytest.approx(1.004, abs=1e-15)


def test_matches_numpy_over_several_updates() -> None:
    rng = np.random.default_rng(0)
    start, others = rng.normal(size=(3, 2)), [rng.normal(size=(3, 2)) for _ in range(5)]
    target = [torch.from_numpy(start.copy()), torch.zeros(1, dtype=torch.float64)]
    expected = start
    for online, tau in zip(others, (0.9, 0.3, 0.5, 0.999, 0.01), strict=True):
        update_target(target, [torch.from_numpy(online), torch.zeros(1, dtype=torch.float64)], tau)
        expected = tau * expected + (1 - tau) * online
    np.testing.assert_allclose(target[0].numpy(), expected, rtol=0, atol=1e-14)


def test_card_number_9_tau_one_keeps_every_bit() -> None:
    target, online = torch.tensor(AWKWARD), torch.tensor((3.0, math.nan, math.inf, 1.0, 2.0, 5.0))
    before = bits([target])
    update_target([target], [online], 1.0)
    assert bits([target]) == before


def test_card_number_9_tau_zero_copies_every_bit() -> None:
    target, online = torch.tensor((3.0, math.nan, math.inf, 1.0, 2.0, 5.0)), torch.tensor(AWKWARD)
    update_target([target], [online], 0.0)
    assert bits([target]) == bits([online])
    target.add_(1.0)
    assert bits([online]) == bits([torch.tensor(AWKWARD)])


@pytest.mark.parametrize("tau", [-0.1, 1.1, math.nan])
def test_tau_outside_its_range_is_refused(tau: float) -> None:
    with pytest.raises(ConfigError, match="tau"):
        update_target([torch.ones(1)], [torch.ones(1)], tau)


@pytest.mark.parametrize("online", [[], [torch.ones(1)], [torch.ones(2), torch.ones(2)]])
def test_lists_that_do_not_match_are_refused(online: list[torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="number or shape"):
        update_target([torch.ones(2)], online, 0.5)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_empty_lists_and_untracked_updates(tau: float) -> None:
    update_target([], [], tau)
    online = nn.Parameter(torch.ones(2))
    target = torch.zeros(2)
    update_target([target], [online], tau)
    assert not target.requires_grad
    torch.testing.assert_close(target, torch.full((2,), 1 - tau))


def test_updater_moves_parameters_and_leaves_own_buffers() -> None:
    target, online = pair()
    parameters = [p.clone() for p in target.parameters()]
    statistics = [b.clone() for b in target.buffers()]
    TargetUpdater([(target, online)]).update(0.9)
    for after, before, other in zip(target.parameters(), parameters, online.parameters(), strict=True):
        torch.testing.assert_close(after, 0.9 * before + 0.1 * other.detach())
    assert bits(list(target.buffers())) == bits(statistics)


def test_updater_copies_buffers_integers_included() -> None:
    target, online = pair()
    assert int(target[1].num_batches_tracked) != int(online[1].num_batches_tracked)
    TargetUpdater([(target, online)], buffers="copy").update(1.0)
    assert bits(list(target.buffers())) == bits(list(online.buffers()))
    assert int(target[1].num_batches_tracked) == 2
    assert bits(list(target.parameters())) != bits(list(online.parameters()))


def test_updater_takes_several_pairs() -> None:
    pairs = [pair(1), pair(2)]
    TargetUpdater(pairs).update(0.0)
    for target, online in pairs:
        assert bits(list(target.parameters())) == bits(list(online.parameters()))


def test_updater_finds_tensors_again_after_a_conversion() -> None:
    target, online = pair()
    updater = TargetUpdater([(target, online)], buffers="copy")
    target.double()
    online.double()
    updater.update(0.0)
    assert bits(list(target.buffers())) == bits(list(online.buffers()))
    assert bits(list(target.parameters())) == bits(list(online.parameters()))


def test_a_shared_parameter_moves_once() -> None:
    online = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    online[1].weight = online[0].weight
    target = copy.deepcopy(online).requires_grad_(False)
    nn.init.ones_(online[0].weight)
    nn.init.zeros_(target[0].weight)
    TargetUpdater([(target, online)]).update(0.5)
    assert torch.equal(target[1].weight, torch.full((2, 2), 0.5))


def test_pairs_that_differ_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"weight.*\(3, 2\).*\(4, 2\)"):
        TargetUpdater([(nn.Linear(2, 4), nn.Linear(2, 3))])
    with pytest.raises(ConfigError, match="bias"):
        TargetUpdater([(nn.Linear(2, 3, bias=False), nn.Linear(2, 3))])
    with pytest.raises(ConfigError, match="running_mean"):
        TargetUpdater([(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3))])
    with pytest.raises(ConfigError, match="policy"):
        TargetUpdater([], buffers="mean")  # type: ignore[arg-type]


def test_nothing_is_read_from_a_device() -> None:
    target, online = (module.to("meta") for module in pair())
    TargetUpdater([(target, online)], buffers="copy").update(0.5)
