"""One rule of precision for all losses: float32 at least, whatever autocast or the model chose."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common dtype, but float32 at least: bfloat16, float16 and integers rise, float64 stays.

    A loss that begins with this and then uses only element-wise functions and sums stays in that dtype under
    autocast, which lowers matrix products and convolutions only. Source: ours.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)
