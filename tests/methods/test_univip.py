"""UniVIP: which views are compared with which, what learns from it, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.layers import preset_layers
from sciencessl.losses.regression import negative_cosine
from sciencessl.losses.transport import scene_marginals, transport_loss
from sciencessl.methods.base import Online
from sciencessl.methods.univip import Univip, UnivipOptions
from sciencessl.optim.schedules import target_momentum
from sciencessl.testing.method_case import BATCH, STEPS, Case, Training, tiny_encoder

K, OUT = 4, 5
SMALL = UnivipOptions(hidden=12, out=OUT)


def method(options: UnivipOptions = SMALL) -> Univip:
    return Univip(tiny_encoder(), options, torch.Generator().manual_seed(0))


def views(count: int = 2 + 2 * K, side: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 3, *[side if v < 2 else side // 2] * 2, generator=generator) for v in range(count)]


def given(*vectors: list[float]) -> list[Tensor]:
    return [torch.tensor([vector], dtype=torch.float64) for vector in vectors]


def test_the_defaults_are_those_that_are_known_of_the_paper() -> None:
    found = UnivipOptions()
    assert (found.hidden, found.out, found.tau_base, found.tau_schedule) == (4096, 256, 0.99, "cosine")
    assert (found.instances, found.epsilon, found.iterations) == (4, 0.1, 50)
    (preset,) = (layer for layer in preset_layers("laptop", "univip", "web", []) if layer.name == "method univip")
    assert preset.values["views"] == {"instances": UnivipOptions().instances}


def test_its_cost_is_that_of_the_pixels_in_all_passes() -> None:
    scene, instance = 1.0, (96 / 224) ** 2
    passes = (3 + 1) * (2 * scene + 4 * instance)
    assert Univip.cost == pytest.approx(passes / 8, abs=0.005)
    assert 4 * instance == pytest.approx(0.73, abs=0.005)


def test_the_loss_is_the_three_terms_by_hand() -> None:
    """Scenes and instances of the card's worked numbers, for which the transport gives -0.949466."""
    f = given([0.6, 0.8], [0.6, 0.8])
    g = given([0.8, 0.6], [0.8, 0.6])
    o, t = given([1.0, 0.0], [0.0, 1.0], [0.6, 0.8]), given([0.8, 0.6], [0.0, 1.0], [1.0, 0.0])
    whole = given([0.0, 2.0])
    found = method(UnivipOptions(hidden=12, out=2, instances=3)).pair_loss(Online([], [], [*f, *o, *whole]), [*g, *t])
    # cos(f, g) = 0.96 twice, cos(whole, g) = 0.6 twice
    total = -2 * 0.96 - 2 * 0.6 - 0.949466
    assert float(found.total) == pytest.approx(total, abs=1e-6)
    assert float(found.scale) == pytest.approx(total / 5, abs=1e-6)
    assert found.rows == 1
    logged = {name: float(value) for name, value in found.logged.items()}
    assert logged == pytest.approx(
        {"scene_cosine": 0.96, "scene_instance_cosine": 0.6, "instance_cosine": 0.949466}, abs=1e-6
    )


