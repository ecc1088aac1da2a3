"""What every head and method shares: initial weights from a generator, and defaults that do nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sciencessl.backbones.norms import ChannelAffine
from sciencessl.methods.base import Method, Online, PairLoss, deep_mlp, mlp


class Least(Method):
    title, paper, status = "least", "none", "ours"
    Options = dict

    def online(self, views: object) -> Online:
        return Online([], [], [])


def test_a_method_that_says_nothing_has_no_target_no_pair_loss_and_nothing_to_update() -> None:
    encoder = nn.Identity()
    encoder.num_features = 3
    method = Least(encoder, {}, torch.Generator())
    assert method.target([]) == []
    assert method.pair_loss(Online([], [], []), []) is None
    assert method.after_step(0, 1) == {}
    assert (method.features, method.n_views) == (3, 2)


def test_heads_are_a_function_of_the_generator_alone() -> None:
    def head(seed: int) -> torch.Tensor:
        return mlp(4, 6, 3, torch.Generator().manual_seed(seed))[3].weight

    state = torch.get_rng_state()
    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_pair_losses_are_sums_so_that_parts_add_up() -> None:
    parts = [PairLoss(torch.tensor(2.0), torch.tensor(-0.5), 3), PairLoss(torch.tensor(1.0), torch.tensor(-1.0), 1)]
    assert sum(float(part.total) for part in parts) / sum(part.rows for part in parts) == 0.75


def test_a_head_of_any_depth_draws_its_layers_in_order() -> None:
    """So BYOL's is the one with one hidden layer."""
    state = mlp(4, 6, 3, torch.Generator().manual_seed(1)).state_dict()
    other = deep_mlp([4, 6, 3], torch.Generator().manual_seed(1)).state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in state.items())
    deeper = deep_mlp([4, 6, 5, 3], torch.Generator().manual_seed(1))
    assert torch.equal(deeper[0].weight, state["0.weight"])
    assert [layer.weight.shape for layer in deeper[::3]] == [(6, 4), (5, 6), (3, 5)]


@pytest.mark.parametrize(
    ("end", "kinds", "trained"),
    [("linear", [nn.Linear], {"weight"}), ("biased", [nn.Linear], {"weight", "bias"}),
     ("scaled", [nn.Linear, nn.BatchNorm1d], {"weight"}), ("standardised", [nn.Linear, nn.BatchNorm1d], set())],
)  # fmt: skip
def test_a_head_ends_as_it_is_told(end: Any, kinds: list[type], trained: set[str]) -> None:
    head = deep_mlp([4, 6, 3], torch.Generator(), bias=False, end=end)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, *kinds]
    assert {name for name, p in head[-1].named_parameters() if p.requires_grad} == trained
    assert head[0].bias is None
    if kinds[1:]:
        y = head(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(y.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.var(dim=0, correction=0), torch.ones(3), atol=1e-2, rtol=0)


def test_norms_of_a_head_are_those_of_the_encoder_or_none() -> None:
    assert [type(layer) for layer in deep_mlp([4, 6, 3], torch.Generator(), None)] == [nn.Linear, nn.ReLU, nn.Linear]
    for norm, kind in (("group_ws", nn.GroupNorm), ("none", ChannelAffine)):
        head = deep_mlp([4, 6, 4], torch.Generator(), norm, end="scaled")
        assert [isinstance(layer, kind) for layer in head] == [False, True, False, False, True]
        assert not head[-1].bias.requires_grad
        deep_mlp([4, 6, 4], torch.Generator(), norm, end="standardised")(torch.randn(3, 4)).sum().backward()
