"""MoCo v3: its loss of a forward pass against NumPy, its heads, and a patch embedding that stays as drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.methods.base import Online
from sciencessl.methods.moco_v3 import MocoV3, MocoV3Options, _patch_projection
from tests.methods.tiny import BATCH, FEATURES, Encoder, gradients, train, unit, views


class Patches(nn.Module):
    """A patch embedding as timm names it, and something to learn behind it."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 4, 2, stride=2)
        self.head = nn.Linear(4, FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.patch_embed.proj(x).relu().mean(dim=(2, 3)))
        return y


def build(seed: int = 0, encoder: type[nn.Module] = Encoder, **options: Any) -> MocoV3:
    torch.manual_seed(seed)
    chosen = MocoV3Options(**{"hidden": 9, "out": 5, "tau_base": 0.9, **options})
    return MocoV3(encoder(), chosen, torch.Generator().manual_seed(seed)).double()


def contrast(p: np.ndarray, z: np.ndarray, temperature: float) -> float:
    s = np.exp(p @ z.T / temperature)
    return float(-np.log(np.diag(s) / s.sum(axis=1)).mean())


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_loss_of_a_forward_pass_is_that_of_the_released_code(temperature: float) -> None:
    method = build(temperature=temperature)
    online, targets = method.online(views()), method.target(views())
    pair = method.pair_loss(online, targets)
    p, z = ([unit(t.detach().numpy()) for t in group] for group in (online.predictions, targets))
    want = 2 * temperature * (contrast(p[0], z[1], temperature) + contrast(p[1], z[0], temperature))
    assert pair.rows == BATCH
    assert float(pair.total.detach()) / BATCH == pytest.approx(want, rel=1e-9)
    assert float(pair.scale) == pytest.approx(-((p[0] * z[1]).sum() + (p[1] * z[0]).sum()) / 2, rel=1e-9)


def test_equal_vectors_cost_four_temperatures_times_the_logarithm_of_the_batch() -> None:
    same = torch.ones(3, 5)
    pair = build(temperature=0.2).pair_loss(Online([], [], [same, same]), [same, same])
    assert float(pair.total) == pytest.approx(3 * 4 * 0.2 * math.log(3), rel=1e-6)


def test_small_views_ask_for_both_targets_and_weigh_no_more() -> None:
    method = build()
    given = views(small=2)
    online, targets = method.online(given), method.target(given)
    p, z = ([unit(t.detach().numpy()) for t in group] for group in (online.predictions, targets))
    pairs = [contrast(p[v], z[i], 1.0) for i in range(2) for v in range(4) if v != i]
    assert len(targets) == 2
    total = float(method.pair_loss(online, targets).total.detach())
    assert total / BATCH == pytest.approx(4 * np.mean(pairs), rel=1e-9)


def test_the_target_gets_no_gradient_and_everything_else_does() -> None:
    method = build()
    found = set(gradients(method, views(small=1)))
    assert found == {name for name, p in method.named_parameters() if p.requires_grad}
    assert not any(name.startswith("target_") for name in found)


def test_the_momentum_rises_and_the_loss_falls() -> None:
    logged = train(build(), 8, views())
    assert [step["tau"] for step in logged] == sorted(step["tau"] for step in logged)
    assert logged[0]["tau"] == 0.9
    assert logged[-1]["pair_loss"] < logged[0]["pair_loss"]


def test_a_frozen_patch_embedding_stays_as_drawn_in_both_networks() -> None:
    for frozen in (True, False):
        method = build(encoder=Patches, frozen_patches=frozen)
        before = method.encoder.patch_embed.proj.weight.clone()
        train(method, 2, views())
        assert torch.equal(method.encoder.patch_embed.proj.weight, before) == frozen
        assert torch.equal(method.target_encoder.patch_embed.proj.weight, before) == frozen


def test_an_encoder_without_patches_has_none_to_freeze() -> None:
    with pytest.raises(ConfigError, match=r"options\.frozen_patches .* this Encoder has none. Leave it at false"):
        build(frozen_patches=True)


def test_transformers_of_timm_have_patches_to_freeze() -> None:
    import timm

    with torch.device("meta"):  # names are all that is asked
        encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert _patch_projection(encoder) is encoder.patch_embed.proj


def test_heads_are_those_of_the_released_code_for_transformers() -> None:
    defaults = MocoV3Options()
    assert (defaults.hidden, defaults.out, defaults.tau_base, defaults.temperature) == (4096, 256, 0.99, 1.0)
    assert not defaults.frozen_patches
    method = build()
    layers = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in method.projector] == [*layers, *layers, nn.Linear, nn.BatchNorm1d]
    assert [type(layer) for layer in method.predictor] == [*layers, nn.Linear, nn.BatchNorm1d]
    for head, shapes in ((method.projector, [(9, FEATURES), (9, 9), (5, 9)]), (method.predictor, [(9, 5), (5, 9)])):
        assert [layer.weight.shape for layer in head[::3]] == shapes
        assert all(layer.bias is None for layer in head[::3])
        assert head[-1].weight is None


@pytest.mark.parametrize("values", [{"hidden": 0}, {"temperature": -0.2}, {"tau_base": 1.5}])
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))}"):
        MocoV3Options(**values)
