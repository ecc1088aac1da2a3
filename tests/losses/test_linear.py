from __future__ import annotations

import torch

from sciencessl.losses.linear import uniform_linear


def test_a_given_generator_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first = uniform_linear(8, 3, 0.1, (1.0, 2.0), torch.Generator().manual_seed(5))
    second = uniform_linear(8, 3, 0.1, (1.0, 2.0), torch.Generator().manual_seed(5))
    other = uniform_linear(8, 3, 0.1, (1.0, 2.0), torch.Generator().manual_seed(6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert not torch.equal(first.weight, other.weight)


def test_values_fill_their_ranges() -> None:
    layer = uniform_linear(200, 50, 0.1, (1.0, 2.0), torch.Generator().manual_seed(0))
    assert 0.099 < float(layer.weight.detach().abs().max()) <= 0.1
    assert abs(float(layer.weight.detach().mean())) < 0.003
    assert 1.0 <= float(layer.bias.detach().min()) < 1.2
    assert 1.8 < float(layer.bias.detach().max()) <= 2.0
