"""What a checkpoint holds, read back whole."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sciencessl.train.tensor_files import read_into, read_kinds


def stored(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint under its name."""
    state = {name: torch.empty(kind.shape, dtype=kind.dtype) for name, kind in read_kinds(path).items()}
    read_into(path, state)
    return state
