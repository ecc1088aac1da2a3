"""CNN-JEPA: predictor, masks, loss and target of the card, on encoders of timm's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sciencessl.backbones.masked import masking
from sciencessl.backbones.timm_backbones import build_backbone, switch_on
from sciencessl.errors import ConfigError
from sciencessl.methods.base import Online
from sciencessl.methods.cnn_jepa import CnnJepa, CnnJepaOptions, MaskedOnline
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.testing.method_case import tiny_encoder
from sciencessl.testing.method_ranks import on_ranks
from sciencessl.train.step import Network, Recipe, Wrapped, train_step

BATCH = 4


def build(backbone: str = "", seed: int = 0, **options: Any) -> CnnJepa:
    """On one convolution, or on timm's encoder with its branches on."""
    encoder = switch_on(build_backbone(backbone, 3, 0), most=0.0) if backbone else tiny_encoder()
    return CnnJepa(encoder, CnnJepaOptions(**options), torch.Generator().manual_seed(seed)).double()


def view(side: int = 32, batch: int = BATCH, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, 3, side, side)))


def learn(method: CnnJepa, steps: range, optimizer: Any, accumulate: int = 1, side: int = 32) -> list[float]:
    recipe = Recipe(100, BATCH, accumulate, lambda step: 0.5, lambda x: x, "image")
    losses = []
    for step in steps:
        whole = Batch([{"image": view(side)}], {}, ["x"] * BATCH, np.arange(BATCH))
        size = BATCH // accumulate
        parts = [whole.slice(start, start + size) for start in range(0, BATCH, size)]
        found = train_step(Wrapped(Network(method, [], recipe)), optimizer, parts, step)
        losses.append(float(found.metrics["loss"]))
    return losses


def lars(method: CnnJepa) -> LARS:
    return LARS(parameter_groups(method, 1e-5), lr=0.0, eta=0.1)


