"""From the mean squares of crossed factors to the variance of a grand mean: what the intervals over seeds share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def variance_and_degrees(
    squares: Mapping[str, float | np.ndarray], degrees: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Variance V of a grand mean over crossed factors, and its degrees of freedom.

    V is `net_square`, at least the largest mean square of a single factor. Degrees of freedom are
    V^2 / sum_T A_T^2 (1 + 2 / f_T) / f_T, at least the smallest f: Satterthwaite's (1946) with a factor of ours,
    without which three repetitions that vary more than anything else cover 92 % where they say 95 %.

    Args:
        squares: Letters of the factors, such as `su` -> mean square A as a variance of the grand mean, (...).
        degrees: The same letters -> degrees of freedom f.

    Returns:
        Two arrays (...).
    """
    largest = np.max([np.asarray(square) for name, square in squares.items() if len(name) == 1], axis=0)
    variance = np.maximum(net_square(squares), largest)
    spread = sum(square**2 * (1 + 2 / degrees[name]) / degrees[name] for name, square in squares.items())
    # Without any spread the width is zero whatever the degrees of freedom.
    return variance, np.maximum(variance**2 / np.maximum(spread, 1e-300), min(degrees.values()))


def net_square(squares: Mapping[str, Any], source: str = "") -> Any:
    """Inclusion and exclusion over the mean squares that hold a source; over all of them for an empty one."""
    return sum((1 if len(name) % 2 else -1) * value for name, value in squares.items() if source in name)
