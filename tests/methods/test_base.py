"""What every head and method shares: initial weights from a generator, and defaults that do nothing."""

from __future__ import annotations

import torch
from torch import nn

from sciencessl.methods.base import Method, Online, PairLoss, mlp


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
