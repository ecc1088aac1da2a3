"""Checkpoints: whole or absent, loaded without unpickling code, and never mistaken for those of another run."""

from __future__ import annotations

import io
import os
import re
import secrets
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from sciencessl.errors import RunError

SCHEMA = 1
"""Version of what a checkpoint holds."""
KEEP = 2


class AtomicCheckpointIO(CheckpointIO):
    """Writes to a temporary name, flushes, renames; reads with `weights_only=True`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("wb") as stream:
                stream.write(buffer.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint.

        Raises:
            RunError: When it is torn, or holds more than plain tensors and values.
        """
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete one checkpoint."""
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        RunError: When it is missing, torn, or not of this schema.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such checkpoint.") from None
    except (RuntimeError, UnpicklingError, EOFError, ValueError, OSError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__}): it is torn or no checkpoint of ours.") from error
    schema = content.get("sciencessl", {}).get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path} is a checkpoint of schema {schema}, expected {SCHEMA}.")
    found: dict[str, Any] = content
    return found


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lies."""
    return run / "checkpoints" / f"step-{step:08d}.ckpt"


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*.ckpt") if re.fullmatch(r"step-\d+", path.stem))


def latest_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and its content; None where none was written.

    Raises:
        RunError: When there are checkpoints but none can be read.
    """
    found = checkpoints(run)
    reasons = []
    for path in reversed(found):
        try:
            return path, load_checkpoint(path)
        except RunError as error:
            reasons.append(str(error))
    if reasons:
        raise RunError(f"{run}: no checkpoint can be read. " + " ".join(reasons))
    return None


def prune(run: Path, keep: int = KEEP) -> None:
    """Delete all but the newest checkpoints."""
    for path in checkpoints(run)[:-keep]:
        path.unlink(missing_ok=True)
