"""A linear layer whose first weights come from a given generator."""

from __future__ import annotations

import torch
from torch import nn


def uniform_linear(
    in_features: int,
    out_features: int,
    weight_bound: float,
    bias_range: tuple[float, float],
    generator: torch.Generator | None = None,
) -> nn.Linear:
    """`nn.Linear` with weights uniform in +-`weight_bound` and biases uniform in `bias_range`.

    Torch's default generator is drawn from only when `generator` is None. The layer is on torch's default device, and
    the generator must be of that device. Source: ours.
    """
    # Through `meta`, because the default initialisation would draw from the global generator to be overwritten.
    linear = nn.Linear(in_features, out_features, device="meta").to_empty(device=torch.get_default_device())
    nn.init.uniform_(linear.weight, -weight_bound, weight_bound, generator=generator)
    nn.init.uniform_(linear.bias, *bias_range, generator=generator)
    return linear
