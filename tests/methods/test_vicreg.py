"""VICReg: its loss of a forward pass against NumPy, more views, what is logged, and its expander."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.losses.decorrelation import vicreg_covariance, vicreg_spread
from sciencessl.methods.base import Online
from sciencessl.methods.vicreg import Vicreg, VicregOptions
from tests.methods.tiny import BATCH, FEATURES, Encoder, gradients, outputs, train, unit, views


def build(seed: int = 0, **options: Any) -> Vicreg:
    torch.manual_seed(seed)
    chosen = VicregOptions(**{"hidden": 9, "out": 5, **options})
    return Vicreg(Encoder(), chosen, torch.Generator().manual_seed(seed)).double()


def test_the_loss_of_a_forward_pass_is_that_of_the_released_code() -> None:
    method = build()
    online = method.online(views())
    pair = method.pair_loss(online, method.target(views()))
    x, y = (z.detach().numpy() for z in online.projections)
    hinge = sum(np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() / 2 for z in (x, y))
    covariance = sum((np.cov(z.T) ** 2 * (1 - np.eye(5))).sum() / 5 for z in (x, y))
    want = {"invariance": ((x - y) ** 2).mean(), "spread": hinge, "covariance": covariance}
    loss = 25 * want["invariance"] + 25 * want["spread"] + want["covariance"]
    assert pair.rows == BATCH
    assert float(pair.total.detach()) / BATCH == pytest.approx(loss, rel=1e-9)
    assert {name: float(value) / BATCH for name, value in pair.logged.items()} == pytest.approx(want, rel=1e-9)
    assert float(pair.scale) == pytest.approx(-(unit(x) * unit(y)).sum(), rel=1e-9)
    assert not any(value.requires_grad for value in (pair.scale, *pair.logged.values()))


def test_more_views_are_near_the_large_ones_and_spread_as_they_are() -> None:
    z = outputs(np.random.default_rng(0), 3)
    pair = build(invariance=2.0, spread=3.0, covariance=5.0).pair_loss(Online([], z, []), [])
    apart = [(z[a] - z[b]).square().mean(dim=1).sum() for a, b in ((0, 1), (0, 2), (1, 2))]
    want = 2 * torch.stack(apart).mean()
    want = want + 6 * 3 * sum(vicreg_spread(v) for v in z) / 3 + 6 * 5 * 2 * sum(vicreg_covariance(v) for v in z) / 3
    torch.testing.assert_close(pair.total, want)


def test_everything_that_is_trained_has_a_gradient() -> None:
    method = build()
    assert set(gradients(method, views(small=1))) == {name for name, p in method.named_parameters() if p.requires_grad}


def test_the_loss_falls_and_its_terms_are_logged() -> None:
    logged = train(build(), 8, views())
    assert logged[-1]["pair_loss"] < logged[0]["pair_loss"]
    assert 0 <= logged[0]["spread"] <= 0.99


def test_the_expander_is_the_released_one() -> None:
    defaults = VicregOptions()
    assert (defaults.hidden, defaults.out) == (8192, 8192)
    assert (defaults.invariance, defaults.spread, defaults.covariance) == (25, 25, 1)
    head = list(build().projector)
    layers = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in head] == [*layers, *layers, nn.Linear]
    assert [layer.weight.shape for layer in head[::3]] == [(9, FEATURES), (9, 9), (5, 9)]
    assert [layer.bias is not None for layer in head[::3]] == [True, True, False]


@pytest.mark.parametrize("name", ["hidden", "out", "invariance", "spread", "covariance"])
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{name} is -1; it must be [01] or more"):
        VicregOptions(**{name: -1})
