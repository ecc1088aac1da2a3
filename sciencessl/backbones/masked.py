"""Masked convolution: a dense encoder that, under a mask, computes what a sparse one would from the places it keeps.

Every convolution, pool and norm is followed by the mask, laid over its output by nearest places, so that nothing of a
masked place reaches a kept one through any number of layers. Statistics are those of kept places: in batch norm
(running ones too, over the places of all ranks), in group norm, in squeeze-and-excitation and in the pool at the end.
Without a mask the encoder is what it was. Source: the rules of SparK as CNN-JEPA uses them (arXiv 2408.07514); gates
and pools over kept places are ours: over all places their means would shrink with the share that is masked, and the
encoder without a mask would meet other values than it was trained with.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from sciencessl.backbones.small_maps import SmallMapConv2d
from sciencessl.errors import ConfigError
from sciencessl.train import sync_bn
from sciencessl.train.ranks import ALONE

M = TypeVar("M", bound=nn.Module)

@dataclass
class Pass:
    """A forward pass of a converted encoder.

    Attributes:
        map: (B, C, h, w) that entered its last pool; zero at masked places.
    """

    map: Tensor | None = None

    def last_map(self) -> Tensor:
        """The map of the pass, which has been."""
        assert self.map is not None
        return self.map


_MASK: ContextVar[Tensor | None] = ContextVar("mask", default=None)
_PASS: ContextVar[Pass | None] = ContextVar("pass", default=None)


@contextlib.contextmanager
def masking(mask: Tensor | None = None) -> Iterator[Pass]:
    """Inside, converted encoders keep what the mask keeps, and say what their last map was.

    The mask is that of this thread, and of activations that are computed again after the end.

    Args:
        mask: (B, 1, h, w) bool, True where places are kept; at any other size of a map, the nearest one's is taken.
            None keeps all.
    """
    seen = Pass()
    mask_token = _MASK.set(None if mask is None else mask.float())
    pass_token = _PASS.set(seen)
    try:
        yield seen
    finally:
        _MASK.reset(mask_token)
        _PASS.reset(pass_token)


def kept(x: Tensor) -> Tensor | None:
    """(B, 1, H, W) of ones and zeros in the dtype of (B, C, H, W): what is kept of x; None outside `masking`."""
    mask = _MASK.get()
    if mask is None:
        return None
    return functional.interpolate(mask, x.shape[-2:], mode="nearest").to(x.dtype)


def keep(x: Tensor) -> Tensor:
    """x where it is kept, and zero elsewhere."""
    mask = kept(x)
    return x if mask is None else x * mask


class _Kept(nn.Module):
    """A layer whose output is masked."""

    def forward(self, input: Tensor) -> Tensor:
        return keep(super().forward(input))


class _KeptBatchNorm(sync_bn.SyncBatchNorm):
    """Batch norm over kept places; in evaluation mode with its running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        mask = kept(input)
        if mask is None:
            return super().forward(input)
        if self.training:
            return self.follow(self.normalise(input, mask))
        y = functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return self.follow(y * mask)


class _KeptGroupNorm(nn.GroupNorm):
    """Group norm over kept places."""

    def forward(self, input: Tensor) -> Tensor:
        mask = kept(input)
        if mask is None:
            return super().forward(input)
        grouped = input.reshape(len(input), self.num_groups, -1, *input.shape[2:])
        wide = grouped.to(torch.promote_types(input.dtype, torch.float32))
        share = _share(mask.to(wide)).unsqueeze(1)
        apart = (wide - wide.mean(dim=(2, 3, 4), keepdim=True) / share) * mask.unsqueeze(1)
        variance = apart.square().mean(dim=(2, 3, 4), keepdim=True) / share
        y = (apart * (variance + self.eps).rsqrt()).flatten(1, 2)
        if self.affine:
            y = y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        y = (y * mask).to(input.dtype)
        # timm's has an activation.
        following = [getattr(self, name) for name in ("drop", "act") if hasattr(self, name)]
        return cast("Tensor", nn.Sequential(*following)(y))


class _KeptGate(nn.Module):
    """timm's squeeze-and-excitation: gates from the mean over kept places."""

    def forward(self, x: Tensor) -> Tensor:
        mask = kept(x)
        if mask is None:
            return cast("Tensor", super().forward(x))
        own: Any = self
        return cast("Tensor", x * own.gate(own.fc2(own.act(own.bn(own.fc1(mean_kept(x, mask)))))))


class _KeptPool(nn.AdaptiveAvgPool2d):
    """The pool at the end: the mean over kept places; remembers what it was given."""

    def forward(self, input: Tensor) -> Tensor:
        seen = _PASS.get()
        if seen is not None:
            seen.map = input
        mask = kept(input)
        return super().forward(input) if mask is None else mean_kept(input, mask)


