"""Where each number of an array stands: how requests are dealt to the files, runs and stores that answer them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def places_of(numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each number that occurs, in ascending order, and its places, likewise.

    Args:
        numbers: (K,) integers.
    """
    if numbers.size:
        order = np.argsort(numbers, kind="stable")
        values, starts = np.unique(numbers[order], return_index=True)
        yield from zip(values.tolist(), np.split(order, starts[1:]), strict=True)
