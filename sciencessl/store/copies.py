"""Copies of images among millions of pairs: whom to compare, and how alike two images are that are no copies.

What was measured (maps of `sciencessl.views.polar`): pairs of different photographs of `lc25000_lung` score 0.16 in the
median and 0.26 at most of 12,160, tiles turned out of one photograph 0.81 in the median; for `sdss_gz1` 0.19 and 0.37
of 11,175, and 0.59 to 0.92 for copies that were turned, zoomed up to 1.4, shrunk to 200 px and saved at quality 75.
Sets need thresholds of their own, which is why each store measures its null.

Of 50 copies of each kind planted among 500 stamps (threshold for two million pairs, saved at quality 75), confirmed
were all that were turned by any angle, mirrored and halved, made grey and darker, or cropped to 0.8 about the centre,
and 84 % of those turned and zoomed up to 1.4. Among 400 tiles: all of these but one crop.

What cannot be found: copies shifted by even 5 % of their side (0 of 50), so crops that are not about the centre and
cutouts that overlap; zooms beyond 1.59; photos that are not square turned by other than quarter turns; pixels that were
painted over or blurred for the most part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sciencessl.errors import DataError
from sciencessl.views.polar import Alignment, align, amplitude_centre, amplitudes

NEIGHBOURS = 4
"""Candidates a test image: on `lc25000_lung` the first is right for 98.9 % of the tiles, one of four for the same."""
BLOCK = 2048
"""Images that are compared with as many others at a time."""
ALIGNED = 512
"""Pairs that are aligned at a time."""
NULL_IMAGES, NULL_PAIRS = 768, 4096
"""Images drawn to measure the null, and pairs of them."""
LEAST_PAIRS = 100
"""Pairs below which no null is fitted."""
FALSE_CONFIRMED, FALSE_SUSPECTED = 0.01, 1.0
"""Expected number of pairs, of all those of an audit, that are no copies and still score above a threshold."""
LEAST_SCORE = 0.4
"""Nothing is confirmed below this, however narrow the null: its tail is extrapolated."""

_QUARTILES = (0.25, 0.75)
_TAIL = 0.05
"""Share of the pairs whose scores make the tail. With more of them, the bulk hides that a few kinds of images, such as
tiles at the edge of tissue, are more alike than others: of 140,000 pairs of such tiles one was confirmed with 0.1."""


@dataclass(frozen=True)
class Null:
    """How alike images are that are no copies: scores above `start` fall off exponentially.

    Attributes:
        pairs: Pairs that were measured and kept.
        dropped: Pairs left out because no such score is expected among so many: copies, most likely.
        median: Score of the median pair.
        largest: Largest score that was kept.
        start: Score that a share `_TAIL` of the pairs exceeds.
        scale: Mean excess above it, raised by 1.645 standard errors.
    """

    pairs: int
    dropped: int
    median: float
    largest: float
    start: float
    scale: float

    def threshold(self, expected: float, pairs: int) -> float:
        """The score that `expected` of so many pairs exceed without being copies; at least `LEAST_SCORE`."""
        beyond = self.start + self.scale * np.log(max(_TAIL * pairs / expected, 1.0))
        return float(max(beyond, self.largest, LEAST_SCORE))


def fit_null(scores: np.ndarray, left: np.ndarray, right: np.ndarray) -> Null:
    """The null of pairs drawn at random, of which some may be copies after all.

    The best of many places of a non-copy follows a Gumbel law: scores of both real sets do, from the median to the
    largest of 10,000. One through the quartiles, which copies do not reach, says what is expected of so many pairs;
    what exceeds that less than once in a hundred such samples is left out, and the tail fitted to the rest. The sample
    may hold copies up to about a tenth of its pairs.

    Args:
        scores: (p,) of `align`, `LEAST_PAIRS` or more.
        left: (p,) numbers of the first images of the pairs. Copies of one image are copies of each other, so pairs of
            images that others left out connect are left out too.
        right: (p,) numbers of the second images.

    Raises:
        DataError: For fewer pairs.
    """
    if len(scores) < LEAST_PAIRS:
        raise DataError(f"{len(scores)} pairs of images are too few to measure a null; {LEAST_PAIRS} are needed.")
    low, high = np.quantile(scores, _QUARTILES)
    below, above = (-np.log(-np.log(q)) for q in _QUARTILES)
    scale = (high - low) / (above - below)
    limit = low + scale * (np.log(len(scores) / FALSE_CONFIRMED) - below)
    kept = scores[_unconnected(scores > limit, left, right)]
    start = float(np.quantile(kept, 1 - _TAIL))
    excess = kept[kept > start] - start
    mean = float(excess.mean() * (1 + 1.645 / np.sqrt(len(excess)))) if len(excess) else 0.0
    return Null(len(kept), len(scores) - len(kept), float(np.median(kept)), float(kept.max()), start, mean)


def _unconnected(copied: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(p,) whether no chain of copied pairs connects the two images of a pair."""
    # Here, because loader workers import what the caller's script imports, and need no graphs.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = int(max(left.max(), right.max())) + 1
    links = coo_array((np.ones(int(copied.sum())), (left[copied], right[copied])), shape=(n, n))
    component = connected_components(links, directed=False)[1]
    return np.asarray(component[left] != component[right])


