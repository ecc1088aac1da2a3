"""SimCLR: its loss of a forward pass, its head, and what small views do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.methods.base import Online
from sciencessl.methods.simclr import Simclr, SimclrOptions
from tests.methods.tiny import BATCH, FEATURES, Encoder, gradients, train, unit, views


def build(seed: int = 0, **options: Any) -> Simclr:
    torch.manual_seed(seed)
    chosen = SimclrOptions(**{"hidden": 9, "out": 5, **options})
    return Simclr(Encoder(), chosen, torch.Generator().manual_seed(seed)).double()


def test_the_loss_of_a_forward_pass_is_the_papers() -> None:
    """2 N rows, each against all others but itself, and the mean of both directions a sample."""
    method = build(temperature=0.5)
    online = method.online(views())
    pair = method.pair_loss(online, method.target(views()))
    z = np.concatenate([unit(z.detach().numpy()) for z in online.projections])
    s = np.exp(z @ z.T / 0.5)
    np.fill_diagonal(s, 0.0)
    other = np.arange(2 * BATCH).reshape(2, -1)[::-1].ravel()
    rows = -np.log(s[np.arange(2 * BATCH), other] / s.sum(axis=1))
    assert pair.rows == BATCH
    assert float(pair.total.detach()) == pytest.approx(rows.sum() / 2, rel=1e-9)
    assert float(pair.scale) == pytest.approx(-(z[:BATCH] * z[BATCH:]).sum(), rel=1e-9)
    assert not pair.scale.requires_grad


def test_equal_projections_cost_the_logarithm_of_the_rows_that_are_compared() -> None:
    same = torch.ones(4, 5)
    pair = build().pair_loss(Online([same, same], [same, same], []), [])
    assert float(pair.total) == pytest.approx(4 * math.log(7), rel=1e-6)
    assert float(pair.scale) == pytest.approx(-4)


def test_small_views_look_for_large_ones_and_are_not_looked_for() -> None:
    method = build()
    online = method.online(views(small=2))
    whole = method.pair_loss(online, []).total.detach()
    z = online.projections
    alone = method.pair_loss(Online([], z[:2], []), []).total.detach()
    pairs = [method.pair_loss(Online([], [*z[:2], small], []), []).total.detach() for small in z[2:]]
    # Two pairs of the large views, two more of each small one.
    extra = sum(4 * pair - 2 * alone for pair in pairs)
    torch.testing.assert_close(whole, (2 * alone + extra) / 6)


def test_everything_that_is_trained_has_a_gradient_and_the_last_shift_stays_0() -> None:
    method = build()
    found = gradients(method, views(small=1))
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert set(found) == trained
    train(method, 2, views())
    assert torch.equal(method.projector[-1].bias, torch.zeros(5, dtype=torch.float64))
    assert not torch.equal(method.projector[-1].weight, torch.ones(5, dtype=torch.float64))


def test_it_learns_to_tell_the_samples_of_a_batch_apart() -> None:
    losses = [logged["pair_loss"] for logged in train(build(), 8, views())]
    assert losses[-1] < losses[0]


def test_the_head_is_the_released_one() -> None:
    """Batch norm after each layer, none of them with a bias, and no ReLU at the end."""
    defaults = SimclrOptions()
    assert (defaults.hidden, defaults.out, defaults.layers, defaults.temperature) == (2048, 128, 2, 0.1)
    head = list(build().projector)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert [layer.weight.shape for layer in head[::3]] == [(9, FEATURES), (5, 9)]
    assert all(layer.bias is None for layer in head[::3])
    assert [layer.bias.requires_grad for layer in head[1::3]] == [True, False]
    assert len(build(layers=3).projector) == 8


@pytest.mark.parametrize("values", [{"hidden": 0}, {"out": 0}, {"layers": 1}, {"temperature": 0.0}])
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))} is .* must be"):
        SimclrOptions(**values)
