"""The ER bound in its three hosts: loss and gradients against NumPy, and what each host keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.methods.base import Method, Online
from sciencessl.methods.byol import Byol
from sciencessl.methods.dino import Dino
from sciencessl.methods.er import ErByol, ErByolOptions, ErDino, ErDinoOptions, ErSimclr, ErSimclrOptions
from sciencessl.methods.simclr import Simclr
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.train.step import Network, Recipe, Wrapped, train_step

BATCH, FEATURES, OUT, PROTOTYPES, KAPPA = 6, 5, 4, 7, 10.0


class Encoder(nn.Module):
    """Crops of any size to features."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES, 3, 3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = nn.functional.conv2d(x, self.weight).relu().mean(dim=(2, 3))
        return y


def byol(**options: Any) -> ErByol:
    chosen = ErByolOptions(**{"hidden": 9, "out": OUT, **options})
    return _apart(ErByol(Encoder(), chosen, torch.Generator().manual_seed(1)).double())


def simclr(**options: Any) -> ErSimclr:
    chosen = ErSimclrOptions(**{"hidden": 9, "out": OUT, **options})
    return ErSimclr(Encoder(), chosen, torch.Generator().manual_seed(1)).double()


def dino(**options: Any) -> ErDino:
    small = {"hidden": 9, "out": OUT, "prototypes": PROTOTYPES, "drop_path": 0.0}
    method = ErDino(Encoder(), ErDinoOptions(**{**small, **options}), torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        for head in (method.projector, method.target_projector):
            for p in head.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())).double())
    return _apart(method)


def _apart(method: Any) -> Any:
    """Student and teacher start as one, which would hide which of them a loss reads."""
    with torch.no_grad():
        for p in method.target_projector.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())).double() * 0.2)
    return method


HOSTS = (byol, simclr, dino)


def crops(step: int = 0) -> list[Tensor]:
    """Two large crops and a small one."""
    rng = np.random.default_rng(step)
    return [torch.from_numpy(rng.normal(size=(BATCH, 3, side, side))) for side in (8, 8, 5)]


def forward(method: Method) -> tuple[Online, list[Tensor]]:
    online = method.online(crops())
    with torch.no_grad():
        return online, method.target(crops())


def unit(rows: Tensor) -> np.ndarray:
    x = rows.detach().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def plain_entropy(rows: np.ndarray, estimator: str) -> float:
    log_density = logsumexp(KAPPA * rows @ rows.T, axis=1) - math.log(len(rows))
    weights = softmax(log_density) if estimator == "expectation" else 1 / len(rows)
    return float(-(weights * log_density).sum())


def plain_bound(queries: list[np.ndarray], targets: list[np.ndarray], spread: list[np.ndarray], estimator: str) -> Any:
    """Mean over the two directions of the error less the entropy; both, and the mean cosine."""
    cosines = [np.mean([(q * t).sum(axis=1) for v, q in enumerate(queries) if v != i]) for i, t in enumerate(targets)]
    entropy = np.mean([plain_entropy(rows, estimator) for rows in spread])
    return -KAPPA * np.mean(cosines) - entropy, entropy, np.mean(cosines)


def check_sums(pair: Any, loss: float, entropy: float, cosine: float) -> None:
    assert float(pair.total.detach()) / BATCH == pytest.approx(loss, rel=1e-9)
    assert float(pair.logged["entropy"]) / BATCH == pytest.approx(entropy, rel=1e-9)
    assert float(pair.logged["reconstruction"]) / BATCH == pytest.approx(loss + entropy, rel=1e-9)
    assert float(pair.scale) / BATCH == pytest.approx(-cosine, rel=1e-9)
    assert pair.rows == BATCH
    assert not any(value.requires_grad for value in (pair.scale, *pair.logged.values()))