def _share(mask: Tensor) -> Tensor:
    """(B, 1, 1, 1): what share of the places is kept; that of one place at least."""
    return mask.mean(dim=(2, 3), keepdim=True).clamp(min=1.0 / mask[0].numel())


def mean_kept(x: Tensor, mask: Tensor) -> Tensor:
    """(B, C, 1, 1): over kept places of x, which is zero elsewhere.

    Args:
        x: (B, C, H, W).
        mask: (B, 1, H, W) of ones and zeros.
    """
    return x.mean(dim=(2, 3), keepdim=True) / _share(mask)


def convert(encoder: M) -> M:
    """Let an encoder compute under a mask, inside `masking`.

    Layers stay the objects they are, with their weights, hooks and names: weights load into the plain architecture. The
    encoder is changed, and returned. `sync_bn.convert` may follow, and a deep copy is converted too.

    Args:
        encoder: A ResNet or RegNet of timm's with batch norm or group norm, or layers of one's own that consist of the
            same ones. It ends in one `AdaptiveAvgPool2d` to 1 x 1.

    Raises:
        ConfigError: For a layer that is not known to be masked. Nothing is changed then.
    """
    kinds = _kinds()
    found = [(name, layer) for name, layer in _layers("", encoder) if not isinstance(layer, _neutral())]
    for name, layer in found:
        if getattr(layer, "add_maxpool", False) or not (isinstance(layer, _BatchNorm) or type(layer) in kinds):
            _refuse(encoder, f"its {name or 'whole'} is a {type(layer).__module__}.{type(layer).__qualname__}")
    pools = [layer for _, layer in found if isinstance(layer, nn.AdaptiveAvgPool2d)]
    if len(pools) != 1 or pools[0].output_size not in (1, (1, 1)):
        _refuse(encoder, "it does not end in one mean over all places")
    sync_bn.convert(encoder, ALONE)
    for _, layer in found:
        kind: Any = type(layer)
        layer.__class__ = _with(_KeptBatchNorm if isinstance(layer, sync_bn.SyncBatchNorm) else kinds[kind], kind)
    return encoder


def _refuse(encoder: nn.Module, why: str) -> None:
    raise ConfigError(
        f"{type(encoder).__name__} cannot be masked: {why}. What is masked must not reach what is kept, and that is "
        "known of the ResNets and RegNets of timm that consist of convolutions, pools, batch or group norm and "
        "squeeze-and-excitation. Choose a backbone such as resnet50 or regnety_016, with norm batch or group_ws; for "
        "a ViT there is method mae."
    )


def _layers(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What is masked as one, or not known, with names; what it consists of is not looked at."""
    own = any(True for _ in module.parameters(recurse=False))  # then it does more than to call its children
    foreign = type(module).__module__.startswith("timm.") and type(module) not in _containers()
    children = list(module.named_children())
    if own or foreign or not children:
        yield name, module
        return
    for inner, child in children:
        yield from _layers(f"{name}.{inner}".lstrip("."), child)


@functools.cache
def _kinds() -> dict[type, type]:
    """Class of a layer -> what is mixed into it; batch norms aside."""
    # Here, because loader workers import what the caller's script imports, and need no timm.
    from timm.layers import GroupNormAct, SEModule, StdConv2d

    outputs = (nn.Conv2d, SmallMapConv2d, StdConv2d, nn.MaxPool2d, nn.AvgPool2d)
    kinds: dict[type, type] = dict.fromkeys(outputs, _Kept)
    return kinds | {nn.GroupNorm: _KeptGroupNorm, GroupNormAct: _KeptGroupNorm, SEModule: _KeptGate,
                    nn.AdaptiveAvgPool2d: _KeptPool}


@functools.cache
def _neutral() -> tuple[type, ...]:
    """Layers that need no mask: place by place, and zero where they are given zero."""
    from timm.layers import DropPath

    return (nn.Identity, nn.Flatten, nn.Dropout, DropPath, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU,
            nn.Mish, nn.Hardswish)


@functools.cache
def _containers() -> frozenset[type]:
    """Classes of timm's that add up and pass on what their children make, and nothing else."""
    from timm.layers import ClassifierHead, ConvNormAct, SelectAdaptivePool2d
    from timm.models import regnet, resnet

    return frozenset({
        ClassifierHead, ConvNormAct, SelectAdaptivePool2d, resnet.ResNet, resnet.BasicBlock, resnet.Bottleneck,
        regnet.RegNet, regnet.RegStage, regnet.Bottleneck, regnet.PreBottleneck,
    })


@functools.cache
def _with(masked: type, kind: type) -> type:
    return type(f"Kept{kind.__name__}", (masked, kind), {})
