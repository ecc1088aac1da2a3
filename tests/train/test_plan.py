"""What the settings of the optimiser come to at a batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.optim.lars import LARC, LARS
from sciencessl.setting_groups import OptimConfig
from sciencessl.train.folder import read_metrics
from sciencessl.train.plan import build_optimizer

LAYER = {"layer": nn.Linear(3, 2)}


def test_the_default_is_the_linear_rule_from_256_and_scales_nothing_else() -> None:
    lars = OptimConfig()
    assert lars.at_batch(4096).learning_rate == 0.2 * 4096 / 256
    weights, biases = build_optimizer(LAYER, lars, 4096).param_groups
    assert (weights["momentum"], weights["weight_decay"], biases["weight_decay"]) == (0.9, 1.5e-6, 0.0)
    assert isinstance(build_optimizer(LAYER, lars, 4096), LARS)
    for batch in (64, 4096):
        adam = build_optimizer(LAYER, OptimConfig("adamw", base_lr=0.01, weight_decay=0.01), batch)
        plain = torch.optim.AdamW(LAYER["layer"].parameters(), lr=0.01 * batch / 256, weight_decay=0.01)
        for name in ("lr", "betas", "eps", "weight_decay"):
            assert adam.param_groups[0][name] == plain.param_groups[0][name]


def test_larc_excludes_nothing_from_decay_and_scaling() -> None:
    settings = OptimConfig("larc", base_lr=0.3, weight_decay=1e-5, final=0.001)
    optimiser = build_optimizer(LAYER, settings, 7936)
    assert isinstance(optimiser, LARC)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 2
    for group in optimiser.param_groups:
        assert (group["adapt"], group["weight_decay"], group["momentum"], group["eta"]) == (True, 1e-5, 0.9, 0.001)
        assert group["lr"] == pytest.approx(9.3)


def test_the_square_root_rule_scales_all_of_adam() -> None:
    settings = OptimConfig("adamw", 1e-3, 0.05, momentum=0.9, scaling="sqrt", reference_batch=1024)
    group = build_optimizer(LAYER, settings, 4096).param_groups[0]
    assert group["lr"] == pytest.approx(2e-3)
    assert group["betas"] == pytest.approx((0.6, 0.996))
    assert (group["weight_decay"], group["eps"]) == pytest.approx((0.1, 5e-9))


def test_without_scaling_the_batch_changes_nothing() -> None:
    settings = OptimConfig("adamw", 1e-3, 0.05, scaling="none")
    for batch in (2, 256, 8192):
        found = settings.at_batch(batch)
        assert (found.learning_rate, found.weight_decay, found.betas) == (1e-3, 0.05, (0.9, 0.999))


def test_a_run_takes_its_steps_with_what_was_scaled(tiny_run: Any, tmp_path: Path) -> None:
    changes = {"optim__scaling": "sqrt", "optim__reference_batch": 32, "optim__warmup": 0.0, "options__tau_batch": 32,
               "labels": [], "steps": 2, "log__every": 1}  # fmt: skip
    assert tiny_run(tmp_path / "run", **changes).finished
    first, second = read_metrics(tmp_path / "run")
    assert float(first["lr"]) == pytest.approx(0.01 * math.sqrt(8 / 32), rel=1e-6)
    assert float(second["lr"]) == pytest.approx(0.01 * math.sqrt(8 / 32) / 2, rel=1e-6)
    assert float(first["tau"]) == pytest.approx(0.97**0.25, rel=1e-6)
    assert float(second["tau"]) == pytest.approx(0.985**0.25, rel=1e-6)


def test_a_momentum_out_of_reach_ends_the_run_before_it_begins(tiny_run: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the batch is 1/512 of the one that tau 0\.97 belongs to"):
        tiny_run(tmp_path / "run", options__tau_batch=4096)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_with_larc_ends_at_its_final_rate(tiny_run: Any, tmp_path: Path) -> None:
    changes = {"optim__name": "larc", "optim__base_lr": 0.3, "optim__final": 0.5, "optim__warmup": 0.0,
               "labels": [], "steps": 2, "log__every": 1}  # fmt: skip
    assert tiny_run(tmp_path / "run", **changes).finished
    peak = 0.3 * 8 / 256
    assert [float(row["lr"]) for row in read_metrics(tmp_path / "run")] == pytest.approx([peak, 0.75 * peak], rel=1e-6)
