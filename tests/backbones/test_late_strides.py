"""Finer last maps of the same weights: the architecture's own places keep their values, and every weight learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sciencessl.backbones.late_strides import finest, plain_stride, set_stride
from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError

SIDE = 32


def encoder(name: str) -> nn.Module:
    """In evaluation mode, with norms that are anything but neutral, so that each layer counts."""
    built = build_backbone(name, 3, 0).double().eval()
    generator = torch.Generator().manual_seed(0)
    for norm in built.modules():
        if isinstance(norm, _BatchNorm):
            for values, low, high in ((norm.weight.data, 0.5, 1.5), (norm.bias.data, -1.0, 1.0),
                                      (norm.running_mean, -1.0, 1.0), (norm.running_var, 0.5, 2.0)):
                values.uniform_(low, high, generator=generator)
    return built


def view(side: int = SIDE) -> Tensor:
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["resnet10t", "resnet18", "regnetx_002", "regnety_002"])
def test_the_stride_is_the_one_that_timm_declares(name: str) -> None:
    built = build_backbone(name, 3, 0)
    assert plain_stride(built) == built.feature_info[-1]["reduction"] == 32


SIZES = [(224, 32), (128, 32), (97, 32), (96, 16), (64, 16), (32, 8), (16, 4), (8, 4)]


@pytest.mark.parametrize(("side", "stride"), SIZES)
def test_strides_are_taken_out_until_there_are_four_places(side: int, stride: int) -> None:
    """224 px keep the paper's 7 x 7; the stem's stride of 4 is never taken out, and at 8 px leaves 2 x 2."""
    built = build_backbone("regnetx_002", 3, 0)
    assert finest(built, side, 4) == stride
    assert math.ceil(side / stride) >= 4 or stride == 4


FINER = [("resnet18", 4), ("resnet26", 8), ("regnetx_002", 16), ("regnetx_002", 8)]


@pytest.mark.parametrize(("name", "stride"), FINER)
def test_the_places_of_the_architecture_keep_their_values(name: str, stride: int) -> None:
    """What a stride left out is added between them; so weights learned on the finer map are right for the plain one."""
    built = encoder(name)
    with torch.no_grad():
        plain = built.forward_features(view())
        set_stride(built, stride)
        fine = built.forward_features(view())
    assert fine.shape[-1] == SIDE // stride
    step = 32 // stride
    torch.testing.assert_close(fine[:, :, ::step, ::step], plain, rtol=1e-12, atol=1e-12 * float(plain.abs().max()))
    assert not torch.allclose(fine[:, :, 1::step, 1::step], plain)


def test_another_stride_and_the_plain_one_can_be_set_afterwards() -> None:
    built, before = encoder("resnet18"), list(encoder("resnet18").state_dict())
    plain = built(view())
    for stride in (8, 16, 32):
        set_stride(built, stride)
        assert built.forward_features(view()).shape[-1] == SIDE // stride
    assert torch.equal(built(view()), plain)
    assert list(built.state_dict()) == before


def test_a_dilation_as_large_as_the_map_computes_the_middle_tap_alone() -> None:
    """32 pixels at a stride of 8: four places, and taps four apart; against torch's dilated convolution."""
    built = encoder("regnetx_002")
    set_stride(built, 8)
    layer = built.s4.b2.conv2.conv
    assert layer.dilation == layer.padding == (4, 4)
    x = torch.randn(2, layer.in_channels, 4, 4, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    wide = nn.functional.conv2d(x, layer.weight, None, 1, 4, 4, layer.groups)
    torch.testing.assert_close(y, wide, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(y.square().sum(), layer.weight)
    (expected,) = torch.autograd.grad(wide.square().sum(), layer.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    assert gradient[:, :, 1, 1].all()
    large = layer(torch.randn(1, layer.in_channels, 9, 9, dtype=torch.float64))
    assert large.shape[-1] == 9


@pytest.mark.parametrize("name", ["resnet10t", "resnetaa50"])
def test_a_pool_that_strides_is_not_dilated(name: str) -> None:
    built = build_backbone(name, 3, 0)
    before = [(layer.stride, layer.dilation) for layer in built.modules() if isinstance(layer, nn.Conv2d)]
    with pytest.raises(ConfigError, match=r"is a pool that strides.*Use larger views.*resnet50 or regnety_016"):
        set_stride(built, 8)
    assert [(layer.stride, layer.dilation) for layer in built.modules() if isinstance(layer, nn.Conv2d)] == before
    set_stride(built, 32)
