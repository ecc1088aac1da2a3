"""SwAV: balanced soft codes of the crops of a batch (Sinkhorn-Knopp), and their prediction from other crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision

AllReduce = Callable[[Tensor, Literal["sum", "max"]], Tensor]
"""A tensor of one process and an operation -> its element-wise sum or maximum over all processes."""


def _alone(tensor: Tensor, operation: Literal["sum", "max"]) -> Tensor:
    return tensor


@torch.no_grad()
def sinkhorn_codes(scores: Tensor, epsilon: float, iterations: int, all_reduce: AllReduce = _alone) -> Tensor:
    """Soft codes that use all prototypes alike: the transport plan of `exp(scores / epsilon)`, one row a sample.

    Each iteration makes every prototype weigh B / P over the whole batch, then every sample weigh 1. With few
    iterations or a small epsilon the first is not reached; the second always is. Adding a constant to all scores
    changes nothing.

    In the logarithm, so that no score overflows or leaves a sample without a code, in any precision. After the first
    step no prototype's weight is below 1 / P: plain sums over the batch are then safe, and each costs one collective.

    Args:
        scores: (B, P) cosines of samples and prototypes, any floating dtype; of this process alone where there are
            several, and then P is the same and B may differ.
        epsilon: Temperature of the plan, above 0; SEER takes 0.03, the SwAV paper 0.05.
        iterations: 1 or more; SEER takes 10, the SwAV paper 3.
        all_reduce: How sums and maxima over the batch go over all processes; (P,) tensors, one a step and one before.

    Returns:
        (B, P) of float32 at least, 0 or more, rows summing to 1; without gradient.

    Raises:
        ConfigError: For an epsilon or a number of iterations outside its range.

    Source: SwAV (arXiv 2006.09882), its published listing, with SEER's numbers (arXiv 2103.01988); the logarithm is
    ours.
    """
    if not epsilon > 0 or iterations < 1:
        raise ConfigError(
            f"codes: epsilon is {epsilon} and iterations {iterations}; epsilon must be above 0, iterations 1 or more."
        )
    (scores,) = full_precision(scores)
    logs = scores / epsilon
    # The scale of a prototype is arbitrary before the first step: its best sample at 0 keeps the sum above 1.
    logs = logs - all_reduce(logs.amax(dim=0), "max")
    for _ in range(iterations):
        logs = logs - all_reduce(logs.exp().sum(dim=0), "sum").log()
        logs = logs.log_softmax(dim=1)
    return logs.exp()


def swapped_prediction(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float) -> Tensor:
    """Cross-entropy of the codes of some crops and the predictions of all other crops of the same samples.

    `mean over i of mean over p != i of -sum_k q_ik log softmax(s_p / T)_k`, for the crops i that have codes. Gradient
    reaches the scores alone. float32 at least, under autocast too.

    Args:
        scores: V entries, one a crop, (B, P) cosines of its rows and the prototypes.
        codes: A entries, 1 to V, the codes of the first A crops, (B, P) with rows summing to 1.
        temperature: T, above 0; 0.1 in SwAV and SEER.

    Returns:
        (B,) in nats, 0 or more: log P for predictions that know nothing.

    Raises:
        ConfigError: For fewer than two crops, no codes or more than crops, shapes that differ, or a temperature that
            is not above 0.

    Source: SwAV (arXiv 2006.09882), equations 1 and 6; which crops are predicted: SEER (arXiv 2103.01988) and its code.
    """
    shapes = {tuple(tensor.shape) for tensor in (*scores, *codes)}
    if len(scores) < 2 or not 1 <= len(codes) <= len(scores) or len(shapes) != 1 or not temperature > 0:
        raise ConfigError(
            f"swapped prediction: {len(scores)} crops with scores and {len(codes)} with codes, of shapes "
            f"{sorted(shapes)}, temperature {temperature}; expected two crops or more, codes of the first of them, one "
            "shape (B, P) for all, and a temperature above 0."
        )
    logs = [full_precision(s)[0].div(temperature).log_softmax(dim=1) for s in scores]
    rows = torch.zeros_like(logs[0][:, 0])
    for i, code in enumerate(codes):
        for p, log in enumerate(logs):
            if p != i:
                rows = rows - (code.detach() * log).sum(dim=1)
    return rows / (len(codes) * (len(scores) - 1))