@pytest.mark.parametrize("estimator", ["expectation", "average"])
def test_byol_reconstructs_targets_and_spreads_online_projections(estimator: str) -> None:
    method = byol(estimator=estimator)
    online, targets = forward(method)
    predictions, projections = [unit(p) for p in online.predictions], [unit(z) for z in online.projections[:2]]
    want = plain_bound(predictions, [unit(t) for t in targets], projections, estimator)
    check_sums(method.pair_loss(online, targets), *want)


@pytest.mark.parametrize("estimator", ["expectation", "average"])
def test_simclr_reconstructs_and_spreads_projections(estimator: str) -> None:
    method = simclr(estimator=estimator)
    online, targets = forward(method)
    assert targets == []
    projections = [unit(z) for z in online.projections]
    want = plain_bound(projections, projections[:2], projections[:2], estimator)
    check_sums(method.pair_loss(online, targets), *want)


def test_dino_reconstructs_clusters_and_keeps_all_in_use() -> None:
    method = dino()
    method.at_step(1, 20)
    online, targets = forward(method)
    scores = []
    for units, prototypes in ((online.projections, method.prototypes), (targets, method.target_prototypes)):
        rows = unit(prototypes.weight)
        scores.append([z.detach().numpy() @ rows.T for z in units])
    chosen = [softmax(s / 0.1, axis=1) for s in scores[0]]
    codes = [softmax(t / 0.055, axis=1) for t in scores[1]]

    def error(w: np.ndarray, q: np.ndarray) -> float:
        return float(-0.5 * (w * np.log(q + 1e-7) + q * np.log(w + 1e-7)).sum(axis=1).mean())

    means = [w.mean(axis=0) for w in chosen[:2]]
    entropy = float(np.mean([-(m * np.log(m + 1e-7)).sum() for m in means]))
    errors = np.mean([[error(w, q) for v, w in enumerate(chosen) if v != i] for i, q in enumerate(codes)])
    cosine = np.mean([(online.projections[v].detach() * t).sum(dim=1).mean() for i, t in enumerate(targets)
                      for v in range(3) if v != i])
    check_sums(method.pair_loss(online, targets), errors - entropy, entropy, float(cosine))


@pytest.mark.parametrize("host", HOSTS)
def test_no_gradient_reaches_a_target_and_all_else_has_one(host: Callable[[], Any]) -> None:
    method = host()
    online, targets = forward(method)
    method.pair_loss(online, targets).total.backward()
    frozen = {name for name, p in method.named_parameters() if not p.requires_grad}
    aims = {name for name, _ in method.named_parameters() if name.startswith("target_")}
    assert aims == (frozen if host is not simclr else set())
    for name, p in method.named_parameters():
        assert (p.grad is None) == (name in frozen), name
        assert name in frozen or p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("host", [byol, simclr])
def test_projections_are_spread_unless_all_are_one(host: Callable[[], Any]) -> None:
    """The entropy of the large views, alone: predictions and targets give it nothing."""
    method = host()
    online, targets = forward(method)
    drawn = torch.from_numpy(np.random.default_rng(0).normal(size=(BATCH, OUT)))
    for rows, alive in ((drawn, True), (torch.eye(OUT)[:1].double() * 2, False)):
        projections = [rows.expand(BATCH, OUT).clone().requires_grad_() for _ in range(2)]
        # Equal views are the least of SimCLR's error, and BYOL's is of predictions: this is the entropy's gradient.
        pair = method.pair_loss(Online([], projections, [p.detach() for p in online.predictions[:2]]), targets)
        gradients = torch.autograd.grad(pair.total, projections)
        for gradient in gradients:
            assert bool((gradient.norm(dim=1) > 1e-6).all()) == alive
            assert alive or torch.equal(gradient, torch.zeros_like(gradient))


def test_clusters_taken_alike_are_the_highest_entropy_and_stay() -> None:
    method = dino()
    with torch.no_grad():
        method.prototypes.weight.copy_(torch.eye(OUT)[:1].expand(PROTOTYPES, OUT))
    online, targets = forward(method)
    pair = method.pair_loss(online, targets)
    assert float(pair.logged["entropy"]) / BATCH == pytest.approx(math.log(PROTOTYPES), abs=1e-5)
    assert float(pair.scale) == pytest.approx(float(Dino.pair_loss(method, online, targets).scale), rel=1e-12)


