"""How often each sample is drawn, so that clusters of a hierarchy come as evenly as a budget allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sciencessl.errors import ConfigError

Float64 = npt.NDArray[np.float64]


def water_fill(sizes: npt.ArrayLike, budget: float) -> Float64:
    """Shares of a budget: as even as possible, and none larger than its size.

    Share i is min(sizes[i], level) with one level for all, so who has less than an even share gives all that it has,
    and the others share the rest evenly. Source: the sampling step of Vo et al. (2024, arXiv:2405.15613), as recalled
    from the text; that shares are real numbers, which are expected counts, is ours.

    Args:
        sizes: (k,) sizes, 0 or more.
        budget: 0 or more.

    Returns:
        (k,) shares; their sum is the budget, or all sizes where it is larger.

    Raises:
        ConfigError: For sizes or a budget that are negative or not finite.
    """
    given = np.asarray(sizes, dtype=np.float64)
    if given.ndim != 1 or not (np.isfinite(given) & (given >= 0)).all():
        raise ConfigError(f"sizes to share a budget among are {given.shape}; expected (k,) finite numbers from 0.")
    if not 0 <= budget < math.inf:
        raise ConfigError(f"the budget is {budget}; it must be a finite number of 0 or more.")
    if budget >= given.sum():
        return given.copy()
    ascending = np.sort(given)
    full = np.concatenate([[0.0], np.cumsum(ascending)[:-1]])
    levels = (budget - full) / np.arange(len(given), 0, -1)
    # With the i smallest full, the level must fill no further one; rounding may deny that to all of them.
    fits = levels <= ascending
    fits[-1] = True
    shares: Float64 = np.minimum(given, levels[np.argmax(fits)])
    return shares


def balanced_counts(labels: Sequence[np.ndarray], budget: float) -> Float64:
    """Expected draws of each sample when a budget is shared evenly at each level of a hierarchy, from the top down.

    The budget is shared among the clusters of the top level by `water_fill`, the share of each among the clusters in
    it, and so on; samples of one cluster of the lowest level share evenly. Source: Vo et al. (2024, arXiv:2405.15613),
    hierarchical sampling with random draws in the lowest clusters, as recalled from the text.

    Args:
        labels: From the lowest level up: (n,) cluster of each sample, (k1,) cluster of each of these at the next
            level...; numbers from 0.
        budget: Draws in all, 0 or more.

    Returns:
        (n,) numbers from 0 to 1, whose sum is the budget, or n where it is larger.

    Raises:
        ConfigError: Without a level, for a budget as `water_fill`, or labels that do not belong together.
    """
    sizes = cluster_sizes(labels)
    shares = water_fill(sizes[-1], budget)
    for parents, children in zip(labels[:0:-1], sizes[-2::-1], strict=True):
        own = np.zeros(len(children))
        for parent, members in enumerate(members_of(parents, len(shares))):
            own[members] = water_fill(children[members], min(float(shares[parent]), float(children[members].sum())))
        shares = own
    each = np.divide(shares, sizes[0], out=np.zeros_like(shares), where=sizes[0] > 0)
    found: Float64 = each[labels[0]]
    return found


def cluster_sizes(labels: Sequence[np.ndarray]) -> list[Float64]:
    """Samples in each cluster, for each level from the lowest up.

    Raises:
        ConfigError: As `balanced_counts`.
    """
    if not labels:
        raise ConfigError("a hierarchy needs a level of clusters or more, got none.")
    found, weights = list[Float64](), np.ones(len(labels[0]))
    for level, own in enumerate(labels):
        wrong = len(own) != len(weights) or (len(own) and own.min() < 0)
        if wrong:
            raise ConfigError(f"labels of level {level + 1} are {own.shape} for {len(weights)} clusters or samples "
                              "below it; expected one number from 0 for each.")
        # The level above names how many clusters there are, where its last ones are empty.
        k = len(labels[level + 1]) if level + 1 < len(labels) else 0
        weights = np.bincount(own, weights, minlength=k).astype(np.float64)
        found.append(weights)
    return found


def members_of(labels: np.ndarray, k: int) -> list[np.ndarray]:
    """Positions with each label 0 to k - 1, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, k)))


def effective_number(shares: npt.ArrayLike) -> float:
    """Clusters that would be as diverse if they were equal: the exponential of the entropy of (k,) shares.

    k where all are equal, 1 where one has all; shares of any sum above 0.
    """
    p = np.asarray(shares, dtype=np.float64)
    p = p[p > 0] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def gini(shares: npt.ArrayLike) -> float:
    """Gini coefficient of (k,) shares: 0 where all are equal, 1 - 1/k where one has all."""
    ascending = np.sort(np.asarray(shares, dtype=np.float64))
    k = len(ascending)
    # Rank i counts from 1: G = sum (2 i - k - 1) x_i / (k sum x).
    return float(((2 * np.arange(1, k + 1) - k - 1) * ascending).sum() / (k * ascending.sum()))
