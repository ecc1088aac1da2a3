"""SimSiam: its loss against NumPy, the gradient that is stopped, and its heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.methods.base import Online
from sciencessl.methods.simsiam import Simsiam, SimsiamOptions
from tests.methods.tiny import BATCH, FEATURES, Encoder, gradients, outputs, train, unit, views


def build(seed: int = 0, **options: Any) -> Simsiam:
    torch.manual_seed(seed)
    chosen = SimsiamOptions(**{"hidden": 9, "out": 8, "bottleneck": 3, **options})
    return Simsiam(Encoder(), chosen, torch.Generator().manual_seed(seed)).double()


def test_the_loss_of_a_forward_pass_is_the_papers() -> None:
    method = build()
    online = method.online(views())
    pair = method.pair_loss(online, method.target(views()))
    z, p = ([unit(t.detach().numpy()) for t in group] for group in (online.projections, online.predictions))
    want = -((p[0] * z[1]).sum() + (p[1] * z[0]).sum()) / 2
    assert pair.rows == BATCH
    assert float(pair.total.detach()) == pytest.approx(want, rel=1e-9)
    assert float(pair.scale) == pytest.approx(want, rel=1e-9)
    assert not pair.scale.requires_grad


def test_the_projection_that_is_predicted_gets_no_gradient() -> None:
    rng = np.random.default_rng(0)
    z, p = outputs(rng, 2), outputs(rng, 2)
    build().pair_loss(Online([], z, p), []).total.backward()
    assert all(t.grad is None for t in z)
    assert all(bool(t.grad.any()) for t in p)


def test_small_views_predict_both_large_ones_and_are_not_predicted() -> None:
    rng = np.random.default_rng(0)
    z, p = outputs(rng, 4), outputs(rng, 4)
    pair = build().pair_loss(Online([], z, p), [])
    units = [[unit(t.detach().numpy()) for t in group] for group in (p, z)]
    pairs = [-(units[0][v] * units[1][k]).sum() for k in range(2) for v in range(4) if v != k]
    assert float(pair.total.detach()) == pytest.approx(np.mean(pairs), rel=1e-9)


def test_everything_that_is_trained_has_a_gradient() -> None:
    method = build()
    assert set(gradients(method, views(small=1))) == {name for name, p in method.named_parameters() if p.requires_grad}


def test_the_loss_falls_and_stays_a_negative_cosine() -> None:
    losses = [logged["pair_loss"] for logged in train(build(), 8, views())]
    assert -1 <= losses[-1] < losses[0] <= 1


def test_heads_are_the_released_ones() -> None:
    defaults = SimsiamOptions()
    assert (defaults.hidden, defaults.out, defaults.bottleneck) == (2048, 2048, 512)
    method = build()
    layers = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in method.projector] == [*layers, *layers, nn.Linear, nn.BatchNorm1d]
    assert [layer.weight.shape for layer in method.projector[::3]] == [(9, FEATURES), (9, 9), (8, 9)]
    assert all(layer.bias is None for layer in method.projector[::3])
    assert method.projector[-1].weight is None
    assert [type(layer) for layer in method.predictor] == [*layers, nn.Linear]
    assert [layer.weight.shape for layer in method.predictor[::3]] == [(3, 8), (8, 3)]
    assert method.predictor[0].bias is None
    assert method.predictor[3].bias is not None


@pytest.mark.parametrize("name", ["hidden", "out", "bottleneck"])
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{name} is 0; it must be 1 or more"):
        SimsiamOptions(**{name: 0})
