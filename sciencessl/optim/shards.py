"""Parameters in shards: elementwise work is done on the part that a process holds, norms are those of whole tensors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is one of torch's distributed tensors, as `fully_shard` makes them."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    # Here, because it takes half a second, which a process of its own need not spend.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this process holds of each tensor, to be changed in place: the tensor itself where it is not sharded."""
    return [tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors]


def layout(tensor: Tensor) -> Hashable:
    """Device, dtype and how a tensor is spread over processes: alike for those that `whole_norms` takes together."""
    spread = (tensor.device_mesh, tensor.placements) if is_sharded(tensor) else ()
    return (tensor.device, tensor.dtype, *spread)


def whole_norms(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """(K,) Euclidean norms of whole tensors, without waiting for the device.

    Of shards, squares are summed over the processes that hold them, in one message for all tensors and each dimension
    of the mesh that shards them. Every process of the mesh has to call it.

    Args:
        parts: What this process holds of K tensors of one `layout`, 1 or more; some may be empty.
        like: A tensor of that layout.
    """
    norms = torch.stack(list(torch._foreach_norm(list(parts))))
    if not is_sharded(like):
        return norms
    squares = norms.double().square()
    for dim, placement in enumerate(like.placements):
        if placement.is_shard():
            dist.all_reduce(squares, group=like.device_mesh.get_group(dim))
    return squares.sqrt().to(norms.dtype)
