"""Finer last maps of the same weights: late strides become dilations, as in dense prediction.

An image of 32 pixels behind a stride of 32 is one place, and nothing on it can be masked and predicted. Without a
stride, and with the layers behind it dilated, the last map has places between those that the architecture computes, and
at these it is the same, up to the means that gates are made of: what was learned on the finer map holds for the plain
architecture, and every layer learns. Source: dilation as in timm's `output_stride`; its use here is ours.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from sciencessl.errors import ConfigError

SHORTCUT = "downsample"
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
LEAST_STRIDE = 4
"""Strides are not taken out below this: of timm's ResNets and RegNets it is that of the first stage."""


def plain_stride(encoder: nn.Module) -> int:
    """Pixels of the input to one place of the last map, as the architecture has it: the product of its strides.

    Args:
        encoder: Layers in the order of their computation; those of shortcuts have `downsample` in their names.
    """
    return math.prod(_plain(layer).stride for name, layer in _layers(encoder) if SHORTCUT not in name)


def finest(encoder: nn.Module, side: int, places: int) -> int:
    """The largest stride whose last map has `places` or more along a side of that many pixels; the least that there is,
    where none has."""
    stride = plain_stride(encoder)
    while stride > LEAST_STRIDE and math.ceil(side / stride) < places:
        stride //= 2
    return stride


def set_stride(encoder: nn.Module, stride: int) -> None:
    """Let the last map have a place for `stride` pixels: strides beyond it become dilations. Weights stay as they are.

    Args:
        encoder: As in `plain_stride`; changed in place, from whatever stride it was set to before.
        stride: The plain one, or that divided by a power of two.

    Raises:
        ConfigError: When a pool would have to be dilated. Nothing is changed then.
    """
    chosen: list[tuple[Any, int, int]] = []
    reached = dilation = before = 1
    removed = False
    for name, layer in _layers(encoder):
        own = _plain(layer).stride
        if own > 1 and SHORTCUT not in name:
            removed, before = reached >= stride, dilation
            reached, dilation = (reached, dilation * own) if removed else (reached * own, dilation)
        spread = before if own > 1 else dilation
        if isinstance(layer, POOLS) and (spread > 1 or (removed and own > 1)):
            raise ConfigError(
                f"the last map of {type(encoder).__name__} cannot have a place for {stride} pixels: {name} is a pool "
                f"that strides, and only convolutions are dilated. Use larger views, so that a stride of "
                f"{plain_stride(encoder)} is fine enough, or a backbone without such pools, such as resnet50 or "
                "regnety_016."
            )
        chosen.append((layer, 1 if removed and own > 1 else own, spread))
    for layer, own, spread in chosen:
        if not isinstance(layer, POOLS):
            kind: Any = type(layer)
            if spread > 1 and not isinstance(layer, _Dilated):
                layer.__class__ = _dilated(kind)
            plain = _plain(layer)
            layer.stride = (own, own)
            layer.padding = tuple(spread * around for around in plain.padding)
            layer.dilation = (spread, spread)


class _Dilated(nn.Conv2d):
    """A convolution that computes no tap that sees nothing but padding, as all but the middle one do where the dilation
    is as large as the map: a ninth of the operations."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        middle = tuple(taps // 2 for taps in self.kernel_size)
        around = tuple(d * m for d, m in zip(self.dilation, middle, strict=True))
        odd = all(taps % 2 for taps in self.kernel_size) and self.stride == (1, 1) and self.padding == around
        if not odd or min(self.dilation) < max(input.shape[-2:]):
            y: Tensor = super()._conv_forward(input, weight, bias)
            return y
        row, column = middle
        return functional.conv2d(input, weight[:, :, row : row + 1, column : column + 1], bias, groups=self.groups)


@functools.cache
def _dilated(kind: type) -> type:
    return type(f"Dilated{kind.__name__}", (_Dilated, kind), {})


class _Plain(NamedTuple):
    """Stride and padding of a layer of the architecture."""

    stride: int
    padding: tuple[int, ...]


def _plain(layer: Any) -> _Plain:
    if not hasattr(layer, "plain_geometry"):
        given = (layer.stride, layer.padding)
        stride, padding = (value if isinstance(value, tuple) else (value, value) for value in given)
        layer.plain_geometry = _Plain(stride[0], padding)
    found: _Plain = layer.plain_geometry
    return found


def _layers(encoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, layer) for name, layer in encoder.named_modules() if isinstance(layer, (nn.Conv2d, *POOLS)))
