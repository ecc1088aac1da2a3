from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARC, LARS

SHAPES = ((4, 3), (2, 3, 3, 3), (5,), (3, 2))
ADAPT = (True, True, False, True)


def reference(
    weight: np.ndarray, gradients: list[np.ndarray], rates: list[float], adapt: bool, decay: float, eta: float = 1e-3
) -> np.ndarray:
    """LARS of one tensor, written from the card in NumPy."""
    weight, momentum = weight.copy(), np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        update = gradient
        if adapt:
            update = gradient + decay * weight
            size, norm = np.sqrt((update**2).sum()), np.sqrt((weight**2).sum())
            if size > 0 and norm > 0:
                update = update * (eta * norm / size)
        momentum = 0.9 * momentum + update
        weight = weight - rate * momentum
    return weight


def model(seed: int = 0) -> tuple[list[nn.Parameter], LARS]:
    rng = np.random.default_rng(seed)
    params = [nn.Parameter(torch.from_numpy(rng.normal(size=shape))) for shape in SHAPES]
    groups = [
        {"params": [p for p, adapt in zip(params, ADAPT, strict=True) if adapt], "adapt": True},
        {"params": [p for p, adapt in zip(params, ADAPT, strict=True) if not adapt], "adapt": False},
    ]
    return params, LARS(groups, lr=0.1, weight_decay=0.05)


def walk(params: list[nn.Parameter], optimiser: LARS, steps: range, groups: int = 2) -> None:
    for step in steps:
        rng = np.random.default_rng(1000 + step)
        for param in params:
            param.grad = torch.from_numpy(rng.normal(size=tuple(param.shape)))
        assert len(optimiser.param_groups) == groups
        for group in optimiser.param_groups:
            group["lr"] = 0.1 + 0.05 * step
        optimiser.step()


def gradients_of(index: int, steps: int) -> list[np.ndarray]:
    found = []
    for step in range(steps):
        rng = np.random.default_rng(1000 + step)
        found.append([rng.normal(size=shape) for shape in SHAPES][index])
    return found


def test_card_number_6() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    bias = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    groups = [{"params": [weight], "adapt": True}, {"params": [bias], "adapt": False}]
    optimiser = LARS(groups, lr=1.0, weight_decay=0.1, eta=1e-3)
    weight.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
    bias.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
    optimiser.step()
    np.testing.assert_allclose(weight.detach().numpy(), [2.995221, 3.998530], atol=5e-7)
    update = optimiser.state[weight]["momentum_buffer"].numpy()
    np.testing.assert_allclose(update, 0.00367607 * np.array([1.3, 0.4]), rtol=2e-6)
    assert bias.detach().tolist() == [2.0, 4.0]


def test_several_steps_match_numpy() -> None:
    params, optimiser = model()
    starts = [p.detach().numpy().copy() for p in params]
    walk(params, optimiser, range(6))
    rates = [0.1 + 0.05 * step for step in range(6)]
    for index, (param, start) in enumerate(zip(params, starts, strict=True)):
        expected = reference(start, gradients_of(index, 6), rates, ADAPT[index], 0.05)
        np.testing.assert_allclose(param.detach().numpy(), expected, rtol=0, atol=1e-12)
        assert np.abs(expected - start).max() > 1e-5


@pytest.mark.parametrize(("weight", "gradient", "expected"), [(0.0, 2.0, -0.5 * 2.0), (3.0, 0.0, 3.0)])
def test_a_zero_norm_leaves_the_update_unscaled(weight: float, gradient: float, expected: float) -> None:
    param = nn.Parameter(torch.full((2, 2), weight, dtype=torch.float64))
    param.grad = torch.full((2, 2), gradient, dtype=torch.float64)
    LARS([param], lr=0.5).step()
    assert torch.equal(param.detach(), torch.full((2, 2), expected, dtype=torch.float64))


