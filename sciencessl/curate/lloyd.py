"""k-means over any number of points: seeding on a sample, then passes that hold one block and the centroids.

The same points, seed and settings give the same centroids, whatever the blocks and their order: what is summed is exact
(`points.GRID`). What is not: products inside the search are rounded as the processor, its threads and the rows that are
multiplied together make it, so a point that is equally near to two centroids within 0.000001 may go to either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from sciencessl.curate.points import Float32, Int64, Points, on_grid

Float64 = npt.NDArray[np.float64]

SAME = 1e-6
"""Squared distance below which two points are one: what float32 products of unit vectors cannot tell apart."""

TILE = (256, 4096)
"""Points and centroids whose products are held together: 4 MiB, which stays in the cache."""

SAMPLE = 16
"""Points for each cluster that centroids are sought among before all points are looked at."""

ROUNDS = 64
"""Seeding draws one centroid at a time up to so many, and a share of them at a time beyond: the products are then of
matrices, and the draws still follow the distances to those before."""

GAIN = 1e-4
"""A pass that lowers the sum of squared distances by less than this share of it is the last."""

Advance = Callable[[int], None]
"""Called with how many points a pass has gone through."""


class Search:
    """Exact nearest centroids, by matrix products: |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2), a tile at a time.

    Faster than an exact search by faiss on the machine that `benchmarks/curate.py` was run on.

    Args:
        centroids: (k, F) float32.
    """

    def __init__(self, centroids: Float32) -> None:
        pieces = [centroids[start : start + TILE[1]] for start in range(0, len(centroids), TILE[1])]
        self._pieces = [(np.ascontiguousarray(piece.T), _squares(piece) / 2) for piece in pieces]

    def __call__(self, rows: Float32) -> tuple[Float32, Int64]:
        """(m,) squared distances, on `GRID`, and (m,) int64 numbers of the nearest centroids of (m, F) rows."""
        score, number = np.empty(len(rows), np.float32), np.empty(len(rows), np.int64)
        for start in range(0, len(rows), TILE[0]):
            tile = slice(start, start + TILE[0])
            score[tile], number[tile] = self._best(rows[tile])
        return on_grid(np.maximum(_squares(rows) - 2 * score, 0)), number

    def _best(self, rows: Float32) -> tuple[Float32, Int64]:
        score, number = np.full(len(rows), -np.inf, np.float32), np.zeros(len(rows), np.int64)
        for piece, (columns, half) in enumerate(self._pieces):
            products = rows @ columns
            products -= half
            own = products.argmax(axis=1)
            found = products[np.arange(len(rows)), own]
            better = found > score
            score[better], number[better] = found[better], own[better] + piece * TILE[1]
        return score, number


def _squares(rows: Float32) -> Float32:
    found: Float32 = np.einsum("ij,ij->i", rows, rows)
    return found


@dataclass(frozen=True)
class Pass:
    """What one pass over all points found.

    Attributes:
        counts: (k,) points of each centroid.
        spread: (k,) sum of their squared distances to it.
        means: (k, F) their means, float32; of an empty cluster its old centroid.
    """

    counts: Int64
    spread: Float64
    means: Float32


def assign(
    points: Points, centroids: Float32, labels: np.ndarray, distances: np.ndarray, advance: Advance = lambda done: None
) -> Int64:
    """Fill (n,) integer `labels` and (n,) float32 squared `distances` of all points; returns (k,) points of each."""
    search, counts, done = Search(centroids), np.zeros(len(centroids), np.int64), 0
    for place, rows in points.blocks():
        distances[place], own = search(rows)
        labels[place] = own
        counts += np.bincount(own, minlength=len(centroids))
        done += len(place)
        advance(done)
    return counts


def one_pass(points: Points, centroids: Float32, advance: Advance = lambda done: None) -> Pass:
    """Nearest centroids of all points, and the means of each one's points: a step of Lloyd's algorithm."""
    k, width = centroids.shape
    search, sums = Search(centroids), np.zeros((k, width))
    counts, spread, done = np.zeros(k, np.int64), np.zeros(k), 0
    for place, rows in points.blocks():
        distance, label = search(rows)
        met, compact = np.unique(label, return_inverse=True)
        members = csr_matrix((np.ones(len(rows)), (compact, np.arange(len(rows)))), (len(met), len(rows)))
        sums[met] += members @ rows.astype(np.float64)
        counts += np.bincount(label, minlength=k)
        spread += np.bincount(label, distance, minlength=k)
        done += len(place)
        advance(done)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)
    return Pass(counts, spread, on_grid(means))


def refill(found: Pass) -> Float32:
    """(k, F) centroids for the next pass: an empty cluster takes one half of the cluster with the most spread.

    Both halves start beside the old centroid, a tenth of the spread's root apart. Empty clusters beyond the number of
    clusters that can be split keep their place. Source: ours.
    """
    centroids = found.means.copy()
    empty = np.flatnonzero(found.counts == 0)
    donors = np.argsort(-found.spread, kind="stable")[: len(empty)]
    donors = donors[found.spread[donors] > SAME * np.maximum(found.counts[donors], 2)]
    width = centroids.shape[1]
    signs = np.where(np.arange(width) % 2, -1.0, 1.0)
    for target, donor in zip(empty.tolist(), donors.tolist(), strict=False):
        step = 0.1 * np.sqrt(found.spread[donor] / found.counts[donor] / width) * signs
        centroids[target], centroids[donor] = on_grid(found.means[donor] - step), on_grid(found.means[donor] + step)
    return centroids


@dataclass(frozen=True)
class Descent:
    """Where Lloyd's algorithm stands.

    Attributes:
        centroids: (k, F) float32.
        passes: Made so far.
        total: Sum of squared distances that the last one found.
        settled: Whether another one would gain less than `GAIN`.
    """

    centroids: Float32
    passes: int = 0
    total: float = np.inf
    settled: bool = False


def descend(
    points: Points, start: Descent, passes: int, keep: Callable[[Descent], None] = lambda at: None,
    advance: Advance = lambda done: None,
) -> Descent:
    """Go on until it is settled or has made that many passes; `keep` is called after each."""
    at = start
    while not at.settled and at.passes < passes:
        found = one_pass(points, at.centroids, advance)
        total, following = float(found.spread.sum()), refill(found)
        settled = total >= (1 - GAIN) * at.total and np.array_equal(following, found.means)
        at = Descent(following, at.passes + 1, total, settled)
        keep(at)
    return at


def seeds(rows: Float32, k: int, rng: np.random.Generator) -> Float32:
    """(k', F) starting centroids among (s, F) rows: k-means++ (Arthur & Vassilvitskii 2007), in `ROUNDS` rounds or so.

    Rows are drawn with odds that grow with the squared distance to the nearest one drawn before. k' is below k where
    there are fewer different rows.
    """
    chosen = rng.integers(len(rows), size=1)
    distance, each = Search(rows[chosen])(rows)[0], max(1, k // ROUNDS)
    while len(chosen) < k:
        draws = min(each, k - len(chosen), int((distance > SAME).sum()))
        if not draws:
            break
        # The smallest of exponential times with these rates: draws without replacement, in proportion.
        waits = np.divide(rng.exponential(size=len(rows)), distance, out=np.full(len(rows), np.inf),
                          where=distance > SAME)
        new = np.argsort(waits, kind="stable")[:draws]
        chosen = np.concatenate([chosen, new])
        distance = np.minimum(distance, Search(rows[new])(rows)[0])
    return rows[chosen]
