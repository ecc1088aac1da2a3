"""Groups of sources that are one object, or that show each other: links on the sky, and what they connect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.crossmatch import links
from sciencessl.data_prep.sky import chord, require_positions, unit_vectors
from sciencessl.errors import ConfigError, DataError

SAME_OBJECT_ARCSEC = 1.5
"""Sources nearer than this are one object, if nothing else is said. Source: ours, about the width of a ground-based
PSF."""
LARGEST_SHARE, LEAST_TOLD = 0.1, 10
"""A group with more than this share of all sources, and at least so many, has percolated. Source: ours."""


def sky_groups(
    ids: Sequence[str], ra: np.ndarray, dec: np.ndarray, radius_arcsec: float | np.ndarray = SAME_OBJECT_ARCSEC
) -> list[str]:
    """The name of the group that each source belongs to: all that a chain of near sources connects.

    Two sources are linked when their separation is at most the larger of their radii. With one radius of an arcsec or
    two a group is an object; with half the side of each source's stamp a group is whatever shows one another's centre.

    Args:
        ids: N different identifiers.
        ra: (N,) degrees.
        dec: (N,) degrees.
        radius_arcsec: One for all, or (N,).

    Returns:
        N names: the smallest id of the group, as text. They depend on ids, positions and radii, not on their order.

    Raises:
        ConfigError: For a radius that is negative or not finite.
        DataError: For lengths that differ, repeated ids, or a row that is no place on the sky.
    """
    ra, dec = require_positions(ra, dec, "sources to be grouped")
    names = pa.array(ids, pa.string())
    if len(names) != len(ra) or len(names.unique()) < len(names):
        raise DataError(f"sources to be grouped: {len(ra):,} positions and {len(names.unique()):,} different ids of "
                        f"{len(names):,}; expected one of its own for each.")
    radii = np.broadcast_to(np.asarray(radius_arcsec, np.float64), ra.shape)
    if not (np.isfinite(radii) & (radii >= 0)).all():
        raise ConfigError(f"radius_arcsec is {radius_arcsec}; expected arcsec of 0 or more.")
    if not len(ra):
        return []
    component = _components(unit_vectors(ra, dec), radii)
    order = pc.sort_indices(names).to_numpy()
    _, first = np.unique(component[order], return_index=True)
    names_of: list[str] = names.take(pa.array(order[first][component])).to_pylist()
    return names_of


def percolation(groups: Sequence[str]) -> str:
    """A sentence where one group holds so much that splits by group make no sense; empty where none does."""
    if not groups:
        return ""
    ((name, size),) = Counter(groups).most_common(1)
    if size < LEAST_TOLD or size <= LARGEST_SHARE * len(groups):
        return ""
    return (f"group {name!r} holds {size:,} of {len(groups):,} sources ({size / len(groups):.0%}): chains of near "
            "sources connect them all, and one split gets them all. Use a smaller radius or stamp, or group by tile.")


def _components(points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(N,) number of the component of each point, 0 to their number without gaps."""
    # Points at one place would make pairs by the square of their number.
    places, first, place_of = np.unique(points, axis=0, return_index=True, return_inverse=True)
    largest = np.zeros(len(first))
    np.maximum.at(largest, place_of, radii)
    component = np.arange(len(places))
    for left, right, _ in links(places, chord(largest), places):
        component = _joined(component, left, right)
    return component[place_of.reshape(-1)]


def _joined(component: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = (component[left], component[right])
    n = int(component.max()) + 1
    merged = connected_components(coo_array((np.ones(len(left), np.int8), links), shape=(n, n)), directed=False)[1]
    return np.asarray(merged[component], np.int64)
