"""LARS: SGD with momentum whose update is rescaled, tensor by tensor, to the size of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sciencessl.errors import ConfigError


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling as BYOL uses it.

    For each tensor with weights w and gradient g: `u = g + wd * w`; `u = u * eta * |w| / |u|` (unscaled where either
    norm is 0); `m = mu * m + u`; `w = w - lr * m`. The learning rate stays outside the momentum buffer. Groups with
    `adapt=False` skip weight decay *and* scaling (biases and norm parameters, see `optim.groups`). Gradients are read
    only. Works on lists of tensors and never makes the host wait for the device.

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
        updates = [p.grad for p in params if p.grad is not None]
        buffers = [self._buffer(p) for p in params]
        if group["adapt"]:
            updates = list(torch._foreach_add(updates, params, alpha=group["weight_decay"]))
            torch._foreach_mul_(updates, _trust(params, updates, group["eta"]))
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(params, buffers, alpha=-group["lr"])

    def _buffer(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _trust(params: list[Tensor], updates: list[Tensor], eta: float) -> list[Tensor]:
    weights = torch.stack(list(torch._foreach_norm(params)))
    sizes = torch.stack(list(torch._foreach_norm(updates)))
    scaled = (weights > 0) & (sizes > 0)
    return list(torch.where(scaled, eta * weights / sizes, 1.0).unbind())


def _alike(params: list[Tensor]) -> list[list[Tensor]]:
    """Parameters by device and dtype: their norms are stacked into one tensor."""
    buckets: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for param in params:
        buckets.setdefault((param.device, param.dtype), []).append(param)
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
            raise ConfigError(f"LARS: {name} is {settings[name]!r}; it must be {rule}.")
