"""Monitors in training: a provoked collapse is told in words, a healthy run is not, and ranks read the whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from sciencessl.losses.regression import negative_cosine
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.monitor.watch import Monitor
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.optim.schedules import warmup_cosine
from sciencessl.samples import Batch
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.step import Network, Recipe, Wrapped, train_step
from tests.train.two_processes import TwoProcesses

STEPS, BATCH, IMAGES, EVERY = 200, 32, 64, 20
RECIPE = Recipe(STEPS, BATCH, 1, lambda step: warmup_cosine(step, 10, STEPS, 10.0), lambda x: x, "image")


class Encoder(nn.Sequential):
    """A convolution, with batch norm or without."""

    num_features = 16

    def __init__(self, norm: bool = True) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 4, 2), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class Bare(Byol):
    """BYOL without predictor and without stop-gradient: views are pulled together, and nothing holds them apart."""

    def online(self, views: Sequence[Tensor]) -> Online:
        y = [self.encoder(view) for view in views]
        return Online(y, [self.projector(each) for each in y], [])

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        cosine = negative_cosine(*online.projections)
        return PairLoss((4 + 4 * cosine).sum(), cosine.detach().sum(), len(cosine))


def build(kind: type[Byol], norm: bool = True, tau: float = 0.99) -> Byol:
    torch.manual_seed(0)
    options = ByolOptions(hidden=32, out=16, tau_base=tau, tau_schedule="cosine" if tau else "constant")
    return kind(Encoder(norm), options, torch.Generator().manual_seed(1))


def views(step: int) -> Batch:
    """Coarse patterns of 64 images, with noise that the views do not share."""
    patterns = torch.randn(IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(step)
    index = torch.randint(0, IMAGES, (BATCH,), generator=generator)
    images = nn.functional.interpolate(patterns[index], size=12)
    made = [{"image": images + 0.5 * torch.randn(images.shape, generator=generator)} for _ in range(2)]
    return Batch(made, {}, [str(i) for i in index.tolist()], np.arange(BATCH))


def warnings(method: Byol) -> Iterator[tuple[int, str]]:
    """Train, and give each warning with its step."""
    wrapped = Wrapped(Network(method, [], RECIPE))
    optimizer = LARS(parameter_groups(method, 1e-6), lr=0.0)
    monitor = Monitor()
    for step in range(STEPS):
        result = train_step(wrapped, optimizer, [views(step)], step)
        if (step + 1) % EVERY == 0:
            values = monitor.read(method, result.online, result.targets)
            yield from ((step + 1, words) for words in monitor.warnings(values, step + 1 == STEPS))


@pytest.mark.parametrize(("norm", "words"), [
    (True, "the projection has collapsed to a point"), (False, "the representation is collapsing to a point"),
])
def test_a_provoked_collapse_is_told_in_words(norm: bool, words: str) -> None:
    """Batch norm keeps the representation apart while the projection falls together; without it both do."""
    step, told = next(warnings(build(Bare, norm)))
    assert words in told
    assert step < STEPS


def test_a_target_that_equals_the_online_network_is_told() -> None:
    found = [words for _, (_, words) in zip(range(2), warnings(build(Bare, tau=0.0)), strict=False)]
    assert any("equals the online one and there is no predictor" in words for words in found)


def test_a_healthy_run_of_the_same_length_is_not_warned_of() -> None:
    assert list(warnings(build(Byol))) == []


def reading(ranks: Ranks, shard: bool) -> dict[str, float]:
    """Of this rank's half of fixed rows, with a target that lags."""
    method = build(Byol).double()
    with torch.no_grad():
        for number, weight in enumerate(method.target_encoder.parameters()):
            weight += 0.1 * number
    if shard:
        mesh = dist.device_mesh.init_device_mesh("cpu", (ranks.world,))
        for module in (method.encoder, method.target_encoder):
            fully_shard(module, mesh=mesh)
    draw = torch.Generator().manual_seed(5)
    rows = [torch.randn(20, 16, generator=draw, dtype=torch.float64) for _ in range(8)]
    mine = [part.chunk(ranks.world)[ranks.rank].requires_grad_() for part in rows]
    return Monitor(ranks).read(method, Online(mine[:2], mine[2:4], mine[4:6]), mine[6:])


@pytest.mark.parametrize("shard", [False, True], ids=["whole weights", "sharded weights"])
def test_two_processes_read_the_whole_batch(both: TwoProcesses, shard: bool) -> None:
    whole = reading(ALONE, False)
    assert whole["target_distance"] > 0.01
    first, second = both(reading, shard)
    assert first == second
    assert first == pytest.approx(whole, rel=1e-9)


def gathered(ranks: Ranks) -> Tensor:
    return ranks.gather(torch.full((2, 3), float(ranks.rank), requires_grad=True))


def test_rows_are_gathered_in_the_order_of_the_ranks(both: TwoProcesses) -> None:
    for found in both(gathered):
        assert found[:, 0].tolist() == [0, 0, 1, 1]
        assert not found.requires_grad
    assert torch.equal(gathered(ALONE), torch.zeros(2, 3))
