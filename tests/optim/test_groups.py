from __future__ import annotations

import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.optim.groups import GroupRow, describe_groups, parameter_groups


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_biases_and_norms_skip_and_weights_do_not() -> None:
    module = network()
    weights, rest = parameter_groups(module, 1e-6)
    assert [id(p) for p in weights["params"]] == [id(module[0].weight), id(module[4].weight)]
    assert (weights["adapt"], weights["weight_decay"]) == (True, 1e-6)
    assert (rest["adapt"], rest["weight_decay"]) == (False, 0.0)
    assert len(rest["params"]) == 2 + 3 * 2
    assert len(weights["params"]) + len(rest["params"]) == len(list(module.parameters()))


def test_rows_name_every_parameter_in_order() -> None:
    rows = describe_groups(network())
    assert rows[0] == GroupRow("0.weight", (4, 3, 3, 3), True)
    assert rows[1] == GroupRow("0.bias", (4,), False)
    assert [row.name for row in rows if row.adapt] == ["0.weight", "4.weight"]
    assert str(rows[0]).split() == ["0.weight", "4x3x3x3", "adapt"]
    assert str(GroupRow("scale", (), False)).split() == ["scale", "scalar", "skip"]


def test_a_module_its_parameters_and_named_modules_agree() -> None:
    module = network()
    rows = describe_groups(module)
    assert describe_groups(module.named_parameters()) == rows
    named = describe_groups({"online": module, "head": nn.Linear(2, 3)})
    assert [row.name for row in named] == [f"online.{row.name}" for row in rows] + ["head.weight", "head.bias"]


def test_frozen_and_shared_parameters() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    weights, rest = parameter_groups({"a": first, "b": second}, 0.1)
    assert [id(p) for p in weights["params"]] == [id(first.weight)]
    assert [id(p) for p in rest["params"]] == [id(second.bias)]


def test_an_optimiser_that_ignores_adapt_takes_the_groups() -> None:
    optimiser = torch.optim.AdamW(parameter_groups(network(), 0.05), lr=1e-3)
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.05, 0.0]
    only_weights = parameter_groups(nn.Linear(2, 2, bias=False), 0.05)
    assert only_weights[1]["params"] == []
    torch.optim.AdamW(only_weights, lr=1e-3).step()


def test_nothing_trainable_and_negative_decay_are_refused() -> None:
    with pytest.raises(ConfigError, match="no trainable"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)
    with pytest.raises(ConfigError, match="weight_decay"):
        parameter_groups(nn.Linear(2, 2), -0.1)
