"""Tensors in safetensors files, one for each process that holds some: what `torch.distributed.checkpoint` does for us.

Its planners and its reader and writer for safetensors are called directly, each process for itself. Its `save` and
`load` would make the processes agree first, by collectives that a thread cannot call while training calls its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from sciencessl.errors import RunError
from sciencessl.train.ranks import ALONE, Ranks

SUFFIX = ".safetensors"


class Kind(NamedTuple):
    """Of a whole tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} of shape {self.shape}"


def parts_to_write(state: Mapping[str, Tensor], own: Collection[str], ranks: Ranks) -> dict[str, Tensor]:
    """Copies on the CPU of what this rank writes.

    Args:
        state: Name -> tensor. Each rank has its part of a DTensor; plain tensors are equal on all, and rank 0 writes.
        own: Names of plain tensors that every rank has its own of.
        ranks: All processes of the run.
    """
    parts: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if isinstance(tensor, DTensor):
            if (part := _shard(tensor)) is not None:
                parts[name] = part
        elif name in own:
            parts[_own_name(name, ranks.rank)] = _copy(tensor)
        elif ranks.rank == 0:
            parts[name] = _copy(tensor)
    return parts


def _own_name(name: str, rank: int) -> str:
    return f"{name}@{rank}"


def _copy(tensor: Tensor) -> Tensor:
    """Contiguous, as safetensors wants it."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def _shard(tensor: DTensor) -> Tensor | None:
    """A copy of this rank's part that tells torch where in the whole it belongs; None where it has no part."""
    local = tensor.to_local()
    if not local.numel() and tensor.numel():
        return None
    (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    part = _copy(local)
    fields = {
        "global_shape": tuple(tensor.shape),
        "global_offsets": (tuple(chunk.offsets),),
        "local_offsets": ((0,) * local.ndim,),
        "local_sizes": (tuple(local.shape),),
    }
    for name, value in fields.items():  # torch.distributed.checkpoint.CheckpointableTensor
        setattr(part, name, value)
    return part


def write_parts(folder: Path, parts: dict[str, Tensor], rank: int) -> list[str]:
    """Write what `parts_to_write` gave into a file of this rank, flushed to the disk.

    Returns:
        The names of the files: one, or none where there are no parts.

    Raises:
        OSError: As the file system says.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    writer.per_thread_copy_ahead = 0  # all is on the CPU; else torch opens the first GPU of the machine, in each rank
    planner.set_up_planner(parts, is_coordinator=True)
    writer.set_up_storage_writer(True)
    (plan,), _ = planner.create_global_plan([planner.create_local_plan()])
    # The writer numbers files by the place of a plan among those of all ranks.
    plan = writer.prepare_global_plan([plan] * (rank + 1))[rank]
    written = writer.write_data(planner.finish_plan(plan), planner).wait()
    return sorted({result.storage_data.relative_path for result in written})


def read_kinds(folder: Path) -> dict[str, Kind]:
    """What tensors there are.

    Raises:
        RunError: When the files cannot be read.
    """
    return _kinds(_read_metadata(folder))


def read_into(
    folder: Path, state: Mapping[str, Tensor], own: Collection[str] = (), ranks: Ranks = ALONE, former_world: int = 1,
    besides: str | tuple[str, ...] = "",
) -> None:
    """Fill tensors in place, whatever world size and strategy they were written with; of a DTensor only its part.

    Args:
        folder: Of the files.
        state: Name -> tensor, as in `parts_to_write`.
        own: Names of tensors that every rank has its own of. With another world size than before, rank r takes those
            of the rank r modulo the former world size.
        ranks: All processes of the run.
        former_world: How many there were.
        besides: Names in the files with this prefix, or one of these, may be missing in `state`.

    Raises:
        RunError: When names, shapes or dtypes differ, or the files cannot be read.
    """
    former = ranks.rank % former_world
    wanted = {_own_name(name, former) if name in own else name: tensor for name, tensor in state.items()}
    metadata = _read_metadata(folder)
    found = {
        name: kind for name, kind in _kinds(metadata).items()
        if name in wanted or not ((besides and name.startswith(besides)) or name.rpartition("@")[0] in own)
    }
    _check_same(folder, found, {name: Kind(tuple(tensor.shape), tensor.dtype) for name, tensor in wanted.items()})
    with _readable(folder), torch.no_grad():
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner(wanted, metadata, is_coordinator=True)
        reader = HuggingFaceStorageReader(str(folder))
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


def _read_metadata(folder: Path) -> Metadata:
    with _readable(folder):
        return HuggingFaceStorageReader(str(folder)).read_metadata()


def _kinds(metadata: Metadata) -> dict[str, Kind]:
    found = metadata.state_dict_metadata.items()
    return {k: Kind(tuple(v.size), v.properties.dtype) for k, v in found if isinstance(v, TensorStorageMetadata)}


def _check_same(folder: Path, theirs: Mapping[str, Kind], mine: Mapping[str, Kind]) -> None:
    differing = [name for name in sorted({*theirs, *mine}) if theirs.get(name) != mine.get(name)]
    if differing:
        name = differing[0]
        raise RunError(
            f"{folder} is of another model: tensor {name} is {theirs.get(name, 'missing')} there, and "
            f"{mine.get(name, 'missing')} in this run; {len(differing)} tensors differ. Resume with what it was made "
            "with, or start a new run from its weights with --init-from."
        )


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # reading damaged bytes can raise anything
        raise RunError(f"{folder} cannot be read ({type(error).__name__}: {error}): it is torn.") from error
