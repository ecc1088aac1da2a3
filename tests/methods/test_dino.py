"""DINO: loss, teacher, centre and temperatures of whole steps against NumPy, and what stays put when it should."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf, log_softmax, softmax
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.methods.dino import Dino, DinoOptions, without_drop_path
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.train.step import Network, Recipe, Wrapped, train_step
from tests.methods.crops import FEATURES, Encoder

BATCH, HIDDEN, OUT, PROTOTYPES, STEPS = 6, 9, 4, 7, 10
SIDES = (8, 8, 4, 4)
"""Two large crops and two small ones."""

Arrays = dict[str, np.ndarray]


def build(seed: int = 1, **options: Any) -> Dino:
    small = {"hidden": HIDDEN, "out": OUT, "prototypes": PROTOTYPES, "drop_path": 0.0, "tau_base": 0.5, **options}
    method = Dino(Encoder(), DinoOptions(**small), torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        # Away from the first weights: 0.02 leaves scores nearly alike, and teacher and student are one.
        for head in (method.projector, method.target_projector):
            for number, p in enumerate(head.parameters()):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(number)).double() * 0.7)
        for p in [*method.target_projector.parameters(), method.target_prototypes.weight]:
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(5)).double() * 0.1)
    return method


def crops(step: int = 0, sides: Sequence[int] = SIDES, batch: int = BATCH) -> list[Tensor]:
    rng = np.random.default_rng(step)
    return [torch.from_numpy(rng.normal(size=(batch, 3, side, side))) for side in sides]


def take(method: Dino, optimizer: Any, step: int, accumulate: int = 1) -> dict[str, Any]:
    whole = Batch([{"image": crop} for crop in crops(step)], {}, ["x"] * BATCH, np.arange(BATCH))
    size = BATCH // accumulate
    recipe = Recipe(STEPS, BATCH, accumulate, lambda step: 0.1, lambda x: x, "image")
    parts = [whole.slice(start, start + size) for start in range(0, BATCH, size)]
    return train_step(Wrapped(Network(method, [], recipe)), optimizer, parts, step).metrics


def lars(method: Dino) -> LARS:
    return LARS(parameter_groups(method, 1e-5), lr=0.0, eta=0.1)


def arrays(method: Dino) -> Arrays:
    return {name: tensor.detach().numpy().copy() for name, tensor in method.state_dict().items()}


def bottlenecks(weights: Arrays, views: list[Tensor], prefix: str = "") -> list[np.ndarray]:
    """Unit vectors of every crop, written out; batch statistics of all crops of one size."""
    convolution = torch.from_numpy(weights[f"{prefix}encoder.weight"])
    maps = [nn.functional.conv2d(view, convolution).numpy() for view in views]
    found = []
    for group in (maps[:2], maps[2:]):
        if not group:
            continue
        x = np.concatenate(group)
        x = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
        shape = (1, FEATURES, 1, 1)
        scale, shift = (weights[f"{prefix}encoder.norm.{name}"].reshape(shape) for name in ("weight", "bias"))
        z = np.maximum(x * scale + shift, 0).mean(axis=(2, 3))
        for layer in (0, 2, 4):
            z = z @ weights[f"{prefix}projector.{layer}.weight"].T + weights[f"{prefix}projector.{layer}.bias"]
            z = z * 0.5 * (1 + erf(z / math.sqrt(2))) if layer < 4 else z
        found += np.split(z / np.linalg.norm(z, axis=1, keepdims=True), len(group))
    return found


def scores_of(weights: Arrays, units: list[np.ndarray], prefix: str = "") -> list[np.ndarray]:
    rows = weights[f"{prefix}prototypes.weight"]
    return [unit @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T for unit in units]


class Plain:
    """The published listing in NumPy: one loss for each pair of a teacher view and another view."""

    def __init__(self, weights: Arrays, views: list[Tensor], temperature: float) -> None:
        self.student, self.teacher = bottlenecks(weights, views), bottlenecks(weights, views[:2], "target_")
        outputs, self.taught = scores_of(weights, self.student), scores_of(weights, self.teacher, "target_")
        self.codes = [softmax((t - weights["centre"]) / temperature, axis=1) for t in self.taught]
        logs = [log_softmax(s / 0.1, axis=1) for s in outputs]
        pairs = [(i, v) for i in range(2) for v in range(len(views)) if v != i]
        self.loss = np.mean([-(self.codes[i] * logs[v]).sum(axis=1).mean() for i, v in pairs])
        self.cosine = np.mean([(self.teacher[i] * self.student[v]).sum(axis=1).mean() for i, v in pairs])
        self.entropy = np.mean([-(q * np.log(q)).sum(axis=1).mean() for q in self.codes])


@pytest.mark.parametrize("sides", [SIDES, (8, 8)])
def test_the_loss_of_a_step_equals_hand_written_numpy(sides: tuple[int, ...]) -> None:
    method, views = build(), crops(sides=sides)
    method.centre.copy_(torch.linspace(-0.2, 0.3, PROTOTYPES))
    want = Plain(arrays(method), views, 0.04)
    online, targets = method.online(views), method.target(views)
    pair = method.pair_loss(online, targets)
    assert float(pair.total.detach()) / BATCH == pytest.approx(want.loss, rel=1e-9)
    assert float(pair.scale) / BATCH == pytest.approx(-want.cosine, rel=1e-9)
    assert float(pair.logged["teacher_entropy"]) / BATCH == pytest.approx(want.entropy, rel=1e-9)
    assert pair.rows == BATCH
    for found, unit in zip([*online.projections, *targets], [*want.student, *want.teacher], strict=True):
        np.testing.assert_allclose(found.detach(), unit, atol=1e-12)
    assert want.loss > want.entropy > 0.1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_move_teacher_centre_and_temperature_as_published(accumulate: int) -> None:
    """Warm-up over the first half: 0.04 at step 0, 0.055 half through it, 0.07 from step 5 on."""
    method = build(teacher_temperature_start=0.04, teacher_temperature=0.07, warmup_share=0.5)
    optimizer = lars(method)
    for step in range(7):
        before = arrays(method)
        temperature = 0.04 + 0.03 * min(step / 5, 1)
        parts = [[view[part] for view in crops(step)] for part in np.split(np.arange(BATCH), accumulate)]
        plain = [Plain(before, part, temperature) for part in parts]
        metrics = take(method, optimizer, step, accumulate)
        assert float(metrics["loss"]) == pytest.approx(np.mean([p.loss for p in plain]), rel=1e-9), step
        assert metrics["teacher_temperature"] == pytest.approx(temperature, rel=1e-12)
        mean = np.concatenate([t for p in plain for t in p.taught]).mean(axis=0)
        np.testing.assert_allclose(method.centre, 0.9 * before["centre"] + 0.1 * mean, atol=1e-12)
        tau = 1 - 0.5 * (math.cos(math.pi * step / STEPS) + 1) / 2
        assert metrics["tau"] == pytest.approx(tau, rel=1e-12)
        after = arrays(method)
        for name in [n for n, _ in method.named_parameters() if n.startswith("target_")]:
            moved = tau * before[name] + (1 - tau) * after[name.removeprefix("target_")]
            np.testing.assert_allclose(after[name], moved, atol=1e-12, err_msg=name)
    assert float(method.centre.abs().max()) > 0.01


def test_prototypes_rest_for_the_first_share_of_the_run() -> None:
    method = build(resting_share=0.25)
    optimizer, drawn = lars(method), method.prototypes.weight.detach().clone()
    for step in range(5):
        take(method, optimizer, step)
        assert torch.equal(method.prototypes.weight, drawn) == (step < 3), step
        assert ("momentum_buffer" in optimizer.state[method.prototypes.weight]) == (step >= 3)
    assert build(resting_share=0.0).resting() == []


def test_no_gradient_reaches_the_teacher_and_all_else_has_one() -> None:
    method = build()
    views = crops()
    method.pair_loss(method.online(views), method.target(views)).total.backward()
    targets = {name: p for name, p in method.named_parameters() if name.startswith("target_")}
    assert len(targets) == len(list(method.parameters())) / 2
    assert all(p.grad is None and not p.requires_grad for p in targets.values())
    assert not method.centre.requires_grad
    others = {name: p.grad for name, p in method.named_parameters() if name not in targets}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in others.values())


def test_the_length_of_prototypes_says_nothing_and_has_no_gradient() -> None:
    """A gain of 1: the gradient of each row is at right angles to it."""
    method, views = build(), crops()
    first = method.pair_loss(method.online(views), method.target(views)).total
    first.backward()
    weight = method.prototypes.weight
    np.testing.assert_allclose((weight.grad * weight.detach()).sum(dim=1), np.zeros(PROTOTYPES), atol=1e-12)
    with torch.no_grad():
        for prototypes in (method.prototypes, method.target_prototypes):
            prototypes.weight.mul_(torch.linspace(0.1, 10, PROTOTYPES)[:, None])
    assert float(method.pair_loss(method.online(views), method.target(views)).total.detach()) == pytest.approx(
        float(first.detach()), rel=1e-9
    )


def test_a_shift_of_the_whole_centre_changes_nothing_and_a_cluster_high_in_it_is_taken_less() -> None:
    method, views = build(), crops()
    online, targets = method.online(views), method.target(views)
    before = torch.stack(method.teach(targets)).mean(dim=(0, 1))
    first = float(method.pair_loss(online, targets).total.detach())
    method.centre.fill_(0.3)
    assert float(method.pair_loss(online, targets).total.detach()) == pytest.approx(first, rel=1e-9)
    method.centre[before.argmax()] += 0.2
    assert torch.stack(method.teach(targets)).mean(dim=(0, 1))[before.argmax()] < 0.9 * before.max()
    assert float(method.pair_loss(online, targets).total.detach()) != pytest.approx(first, rel=1e-3)


def test_the_centre_moves_once_a_step_and_not_when_a_step_is_surveyed() -> None:
    method, views = build(), crops()
    with torch.no_grad():
        method.pair_loss(method.online(views), method.target(views))
    method.after_step(0, STEPS)
    assert not method.centre.any()
    method.pair_loss(method.online(views), method.target(views))
    assert not method.centre.any()
    method.after_step(1, STEPS)
    moved = method.centre.clone()
    assert moved.any()
    method.after_step(2, STEPS)
    assert torch.equal(method.centre, moved)


def test_centre_and_teacher_go_through_the_state() -> None:
    method = build()
    optimizer = lars(method)
    for step in range(3):
        take(method, optimizer, step)
    other = build(seed=9)
    assert "centre" in method.state_dict()
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    second = lars(other)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in (3, 4):
        assert float(take(other, second, step)["loss"]) == float(take(method, optimizer, step)["loss"])
    assert torch.equal(other.centre, method.centre)


def test_without_centring_there_is_no_centre_to_keep() -> None:
    method = build(centre_momentum=1.0)
    take(method, lars(method), 0)
    assert not method.centre.any()


def test_views_of_one_size_share_a_forward_and_the_teacher_sees_two() -> None:
    method = build()
    online, targets = method.online(crops()), method.target(crops())
    assert method.encoder.given == [(2 * BATCH, 3, 8, 8), (2 * BATCH, 3, 4, 4)]
    assert method.target_encoder.given == [(2 * BATCH, 3, 8, 8)]
    assert [y.shape for y in online.representations] == [(BATCH, FEATURES)] * 4
    assert [t.shape for t in targets] == [(BATCH, OUT)] * 2
    assert online.predictions == []


def test_scores_stay_in_single_precision_under_autocast() -> None:
    method = build().float()
    views = [crop.float() for crop in crops()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        online = method.online(views)
        (scores, *_), pair = method.score(online.projections), method.pair_loss(online, method.target(views))
    assert online.representations[0].dtype == torch.bfloat16
    assert {scores.dtype, pair.total.dtype, online.projections[0].dtype} == {torch.float32}
    unit = nn.functional.normalize(method.prototypes.weight, dim=1)
    torch.testing.assert_close(scores, online.projections[0] @ unit.T)


def test_heads_start_as_in_the_released_code() -> None:
    """Three linear layers with GELU, normal with spread 0.02 and biases 0; prototypes as torch draws them."""
    method = Dino(Encoder(), DinoOptions(hidden=300, out=64, prototypes=90), torch.Generator().manual_seed(0))
    layers = list(method.projector)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]
    assert [layer.weight.shape for layer in layers[::2]] == [(300, FEATURES), (300, 300), (64, 300)]
    assert float(layers[2].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not any(layer.bias.any() for layer in layers[::2])
    assert 0.99 / 8 < float(method.prototypes.weight.detach().abs().max()) <= 1 / 8
    for slow, fast in method.target_pairs():
        assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), fast.parameters(), strict=True))
    assert method.exports == "target_encoder"


def test_batch_norm_in_the_head_is_an_option_and_follows_the_norm_of_the_encoder() -> None:
    options = DinoOptions(hidden=32, out=OUT, prototypes=PROTOTYPES, norm=True)
    method = Dino(Encoder(), options, torch.Generator().manual_seed(0))
    hidden = [type(layer) for layer in method.projector]
    assert hidden == [*[nn.Linear, nn.BatchNorm1d, nn.GELU] * 2, nn.Linear]
    encoder: Any = Encoder()
    encoder.norm_kind = "group_ws"
    grouped = Dino(encoder, options, torch.Generator().manual_seed(0))
    assert not any(isinstance(module, nn.BatchNorm1d) for module in grouped.modules())
    assert sum(isinstance(module, nn.GroupNorm) for module in grouped.projector.modules()) == 2


def test_the_teacher_drops_no_path() -> None:
    from timm.layers import DropPath

    encoder = Encoder()
    encoder.drop = DropPath(0.5)
    method = Dino(encoder, DinoOptions(hidden=8, prototypes=4), torch.Generator().manual_seed(0)).train()
    assert method.encoder.drop.drop_prob == 0.5
    x = torch.ones(64, 3)
    assert torch.equal(method.target_encoder.drop(x), x)
    assert not torch.equal(method.encoder.drop(x), x)
    assert without_drop_path(method.encoder) is method.encoder


def test_the_defaults_are_those_of_the_released_code() -> None:
    defaults = DinoOptions()
    assert (defaults.hidden, defaults.out, defaults.prototypes, defaults.norm) == (2048, 256, 65536, False)
    assert (defaults.temperature, defaults.teacher_temperature_start, defaults.teacher_temperature) == (0.1, 0.04, 0.07)
    assert (defaults.warmup_share, defaults.resting_share) == (30 / 300, 1 / 100)
    assert (defaults.centre_momentum, defaults.tau_base, defaults.tau_schedule) == (0.9, 0.996, "cosine")
    assert defaults.drop_path == 0.1


@pytest.mark.parametrize(
    "values",
    [{"hidden": 0}, {"out": 0}, {"prototypes": 1}, {"temperature": 0.0}, {"teacher_temperature": -0.1},
     {"teacher_temperature_start": float("nan")}, {"warmup_share": 1.1}, {"resting_share": -0.1},
     {"centre_momentum": 1.5}, {"drop_path": 1.0}, {"tau_base": 2.0}],
)  # fmt: skip
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))} is .* must be"):
        DinoOptions(**values)
