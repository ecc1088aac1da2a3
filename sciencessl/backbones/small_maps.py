"""Convolutions of small maps on the CPU, as matrix products that leave the padding out.

Behind a stride of 32 an image of 64 pixels is a map of 2 x 2. There, 20 of the 36 products of a 3 x 3 convolution are
with padding, and torch's kernels for the CPU (oneDNN), made for large maps, take several times as long as the other 16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

M = TypeVar("M", bound=nn.Module)

CHANNELS_LAST = torch.channels_last

MOST_PLACES = 16
FEWEST_CHANNELS = 256
"""Measured with channels last, forward and backward at a batch of 64: at 2 x 2 this is five times as fast as oneDNN, at
3 x 3 two and a half times, at 4 x 4 with 256 channels 1.2 times, with 128 channels slower; at 8 x 8 slower."""


class SmallMapConv2d(nn.Conv2d):
    """What `convert` makes of a convolution: the same one, which on the CPU, with channels last, in float32 or float64,
    computes small maps by `_Places`."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W'), equal to what it was up to rounding."""
        if not self._pays(input):
            return super().forward(input)
        y: Tensor = _Places.apply(input, self.weight, self.stride, self.padding)
        return y

    def _pays(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or x.ndim != 4:
            return False
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return False
        return 1 <= math.prod(self._output_size(x)) <= MOST_PLACES and x.is_contiguous(memory_format=CHANNELS_LAST)

    def _output_size(self, x: Tensor) -> list[int]:
        axes = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        return [_size(*axis) for axis in axes]


def convert(module: M) -> M:
    """Let every plain convolution of a module (many channels, more than one tap, no groups, dilation or bias) use this
    on small maps.

    Layers stay the objects they are, with their weights, hooks and names. The module is changed, and returned.
    """
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _is_plain(layer):
            layer.__class__ = SmallMapConv2d
    return module


def _is_plain(layer: nn.Conv2d) -> bool:
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    large = layer.in_channels >= FEWEST_CHANNELS and taps > 1
    return large and zeros and layer.groups == 1 and layer.dilation == (1, 1) and layer.bias is None


def _size(places: int, taps: int, stride: int, padding: int) -> int:
    return (places + 2 * padding - taps) // stride + 1


class _Piece(NamedTuple):
    """One row of taps at one place of the output, as far as it lies on the map: where it is in output, input, kernel."""

    output: tuple[int, int]
    row: int
    columns: slice
    tap_row: int
    taps: slice


def _pieces(x: Tensor, weight: Tensor, stride: Any, padding: Any, size: tuple[int, int]) -> Iterator[_Piece]:
    """Of maps with channels last; rows of taps that lie wholly on padding are left out."""
    (height, width), (kernel_rows, kernel_columns) = x.shape[1:3], weight.shape[1:3]
    for oy in range(size[0]):
        for ox in range(size[1]):
            left = ox * stride[1] - padding[1]
            first, last = max(left, 0), min(left + kernel_columns, width)
            for ky in range(kernel_rows):
                row = oy * stride[0] - padding[0] + ky
                if 0 <= row < height and first < last:
                    yield _Piece((oy, ox), row, slice(first, last), ky, slice(first - left, last - left))


class _Places(torch.autograd.Function):
    """The convolution as one matrix product for each row of taps at each place, added up where it belongs.

    Nothing is copied, since with channels last pieces of maps and kernels are matrices with longer rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        maps, kernel = _last(x), _last(weight)
        size = [_size(*axis) for axis in zip(maps.shape[1:3], kernel.shape[1:3], stride, padding, strict=True)]
        ctx.size = size[0], size[1]
        y = maps.new_zeros(len(maps), *ctx.size, len(kernel))
        for at, row, columns, tap_row, taps in _pieces(maps, kernel, stride, padding, ctx.size):
            seen, factors = maps[:, row, columns].flatten(1), kernel[:, tap_row, taps].flatten(1)
            y[:, at[0], at[1]].addmm_(seen, factors.t())
        return _first(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        maps, kernel, gradient = _last(x), _last(weight), _last(gradient)
        of_maps, of_kernel = (
            tensor.new_zeros(tensor.shape) if needed else None
            for tensor, needed in zip((maps, kernel), ctx.needs_input_grad, strict=False)
        )
        for at, row, columns, tap_row, taps in _pieces(maps, kernel, ctx.stride, ctx.padding, ctx.size):
            here = gradient[:, at[0], at[1]]
            if of_maps is not None:
                of_maps[:, row, columns].view(len(maps), -1).addmm_(here, kernel[:, tap_row, taps].flatten(1))
            if of_kernel is not None:
                of_kernel[:, tap_row, taps].view(len(kernel), -1).addmm_(here.t(), maps[:, row, columns].flatten(1))
        return (
            None if of_maps is None else _first(of_maps), None if of_kernel is None else _first(of_kernel), None, None,
        )


def _last(x: Tensor) -> Tensor:
    """Channels moved to the end."""
    return x.permute(0, 2, 3, 1)


def _first(y: Tensor) -> Tensor:
    """Channels moved back."""
    return y.permute(0, 3, 1, 2)