def null_pairs(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different images out of n, `NULL_PAIRS` or all there are: two (p,) positions, the first the smaller."""
    total = n * (n - 1) // 2
    number = np.sort(rng.choice(total, min(total, NULL_PAIRS), replace=False)) if total else np.zeros(0, np.int64)
    # Pair (i, j) with i < j has number j (j - 1) / 2 + i.
    larger = np.floor((1 + np.sqrt(8 * number + 1)) / 2).astype(np.int64)
    return number - larger * (larger - 1) // 2, larger


def score_pairs(first: np.ndarray, second: np.ndarray, left: np.ndarray, right: np.ndarray) -> Alignment:
    """`align` of `first[left]` with `second[right]`, a block of pairs at a time.

    Args:
        first: (n, RINGS, ANGLES) maps, which may lie on disk.
        second: (m, RINGS, ANGLES) maps.
        left: (p,) positions in `first`.
        right: (p,) positions in `second`.
    """
    blocks = [slice(at, at + ALIGNED) for at in range(0, max(len(left), 1), ALIGNED)]
    parts = [align(first[left[block]], second[right[block]]) for block in blocks]
    return Alignment(*(np.concatenate([getattr(part, name) for part in parts])
                       for name in ("score", "turn_deg", "zoom", "mirrored")))


def candidates(
    pool: np.ndarray, test: np.ndarray, k: int = NEIGHBOURS, tick: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """The k images of the pool whose amplitudes are most like those of each test image, at any zoom.

    Every pair is looked at, so time grows with n times m (about 0.1 microseconds a pair on one core); memory does not.

    Args:
        pool: (n, RINGS, ANGLES) maps, which may lie on disk; n is 1 or more.
        test: (m, RINGS, ANGLES) maps.
        k: Candidates; at most n.
        tick: Called with the number of pairs looked at so far.

    Returns:
        (m, min(k, n)) positions in the pool, the most alike first.
    """
    k = min(k, len(pool))
    centre = amplitude_centre(pool[:: -(-len(pool) // BLOCK)])
    found = []
    for start in range(0, len(test), BLOCK):
        wanted = amplitudes(test[start : start + BLOCK], centre)
        best = np.full((wanted.shape[1], k), -np.inf, dtype=np.float32)
        which = np.zeros(best.shape, dtype=np.int64)
        for at in range(0, len(pool), BLOCK):
            likeness = _likeness(wanted, amplitudes(pool[at : at + BLOCK], centre))
            few = min(k, likeness.shape[1])
            # Not sorted: that takes most of the time.
            top = np.sort(np.argpartition(likeness, -few, axis=1)[:, -few:], axis=1)
            scores = np.concatenate([best, np.take_along_axis(likeness, top, 1)], axis=1)
            both = np.concatenate([which, top + at], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            best, which = np.take_along_axis(scores, order, 1), np.take_along_axis(both, order, 1)
            tick(start * len(pool) + best.shape[0] * (at + likeness.shape[1]))
        found.append(which)
    return np.concatenate(found) if found else np.zeros((0, k), dtype=np.int64)


def _likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m, n) largest cosine over zooms, of two results of `amplitudes`."""
    likeness = first[0] @ second[0].T
    for shift in range(1, len(first)):
        np.maximum(likeness, first[shift] @ second[0].T, out=likeness)
        np.maximum(likeness, first[0] @ second[shift].T, out=likeness)
    return np.asarray(likeness)
