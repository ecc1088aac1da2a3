"""Two looks at a set of embeddings: a map of all of them in the plane, and the nearest neighbours of a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from sciencessl.errors import DataError

COMPONENTS = 50
PERPLEXITY = 30.0
ITERATIONS, ANGLE = 750, 0.7
"""A coarser tree than usual (0.5) and three quarters of the usual steps: the same map to the eye in half the time."""
FEWEST = 8
"""Below this many samples the map is the first two principal components: t-SNE has nothing to arrange."""
DECIMALS = 12
"""Similarities that agree to this many decimals are ties: a product of matrices does not round each row alike."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest neighbours of Q queries in a pool.

    Attributes:
        index: (Q, k) positions in the pool, the most similar first; of ties the lower position.
        similarity: (Q, k) cosine similarity, -1 to 1.
    """

    index: np.ndarray
    similarity: np.ndarray


def normalised(features: np.ndarray) -> np.ndarray:
    """(n, F) float64 rows of length 1; a row of zeros stays zero.

    Raises:
        DataError: When a value is not finite.
    """
    values = np.asarray(features, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} of {len(values)} embeddings are not finite, the first at row {bad[0]}: the encoder diverged. "
            "Train it again with a lower optim.base_lr or --compute.precision float32."
        )
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return cast(np.ndarray, values / np.where(length > 0, length, 1.0))


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """(n, count) float64 projections on the leading principal axes, zeros where there are fewer axes.

    The sign of an axis is that of its largest entry, so that equal input gives an equal map.
    """
    centred = features - features.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:count]
    largest = np.abs(axes).argmax(axis=1)
    signs = np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)
    out = np.zeros((len(features), count))
    out[:, : len(axes)] = centred @ (axes * signs[:, None]).T
    return out


def embedding_map(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """A map on which neighbours in cosine similarity lie together; its distances and directions mean nothing more.

    Rows are normalised to length 1, reduced to 50 principal components and laid out by t-SNE (van der Maaten and
    Hinton 2008, Barnes-Hut) from the first two. One thread: the same input and seed give the same map, and small
    problems are faster so.

    Args:
        features: (n, F) embeddings.
        seed: Of the tiny displacements that part equal samples.

    Returns:
        (n, 2) float64, centred, the larger axis within [-1, 1].

    Raises:
        DataError: When a value is not finite.
    """
    rows = normalised(features)
    if len(rows) < 2:
        return np.zeros((len(rows), 2))
    reduced = principal_components(rows, max(2, min(COMPONENTS, *rows.shape)))
    plane = reduced[:, :2]
    if len(rows) >= FEWEST:
        plane = _tsne(reduced, plane, np.random.default_rng(seed))
    plane = plane - (plane.min(axis=0) + plane.max(axis=0)) / 2
    return cast(np.ndarray, plane / max(float(np.abs(plane).max()), 1e-12))


def _tsne(reduced: np.ndarray, plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    start = 1e-4 * plane / max(float(plane[:, 0].std()), 1e-12)
    start = start + 1e-6 * rng.standard_normal(start.shape)  # equal samples must not start, and so stay, on one point
    perplexity = min(PERPLEXITY, (len(reduced) - 1) / 3)
    layout = TSNE(
        init=start.astype(np.float32), perplexity=perplexity, angle=ANGLE, max_iter=ITERATIONS, random_state=0
    )
    with threadpool_limits(1):
        return cast(np.ndarray, layout.fit_transform(reduced.astype(np.float32)).astype(np.float64))


def nearest_neighbours(
    queries: np.ndarray, pool: np.ndarray, k: int, own: np.ndarray | None = None
) -> Neighbours:
    """The k samples of a pool most similar to each query.

    Args:
        queries: (Q, F) embeddings.
        pool: (n, F) embeddings.
        k: Neighbours wanted; fewer where the pool has fewer.
        own: (Q,) position of each query in the pool, -1 where it is not there; that place is left out.

    Raises:
        DataError: When a value is not finite, or the widths differ.
    """
    if queries.shape[1] != pool.shape[1]:
        raise DataError(f"queries have {queries.shape[1]} features and the pool {pool.shape[1]}; they must agree.")
    similarity = np.round(normalised(queries) @ normalised(pool).T, DECIMALS)
    ranked = similarity.copy()
    k = min(k, len(pool))
    if own is not None and (own >= 0).any():
        inside = np.flatnonzero(own >= 0)
        ranked[inside, own[inside]] = -np.inf
        k = min(k, len(pool) - 1)
    index = np.argsort(-ranked, axis=1, kind="stable")[:, :k]
    return Neighbours(index, np.take_along_axis(similarity, index, axis=1))


def spread_over_classes(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(min(n, N),) random positions, classes taken in turn so that rare ones are among them.

    Args:
        labels: (N,) class names.
        n: Positions wanted.
        rng: Decides which.
    """
    shuffled = rng.permutation(len(labels))
    turn = np.zeros(len(labels), dtype=np.int64)
    for value in set(labels.tolist()):
        members = shuffled[labels[shuffled] == value]
        turn[members] = np.arange(len(members))
    taken = shuffled[np.argsort(turn[shuffled], kind="stable")][:n]
    return cast(np.ndarray, taken[np.argsort(labels[taken].astype(str), kind="stable")])
