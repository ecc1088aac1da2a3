"""BYOL's step against hand-written NumPy: forward, backward, LARS, moving average and batch statistics."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.methods.base import Online
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.optim.schedules import target_momentum, warmup_cosine
from sciencessl.samples import Batch
from sciencessl.train.step import Network as Whole
from sciencessl.train.step import Recipe, Wrapped, train_step

PIXELS, FEATURES, HIDDEN, OUT, BATCH, STEPS = 12, 5, 7, 4, 6, 4
DECAY, ETA, MOMENTUM, TAU, PEAK = 0.1, 1e-3, 0.9, 0.9, 2.0

Arrays = dict[str, np.ndarray]


class Encoder(nn.Sequential):
    """Linear - batch norm - ReLU on flattened pixels."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(PIXELS, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())


def build(seed: int = 0, **options: object) -> Byol:
    torch.manual_seed(seed)
    chosen = ByolOptions(**{"hidden": HIDDEN, "out": OUT, "tau_base": TAU, **options})  # type: ignore[arg-type]
    method = Byol(Encoder(), chosen, torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        # Away from the first values of norms, whose symmetry hides errors.
        for name, p in method.named_parameters():
            if p.ndim == 1 and "target" not in name:
                p.add_(torch.randn(p.shape, dtype=p.dtype) * 0.3)
        method.target_encoder.load_state_dict(method.encoder.state_dict())
        method.target_projector.load_state_dict(method.projector.state_dict())
    return method


def batch_of(step: int) -> Batch:
    rng = np.random.default_rng(step)
    views = [{"image": torch.from_numpy(rng.normal(size=(BATCH, 3, 2, 2)))} for _ in range(2)]
    return Batch(views, {}, [str(i) for i in range(BATCH)], np.arange(BATCH))


def recipe(**changes: object) -> Recipe:
    values = {
        "total_steps": STEPS, "batch": BATCH, "accumulate": 1, "to_input": lambda x: x, "field": "image",
        "learning_rate": lambda step: warmup_cosine(step, 1, STEPS, PEAK),
    }
    return Recipe(**{**values, **changes})  # type: ignore[arg-type]


class Network:
    """Linear, batch-norm and ReLU layers with their gradients, written out."""

    def __init__(self, layers: list[tuple[str, str]], weights: Arrays) -> None:
        self.layers, self.weights = layers, weights

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
        kept = []
        for kind, name in self.layers:
            if kind == "linear":
                kept.append((x,))
                x = x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)
            elif kind == "norm":
                mean, variance = x.mean(0), x.var(0)
                unit = (x - mean) / np.sqrt(variance + 1e-5)
                kept.append((unit, variance))
                self._statistics(name, mean, variance * len(x) / (len(x) - 1))
                x = unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
            else:
                kept.append((x > 0,))
                x = np.maximum(x, 0)
        return x, kept

    def _statistics(self, name: str, mean: np.ndarray, unbiased: np.ndarray) -> None:
        w = self.weights
        w[f"{name}.running_mean"] = 0.9 * w[f"{name}.running_mean"] + 0.1 * mean
        w[f"{name}.running_var"] = 0.9 * w[f"{name}.running_var"] + 0.1 * unbiased
        w[f"{name}.num_batches_tracked"] = w[f"{name}.num_batches_tracked"] + 1

    def backward(self, d: np.ndarray, kept: list[tuple[np.ndarray, ...]], gradients: Arrays) -> np.ndarray:
        def add(name: str, value: np.ndarray) -> None:
            gradients[name] = gradients.get(name, 0.0) + value

        for (kind, name), cache in zip(reversed(self.layers), reversed(kept), strict=True):
            if kind == "linear":
                add(f"{name}.weight", d.T @ cache[0])
                if f"{name}.bias" in self.weights:
                    add(f"{name}.bias", d.sum(0))
                d = d @ self.weights[f"{name}.weight"]
            elif kind == "norm":
                unit, variance = cache
                add(f"{name}.weight", (d * unit).sum(0))
                add(f"{name}.bias", d.sum(0))
                u = d * self.weights[f"{name}.weight"]
                d = (u - u.mean(0) - unit * (u * unit).mean(0)) / np.sqrt(variance + 1e-5)
            else:
                d = d * cache[0]
        return d


ENCODER = [("linear", "encoder.1"), ("norm", "encoder.2"), ("relu", "")]


def head(name: str) -> list[tuple[str, str]]:
    return [("linear", f"{name}.0"), ("norm", f"{name}.1"), ("relu", ""), ("linear", f"{name}.3")]


def targets_of(layers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(kind, f"target_{name}" if name else "") for kind, name in layers]


