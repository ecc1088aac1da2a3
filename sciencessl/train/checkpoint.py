"""Checkpoints: whole or absent, loaded without unpickling code, and never mistaken for those of another run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from sciencessl.errors import RunError
from sciencessl.store.files import write_atomic
from sciencessl.train.ranks import ALONE, Ranks

SCHEMA = 3
"""Version of what a checkpoint holds."""
ABOUT = "checkpoint.json"
DATA = ".safetensors"
KEEP = 2
PATIENCE = 1800.0
"""Seconds that rank 0 waits for what the others write."""
OLD = (
    "it is of a version before checkpoints were folders, which this one does not continue. Finish the run with the "
    "version that began it, or start a new one from its weights with --init-from."
)

Content = dict[str, Any]
"""What `checkpoint.json` holds."""


class Saver:
    """Writes the checkpoints of a run, one at a time. Every rank makes one, at the same point, and saves together.

    No rank waits for another but rank 0, which puts a checkpoint in its place when all ranks have left a receipt in
    its folder: a thread that writes never meets the collectives of training.

    Args:
        run: Run folder, the same for all ranks.
        ranks: All processes of the run.
        patience: Seconds that rank 0 waits for the others' receipts.
    """

    def __init__(self, run: Path, ranks: Ranks = ALONE, patience: float = PATIENCE) -> None:
        self._run = run
        self._ranks = ranks
        self._patience = patience
        if ranks.rank == 0:
            remove_leftovers(run)
        # Part of temporary names: a process of a killed start that still writes does not meet this one.
        self._start = _from_first(os.urandom(4).hex(), ranks)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Path] | None = None

    def save(
        self, state: Mapping[str, Tensor], about: Mapping[str, Any], own: Collection[str] = (), background: bool = False
    ) -> None:
        """Write a checkpoint, whole or not at all; then delete all but the newest `KEEP`.

        What is written is the state as it is now, also in the background. One that is still being written is waited
        for.

        Args:
            state: Name -> tensor. A DTensor is written in parts, by the ranks that hold them; a plain tensor is taken
                to be equal on all ranks, and written by rank 0.
            about: Plain values for `checkpoint.json`; `taken`, steps taken, names the checkpoint.
            own: Names in `state` of plain tensors that every rank has its own of.
            background: Return when the state is copied; errors come from the next `save` or `wait`.

        Raises:
            RunError: When a rank could not write, or rank 0 waited for another in vain.
        """
        self.wait()
        final = checkpoint_path(self._run, int(about["taken"]))
        temporary = final.with_name(f".{final.name}.{self._start}.tmp")
        content = {"schema": SCHEMA, **about, "world": self._ranks.world}
        self._pending = self._thread.submit(self._write, temporary, final, _parts(state, own, self._ranks), content)
        if not background:
            self.wait()

    def wait(self) -> None:
        """Until this rank has written its part, and rank 0 has put the whole in its place.

        Raises:
            RunError: As `save`.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def done(self) -> bool:
        """Whether nothing is being written."""
        return self._pending is None or self._pending.done()

    def _write(self, temporary: Path, final: Path, parts: dict[str, Tensor], content: Content) -> Path:
        rank = self._ranks.rank
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            receipt = _write_parts(temporary, parts, rank)
        except Exception as error:
            _leave_receipt(temporary, rank, {"error": str(error)})
            if rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise RunError(f"{final} cannot be written by rank {rank}: {error}. {KEPT}") from error
        if rank:
            _leave_receipt(temporary, rank, receipt)
            return final
        try:
            for other in range(1, self._ranks.world):
                receipt |= _await_receipt(temporary, other, self._patience)
            _commit(temporary, final, {**content, "files": receipt})
        except OSError as error:
            raise RunError(f"{final} cannot be written: {error}. {KEPT}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        prune(self._run)
        return final


KEPT = "Checkpoints from before are kept; make room or fix permissions, and go on with --resume."


def _parts(state: Mapping[str, Tensor], own: Collection[str], ranks: Ranks) -> dict[str, Tensor]:
    """Copies on the CPU of what this rank writes."""
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


def _write_parts(folder: Path, parts: dict[str, Tensor], rank: int) -> dict[str, Any]:
    """Write them into a file of this rank, flushed to the disk; a record for each file."""
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    planner.set_up_planner(parts, is_coordinator=True)
    writer.set_up_storage_writer(True)
    (plan,), _ = planner.create_global_plan([planner.create_local_plan()])
    # The writer numbers files by the place of a plan among those of all ranks.
    plan = writer.prepare_global_plan([plan] * (rank + 1))[rank]
    written = writer.write_data(planner.finish_plan(plan), planner).wait()
    names = sorted({result.storage_data.relative_path for result in written})
    return {name: _record(folder / name) for name in names}


def _record(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return {"bytes": stream.tell(), "blake2b": digest}


def _receipt(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.json"


def _leave_receipt(folder: Path, rank: int, content: Mapping[str, Any]) -> None:
    try:
        write_atomic(_receipt(folder, rank), json.dumps(content).encode())
    except OSError:
        if "error" not in content:
            raise


def _await_receipt(folder: Path, rank: int, patience: float) -> dict[str, Any]:
    until = time.monotonic() + patience
    path = _receipt(folder, rank)
    while path.name not in os.listdir(folder):  # asking for a name that is not there yet is remembered on NFS
        if time.monotonic() > until:
            raise RunError(
                f"{folder}: rank {rank} left no receipt within {patience:.0f} s, so this checkpoint is not kept. "
                "Either that process died, or its run folder is not that of rank 0: all need one shared file system."
            )
        time.sleep(0.05)
    found: dict[str, Any] = json.loads(path.read_bytes())
    if "error" in found:
        raise RunError(f"{folder}: rank {rank} could not write: {found['error']}. {KEPT}")
    return found


def _commit(temporary: Path, final: Path, content: Content) -> None:
    for path in temporary.glob("rank-*.json"):
        path.unlink()
    write_atomic(temporary / ABOUT, json.dumps(content, indent=1).encode())
    _flush_folder(temporary)
    if final.exists():  # a torn one that was passed over
        final.replace(temporary.with_suffix(".old.tmp"))
    temporary.replace(final)
    _flush_folder(final.parent)
    shutil.rmtree(temporary.with_suffix(".old.tmp"), ignore_errors=True)


def _flush_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_leftovers(run: Path) -> None:
    """Delete what killed writers left. Nobody may be writing."""
    for path in (run / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _from_first(value: Any, ranks: Ranks) -> Any:
    """The value of rank 0, on all. Every rank must call this."""
    if ranks.world == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, group=ranks.group, group_src=0)
    return values[0]


def _from_all(value: Any, ranks: Ranks) -> list[Any]:
    """The values of all ranks, on all. Every rank must call this."""
    if ranks.world == 1:
        return [value]
    values = [None] * ranks.world
    dist.all_gather_object(values, value, group=ranks.group)
    return values


def load(
    path: Path, content: Content, state: Mapping[str, Tensor], own: Collection[str] = (), ranks: Ranks = ALONE,
    besides: str = "",
) -> None:
    """Fill tensors in place from a checkpoint, whatever world size and strategy it was written with.

    Args:
        path: Of the checkpoint.
        content: As `read_checkpoint` or `latest_checkpoint` gave it.
        state: Name -> tensor, as in `Saver.save`; a DTensor's own part is read alone.
        own: Names of tensors that every rank has its own of. With another world size than before, rank r takes those
            of the rank r modulo the former world size.
        ranks: All processes of the run.
        besides: Names in the checkpoint with this prefix may be missing in `state`.

    Raises:
        RunError: When names, shapes or dtypes differ, or the files cannot be read.
    """
    former = ranks.rank % int(content["world"])
    wanted = {_own_name(name, former) if name in own else name: tensor for name, tensor in state.items()}
    with _readable(path):
        reader = HuggingFaceStorageReader(str(path))
        metadata = reader.read_metadata()
    found = {name: about for name, about in metadata.state_dict_metadata.items() if name in wanted or not (
        (besides and name.startswith(besides)) or name.rpartition("@")[0] in own
    )}
    _check_same(path, {name: _described(about) for name, about in found.items()},
                {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in wanted.items()})
    with _readable(path), torch.no_grad():
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner(wanted, metadata, is_coordinator=True)
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


def names_and_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What tensors a checkpoint holds: shape and dtype of each.

    Raises:
        RunError: When the files cannot be read.
    """
    with _readable(path):
        found = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    return {name: _described(about) for name, about in found.items()}


def _described(about: Any) -> tuple[tuple[int, ...], torch.dtype]:
    assert isinstance(about, TensorStorageMetadata)
    return tuple(about.size), about.properties.dtype


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # reading damaged bytes can raise anything
        raise RunError(f"{path} cannot be read ({type(error).__name__}: {error}): it is torn.") from error


def _check_same(path: Path, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    for name in sorted({*theirs, *mine}):
        _check(path, f"tensor {name}", theirs.get(name), mine.get(name))


def read_checkpoint(path: Path, ranks: Ranks = ALONE) -> Content:
    """What a checkpoint says of itself, when it is whole. Every rank must call this: each reads some of the files.

    Raises:
        RunError: On every rank, when it is missing, torn, or not of this schema.
    """
    content, reasons = None, []
    try:
        content = _read_about(path)
        names = sorted(content["files"])[ranks.rank :: ranks.world]
        _check_files(path, content["files"], names)
    except (RunError, OSError) as error:
        reasons.append(str(error))
    reasons = [reason for found in _from_all(reasons, ranks) for reason in found]
    if reasons or content is None:
        raise RunError(reasons[0])
    return content


def _read_about(path: Path) -> Content:
    if path.is_file():
        raise RunError(f"{path} cannot be continued: {OLD}")
    if not path.is_dir():
        raise RunError(f"{path}: there is no such checkpoint.")
    try:
        content = json.loads((path / ABOUT).read_bytes())
    except (FileNotFoundError, ValueError) as error:
        kind = type(error).__name__
        raise RunError(f"{path / ABOUT} cannot be read ({kind}): it is torn or no checkpoint of ours.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path} is a checkpoint of schema {schema}, expected {SCHEMA}.")
    found: Content = content
    return found


def _check_files(path: Path, files: Mapping[str, Any], names: Sequence[str]) -> None:
    for extra in sorted({found.name for found in path.glob(f"*{DATA}")} - set(files)):
        raise RunError(f"{path / extra} does not belong to the checkpoint: {ABOUT} does not name it.")
    for name in names:
        if not (path / name).is_file():
            raise RunError(f"{path} is torn: {name} is missing.")
        found = _record(path / name)
        for key, expected in files[name].items():
            if found[key] != expected:
                raise RunError(f"{path} is torn: {name} has {key} {found[key]}, expected {expected}.")


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    found = [path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+(\.ckpt)?", path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")))


def latest_checkpoint(run: Path, tell: Callable[[str], None], ranks: Ranks = ALONE) -> tuple[Path, Content] | None:
    """The newest checkpoint that is whole, and what it says of itself; None where none was written.

    Every rank must call this; all get the same.

    Args:
        run: Run folder.
        tell: Receives a line for each newer one that had to be passed over.
        ranks: All processes of the run.

    Raises:
        RunError: When there are checkpoints but none can be read.
    """
    reasons = []
    for path in reversed(_from_first(checkpoints(run), ranks)):
        try:
            content = read_checkpoint(path, ranks)
        except RunError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            tell(f"warning: {reason} Using the one before it, {path.name}.")
        return path, content
    if reasons:
        raise RunError(f"{run}: no checkpoint can be read. " + " ".join(reasons))
    return None


def steps_taken(content: Mapping[str, Any]) -> int:
    """Optimiser steps before a checkpoint."""
    return int(content["taken"])


def check_identity(path: Path, content: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """A checkpoint continues only the run that it is from.

    Args:
        path: Of the checkpoint, for the message.
        content: Its content.
        identity: What this run has.

    Raises:
        RunError: Naming the first thing that differs.
    """
    theirs = content["identity"]
    for name, value in identity.items():
        _check(path, name, theirs.get(name), value)


def check_loader(path: Path, content: Mapping[str, Any], state: Sequence[Mapping[str, Any]]) -> None:
    """A checkpoint continues only with the stores and tables that it was made with, and an order that agrees.

    Args:
        path: Of the checkpoint, for the message.
        content: Its content.
        state: `make_state` of this run at the step of the checkpoint.

    Raises:
        RunError: Naming the first thing that differs.
    """
    theirs: Sequence[Mapping[str, Any]] = content["loader"]
    for name in ("stores", "tables", "samples"):
        for k, (old, new) in enumerate(zip_longest(theirs, state, fillvalue=dict[str, Any]())):
            part = f" in part {k + 1} of its order" if max(len(theirs), len(state)) > 1 else ""
            _check(path, f"{name}{part}", old.get(name), new.get(name))


def _check(path: Path, name: str, theirs: object, mine: object) -> None:
    if theirs != mine:
        raise RunError(
            f"{path} was made with {name} {theirs!r}, this run has {mine!r}. Resume with what it was made with, or "
            "start a new run from its weights with --init-from."
        )


def prune(run: Path, keep: int = KEEP) -> None:
    """Delete all but the newest checkpoints."""
    for path in [found for found in checkpoints(run) if found.is_dir()][:-keep]:
        # First out of sight, so that none is ever seen in part.
        hidden = path.replace(path.with_name(f".{path.name}.tmp"))
        shutil.rmtree(hidden, ignore_errors=True)
