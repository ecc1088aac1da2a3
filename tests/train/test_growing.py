"""Batches that grow in phases: at a boundary nothing changes but what belongs to the batch."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sciencessl.data.phases import ONE, Phases
from sciencessl.errors import ConfigError
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.optim.schedules import target_momentum, warmup_cosine
from sciencessl.setting_groups import ComputeConfig, OptimConfig
from sciencessl.train.folder import read_metrics, read_model
from sciencessl.train.parallel import full_state, wrap
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.step import Network, Recipe, Wrapped, train_step
from tests.train.test_ranks import BATCH, ORDER, Encoder, samples
from tests.train.test_resume import assert_equal_runs, stop_after
from tests.train.two_processes import TwoProcesses

GROWTH = Phases((1, 2), (0, 3), (0, 3))
"""Three steps of 8 samples, then steps of 16."""
TOTAL = 9
"""Batches of 8 in a run: six steps of these phases."""
ADAM = OptimConfig("adamw", 0.01, 0.05, scaling="sqrt", reference_batch=BATCH)


def trained_by(ranks: Ranks, recipe: Recipe, adam: bool = False) -> tuple[Wrapped, Any]:
    torch.manual_seed(0)
    method = Byol(Encoder(True), ByolOptions(hidden=9, out=4, tau_base=0.9), torch.Generator().manual_seed(1))
    method.at_batch(BATCH)
    wrapped = wrap(Network(method, [], recipe).double(), ComputeConfig(), ranks, torch.device("cpu"))
    groups = parameter_groups(wrapped.network, 0.05)
    if not adam:
        return wrapped, LARS(groups, lr=0.0)
    return wrapped, torch.optim.AdamW([{k: v for k, v in g.items() if k != "adapt"} for g in groups])


def recipe_of(phases: Phases, settings: OptimConfig) -> Recipe:
    def rate(step: int) -> float:
        peak = settings.at_batch(BATCH * phases.factor(step)).learning_rate
        return warmup_cosine(phases.before(step), 2, TOTAL, peak)

    steps = phases.steps(TOTAL)
    return Recipe(steps, BATCH, 1, rate, lambda x: x.double(), "image", phases=phases, at_batch=settings.at_batch)


def take(wrapped: Wrapped, optimizer: Any, step: int, numbers: range, ranks: Ranks = ALONE) -> dict[str, Any]:
    """A step over these batches of the order, each in one micro-batch."""
    parts = [samples(*ORDER.rank_part(number, ranks.rank, ranks.world)[::-1]) for number in numbers]
    return train_step(wrapped, optimizer, parts, step).metrics


def update_with(wrapped: Wrapped, tau: float) -> None:
    """Let the target move with this momentum, whatever the method asks for."""
    updater: Any = wrapped.network.method._updater
    update = updater.update
    updater.update = lambda ignored: update(tau)


@pytest.mark.parametrize("settings", [OptimConfig("lars", 10.0, 0.05), ADAM], ids=lambda x: x.name)
def test_a_phase_goes_on_as_a_run_at_its_batch_would_from_the_same_weights_and_moments(settings: OptimConfig) -> None:
    """Three plain steps, then by hand: twice the batch, the rate by its rule, tau squared, Adam by the square root."""
    adam = settings.name == "adamw"
    grown, optimizer = trained_by(ALONE, recipe_of(GROWTH, settings), adam)
    found = [take(grown, optimizer, step, GROWTH.batches(step)) for step in range(4)]
    plain, other = trained_by(ALONE, recipe_of(ONE, settings), adam)
    for step in range(3):
        told = take(plain, other, step, range(step, step + 1))
        assert found[step]["lr"] == told["lr"]
    before = copy.deepcopy(plain.network.state_dict())
    root = 2**0.5 if adam else 2.0
    rate = root * plain.network.recipe.learning_rate(3)
    tau = target_momentum(3, TOTAL, 0.9) ** 2
    for group in other.param_groups:
        if adam:
            group |= {"betas": (1 - 2 * 0.1, 1 - 2 * 0.001), "eps": 1e-8 / root}
            group["weight_decay"] *= root
    plain.network.recipe = dataclasses.replace(plain.network.recipe, batch=2 * BATCH, learning_rate=lambda step: rate)
    update_with(plain, tau)
    take(plain, other, 3, range(3, 5))
    assert (found[3]["lr"], found[3]["tau"]) == (pytest.approx(rate, rel=1e-12), pytest.approx(tau, rel=1e-12))
    for name, value in grown.network.state_dict().items():
        torch.testing.assert_close(value, plain.network.state_dict()[name], rtol=1e-12, atol=1e-14)
    assert any(not torch.equal(value, before[name]) for name, value in plain.network.state_dict().items())


def test_what_a_boundary_sets_changes_no_weight_and_no_moment() -> None:
    """Card number 7: only hyperparameters differ."""
    grown, optimizer = trained_by(ALONE, recipe_of(GROWTH, ADAM), adam=True)
    for step in range(3):
        take(grown, optimizer, step, GROWTH.batches(step))
    weights, moments = copy.deepcopy(grown.network.state_dict()), copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad()
    optimizer.step = lambda: None
    update_with(grown, 1.0)
    kept = {n: b.clone() for n, b in grown.network.named_buffers()}
    take(grown, optimizer, 3, GROWTH.batches(3))
    for name, parameter in grown.network.named_parameters():
        assert torch.equal(parameter, weights[name])
    after = optimizer.state_dict()
    assert all(torch.equal(after["state"][k][n], v) for k, s in moments["state"].items() for n, v in s.items())
    decays = [(old["weight_decay"], new["weight_decay"]) for old, new in
              zip(moments["param_groups"], after["param_groups"], strict=True)]  # fmt: skip
    assert decays == [(0.05, pytest.approx(0.05 * 2**0.5)), (0.0, 0.0)]
    assert after["param_groups"][0]["betas"] == pytest.approx((0.8, 0.998))
    assert any(not torch.equal(buffer, kept[n]) for n, buffer in grown.network.named_buffers())  # batches were seen


def grown_weights(ranks: Ranks) -> dict[str, Any]:
    wrapped, optimizer = trained_by(ranks, recipe_of(GROWTH, OptimConfig("lars", 10.0, 0.05)))
    for step in range(GROWTH.steps(TOTAL)):
        take(wrapped, optimizer, step, GROWTH.batches(step), ranks)
    return full_state(wrapped.network)


def test_two_processes_grow_as_one(both: TwoProcesses) -> None:
    whole = grown_weights(ALONE)
    for part in both(grown_weights):
        for name, value in whole.items():
            torch.testing.assert_close(part[name], value, rtol=1e-9, atol=1e-9)


CHANGES = {"phases": ["16@0.5", "32@1"], "optim__scaling": "sqrt", "optim__reference_batch": 8, "optim__name": "adamw",
           "optim__base_lr": 0.001, "labels": ["class"]}  # fmt: skip


def test_a_run_across_its_phases_says_what_it_does_and_goes_on_exactly(
    tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = tiny_run(whole, **CHANGES)
    logged = read_metrics(whole)
    epoch = round(result.images / _epochs(whole))
    # 8 a step up to half an epoch, 16 up to an epoch, then 32: by the number of samples of split=train.
    first = -(-round(0.5 * epoch) // 8)
    second = -(-(-(-epoch // 8) - first) // 2)
    sizes = [8] * first + [16] * second + [32] * (9 - first - second)
    assert (first > 1, second > 1, 9 - first - second > 0) == (True, True, True)
    assert [int(row["images"]) for row in logged] == [sum(sizes[:k]) for k in (2, 4, 6, 8, 9)]
    assert result.images == read_model(whole).images == sum(sizes)
    taus = [float(row["tau"]) for row in logged]
    seen = [sum(sizes[: k - 1]) / 8 for k in (2, 4, 6, 8, 9)]
    expected = [
        target_momentum(int(s), sum(sizes) // 8, 0.97) ** (sizes[k - 1] / 8)
        for s, k in zip(seen, (2, 4, 6, 8, 9), strict=True)
    ]
    np.testing.assert_allclose(taus, expected, rtol=1e-6)
    for taken in (first, first + 1):
        out = parts / str(taken)
        stop_after(taken, out, tiny_run, monkeypatch, **CHANGES)
        assert tiny_run(out, resume=True).finished
        assert_equal_runs(whole, out)


def _epochs(run: Path) -> float:
    return float(json.loads((run / "cost.json").read_text())["epochs"])


def test_a_phase_that_never_begins_or_cannot_be_scaled_is_refused_before_the_run(tiny_run: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"phases: 16@9 never begins, since the run ends after .* epochs"):
        tiny_run(tmp_path / "run", phases=["16@9"], labels=[])
    with pytest.raises(ConfigError, match=r"target momentum: the batch is 16 times the one that tau 0\.97 bel"):
        tiny_run(tmp_path / "other", phases=["128@1"], labels=[])
    assert not (tmp_path / "other").exists()