def numpy_step(weights: Arrays, momentum: Arrays, step: int) -> float:
    """One step in place; returns the loss."""
    views = [view["image"].numpy().reshape(BATCH, PIXELS) for view in batch_of(step).views]
    networks = [Network(layers, weights) for layers in (ENCODER, head("projector"), head("predictor"))]
    target = [Network(targets_of(layers), weights) for layers in (ENCODER, head("projector"))]
    caches: list[list[list[tuple[np.ndarray, ...]]]] = [[], []]
    outputs = views
    for network in networks:
        passed = [network.forward(x) for x in outputs]
        outputs = [y for y, _ in passed]
        for v in range(2):
            caches[v].append(passed[v][1])
    aims = [target[1].forward(target[0].forward(view)[0])[0] for view in views]
    gradients: Arrays = {}
    loss = 0.0
    for v in range(2):
        p, t = outputs[v], aims[1 - v]
        size = np.linalg.norm(p, axis=1, keepdims=True)
        p_hat, t_hat = p / size, t / np.linalg.norm(t, axis=1, keepdims=True)
        cosine = (p_hat * t_hat).sum(1, keepdims=True)
        loss += float((2 - 2 * cosine).mean())
        d = -2 * (t_hat - cosine * p_hat) / size / BATCH
        for network, kept in zip(reversed(networks), reversed(caches[v]), strict=True):
            d = network.backward(d, kept, gradients)
    rate = warmup_cosine(step, 1, STEPS, PEAK)
    for name, g in gradients.items():
        u = g
        if weights[name].ndim > 1:
            u = g + DECAY * weights[name]
            u = u * ETA * np.linalg.norm(weights[name]) / np.linalg.norm(u)
        momentum[name] = MOMENTUM * momentum.get(name, 0.0) + u
        weights[name] = weights[name] - rate * momentum[name]
    tau = 1 - (1 - TAU) * (math.cos(math.pi * step / STEPS) + 1) / 2
    for name in gradients:
        if not name.startswith("predictor"):
            weights[f"target_{name}"] = tau * weights[f"target_{name}"] + (1 - tau) * weights[name]
    return loss


def as_arrays(state: Mapping[str, Tensor]) -> Arrays:
    return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


def test_steps_equal_hand_written_numpy() -> None:
    method = build()
    optimizer = LARS(parameter_groups(method, DECAY), lr=0.0, momentum=MOMENTUM, eta=ETA)
    weights, momentum = as_arrays(method.state_dict()), {}
    names = {id(p): name for name, p in method.named_parameters()}
    for step in range(STEPS):
        result = train_step(Wrapped(Whole(method, [], recipe())), optimizer, [batch_of(step)], step)
        loss = numpy_step(weights, momentum, step)
        assert float(result.metrics["loss"]) == pytest.approx(loss, abs=1e-12)
        for name, value in as_arrays(method.state_dict()).items():
            np.testing.assert_allclose(value, weights[name], rtol=0, atol=1e-11, err_msg=f"{name} after {step}")
        buffers = {names[id(p)]: state["momentum_buffer"].numpy() for p, state in optimizer.state.items()}
        assert set(buffers) == set(momentum)
        for name, value in buffers.items():
            np.testing.assert_allclose(value, momentum[name], rtol=0, atol=1e-11, err_msg=f"{name} after {step}")


def test_the_comparison_would_see_a_wrong_momentum_of_the_target() -> None:
    method = build()
    optimizer = LARS(parameter_groups(method, DECAY), lr=0.0, momentum=MOMENTUM, eta=ETA)
    weights, momentum = as_arrays(method.state_dict()), {}
    for step in range(2):
        train_step(Wrapped(Whole(method, [], recipe(total_steps=STEPS + 1))), optimizer, [batch_of(step)], step)
        numpy_step(weights, momentum, step)
    np.testing.assert_allclose(method.state_dict()["encoder.1.weight"], weights["encoder.1.weight"], atol=1e-11)
    name = "target_encoder.1.weight"
    assert np.abs(method.state_dict()[name].numpy() - weights[name]).max() > 1e-9


def test_the_target_gets_no_gradient_and_the_predictor_does() -> None:
    method = build()
    batch = batch_of(0)
    online = method.online([view["image"] for view in batch.views])
    loss = method.pair_loss(online, method.target([view["image"] for view in batch.views]))
    loss.total.backward()
    targets = {name: p for name, p in method.named_parameters() if name.startswith("target_")}
    assert targets
    assert all(p.grad is None and not p.requires_grad for p in targets.values())
    others = {name: p.grad for name, p in method.named_parameters() if name not in targets}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in others.values())


def test_the_target_starts_as_a_copy_and_keeps_its_own_batch_statistics() -> None:
    method = build()
    assert torch.equal(method.target_projector[0].weight, method.projector[0].weight)
    assert method.target_projector[0].weight is not method.projector[0].weight
    method.train()
    method.target([torch.randn(BATCH, 3, 2, 2, dtype=torch.float64)])
    assert int(method.target_projector[1].num_batches_tracked) == 1
    assert int(method.projector[1].num_batches_tracked) == 0


def test_views_have_batch_statistics_of_their_own() -> None:
    method = build()
    first, second = (torch.randn(BATCH, 3, 2, 2, dtype=torch.float64) for _ in range(2))
    together = method.online([first, 5 * second]).representations[0]
    assert torch.equal(together, method.online([first, second]).representations[0])


