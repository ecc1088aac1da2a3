"""BYOL with predictors that are set: whole steps against NumPy, what is counted and when, and what gets no gradient."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import sciencessl.configs
from sciencessl.errors import ConfigError
from sciencessl.methods import predictor_rules as rules
from sciencessl.methods.base import Online
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.closed_form import ClosedForm, DirectPred, Ne
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.registry import load_method
from sciencessl.samples import Batch
from sciencessl.train.ranks import Ranks
from sciencessl.train.step import Network, Recipe, Wrapped, train_step
from tests.methods.test_predictor_rules import of_eigenvalues, root_gain, stiefel_gain, visser_gain

FEATURES, OUT, BATCH, STEPS = 6, 4, 8, 3
DIRECT = ("directcopy", "directpred", "directset")
NAMES = (*DIRECT, "lrp", "ne", "ns", "ns2", "stiefel", "visser")
SYMMETRIC = (*DIRECT, "ns", "ns2", "stiefel", "visser")


class Encoder(nn.Sequential):
    """Without batch statistics: rows do not hang on their neighbours."""

    num_features = FEATURES
    norm_kind = "none"

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(nn.Flatten(), nn.Linear(12, FEATURES), nn.Tanh())


def build(name: str, **options: Any) -> ClosedForm:
    kind = load_method(name)
    method = kind(Encoder(), kind.Options(hidden=7, out=OUT, **options), torch.Generator().manual_seed(1)).double()
    assert isinstance(method, ClosedForm)
    return method


def batch_of(step: int, views: int = 2) -> Batch:
    rng = np.random.default_rng(step)
    pixels = [{"image": torch.from_numpy(rng.normal(size=(BATCH, 3, 2, 2)))} for _ in range(views)]
    return Batch(pixels, {}, [str(i) for i in range(BATCH)], np.arange(BATCH))


class Training:
    """A method with its optimiser, that remembers what each forward pass gave."""

    def __init__(self, method: ClosedForm) -> None:
        self.method, self.seen = method, list[tuple[list[Tensor], list[Tensor]]]()
        self.optimizer = LARS(parameter_groups(method, 1e-4), lr=0.0, eta=0.1)
        inner = method.pair_loss

        def watched(online: Online, targets: Any) -> Any:
            self.seen.append(([z.detach().clone() for z in online.projections], list(targets)))
            return inner(online, targets)

        method.pair_loss = watched  # type: ignore[method-assign]

    def step(self, number: int, accumulate: int = 1, views: int = 2) -> float:
        recipe = Recipe(10, BATCH, accumulate, lambda step: 0.1, lambda x: x, "image")
        size, batch = BATCH // accumulate, batch_of(number, views)
        parts = [batch.slice(start, start + size) for start in range(0, BATCH, size)]
        metrics = train_step(Wrapped(Network(self.method, [], recipe)), self.optimizer, parts, number).metrics
        return float(metrics["loss"])


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def lrp(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(z, t, rcond=None)[0]


def ne(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    z, t = unit(z) / len(z) ** 0.5, unit(t) / len(t) ** 0.5
    return np.asarray(2 * z.T @ t - z.T @ z @ z.T @ t)


def of_gram(gain: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda z, t: of_eigenvalues(z.T @ z / len(z), gain)


EDGE: dict[str, tuple[float, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "lrp": (0.0, lrp),
    "ne": (0.15, ne),
    "visser": (0.0, of_gram(lambda s: visser_gain(s, 40, 0.5 / s.sum() ** 0.5))),
    "ns": (0.3, of_gram(lambda s: root_gain(s, 9))),
    "ns2": (0.6, of_gram(lambda s: root_gain(root_gain(s, 7), 7))),
    "stiefel": (0.3, of_gram(lambda s: stiefel_gain(s, 9))),
}
"""Name -> the default ridge, and P from the step's rows, in NumPy."""
POWERS = {"directcopy": 1.0, "directpred": 0.5, "directset": 0.75}


