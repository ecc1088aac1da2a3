"""Vectors to cluster: an array, or embeddings on disk that are read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sciencessl.evaluate.embedded import Embedded
from sciencessl.evaluate.knn import unit_rows

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

BLOCK = 16_384
"""Rows of an array that are looked at together."""

GRID = 2.0**-24
"""Coordinates of unit vectors are multiples of it: float32 holds them, and float64 sums of 2**29 of them, exactly."""


class Points(Protocol):
    """n vectors of F numbers, gone through in blocks in any order."""

    @property
    def samples(self) -> int:
        """n."""
        ...

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """(m,) positions and their (m, F) vectors, until all n have come once."""
        ...

    def pick(self, places: Int64) -> Float32:
        """(p, F) vectors at p different positions, in their order."""
        ...


@dataclass(frozen=True)
class ArrayPoints:
    """Vectors in memory.

    Attributes:
        values: (n, F) float32.
        block: Rows of a block.
    """

    values: Float32
    block: int = BLOCK

    @property
    def samples(self) -> int:
        """n."""
        return len(self.values)

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Slices, in order."""
        for start in range(0, self.samples, self.block):
            rows = self.values[start : start + self.block]
            yield np.arange(start, start + len(rows)), rows

    def pick(self, places: Int64) -> Float32:
        """(p, F) rows."""
        return self.values[places]


@dataclass(frozen=True)
class Directions:
    """Embeddings at length 1: their squared distance is 2 - 2 cos, so k-means groups by cosine.

    To cluster them their mean stays: in skewed data it lies beside the most common kind, whose directions from there
    would point everywhere and take most clusters. To find neighbours it is taken off, as in `evaluate.nearness`.
    Coordinates are rounded to `GRID`, 0.00000006, so that sums over any blocks in any order are the same to the last
    bit. Source: ours.

    Attributes:
        embedded: As they were written.
        centre: (F,) that is taken off before; None for nothing.
    """

    embedded: Embedded
    centre: np.ndarray | None = None

    @property
    def samples(self) -> int:
        """n."""
        return self.embedded.samples

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """File by file.

        Raises:
            DataError: When an embedding is not finite.
        """
        for place, values in self.embedded.blocks():
            yield place, self._directions(values)

    def pick(self, places: Int64) -> Float32:
        """(p, F) directions."""
        return self._directions(self.embedded.pick(places))

    def _directions(self, values: np.ndarray) -> Float32:
        return on_grid(unit_rows(values if self.centre is None else values - self.centre.astype(np.float32)))


def on_grid(values: np.ndarray) -> Float32:
    """The values rounded to multiples of `GRID`, float32."""
    rounded = np.rint(values / np.float32(GRID))
    return np.asarray(rounded * GRID, dtype=np.float32)
