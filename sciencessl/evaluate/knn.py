"""The nearest-neighbour arm: a cosine-weighted vote over the budget's embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.linear import few_units
from sciencessl.evaluate.metrics import PROBABILITY_FLOOR

K_GRID: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)
"""Numbers of neighbours tried, as far as the budget goes."""

FIXED_K = 10
"""Neighbours at ten units a class or fewer, where leave-one-out would choose noise (ours)."""

_BLOCK = 1 << 22
"""Similarities held at once: 32 MB in float64."""


@dataclass(frozen=True)
class FittedKnn:
    """A bank of labelled embeddings and the number of neighbours that votes.

    Attributes:
        bank: (n, D) embeddings.
        labels: (n,) class ids.
        k: Number of neighbours.
        temperature: Of the vote.
        trials: Numbers of neighbours tried; 1 where `k` is fixed.
        fixed: Whether `k` is the default because labels were few.
        search: k -> leave-one-unit-out loss, empty where fixed.
    """

    bank: np.ndarray
    labels: np.ndarray
    k: int
    temperature: float = 0.1
    trials: int = 1
    fixed: bool = True
    search: dict[int, float] = field(default_factory=dict)

    def probabilities(self, features: np.ndarray, n_classes: int | None = None) -> np.ndarray:
        """(M, D) features -> (M, n_classes) vote shares by class id."""
        return knn_predict(self.bank, self.labels, features, self.k, self.temperature, n_classes=n_classes)


def knn_predict(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    k: int,
    temperature: float = 0.1,
    class_weighted: bool = True,
    n_classes: int | None = None,
) -> np.ndarray:
    """Class probabilities by a weighted vote of the k nearest bank entries.

    A neighbour of cosine similarity s votes exp(s / temperature); with `class_weighted` the vote is divided by the
    size of its class in the bank, as balanced metrics ask. k = 200 with temperature 0.1 is the usual convention for
    large banks, not a part of the BYOL protocol; `fit_knn` chooses k from the budget.

    Args:
        bank: (n, D) labelled embeddings; a zero vector has similarity 0 to everything.
        bank_labels: (n,) class ids >= 0.
        queries: (M, D).
        k: Neighbours, 1 to n.
        temperature: Positive.
        class_weighted: Whether each class has the same total vote to give.
        n_classes: Width of the answer; by default the largest class id plus one.

    Returns:
        (M, n_classes) float64, rows sum to 1.

    Raises:
        ConfigError: For k outside 1..n or a temperature that is not positive.
        DataError: For shapes that do not match or values that are not finite.
    """
    _check(bank, bank_labels, queries, k, temperature)
    width = int(bank_labels.max()) + 1 if n_classes is None else n_classes
    sizes = np.bincount(bank_labels, minlength=width) if class_weighted else np.ones(width)
    unit_bank, unit_queries = unit_rows(bank), unit_rows(queries)
    parts = [np.empty((0, width))]
    for rows in row_blocks(len(queries), len(bank)):
        votes = _Votes(unit_queries[rows] @ unit_bank.T, bank_labels, k, temperature)
        parts.append(votes.shares(k, np.broadcast_to(sizes, (rows.stop - rows.start, width))))
    return np.concatenate(parts)


def fit_knn(
    features: np.ndarray, labels: np.ndarray, units: np.ndarray, temperature: float = 0.1
) -> FittedKnn:
    """Choose k on the budget's own labels and keep the bank.

    With more than ten units a class on average, every k of `K_GRID` that leaves enough neighbours is scored by the mean
    over classes of the mean log loss, each row voted on by the rows of other units only (class sizes too are counted
    without its unit); the best wins, the larger k among equals. Otherwise k is `FIXED_K`, at most n.

    Args:
        features: (n, D) embeddings.
        labels: (n,) class ids >= 0.
        units: (n,) unit of each row.
        temperature: Of the vote.

    Raises:
        ConfigError: For a temperature that is not positive.
        DataError: For shapes that do not match or values that are not finite.
    """
    labels, units = np.asarray(labels), np.asarray(units)
    _check(features, labels, features, 1, temperature)
    if units.shape != labels.shape:
        raise DataError(f"kNN: units {units.shape} and labels {labels.shape} must have one length.")
    search = {} if few_units(labels, units) else _leave_one_unit_out(features, labels, units, temperature)
    k = min(search, key=lambda value: (search[value], -value)) if search else min(FIXED_K, len(labels))
    return FittedKnn(features, labels, k, temperature, max(1, len(search)), not search, search)


def _leave_one_unit_out(
    features: np.ndarray, labels: np.ndarray, units: np.ndarray, temperature: float
) -> dict[int, float]:
    n = len(labels)
    _, unit_of = np.unique(units, return_inverse=True)
    classes, of_class = np.unique(labels, return_inverse=True)
    table = np.zeros((unit_of.max() + 1, len(classes)), dtype=np.int64)
    np.add.at(table, (unit_of, of_class), 1)
    grid = [k for k in K_GRID if k <= n - table.sum(axis=1).max()]
    chosen = np.empty((len(grid), n))
    normalised = unit_rows(features)
    for rows in row_blocks(n, n):
        similarity = normalised[rows] @ normalised.T
        similarity[unit_of[rows, None] == unit_of] = -np.inf
        others = table.sum(axis=0) - table[unit_of[rows]]
        votes = _Votes(similarity, of_class, grid[-1], temperature)
        for i, k in enumerate(grid):
            chosen[i, rows] = votes.shares(k, others)[np.arange(rows.stop - rows.start), of_class[rows]]
    losses = -np.log(np.maximum(chosen, PROBABILITY_FLOOR))
    sizes = table.sum(axis=0)
    return {k: float(np.mean(np.bincount(of_class, losses[i]) / sizes)) for i, k in enumerate(grid)}


class _Votes:
    """The nearest neighbours of a block of queries, nearest first, and what each says."""

    def __init__(self, similarity: np.ndarray, labels: np.ndarray, k: int, temperature: float) -> None:
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
        order = np.argsort(-values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)
        self.labels = labels[np.take_along_axis(nearest, order, axis=1)]
        # Shares do not depend on a common factor; relative to the nearest nothing overflows at any temperature.
        self.weight = np.exp((values - values[:, :1]) / temperature)

    def shares(self, k: int, sizes: np.ndarray) -> np.ndarray:
        """(Q, K) vote shares of the first k neighbours; `sizes` (Q, K) divides each class's vote."""
        queries, width = sizes.shape
        slot = np.arange(queries)[:, None] * width + self.labels[:, :k]
        votes = np.bincount(slot.ravel(), self.weight[:, :k].ravel(), minlength=queries * width)
        votes = votes.reshape(queries, width) / np.maximum(sizes, 1)
        shares: np.ndarray = votes / votes.sum(axis=1, keepdims=True)
        return shares


def unit_rows(features: np.ndarray) -> np.ndarray:
    """(n, D) rows at length 1, float32 at least; a zero vector stays zero."""
    values = np.asarray(features)
    values = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit: np.ndarray = values / np.where(length > 0, length, 1)
    return unit


def row_blocks(queries: int, bank: int) -> list[slice]:
    """Slices of the queries whose similarities to a whole bank are held at once."""
    size = max(1, _BLOCK // max(1, bank))
    return [slice(start, min(start + size, queries)) for start in range(0, queries, size)]


def _check(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int, temperature: float) -> None:
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1] or labels.shape != bank.shape[:1]:
        raise DataError(
            f"kNN: bank {bank.shape}, its labels {labels.shape} and queries {queries.shape} must be (n, D), (n,) and "
            "(M, D)."
        )
    if not (np.isfinite(bank).all() and np.isfinite(queries).all()):
        raise DataError("kNN: some embeddings are not finite; check the encoder.")
    if not 1 <= k <= len(bank):
        raise ConfigError(f"kNN: k = {k} must lie between 1 and the {len(bank)} labelled rows of the bank.")
    if temperature <= 0:
        raise ConfigError(f"kNN: temperature = {temperature} must be positive; the usual value is 0.1.")
