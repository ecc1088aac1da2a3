"""VSSL's total against NumPy, against BYOL in its cosine form, and its Gaussian heads."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.methods.byol import Byol
from sciencessl.methods.vssl import GaussianHead, Posteriors, Vssl, VsslOptions
from tests.methods.tiny import BATCH, build, gradients, loss_of, outputs, train, unit, views


def numpy_loss(online: dict[str, list[np.ndarray]], means: list[np.ndarray], logs: list[np.ndarray], o: Any) -> float:
    """Mean over rows, by loops over both targets and their other views."""
    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((unit(a) * unit(b)).sum(axis=1))

    total = 0.0
    for b, (mt, lt) in enumerate(zip(means, logs, strict=True)):
        found = []
        for a, (m, log, h) in enumerate(zip(online["mean"], online["log"], online["prediction"], strict=True)):
            if a == b:
                continue
            if o.form == "gaussian":
                kl = 0.5 * (lt - log + (np.exp(log) + (m - mt) ** 2) / np.exp(lt) - 1).sum(axis=1)
                rec = 0.5 * ((h - mt) ** 2).sum(axis=1) / o.deviation**2
            else:
                centred = [x - x.mean(axis=1, keepdims=True) for x in (log, lt)]
                kl, rec = (1 - cosine(m, mt)) + o.gamma * (1 - cosine(*centred)), 1 - cosine(h, mt)
            found.append((o.beta * kl + rec).mean())
        total += 0.5 * float(np.mean(found))
    return total


@pytest.mark.parametrize("form", ["gaussian", "cosine"])
@pytest.mark.parametrize("number", [2, 4])
def test_the_loss_of_random_rows_equals_numpy(form: str, number: int) -> None:
    """Two large views, and none or two small ones, which are predicted from and never predicted."""
    rng = np.random.default_rng(0)
    m, log, h, t = (outputs(rng, count) for count in (number, number, number, 4))
    method = build(Vssl, form=form, beta=0.6, gamma=0.3, deviation=0.7)
    pair = method.pair_loss(Posteriors([], m, h, log), t)
    arrays = {name: [x.detach().numpy() for x in group] for name, group in
              (("mean", m), ("log", log), ("prediction", h), ("target", t))}  # fmt: skip
    want = numpy_loss(arrays, arrays["target"][:2], arrays["target"][2:], method.options)
    assert pair.total.item() / pair.rows == pytest.approx(want, rel=1e-10)
    assert pair.logged["log_variance"].item() / pair.rows == pytest.approx(np.mean(arrays["log"]), rel=1e-6)
    pair.total.backward()
    assert all(x.grad is None for x in t)
    assert all(x.grad is not None and x.grad.any() for x in (*m, *log, *h))


def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)


def test_cosines_without_divergence_and_noise_are_a_quarter_of_byol(monkeypatch: pytest.MonkeyPatch) -> None:
    """1/2 sum (1 - cos) against sum (2 - 2 cos); so is the gradient, and that of the variances is zero."""
    silent(monkeypatch)
    ours, byol = build(Vssl, form="cosine", beta=0.0), build(Byol)
    given = views(2, small=1)
    assert loss_of(ours, given).item() == pytest.approx(0.25 * loss_of(byol, given).item(), rel=1e-12)
    found, want = gradients(ours, given), gradients(byol, given)
    for name, gradient in want.items():
        moved = name.replace("projector.3.weight", "projector.3.mean.weight")
        torch.testing.assert_close(found.pop(moved), 0.25 * gradient, rtol=0, atol=1e-12)
    assert {name.rpartition(".")[0] for name in found} == {"projector.3.log_variance"}
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("form", ["gaussian", "cosine"])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_all_that_is_trained_gets_a_gradient_and_the_target_none(form: str, beta: float) -> None:
    method = build(Vssl, form=form, beta=beta)
    found = gradients(method, views(2, small=1))
    assert found.keys() == {name for name, _ in method.named_parameters() if "target_" not in name}
    assert all(gradient.any() for name, gradient in found.items() if name != "encoder.0.bias")


def test_every_log_variance_starts_at_minus_two_and_the_mean_is_byols_projection() -> None:
    ours, byol = build(Vssl), build(Byol)
    online = ours.online(views())
    assert all(bool((log == -2).all()) for log in online.log_variances)
    for mean, z in zip(online.projections, byol.online(views()).projections, strict=True):
        torch.testing.assert_close(mean, z)
    assert torch.equal(ours.predictor[0].weight, byol.predictor[0].weight)


def test_log_variances_stay_within_their_bounds_and_have_no_gradient_outside() -> None:
    head = GaussianHead(torch.nn.Linear(3, 2, bias=False), 3, 2, torch.Generator())
    for bias, bound in ((-9.0, -8.0), (5.0, 4.0)):
        with torch.no_grad():
            head.log_variance.bias.fill_(bias)
        head.zero_grad()
        log = head(torch.ones(4, 3))[:, 2:]
        assert bool((log == bound).all())
        log.sum().backward()
        assert head.log_variance.bias.grad is not None
        assert not head.log_variance.bias.grad.any()


def test_the_target_has_both_heads_and_both_follow() -> None:
    method = build(Vssl, tau_schedule="constant")
    assert [z.shape for z in method.target(views(2, small=1))] == [(BATCH, 5)] * 4
    names = {name for name, _ in method.target_projector.named_parameters()}
    assert {"3.mean.weight", "3.log_variance.weight", "3.log_variance.bias"} <= names
    before = copy.deepcopy(method.target_projector.state_dict())
    with torch.no_grad():
        for parameter in method.projector.parameters():
            parameter.add_(1.0)
    method.after_step(0, 10)
    for name in names:
        torch.testing.assert_close(method.target_projector.state_dict()[name], before[name] + 0.1)


def test_the_prediction_is_of_a_sample_from_the_global_generator() -> None:
    method = build(Vssl)
    torch.manual_seed(3)
    online = method.online(views())
    torch.manual_seed(3)
    again: list[Tensor] = []
    for mean in online.projections:
        again.append(method.predictor(mean + np.exp(-1) * torch.randn_like(mean)))
    for found, want in zip(online.predictions, again, strict=True):
        torch.testing.assert_close(found, want)
    assert not torch.equal(method.online(views()).predictions[0], online.predictions[0])


def test_equal_constant_gaussians_cost_nothing_but_the_predictor() -> None:
    """The trivial optimum that the target's lag keeps away, as in BYOL."""
    mean, log = torch.ones(4, 5), torch.full((4, 5), -2.0)
    pair = build(Vssl).pair_loss(Posteriors([], [mean] * 2, [mean] * 2, [log] * 2), [mean, mean, log, log])
    assert pair.total.item() == pair.logged["divergence"].item() == 0
    assert pair.scale.item() == pytest.approx(-4)


@pytest.mark.parametrize("form", ["gaussian", "cosine"])
def test_it_learns_in_a_few_steps(form: str) -> None:
    found = train(build(Vssl, form=form), 8, views())
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[0]["log_variance"] == -2


def test_the_defaults_are_those_of_the_card() -> None:
    options = VsslOptions()
    assert (options.out, options.tau_base, options.tau_schedule) == (256, 0.996, "cosine")
    assert (options.beta, options.gamma, options.deviation, options.form) == (1.0, 0.1, 1.0, "gaussian")
    assert Vssl.status == "ours"


@pytest.mark.parametrize("values", [{"form": "sphere"}, {"beta": -1.0}, {"gamma": float("nan")}, {"deviation": 0.0},
                                    {"deviation": float("inf")}, {"out": 0}])  # fmt: skip
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))} is .* must be"):
        VsslOptions(**values)