def test_scenes_and_instances_take_their_places_in_the_loss() -> None:
    """Each view through the networks by itself; without batch statistics instances may go together or one by one."""
    subject, given_views = method().eval(), views()
    online, targets = subject.online(given_views), subject.target(given_views)
    f = [subject.predictor(subject.projector(subject.encoder(v))) for v in given_views[: 2 + K]]
    g = [subject.target_projector(subject.target_encoder(v)) for v in (*given_views[:2], *given_views[2 + K :])]
    whole = subject.scene_predictor(torch.cat(f[2:], dim=1))
    for found, expected in zip([*online.predictions, *targets], [*f, whole, *g], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    o, t = torch.stack(f[2:], 1), torch.stack(g[2:], 1)
    rows = sum(negative_cosine(a, b) for a, b in ((f[0], g[1]), (f[1], g[0]), (whole, g[0]), (whole, g[1])))
    rows = rows + transport_loss(o, t, scene_marginals(o, g[:2]), scene_marginals(t, f[:2]), 0.1, 50)
    torch.testing.assert_close(subject.pair_loss(online, targets).total, rows.sum(), atol=1e-5, rtol=1e-5)
    assert [len(found) for found in (online.representations, online.projections, targets)] == [2 + K] * 3
    assert {tuple(y.shape) for y in online.representations} == {(BATCH, subject.features)}


def test_the_first_copy_of_instances_learns_and_the_second_is_only_a_target() -> None:
    subject, given_views = method(), [view.requires_grad_() for view in views()]
    online = subject.online(given_views)
    with torch.no_grad():
        targets = subject.target(given_views)
    subject.pair_loss(online, targets).total.backward()
    learned = [view.grad is not None and bool(view.grad.any()) for view in given_views]
    assert learned == [True] * (2 + K) + [False] * K
    assert all(p.grad is None for slow, _ in subject.target_pairs() for p in slow.parameters())
    assert all(p.grad is not None for p in subject.parameters() if p.requires_grad)


def test_targets_and_transport_carry_no_gradient_even_where_targets_have_one() -> None:
    subject, given_views = method(), views()
    online = subject.online(given_views)
    targets = [torch.randn(BATCH, OUT, requires_grad=True) for _ in range(2 + K)]
    subject.pair_loss(online, targets).total.backward()
    assert all(target.grad is None for target in targets)


def test_the_order_of_instances_matters_to_the_scene_from_them_alone() -> None:
    subject, given_views = method().eval(), views()
    order = [3, 1, 0, 2]
    moved = [*given_views[:2], *(given_views[2 + k] for k in order), *given_views[2 + K :]]
    found, other = (subject.pair_loss(subject.online(v), subject.target(v)).logged for v in (given_views, moved))
    for name in ("scene_cosine", "instance_cosine"):
        torch.testing.assert_close(found[name], other[name], atol=1e-5, rtol=1e-5)
    assert abs(float(found["scene_instance_cosine"] - other["scene_instance_cosine"])) > 1e-4


def test_it_trains_and_moves_its_target() -> None:
    training = Training(Case(Univip, SMALL, tiny_encoder, 8), method())
    before = [p.clone() for p in training.method.target_encoder.parameters()]  # type: ignore[union-attr]
    joint = training.method.scene_predictor[0].weight.clone()  # type: ignore[index]
    metrics = [training.step() for _ in range(3)]
    assert all({"scene_cosine", "scene_instance_cosine", "instance_cosine"} <= set(m) for m in metrics)
    assert float(metrics[-1]["tau"]) == target_momentum(2, STEPS, 0.99, "cosine")
    assert not torch.equal(joint, training.method.scene_predictor[0].weight)  # type: ignore[index]
    after = training.method.target_encoder.parameters()  # type: ignore[union-attr]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_weights_of_all_heads_are_drawn_from_the_generator() -> None:
    first, second = method(), method()
    other = Univip(tiny_encoder(), SMALL, torch.Generator().manual_seed(9))
    layer: Any = first.scene_predictor[0]
    assert isinstance(layer, nn.Linear)
    assert (layer.in_features, layer.out_features) == (K * OUT, OUT)
    assert torch.equal(layer.weight, second.scene_predictor[0].weight)
    assert not torch.equal(layer.weight, other.scene_predictor[0].weight)


SCENE, INSTANCE = (3, 64, 64), (3, 32, 32)


@pytest.mark.parametrize("shapes", [
    [SCENE] * 2, [SCENE] * 2 + [INSTANCE] * 7, [SCENE] * 2 + [INSTANCE] * 9, [SCENE] * 3 + [INSTANCE] * 7,
    [SCENE, INSTANCE] + [INSTANCE] * 8, [SCENE] * 2 + [INSTANCE] * 7 + [SCENE],
])  # fmt: skip
def test_other_views_are_refused_with_what_to_set(shapes: list[tuple[int, ...]]) -> None:
    told = (rf"compares two scenes and 4 instances twice, 10 views of each sample, and gets {len(shapes)}\. "
            r"Set --views\.instances 4 --views\.large_views 2 --views\.small_views 0")
    with pytest.raises(ConfigError, match=told):
        method().check_views(shapes)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_it_takes_as_many_instances_as_its_options_say(count: int) -> None:
    subject = method(UnivipOptions(hidden=12, out=OUT, instances=count))
    given_views = views(2 + 2 * count)
    subject.check_views([tuple(view.shape[1:]) for view in given_views])
    found = subject.pair_loss(subject.online(given_views), subject.target(given_views))
    assert found.total.isfinite()
    assert -1 <= float(found.scale) / BATCH <= 1


@pytest.mark.parametrize(("wrong", "told"), [
    ({"instances": 0}, r"options\.instances is 0; it must be 1 or more"),
    ({"iterations": 0}, r"options\.iterations is 0; it must be 1 or more"),
    ({"epsilon": 0.0}, r"options\.epsilon is 0.0; it must be above 0"),
    ({"tau_base": 1.5}, "tau_base"),
])  # fmt: skip
def test_options_are_checked(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        UnivipOptions(**wrong)
