"""Softmax classification in which unlabelled rows take no part."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sciencessl.losses.checks import check_classes
from sciencessl.losses.precision import full_precision
from sciencessl.spec import UNLABELLED


def softmax_nll(logits: Tensor, target: Tensor) -> Tensor:
    """Negative log probability of each row's class; exactly 0 with exactly zero gradient for an unlabelled row.

    Args:
        logits: (B, C), any floating dtype.
        target: (B,) int64 in 0 to C - 1, or `UNLABELLED` (-1).

    Returns:
        (B,) in nats, 0 or more, float32 at least (also under autocast).

    Raises:
        DataError: For a class outside -1 to C - 1, when `target` is on the CPU (`losses.checks` says why
            only there).

    Source: cross-entropy; the ignored value as in the hybrid card's classification mode (arXiv 2206.11927).
    """
    check_classes(target, logits.shape[1])
    (logits,) = full_precision(logits)
    labelled = (target != UNLABELLED).unsqueeze(1)
    # An ignored row has zero gradient only where its softmax is finite: 0 * NaN would spread.
    return functional.cross_entropy(
        torch.where(labelled, logits, 0.0), target, ignore_index=UNLABELLED, reduction="none"
    )