@pytest.mark.parametrize(("share", "tau"), [(0, 0.996), (0.25, 0.996586), (0.5, 0.998), (0.75, 0.999414), (1, 1.0)])
def test_momentum_rises_as_in_the_card(share: float, tau: float) -> None:
    method = build(tau_base=0.996)
    assert method.after_step(int(share * 1000), 1000)["tau"] == pytest.approx(tau, abs=5e-7)
    assert target_momentum(int(share * 1000), 1000, 0.996) == pytest.approx(tau, abs=5e-7)


def test_momentum_of_another_batch_is_scaled_value_by_value() -> None:
    method = build(tau_base=0.996, tau_batch=4096)
    before = copy.deepcopy(method.state_dict())
    method.at_batch(24_576)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.after_step(0, 1000)["tau"] == pytest.approx(0.976239, abs=5e-7)
    assert method.after_step(500, 1000)["tau"] == pytest.approx(0.998**6, rel=1e-12)
    assert method.after_step(1000, 1000)["tau"] == 1.0
    assert copy.deepcopy(method).after_step(0, 1000)["tau"] == method.after_step(0, 1000)["tau"]


def test_momentum_that_belongs_to_no_batch_or_to_this_one_is_used_as_it_is() -> None:
    for options in ({"tau_batch": 0}, {"tau_batch": 64}):
        method = build(tau_base=0.3, tau_schedule="constant", **options)
        method.at_batch(64)
        assert method.after_step(0, 10)["tau"] == 0.3


def test_momentum_that_belongs_to_no_batch_belongs_to_the_first_one_told() -> None:
    method = build(tau_base=0.996)
    for batch, kappa in ((4096, 1), (8192, 2), (24_576, 6), (4096, 1)):
        method.at_batch(batch)
        assert method.after_step(0, 10)["tau"] == pytest.approx(0.996**kappa, rel=1e-12)


def test_momentum_that_cannot_be_scaled_that_far_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"64 times the one that tau 0\.996 belongs to"):
        build(tau_base=0.996, tau_batch=64).at_batch(4096)
    with pytest.raises(ConfigError, match="tau_batch is -1; it must be 0 or more"):
        build(tau_batch=-1)


def test_momentum_one_keeps_the_target_and_zero_copies() -> None:
    kept, copied = build(tau_base=1.0), build(tau_base=0.0, tau_schedule="constant")
    for method in (kept, copied):
        before = method.target_projector[0].weight.clone()
        with torch.no_grad():
            method.projector[0].weight.add_(1.0)
        method.after_step(1, 10)
        moved = method.target_projector[0].weight
        assert torch.equal(moved, before if method is kept else method.projector[0].weight)


def test_the_loss_of_one_row_is_that_of_the_card() -> None:
    """p = (3, 4), z' = (4, 3): cosine 0.96, 0.08 in each direction."""
    p, z = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    loss = build().pair_loss(Online([], [], [p, 7 * p]), [z, 0.1 * z])
    assert float(loss.total) == pytest.approx(0.16, abs=1e-6)
    assert float(loss.scale) == pytest.approx(-0.96, abs=1e-6)
    assert loss.rows == 1
    assert not loss.scale.requires_grad


def test_small_views_predict_both_targets_and_are_none() -> None:
    """Each target from its mean over the other views: with a third view that predicts neither, half of each cosine."""
    p, z = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    across = torch.tensor([[-3.0, 4.0]])
    loss = build().pair_loss(Online([], [], [p, p, across]), [z, z])
    assert float(loss.scale) == pytest.approx(-0.48)
    assert float(loss.total) == pytest.approx(2 * (2 - 2 * 0.48))
    views = [torch.randn(BATCH, 3, 2, 2, dtype=torch.float64)] * 4
    assert len(build().target(views)) == 2
    assert len(build().online(views).predictions) == 4


def test_heads_are_those_of_the_card() -> None:
    """Linear with bias, batch norm, ReLU, linear without bias; 4096 wide and 256 out by default."""
    assert (ByolOptions().hidden, ByolOptions().out, ByolOptions().tau_base) == (4096, 256, 0.996)
    for layers, width in ((build().projector, FEATURES), (build().predictor, OUT)):
        assert [type(layer) for layer in layers] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        assert layers[0].weight.shape == (HIDDEN, width)
        assert layers[0].bias is not None
        assert layers[3].weight.shape == (OUT, HIDDEN)
        assert layers[3].bias is None
        assert (layers[1].eps, layers[1].momentum) == (1e-5, 0.1)
        assert float(layers[0].weight.detach().abs().max()) <= width**-0.5 + 1e-6


@pytest.mark.parametrize("values", [{"hidden": 0}, {"out": 0}, {"tau_base": -0.1}, {"tau_base": 1.1}])
def test_options_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"options.{next(iter(values))}"):
        ByolOptions(**values)  # type: ignore[arg-type]