def numpy_predictors(name: str, seen: list[tuple[list[Tensor], list[Tensor]]]) -> list[np.ndarray]:
    """W after each step, from its projections and targets."""
    w, f, found = np.eye(OUT), np.zeros((OUT, OUT)), []
    for number, (projections, targets) in enumerate(seen):
        z = np.concatenate([rows.numpy() for rows in projections[:2]])
        t = np.concatenate([targets[1].numpy(), targets[0].numpy()])
        if name in DIRECT:
            fresh = sum(np.outer(row, row) for row in z) / len(z)
            f = fresh if number == 0 else 0.3 * f + 0.7 * fresh
            w = of_eigenvalues(f, lambda s: (s / s.max()) ** POWERS[name] + 0.01)
        else:
            alpha, rule = EDGE[name]
            p = rule(z, t)
            p = p / np.linalg.norm(p, 2) + alpha * np.eye(OUT)
            w = 0.3 * w + 0.7 * p.T
        found.append(w)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_predictor_of_each_step_is_that_of_numpy(name: str) -> None:
    training = Training(build(name))
    weight = training.method.predictor.weight
    assert torch.equal(weight, torch.eye(OUT, dtype=torch.float64))
    set_to: list[Tensor] = []
    for number in range(STEPS):
        assert np.isfinite(training.step(number))
        set_to.append(weight.clone())
    for mine, want in zip(set_to, numpy_predictors(name, training.seen), strict=True):
        np.testing.assert_allclose(mine.numpy(), want, rtol=0, atol=1e-9)
    assert not torch.equal(set_to[0], set_to[1])
    if name in SYMMETRIC:
        torch.testing.assert_close(weight, weight.T, rtol=0, atol=1e-12)
        assert float(torch.linalg.eigvalsh(weight)[0]) > 0
    else:
        assert float((weight - weight.T).abs().max()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_set_the_predictor_of_the_whole_batch(name: str) -> None:
    whole, parts = Training(build(name)), Training(build(name))
    for number in range(STEPS):
        whole.step(number)
        parts.step(number, accumulate=2)
    state, other = whole.method.state_dict(), parts.method.state_dict()
    for key in state:
        torch.testing.assert_close(other[key], state[key], rtol=0, atol=1e-11, msg=key)


@dataclass(frozen=True)
class Both(Ranks):
    """One of two ranks that share a step, after the other has said what it has."""

    said: list[Tensor] = field(default_factory=list)

    def sum(self, tensor: Tensor) -> Tensor:
        if self.rank == 0:
            self.said.append(tensor.clone())
            return tensor
        return tensor.add_(self.said.pop())


@pytest.mark.parametrize("name", ["directpred", "lrp", "ne", "stiefel"])
def test_the_rows_of_all_ranks_count_also_where_they_have_unequally_many(name: str) -> None:
    alone, first, second = (build(name) for _ in range(3))
    said: list[Tensor] = []
    first.ranks, second.ranks = Both(0, 2, said=said), Both(1, 2, said=said)
    rng = np.random.default_rng(0)
    z, t = ([torch.from_numpy(rng.normal(size=(BATCH, OUT))) for _ in range(2)] for _ in range(2))
    for method, rows in ((alone, slice(0, BATCH)), (first, slice(0, 3)), (second, slice(3, BATCH))):
        own = [x[rows] for x in z]
        method.pair_loss(Online([], own, own), [x[rows] for x in t])
        method.after_step(0, 10)
    assert said == []
    torch.testing.assert_close(second.predictor.weight, alone.predictor.weight, rtol=0, atol=1e-12)
    assert float((first.predictor.weight - alone.predictor.weight).abs().max()) > 1e-3


def test_the_average_of_the_correlation_starts_at_the_first_step_and_forgets_by_rho() -> None:
    """The card's: outer products of e1, e2, e1 with rho 0.3."""
    method = DirectPred(Encoder(), DirectPred.Options(hidden=3, out=2), torch.Generator()).double()
    for axis in (0, 1, 0):
        row = torch.eye(2, dtype=torch.float64)[[axis]]
        method.pair_loss(Online([], [row, row], [row, row]), [row, row])
        method.after_step(0, 10)
    torch.testing.assert_close(method.correlation, torch.diag(torch.tensor([0.79, 0.21], dtype=torch.float64)))


def test_gradient_reaches_projections_through_w_and_nothing_else() -> None:
    """W, F and the statistics are constants: the gradient is that of a fixed linear layer."""
    for name in NAMES:
        method = build(name)
        training = Training(method)
        training.step(0)
        z = [torch.randn(BATCH, OUT, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        t = [torch.randn(BATCH, OUT, dtype=torch.float64) for _ in range(2)]
        method.pair_loss(Online([], z, [method.predictor(x) for x in z]), t).total.backward()
        fixed = method.predictor.weight.clone()
        mine = [x.detach().clone().requires_grad_() for x in z]
        Byol.pair_loss(method, Online([], mine, [x @ fixed.T for x in mine]), t).total.backward()
        for x, y in zip(z, mine, strict=True):
            torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-13)
        assert not any(buffer.requires_grad for buffer in method.buffers())
        assert method._sums is not None
        assert not method._sums.requires_grad
        assert not [n for n, _ in method.named_parameters() if n.startswith(("predictor", "correlation"))]
        trained = [n for n, p in method.named_parameters() if p.requires_grad and n.split(".")[0] != "encoder"]
        assert trained
        assert all(n.startswith("projector") for n in trained)


def test_a_step_that_is_only_surveyed_counts_for_nothing() -> None:
    method = build("directpred")
    views = [view["image"] for view in batch_of(0).views]
    with torch.no_grad():
        method.pair_loss(method.online(views), method.target(views))
    before = copy.deepcopy(method.state_dict())
    method.after_step(0, 10)
    assert torch.equal(method.predictor.weight, before["predictor.weight"])
    assert method.get_extra_state().tolist() == [0]


def test_between_predictors_w_rests_and_the_correlation_moves() -> None:
    training = Training(build("directpred", freq=3))
    weights, correlations = [], []
    for number in (0, 1, 2, 4, 6):  # where batches grow, indices are passed over
        training.step(number)
        weights.append(training.method.predictor.weight.clone())
        correlations.append(training.method.correlation.clone())
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert changed == [False, False, True, False]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(correlations))
    torch.testing.assert_close(weights[0], rules.direct_set(correlations[0], 0.5, 0.01))
    torch.testing.assert_close(weights[3], rules.direct_set(correlations[3], 0.5, 0.01))


def test_the_state_brings_back_predictor_correlation_and_count() -> None:
    training = Training(build("directset", freq=2))
    for number in range(3):
        training.step(number)
    other = build("directset", freq=2)
    other.load_state_dict(copy.deepcopy(training.method.state_dict()))
    assert {"predictor.weight", "correlation", "_extra_state"} <= set(other.state_dict())
    assert torch.equal(other.predictor.weight, training.method.predictor.weight)
    assert torch.equal(other.correlation, training.method.correlation)
    assert other.get_extra_state().tolist() == [3]


def test_centred_takes_the_mean_off() -> None:
    rows = [torch.from_numpy(np.random.default_rng(v).normal(1.0, 1.0, (BATCH, OUT))) for v in range(2)]
    for centred in (False, True):
        method = build("directcopy", centred=centred)
        method.pair_loss(Online([], rows, rows), rows)
        method.after_step(0, 10)
        z = torch.cat(rows).numpy()
        want = np.cov(z.T, bias=True) if centred else z.T @ z / len(z)
        np.testing.assert_allclose(method.correlation.numpy(), want, atol=1e-12)


def test_ridge_and_its_scale_and_the_average_are_settings() -> None:
    rows = [torch.from_numpy(np.random.default_rng(v).normal(size=(BATCH, OUT))) for v in range(2)]
    method = build("ns", ridge=0.7, ridge_on="raw", momentum=0.9, iterations=5)
    method.pair_loss(Online([], rows, rows), rows)
    method.after_step(0, 10)
    z, eye = torch.cat(rows), torch.eye(OUT, dtype=torch.float64)
    want = 0.9 * eye + 0.1 * (rules.newton_schulz(z.T @ z / len(z), 5)[0] + 0.7 * eye)
    torch.testing.assert_close(method.predictor.weight, want)


def test_small_views_are_predicted_from_and_not_counted() -> None:
    with_small, without = Training(build("ne")), Training(build("ne"))
    loss = [with_small.step(0, views=4), without.step(0)]
    assert loss[0] != loss[1]
    torch.testing.assert_close(with_small.method.predictor.weight, without.method.predictor.weight)


def test_the_series_has_rows_of_length_one_and_the_others_their_own() -> None:
    rows = 5 * torch.ones(2, OUT, dtype=torch.float64)
    torch.testing.assert_close(build("ne").prepared(rows).norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert all(torch.equal(build(name).prepared(rows), rows) for name in NAMES if name != "ne")
    zeros = torch.zeros(2, OUT)
    assert torch.equal(Ne.prepared(build("ne"), zeros), zeros)


@pytest.mark.parametrize("name", NAMES)
def test_collapsed_projections_and_single_rows_leave_finite_predictors(name: str) -> None:
    for rows in (torch.zeros(BATCH, OUT), torch.ones(BATCH, OUT), torch.randn(1, OUT)):
        method = build(name).float()
        for step in range(2):
            method.pair_loss(Online([], [rows, rows], [rows, rows]), [rows, rows])
            method.after_step(step, 10)
        assert bool(method.predictor.weight.isfinite().all()), rows


@pytest.mark.parametrize("name", NAMES)
def test_statistics_and_predictor_stay_in_single_precision_under_autocast(name: str) -> None:
    method = build(name).float()
    rows = [torch.randn(BATCH, OUT).bfloat16().requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = [method.predictor(z) for z in rows]
        method.pair_loss(Online([], rows, predictions), [z.detach() for z in rows])
    method.after_step(0, 10)
    kept = {n: b.dtype for n, b in method.named_buffers() if n in ("predictor.weight", "correlation")}
    assert set(kept.values()) == {torch.float32}
    assert predictions[0].dtype == torch.float32
    z = torch.cat(rows).detach().float()
    if name in DIRECT:
        torch.testing.assert_close(method.correlation, z.T @ z / len(z), rtol=1e-6, atol=1e-6)


def test_the_defaults_are_those_of_the_papers() -> None:
    direct = load_method("directpred").Options()
    assert (direct.freq, direct.rho, direct.eps, direct.hidden, direct.out) == (1, 0.3, 0.01, 512, 128)
    assert (direct.tau_base, direct.tau_schedule) == (0.996, "constant")
    iterations = {"lrp": 0, "ne": 0, "visser": 40, "ns": 9, "ns2": 7, "stiefel": 9}
    for name, (ridge, _) in EDGE.items():
        options, byol = load_method(name).Options(), ByolOptions()
        assert (options.ridge, getattr(options, "iterations", 0)) == (ridge, iterations[name])
        assert (options.hidden, options.out, options.tau_base) == (byol.hidden, byol.out, byol.tau_base)
    assert {load_method(name).status for name in DIRECT} == {"verified"}
    assert {load_method(name).status for name in EDGE} == {"reconstructed"}
    assert {load_method(name).cost for name in NAMES} == {1.0}


def test_presets_have_the_heads_and_the_target_of_byol() -> None:
    folder = Path(sciencessl.configs.__path__[0]) / "method"
    byol = yaml.safe_load((folder / "byol.yaml").read_text())["options"]
    for name in NAMES:
        options = load_method(name).Options(**yaml.safe_load((folder / f"{name}.yaml").read_text())["options"])
        assert {key: getattr(options, key) for key in byol} == byol
        assert options.tau_schedule == ByolOptions().tau_schedule


@pytest.mark.parametrize(("name", "values", "message"), [
    ("directpred", {"rho": 1.0}, r"options\.rho is 1\.0; it must be in \[0, 1\)"),
    ("directpred", {"rho": float("nan")}, r"options\.rho is nan"),
    ("directcopy", {"eps": -0.1}, r"options\.eps is -0\.1; it must be 0 or more"),
    ("directset", {"freq": 0}, r"options\.freq is 0; it must be 1 or more"),
    ("directset", {"alpha": 0.0}, r"options\.alpha is 0\.0; it must be above 0"),
    ("directset", {"tau_base": 1.5}, r"options\.tau_base"),
    ("lrp", {"ridge": float("inf")}, r"options\.ridge is inf; it must be 0 or more"),
    ("ne", {"momentum": 1.0}, r"options\.momentum is 1\.0; it must be in \[0, 1\)"),
    ("visser", {"iterations": 0}, r"options\.iterations is 0; it must be 1 or more"),
    ("ns", {"iterations": 21}, r"options\.iterations is 21; it must be 1 to 20; beyond, float32 is lost"),
    ("ns2", {"iterations": 30}, r"options\.iterations is 30; it must be 1 to 20"),
    ("stiefel", {"iterations": 0}, r"options\.iterations is 0; it must be 1 to 20"),
])  # fmt: skip
def test_options_out_of_range_are_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_method(name).Options(**values)
