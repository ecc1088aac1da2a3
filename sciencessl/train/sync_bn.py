"""Batch norm over the rows of several processes: two of them compute what one would with all rows.

Torch's own `SyncBatchNorm` runs on GPUs only, and Lightning's flag for it is ignored under FSDP2. This one runs where
torch's collectives do (gloo, nccl), and costs one all-reduce forward and one backward.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from sciencessl.errors import ConfigError
from sciencessl.train.ranks import Ranks

M = TypeVar("M", bound=nn.Module)


class SyncBatchNorm(_BatchNorm):
    """What `convert` makes of a batch norm: in training its statistics are those of the rows of all its ranks.

    Each forward has statistics of its own, so views that are forwarded one after the other are normalised one by one,
    as in BYOL. Ranks may hold different numbers of rows, none too. Statistics are float32 at least, under autocast and
    for bfloat16 inputs too, and are combined in float64. Running statistics are moved once a forward, by `momentum`
    (None: their mean), towards the mean and the unbiased variance of all rows: they are the same on all ranks of a
    group, and with several groups a checkpoint holds those of the first. In evaluation mode, and with one rank, it
    *is* the batch norm it was.

    The gradients of weight and bias are those of this rank's rows; like all others they are summed over the ranks
    afterwards (`parallel.wrap`).

    Source: Ioffe & Szegedy 2015 (arXiv 1502.03167), the equations of batch norm and of its gradient; BYOL (arXiv
    2006.07733) synchronises over all replicas.
    """

    ranks: Ranks
    after: ClassVar[tuple[str, ...]] = ()
    """Layers of the class it was that follow the norm."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C) or (B, C, ...) -> the same shape and dtype. In training every rank of the group must call this."""
        if self.ranks.world == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        return self.follow(self.normalise(input))

    def normalise(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, ...) with the statistics of all ranks, which move the running ones; every rank must call this.

        Args:
            input: As in `forward`.
            mask: (B, 1, ...) of ones and zeros in the dtype of the input: statistics are those of places at one, which
                are counted, and the others become zero.
        """
        y: Tensor
        y, *moments = _Normalise.apply(input, self.weight, self.bias, self.eps, self.ranks, mask)
        self._track(*moments)
        return y

    def follow(self, y: Tensor) -> Tensor:
        """What comes behind the norm in the class it was."""
        for name in self.after:
            y = getattr(self, name)(y)
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        for buffer, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            rate = 1.0 / self.num_batches_tracked.to(buffer) if self.momentum is None else self.momentum
            buffer.lerp_(new.to(buffer), rate)


def convert(module: M, ranks: Ranks) -> M:
    """Let every batch norm in a module compute over the rows of `ranks`; the module is changed, and returned.

    Layers stay the objects they are, with their parameters, buffers, hooks and names: an optimiser or a moving-average
    target that holds one goes on working, and so do checkpoints. Call it once the process group is there, and before a
    wrapper (DDP, FSDP2) takes the module; again for other ranks.

    Args:
        module: Method, encoder or head; BatchNorm1d, 2d and 3d of torch and timm's batch norm with activation.
        ranks: `all_ranks()`, or a block of them.

    Raises:
        ConfigError: For another kind of batch norm, whose own forward would be lost. Nothing is changed then.
    """
    kinds = _kinds()
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    for name, layer in found.items():
        if type(layer) not in kinds and not isinstance(layer, SyncBatchNorm):
            raise ConfigError(
                f"{name or 'the module'} is a {type(layer).__module__}.{type(layer).__qualname__}: only "
                f"{', '.join(kind.__name__ for kind in kinds)} can be computed over several processes. Use one of "
                "these, or a norm without batch statistics."
            )
    for layer in found.values():
        if not isinstance(layer, SyncBatchNorm):
            layer.__class__ = kinds[type(layer)]
        layer.ranks = ranks  # type: ignore[assignment]  # torch types attributes of a module as tensors or modules
    return module


@functools.cache
def _kinds() -> dict[type, type]:
    # Here, because loader workers import what the caller's script imports, and need no timm.
    from timm.layers import BatchNormAct2d

    plain: list[type] = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]
    kinds = {kind: type(f"Sync{kind.__name__}", (SyncBatchNorm, kind), {}) for kind in plain}
    kinds[BatchNormAct2d] = type("SyncBatchNormAct2d", (SyncBatchNorm, BatchNormAct2d), {"after": ("drop", "act")})
    return kinds


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias with the statistics of all ranks, which it returns as well."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _moments(x, ranks, mask)
        wide = _wide(x)
        scale, shift = (None if p is None else p.to(wide) for p in (weight, bias))
        y = functional.batch_norm(x, mean.to(wide), variance.to(wide), scale, shift, False, 0.0, eps)
        if mask is not None:
            y.mul_(mask)
        ctx.save_for_backward(x, scale, mean.to(wide), (variance + eps).rsqrt().to(wide), count.to(wide), mask)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse, count, mask = ctx.saved_tensors
        own = dy.to(_wide(x)) if mask is None else dy.to(_wide(x)) * mask
        unit = (x.to(_wide(x)) - _along(mean, x)).mul_(_along(inverse, x))
        shift_gradient, scale_gradient = own.sum(_rows(x)), (own * unit).sum(_rows(x))
        dx = None
        if ctx.needs_input_grad[0]:
            # Mean and variance depend on the rows of all ranks, and all their losses on mean and variance.
            means = ctx.ranks.sum(torch.stack([shift_gradient, scale_gradient])) / count
            factor = inverse if scale is None else inverse * scale
            dx = (own - _along(means[0], x)).sub_(unit.mul_(_along(means[1], x))).mul_(_along(factor, x)).to(x.dtype)
            dx = dx if mask is None else dx.mul_(mask)
        wanted = ctx.needs_input_grad
        return dx, scale_gradient if wanted[1] else None, shift_gradient if wanted[2] else None, None, None, None


def _moments(x: Tensor, ranks: Ranks, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of rows and places (those that a mask keeps) over all ranks, float64.

    A rank's own squares are taken around its own mean, and only these sums meet, in float64: float32 pixels far from
    zero would lose their spread in a sum of squares.
    """
    channels = x.shape[1]
    wide = x.to(_wide(x))
    if mask is None:
        number = torch.full((1,), x.numel() // channels, dtype=torch.float64, device=x.device)
        own = wide.sum(_rows(x)) / max(x.numel() // channels, 1)
        apart = wide - _along(own, x)
    else:
        number = mask.sum(dtype=torch.float64).view(1)
        own = (wide * mask).sum(_rows(x)) / number.clamp(min=1).to(wide)
        apart = (wide - _along(own, x)).mul_(mask)
    squares = apart.square_().sum(_rows(x)).double()
    own = own.double()
    sums = ranks.sum(torch.cat([number * own, squares + number * own.square(), number]))
    mean, count = sums[:channels] / sums[-1], sums[-1].clone()
    return mean, (sums[channels:-1] / count - mean.square()).clamp(min=0), count


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _rows(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _along(values: Tensor, x: Tensor) -> Tensor:
    """(C,) laid along the channels of x."""
    return values.view(-1, *[1] * (x.ndim - 2))
