"""Regions that people or programs drew on a slide, and their rasters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

BATCH = 4096
"""Regions whose edges are held at once."""


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
    def area_px(self) -> float:
        """Level-0 pixels of the outer ring less its holes; 0 for points."""
        outer, *holes = (abs(_signed_area(ring)) for ring in self.rings)
        return max(outer - sum(holes), 0.0)

    @property
    def centroid(self) -> tuple[float, float]:
        """x and y of the outer ring's centre of area, in level-0 pixels; of its corners where it has no area."""
        ring, area = self.rings[0], _signed_area(self.rings[0])
        middle = ring.mean(0)
        if area:
            here = ring - middle  # near the origin, where products of large coordinates do not cancel
            there = np.roll(here, -1, 0)
            cross = here[:, 0] * there[:, 1] - there[:, 0] * here[:, 1]
            middle = middle + ((here + there) * cross[:, None]).sum(0) / (6 * area)
        return float(middle[0]), float(middle[1])


def _signed_area(ring: np.ndarray) -> float:
    x, y = (ring - ring[0]).T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def rasterise(
    regions: Iterable[Region], shape: tuple[int, int], scale: tuple[float, float],
    origin: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Which pixels of a raster some area covers: those whose centre lies in it, so that areas have no bias.

    Within one region rings are filled by the even-odd rule: holes stay empty, and so does what a ring that crosses
    itself goes round twice. Several regions make a union. Points cover nothing.

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
    steps = np.zeros(height * (width + 1), np.int64)
    areas = (region for region in regions if region.kind == "area")
    while some := list(islice(areas, BATCH)):
        row, x = _crossings(*_edges(some, scale, origin), height)
        # A pixel is entered at the first centre at or right of a crossing: even ones enter, odd ones leave.
        place = row * (width + 1) + np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        steps += np.bincount(place[::2], minlength=len(steps)) - np.bincount(place[1::2], minlength=len(steps))
    return np.cumsum(steps.reshape(height, width + 1), axis=1)[:, :width] > 0


def _edges(
    regions: Sequence[Region], scale: tuple[float, float], origin: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) x, y, x, y of all edges in pixels of the raster, upper end first; (n,) number of the region of each."""
    rings = [(number, ring) for number, region in enumerate(regions) for ring in region.rings]
    here = np.concatenate([ring for _, ring in rings])
    there = np.concatenate([np.roll(ring, -1, 0) for _, ring in rings])
    owner = np.repeat([number for number, _ in rings], [len(ring) for _, ring in rings])
    here, there = (here - origin) / scale, (there - origin) / scale
    upper = (here[:, 1] <= there[:, 1])[:, None]
    return np.hstack([np.where(upper, here, there), np.where(upper, there, here)]), owner


def _crossings(edges: np.ndarray, owner: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and x of each crossing of an edge with a row's centre line: region after region, row after row, x ascending.

    A ring crosses a line an even number of times, so each pair of neighbours is one stretch inside a region.
    """
    x0, y0, x1, y1 = edges.T
    first, stop = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (y0, y1))
    count = stop - first
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    order = np.lexsort((x, row, owner[edge]))
    return row[order], x[order]
