"""Which parameters skip weight decay and trust scaling: biases and all parameters of norms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from sciencessl.errors import ConfigError

Parameters = nn.Module | Mapping[str, nn.Module] | Iterable[tuple[str, Tensor]]
"""A module, several under names, or what `named_parameters()` yields."""


class GroupRow(NamedTuple):
    """One trainable parameter: its name, shape, and whether decay and scaling act on it."""

    name: str
    shape: tuple[int, ...]
    adapt: bool

    def __str__(self) -> str:
        return f"{self.name:<60} {'x'.join(map(str, self.shape)) or 'scalar':>18} {'adapt' if self.adapt else 'skip'}"


def adapts(parameter: Tensor) -> bool:
    """Whether weight decay and trust scaling act on a parameter: it has two dimensions or more.

    Biases, and scales and shifts of norms, have one at most. Source: BYOL's released code excludes the same ones by
    their names.
    """
    return parameter.ndim > 1


def parameter_groups(parameters: Parameters, weight_decay: float) -> list[dict[str, Any]]:
    """Two optimiser groups, weights first, then biases and norm parameters.

    Frozen parameters are left out and shared ones taken once. Optimisers other than LARS ignore `adapt` and read
    `weight_decay`.

    Args:
        parameters: Module, modules under names, or pairs of name and parameter.
        weight_decay: Of the first group, 0 or more; the second has 0.

    Returns:
        `[{params, adapt: True, weight_decay}, {params, adapt: False, weight_decay: 0.0}]`; one list may be empty.

    Raises:
        ConfigError: When nothing is trainable, or for a negative weight decay.

    Source: BYOL (arXiv 2006.07733).
    """
    if not weight_decay >= 0:
        raise ConfigError(f"weight_decay is {weight_decay}; it must be 0 or more.")
    trainable = [parameter for _, parameter in _trainable(parameters)]
    if not trainable:
        raise ConfigError("no trainable parameters; at least one must have requires_grad=True. Unfreeze the model.")
    return [
        {"params": [p for p in trainable if adapts(p)], "adapt": True, "weight_decay": weight_decay},
        {"params": [p for p in trainable if not adapts(p)], "adapt": False, "weight_decay": 0.0},
    ]


def describe_groups(parameters: Parameters) -> list[GroupRow]:
    """One printable row for each parameter that `parameter_groups` would group, in the model's order."""
    return [GroupRow(name, tuple(parameter.shape), adapts(parameter)) for name, parameter in _trainable(parameters)]


def _trainable(parameters: Parameters) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()
    for name, parameter in _named(parameters):
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            yield name, parameter


def _named(parameters: Parameters) -> Iterator[tuple[str, Tensor]]:
    if isinstance(parameters, nn.Module):
        yield from parameters.named_parameters()
    elif isinstance(parameters, Mapping):
        for prefix, module in parameters.items():
            yield from module.named_parameters(prefix=prefix)
    else:
        yield from parameters
