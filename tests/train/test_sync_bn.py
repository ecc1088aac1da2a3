"""Batch norm over two processes against one process with all rows, and against torch's where there is one rank."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.optim.target import TargetUpdater
from sciencessl.train.ranks import ALONE, Ranks, block_of_ranks
from sciencessl.train.sync_bn import SyncBatchNorm, convert
from tests.train.two_processes import TwoProcesses

ROWS, STEPS = 8, 10
HALVES, UNEVEN, ALL_ON_ONE = (0, 4, 8), (0, 5, 8), (0, 8, 8)


class Tower(nn.Sequential):
    """Every kind of batch norm, in 1, 2 and 3 dimensions, with learned and with no weights."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 4, 2), BatchNormAct2d(4), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3, momentum=None),
            nn.Unflatten(1, (3, 1)), nn.BatchNorm3d(3, affine=False), nn.Flatten(2), nn.BatchNorm1d(3, eps=1e-3),
            nn.Flatten(), nn.Tanh(), nn.Linear(27, 5), nn.BatchNorm1d(5, track_running_stats=False),
        )


def tower(dtype: torch.dtype) -> Tower:
    torch.manual_seed(0)
    made = Tower().to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def rows(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    shapes = (ROWS, 2, 4, 4), (ROWS, 5)
    x, wanted = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return 1.0 + 2.0 * x, wanted


def learn(ranks: Ranks, dtype: torch.dtype, steps: int, cuts: tuple[int, ...]) -> dict[str, Any]:
    """Train a tower on this rank's rows; all that can be compared of every step, and of the end."""
    model = convert(tower(dtype), ranks) if ranks.world > 1 else tower(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    part = slice(cuts[ranks.rank], cuts[ranks.rank + 1])
    seen = []
    for step in range(steps):
        x, wanted = (values[part].clone() for values in rows(step, dtype))
        x.requires_grad_()
        optimizer.zero_grad()
        y = model(x)
        ((y - wanted).pow(2).sum() / ROWS).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            ranks.sum(parameter.grad)
        seen.append((y.detach(), x.grad, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        optimizer.step()
    return {"steps": seen, "state": model.state_dict(), "evaluated": model.eval()(rows(99, dtype)[0]).detach()}


def assert_as_one(parts: list[dict[str, Any]], whole: dict[str, Any], tolerance: float) -> None:
    def close(ours: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)

    for (y, dx, gradients), *ranks in zip(whole["steps"], *(part["steps"] for part in parts), strict=True):
        close(torch.cat([rank[0] for rank in ranks]), y)
        close(torch.cat([rank[1] for rank in ranks]), dx)
        for rank in ranks:
            for ours, theirs in zip(rank[2], gradients, strict=True):
                close(ours, theirs)
    for part in parts:
        assert list(part["state"]) == list(whole["state"])
        for name, value in whole["state"].items():
            close(part["state"][name], value)
            assert torch.equal(part["state"][name], parts[0]["state"][name])
        close(part["evaluated"], whole["evaluated"])


@pytest.mark.parametrize("cuts", [HALVES, UNEVEN, ALL_ON_ONE])
def test_two_processes_learn_what_one_learns_from_all_rows(both: TwoProcesses, cuts: tuple[int, ...]) -> None:
    """Outputs, gradients of inputs and weights at each of ten steps, and in the end weights and running statistics."""
    whole = learn(ALONE, torch.float64, STEPS, (0, ROWS))
    assert_as_one(both(learn, torch.float64, STEPS, cuts), whole, 1e-9)


def test_one_step_in_single_precision(both: TwoProcesses) -> None:
    whole = learn(ALONE, torch.float32, 1, (0, ROWS))
    assert_as_one(both(learn, torch.float32, 1, HALVES), whole, 1e-5)


def alone_in_a_group(ranks: Ranks) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What a converted tower in a group of one learns from this rank's rows, and what the plain one does."""
    own = block_of_ranks(1)
    cuts = (4 * ranks.rank, 4 * ranks.rank + 4)
    made = learn(own, torch.float32, 2, cuts)
    model, (x, _) = convert(tower(torch.float32), own), rows(0, torch.float32)
    made["converted"] = model(x[slice(*cuts)]).detach()
    return made, learn(ALONE, torch.float32, 2, cuts), own.world


def test_a_group_of_one_rank_has_its_own_statistics(both: TwoProcesses) -> None:
    for rank, (grouped, plain, world) in enumerate(both(alone_in_a_group)):
        assert world == 1
        assert all(torch.equal(value, plain["state"][name]) for name, value in grouped["state"].items())
        x = rows(0, torch.float32)[0][4 * rank : 4 * rank + 4]
        assert torch.equal(grouped["converted"], tower(torch.float32)(x))


class Share(torch.autograd.Function):
    """The same x on every rank, of which each uses a part: its gradient is the sum of what they found."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Ranks(world=2).sum(gradient.clone())


class Gather(torch.autograd.Function):
    """The parts of two ranks as one tensor, the same on each, so that each part's gradient is there already."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(2)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.chunk(2)[dist.get_rank()]


def numeric_gradients(ranks: Ranks) -> bool:
    norm = convert(nn.BatchNorm2d(2, track_running_stats=False).double(), ranks)
    part = slice(2 * ranks.rank, 2 * ranks.rank + 2)

    def whole(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shared = [Share.apply(tensor) for tensor in (x, weight, bias)]
        named = {"weight": shared[1], "bias": shared[2]}
        return Gather.apply(torch.func.functional_call(norm, named, (shared[0][part],)))

    torch.manual_seed(1)
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4, 2, 1, 2), (2,), (2,))]
    return torch.autograd.gradcheck(whole, inputs)


def test_gradients_agree_with_finite_differences(both: TwoProcesses) -> None:
    assert both(numeric_gradients) == [True, True]


def far_from_zero(ranks: Ranks) -> Tensor:
    torch.manual_seed(2)
    x = 1000.0 + torch.randn(64, 3)
    norm = convert(nn.BatchNorm1d(3, momentum=1.0), ranks)
    norm(x.chunk(2)[ranks.rank])
    assert norm.running_var is not None
    return norm.running_var / x.double().var(dim=0)


def test_pixels_far_from_zero_keep_their_spread(both: TwoProcesses) -> None:
    for ratio in both(far_from_zero):
        torch.testing.assert_close(ratio, torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=0)


def in_half(ranks: Ranks, affine: bool) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    x = (5.0 + torch.randn(8, 3, 2, 2)).bfloat16().contiguous(memory_format=torch.channels_last)
    mine = (x.chunk(2)[ranks.rank] if ranks.world > 1 else x).requires_grad_()
    norm = convert(nn.BatchNorm2d(3, affine=affine), ranks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(mine)
    (y.float() ** 3).sum().backward()
    assert mine.grad is not None
    assert norm.running_mean is not None
    assert y.dtype == mine.grad.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    return y.detach().float(), mine.grad.float(), norm.running_mean


@pytest.mark.parametrize("affine", [True, False])
def test_bfloat16_rows_have_statistics_in_single_precision(both: TwoProcesses, affine: bool) -> None:
    y, dx, mean = in_half(ALONE, affine)
    parts = both(in_half, affine)
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), y, rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), dx, rtol=0.05, atol=0.1)
    torch.testing.assert_close(parts[1][2], mean, rtol=1e-6, atol=0)


