"""Barlow Twins: its loss of a forward pass against NumPy, pairs of more views, and its head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.losses.decorrelation import barlow_twins
from sciencessl.methods.barlow_twins import BarlowTwins, BarlowTwinsOptions
from sciencessl.methods.base import Online
from tests.methods.tiny import BATCH, FEATURES, Encoder, gradients, outputs, train, unit, views


def build(seed: int = 0, **options: Any) -> BarlowTwins:
    torch.manual_seed(seed)
    chosen = BarlowTwinsOptions(**{"hidden": 9, "out": 5, **options})
    return BarlowTwins(Encoder(), chosen, torch.Generator().manual_seed(seed)).double()


def test_the_loss_of_a_forward_pass_is_the_published_one_times_its_scale() -> None:
    method = build(redundancy=0.3, loss_scale=0.5)
    online = method.online(views())
    pair = method.pair_loss(online, method.target(views()))
    first, second = (z.detach().numpy() for z in online.projections)
    left, right = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (first, second))
    c = left.T @ right / BATCH
    want = ((1 - np.diag(c)) ** 2).sum() + 0.3 * (c**2 * (1 - np.eye(5))).sum()
    assert pair.rows == BATCH
    assert float(pair.total.detach()) / BATCH == pytest.approx(0.5 * want, rel=1e-9)
    assert float(pair.scale) == pytest.approx(-(unit(first) * unit(second)).sum(), rel=1e-9)
    assert not pair.scale.requires_grad


def test_more_views_count_as_pairs_of_which_one_is_large() -> None:
    z = outputs(np.random.default_rng(0), 4)
    pair = build(loss_scale=1.0).pair_loss(Online([], z, []), [])
    pairs = [barlow_twins(z[a], z[b]) for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3))]
    torch.testing.assert_close(pair.total, 6 * torch.stack(pairs).mean())


def test_everything_that_is_trained_has_a_gradient() -> None:
    method = build()
    assert set(gradients(method, views(small=1))) == {name for name, p in method.named_parameters() if p.requires_grad}


def test_the_loss_falls() -> None:
    losses = [logged["pair_loss"] for logged in train(build(), 8, views())]
    assert losses[-1] < losses[0]


def test_the_head_is_the_released_one() -> None:
    defaults = BarlowTwinsOptions()
    assert (defaults.hidden, defaults.out, defaults.redundancy, defaults.loss_scale) == (8192, 8192, 0.0051, 0.024)
    head = list(build().projector)
    layers = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in head] == [*layers, *layers, nn.Linear]
    assert [layer.weight.shape for layer in head[::3]] == [(9, FEATURES), (9, 9), (5, 9)]
    assert all(layer.bias is None for layer in head[::3])


@pytest.mark.parametrize("values", [{"hidden": 0}, {"out": 0}, {"redundancy": -1.0}, {"loss_scale": 0.0}])
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))} is .* must be"):
        BarlowTwinsOptions(**values)
