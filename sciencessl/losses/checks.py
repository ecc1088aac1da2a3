"""Checks of label values, made only where reading them costs no wait for a device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sciencessl.errors import DataError
from sciencessl.spec import UNLABELLED


def holds_values(tensor: Tensor) -> bool:
    """Whether this is a tensor with values, not one of torch's fake ones and not seen while compiling."""
    return type(tensor) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def check_counts(counts: Tensor) -> None:
    """Refuse negative and NaN votes, for a tensor on the CPU; elsewhere nothing, so that no step waits for a device.

    Args:
        counts: (B, A) votes.

    Raises:
        DataError: With the first offending row and column.
    """
    if counts.device.type != "cpu" or not holds_values(counts):
        return
    valid = counts >= 0
    if not bool(valid.all()):
        row, column = (~valid).nonzero()[0].tolist()
        raise DataError(
            f"vote loss: row {row}, column {column} holds {counts[row, column].item()}; votes must be 0 or more. Write "
            "rows and questions without votes as zeros, not as -1 or NaN."
        )


def check_classes(target: Tensor, classes: int) -> None:
    """Refuse class values outside -1 to `classes` - 1, for a tensor on the CPU.

    There it is one pass over B integers. On another device the answer could be had only by making the host wait in
    every step, so nothing is read: on CUDA the loss kernel itself stops with a device-side assertion, without the
    value. Call this on labels before they leave the CPU for the readable message.

    Args:
        target: (B,) int64.
        classes: C, 1 or more.

    Raises:
        DataError: With the first offending row and value.
    """
    if target.device.type != "cpu" or not holds_values(target):
        return
    valid = (target >= UNLABELLED) & (target < classes)
    if not bool(valid.all()):
        row = int((~valid).nonzero()[0])
        raise DataError(
            f"class loss: row {row} has class {int(target[row])}, but the head knows classes 0 to {classes - 1} (and "
            f"{UNLABELLED} for unlabelled). Map the label column to that range or build the head with more classes."
        )
