"""Connected components of a stream of pairs, held for the samples that occur in pairs only."""

from __future__ import annotations

import numpy as np

BUFFER = 2**21
"""Pairs that are gathered before they are joined with what is known."""


class Components:
    """Takes pairs, block by block, and says which samples they connect.

    Memory: 16 bytes for each sample that occurs in a pair, and 100 bytes for each of `buffer` pairs. The result does
    not depend on the order of the pairs.

    Args:
        buffer: Pairs that are gathered before they are joined.
    """

    def __init__(self, buffer: int = BUFFER) -> None:
        self._buffer = buffer
        self._waiting: list[np.ndarray] = []
        self._pairs = 0
        self._ids = self._roots = np.zeros(0, np.int64)

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Connect samples `one[k]` and `other[k]`, (p,) integers each."""
        for at in range(0, len(one), self._buffer):
            part = slice(at, at + self._buffer)
            self._waiting.append(np.stack([one[part], other[part]]).astype(np.int64))
            self._pairs += self._waiting[-1].shape[1]
            if self._pairs >= self._buffer:
                self._join()

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) int64 samples that occurred, ascending, and (k,) int64 the smallest sample of each one's component."""
        self._join()
        return self._ids, self._roots

    def _join(self) -> None:
        one, other = np.concatenate([np.stack([self._ids, self._roots]), *self._waiting], axis=1)
        self._waiting, self._pairs = [], 0
        self._ids = np.unique(np.concatenate([one, other]))
        labels = _least_labels(np.searchsorted(self._ids, one), np.searchsorted(self._ids, other), len(self._ids))
        self._roots = self._ids[labels]


def _least_labels(one: np.ndarray, other: np.ndarray, n: int) -> np.ndarray:
    """(n,) smallest vertex of each one's component, of a graph with edges `one[k]` to `other[k]`.

    Roots are hooked under smaller neighbours and paths halved until nothing changes: about log(n) rounds.
    """
    labels = np.arange(n)
    while True:
        first, second = labels[one], labels[other]
        apart = first != second
        if not apart.any():
            return labels
        one, other, first, second = one[apart], other[apart], first[apart], second[apart]
        np.minimum.at(labels, np.maximum(first, second), np.minimum(first, second))
        while (labels[labels] != labels).any():
            labels = labels[labels]
