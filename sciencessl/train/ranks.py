"""The processes that compute one batch together, what they add up, and what they agree on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sciencessl.errors import ConfigError, FirstRankError, LostRankError, SciencesslError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Some processes, seen from one of them.

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

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once: folders, logs, progress."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over the ranks, in place and bit for bit the same on each. Every rank must call this."""
        return self.reduce(tensor, "sum")

    def reduce(self, tensor: Tensor, operation: Literal["sum", "max"]) -> Tensor:
        """As `sum`, or the largest of the ranks' values."""
        if self.world > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX, group=self.group)
        return tensor

    def gather(self, rows: Tensor) -> Tensor:
        """(N, ...) rows of each rank -> (world N, ...) rows of all, in the order of the ranks and without gradient.

        Every rank must call this, with equally many rows.
        """
        if self.world == 1:
            return rows.detach()
        everyone = [torch.empty_like(rows, requires_grad=False) for _ in range(self.world)]
        dist.all_gather(everyone, rows.detach().contiguous(), group=self.group)
        return torch.cat(everyone)

    def gather_learning(self, rows: Tensor) -> Tensor:
        """As `gather`, with gradient: what any rank's loss says of this rank's rows flows back to them, summed.

        So the sum of the ranks' losses has the gradient of the loss that one process would compute on all rows. Every
        rank must call this, and run backward through it, equally often and in one order.
        """
        if self.world == 1:
            return rows
        everyone: Tensor = _GatherLearning.apply(rows, self)
        return everyone

    def from_first(self, function: Callable[[], T]) -> T:
        """What a function returns on the first rank, on all; the others do not call it. Every rank must call this.

        Args:
            function: Its result can be pickled.

        Raises:
            FirstRankError: On the others, when it failed on the first, where its own error is raised.
        """
        if self.world == 1:
            return function()
        said: list[Any] = [None, ""]
        failure: BaseException | None = None
        if self.first:
            try:
                said[0] = function()
            except BaseException as error:
                said[1], failure = f"{type(error).__name__}: {error}", error
        # Where another process is gone as well, its own error is what the first has to say.
        with contextlib.suppress(RuntimeError) if failure else contextlib.nullcontext():
            dist.broadcast_object_list(said, group_src=0, group=self.group, device=torch.device("cpu"))
        if failure:
            raise failure
        if said[1]:
            raise FirstRankError(f"the first process of the run failed with {said[1]}")
        found: T = said[0]
        return found

    def alike(self, error: SciencesslError) -> SciencesslError:
        """An error that all ranks find at the same point, for each of them to raise: the first one says it."""
        if self.first:
            return error
        return FirstRankError(f"the first process of the run failed with {type(error).__name__}: {error}")


class _GatherLearning(torch.autograd.Function):
    """Gather forwards; backwards the sum over ranks of the gradient of all rows, of which each keeps its own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.count = ranks, len(rows)
        return ranks.gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        start = ctx.ranks.rank * ctx.count
        return ctx.ranks.sum(gradients[0].contiguous().clone())[start : start + ctx.count], None


LOST = re.compile("gloo|nccl|pair closure|(closed|reset) by peer", re.IGNORECASE)
"""What torch's errors say when another process does not answer; most have no class of their own."""


@contextlib.contextmanager
def others_needed() -> Iterator[None]:
    """Say in plain words when another process is gone, or does not answer in time.

    Raises:
        LostRankError: Then.
    """
    try:
        yield
    except SciencesslError:
        raise
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or LOST.search(str(error))):
            raise
        cause = re.sub(r"\[[^]]*/[^]]*\] *", "", str(error).splitlines()[0].partition(". This is typically")[0])
        raise LostRankError(
            f"another process of the run has ended or does not answer ({cause}). Its own message, or its launcher's, "
            "says why. Earlier checkpoints are kept: when the cause is gone, go on from them with --resume."
        ) from error


ALONE = Ranks()
"""One process, without any communication."""


class StopVote:
    """Whether any rank was asked to stop, known to all after the same step, without waiting for a device.

    The votes of a step travel while the next one is computed, so several ranks stop one step after the first request;
    a process alone at once.

    Args:
        ranks: Every one of them calls this as often as the others.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._sent: tuple[Tensor, dist.Work] | None = None

    def __call__(self, asked: bool) -> bool:
        """Give the vote of this rank, and learn whether all stop now."""
        if self._ranks.world == 1:
            return asked
        before, self._sent = self._sent, self._send(asked)
        if before is None:
            return False
        votes, work = before
        work.wait()
        return bool(votes.item())

    def _send(self, asked: bool) -> tuple[Tensor, dist.Work]:
        votes = torch.tensor(int(asked))
        work = dist.all_reduce(votes, group=self._ranks.group, async_op=True)
        assert work is not None
        return votes, work


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