def test_a_loss_is_less_the_more_a_batch_is_spread() -> None:
    """The error alone is as small for a collapsed batch as for a perfect one."""
    method = simclr()
    spread, one = torch.eye(4).double(), torch.ones(4, 4).double()
    losses = [method.pair_loss(Online([], [z, z], []), []) for z in (spread, one)]
    assert [float(pair.logged["reconstruction"]) / 4 for pair in losses] == pytest.approx([-10, -10])
    assert float(losses[1].total) == pytest.approx(0, abs=1e-9)
    assert float(losses[0].total) / 4 == pytest.approx(math.log((math.exp(10) + 3) / 4) - 10, abs=1e-9)


def test_hosts_keep_what_is_theirs() -> None:
    assert [issubclass(*pair) for pair in ((ErByol, Byol), (ErSimclr, Simclr), (ErDino, Dino))] == [True] * 3
    assert (ErByol.exports, ErSimclr.exports, ErDino.exports) == ("encoder", "encoder", "target_encoder")
    assert (ErByol.cost, ErSimclr.cost, ErDino.cost) == (1.0, 0.75, 1.0)
    assert {kind.status for kind in (ErByol, ErSimclr, ErDino)} == {"ours"}
    defaults = ErByolOptions()
    assert (defaults.hidden, defaults.out, defaults.tau_base) == (4096, 256, 0.996)
    assert (defaults.kappa, defaults.estimator) == (10.0, "expectation")
    assert (ErSimclrOptions().out, ErDinoOptions().centre_momentum) == (128, 1.0)
    assert not hasattr(ErSimclrOptions(), "temperature")


def test_without_centring_the_teacher_is_only_sharpened_and_with_it_the_centre_moves() -> None:
    for momentum, moves in ((1.0, False), (0.9, True)):
        method = dino(centre_momentum=momentum)
        online, targets = forward(method)
        method.pair_loss(online, targets)
        method.after_step(0, 10)
        assert bool(method.centre.any()) == moves


@pytest.mark.parametrize(("host", "gain"), [(byol, 0.2), (simclr, 0.2), (dino, 0.03)])
def test_training_raises_the_bound(host: Callable[..., Any], gain: float) -> None:
    method = host(**({} if host is simclr else {"tau_base": 0.9}))
    optimizer = LARS(parameter_groups(method, 1e-5), lr=0.0, eta=0.1)
    batch = Batch([{"image": crop} for crop in crops()], {}, ["x"] * BATCH, np.arange(BATCH))
    recipe = Recipe(20, BATCH, 1, lambda step: 0.3, lambda x: x, "image")
    found = []
    for step in range(20):
        metrics = train_step(Wrapped(Network(method, [], recipe)), optimizer, [batch], step).metrics
        assert float(metrics["loss"]) == pytest.approx(float(metrics["reconstruction"] - metrics["entropy"]), abs=1e-9)
        found.append(float(metrics["loss"]))
    assert found[-1] < found[0] - gain


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ErByolOptions, {"kappa": 0.0}, r"options\.kappa is 0\.0; it must be above 0"),
        (ErByolOptions, {"hidden": 0}, r"options\.hidden is 0"),
        (ErByolOptions, {"estimator": "joe"}, r"no options\.estimator named 'joe'.*average, expectation"),
        (ErSimclrOptions, {"kappa": math.nan}, r"options\.kappa is nan"),
        (ErSimclrOptions, {"out": 0}, r"options\.out is 0; it must be 1"),
        (ErSimclrOptions, {"estimator": ""}, r"no options\.estimator named ''"),
        (ErDinoOptions, {"centre_momentum": 2.0}, r"options\.centre_momentum is 2\.0"),
    ],
)
def test_options_out_of_range_are_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)
