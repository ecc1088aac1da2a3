"""The processes that compute one batch together, and what they add up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sciencessl.errors import ConfigError

BUCKET_BYTES = 2**25
"""Gradients travel in pieces of about this size: few calls, and little memory beside the gradients themselves."""


@dataclass(frozen=True)
class Ranks:
    """Some processes, seen from one of them.

    Everything between ranks is a sum: a rank's loss is its own rows' share of the loss of the whole batch, and the
    gradient of the whole is the sum of what the ranks found. Where a wrapper averages gradients (DDP, FSDP2), that is
    the same after dividing by one instead of by `world`.

    Attributes:
        rank: Of this process among them, from 0.
        world: How many they are.
        group: Torch's handle of them; None for the default group.
    """

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        """Itself: the copy of a module computes with the same processes, and torch's handle cannot be copied."""
        return self

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over the ranks, in place and bit for bit the same on each. Every rank must call this."""
        if self.world > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over the ranks. Every rank must give the same parameters.

        A gradient that is missing counts as zero, and is there afterwards: which ones a rank lacks may depend on its
        rows, and ranks that sum different lists would wait for each other for ever.
        """
        if self.world == 1:
            return
        for bucket in _buckets([_gradient(parameter) for parameter in parameters]):
            flat = self.sum(torch.cat([gradient.flatten() for gradient in bucket]))
            pieces = torch.split(flat, [gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [p.view(g.shape) for p, g in zip(pieces, bucket, strict=True)])


ALONE = Ranks()
"""One process, without any communication."""


def all_ranks() -> Ranks:
    """All processes of the run; `ALONE` before, or without, `torch.distributed.init_process_group`."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


def block_of_ranks(size: int) -> Ranks:
    """The block of `size` consecutive ranks that this process is in. Every process must call this, with one size.

    Launchers number the processes of a machine one after the other, so that a block of them shares its fast links.

    Args:
        size: Processes in a block, a divisor of the world size.

    Raises:
        ConfigError: When it is not one.
    """
    run = all_ranks()
    if size < 1 or run.world % size:
        divisors = [d for d in range(1, run.world + 1) if run.world % d == 0]
        raise ConfigError(f"a group of {size} ranks does not divide the {run.world} of the run; use one of {divisors}.")
    if size == run.world:
        return run
    # Torch wants every process to make every group, the ones of others too.
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, run.world, size)]
    own = groups[run.rank // size]
    assert isinstance(own, dist.ProcessGroup)
    return Ranks(run.rank % size, size, own)


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one device and dtype, to about `BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        alike = not bucket or (gradient.device, gradient.dtype) == (bucket[0].device, bucket[0].dtype)
        if not alike or sum(g.nbytes for g in bucket) >= BUCKET_BYTES:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
