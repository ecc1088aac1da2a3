"""The samples of one split: positions in it, and where they lie in the store."""

from __future__ import annotations

from typing import cast

import numpy as np

from sciencessl.errors import StoreError


class SplitIndex:
    """The samples of one split as ranges, one a row: position in the split <-> index in the store.

    Memory is O(rows): no list of samples is ever made. Samples that were withdrawn cut ranges in two.
    """

    def __init__(self, first: np.ndarray, stop: np.ndarray) -> None:
        """`first` and `stop` are (R,) store indices, ascending."""
        self._first = first.astype(np.int64)
        counts = stop.astype(np.int64) - self._first
        self._start = np.concatenate([[0], np.cumsum(counts)])

    def without(self, removed: np.ndarray) -> SplitIndex:
        """The same without some samples, in O(rows + removed) memory.

        Args:
            removed: (m,) store indices, ascending and each once; those outside the split are passed over.
        """
        first, stop = self.ranges
        row = np.searchsorted(stop, removed, side="right")
        inside = row < len(first)
        cut = removed[inside][first[row[inside]] <= removed[inside]].astype(np.int64)
        if not len(cut):
            return self
        # Ranges are ascending, so that the ends around each cut find each other by sorting.
        first, stop = np.sort(np.concatenate([first, cut + 1])), np.sort(np.concatenate([stop, cut]))
        kept = first < stop
        return SplitIndex(first[kept], stop[kept])

    def __len__(self) -> int:
        return int(self._start[-1])

    @property
    def ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """(R,) int64 first store index of each range and the one after its last."""
        return self._first, self._first + np.diff(self._start)

    def to_store(self, positions: np.ndarray) -> np.ndarray:
        """Store indices of positions in the split, (...,) int64.

        Raises:
            StoreError: For a position below 0 or not below the length of the split.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= len(self)):
            raise StoreError(f"position outside the split, which has {len(self)} samples.")
        row = np.searchsorted(self._start, positions, side="right") - 1
        return cast(np.ndarray, self._first[row] + (positions - self._start[row]))

    def all(self) -> np.ndarray:
        """Every store index of the split, in order: only for what is as long as the split anyway."""
        return self.to_store(np.arange(len(self)))
