"""Convolutions of small maps on the CPU, as matrix products that leave the padding out.

Behind a stride of 32 an image of 64 pixels is a map of 2 x 2. There, 20 of the 36 products of a 3 x 3 convolution are
with padding, and torch's kernels for the CPU (oneDNN), made for large maps, take several times as long as the other 16.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

M = TypeVar("M", bound=nn.Module)

MOST_PLACES = 16
FEWEST_CHANNELS = 256
"""Measured with channels last, forward and backward at a batch of 64: at 2 x 2 this is five times as fast as oneDNN, at
3 x 3 two and a half times, at 4 x 4 with 256 channels 1.2 times, with 128 channels slower; at 8 x 8 slower."""


class SmallMapConv2d(nn.Conv2d):
    """What `convert` makes of a convolution: the same one, which on the CPU, with channels last, in float32 or float64,
    computes small maps by `_TapByTap`."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W'), equal to what it was up to rounding."""
        if not self._pays(input):
            return super().forward(input)
        y: Tensor = _TapByTap.apply(input, self.weight, self.stride, self.padding)
        return y

    def _pays(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or x.ndim != 4:
            return False
        if self.dilation != (1, 1):  # set afterwards
            return False
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return False
        rows, columns = _output_size(x.shape[2:], self.kernel_size, self.stride, self.padding)
        few = rows > 0 and columns > 0 and rows * columns <= MOST_PLACES
        return few and all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, self.weight))


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


def _output_size(places: Sequence[int], taps: Sequence[int], stride: Any, padding: Any) -> list[int]:
    axes = zip(places, taps, stride, padding, strict=True)
    return [(n + 2 * around - wide) // step + 1 for n, wide, step, around in axes]


class _Tap(NamedTuple):
    """One of the kernel's places: which, and the places of output and input that it joins."""

    row: int
    column: int
    outputs: tuple[slice, ...]
    inputs: tuple[slice, ...]


def _joined(tap: int, places: int, outputs: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Along one axis: the outputs that a tap reaches an input from, and those inputs."""
    first = max(0, -((tap - padding) // stride))
    last = min(outputs - 1, (places - 1 + padding - tap) // stride)
    begin = first * stride - padding + tap
    return slice(first, last + 1), slice(begin, begin + (last - first) * stride + 1, stride)


def _taps(maps: Tensor, kernel: Tensor, size: Sequence[int], stride: Any, padding: Any) -> Iterator[_Tap]:
    """Those that see anything but padding; maps and kernel have channels last."""
    rows, columns = (
        [_joined(tap, maps.shape[axis], size[axis - 1], stride[axis - 1], padding[axis - 1])
         for tap in range(kernel.shape[axis])]
        for axis in (1, 2)
    )
    for (row, (oy, iy)), (column, (ox, ix)) in itertools.product(enumerate(rows), enumerate(columns)):
        if oy.start < oy.stop and ox.start < ox.stop:
            yield _Tap(row, column, (slice(None), oy, ox), (slice(None), iy, ix))


class _TapByTap(torch.autograd.Function):
    """The convolution as one matrix product for each place of the kernel, added up where it belongs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        maps, kernel = _last(x), _last(weight)
        size = _output_size(maps.shape[1:3], kernel.shape[1:3], stride, padding)
        ctx.geometry = size, stride, padding
        y = maps.new_zeros(len(maps), *size, len(kernel))
        for row, column, outputs, inputs in _taps(maps, kernel, *ctx.geometry):
            y[outputs] += _rows(maps[inputs], kernel[:, row, column].t())
        return _first(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, kernel, slopes = map(_last, (*ctx.saved_tensors, gradient))
        of_maps, of_kernel = (
            torch.zeros_like(of) if needed else None
            for of, needed in zip((maps, kernel), ctx.needs_input_grad, strict=False)
        )
        for row, column, outputs, inputs in _taps(maps, kernel, *ctx.geometry):
            here = slopes[outputs]
            if of_maps is not None:
                of_maps[inputs] += _rows(here, kernel[:, row, column])
            if of_kernel is not None:
                torch.mm(here.flatten(0, 2).t(), maps[inputs].flatten(0, 2), out=of_kernel[:, row, column])
        return (*(None if of is None else _first(of) for of in (of_maps, of_kernel)), None, None)


def _rows(maps: Tensor, matrix: Tensor) -> Tensor:
    """The product of every place's channels with a matrix."""
    return (maps.flatten(0, 2) @ matrix).view(*maps.shape[:3], -1)


def _last(x: Tensor) -> Tensor:
    """Channels moved to the end."""
    return x.permute(0, 2, 3, 1)


def _first(y: Tensor) -> Tensor:
    """Channels moved back."""
    return y.permute(0, 3, 1, 2)
