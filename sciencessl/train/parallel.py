"""One plan of how several processes train a network, in one order.

Synchronised batch norm -> activation checkpointing by stage -> compilation -> DDP or FSDP2. Each step changes modules
in place and keeps their names, so a checkpoint does not tell how it was computed.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from sciencessl.backbones.norms import is_standardised, statistics_kept
from sciencessl.config import RunConfig
from sciencessl.data.order import cut_batch
from sciencessl.errors import ConfigError
from sciencessl.optim.groups import adapts
from sciencessl.setting_groups import Checkpointing, ComputeConfig
from sciencessl.train.place import NOWHERE, Place, find_place
from sciencessl.train.ranks import ALONE, Ranks, all_ranks, block_of_ranks, others_needed
from sciencessl.train.step import Network, Wrapped
from sciencessl.train.sync_bn import convert

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it fails: longer than the first one measures at the start of a run."""


def shared_slots(run: RunConfig) -> int:
    """Slots of a micro-batch, a divisor of those of a batch: each process has equally many of them."""
    return math.gcd(cut_batch("slots", run.batch, run.slots or None), run.batch // run.accumulate)


def usable_world(processes: int, slots: int) -> int:
    """The largest number of processes that divides the slots of a micro-batch: the rest has nothing to do.

    >>> usable_world(24, 64)
    16
    """
    return max(world for world in range(1, processes + 1) if slots % world == 0)


@contextlib.contextmanager
def joined(slots: int, device: str, tell: Callable[[str], None]) -> Iterator[tuple[Ranks, torch.device] | None]:
    """Meet the other processes of the run, and leave them at the end; those of a caller that has met them are taken.

    Args:
        slots: Of a micro-batch: each rank computes as many of them.
        device: `cpu`, `cuda` or `auto`.
        tell: Receives a line when processes are left over.

    Yields:
        The ranks and the device of this process; None in a process that is not needed, because the number of
        processes does not divide the slots: a node was lost, say.

    Raises:
        ConfigError: Where the launcher contradicts itself, or the caller's processes do not divide the slots.
        LostRankError: When another process is gone.
    """
    if dist.is_initialized():
        place = Place(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
        yield _checked(all_ranks(), slots), device_of(device, place)
        return
    place = find_place()
    own = device_of(device, place)
    world = usable_world(place.world, slots)
    if world < place.world and place.rank == 0:
        tell(f"{place.world} processes cannot share the {slots} slots of a micro-batch evenly: {world} train, "
             f"{place.world - world} do nothing")
    if place.rank >= world:
        yield None
        return
    if world == 1:
        yield ALONE, own
        return
    if own.type == "cuda":
        torch.cuda.set_device(own)
    with others_needed():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", place.meeting, PATIENCE, world, place.rank,
        )
        try:
            yield all_ranks(), own
        finally:
            dist.destroy_process_group()


def _checked(ranks: Ranks, slots: int) -> Ranks:
    if slots % ranks.world:
        raise ConfigError(f"{ranks.world} processes cannot share the {slots} slots of a micro-batch evenly; start "
                          f"{usable_world(ranks.world, slots)} of them, or choose another batch.")
    return ranks


def device_of(name: str, place: Place = NOWHERE) -> torch.device:
    """The device of a process: `auto` is a GPU where there is one, and each process of a machine has its own.

    Raises:
        ConfigError: When there is no GPU for it.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    seen = torch.cuda.device_count()
    if not seen:
        raise ConfigError("compute.device is cuda, and torch sees no GPU here; choose cpu or auto. `sciencessl doctor` "
                          "says what it finds.")
    if 1 < seen <= place.local_rank:
        raise ConfigError(f"process {place.local_rank} of this machine, counted from 0, has no GPU: torch sees {seen}. "
                          "Start one process for each GPU.")
    # Always with a number: Lightning asks for one. A launcher may show each process nothing but its own GPU.
    return torch.device("cuda", place.local_rank % seen)


def wrap(network: Network, compute: ComputeConfig, ranks: Ranks, device: torch.device) -> Wrapped:
    """Lay a network out for its ranks; with one of them, checkpointed and compiled where the settings say so.

    Every rank has built the same network. Afterwards its parameters may be other objects (FSDP2 makes shards of them):
    build the optimiser from the wrapped network.

    Args:
        network: On any device; changed in place.
        compute: `strategy`, `sync_bn_ranks`, `checkpointing`, `compile`.
        ranks: All processes of the run.
        device: Of this process.

    Raises:
        ConfigError: When `sync_bn_ranks` does not divide the processes, or a layer cannot be synchronised.
    """
    network.to(device)
    if ranks.world > 1:
        convert(network, block_of_ranks(compute.sync_bn_ranks or ranks.world))
        network.method.ranks = ranks
    checkpoint_activations(network.method, compute.checkpointing)
    if compute.compile:
        _compile(trunk(network.method))
    if ranks.world == 1:
        return Wrapped(network)
    return (_sharded if compute.strategy == "fsdp" else _replicated)(network, ranks)


def _compile(modules: Sequence[nn.Module]) -> None:
    # Batches have one shape, so nothing is to be general. Each stage is compiled with gradient, without, and as it is
    # computed again; torch counts all that share a class together.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(modules))
    for module in modules:
        module.compile(dynamic=False)


def _replicated(network: Network, ranks: Ranks) -> Wrapped:
    # Ranks have equal weights from the start, and buffers that are equal or their own: nothing is to be sent.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # its heir is too new
        through = DistributedDataParallel(network, process_group=ranks.group, broadcast_buffers=False,
                                          init_sync=False, gradient_as_bucket_view=True)

    def meeting(last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else through.no_sync()

    return Wrapped(network, ranks, through, meeting)


def _sharded(network: Network, ranks: Ranks) -> Wrapped:
    """FSDP2: each stage and each head a group of its own, of the target as of the online network; the rest is the root.

    With bfloat16 the weights of stages and heads travel as such, their norms apart in float32; gradients are added up
    in float32. Weights that are standardised, and the root, stay in float32 too.
    """
    device = network.device
    mesh = DeviceMesh(device.type, torch.arange(ranks.world))
    shard = functools.partial(fully_shard, mesh=mesh)
    low = network.recipe.autocast if not any(is_standardised(m) for m in network.modules()) else None
    policy = MixedPrecisionPolicy(low, reduce_dtype=torch.float32, cast_forward_inputs=False) if low else None
    for part in [*trunk(network.method), *heads(network.method)]:
        if policy is None:
            shard(part)
            continue
        if norms := [m for m in part.modules() if _is_norm(m)]:
            shard(norms)
        shard(part, mp_policy=policy)
    shard(network)

    @contextlib.contextmanager
    def meeting(last: bool) -> Iterator[None]:
        network.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield

    return Wrapped(network, ranks, None, meeting)


def full_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a module without shards. Every rank must call this."""
    state = module.state_dict()
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in state.items()}


