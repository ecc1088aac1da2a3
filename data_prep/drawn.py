"""What the readers of annotation files share: rings made sound, and what cannot be used counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sciencessl.data_prep.regions import Region
from sciencessl.errors import DataError

THIN = 1e-9
"""Width of a ring, as a share of its length, up to which it is a line."""
FAR = 1e12
"""Pixels from the slide's corner that no region reaches, and whose squares can be computed with."""
CIRCLE_CORNERS = 72
"""Corners of a circle or an ellipse: its area is right to 0.13 %."""


@dataclass
class Drawn:
    """What was read of one file.

    Attributes:
        path: The file, for errors.
        regions: What can be used.
        skipped: Why something cannot -> how often.
    """

    path: Path
    regions: list[Region] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def area(self, rings: Sequence[object], class_name: str, where: str, rater: str = "") -> None:
        """Take an area, its outer ring first; a hole that is a line or a point is none.

        Raises:
            DataError: When a corner is no pair of finite numbers up to `FAR`.
        """
        outer, *holes = (_opened(self.corners(ring, where)) for ring in rings)
        if len(outer) < 3:
            self.skipped["areas of fewer than three corners"] += 1
        elif _is_line(outer):
            self.skipped["areas that are lines"] += 1
        else:
            sound = [hole for hole in holes if len(hole) > 2 and not _is_line(hole)]
            self.regions.append(Region((outer, *sound), class_name.strip(), "area", rater))

    def point(self, place: object, class_name: str, where: str, rater: str = "") -> None:
        """Take a point.

        Raises:
            DataError: When it is no pair of finite numbers up to `FAR`.
        """
        self.regions.append(Region((self.corners([place], where),), class_name.strip(), "point", rater))

    def corners(self, values: object, where: str) -> np.ndarray:
        """(k, 2) float64 corners; a third number of each, such as a depth, is left out.

        Raises:
            DataError: When one is no pair of finite numbers, or lies `FAR` away.
        """
        try:
            found = np.asarray(values, np.float64)
        except (TypeError, ValueError, OverflowError):
            found = np.zeros(0)
        if not found.size and isinstance(values, Sequence) and not values:
            return np.zeros((0, 2))
        if found.ndim != 2 or found.shape[1] not in (2, 3) or not np.isfinite(found).all():
            raise self.error(where, f"has the corners {str(values)[:60]}, expected pairs of finite numbers")
        if np.abs(found[:, :2]).max(initial=0.0) > FAR:
            raise self.error(where, f"has a corner at {np.abs(found[:, :2]).max():g} px, expected pixels of level 0")
        return found[:, :2]

    def error(self, where: str, what: str) -> DataError:
        """The error of a place in the file."""
        return DataError(f"annotations {self.path}: {where} {what}. Export the file again, or correct it.")


def ellipse(corners: np.ndarray) -> np.ndarray:
    """(CIRCLE_CORNERS, 2) ring of the upright ellipse that fills the box of some corners, (k, 2)."""
    low, high = corners.min(0), corners.max(0)
    angle = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS, endpoint=False)
    ring: np.ndarray = (low + high) / 2 + np.stack([np.cos(angle), np.sin(angle)], 1) * (high - low) / 2
    return ring


def nested(rings: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Rings in no order -> areas, each its outer ring and the holes directly in it (by each ring's first corner)."""
    order = sorted(rings, key=lambda ring: -float(np.prod(np.ptp(ring, 0))) if len(ring) else 0.0)
    around = [[other for other in range(number) if len(ring) and encloses(order[other], ring[0])]
              for number, ring in enumerate(order)]
    areas = {number: [ring] for number, ring in enumerate(order) if len(around[number]) % 2 == 0}
    for number, ring in enumerate(order):
        if number not in areas:
            areas[around[number][-1] if around[number][-1] in areas else min(areas)].append(ring)
    return list(areas.values())


def encloses(ring: np.ndarray, place: np.ndarray) -> bool:
    """Whether a point lies in a ring, by the even-odd rule."""
    if len(ring) < 3 or (place < ring.min(0)).any() or (place > ring.max(0)).any():
        return False
    x, y = (ring - place).T
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    crossing = (y > 0) != (y1 > 0)
    right = x[crossing] - y[crossing] * (x1 - x)[crossing] / (y1 - y)[crossing] > 0
    return bool(right.sum() % 2)


def _opened(ring: np.ndarray) -> np.ndarray:
    """Without corners that repeat the one before, or the first at the end."""
    moved = np.empty(len(ring), bool)
    moved[:1] = (ring[:1] != ring[-1:]).any()
    moved[1:] = (ring[1:] != ring[:-1]).any(1)
    return ring[moved]


def _is_line(ring: np.ndarray) -> bool:
    away = ring - ring[0]
    far = away[np.argmax((away**2).sum(1))]
    return bool(np.abs(away[:, 0] * far[1] - away[:, 1] * far[0]).max() <= THIN * (far @ far))
