"""What a checkpoint holds of modules and optimiser: tensors under names that no strategy or world size changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sciencessl.errors import RunError
from sciencessl.train.checkpoint import Content
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.tensor_files import Kind, read_into, read_kinds

EXTRA = "_extra_state"
OPTIMIZER = "optimizer/"


def gather_state(modules: Mapping[str, nn.Module], optimizer: Optimizer | None = None) -> dict[str, Tensor]:
    """Parameters, buffers and extra states of modules, and the state of their optimiser; shared tensors once.

    Nothing is copied: writing into what is found changes modules and optimiser, but for extra states.

    Args:
        modules: Under names; inside what wraps them (DDP), so that names are the same without it.
        optimizer: Of their parameters. What its settings say (learning rate, decay) is not state.

    Returns:
        `<module>.<name>` -> tensor or DTensor, and `optimizer/<module>.<name>/<key>` for the optimiser.

    Raises:
        RunError: When an extra state is no tensor.
    """
    tensors = _tensors(modules)
    state = {name: tensor.detach() for name, tensor in tensors.items()}
    names = {id(tensor): name for name, tensor in tensors.items()}
    for parameter, _ in _trained(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items() if optimizer else ():
            state[f"{OPTIMIZER}{names[id(parameter)]}/{key}"] = value
    return state


def restore_state(
    path: Path, content: Content, modules: Mapping[str, nn.Module], optimizer: Optimizer | None = None,
    own: Collection[str] = (), ranks: Ranks = ALONE,
) -> None:
    """Bring modules and optimiser to what `gather_state` found when the checkpoint was written.

    Args:
        path: Of the checkpoint.
        content: As `latest_checkpoint` gave it.
        modules: As in `gather_state`, sharded or not.
        optimizer: As in `gather_state`; state that it does not have yet is made, each as its parameter is. None
            leaves that of the checkpoint alone.
        own: As in `read_into`.
        ranks: As in `read_into`.

    Raises:
        RunError: As `read_into`.
    """
    if optimizer:
        _make_state(path, modules, optimizer)
    state = gather_state(modules, optimizer)
    read_into(path, state, own, ranks, int(content["world"]), besides="" if optimizer else OPTIMIZER)
    for prefix, module in modules.items():
        for name, sub in module.named_modules(prefix=prefix):
            if f"{name}.{EXTRA}" in state:
                sub.set_extra_state(state[f"{name}.{EXTRA}"])


def _tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Each parameter, buffer and extra state once, under its first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for prefix, module in modules.items():
        for name, value in module.state_dict(prefix=f"{prefix}.", keep_vars=True).items():
            if not isinstance(value, Tensor):
                raise RunError(f"{name} is a {type(value).__name__}: only tensors are saved. Make it one.")
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def _trained(optimizer: Optimizer | None) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    for group in optimizer.param_groups if optimizer else ():
        for parameter in group["params"]:
            yield parameter, group


def _make_state(path: Path, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Room for the optimiser's state in the checkpoint."""
    found: dict[str, dict[str, Kind]] = {}
    for name, kind in read_kinds(path).items():
        if name.startswith(OPTIMIZER):
            owner, _, key = name.removeprefix(OPTIMIZER).rpartition("/")
            found.setdefault(owner, {})[key] = kind
    names = {id(tensor): name for name, tensor in _tensors(modules).items()}
    for parameter, group in _trained(optimizer):
        keys = found.get(names[id(parameter)], {})
        optimizer.state[parameter] = {key: _room(parameter, group, kind) for key, kind in keys.items()}


def _room(parameter: Tensor, group: Mapping[str, Any], kind: Kind) -> Tensor:
    if tuple(parameter.shape) == kind.shape:
        return torch.zeros_like(parameter, dtype=kind.dtype, memory_format=torch.preserve_format)
    # Counts of steps; torch keeps those of fused optimisers where the parameter is.
    return torch.zeros(kind.shape, dtype=kind.dtype, device=parameter.device if group.get("fused") else "cpu")
