"""How well an order mixes: batches compared with independent draws, in one number a column."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sciencessl.data.order import Int64, Order

BATCH, WINDOWS = 256, 64
"""Samples of a batch that is looked at, and how many batches of an epoch."""


class Mixing(NamedTuple):
    """A mixing score.

    Attributes:
        score: 1 as by chance; above 1 alike samples come together, below 1 they keep apart.
        error: Its standard error: what differs by less is chance.
    """

    score: float
    error: float


def mixing_score(order: Order, codes: Int64, windows: int = WINDOWS) -> Mixing:
    """Chi-square of the composition of batches, divided by what it is on average when batches are drawn at random.

    For each of some batches, spread over the first epoch, sum over categories of (count - expected)**2 / expected. Of
    B samples drawn without replacement from N in K categories its mean is (K - 1) (N - B) / (N - 1), whatever their
    shares (Pearson 1900; the finite population enters by the variance of the hypergeometric distribution). With many
    categories the score is about 1 plus the others of its category that a sample meets in its batch beyond chance.

    Args:
        order: Over the N samples; its batch is B.
        codes: (N,) category numbers from 0.
        windows: Most batches that are looked at.

    Raises:
        ValueError: When the epoch has fewer than two batches, or one category holds all.
    """
    n, batch = order.n, order.batch
    sizes = np.bincount(codes, minlength=1)
    categories = int((sizes > 0).sum())
    if n < 2 * batch or categories < 2:
        raise ValueError(f"mixing needs 2 batches and 2 categories; {n} samples in batches of {batch}, {categories}.")
    steps = np.unique(np.linspace(0, n // batch - 1, windows).astype(np.int64))
    chance = (categories - 1) * (n - batch) / (n - 1)
    found = np.array([_chi_square(codes[order.positions(int(step))], sizes) for step in steps]) / chance
    return Mixing(float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))))


def _chi_square(codes: Int64, sizes: Int64) -> float:
    # Written as sum(count**2 / expected) - B, it needs only the categories that occur.
    seen, counts = np.unique(codes, return_counts=True)
    expected = len(codes) * sizes[seen] / sizes.sum()
    return float((counts**2 / expected).sum() - len(codes))
