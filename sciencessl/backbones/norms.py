"""Networks without batch statistics: group norm with standardised weights, or no norm and a start from data.

Nothing here reads a file or draws a number. timm is imported inside, as loader workers import this and need no timm.
Source: BYOL works even without batch statistics (arXiv 2010.10241); what it leaves open is said to be ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from sciencessl.setting_groups import Norm

GROUPS = 16
GROUP_EPS = 1e-5
"""Torch's default, as the paper gives none."""
WEIGHT_EPS = 1e-4
"""Inside the root. At He variance 2 / fan-in it takes 10 % off a fan-in of 4608, so timm's 1e-6 is another network."""
TRACE_PX = 64

WORDS: Mapping[Norm, str] = {
    "batch": "",
    "group_ws": "group norm and standardised weights instead of batch norm",
    "none": "no norms, scales and shifts in their place",
}
"""What a norm makes of a stock architecture, in words; nothing for `batch`."""


class StdLinear(nn.Linear):
    """A linear layer whose rows are standardised in each forward: `standardise(weight)`, bias as it is.

    timm has it for convolutions only (`StdConv2d`).
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return functional.linear(input, standardise(self.weight), self.bias)


class ChannelAffine(nn.Module):
    """What a batch norm leaves when its statistics are gone: `act(scale * x + shift)` by channel.

    Arithmetic is that of the parameters (float32 under autocast); the result has the dtype of the input.

    Args:
        norm: The batch norm whose parameters, eps and activation it takes over.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        own = norm.weight is not None
        self.weight = norm.weight if own else nn.Parameter(torch.ones(norm.num_features))
        self.bias = norm.bias if own else nn.Parameter(torch.zeros(norm.num_features))
        self.eps = norm.eps
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        shape = (1, -1, *[1] * (x.ndim - 2))
        y: Tensor = self.act(self.drop((x * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)))
        return y

    @property
    def at_start(self) -> bool:
        """Whether it is as initialised: a shift of zero, and one scale for all channels, 0 or 1."""
        same = bool((self.weight == self.weight[0]).all()) and float(self.weight[0].detach()) in (0.0, 1.0)
        return same and not bool(self.bias.any())


def is_standardised(layer: nn.Module) -> bool:
    """Whether a layer standardises its weights: rounded before that, they would be others."""
    from timm.layers import StdConv2d

    return isinstance(layer, (StdLinear, StdConv2d))


def standardise(weight: Tensor, eps: float = WEIGHT_EPS) -> Tensor:
    """Rows of mean 0 and variance near 1: `(w - mean) / sqrt(var + eps)`, over a row's fan-in, with biased variance.

    Args:
        weight: (out, ...) with a fan-in of 2 or more.
        eps: Positive.

    Source: arXiv 2010.10241, section 2; the form of timm's `StdConv2d`.
    """
    rows = weight.reshape(1, len(weight), -1)
    return functional.batch_norm(rows, None, None, training=True, momentum=0.0, eps=eps).reshape_as(weight)


def group_count(channels: int) -> int:
    """Groups of a group norm: the largest divisor of `channels` up to 16 that leaves 2 channels or more a group.

    One for a single channel. The paper's widths are all divisible by 16; the rest is ours: with one channel a group, a
    vector would be normalised to zero.
    """
    return max((g for g in range(1, GROUPS + 1) if channels % g == 0 and channels >= 2 * g), default=1)


def replace_norms(module: nn.Module, norm: Norm, plain: Collection[nn.Module] = ()) -> nn.Module:
    """Take the batch statistics out of a module, in place, and return it (or what replaces it).

    Parameters stay the same objects under the same names, so initial values are those of the architecture.

    - `batch`: nothing is changed.
    - `group_ws`: each batch norm becomes a group norm of `group_count` groups; weights of convolutions and linear
      layers are standardised.
    - `none`: each batch norm becomes a `ChannelAffine`; `start_from_data` gives these their values.

    Args:
        module: Of plain `Conv2d` and `Linear` layers; layers of other kinds keep their weights as they are.
        norm: What to put in place.
        plain: Layers whose weights are not standardised.
    """
    if norm == "batch":
        return module
    for name, child in module.named_children():
        setattr(module, name, replace_norms(child, norm, plain))
    if isinstance(module, _BatchNorm):
        return ChannelAffine(module) if norm == "none" else _group_norm(module)
    if norm == "group_ws" and type(module) in (nn.Conv2d, nn.Linear) and module not in plain:
        return _standardised(module)
    return module


