"""Pairs of different samples that a model finds alike or unlike enough to learn from: masks, and means over them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Masks (B, N) of pairs of different samples, without gradient.

    Attributes:
        alike: Those that are taken to be alike.
        unlike: Those that are taken to be unlike.
    """

    alike: Tensor
    unlike: Tensor


@torch.no_grad()
def choose_pairs(scores: Tensor, above: float, below: float, first: int = 0) -> Pairs:
    """Pairs with a score of `above` or more, and of `below` or less; never a sample with itself.

    Args:
        scores: (B, N): how alike sample i of this process and sample j are.
        above: Of alike pairs.
        below: Of unlike pairs.
        first: Column of sample 0: sample i is sample `first + i` of the N.

    Returns:
        Two masks (B, N).

    Source: thresholds of CCSL and CSSL (arXiv 2204.04545); the masks are our definition.
    """
    rows = torch.arange(scores.shape[0], device=scores.device) + first
    others = torch.arange(scores.shape[1], device=scores.device) != rows.unsqueeze(1)
    return Pairs((scores >= above) & others, (scores <= below) & others)


@torch.no_grad()
def best_of_row(scores: Tensor, mask: Tensor, most: int) -> Tensor:
    """A mask without all but the `most` highest scores of each row; 0 keeps them all.

    Args:
        scores: (B, N).
        mask: (B, N).
        most: 0 or more.

    Returns:
        (B, N) mask, a part of the given one; of equal scores any.

    Source: ours: at the start all scores are high, and the mask holds nearly every pair.
    """
    if most == 0 or most >= scores.shape[1]:
        return mask
    best = torch.where(mask, scores, -torch.inf).topk(most, dim=1).indices
    return mask & torch.zeros_like(mask).scatter(1, best, True)


def chosen_mean(costs: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean cost of the pairs in a mask; exactly 0, with exactly zero gradient, where there is none.

    Args:
        costs: (B, N), finite.
        mask: (B, N).
        count: Scalar, what the sum is divided by where other processes have pairs as well; by default those here.

    Returns:
        Scalar.

    Source: ours.
    """
    count = mask.sum() if count is None else count
    return torch.where(mask, costs, 0.0).sum() / count.clamp(min=1)
