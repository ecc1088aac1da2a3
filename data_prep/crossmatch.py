"""Two catalogues joined by position: one to one, or all pairs within a radius.

On unit vectors, so that RA 0/360, the poles and the borders of any tiling are places like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sciencessl.data_prep.sky import angle_arcsec, chord, require_positions, unit_vectors
from sciencessl.errors import ConfigError

LEAST_RADIUS, MOST_RADIUS = 0.0, 180 * 3600.0
"""Of a match, in arcsec."""
PAIRS = 4_000_000
"""Pairs that are held at a time, so that a dense field takes no more memory than a sparse one."""


@dataclass(frozen=True)
class SkyMatch:
    """Pairs of rows of two catalogues.

    Attributes:
        first: (P,) rows of the first catalogue, ascending.
        second: (P,) rows of the second.
        separation_arcsec: (P,) of each pair.
        ambiguous: (P,) whether either row of a pair has another row of the other catalogue within the radius.
    """

    first: np.ndarray
    second: np.ndarray
    separation_arcsec: np.ndarray
    ambiguous: np.ndarray


def match_one_to_one(
    ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray, radius_arcsec: float
) -> SkyMatch:
    """Pairs of rows that are each other's nearest, within a radius: no row is in two of them.

    Of several that are equally near the first row counts, on either side.

    Args:
        ra1: (N,) degrees of the first catalogue.
        dec1: (N,) degrees.
        ra2: (M,) degrees of the second.
        dec2: (M,) degrees.
        radius_arcsec: Largest separation, inclusive.

    Raises:
        ConfigError: For a radius that is negative, not finite or beyond 180 degrees.
        DataError: Naming catalogue and row of a position that is no place on the sky.
    """
    a, b, reach = _prepared(ra1, dec1, ra2, dec2, radius_arcsec)
    forth, back = _nearest(a, b, reach), _nearest(b, a, reach)
    first = np.flatnonzero(forth.row >= 0)
    second = forth.row[first]
    mutual = back.row[second] == first
    first, second = first[mutual], second[mutual]
    return SkyMatch(first, second, angle_arcsec(forth.chord[first]), forth.several[first] | back.several[second])


def match_all(
    ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray, radius_arcsec: float
) -> SkyMatch:
    """Every pair of rows within a radius, for each row of the first catalogue the nearest first; else as
    `match_one_to_one`. Memory grows with the number of pairs."""
    from scipy.spatial import cKDTree

    a, b, reach = _prepared(ra1, dec1, ra2, dec2, radius_arcsec)
    if not (len(a) and len(b)):
        return SkyMatch(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
    found = cKDTree(a).sparse_distance_matrix(cKDTree(b), reach, output_type="ndarray")
    found = found[np.lexsort((found["j"], found["v"], found["i"]))]
    first, second = found["i"].astype(np.int64), found["j"].astype(np.int64)
    several = (np.bincount(first, minlength=len(a))[first] > 1) | (np.bincount(second, minlength=len(b))[second] > 1)
    return SkyMatch(first, second, angle_arcsec(found["v"]), several)


def _prepared(
    ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray, float]:
    if not LEAST_RADIUS <= radius_arcsec <= MOST_RADIUS:
        raise ConfigError(f"radius_arcsec is {radius_arcsec}; expected arcsec from {LEAST_RADIUS:g} to "
                          f"{MOST_RADIUS:g} (180 degrees).")
    a = unit_vectors(*require_positions(ra1, dec1, "first catalogue"))
    b = unit_vectors(*require_positions(ra2, dec2, "second catalogue"))
    return a, b, float(chord(radius_arcsec))


def nearest_within(
    ra1: np.ndarray, dec1: np.ndarray, radius1_arcsec: float | np.ndarray,
    ra2: np.ndarray, dec2: np.ndarray, radius2_arcsec: float | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the first catalogue the nearest of the second that lies within the larger of both their radii.

    Args:
        ra1: (N,) degrees of the first catalogue.
        dec1: (N,) degrees.
        radius1_arcsec: One for all, or (N,); at most 180 degrees.
        ra2: (M,) degrees of the second.
        dec2: (M,) degrees.
        radius2_arcsec: One for all, or (M,).

    Returns:
        (N,) rows of the second catalogue, the first of several that are equally near, or -1 where none is; and (N,)
        separations in arcsec, NaN where there is none.

    Raises:
        DataError: Naming catalogue and row of a position that is no place on the sky.
    """
    first, _, which = _places(_reaching(ra1, dec1, radius1_arcsec, "first catalogue"))
    second, row_of, _ = _places(_reaching(ra2, dec2, radius2_arcsec, "second catalogue"))
    row, least = np.full(len(first), -1), np.full(len(first), np.inf)
    forth = links(first[:, :3], first[:, 3], second[:, :3])
    back = links(second[:, :3], second[:, 3], first[:, :3])
    for i, j, chords in (*forth, *((i, j, chords) for j, i, chords in back)):
        order = np.lexsort((row_of[j], chords, i))
        best = order[np.unique(i[order], return_index=True)[1]]
        i, j, chords = i[best], row_of[j[best]], chords[best]
        better = (chords < least[i]) | ((chords == least[i]) & (j < row[i]))
        row[i[better]], least[i[better]] = j[better], chords[better]
    return row[which], np.where(row >= 0, angle_arcsec(least), np.nan)[which]


