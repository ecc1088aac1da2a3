"""SwAV: codes, loss, prototypes and queue of whole steps against NumPy, and what stays put when it should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.methods.swav import Swav, SwavOptions
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.train.step import Network, Recipe, Wrapped, train_step
from tests.methods.crops import FEATURES, Encoder

BATCH, HIDDEN, OUT, PROTOTYPES = 6, 9, 4, 7
SIDES = (8, 8, 4, 4, 4)
"""Two large crops and three small ones."""


def build(seed: int = 1, **options: Any) -> Swav:
    small = {"hidden": HIDDEN, "out": OUT, "prototypes": PROTOTYPES, "frozen_steps": 0, **options}
    return Swav(Encoder(), SwavOptions(**small), torch.Generator().manual_seed(seed)).double()


def crops(step: int = 0, sides: Sequence[int] = SIDES, batch: int = BATCH) -> list[Tensor]:
    rng = np.random.default_rng(step)
    return [torch.from_numpy(rng.normal(size=(batch, 3, side, side))) for side in sides]


def take(method: Swav, optimizer: Any, step: int, accumulate: int = 1, batch: int = BATCH) -> float:
    whole = Batch([{"image": crop} for crop in crops(step, batch=batch)], {}, ["x"] * batch, np.arange(batch))
    size = batch // accumulate
    recipe = Recipe(100, batch, accumulate, lambda step: 0.1, lambda x: x, "image")
    parts = [whole.slice(start, start + size) for start in range(0, batch, size)]
    return float(train_step(Wrapped(Network(method, [], recipe)), optimizer, parts, step).metrics["loss"])


def lars(method: Swav) -> LARS:
    return LARS(parameter_groups(method, 1e-5), lr=0.0, eta=0.1)


def scores_of(method: Swav, step: int, batch: int = BATCH) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Unit projections and scores of every crop, written out; batch statistics of all crops of one size."""
    weights = {name: p.detach().numpy() for name, p in method.named_parameters()}
    maps = [nn.functional.conv2d(crop, method.encoder.weight).detach().numpy() for crop in crops(step, batch=batch)]
    units = []
    for group in (maps[:2], maps[2:]):
        x = np.concatenate(group)
        x = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
        shape = (1, FEATURES, 1, 1)
        x = x * weights["encoder.norm.weight"].reshape(shape) + weights["encoder.norm.bias"].reshape(shape)
        z = np.maximum(x, 0).mean(axis=(2, 3))
        for layer in (0, 2, 4):
            z = z @ weights[f"projector.{layer}.weight"].T + weights[f"projector.{layer}.bias"]
            z = np.maximum(z, 0) if layer < 4 else z
        units += np.split(z / np.linalg.norm(z, axis=1, keepdims=True), len(group))
    return units, [unit @ weights["prototypes"].T for unit in units]


def plain_codes(scores: np.ndarray, epsilon: float = 0.03, iterations: int = 10) -> np.ndarray:
    plan = np.exp((scores - scores.max()) / epsilon).T
    for _ in range(iterations):
        plan /= plan.sum(axis=1, keepdims=True) * plan.shape[0]
        plan /= plan.sum(axis=0, keepdims=True) * plan.shape[1]
    return (plan * plan.shape[1]).T


def plain_loss(scores: list[np.ndarray], codes: list[np.ndarray], temperature: float = 0.1) -> float:
    logits = [s / temperature for s in scores]
    logs = [x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in logits]
    terms = [-(q * logs[p]).sum(axis=1).mean() for i, q in enumerate(codes) for p in range(len(logs)) if p != i]
    return float(np.mean(terms))


def test_the_loss_of_a_step_equals_hand_written_numpy() -> None:
    method = build()
    units, scores = scores_of(method, 0)
    want = plain_loss(scores, [plain_codes(s) for s in scores[:2]])
    online = method.online(crops())
    pair = method.pair_loss(online, method.target(crops()))
    assert float(pair.total.detach()) / BATCH == pytest.approx(want, rel=1e-9)
    assert pair.rows == BATCH
    assert float(pair.scale) == pytest.approx(-(units[0] * units[1]).sum(), rel=1e-9)
    for z, s, unit, score in zip(online.projections, online.predictions, units, scores, strict=True):
        np.testing.assert_allclose(z.detach(), unit, atol=1e-12)
        np.testing.assert_allclose(s.detach(), score, atol=1e-12)