def test_one_process_has_plain_batch_norm_bit_for_bit() -> None:
    plain = tower(torch.float32)
    ours = convert(tower(torch.float32), ALONE)
    for step in range(3):
        x, _ = rows(step, torch.float32)
        outputs = [model(x) for model in (plain, ours)]
        assert torch.equal(*outputs)
        for y in outputs:
            y.pow(3).sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), ours.parameters(), strict=True))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in ours.state_dict().items())


def test_layers_stay_the_objects_they_are() -> None:
    online = tower(torch.float32)
    target = copy.deepcopy(online)
    updater = TargetUpdater([(target, online)], buffers="copy")
    layers = list(online.modules())
    state = {name: id(value) for name, value in online.state_dict(keep_vars=True).items()}
    assert convert(online, ALONE) is online
    convert(target, ALONE)
    assert all(a is b for a, b in zip(layers, online.modules(), strict=True))
    assert {name: id(value) for name, value in online.state_dict(keep_vars=True).items()} == state
    assert sum(isinstance(layer, SyncBatchNorm) for layer in layers) == 5
    assert isinstance(online[1], BatchNormAct2d)
    online(rows(0, torch.float32)[0])
    updater.update(0.0)
    assert all(torch.equal(value, online.state_dict()[name]) for name, value in target.state_dict().items())


def test_a_converted_layer_is_copied_with_its_ranks_and_converted_again_for_others() -> None:
    ranks = Ranks(1, 2)
    layer = convert(nn.BatchNorm1d(3), ranks)
    copied = copy.deepcopy(layer)
    assert getattr(copied, "ranks") is ranks  # noqa: B009  # torch types attributes as tensors
    again = convert(copied, ALONE)
    assert again(torch.ones(2, 3)).shape == (2, 3)
    assert getattr(layer, "ranks") is ranks  # noqa: B009


def test_evaluation_asks_no_other_rank() -> None:
    """There is no process group here: a sum would raise."""
    layer, x = convert(nn.BatchNorm1d(3), Ranks(0, 2)), torch.randn(4, 3)
    assert torch.equal(layer.eval()(x), nn.BatchNorm1d(3).eval()(x))
    with pytest.raises(ValueError, match=r"process group"):
        layer.train()(x)


def test_a_batch_norm_of_another_kind_is_refused_and_nothing_changed() -> None:
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(Own(2)))
    with pytest.raises(ConfigError, match=r"1\.0 is a .*Own: only BatchNorm1d, BatchNorm2d, .* Use one of these"):
        convert(model, ALONE)
    assert type(model[0]) is nn.BatchNorm2d
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        convert(nn.BatchNorm1d(2), Ranks(0, 2))(torch.zeros(1, 2, 3, 4))
