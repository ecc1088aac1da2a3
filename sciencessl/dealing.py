"""Dealing whole units (sites, patients) to parts so that each part has its share of every class."""

from __future__ import annotations

import numpy as np

MOST_SWAPPED = 400
"""Units up to which pairs are tried for a swap as well: their number grows as its square."""


def deal_units(counts: np.ndarray, shares: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """The part of each unit, so that shares of every class, and of all samples, are as even as whole units allow.

    What is minimised is the sum over classes k (and over all samples as one more) and parts s of
    (f_sk - p_s)^2 / p_s, with f_sk the fraction of class k that lies in part s and p_s the share of the part: a
    chi-square distance. Units are dealt largest first, each to where it helps most, then moved and swapped as long as
    that helps: a local optimum, and a pure function of the arguments that does not depend on the order of units. Of two
    equal shares neither stays empty where there are units enough. Source: ours; the aim is that of site-preserved
    cross-validation (Howard et al. 2021, Nature Communications 12, 4423), which solves it by quadratic programming.

    Args:
        counts: (U, K) samples of each class in each unit, 0 or more; every unit has one.
        shares: (S,) of the parts, 0 or more, summing to 1; a part of share 0 gets nothing.
        priority: (U,) numbers, all different, that decide among equals.

    Returns:
        (U,) int64 numbers of parts.
    """
    weights = np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1).astype(np.float64)
    weights = weights[:, weights.sum(axis=0) > 0] / np.maximum(weights.sum(axis=0)[weights.sum(axis=0) > 0], 1.0)
    parts = np.flatnonzero(shares > 0)
    wanted = np.asarray(shares, np.float64)[parts]
    order = np.lexsort((priority, -weights.sum(axis=1)))
    part = np.full(len(weights), -1)
    filled = np.zeros((len(parts), weights.shape[1]))
    for unit in order:
        part[unit] = int(np.argmin(_added(filled, weights[unit], wanted)))
        filled[part[unit]] += weights[unit]
    while _moved(part, filled, weights, wanted, order) or _swapped(part, filled, weights, wanted, order):
        pass
    dealt: np.ndarray = parts[part]
    return dealt


_GAIN = 1e-12
"""Less than this is float noise, and would let two equal deals alternate."""


def _added(filled: np.ndarray, weight: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(S,) how much a unit adds to what is minimised, by the part that it joins."""
    lack = filled - wanted[:, None]
    grown: np.ndarray = ((2 * lack + weight) * weight).sum(axis=1) / wanted
    return grown


def _moved(
    part: np.ndarray, filled: np.ndarray, weights: np.ndarray, wanted: np.ndarray, order: np.ndarray
) -> bool:
    """Move units one by one where that helps, in place; whether any was."""
    moved = False
    for unit in order:
        old = part[unit]
        filled[old] -= weights[unit]
        cost = _added(filled, weights[unit], wanted)
        best = int(np.argmin(cost))
        if cost[best] < cost[old] - _GAIN:
            part[unit], moved = best, True
        filled[part[unit]] += weights[unit]
    return moved


def _swapped(
    part: np.ndarray, filled: np.ndarray, weights: np.ndarray, wanted: np.ndarray, order: np.ndarray
) -> bool:
    """Swap the first two units that are better off so, in place; whether there are two."""
    if len(order) > MOST_SWAPPED:
        return False
    lack = (filled - wanted[:, None]) / wanted[:, None]
    for unit in order:
        others = order[part[order] != part[unit]]
        change = weights[unit] - weights[others]  # what the others' parts win, and that of the unit loses
        here, there = part[unit], part[others]
        gain = (change * (2 * (lack[there] - lack[here]) + change * (1 / wanted[here] + 1 / wanted[there])[:, None])
                ).sum(axis=1)
        if len(others) and gain.min() < -_GAIN:
            other = others[int(gain.argmin())]
            filled[part[other]] += weights[unit] - weights[other]
            filled[here] += weights[other] - weights[unit]
            part[unit], part[other] = part[other], here
            return True
    return False