def _is_norm(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(adapts(parameter) for parameter in own) and next(module.children(), None) is None


STAGES = re.compile(r"s\d|layer\d|stages|blocks|layers|features")
"""What timm calls the stages of an encoder, or the list of them."""


def stages(encoder: nn.Module) -> list[nn.Module]:
    """The stages of an encoder in the order that it runs them, each called as one; none where it has none of timm's
    names."""
    found: list[nn.Module] = []
    for name, child in encoder.named_children():
        if STAGES.fullmatch(name):
            listed = isinstance(child, (nn.Sequential, nn.ModuleList)) and not name[-1].isdigit()
            found += list(child.children()) if listed else [child]
    return [stage for stage in found if next(stage.parameters(), None) is not None]


def trunk(method: nn.Module) -> list[nn.Module]:
    """The stages of all encoders of a method, the target's too."""
    return [stage for child in method.children() for stage in stages(child)]


def heads(method: nn.Module) -> list[nn.Sequential]:
    """Projectors and predictors of a method: what it calls as one, and no encoder."""
    return [child for child in method.children() if isinstance(child, nn.Sequential) and not stages(child)]


class CheckpointedForward(nn.Module):
    """What `checkpoint_activations` makes of a stage: its activations are computed again in the backward pass.

    Random draws are the same the second time, and running statistics of batch norms move once.
    """

    # Left to Python where the rest is compiled: what it calls is compiled, and what it asks is known to Python alone.
    @torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call, untyped-decorator]
    def forward(self, *inputs: Any) -> Any:
        """As before."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(*inputs)
        # Layers may read a context variable, such as a mask: it is the same the second time, in whatever thread.
        forward = functools.partial(contextvars.copy_context().run, super().forward)
        return checkpoint(forward, *inputs, use_reentrant=False,
                          context_fn=lambda: (nullcontext(), statistics_kept(self)))


def checkpoint_activations(method: nn.Module, by: Checkpointing) -> None:
    """Keep only what goes into each stage, or into each block of a stage, for the backward pass.

    Args:
        method: Whose encoders are changed; modules stay the objects they are, with their names.
        by: `stage` keeps least; `block` keeps more and needs less memory while a stage is computed again; `none`.

    Raises:
        ConfigError: When the encoder has no stages.
    """
    if by == "none":
        return
    found: Sequence[nn.Module] = trunk(method)
    if not found:
        raise ConfigError("compute.checkpointing: the encoder has no stages of its own that could be computed again; "
                          "leave it at none, or choose a backbone such as a ResNet, RegNet, ConvNeXt or ViT.")
    if by == "block":
        found = [block for stage in found for block in (list(stage.children()) if _is_chain(stage) else [stage])]
    for module in found:
        module.__class__ = _checkpointed(type(module))  # type: ignore[arg-type]  # types can be hashed


def _is_chain(stage: nn.Module) -> bool:
    """Whether a stage calls its children one after the other: a Sequential, or a RegNet's stage."""
    from timm.models.regnet import RegStage

    return isinstance(stage, (nn.Sequential, RegStage))


@functools.cache
def _checkpointed(kind: type) -> type:
    return type(f"Checkpointed{kind.__name__}", (CheckpointedForward, kind), {})
