"""LARS and LARC: SGD with momentum whose update is rescaled, tensor by tensor, to the size of the weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sciencessl.errors import ConfigError
from sciencessl.optim.shards import layout, own_parts, whole_norms

LARC_EPS = 1e-8
"""What LARC adds to the size of an update: apex's default, and that of SEER's settings."""


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling as BYOL uses it.

    For each tensor with weights w and gradient g: `u = g + wd * w`; `u = u * eta * |w| / |u|` (unscaled where either
    norm is 0); `m = mu * m + u`; `w = w - lr * m`. The learning rate stays outside the momentum buffer. Groups with
    `adapt=False` skip weight decay *and* scaling (biases and norm parameters, see `optim.groups`). Gradients are read
    only. Works on lists of tensors and never makes the host wait for the device. Of tensors in shards (`fully_shard`)
    norms are those of the whole, so that every process has to take the step.

    Args:
        params: Parameters or groups; a group may carry its own lr, momentum, weight_decay, eta and adapt.
        lr: Learning rate, 0 or more.
        momentum: mu, in [0, 1).
        weight_decay: wd, 0 or more.
        eta: Trust coefficient, positive.
        adapt: Default of groups that do not say.

    Raises:
        ConfigError: For a value outside its range.

    Source: arXiv 1708.03888, in the form of BYOL's released code (byol/utils/optimizers.py).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": adapt}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, its missing settings taken from the defaults; ConfigError for a value outside its range."""
        _check_settings({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns the value of `closure`, or None without one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for bucket in _alike(params):
                self._update(bucket, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        weights, updates = own_parts(params), own_parts([p.grad for p in params if p.grad is not None])
        if group["adapt"]:
            updates = self._scaled(weights, updates, group, params[0])
        buffers = own_parts([self._buffer(p) for p in params])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(weights, buffers, alpha=-group["lr"])

    def _scaled(
        self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any], like: Tensor
    ) -> list[Tensor]:
        """What goes into the momentum of tensors that adapt, laid out like `like`: new tensors."""
        updates = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        norms, sizes = whole_norms([*weights, *updates], like).chunk(2)
        trust = torch.where((norms > 0) & (sizes > 0), group["eta"] * norms / sizes, 1.0)
        torch._foreach_mul_(updates, list(trust.unbind()))
        return updates

    def _buffer(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


class LARC(LARS):
    """LARS as SEER uses it: the rate is of the plain gradient's norm, and the decay's share is added to it.

    `u = (g + wd * w) * eta * |w| / (|g| + wd * |w| + 1e-8)`; where either norm is 0, `u = g`, without decay. All else
    is as in `LARS`. The rate is not clipped.

    Source: apex's LARC (apex/parallel/LARC.py) over torch's SGD with `clip=False`, as VISSL's settings of SEER call it;
    apex writes its update into the gradients, which are only read here.
    """

    def _scaled(
        self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any], like: Tensor
    ) -> list[Tensor]:
        norms, sizes = whole_norms([*weights, *gradients], like).chunk(2)
        adapts = (norms > 0) & (sizes > 0)
        decay = group["weight_decay"] * adapts.to(norms.dtype)
        trust = torch.where(adapts, group["eta"] * norms / (sizes + decay * norms + LARC_EPS), 1.0)
        updates = list(torch._foreach_mul(weights, list(decay.unbind())))
        torch._foreach_add_(updates, gradients)
        torch._foreach_mul_(updates, list(trust.unbind()))
        return updates


def _alike(params: list[Tensor]) -> list[list[Tensor]]:
    """Parameters by layout: their norms are found together."""
    buckets: dict[Hashable, list[Tensor]] = {}
    for param in params:
        buckets.setdefault(layout(param), []).append(param)
    return list(buckets.values())


def _check_settings(settings: dict[str, Any]) -> None:
    rules = {
        "lr": (settings["lr"] >= 0, "0 or more"),
        "momentum": (0 <= settings["momentum"] < 1, "in [0, 1)"),
        "weight_decay": (settings["weight_decay"] >= 0, "0 or more"),
        "eta": (settings["eta"] > 0, "positive"),
        "adapt": (isinstance(settings["adapt"], bool), "True or False"),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise ConfigError(f"optimiser: {name} is {settings[name]!r}; it must be {rule}.")
