"""Retrieval: how well the labelled pool, ordered by cosine similarity to a query, starts with the query's class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.knn import row_blocks, unit_rows

FIRST = 10
"""Neighbours that `precision_at_k` looks at, as far as the pool goes (the length of a page, ours)."""


@dataclass(frozen=True)
class RetrievalScores:
    """One score a query: what `hierarchical_interval` takes, without strata.

    Attributes:
        average_precision: (M,) mean, over the pool's samples of the query's class, of the precision down to each; their
            mean is the mean average precision. 0 for a class that the pool lacks.
        precision_at_k: (M,) share of the query's class among its k nearest.
        k: Neighbours looked at. Where the pool holds fewer of a class, `precision_at_k` cannot reach 1.
    """

    average_precision: np.ndarray
    precision_at_k: np.ndarray
    k: int


def retrieval_scores(
    pool: np.ndarray, pool_labels: np.ndarray, queries: np.ndarray, query_labels: np.ndarray, k: int = 0
) -> RetrievalScores:
    """Rank a labelled pool for each query by cosine similarity of centred features.

    The mean that is taken off is the pool's. Samples of equal similarity count as one step of the ranking, so that
    their order does not matter: an encoder that gives the same features to everything scores chance.

    Args:
        pool: (n, D) features of the budget's samples.
        pool_labels: (n,) class ids.
        queries: (M, D) features of the test samples; none of them in the pool.
        query_labels: (M,) class ids.
        k: Neighbours for `precision_at_k`, 1 to n; by default `FIRST`, at most n.

    Raises:
        ConfigError: For k outside 1 to n.
        DataError: For shapes that do not match, an empty pool or no query, or features that are not finite.
    """
    _check(pool, pool_labels, queries, query_labels)
    k = k or min(FIRST, len(pool))
    if not 1 <= k <= len(pool):
        raise ConfigError(f"retrieval: k = {k} must lie between 1 and the {len(pool)} samples of the pool.")
    centre = pool.mean(axis=0, dtype=np.float64)
    bank, asked = unit_rows(pool - centre), unit_rows(queries - centre)
    average, first = np.empty(len(queries)), np.empty(len(queries))
    for rows in row_blocks(len(queries), len(pool)):
        similarity = asked[rows] @ bank.T
        order = np.argsort(-similarity, axis=1, kind="stable")
        relevant = (pool_labels[order] == query_labels[rows, None]).astype(np.float64)
        ranked = np.take_along_axis(similarity, order, axis=1)
        average[rows], first[rows] = _scores(ranked, relevant, k)
    return RetrievalScores(average, first, k)


def _scores(ranked: np.ndarray, relevant: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) average precision and expected precision at k of (Q, n) rankings with ties."""
    n = ranked.shape[1]
    ends = np.concatenate([ranked[:, 1:] != ranked[:, :-1], np.ones((len(ranked), 1), dtype=bool)], axis=1)
    last = np.where(ends, np.arange(n), n)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    found = np.cumsum(relevant, axis=1)
    precision = np.take_along_axis(found, last, axis=1) / (last + 1)
    average = (precision * relevant).sum(axis=1) / np.maximum(found[:, -1], 1)
    # Of the tie that straddles rank k, any k - above of its members are as likely to come first.
    row, stop = np.arange(len(ranked)), last[:, k - 1]
    above = (last < stop[:, None]).sum(axis=1)
    sure = np.where(above > 0, found[row, above - 1], 0.0)
    tied = found[row, stop] - sure
    return average, (sure + tied * (k - above) / (stop + 1 - above)) / k


def _check(pool: np.ndarray, pool_labels: np.ndarray, queries: np.ndarray, query_labels: np.ndarray) -> None:
    shapes = pool.ndim == queries.ndim == 2 and pool.shape[1] == queries.shape[1] and len(pool) and len(queries)
    if not shapes or pool_labels.shape != pool.shape[:1] or query_labels.shape != queries.shape[:1]:
        raise DataError(
            f"retrieval: pool {pool.shape}, its labels {pool_labels.shape}, queries {queries.shape} and their labels "
            f"{query_labels.shape} must be (n, D), (n,), (M, D) and (M,), n and M >= 1."
        )
    if not (np.isfinite(pool).all() and np.isfinite(queries).all()):
        raise DataError("retrieval: some embeddings are not finite; check the encoder.")
