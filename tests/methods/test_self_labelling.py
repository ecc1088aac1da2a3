"""CCSL and CSSL against NumPy, against BYOL where they find no pair, and what their masks must not do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import cosines
from sciencessl.losses.self_labelling import choose_pairs
from sciencessl.methods.byol import Byol
from sciencessl.methods.self_labelling import Ccsl, CcslOptions, Cssl, CsslOptions
from tests.methods.tiny import build, gradients, loss_of, outputs, predicted, train, unit, views

KINDS = [Ccsl, Cssl]
P = torch.tensor([[1.0, 0.0], [0.9, 0.4], [0.0, 1.0]], dtype=torch.float64)
T = torch.tensor([[1.0, 0.1], [1.0, 0.3], [0.1, 1.0]], dtype=torch.float64)


def numpy_direction(p: np.ndarray, t: np.ndarray, sharpness: float, o: Any) -> tuple[float, float, float]:
    """Loss of one direction, and the shares of alike and unlike pairs, by loops; no sharpness for cosines."""
    s = unit(p) @ unit(t).T
    score = 1 / (1 + np.exp(-sharpness * s)) if sharpness else s
    pull = -np.log(score) if sharpness else 2 - 2 * s
    push = -np.log(1 - score) if sharpness else np.maximum(s, 0)
    rows = range(len(s))
    alike = [(i, j) for i in rows for j in rows if i != j and score[i, j] >= o.theta_positive]
    unlike = [(i, j) for i in rows for j in rows if i != j and score[i, j] <= o.theta_negative]
    best = []
    for i in rows:
        own = sorted((pair for pair in alike if pair[0] == i), key=lambda pair: -score[pair])
        best += own[: o.top or None]
    loss = float(np.mean(2 - 2 * np.diagonal(s)))
    for weight, cost, pairs in ((o.weight_positive, pull, best), (o.weight_negative, push, unlike)):
        loss += weight * float(np.mean([cost[pair] for pair in pairs])) if pairs else 0.0
    return loss, len(alike) / s.size, len(unlike) / s.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", [0, 1, 2])
def test_the_loss_of_random_rows_equals_numpy(kind: type[Ccsl], top: int) -> None:
    rng = np.random.default_rng(1)
    p, t = outputs(rng, 2, rows=16, out=3), outputs(rng, 2, rows=16, out=3)
    method = build(kind, out=3, top=top, warmup=0.0, weight_positive=0.7, weight_negative=0.3)
    pair = method.pair_loss(predicted(*p), t)
    sharpness = getattr(method.options, "sharpness", 0.0)
    arrays = [tensor.detach().numpy() for tensor in (*p, *t)]
    found = [numpy_direction(arrays[0], arrays[3], sharpness, method.options),
             numpy_direction(arrays[1], arrays[2], sharpness, method.options)]
    assert pair.total.item() / 16 == pytest.approx(found[0][0] + found[1][0], rel=1e-12)
    assert pair.logged["alike"].item() / 16 == pytest.approx((found[0][1] + found[1][1]) / 2, rel=1e-6)
    assert pair.logged["unlike"].item() / 16 == pytest.approx((found[0][2] + found[1][2]) / 2, rel=1e-6)
    assert min(found[0][1:] + found[1][1:]) > 0


def test_the_loss_is_that_of_the_card() -> None:
    """Diagonal .0119666, alike .0924850, unlike .0995037, in both directions where both views are one."""
    method = build(Ccsl, warmup=0.0, weight_positive=1.0, weight_negative=0.5)
    pair = method.pair_loss(predicted(P, P), [T, T])
    assert pair.total.item() / 3 == pytest.approx(2 * (0.0119666 + 0.0924850 + 0.5 * 0.0995037), abs=5e-7)
    assert pair.logged["alike"].item() / 3 == pytest.approx(2 / 9)
    assert pair.logged["unlike"].item() / 3 == pytest.approx(2 / 9)
    assert pair.scale.item() / 3 == pytest.approx(0.0119666 / 2 - 1, abs=5e-7)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Ccsl, {"theta_positive": 1.0, "warmup": 0.0}), (Ccsl, {}), (Cssl, {}),
     (Cssl, {"weight_positive": 0.0, "warmup": 0.0})],
)  # fmt: skip
def test_without_pairs_weights_or_warm_up_it_is_byol_to_the_last_bit(kind: type[Ccsl], options: dict[str, Any]) -> None:
    ours, byol = build(kind, **options), build(Byol)
    given = views(2, small=1)
    assert torch.equal(loss_of(ours, given), loss_of(byol, given))
    found, want = gradients(ours, given), gradients(byol, given)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in want.items())


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_change_loss_and_gradient_and_reach_no_target(kind: type[Ccsl]) -> None:
    ours, byol = build(kind, warmup=0.0), build(Byol)
    assert loss_of(ours, views()).item() > loss_of(byol, views()).item() + 1e-3
    found, want = gradients(ours, views()), gradients(byol, views())
    assert not torch.allclose(found["projector.0.weight"], want["projector.0.weight"])
    rng = np.random.default_rng(0)
    p, t = outputs(rng, 2), outputs(rng, 2)
    direction = ours._pairs(p[0], t[1])
    direction["loss"].backward()
    assert t[1].grad is None
    assert p[0].grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_batch_changes_no_loss(kind: type[Ccsl]) -> None:
    rng, order = np.random.default_rng(2), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    p, t = outputs(rng, 2, rows=12, out=3), outputs(rng, 2, rows=12, out=3)
    method = build(kind, out=3, warmup=0.0, weight_negative=0.5)
    first = method.pair_loss(predicted(*p), t)
    second = method.pair_loss(predicted(*(x[order] for x in p)), [x[order] for x in t])
    assert first.total.item() == pytest.approx(second.total.item(), rel=1e-12)
    assert first.logged["alike"] == second.logged["alike"]


def test_warm_up_is_a_share_of_the_run() -> None:
    method = build(Ccsl, warmup=0.25)
    byol = loss_of(build(Byol), views()).item()
    losses = []
    for step in (0, 24, 25, 99):
        method.at_step(step, 100)
        losses.append(loss_of(method, views()).item())
    assert losses[:2] == [byol, byol]
    assert losses[2] == losses[3] > byol


def test_shares_of_pairs_are_logged_from_the_first_step() -> None:
    found = train(build(Ccsl, warmup=0.5), 6, views())
    assert all(0 <= metrics["alike"] <= 1 and 0 <= metrics["unlike"] <= 1 for metrics in found)
    collapsed = build(Ccsl).pair_loss(predicted(*[torch.ones(8, 5)] * 2), [torch.ones(8, 5)] * 2)
    assert float(collapsed.logged["alike"]) / 8 == pytest.approx(7 / 8)


@dataclass
class _OneOfTwo:
    """A rank that is told what the other one has."""

    rank: int
    everyone: Tensor
    others: Tensor

    def gather(self, rows: Tensor) -> Tensor:
        assert torch.equal(rows, self.everyone.chunk(2)[self.rank])
        return self.everyone.detach()

    def sum(self, counts: Tensor) -> Tensor:
        return counts + self.others


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_two_processes_add_up_to_those_of_one(kind: type[Ccsl]) -> None:
    rng = np.random.default_rng(3)
    (p,), (t,) = outputs(rng, 1, rows=12, out=3), outputs(rng, 1, rows=12, out=3)
    method = build(kind, out=3, weight_negative=0.5, top=0)
    whole = method._pairs(p, t)["loss"].item()
    chosen = choose_pairs(method._scores(cosines(p, t)), 0.8, 0.2)
    counts = [torch.stack([mask.chunk(2)[rank].sum() for mask in chosen]) for rank in (0, 1)]
    parts = []
    for rank in (0, 1):
        method.ranks = _OneOfTwo(rank, t, counts[1 - rank])
        parts.append(method._pairs(p.chunk(2)[rank], t.chunk(2)[rank])["loss"].item())
    assert all(count.all() for count in counts)
    assert sum(parts) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_in_a_few_steps(kind: type[Ccsl]) -> None:
    losses = [metrics["loss"] for metrics in train(build(kind, warmup=0.0), 8, views())]
    assert losses[-1] < losses[0]


def test_the_defaults_are_those_of_the_card() -> None:
    for options in (CcslOptions(), CsslOptions()):
        assert (options.theta_positive, options.theta_negative, options.top) == (0.8, 0.2, 1)
        assert (options.weight_positive, options.weight_negative, options.warmup) == (1.0, 0.0, 0.1)
        assert (options.hidden, options.out, options.tau_base, options.tau_schedule) == (512, 512, 0.996, "constant")
    assert CsslOptions().sharpness == 5.0


@pytest.mark.parametrize(
    "values",
    [{"theta_negative": 0.8}, {"theta_positive": float("nan")}, {"theta_positive": 1.5}, {"theta_negative": -1.5},
     {"weight_positive": -1.0}, {"weight_negative": float("inf")}, {"top": -1}, {"warmup": 1.5},
     {"warmup": float("nan")}, {"tau_base": 2.0}],
)  # fmt: skip
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    for options in (CcslOptions, CsslOptions):
        with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))} is .* must be"):
            options(**values)


@pytest.mark.parametrize("values", [{"sharpness": 1.0}, {"sharpness": 1.38}, {"theta_positive": 0.999},
                                    {"theta_negative": 0.001}])  # fmt: skip
def test_thresholds_that_no_pair_can_reach_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"outside is never met. Raise options\.sharpness"):
        CsslOptions(**values)
    assert CsslOptions(sharpness=1.39).sharpness == 1.39
    with pytest.raises(ConfigError, match=r"cosine is in \[0\.268941, 0\.731059\]"):
        CsslOptions(sharpness=1.0)
    with pytest.raises(ConfigError, match=r"options\.sharpness is 0\.0"):
        CsslOptions(sharpness=0.0)