def test_a_layer_of_the_predictor_has_the_parameters_of_the_card() -> None:
    """4,220,928 at a width of 2048: depthwise 3 x 3, 1 x 1, batch norm and ReLU, behind the last layer too."""
    wide = nn.Sequential(nn.Conv2d(3, 2048, 1), nn.BatchNorm2d(2048), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    wide.num_features = 2048  # type: ignore[assignment]
    method = CnnJepa(wide, CnnJepaOptions(), torch.Generator().manual_seed(0))
    assert len(method.predictor) == 3
    for layer in method.predictor:
        assert [type(part) for part in layer] == [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        assert sum(parameter.numel() for parameter in layer.parameters()) == 4_220_928
        assert layer[0].groups == 2048
        assert float(layer[0].weight.detach().abs().max()) <= 1 / 3
        assert float(layer[1].weight.detach().abs().max()) <= 2048**-0.5
    token = method.mask_token.detach()
    assert token.shape == (1, 2048, 1, 1)
    assert float(token.std()) == pytest.approx(0.02, rel=0.1)
    assert abs(float(token.mean())) < 0.002


@pytest.mark.parametrize(("side", "cells"), [(224, 7), (128, 4), (64, 4), (32, 4), (16, 4), (40, 5)])
def test_the_grid_is_the_last_map_which_has_four_cells_a_side_or_more(side: int, cells: int) -> None:
    """The paper's 7 x 7 at 224 pixels as it is; smaller images by dilation, of both encoders."""
    method = build("regnetx_002")
    with torch.no_grad():
        online = method.online([view(side, 2)])
        pooled, features = method.target([view(side, 2)])
    assert online.cells.shape == (2, cells, cells, 368)
    assert online.wanted.shape == (2, cells, cells)
    assert features.shape == (2, cells * cells * 368)
    assert pooled.shape == online.representations[0].shape == online.predictions[0].shape == (2, 368)


def test_views_too_small_for_a_grid_are_refused_with_the_sizes_that_help() -> None:
    method = build("regnetx_002")
    method.check_views([(3, 32, 32)])
    with pytest.raises(ConfigError, match=r"4 x 4 pixels.*of 8 x 40 has 2 of them.*for 4.*13 pixels or more\."):
        method.check_views([(3, 8, 40)])
    with pytest.raises(ConfigError, match=r"Use views of 13 pixels or more, or set --options\.grid 3\."):
        method.online([view(12)])
    build("regnetx_002", grid=3).check_views([(3, 12, 12)])
    with pytest.raises(ConfigError, match="no use for more than 1 view"):
        method.check_views([(3, 32, 32)] * 2)


def loss_of(method: CnnJepa, cells: Tensor, wanted: Tensor, h: Tensor) -> Any:
    return method.pair_loss(MaskedOnline([], [], [], cells, wanted), [h.mean(dim=(1, 2)), h.flatten(1)])


def test_the_loss_is_the_mean_over_target_cells_of_the_published_formula() -> None:
    rng = np.random.default_rng(0)
    p, h = rng.normal(size=(3, 2, 4, 5)), rng.normal(size=(3, 2, 4, 5))
    wanted = rng.uniform(size=(3, 2, 4)) < [[[0.2]], [[0.5]], [[0.9]]]  # other numbers in each image
    d = p / np.linalg.norm(p, axis=-1, keepdims=True) - h / np.linalg.norm(h, axis=-1, keepdims=True)
    smooth = np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5).sum(axis=-1)
    cosine = 1 - 0.5 * (d**2).sum(axis=-1)
    found = loss_of(build(), *map(torch.from_numpy, (p, wanted, h)))
    assert found.rows == 3
    assert float(found.total) / 3 == pytest.approx(smooth[wanted].mean(), rel=1e-12)
    assert float(found.scale) / 3 == pytest.approx(-cosine[wanted].mean(), rel=1e-12)
    assert not found.scale.requires_grad


def test_the_numbers_of_the_card_are_those_of_the_method() -> None:
    """p = (3, 4) / 5 and h = (1, 0) at the one target: 0.40, and a cosine of 0.6."""
    p, h = (torch.tensor(values, dtype=torch.float64).expand(1, 3, 3, 2) for values in ([0.6, 0.8], [1.0, 0.0]))
    wanted = torch.zeros(1, 3, 3, dtype=torch.bool)
    wanted[0, 1, 2] = True
    found = loss_of(build(), p, wanted, h)
    assert float(found.total) == pytest.approx(0.40, abs=1e-9)
    assert float(found.scale) == pytest.approx(-0.6, abs=1e-9)


def test_two_processes_weigh_cells_alike_whoever_has_them() -> None:
    rng = np.random.default_rng(3)
    p, h = (torch.from_numpy(rng.normal(size=(4, 3, 3, 5))) for _ in range(2))
    wanted = torch.from_numpy(rng.uniform(size=(4, 3, 3)) < np.array([0.1, 0.3, 0.6, 0.9])[:, None, None])
    whole = loss_of(build(), p, wanted, h)

    methods = [build(), build()]

    def share(ranks: Any) -> Any:
        method = methods[ranks.rank]
        method.ranks = ranks
        part = slice(2 * ranks.rank, 2 * ranks.rank + 2)
        return loss_of(method, p[part], wanted[part], h[part])

    parts = on_ranks(share)
    assert sum(float(part.total) for part in parts) == pytest.approx(float(whole.total), rel=1e-12)
    assert sum(float(part.scale) for part in parts) == pytest.approx(float(whole.scale), rel=1e-12)


def test_gradient_is_where_it_belongs() -> None:
    """None for predictions at cells that are no targets, none for the target; some for all that is trained."""
    method = build("regnety_002")
    online = method.online([view()])
    online.cells.retain_grad()
    method.pair_loss(online, method.target([view()])).total.backward()
    gradient = online.cells.grad
    assert gradient is not None
    assert not gradient[~online.wanted].any()
    assert gradient[online.wanted].any(dim=-1).all()
    for name, parameter in method.named_parameters():
        if name.startswith("target_"):
            assert parameter.grad is None
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            # A bias before batch norm has none but rounding.
            assert parameter.grad.any() or name.startswith("predictor"), name


@pytest.mark.parametrize("backbone", ["resnet18", "regnety_002"])
def test_nothing_of_masked_cells_reaches_the_prediction(backbone: str) -> None:
    """Their pixels can be anything: representation and predictions stay, bit for bit."""
    method, x = build(backbone), view()
    found: list[MaskedOnline] = []
    for other in (x, None):
        torch.manual_seed(0)
        if other is None:
            masked = nn.functional.interpolate(found[0].wanted[:, None].double(), x.shape[-2:]).bool()
            other = torch.where(masked, 50 * view(seed=8), x)
        with torch.no_grad():
            found.append(method.online([other]))
    first, second = found
    assert torch.equal(first.wanted, second.wanted)
    assert torch.equal(first.cells, second.cells)
    assert torch.equal(first.representations[0], second.representations[0])


def test_representations_and_monitored_vectors_are_means_over_their_cells() -> None:
    method = build("regnetx_002")
    online = method.online([view()])
    pooled, flat = method.target([view()])
    wanted = online.wanted.unsqueeze(-1)
    torch.testing.assert_close(online.predictions[0], (online.cells * wanted).sum((1, 2)) / wanted.sum((1, 2)))
    torch.testing.assert_close(pooled, flat.view(BATCH, 16, -1).mean(dim=1))
    with masking(~online.wanted.unsqueeze(1)) as seen:
        context = method.encoder(view() * nn.functional.interpolate((~online.wanted[:, None]).double(), (32, 32)))
    torch.testing.assert_close(online.representations[0], context)
    torch.testing.assert_close(context, seen.last_map().sum((2, 3)) / (~wanted).sum((1, 2)))
    assert online.representations[0].requires_grad  # label terms teach the encoder
    assert online.projections[0] is online.representations[0]


def test_the_target_sees_the_whole_image_and_either_encoder_is_evaluated_without_a_mask() -> None:
    method = build("regnety_002").eval()
    with torch.no_grad():
        pooled, _ = method.target([view()])
        assert torch.equal(pooled, method.target_encoder(view()))
        torch.testing.assert_close(method.encoder(view()), pooled, rtol=0, atol=0)  # starts as a copy
    plain = build_backbone("regnety_002", 3, 7)
    plain.load_state_dict(method.target_encoder.state_dict())
    assert CnnJepa.exports == "target_encoder"


@pytest.mark.parametrize(("step", "tau"), [(0, 0.996), (500, 0.998), (1000, 1.0)])
def test_the_momentum_rises_to_one_by_a_cosine_of_the_step(step: int, tau: float) -> None:
    # A defect elsewhere: a momentum that is set once an epoch.
    assert build().after_step(step, 1000)["tau"] == pytest.approx(tau, abs=1e-9)


def test_the_momentum_of_another_batch_is_scaled() -> None:
    method = build()
    for batch, kappa in ((128, 1), (512, 4)):
        method.at_batch(batch)
        assert method.after_step(500, 1000)["tau"] == pytest.approx(0.998**kappa, rel=1e-9)


def test_the_target_moves_by_the_momentum_and_keeps_its_own_statistics() -> None:
    method = build(tau_base=0.9)
    name = "0.weight"
    before = method.target_encoder.state_dict()[name].clone()
    learn(method, range(1), lars(method), side=8)
    moved = 0.9 * before + 0.1 * method.encoder.state_dict()[name]
    torch.testing.assert_close(method.target_encoder.state_dict()[name], moved, rtol=0, atol=1e-12)
    means = [encoder.state_dict()["1.running_mean"] for encoder in (method.encoder, method.target_encoder)]
    assert not torch.allclose(*means)


def test_it_learns_to_predict() -> None:
    method = build(tau_base=0.99)
    losses = learn(method, range(30), torch.optim.SGD(method.parameters(), lr=0.0, momentum=0.9), side=8)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_run_that_is_cut_goes_on_as_it_would_have() -> None:
    whole, cut = build(), build()
    optimizer, other = lars(whole), lars(cut)
    losses = learn(whole, range(4), optimizer, accumulate=2, side=8)
    assert learn(cut, range(2), other, accumulate=2, side=8) == losses[:2]
    resumed = build(seed=9)
    resumed.load_state_dict(cut.state_dict())
    again = lars(resumed)
    again.load_state_dict(other.state_dict())
    assert learn(resumed, range(2, 4), again, accumulate=2, side=8) == losses[2:]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])


