"""Checkpoints: whole or absent, loaded without unpickling code, and never mistaken for those of another run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import Tensor

from sciencessl.errors import RunError
from sciencessl.store.files import write_atomic
from sciencessl.train.ranks import ALONE, Ranks
from sciencessl.train.tensor_files import SUFFIX, parts_to_write, write_parts

SCHEMA = 3
"""Version of what a checkpoint holds."""
ABOUT = "checkpoint.json"
KEEP = 2
READERS = 8
"""Threads that check files; they read one each."""
PATIENCE = 600.0
"""Seconds that rank 0 waits for what the others write."""
GRACE = 30.0
"""As `PATIENCE`, when the process is about to end: the others may be gone, and nobody waits for what is written."""
OLD = (
    "it is of a version before checkpoints were folders, which this one does not continue. Finish the run with the "
    "version that began it, or start a new one from its weights with --init-from."
)

KEPT = "Earlier checkpoints are kept: when the cause is gone, go on from them with --resume."

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
        keep: Checkpoints that are kept: the newest.
    """

    def __init__(self, run: Path, ranks: Ranks = ALONE, patience: float = PATIENCE, keep: int = KEEP) -> None:
        self._run = run
        self._ranks = ranks
        self._patience = patience
        self._keep = keep
        if ranks.rank == 0:
            remove_leftovers(run)
        # Part of temporary names: a process of a killed start that still writes does not meet this one.
        self._start = ranks.from_first(lambda: os.urandom(4).hex())
        self._pending: Future[None] | None = None
        self._count = 0

    def save(
        self, state: Mapping[str, Tensor], about: Mapping[str, Any], own: Collection[str] = (), background: bool = False
    ) -> None:
        """Write a checkpoint, whole or not at all; then delete all but the newest.

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
        self._count += 1
        temporary = final.with_name(f".{final.name}.{self._start}-{self._count}.tmp")
        content = {"schema": SCHEMA, **about, "world": self._ranks.world}
        parts, pending = parts_to_write(state, own, self._ranks), Future[None]()

        def write() -> None:
            try:
                self._write(temporary, final, parts, content)
            except Exception as error:
                pending.set_exception(error)
            else:
                pending.set_result(None)

        self._pending = pending
        # Python waits for such a thread before it ends: what was begun is finished after an error too.
        threading.Thread(target=write, name=final.name).start()
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

    def _write(self, temporary: Path, final: Path, parts: dict[str, Tensor], content: Content) -> None:
        rank = self._ranks.rank
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            files = {name: _record(temporary / name) for name in write_parts(temporary, parts, rank)}
            if rank:
                _leave_receipt(temporary, rank, files)
                return
            for other in range(1, self._ranks.world):
                files |= _await_receipt(temporary, other, self._patience)
            _commit(temporary, final, {**content, "files": files})
            prune(self._run, self._keep)
        except Exception as error:
            if rank:
                with suppress(OSError):  # rank 0 has given up, or finds nothing
                    _leave_receipt(temporary, rank, {"error": str(error)})
            else:
                shutil.rmtree(temporary, ignore_errors=True)
            raise RunError(f"rank {rank} cannot write {final}: {error}. {KEPT}") from error


def _record(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return {"bytes": stream.tell(), "blake2b": digest}


def _record_or_reason(path: Path) -> dict[str, Any]:
    try:
        return _record(path)
    except OSError as error:
        return {"error": error.strerror}


def _words(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.items())


def _digest(content: Content) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _receipt(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.json"


def _leave_receipt(folder: Path, rank: int, content: Mapping[str, Any]) -> None:
    write_atomic(_receipt(folder, rank), json.dumps(content).encode())


def _await_receipt(folder: Path, rank: int, patience: float) -> dict[str, Any]:
    began = time.monotonic()
    path = _receipt(folder, rank)
    while path.name not in os.listdir(folder):  # asking for a name that is not there yet is remembered on NFS
        if not threading.main_thread().is_alive():
            patience = min(patience, time.monotonic() - began + GRACE)
        if time.monotonic() > began + patience:
            raise TimeoutError(
                f"rank {rank} has written nothing in {patience:.0f} s; either that process died, or its run folder is "
                "another one than that of rank 0 (all need one shared file system)"
            )
        time.sleep(0.05)
    found: dict[str, Any] = json.loads(path.read_bytes())
    if "error" in found:
        raise OSError(f"rank {rank} says: {found['error']}")
    return found


def _commit(temporary: Path, final: Path, content: Content) -> None:
    for path in temporary.glob("rank-*.json"):
        path.unlink()
    write_atomic(temporary / ABOUT, json.dumps({**content, "blake2b": _digest(content)}, indent=1).encode())
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


def read_checkpoint(path: Path) -> Content:
    """What a checkpoint says of itself, when it is whole: all files are read once.

    Raises:
        RunError: When it is missing, torn, or not of this schema.
    """
    content = _read_about(path)
    expected = content["files"]
    for extra in sorted({found.name for found in path.glob(f"*{SUFFIX}")} - set(expected)):
        raise RunError(f"{path / extra} does not belong to the checkpoint: {ABOUT} does not name it.")
    with ThreadPoolExecutor(READERS) as pool:
        for name, found in zip(expected, pool.map(_record_or_reason, [path / name for name in expected]), strict=True):
            if found != expected[name]:
                raise RunError(f"{path} is torn: {name} has {_words(found)}, expected {_words(expected[name])}.")
    return content


def _read_about(path: Path) -> Content:
    if path.is_file():
        raise RunError(f"{path} cannot be continued: {OLD}")
    if not path.is_dir():
        raise RunError(f"{path}: there is no such checkpoint.")
    try:
        content = json.loads((path / ABOUT).read_bytes())
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise RunError(f"{path / ABOUT} cannot be read ({kind}): it is torn or no checkpoint of ours.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path} is a checkpoint of schema {schema}, expected {SCHEMA}.")
    found: Content = content
    if found.pop("blake2b", None) != _digest(found):
        raise RunError(f"{path} is torn: {ABOUT} does not match its own digest.")
    return found


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    found = [path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+(\.ckpt)?", path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")))


def latest_checkpoint(run: Path, tell: Callable[[str], None]) -> tuple[Path, Content] | None:
    """The newest checkpoint that is whole, and what it says of itself; None where none was written.

    Args:
        run: Run folder.
        tell: Receives a line for each newer one that had to be passed over.

    Raises:
        RunError: When there are checkpoints but none can be read.
    """
    reasons = []
    for path in reversed(checkpoints(run)):
        try:
            content = read_checkpoint(path)
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
    theirs = content.get("identity", {})
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
    theirs: Sequence[Mapping[str, Any]] = content.get("loader", ())
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
