"""MoCo v2: the loss of steps against NumPy with the queue that they leave, its networks and its head."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.methods.base import Online
from sciencessl.methods.moco_v2 import MocoV2, MocoV2Options
from tests.methods.tiny import BATCH, FEATURES, Encoder, gradients, loss_of, train, unit, views


def build(seed: int = 0, **options: Any) -> MocoV2:
    torch.manual_seed(seed)
    chosen = MocoV2Options(**{"hidden": 9, "out": 5, "queue": 20, "tau_base": 0.9, **options})
    return MocoV2(Encoder(), chosen, torch.Generator().manual_seed(seed)).double()


def nce(queries: np.ndarray, keys: np.ndarray, queue: np.ndarray, temperature: float = 0.2) -> float:
    own = np.exp((queries * keys).sum(axis=1) / temperature)
    return float(-np.log(own / (own + np.exp(queries @ queue.T / temperature).sum(axis=1))).mean())


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_loss_and_the_queue_of_steps_are_the_published_ones(symmetric: bool) -> None:
    """The first keys leave the queue of 20 in the second step, or the third."""
    method = build(symmetric=symmetric)
    keys_seen = method.queue.rows.numpy().copy()
    for step in range(4):
        given = views(step=step)
        online, keys = method.online(given), method.target(given)
        q, k = ([unit(t.detach().numpy()) for t in group] for group in (online.projections, keys))
        queue = keys_seen[-20:]
        want = (nce(q[0], k[1], queue) + nce(q[1], k[0], queue)) / 2 if symmetric else nce(q[0], k[0], queue)
        pair = method.pair_loss(online, keys)
        assert float(pair.total.detach()) / BATCH == pytest.approx(want, rel=1e-6), step
        cosines = (q[0] * k[1]).sum() / 2 + (q[1] * k[0]).sum() / 2 if symmetric else (q[0] * k[0]).sum()
        assert float(pair.scale) == pytest.approx(-cosines, rel=1e-9)
        method.after_step(step, 10)
        keys_seen = np.concatenate([keys_seen, np.stack(k, axis=1).reshape(-1, 5)])
        np.testing.assert_allclose(method.queue.rows, keys_seen[-20:], atol=1e-6)


def test_equal_vectors_cost_the_logarithm_of_the_queue_and_one() -> None:
    method = build()
    same = torch.ones(3, 5, dtype=torch.float64)
    method.queue.rows.fill_(5**-0.5)
    pair = method.pair_loss(Online([], [same, same], []), [same, same])
    assert float(pair.total) == pytest.approx(3 * math.log(21), rel=1e-6)


def test_keys_are_normalised_by_their_own_batch() -> None:
    method = build()
    train(method, 1, views())
    norm = method.target_encoder[1]
    before, taken = norm.running_mean.clone(), int(norm.num_batches_tracked)
    method.target(views(step=1))
    assert norm.training
    assert int(norm.num_batches_tracked) == taken + 2
    assert not torch.equal(norm.running_mean, before)
    assert not torch.equal(norm.running_mean, method.encoder[1].running_mean)


def test_keys_and_queue_get_no_gradient_and_everything_else_does() -> None:
    method = build()
    assert set(gradients(method, views(small=1))) == {name for name, p in method.named_parameters() if p.requires_grad}
    assert not method.queue.rows.requires_grad


def test_small_views_ask_for_both_keys() -> None:
    method = build()
    given = views(small=1)
    online, keys = method.online(given), method.target(given)
    q, k = ([unit(t.detach().numpy()) for t in group] for group in (online.projections, keys))
    pairs = [nce(q[v], k[i], method.queue.rows.numpy()) for i in range(2) for v in range(3) if v != i]
    assert float(method.pair_loss(online, keys).total.detach()) / BATCH == pytest.approx(np.mean(pairs), rel=1e-6)


def test_one_direction_costs_a_pass_of_each_network_a_view() -> None:
    method = build(symmetric=False)
    given = views(small=1)
    assert len(method.online(given).representations) == 2
    (key,) = method.target(given)
    assert torch.equal(key, method.target([given[1], given[1]])[0])
    assert bool(loss_of(method, given).isfinite())


def test_steps_log_a_constant_momentum_and_move_both_encoders() -> None:
    method = build()
    before = [p.clone() for p in (method.encoder[0].weight, method.target_encoder[0].weight)]
    assert {step["tau"] for step in train(method, 2, views())} == {0.9}
    assert not torch.equal(method.encoder[0].weight, before[0])
    assert not torch.equal(method.target_encoder[0].weight, before[1])


def test_it_learns_to_tell_its_samples_from_the_queue() -> None:
    method, losses = build(), []
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        loss = loss_of(method, views())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)


def test_the_head_is_the_released_one() -> None:
    defaults = MocoV2Options()
    assert (defaults.hidden, defaults.out, defaults.queue, defaults.temperature) == (2048, 128, 65536, 0.2)
    assert (defaults.tau_base, defaults.tau_schedule) == (0.999, "constant")
    head = list(build().projector)
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.weight.shape for layer in head[::2]] == [(9, FEATURES), (5, 9)]
    assert all(layer.bias is not None for layer in head[::2])


@pytest.mark.parametrize("values", [{"hidden": 0}, {"queue": 0}, {"temperature": 0.0}, {"tau_base": 1.5}])
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))}"):
        MocoV2Options(**values)
