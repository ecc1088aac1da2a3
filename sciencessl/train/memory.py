"""Tensor bytes of a training step, counted without taking it: torch's memory tracker on tensors that have no storage.

The step that is counted is the real one, forward, backward, optimiser and moving average, so a network far larger than
this machine can be counted on it. What libraries take beside tensors (CUDA context, cuDNN's workspaces) is not in it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType
from torch.optim import Optimizer

from sciencessl.backbones.norms import is_standardised
from sciencessl.samples import Batch
from sciencessl.train.parallel import heads, trunk
from sciencessl.train.ranks import Ranks
from sciencessl.train.step import Network

M = TypeVar("M", bound=nn.Module)
Kept = Literal["alone", "ddp", "fsdp"]
"""What a process keeps: everything, because there is no other or as under DDP, or a part, under FSDP2."""
UNTRACEABLE = (
    DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
"""What a step raises that asks tensors without values for them."""


@dataclass(frozen=True)
class StepMemory:
    """Tensor bytes of one process at the fullest moment of a step.

    Attributes:
        parameters: Weights that are trained.
        target: Weights that are not: those of a moving-average target.
        buffers: Running statistics, queues.
        gradients: Of the weights, those that are there at that moment.
        optimizer: State that the optimiser keeps from step to step.
        activations: Pixels, and what the forward pass keeps for the backward pass.
        temporaries: What lives shorter: gradients of activations, activations computed again, an optimiser's updates.
        gathered: Under FSDP2, weights put together from all processes, and their gradients before they are taken apart.
    """

    parameters: int
    target: int
    buffers: int
    gradients: int
    optimizer: int
    activations: int
    temporaries: int
    gathered: int = 0

    @property
    def peak(self) -> int:
        """All of it."""
        return int(sum(dataclasses.astuple(self)))


class Trace(NamedTuple):
    """The fullest moment of the forward and backward passes, and that of the optimiser's update."""

    passes: StepMemory
    update: StepMemory

    @property
    def fullest(self) -> StepMemory:
        """The fuller of the two."""
        return max(self, key=lambda memory: memory.peak)


@dataclass(frozen=True)
class Silent(Ranks):
    """Ranks whose others do not exist: layers and losses compute as among so many, and hear nothing from them."""

    def reduce(self, tensor: Tensor, operation: Literal["sum", "max"]) -> Tensor:
        """The tensor as it is."""
        return tensor

    def gather(self, rows: Tensor) -> Tensor:
        """As many rows as of all ranks, each with those of this one."""
        return rows.detach().repeat(self.world, *[1] * (rows.ndim - 1))


def no_storage() -> FakeTensorMode:
    """A context in which tensors have shapes, types and lifetimes, but no values; real ones may be read in it."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextlib.contextmanager
def built_without_storage(mode: FakeTensorMode) -> Iterator[None]:
    """Modules that are made inside have weights of a `no_storage`: each one's values are dropped as soon as it is made.

    Not the mode itself: some architectures compute their widths with tensors.
    """
    register = nn.Module.register_parameter

    def dropped(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not isinstance(parameter, FakeTensor) and not parameter.is_meta:
            with mode:
                parameter = nn.Parameter(torch.empty_like(parameter), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = dropped  # type: ignore[method-assign, assignment]
    try:
        with warnings.catch_warnings():
            # What torch does itself when it copies one.
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def without_storage(module: M, device: torch.device, layout: torch.memory_format) -> M:
    """A copy of a module on a device whose weights and buffers have no values; call it inside `no_storage`.

    Args:
        module: With values or without.
        device: Need not be there.
        layout: Of weights with four axes.
    """
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        own = layout if tensor.ndim == 4 else torch.preserve_format
        empty = torch.empty_like(tensor, device=device, memory_format=own)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    with unset_fake_temporarily():  # other tensors that it holds are copied as they are
        return copy.deepcopy(module, memo)


def batch_like(batch: Batch, rows: int) -> Batch:
    """A batch of so many rows, shaped as another; call it inside `no_storage`."""

    def alike(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.empty((rows, *x.shape[1:]), dtype=x.dtype) for name, x in tensors.items()}

    return Batch([alike(view) for view in batch.views], alike(batch.labels), [""] * rows, batch.index[:1].repeat(rows))


def trace_step(network: Network, optimizer: Optimizer, batch: Batch, step: Callable[[], object]) -> Trace:
    """Count a step that is not the first: optimisers make their state in that one.

    Args:
        network: Without storage, laid out as it will be trained, on its device.
        optimizer: Of it.
        batch: All that the process holds of a batch; counted where it is on the network's device.
        step: Takes one step with them. Everything is called inside one `no_storage`.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    tracker = _Tracker(network.device)
    pixels = [tensor for view in batch.views for tensor in view.values()]
    tracker.track_external(network, optimizer, *pixels, *batch.labels.values())
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(tracker.mark_gradient)  # type: ignore[no-untyped-call]
    with tracker:
        step()
    state = _bytes(_state(optimizer))
    frozen = _bytes(p for p in network.parameters() if not p.requires_grad)
    return Trace(*(_sorted(found, state, frozen) for found in tracker.fullest))


