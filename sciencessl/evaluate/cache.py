"""Arrays kept on disk between calls: written whole, checked when read, computed again where damaged."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from sciencessl.store.files import atomic_stream

DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a file that is missing, torn or changed can raise; the archive carries a checksum of each array."""


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write named arrays under a temporary name, then rename: a reader sees all of them or nothing."""
    with atomic_stream(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file, or None where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except DAMAGED:
        return None