def test_the_learning_rate_stays_outside_the_momentum() -> None:
    param = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = LARS([param], lr=1.0, adapt=False)
    for rate in (1.0, 10.0):
        param.grad = torch.ones(1, dtype=torch.float64)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
    assert float(param.detach()) == pytest.approx(-1.0 - 10.0 * 1.9, abs=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_gradients_are_only_read(decay: float) -> None:
    params, optimiser = model()
    optimiser.param_groups[0]["weight_decay"] = decay
    for param in params:
        param.grad = torch.ones_like(param)
    kept = [param.grad for param in params]
    optimiser.step()
    for param, gradient in zip(params, kept, strict=True):
        assert param.grad is gradient
        assert torch.equal(gradient, torch.ones_like(param))


def apex(weight: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float) -> np.ndarray:
    """LARC without clipping over SGD of one tensor, written from the card in NumPy."""
    weight, momentum = weight.copy(), np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        size, norm = np.linalg.norm(gradient), np.linalg.norm(weight)
        update = gradient
        if size > 0 and norm > 0:
            update = (gradient + decay * weight) * (1e-3 * norm / (size + decay * norm + 1e-8))
        momentum = 0.9 * momentum + update
        weight = weight - rate * momentum
    return weight


def test_larc_of_several_steps_matches_numpy() -> None:
    rng = np.random.default_rng(3)
    starts = [rng.normal(size=shape) for shape in SHAPES]
    params = [nn.Parameter(torch.from_numpy(start.copy())) for start in starts]
    optimiser = LARC(params, lr=0.1, weight_decay=0.05)
    walk(params, optimiser, range(6), groups=1)
    rates = [0.1 + 0.05 * step for step in range(6)]
    for index, (param, start) in enumerate(zip(params, starts, strict=True)):
        expected = apex(start, gradients_of(index, 6), rates, 0.05)
        np.testing.assert_allclose(param.detach().numpy(), expected, rtol=0, atol=1e-12)
        lars = reference(start, gradients_of(index, 6), rates, True, 0.05)
        assert np.abs(expected - lars).max() > 1e-6


def test_larc_by_hand() -> None:
    param = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    param.grad = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    LARC([param], lr=1.0, weight_decay=0.1).step()
    # |w| = 5, |g| = 1: rate 0.001 * 5 / (1 + 0.1 * 5) of g + 0.1 w = (1.3, 0.4)
    np.testing.assert_allclose(param.detach().numpy(), [[3 - 1.3 / 300, 4 - 0.4 / 300]], rtol=0, atol=1e-9)
    assert param.grad.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("weight", "gradient", "expected"), [(0.0, 2.0, -0.5 * 2.0), (3.0, 0.0, 3.0)])
def test_larc_leaves_an_update_with_a_zero_norm_as_it_is_without_decay(
    weight: float, gradient: float, expected: float
) -> None:
    param = nn.Parameter(torch.full((2, 2), weight, dtype=torch.float64))
    param.grad = torch.full((2, 2), gradient, dtype=torch.float64)
    LARC([param], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(param.detach(), torch.full((2, 2), expected, dtype=torch.float64))


def test_state_goes_round_exactly() -> None:
    params, optimiser = model()
    walk(params, optimiser, range(3))
    saved = copy.deepcopy(optimiser.state_dict())
    others, resumed = model(seed=1)
    for mine, theirs in zip(others, params, strict=True):
        mine.data.copy_(theirs.data)
    resumed.load_state_dict(saved)
    assert [group["adapt"] for group in resumed.param_groups] == [True, False]
    walk(params, optimiser, range(3, 6))
    walk(others, resumed, range(3, 6))
    for mine, theirs in zip(others, params, strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(resumed.state[mine]["momentum_buffer"], optimiser.state[theirs]["momentum_buffer"])


def test_parameters_without_gradient_and_mixed_dtypes() -> None:
    idle = nn.Parameter(torch.ones(2, 2))
    single, double = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    single.grad, double.grad = torch.ones(2, 2), torch.ones(2, 2, dtype=torch.float64)
    optimiser = LARS([idle, single, double], lr=1.0)
    optimiser.step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert idle not in optimiser.state
    torch.testing.assert_close(single.detach().double(), double.detach(), rtol=0, atol=1e-7)
    assert float(double.detach()[0, 0]) == pytest.approx(1 - 1e-3, abs=1e-15)


def test_closure_is_run_with_gradients() -> None:
    param = nn.Parameter(torch.ones(2))
    optimiser = LARS([param], lr=0.1, adapt=False)

    def closure() -> torch.Tensor:
        loss = (param**2).sum()
        loss.backward()
        return loss.detach()

    assert float(optimiser.step(closure)) == 2.0
    torch.testing.assert_close(param.detach(), torch.full((2,), 0.8))


def test_groups_of_a_module_are_taken_as_they_are() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimiser = LARS(parameter_groups(module, 0.1), lr=0.1, weight_decay=0.3)
    assert [(g["adapt"], g["weight_decay"], len(g["params"])) for g in optimiser.param_groups] == [
        (True, 0.1, 1),
        (False, 0.0, 3),
    ]
    module(torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimiser.step()


@pytest.mark.parametrize("kind", [LARS, LARC])
def test_nothing_is_read_from_a_device(kind: type[LARS]) -> None:
    params = [nn.Parameter(torch.ones(3, 3, device="meta")), nn.Parameter(torch.ones(3, device="meta"))]
    for param in params:
        param.grad = torch.ones_like(param)
    optimiser = kind([{"params": params[:1]}, {"params": params[1:], "adapt": False}], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimiser.step()


@pytest.mark.parametrize(
    "setting", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"eta": 0.0}, {"adapt": "no"}]
)
def test_values_outside_their_range_are_refused(setting: dict[str, Any]) -> None:
    param = nn.Parameter(torch.ones(2))
    name = next(iter(setting))
    with pytest.raises(ConfigError, match=name):
        LARS([param], **{"lr": 0.1, **setting})
    with pytest.raises(ConfigError, match=name):
        LARS([{"params": [param], **setting}], lr=0.1)