def _group_norm(norm: _BatchNorm) -> nn.Module:
    from timm.layers import GroupNormAct

    groups, channels = group_count(norm.num_features), norm.num_features
    with torch.device("meta"):  # the parameters are those of the batch norm
        new: Any = (
            GroupNormAct(channels, groups, eps=GROUP_EPS, affine=norm.affine, apply_act=False)
            if hasattr(norm, "act") else nn.GroupNorm(groups, channels, GROUP_EPS, norm.affine)
        )
    new.weight, new.bias = norm.weight, norm.bias
    if hasattr(norm, "act"):
        new.drop, new.act = norm.drop, norm.act
    layer: nn.Module = new.train(norm.training)
    return layer


def _standardised(layer: Any) -> nn.Module:
    from timm.layers import StdConv2d

    bias = layer.bias is not None
    with torch.device("meta"):  # as above, and so that nothing is drawn from a global generator
        new: Any = (
            StdLinear(layer.in_features, layer.out_features, bias) if isinstance(layer, nn.Linear) else
            StdConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                      layer.dilation, layer.groups, bias, WEIGHT_EPS)
        )
    new.weight, new.bias = layer.weight, layer.bias
    standardised: nn.Module = new.train(layer.training)
    return standardised


@torch.no_grad()
def find_gates(encoder: nn.Module, channels: int) -> set[nn.Module]:
    """Convolutions of squeeze-and-excitation and its like: those that see pooled vectors, maps of one place.

    Standardised, their outputs would be sqrt(fan-in) times their inputs with no norm behind to take that out, and the
    sigmoid after them saturated from the start: of RegNetY-002's gates on noise 75 % were below 0.05 or above 0.95, and
    0.2 % with plain weights. The paper's ResNets have no gates; leaving them plain is ours.

    Args:
        encoder: Maps (B, channels, 64, 64) by a stride of 32 or less; put into training mode at the end.
        channels: C.
    """
    found: set[nn.Module] = set()

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[-2:] == (1, 1):
            found.add(layer)

    hooks = [m.register_forward_pre_hook(look) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    encoder.eval()(torch.zeros(1, channels, TRACE_PX, TRACE_PX))
    encoder.train()
    for hook in hooks:
        hook.remove()
    return found


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms that are in training mode normalise as always but leave their running statistics alone.

    For a forward pass that repeats another, or comes before it: their statistics move once a step.
    """
    layers = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [(layer._buffers, dict(layer._buffers)) for layer in layers]
    for buffers, own in kept:
        # Copies move in their place: without any, autograd would save other tensors than in the pass that is repeated.
        buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in own.items()})
    try:
        yield
    finally:
        for buffers, own in kept:
            buffers.update(own)


@torch.no_grad()
def start_from_data(module: nn.Module, forward: Callable[[], object]) -> int:
    """Start a network without norms so that on one batch it computes what batch norm in training mode would.

    Scales become `g / sd` and shifts `b - mean * g / sd`, with g and b what they were before: b is 0, and g is 1, or 0
    for the last of a residual block where the architecture starts so.

    Each `ChannelAffine` that is still `at_start` takes mean and (biased) spread of the first input that it meets,
    standing behind layers that have taken theirs; weights that were loaded are kept.

    Args:
        module: Whose layers are set.
        forward: Calls it on one batch, in training mode; called once.

    Returns:
        How many layers were set.

    Source: arXiv 2010.10241, section 3.2; the eps of the batch norms, and a measuring pass that has g in it, are ours.
    """
    hooks: dict[nn.Module, Any] = {}

    def take(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        hooks.pop(layer).remove()
        x = inputs[0].float() if inputs[0].dtype != torch.float64 else inputs[0]
        var, mean = torch.var_mean(x, [i for i in range(x.ndim) if i != 1], correction=0)
        layer.weight.div_((var + layer.eps).sqrt())
        layer.bias.sub_(mean * layer.weight)

    waiting = [m for m in module.modules() if isinstance(m, ChannelAffine) and m.at_start]
    for layer in waiting:
        hooks[layer] = layer.register_forward_pre_hook(take)
    forward()
    for hook in hooks.values():
        hook.remove()
    return len(waiting) - len(hooks)
