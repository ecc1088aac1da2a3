"""Convolutions of small maps are convolutions: torch's own is the reference, in value and in gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sciencessl.backbones import small_maps
from sciencessl.backbones.small_maps import SmallMapConv2d, convert
from sciencessl.backbones.timm_backbones import build_backbone

LAST = torch.channels_last
CHANNELS = small_maps.FEWEST_CHANNELS


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of what is convolved tap by tap."""
    shapes: list[torch.Size] = []
    apply = small_maps._TapByTap.apply

    def counted(x: Tensor, *rest: Any) -> Any:
        shapes.append(x.shape)
        return apply(x, *rest)

    monkeypatch.setattr(small_maps._TapByTap, "apply", counted)
    return shapes


@pytest.mark.parametrize(
    ("size", "taps", "stride", "padding"),
    [((2, 2), (3, 3), (1, 1), (1, 1)), ((1, 1), (3, 3), (1, 1), (1, 1)), ((4, 4), (3, 3), (2, 2), (1, 1)),
     ((3, 3), (5, 5), (1, 1), (2, 2)), ((5, 6), (2, 2), (2, 2), (0, 0)), ((2, 3), (3, 1), (1, 1), (1, 0)),
     ((4, 4), (3, 3), (2, 1), (0, 1)), ((3, 3), (3, 3), (4, 4), (2, 2)), ((1, 2), (7, 7), (1, 1), (3, 3))],
)  # fmt: skip
def test_values_and_gradients_are_those_of_torch(
    size: tuple[int, int], taps: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    x = noise(3, 4, *size).to(memory_format=LAST).requires_grad_()
    weight = noise(5, 4, *taps, seed=1).to(memory_format=LAST).requires_grad_()
    ours: Tensor = small_maps._TapByTap.apply(x, weight, stride, padding)
    reference = functional.conv2d(x, weight, stride=stride, padding=padding)
    slope = noise(*reference.shape, seed=2)
    torch.testing.assert_close(ours, reference)
    assert ours.is_contiguous(memory_format=LAST)
    for found, wanted in zip(
        torch.autograd.grad(ours, (x, weight), slope), torch.autograd.grad(reference, (x, weight), slope), strict=True
    ):
        torch.testing.assert_close(found, wanted)
        assert found.is_contiguous(memory_format=LAST)


def test_only_the_gradients_that_are_asked_for_are_given() -> None:
    x, weight = noise(2, 4, 2, 2).to(memory_format=LAST), noise(5, 4, 3, 3).to(memory_format=LAST).requires_grad_()
    small_maps._TapByTap.apply(x, weight, (1, 1), (1, 1)).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


@pytest.mark.parametrize(
    ("layer", "converted"),
    [(nn.Conv2d(CHANNELS, 8, 3, padding=1, bias=False), True),
     (nn.Conv2d(CHANNELS, 8, 3, padding=1), False),  # a bias
     (nn.Conv2d(CHANNELS, 8, 1, bias=False), False),  # a matrix product already
     (nn.Conv2d(CHANNELS - 1, 8, 3, bias=False), False),
     (nn.Conv2d(CHANNELS, 8, 3, groups=2, bias=False), False),
     (nn.Conv2d(CHANNELS, 8, 3, dilation=2, bias=False), False),
     (nn.Conv2d(CHANNELS, 8, 3, padding="same", bias=False), False),
     (nn.Conv2d(CHANNELS, 8, 3, padding=1, padding_mode="reflect", bias=False), False)],
)  # fmt: skip
def test_plain_convolutions_of_many_channels_are_converted(layer: nn.Conv2d, converted: bool) -> None:
    assert convert(layer) is layer
    assert isinstance(layer, SmallMapConv2d) is converted


@pytest.mark.parametrize(
    ("px", "dtype", "layout", "small"),
    [(4, torch.float32, LAST, True), (4, torch.float64, LAST, True), (5, torch.float32, LAST, False),
     (4, torch.bfloat16, LAST, False), (4, torch.float32, torch.contiguous_format, False)],
)  # fmt: skip
def test_small_maps_with_channels_last_are_taken(
    used: list[torch.Size], px: int, dtype: torch.dtype, layout: torch.memory_format, small: bool
) -> None:
    layer = nn.Conv2d(CHANNELS, 8, 3, padding=1, bias=False, dtype=dtype).to(memory_format=layout)  # type: ignore[call-overload]
    x = noise(2, CHANNELS, px, px, dtype=dtype).to(memory_format=layout)
    before = layer(x)
    torch.testing.assert_close(convert(layer)(x), before, rtol=1e-4, atol=1e-5)
    assert bool(used) is small


def test_autocast_has_the_convolution_of_torch(used: list[torch.Size]) -> None:
    layer = convert(nn.Conv2d(CHANNELS, 8, 3, padding=1, bias=False).to(memory_format=LAST))  # type: ignore[call-overload]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(noise(2, CHANNELS, 2, 2, dtype=torch.float32).to(memory_format=LAST)).dtype == torch.bfloat16
    assert not used


def test_an_input_smaller_than_the_kernel_has_the_message_of_torch() -> None:
    layer = convert(nn.Conv2d(CHANNELS, 8, 5, bias=False).to(memory_format=LAST))  # type: ignore[call-overload]
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        layer(torch.zeros(1, CHANNELS, 2, 2).to(memory_format=LAST))


def test_an_encoder_gives_the_same_features_and_gradients(used: list[torch.Size]) -> None:
    ours = build_backbone("resnet18", 3, 0).double().to(memory_format=LAST)  # type: ignore[call-overload]
    reference = copy.deepcopy(ours)
    for layer in reference.modules():
        if type(layer) is SmallMapConv2d:
            layer.__class__ = nn.Conv2d
    assert ours.state_dict().keys() == reference.state_dict().keys()
    images = noise(2, 3, 48, 48).to(memory_format=LAST)
    found, wanted = ours(images), reference(images)
    assert len(used) == 7  # four of the last stage, and those of the one before but its first, which has 128 channels
    torch.testing.assert_close(found, wanted)
    slope = noise(*found.shape, seed=1)
    (found * slope).sum().backward()
    (wanted * slope).sum().backward()
    for mine, theirs in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
