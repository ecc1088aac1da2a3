"""Networks without batch statistics, against the worked numbers of arXiv 2010.10241 and against batch norm."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from timm.layers import GroupNormAct, StdConv2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sciencessl.backbones.norms import (
    GROUP_EPS,
    GROUPS,
    WEIGHT_EPS,
    ChannelAffine,
    StdLinear,
    group_count,
    replace_norms,
    standardise,
    start_from_data,
)
from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError, DataError
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.setting_groups import Norm

ONE_TO_FOUR = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
FREE: tuple[Norm, ...] = ("group_ws", "none")


def byol(norm: Norm, start: bool = True, backbone: str = "test_resnet", branches: float | None = None) -> Byol:
    """In float64; without norms it has started from a batch of its own. `branches`: scale of switched-off branches."""
    encoder = build_backbone(backbone, 3, 0, norm=norm)
    if branches is not None:
        for name, parameter in encoder.named_parameters():
            if name.endswith("weight") and not parameter.any():
                parameter.data.fill_(branches)
    method = Byol(encoder, ByolOptions(hidden=32, out=8), torch.Generator().manual_seed(1)).double()
    if norm == "none" and start:
        views = [images(16, 9)] * 2
        start_from_data(method, lambda: (method.online(views), method.target(views)))
    return method


def images(count: int, seed: int, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(module: nn.Module, kind: Any) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize(
    ("weight", "eps", "expected"),
    [
        (ONE_TO_FOUR, 1e-4, (-1.341587, -0.447196, 0.447196, 1.341587)),
        (ONE_TO_FOUR, 1e-6, (-1.341640, -0.447213, 0.447213, 1.341640)),
        (0.01 * ONE_TO_FOUR, 1e-4, (-1.0, -1 / 3, 1 / 3, 1.0)),
    ],
)
def test_weights_are_standardised_by_biased_variance_with_eps_inside_the_root(
    weight: Tensor, eps: float, expected: tuple[float, ...]
) -> None:
    np.testing.assert_allclose(standardise(weight, eps)[0].numpy(), expected, atol=6e-7)


def test_the_unbiased_variance_would_be_seen() -> None:
    centred = ONE_TO_FOUR - ONE_TO_FOUR.mean()
    unbiased = (centred / (ONE_TO_FOUR.var(correction=1) + WEIGHT_EPS).sqrt())[0]
    np.testing.assert_allclose(unbiased.numpy(), (-1.161860, -0.387287, 0.387287, 1.161860), atol=6e-7)
    assert float((standardise(ONE_TO_FOUR)[0] - unbiased).abs().max()) > 0.17


def test_scale_and_offset_of_raw_weights_hardly_matter() -> None:
    difference = float((standardise(10 * ONE_TO_FOUR + 3) - standardise(ONE_TO_FOUR)).abs().max())
    assert difference == pytest.approx(5.3e-5, abs=5e-7)


@pytest.mark.parametrize(
    ("variance", "factor"),
    [(2 / 64, 0.9984), (2 / 576, 0.9859), (2 / 2304, 0.9469), (2 / 4608, 0.9015), (1 / (3 * 2048), 0.7870),
     (1 / (3 * 4096), 0.6698)],
)  # fmt: skip
def test_the_eps_takes_off_what_the_paper_card_says(variance: float, factor: float) -> None:
    row = torch.tensor([[1.0, -1.0] * 32], dtype=torch.float64) * variance**0.5
    assert float(standardise(row).std(correction=0)) == pytest.approx(factor, abs=5e-5)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (replace_norms(nn.BatchNorm1d(4), "group_ws"), (-0.999995, 0.999995, -0.999999, 0.999999)),
        (nn.GroupNorm(1, 4, GROUP_EPS), (-1.144155, -0.762770, 0.572077, 1.334847)),
    ],
)
def test_group_norm_of_a_vector(norm: nn.Module, expected: tuple[float, ...]) -> None:
    found = norm.double()(torch.tensor([[1.0, 3.0, 10.0, 14.0]], dtype=torch.float64))
    np.testing.assert_allclose(found[0].detach().numpy(), expected, atol=6e-7)


def test_groups_divide_the_channels_and_hold_two_or_more() -> None:
    assert (GROUPS, GROUP_EPS, WEIGHT_EPS) == (16, 1e-5, 1e-4)
    wanted = {1: 1, 2: 1, 4: 2, 16: 8, 24: 12, 32: 16, 56: 14, 152: 8, 368: 16, 373: 1, 746: 2, 4096: 16}
    assert {channels: group_count(channels) for channels in wanted} == wanted


@pytest.mark.parametrize(
    ("scale", "shift", "outputs"),
    [(0.447213, -2.236066, (-1.341639, -0.447213, 0.447213, 1.341639)), (0.0, 0.0, (0.0, 0.0, 0.0, 0.0))],
)
def test_scale_and_shift_of_one_channel(scale: float, shift: float, outputs: tuple[float, ...]) -> None:
    norm = nn.BatchNorm1d(1)
    nn.init.constant_(norm.weight, float(scale > 0))
    layer = replace_norms(norm, "none").double()
    x = torch.tensor([[2.0], [4.0], [6.0], [8.0]], dtype=torch.float64)
    assert start_from_data(layer, lambda: layer(x)) == 1
    assert [float(p.detach()) for p in layer.parameters()] == pytest.approx([scale, shift], abs=6e-7)
    np.testing.assert_allclose(layer(x)[:, 0].detach().numpy(), outputs, atol=6e-7)


def test_every_layer_of_a_resnet50_is_replaced() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50", num_classes=0)
    replace_norms(model, "group_ws")
    assert not layers(model, _BatchNorm)
    convolutions, norms = layers(model, nn.Conv2d), layers(model, nn.GroupNorm)
    assert len(convolutions) == len(norms) == 53
    assert all(isinstance(layer, StdConv2d) and layer.eps == WEIGHT_EPS for layer in convolutions)
    assert all((norm.num_groups, norm.eps) == (GROUPS, GROUP_EPS) for norm in norms)


@pytest.mark.parametrize("norm", FREE)
def test_projector_and_predictor_follow_the_encoder(norm: Norm) -> None:
    method = byol(norm, start=False)
    assert not layers(method, _BatchNorm)
    heads = [method.projector, method.predictor, method.target_projector]
    linears = [layer for head in heads for layer in layers(head, nn.Linear)]
    assert len(linears) == 6
    assert all(isinstance(layer, StdLinear) == (norm == "group_ws") for layer in linears)
    kind = nn.GroupNorm if norm == "group_ws" else ChannelAffine
    assert [len(layers(head, kind)) for head in heads] == [1, 1, 1]
    assert not layers(byol("batch").projector, (StdLinear, ChannelAffine, nn.GroupNorm))


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "seresnext26d_32x4d", "skresnet18", "resnest14d", "resnetblur18", "regnetx_002", "regnety_002",
     "regnetz_005"],
)  # fmt: skip
def test_families_of_resnets_and_regnets_lose_their_batch_norms(name: str) -> None:
    stock = build_backbone(name, 2, 5)
    count = len(layers(stock, _BatchNorm))
    initial = dict(stock.named_parameters())
    state = torch.get_rng_state()
    model = build_backbone(name, 2, 5, norm="group_ws")
    assert torch.equal(state, torch.get_rng_state())
    assert len(layers(model, nn.GroupNorm)) == count > 10
    assert all(torch.equal(value, initial[key]) for key, value in model.named_parameters())
    assert len(dict(model.named_parameters())) == len(initial)
    free = replace_norms(stock, "none")
    assert len(layers(free, ChannelAffine)) == count
    x = images(2, 0).float()[:, :2]
    start_from_data(free, lambda: free(x))
    with torch.no_grad():
        assert all(bool(net(x).isfinite().all()) and net(x).std() > 0 for net in (model, free))
    assert not layers(model, _BatchNorm)
    assert not layers(free, _BatchNorm)


def test_gates_keep_their_weights_and_every_other_convolution_is_standardised() -> None:
    model = build_backbone("regnety_002", 3, 0, norm="group_ws")
    plain = {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and not isinstance(m, StdConv2d)}
    assert plain == {name for name, m in model.named_modules() if name.endswith((".se.fc1", ".se.fc2"))}
    assert len(plain) == 26
    assert all(m.training for m in model.modules())
    assert shut(model) < 0.01
    assert shut(replace_norms(build_backbone("regnety_002", 3, 0), "group_ws")) > 0.5


@torch.no_grad()
def shut(model: nn.Module) -> float:
    """Share of the gates of squeeze-and-excitation that are within 5 % of closed or open."""
    gates: list[Tensor] = []
    for name, layer in model.named_modules():
        if name.endswith(".se.fc2"):
            layer.register_forward_hook(lambda layer, inputs, output: gates.append(torch.sigmoid(output).flatten()))
    model(images(4, 0).float())
    assert len(gates) == 13
    return float(((torch.cat(gates) - 0.5).abs() > 0.45).float().mean())


@pytest.mark.parametrize("norm", ["batch", *FREE])
@pytest.mark.parametrize("backbone", ["test_resnet", "regnety_002"])
def test_a_sample_is_computed_alike_in_any_company(norm: Norm, backbone: str) -> None:
    method = byol(norm, backbone=backbone, branches=0.5)
    x = images(8, 1)
    with torch.no_grad():
        # batch norm cannot take a batch of one vector at all
        alone, company = method.online([x[:2]]), method.online([x])
        pairs = zip(vars(alone).values(), vars(company).values(), strict=True)
        difference = max(float((few[0] - many[0][:2]).abs().max() / many[0].abs().max()) for few, many in pairs)
    assert (difference < 1e-6) == (norm != "batch")
    if norm != "batch":
        with torch.no_grad():
            one = method.online([x[:1]]).predictions[0]
        np.testing.assert_allclose(one[0], company.predictions[0][0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", ["batch", *FREE])
def test_no_gradient_flows_from_one_sample_to_another(norm: Norm) -> None:
    method, x = byol(norm), images(4, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(method.online([x]).predictions[0][1].sum(), x)
    by_sample = gradient.abs().amax((1, 2, 3))
    assert by_sample[1] > 0
    assert bool((by_sample[[0, 2, 3]] == 0).all()) == (norm != "batch")


@pytest.mark.parametrize("norm", ["batch", *FREE])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(norm: Norm) -> None:
    method, views = byol(norm, branches=0.5), [images(8, 3), images(8, 4)]

    def gradients(size: int) -> Tensor:
        method.zero_grad()
        for start in range(0, 8, size):
            part = [view[start : start + size] for view in views]
            with torch.no_grad():
                targets = method.target(part)
            (method.pair_loss(method.online(part), targets).total / 8).backward()
        return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])

    whole = gradients(8)
    difference = float((gradients(2) - whole).abs().max() / whole.abs().max())
    assert (difference < 1e-6) == (norm != "batch")
    if norm != "batch":
        assert float((gradients(1) - whole).abs().max() / whole.abs().max()) < 1e-6


@pytest.mark.parametrize("branches", [None, 1.0])
def test_the_start_computes_what_batch_norm_does_on_that_batch(branches: float | None) -> None:
    stock, free = (byol(norm, start=False, branches=branches) for norm in ("batch", "none"))
    views = [images(16, 5), images(16, 6)]
    with torch.no_grad():
        wanted = stock.online(views[:1]), stock.target(views[:1])
        count = start_from_data(free, lambda: (free.online(views), free.target(views)))
        found = free.online(views[:1]), free.target(views[:1])
    assert count == len(layers(free, ChannelAffine)) == len(layers(stock, _BatchNorm))
    for one, other in zip([*vars(wanted[0]).values(), wanted[1]], [*vars(found[0]).values(), found[1]], strict=True):
        np.testing.assert_allclose(other[0], one[0], atol=1e-6 * float(one[0].abs().max()))
    # the target stays a copy
    assert all(torch.equal(p, free.target_encoder.state_dict()[n]) for n, p in free.encoder.state_dict().items())


def test_a_started_network_is_standardised_layer_by_layer_and_has_no_statistics() -> None:
    method, x = byol("none"), images(16, 9)
    seen: list[tuple[Any, Tensor]] = []
    for layer in layers(method, ChannelAffine):
        layer.act = nn.Identity() if not layer.weight.any() else layer.act
        layer.register_forward_hook(lambda layer, inputs, _: seen.append((layer, inputs[0].detach())))
    method.online([x])
    kinds, ordinary = set(), []
    for layer, inputs in seen:
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        y = (inputs * layer.weight.view(shape) + layer.bias.view(shape)).detach()
        axes = [i for i in range(y.ndim) if i != 1]
        kinds.add(bool(layer.weight.any()))
        assert float(y.mean(axes).abs().max()) < 1e-4
        variance = inputs.var(axes, correction=0)
        # eps takes off more where an input hardly varies
        spread = (variance / (variance + 1e-5)).sqrt() * bool(layer.weight.any())
        np.testing.assert_allclose(y.std(axes, correction=0), spread.detach(), rtol=0, atol=1e-9)
        ordinary += (variance > 0.01).tolist()
        assert bool(((y.std(axes, correction=0) - 1).abs() < 1e-3)[variance > 0.01].all()) or not layer.weight.any()
    assert kinds == {True, False}
    assert np.mean(ordinary) > 0.5
    assert not list(method.buffers())
    with torch.no_grad():
        trained = method.online([x]).predictions[0]
        evaluated = method.eval().online([x]).predictions[0]
    assert torch.equal(trained, evaluated)


def test_loaded_scales_are_not_started_again() -> None:
    method = byol("none")
    before = copy.deepcopy(method.state_dict())
    head = nn.Sequential(method.encoder, replace_norms(nn.BatchNorm1d(method.features), "none").double())
    assert start_from_data(head, lambda: head(images(8, 7))) == 1 + sum(
        layer.at_start for layer in layers(method.encoder, ChannelAffine)
    )
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert bool(cast("Any", head[1]).bias.any())


def test_an_activation_inside_a_norm_is_kept() -> None:
    model = build_backbone("regnetz_005", 3, 0, norm="group_ws")
    assert {type(norm.act) for norm in layers(model, GroupNormAct)} == {nn.SiLU, nn.Identity}


def test_half_precision_stays_half_between_layers() -> None:
    layer = replace_norms(nn.BatchNorm2d(4), "none")
    assert layer(torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "fault"),
    [("test_vit", "it is a VisionTransformer, and norms are replaced in ResNets and RegNets"),
     ("resnet50_gn", "this ResNet has no batch norm to replace")],
)  # fmt: skip
def test_other_architectures_are_refused(name: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"backbone '{name}' does not take norm 'none': {fault}.*resnet50 or"):
        build_backbone(name, 3, 0, norm="none")


def test_weights_with_batch_statistics_do_not_fit(tmp_path: Any) -> None:
    torch.save(build_backbone("test_resnet", 3, 0).state_dict(), tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"'test_resnet' with norm 'group_ws' .*unknown \(first: .*running"):
        build_backbone("test_resnet", 3, 0, tmp_path / "w.pt", "group_ws")
