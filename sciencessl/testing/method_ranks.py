"""A method on two ranks, which are threads of this process, against the same method on one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from sciencessl.methods.base import Method
from sciencessl.testing.method_case import Case, Training
from sciencessl.testing.requirement import ConformanceError, require
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.sync_bn import convert

T = TypeVar("T")
WORLD, PATIENCE = 2, 60.0
"""Ranks, and seconds that one waits for the other; one that has left is not waited for."""
TOLERANCE = 1e-5
"""Of float64 in which a method may compute something in float32."""


class UnequalCallsError(ConformanceError):
    """The ranks called collectives unequally."""


class _Meeting:
    """Where the ranks' calls meet: the n-th of one with the n-th of each other."""

    def __init__(self, world: int) -> None:
        self._world = world
        self._changed = threading.Condition()
        self._calls: list[dict[int, tuple[str, Tensor]]] = []
        self._done = [0] * world
        self._left = False

    def exchange(self, rank: int, what: str, tensor: Tensor) -> list[Tensor]:
        """What each rank brought, in the order of the ranks."""
        with self._changed:
            number = self._done[rank]
            self._done[rank] += 1
            if number == len(self._calls):
                self._calls.append({})
            call = self._calls[number]
            call[rank] = (f"{what} {tuple(tensor.shape)} {tensor.dtype}", tensor)
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(call) == self._world or self._left, PATIENCE)
        said = sorted({words for words, _ in call.values()})
        if len(call) < self._world:
            raise UnequalCallsError(f"a rank waits in {said[0]} for the other, which does not call it: all ranks must "
                                    "call sum, reduce and gather equally often, whatever their rows hold.")
        if len(said) > 1:
            raise UnequalCallsError(f"the ranks call {' and '.join(said)} at the same time, expected the same call.")
        return [call[other][1] for other in range(self._world)]

    def leave(self) -> None:
        """A rank is done."""
        with self._changed:
            self._left = True
            self._changed.notify_all()


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks that are threads of one process."""

    meeting: _Meeting = field(default_factory=lambda: _Meeting(1))

    def reduce(self, tensor: Tensor, operation: Literal["sum", "max"]) -> Tensor:
        """As `Ranks.reduce`."""
        brought = torch.stack(self.meeting.exchange(self.rank, operation, tensor.detach().clone()))
        return tensor.copy_(brought.sum(dim=0) if operation == "sum" else brought.amax(dim=0))

    def gather(self, rows: Tensor) -> Tensor:
        """As `Ranks.gather`."""
        return torch.cat(self.meeting.exchange(self.rank, "gather", rows.detach().clone()))


def on_ranks(function: Callable[[Ranks], T], world: int = WORLD) -> list[T]:
    """What a function returns on each of some ranks that are threads; torch's global generator is left as it was.

    The ranks share that generator, so draws differ from one call to the next.

    Raises:
        UnequalCallsError: Where one waits for a call that another does not make.
    """
    meeting = _Meeting(world)

    def alone(rank: int) -> T:
        try:
            return function(ThreadRanks(rank, world, meeting=meeting))
        finally:
            meeting.leave()

    with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(world) as pool:
        futures = [pool.submit(alone, rank) for rank in range(world)]
    # Where one has failed, the others miss it: its error says why.
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, UnequalCallsError)):
        raise error
    return [future.result() for future in futures]


class _Learnt(NamedTuple):
    gradients: list[dict[str, Tensor]]
    state: dict[str, Any]


def _learnt(case: Case, method: Method, ranks: Ranks, steps: int) -> _Learnt:
    """Some steps in float64, each rank with its part of the rows."""
    method = method.to(torch.float64)
    if ranks.world > 1:
        method.ranks = ranks
        convert(method, ranks)
    training = Training(case, method, ranks, torch.float64)
    gradients = []
    for _ in range(steps):
        training.step()
        gradients.append(training.gradients)
    return _Learnt(gradients, training.state()["modules"])


def draws(case: Case) -> bool:
    """Whether a step of a method draws from torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        case.forward(case.make())
        return not torch.equal(before, torch.get_rng_state())


def check_ranks(case: Case) -> None:
    """Two ranks with half of the rows each take the step of one with all of them; those that draw stay as one."""
    own = case.kind.own_buffers
    # What each rank keeps of its own rows is not what one keeps of all: from the second step on they may differ.
    steps = 1 if own else 2
    methods = [case.make() for _ in range(WORLD)]  # encoders may draw from the generator that the threads share
    first, second = on_ranks(lambda ranks: _learnt(case, methods[ranks.rank], ranks, steps))
    for name, value in first.state.items():
        if isinstance(value, Tensor) and name.removeprefix("method.") not in own:
            require(bool(torch.isfinite(value).all()), f"after {steps} step(s) of two processes {name} is not finite.")
            require(torch.equal(value, second.state[name]),
                    f"after {steps} step(s) of two processes {name} is not the same on both: sum statistics with "
                    "self.ranks, or name a buffer in own_buffers.")
    if draws(case):
        return
    whole = _learnt(case, case.make(), ALONE, steps)
    for step, (alone, together) in enumerate(zip(whole.gradients, first.gradients, strict=True)):
        largest = max((float(g.abs().max()) for g in alone.values()), default=0.0)
        for name, gradient in alone.items():
            apart = float((gradient - together[name]).abs().max())
            require(apart <= TOLERANCE * largest,
                    f"in step {step} the gradient of {name} on two processes is {apart:.2g} off that of one with all "
                    f"rows; the largest gradient is {largest:.2g}. Losses and statistics of the batch need self.ranks.")
    for name, value in whole.state.items():
        if _own(name, own) or not isinstance(value, Tensor):
            continue
        close = torch.allclose(value.double(), first.state[name].double(), rtol=TOLERANCE, atol=TOLERANCE)
        require(close, f"after {steps} step(s) {name} of two processes is not that of one with all rows.")


def _own(name: str, buffers: Sequence[str]) -> bool:
    """Whether a state is that of a rank's own rows; extra state may count what is in its buffers."""
    name = name.removeprefix("method.")
    return name in buffers or (bool(buffers) and name == "_extra_state")