def _sorted(found: dict[Any, int], state: int, frozen: int) -> StepMemory:
    """The tracker's kinds as ours: it takes all that the optimiser makes for state, and a target for weights."""
    return StepMemory(
        parameters=found[_MemRefType.PARAM] - frozen, target=frozen, buffers=found[_MemRefType.BUFFER],
        gradients=found[_MemRefType.GRAD], optimizer=state,
        activations=found[_MemRefType.ACT] + found[_MemRefType.OTH],
        temporaries=found[_MemRefType.TEMP] + found[_MemRefType.OPT] - state,
    )


class _Tracker(MemTracker):
    """Torch's tracker without its table of modules, which knows neither frozen weights nor a module called twice."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.fullest: tuple[dict[Any, int], dict[Any, int]] = ({}, {})

    def mark_gradient(self, parameter: Tensor) -> None:
        """Count the gradient of a parameter as one."""
        assert parameter.grad is not None
        self._update_and_maybe_create_winfos(parameter.grad, _MemRefType.GRAD)

    def _update_peak_stats(self, peak_state: Any) -> None:
        now, best = self._curr_mem_snap.get(self.device, {}), self.fullest[int(self._in_opt)]
        if now and now["Total"] > best.get("Total", 0):
            best.update(now)

    def _pre_fw_hook(self, module: nn.Module, inputs: Any) -> None:
        pass

    def _post_fw_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        pass

    def _pre_bw_hook(self, module: nn.Module, args: Any) -> None:
        pass

    def _post_bw_hook(self, module: nn.Module, args: Any) -> None:
        pass


def per_process(
    trace: Trace, network: Network, optimizer: Optimizer, processes: int, strategy: Kept
) -> StepMemory:
    """What one of several processes holds at its fullest moment, from a step with its own part of a batch.

    `alone`: as traced. `ddp`: everything, and room for all gradients, which its buckets never give back. `fsdp`: a part
    of weights, gradients, optimiser state and target, each cut along its first axis and rounded up; and, whole, what
    belongs to no stage or head, the two largest stages or heads, which are computed one after the other, and gradients
    of one on their way. With bfloat16 this may be a quarter too much: weights that travel as such need no copies.

    Args:
        trace: Of the step.
        network: That was traced.
        optimizer: Of it.
        processes: 1 or more.
        strategy: How they train together.
    """
    if strategy == "alone":
        return trace.fullest
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if strategy == "ddp":
        return Trace(*(dataclasses.replace(x, gradients=_bytes(trained)) for x in trace)).fullest
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    parts = {
        "parameters": _part(trained, processes), "target": _part(frozen, processes),
        "optimizer": _part(_state(optimizer), processes),
    }
    share = parts["parameters"] / _bytes(trained)
    passes, update = (dataclasses.replace(x, gradients=round(share * x.gradients), **parts) for x in trace)
    return Trace(
        dataclasses.replace(passes, gathered=_gathered(network)),
        dataclasses.replace(update, temporaries=round(share * update.temporaries)),
    ).fullest


def _gathered(network: Network) -> int:
    """Bytes of what FSDP2 puts together, as `parallel.wrap` groups it."""
    groups = [*trunk(network.method), *heads(network.method)]
    root = sum(p.numel() for p in network.parameters()) - sum(p.numel() for g in groups for p in g.parameters())
    low = network.recipe.autocast if not any(is_standardised(m) for m in network.modules()) else None
    width = (low or torch.float32).itemsize
    sizes = sorted((sum(p.numel() for p in group.parameters()) for group in groups), reverse=True)
    learned = max((sum(p.numel() for p in g.parameters() if p.requires_grad) for g in groups), default=0)
    # Gradients are added up in float32 on their way to the others; before that they are in the trace.
    return 4 * root + width * sum(sizes[:2]) + 4 * learned


def _state(optimizer: Optimizer) -> list[Tensor]:
    return [value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _part(tensors: Sequence[Tensor], processes: int) -> int:
    """Bytes of the largest part of tensors that are cut along their first axis; scalars stay whole."""
    return sum(x.nbytes if not x.ndim else -(-len(x) // processes) * (x.nbytes // max(1, len(x))) for x in tensors)