def test_crops_of_one_size_share_a_forward() -> None:
    method = build()
    online = method.online(crops())
    assert method.encoder.given == [(2 * BATCH, 3, 8, 8), (3 * BATCH, 3, 4, 4)]
    assert [y.shape for y in online.representations] == [(BATCH, FEATURES)] * 5


def test_two_crops_without_small_ones_are_enough() -> None:
    method = build()
    online = method.online(crops(sides=(8, 8)))
    assert float(method.pair_loss(online, []).total.detach()) > 0


def test_prototypes_stay_as_drawn_while_frozen_and_have_length_one_afterwards() -> None:
    method = build(frozen_steps=2)
    optimizer, drawn = lars(method), method.prototypes.detach().clone()
    for step in range(4):
        take(method, optimizer, step)
        assert torch.equal(method.prototypes, drawn) == (step < 2)
        torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(PROTOTYPES, dtype=torch.float64))
        assert ("momentum_buffer" in optimizer.state[method.prototypes]) == (step >= 2)


def test_the_queue_fills_from_its_start_and_takes_part_once_full() -> None:
    """Two batches of six fill a queue of ten from step 1 on: steps 0 to 2 balance alone, step 3 with the queue."""
    method = build(queue=10, queue_start=1)
    optimizer = lars(method)
    seen: list[list[np.ndarray]] = [[], []]
    for step in range(6):
        units, scores = scores_of(method, step)
        full = step >= 3
        queues = [np.concatenate(seen[i])[-10:] @ method.prototypes.detach().numpy().T if full else scores[i][:0]
                  for i in range(2)]
        codes = [plain_codes(np.concatenate([scores[i], queues[i]]))[:BATCH] for i in range(2)]
        assert take(method, optimizer, step) == pytest.approx(plain_loss(scores, codes), rel=1e-8), step
        if step >= 1:
            for i in range(2):
                seen[i].append(units[i])
                np.testing.assert_allclose(method.queue[i, -6:], units[i], atol=1e-12)


def test_micro_batches_of_a_step_do_not_see_each_other_in_the_queue() -> None:
    method = build(queue=4)
    optimizer = lars(method)
    before = method.queue.clone()
    online = method.online(crops())
    method.pair_loss(online, [])
    method.pair_loss(online, [])
    assert torch.equal(method.queue, before)
    take(method, optimizer, 0, accumulate=2, batch=8)
    assert method.queue.shape == (2, 4, OUT)
    torch.testing.assert_close(method.queue.norm(dim=2), torch.ones(2, 4, dtype=torch.float64))


def test_without_a_queue_nothing_is_kept() -> None:
    method = build()
    take(method, lars(method), 0)
    assert method.queue.shape == (2, 0, OUT)
    assert method._waiting.shape[1] == 0


def test_scores_and_codes_stay_in_single_precision_under_autocast() -> None:
    method = build(queue=6).float()
    views = [crop.float() for crop in crops()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        online = method.online(views)
        pair = method.pair_loss(online, [])
    assert online.representations[0].dtype == torch.bfloat16
    assert online.predictions[0].dtype == online.projections[0].dtype == pair.total.dtype == torch.float32
    exact = torch.nn.functional.linear(online.projections[0], method.prototypes)
    torch.testing.assert_close(online.predictions[0], exact)


def test_the_defaults_are_those_of_the_card() -> None:
    """F -> 8192 -> 8192 -> 256 without norms, and 16000 prototypes."""
    defaults = SwavOptions()
    assert (defaults.hidden, defaults.out, defaults.prototypes) == (8192, 256, 16000)
    assert (defaults.temperature, defaults.epsilon, defaults.iterations) == (0.1, 0.03, 10)
    assert (defaults.frozen_steps, defaults.queue) == (313, 0)
    layers = list(build().projector)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.weight.shape for layer in layers[::2]] == [(HIDDEN, FEATURES), (HIDDEN, HIDDEN), (OUT, HIDDEN)]
    assert all(layer.bias is not None for layer in layers[::2])
    assert not defaults.norm
    hidden = [type(layer) for layer in build(norm=True).projector]
    assert hidden == [*[nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2, nn.Linear]


@pytest.mark.parametrize(
    "values",
    [{"hidden": 0}, {"out": 0}, {"prototypes": 1}, {"iterations": 0}, {"frozen_steps": -1}, {"queue": -1},
     {"queue_start": -1}, {"temperature": 0.0}, {"epsilon": float("nan")}],
)  # fmt: skip
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))} is .* must be"):
        SwavOptions(**values)