def test_a_step_costs_half_of_byols() -> None:
    """By the count of passes: an online one of one view, 3, and a target one, 1, of BYOL's 8."""
    assert CnnJepa.cost == (3 + 1) / 8
    assert (CnnJepa.n_views, CnnJepa.multi_crop) == (1, False)
    assert CnnJepaOptions() == CnnJepaOptions(blocks=0.75, ratio=0.6, layers=3, grid=4, tau_base=0.996)


def test_the_norm_of_the_encoder_is_that_of_the_predictor() -> None:
    encoder = build_backbone("regnetx_002", 3, 0, norm="group_ws")
    method = CnnJepa(encoder, CnnJepaOptions(), torch.Generator().manual_seed(0))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in method.modules())
    with torch.no_grad():
        online = method.online([view().float()])
    assert isinstance(online, Online)
    assert online.cells.isfinite().all()


@pytest.mark.parametrize("values", [{"blocks": -0.1}, {"blocks": 1.1}, {"ratio": 0.0}, {"ratio": 1.0}, {"layers": 0},
                                    {"grid": 2}, {"tau_base": 1.1}])  # fmt: skip
def test_options_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"options.{next(iter(values))}"):
        CnnJepaOptions(**values)  # type: ignore[arg-type]


def test_an_encoder_that_cannot_be_masked_is_refused_with_what_could() -> None:
    with pytest.raises(ConfigError, match=r"ConvNeXt cannot be masked.*resnet50 or regnety_016"):
        build("convnext_atto")
