"""The target network as a moving average of the online one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.optim.shards import layout, own_parts


@torch.no_grad()
def update_target(target_params: Sequence[Tensor], online_params: Sequence[Tensor], tau: float) -> None:
    """`target <- tau * target + (1 - tau) * online` in place, as one interpolation over the whole list.

    Call it once an optimiser step, after it. tau = 1 leaves every bit of the target, tau = 0 copies every bit; both
    are separate cases because 0 * inf is NaN and -0 + 0 is +0. Keep the target in float32: in bfloat16 an update
    below 1/256 of a weight is lost. Of tensors in shards each process moves the part that it holds.

    Args:
        target_params: Tensors to update.
        online_params: As many tensors, of the same shapes, dtypes and devices, in the same shards.
        tau: In [0, 1].

    Raises:
        ConfigError: For tau outside [0, 1] (NaN too), or lists that do not match.

    Source: BYOL (arXiv 2006.07733).
    """
    if not 0.0 <= tau <= 1.0:
        raise ConfigError(f"target update: tau is {tau}; it must be in [0, 1].")
    if [t.shape for t in target_params] != [o.shape for o in online_params]:
        raise ConfigError("target update: target and online tensors differ in number or shape; build one as a copy.")
    if [layout(t) for t in target_params] != [layout(o) for o in online_params]:
        raise ConfigError(
            "target update: target and online tensors differ in dtype or device, or in how they are spread over "
            "processes; wrap both modules alike, and let both free what they gathered for their forward."
        )
    targets, onlines = own_parts(target_params), own_parts(online_params)
    if not targets or tau == 1.0:
        return
    if tau == 0.0:
        torch._foreach_copy_(targets, onlines)
    else:
        torch._foreach_lerp_(targets, onlines, 1.0 - tau)


class TargetUpdater:
    """Moving average of several (target, online) pairs of modules, their tensors found once.

    What is kept is *where* each tensor lives (module and name), so moving the modules to a device afterwards is safe;
    adding, removing or sharing parameters is not. A parameter shared within a module is updated once. Online
    modules without a target (the predictor) are simply not listed.

    Args:
        pairs: (target, online) modules of the same structure.
        buffers: `own`: buffers stay as the target's own training-mode forwards leave them, as in the reference;
            `copy`: they are copied from the online module at each update, integers included, for a target that runs
            in evaluation mode.

    Raises:
        ConfigError: When the modules of a pair differ in the names or shapes of their tensors, or for an unknown
            policy.

    Source: BYOL (arXiv 2006.07733); `copy` is ours.
    """

    def __init__(
        self, pairs: Sequence[tuple[nn.Module, nn.Module]], buffers: Literal["own", "copy"] = "own"
    ) -> None:
        if buffers not in ("own", "copy"):
            raise ConfigError(f"target update: buffer policy {buffers!r}; it must be 'own' or 'copy'.")
        self.buffers = buffers
        self._parameters = [place for pair in pairs for place in _places(*pair, _own_parameters)]
        self._buffers = [place for pair in pairs for place in _places(*pair, _own_buffers)]

    def update(self, tau: float) -> None:
        """Move every target towards its online module; tau in [0, 1] as in `update_target`, which it calls."""
        update_target(*_tensors(self._parameters), tau)
        if self.buffers == "copy":
            update_target(*_tensors(self._buffers), 0.0)


_Named = Callable[[nn.Module], Iterator[tuple[str, Tensor]]]


class _Place(NamedTuple):
    target: nn.Module
    online: nn.Module
    name: str


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return module.named_parameters(recurse=False)


def _own_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return module.named_buffers(recurse=False)


def _tensors(places: list[_Place]) -> tuple[list[Tensor], list[Tensor]]:
    return [getattr(p.target, p.name) for p in places], [getattr(p.online, p.name) for p in places]


def _places(target: nn.Module, online: nn.Module, named: _Named) -> list[_Place]:
    ours, theirs = _layout(target, named), _layout(online, named)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            raise ConfigError(
                f"target update: {name!r} has shape {theirs.get(name, 'none')} in the online module and "
                f"{ours.get(name, 'none')} in the target; build the target as a copy of the online module."
            )
    found: dict[int, _Place] = {}
    for path, module in target.named_modules():
        for name, tensor in named(module):
            found.setdefault(id(tensor), _Place(module, online.get_submodule(path), name))
    return list(found.values())


def _layout(module: nn.Module, named: _Named) -> dict[str, tuple[int, ...]]:
    return {
        f"{path}.{name}".lstrip("."): tuple(tensor.shape)
        for path, sub in module.named_modules()
        for name, tensor in named(sub)
    }