def _reaching(ra: np.ndarray, dec: np.ndarray, radius_arcsec: float | np.ndarray, what: str) -> np.ndarray:
    """(N, 4) unit vectors and the chord of the radius."""
    points = unit_vectors(*require_positions(ra, dec, what))
    return np.column_stack([points, np.broadcast_to(chord(radius_arcsec), len(points))])


def links(
    points: np.ndarray, reach: np.ndarray, others: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of a point and one of others within the point's reach, about `PAIRS` at a time.

    Args:
        points: (N, 3) unit vectors, no two equal: a place that occurs often makes pairs by the square of its number.
        reach: (N,) chords.
        others: (M, 3) unit vectors, no two equal; may be `points`, each of which is then paired with itself too.

    Yields:
        (P,) places in `points`, (P,) places in `others`, (P,) chords.
    """
    from scipy.spatial import cKDTree

    if not (len(points) and len(others)):
        return
    tree = cKDTree(others)
    # A tree is searched with one radius at a time, the largest of a part: those within a factor of 1.4 go together.
    order = np.argsort(reach, kind="stable")
    counts = tree.query_ball_point(points[order], reach[order], return_length=True)
    block = (np.cumsum(counts) - counts) // PAIRS
    band = np.ceil(2 * np.log2(np.maximum(reach[order], np.finfo(np.float64).eps)))
    for part in np.split(order, np.flatnonzero(np.diff(block) + np.diff(band)) + 1):
        found = cKDTree(points[part]).sparse_distance_matrix(tree, reach[part].max(), output_type="ndarray")
        point = part[found["i"]]
        near = found["v"] <= reach[point]
        yield point[near], found["j"][near].astype(np.int64), found["v"][near]


@dataclass(frozen=True)
class _Nearest:
    """For each point the first of the nearest others within reach, or -1; how far; whether there are others."""

    row: np.ndarray
    chord: np.ndarray
    several: np.ndarray


def _nearest(points: np.ndarray, others: np.ndarray, reach: float) -> _Nearest:
    from scipy.spatial import cKDTree

    if not (len(points) and len(others)):
        return _Nearest(np.full(len(points), -1), np.full(len(points), np.inf), np.zeros(len(points), bool))
    # Points at one place are searched once: a tree would look at all of them for each of them.
    sought, _, which = _places(points)
    places, first, place_of = _places(others)
    tree = cKDTree(places, balanced_tree=False, compact_nodes=False)
    # The bound of a tree is open, and its square must not vanish.
    distances, found = tree.query(sought, k=2, distance_upper_bound=max(np.nextafter(reach, np.inf), 1e-150))
    row = np.where(found[:, 0] < len(places), first[np.minimum(found[:, 0], len(first) - 1)], -1)
    for k in np.flatnonzero((distances[:, 0] == distances[:, 1]) & (row >= 0)):
        # A tree gives any of several that are equally near. Its own sums of squares are compared, to the last bit.
        near = np.array(tree.query_ball_point(sought[k], distances[k, 0] * (1 + 1e-9)))
        squares = ((places[near] - sought[k]) ** 2).sum(axis=1)
        row[k] = first[near[squares == squares.min()]].min()
    crowded = np.bincount(place_of, minlength=len(places)) > 1
    several = np.isfinite(distances[:, 1]) | ((row >= 0) & crowded[np.minimum(found[:, 0], len(places) - 1)])
    return _Nearest(row[which], distances[which, 0], several[which])


def _places(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different points, the first row of each, and the place of each row."""
    places, first, place_of = np.unique(points, axis=0, return_index=True, return_inverse=True)
    return places, first, place_of.reshape(-1)
