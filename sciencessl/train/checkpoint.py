"""Checkpoints: whole or absent, loaded without unpickling code, and never mistaken for those of another run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from sciencessl.errors import RunError
from sciencessl.store.files import atomic_stream

SCHEMA = 2
"""Version of what a checkpoint holds."""
KEEP = 2


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all: under a temporary name, flushed, renamed."""
    with atomic_stream(path) as stream:
        torch.save(content, stream)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        RunError: When it is missing, torn, or not of this schema.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such checkpoint.") from None
    except Exception as error:  # reading damaged bytes can raise anything
        kind = type(error).__name__
        raise RunError(f"{path} cannot be read ({kind}): it is torn or no checkpoint of ours.") from error
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


def latest_checkpoint(run: Path, tell: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and its content; None where none was written.

    Args:
        run: Run folder.
        tell: Receives a line for each newer one that had to be passed over.

    Raises:
        RunError: When there are checkpoints but none can be read.
    """
    reasons = []
    for path in reversed(checkpoints(run)):
        try:
            content = load_checkpoint(path)
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
    return int(content["sciencessl"]["taken"])


def check_identity(path: Path, content: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """A checkpoint continues only the run that it is from.

    Args:
        path: Of the checkpoint, for the message.
        content: Its content.
        identity: What this run has.

    Raises:
        RunError: Naming the first thing that differs.
    """
    theirs = content["sciencessl"]["identity"]
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
    theirs: Sequence[Mapping[str, Any]] = content["sciencessl"]["loader"]
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
    for path in checkpoints(run)[:-keep]:
        path.unlink(missing_ok=True)
