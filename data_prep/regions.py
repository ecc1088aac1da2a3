"""Regions that people or programs drew on a slide, and their rasters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

import numpy as np

BATCH = 4096
"""Regions whose edges are held at once."""
CROSSINGS = 2**22
"""Crossings of edges and rows that are held at once, about, whatever is drawn; at least those of one row."""


@dataclass(frozen=True, eq=False)
class Region:
    """One annotation: an area with holes, or a point.

    Attributes:
        rings: (k, 2) float64 each, x and y in level-0 pixels, whole numbers being edges of pixels; not closed (the last
            corner is not the first again). The first is the outer ring, others are holes. A point has one ring of one
            corner.
        class_name: As the file says; empty where it says nothing.
        kind: `area` or `point`.
        rater: Who drew it; empty where nobody knows.
    """

    rings: tuple[np.ndarray, ...]
    class_name: str
    kind: Literal["area", "point"] = "area"
    rater: str = ""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x and y of the upper left, then of the lower right corner of what it spans, in level-0 pixels."""
        low, high = self.rings[0].min(0), self.rings[0].max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def centroid(self) -> tuple[float, float]:
        """x and y of the outer ring's centre of area, in level-0 pixels.

        The mean of the corners instead where the ring crosses itself so that its loops cancel, and for a point.
        """
        ring = self.rings[0]
        middle = ring.mean(0)
        here = ring - middle  # near the origin, where products of large coordinates do not cancel
        there = np.roll(here, -1, 0)
        cross = here[:, 0] * there[:, 1] - there[:, 0] * here[:, 1]
        if twice := cross.sum():
            centre = middle + ((here + there) * cross[:, None]).sum(0) / (3 * twice)
            if np.all((ring.min(0) <= centre) & (centre <= ring.max(0))):
                middle = centre
        return float(middle[0]), float(middle[1])


def rasterise(
    regions: Iterable[Region], shape: tuple[int, int], scale: tuple[float, float],
    origin: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Which pixels of a raster some area covers: those whose centre lies in it, so that areas have no bias.

    A region is its outer ring less its holes, whichever way round rings go and however far a hole reaches out. What a
    ring that crosses itself goes round twice is outside (even-odd rule). Several regions make a union; points cover
    nothing.

    Args:
        regions: Areas; points are passed over.
        shape: (h, w) of the raster.
        scale: (x, y) level-0 pixels to one pixel of the raster.
        origin: (x, y) of the raster's upper left corner in level-0 pixels.

    Returns:
        (h, w) bool.

    Source: ours (scan lines through the centres of pixels, all regions at once).
    """
    height, width = shape
    steps = np.zeros(height * (width + 1), np.int32)
    areas = (region for region in regions if region.kind == "area")
    while some := list(islice(areas, BATCH)):
        edges = _edges(some, scale, origin)
        bands = 1 + _rows(edges[0], 0, height)[1].sum() // CROSSINGS
        borders = np.unique(np.linspace(0, height, bands + 1).astype(int)).tolist()
        for band in pairwise(borders):
            row, x, hole = _crossings(*edges, *band)
            # Each ring crosses a row's line an even number of times, so that both counts are even again at its end.
            inside = np.flatnonzero((np.cumsum(~hole) % 2 == 1) & (np.cumsum(hole) % 2 == 0))
            place = row * (width + 1) + np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
            np.add.at(steps, place[inside], 1)
            np.add.at(steps, place[inside + 1], -1)
    return np.cumsum(steps.reshape(height, width + 1), axis=1, dtype=np.int32)[:, :width] > 0


def _edges(
    regions: Sequence[Region], scale: tuple[float, float], origin: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 4) x, y, x, y of edges in pixels of the raster, upper end first; region of each; whether it is a hole's."""
    rings = [(number, place > 0, ring) for number, region in enumerate(regions)
             for place, ring in enumerate(region.rings)]
    lengths = np.array([len(ring) for *_, ring in rings])
    here = (np.concatenate([ring for *_, ring in rings]) - origin) / scale
    following = np.arange(1, len(here) + 1)
    following[np.cumsum(lengths) - 1] -= lengths  # the last corner of a ring leads to its first
    there = here[following]
    upper = (here[:, 1] <= there[:, 1])[:, None]
    edges = np.hstack([np.where(upper, here, there), np.where(upper, there, here)])
    return edges, np.repeat([ring[0] for ring in rings], lengths), np.repeat([ring[1] for ring in rings], lengths)


def _rows(edges: np.ndarray, upper: int, lower: int) -> tuple[np.ndarray, np.ndarray]:
    """The first row whose centre line each edge crosses, and how many, from row `upper` to before `lower`."""
    first, stop = (np.clip(np.ceil(y - 0.5), upper, lower).astype(np.int64) for y in (edges[:, 1], edges[:, 3]))
    return first, stop - first


def _crossings(
    edges: np.ndarray, owner: np.ndarray, hole: np.ndarray, upper: int, lower: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where edges cross the centre lines of some rows: row, x, whether a hole's; by region, then row, then x."""
    x0, y0, x1, y1 = edges.T
    first, count = _rows(edges, upper, lower)
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    order = np.lexsort((x, row, owner[edge]))
    return row[order], x[order], hole[edge][order]
