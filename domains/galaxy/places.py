"""Galaxies by their place on the sky: which are one object, and which show each other in their stamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sciencessl.data_prep.crossmatch import nearest_within
from sciencessl.data_prep.groups import SAME_OBJECT_ARCSEC
from sciencessl.data_prep.sky import sky_positions
from sciencessl.store.sides import Nearness, Side

RA, DEC, SIZE, SCALE = "ra", "dec", "size_px", "scale_arcsec_px"
"""Columns of positions in degrees, of the side of a stamp in pixels, and of its pixel scale in arcsec."""
SURVEY, RADIUS = "survey", "match_arcsec"
"""Where the source `survey` records below which separation its sources are one object."""
SAME, OVERLAP = "sky position", "overlap on the sky"
"""What pairs share."""


@dataclass(frozen=True)
class _Placed:
    """The samples of a side whose position is known: places in the side, degrees, half the side of stamps in arcsec
    (0 where unknown), and how many samples have no position."""

    rows: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    half: np.ndarray
    unplaced: int


def near_on_sky(pool: Side, test: Side) -> Iterator[Nearness]:
    """Near sources are one object; stamps overlap where one shows the other's centre.

    Near is within the `match_arcsec` that a store was prepared with, the larger of two, or else 1.5 arcsec.

    A stamp shows what lies within half its side: `size_px` times `scale_arcsec_px`, where both are recorded. Who is one
    object with a sample of the pool is not told again as overlapping.

    Args:
        pool: What may have been learned from.
        test: What is judged on.

    Yields:
        Nothing where a store has no columns `ra` and `dec`; `SAME`, and `OVERLAP` where a store recorded sizes.
    """
    if not all({RA, DEC} <= side.store.columns().keys() for side in (pool, test)):
        return
    first, second = _placed(test), _placed(pool)
    match, separation = np.full(len(test.index), -1), np.full(len(test.index), np.nan)
    radii = [side.store.header.settings.get(SURVEY, {}).get(RADIUS, SAME_OBJECT_ARCSEC) for side in (test, pool)]
    row, apart = nearest_within(first.ra, first.dec, radii[0], second.ra, second.dec, radii[1])
    match[first.rows], separation[first.rows] = np.where(row >= 0, np.append(second.rows, -1)[row], -1), apart
    unplaced = first.unplaced + second.unplaced
    yield Nearness(SAME, True, match, separation, "arcsec", unplaced)
    if not (first.half.any() or second.half.any()):
        return
    shown, away = np.full(len(match), -1), np.full(len(match), np.nan)
    row, apart = nearest_within(first.ra, first.dec, first.half, second.ra, second.dec, second.half)
    new = (row >= 0) & (match[first.rows] < 0)
    shown[first.rows[new]], away[first.rows[new]] = second.rows[row[new]], apart[new]
    yield Nearness(OVERLAP, False, shown, away, "arcsec", unplaced)


def _placed(side: Side) -> _Placed:
    ra, dec, bad = sky_positions(side.values(RA), side.values(DEC))
    rows = np.flatnonzero(np.isfinite(ra))
    half = np.zeros(len(ra))
    if {SIZE, SCALE} <= side.store.columns().keys():
        size, scale = (np.array(side.values(name), np.float64) for name in (SIZE, SCALE))
        half = np.nan_to_num(size * scale / 2)
    return _Placed(rows, ra[rows], dec[rows], half[rows], len(bad))
