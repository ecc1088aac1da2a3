"""What lies on a synthetic slide, before it is stained and scanned: tissue, glands, a tumour and every nucleus.

Lengths and places are in micrometres from the upper left corner of the slide. All numbers are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from sciencessl.domains.pathology.synthetic import gland_nuclei, smooth_noise

CLASSES = ("benign", "tumour")
"""Of a slide. Both have glands, lymphocytes and stroma; one has a tumour besides."""

CELLS = ("epithelium", "lymphocyte", "stroma")
"""Nuclei of glands and tumours; small round ones in clusters; long ones along the fibres."""

_CELLS_A_MM2 = 4500
_SHARES = {"benign": (0.40, 0.20, 0.40), "tumour": (0.60, 0.15, 0.25)}
_ALIKE = 40.0  # concentration of the Dirichlet distribution that slides draw their own shares from
_IN_TUMOUR = 0.75  # share of the epithelium of a slide with a tumour that is in it
_TUMOUR_GAP, _GAP = 9.5, 6.5  # between nuclei of a tumour, and of stroma
_RIM = 1.25  # outline of a gland over the ring of its nuclei
_CORNERS = 128


@dataclass(frozen=True)
class Nuclei:
    """N nuclei, which are ellipses.

    Attributes:
        place: (N, 2) x and y of the middle.
        kind: (N,) index into `CELLS`.
        axes: (N, 2) half axes.
        angle: (N,) of the first axis, radians.
        amount: (N,) of haematoxylin.
    """

    place: np.ndarray
    kind: np.ndarray
    axes: np.ndarray
    angle: np.ndarray
    amount: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything on a slide.

    Attributes:
        size: Width and height.
        tissue: (k, 2) outline, x and y, not closed.
        tumour: (k, 2) outline inside the tissue; None without a tumour.
        glands: (G, 5) x and y of the middle, half axes of the outline, angle of the first in radians.
        lumina: (k, 2) outline of the empty middle of each gland.
        nuclei: All of them; none overlaps one of another kind by more than its rim.
        direction: Main direction of the fibres, radians; they wave along it.
        shares: (3,) of `CELLS` that this slide was drawn with.
    """

    size: tuple[float, float]
    tissue: np.ndarray
    tumour: np.ndarray | None
    glands: np.ndarray
    lumina: tuple[np.ndarray, ...]
    nuclei: Nuclei
    direction: float
    shares: np.ndarray


def ellipse_ring(x: float, y: float, along: float, across: float, angle: float, *, corners: int = 24) -> np.ndarray:
    """Outline of an ellipse: (corners, 2) x and y, with the area of the ellipse itself."""
    step = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    # A polygon inside an ellipse is smaller: its area is that of the ellipse times sin(t) / t.
    grown = math.sqrt((2 * math.pi / corners) / math.sin(2 * math.pi / corners))
    u, v = grown * along * np.cos(step), grown * across * np.sin(step)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([x + u * cos - v * sin, y + u * sin + v * cos], axis=1)


def wave(scene_direction: float, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fibres: how far across them places lie, and the direction of the fibre there.

    Args:
        scene_direction: Of the scene, radians.
        place: (..., 2) x and y in um.

    Returns:
        (...) um, the same along a fibre, and (...) radians.
    """
    cos, sin = math.cos(scene_direction), math.sin(scene_direction)
    along = place[..., 0] * cos + place[..., 1] * sin
    across = place[..., 1] * cos - place[..., 0] * sin
    return across - 9.0 * np.sin(along / 45.0), scene_direction + np.arctan(9.0 / 45.0 * np.cos(along / 45.0))


def draw_scene(size: tuple[float, float], slide_class: str, rng: np.random.Generator) -> Scene:
    """Draw the tissue of a slide.

    Cells are 4,500 to a square millimetre. How many are of which kind is drawn for each slide: shares by a Dirichlet
    distribution around those of its class, then counts; the scene has exactly these counts unless it has no room.

    Args:
        size: Width and height in um, at least 128 each.
        slide_class: One of `CLASSES`.
        rng: Source of the draws.
    """
    middle = np.array(size) / 2 + rng.uniform(-0.03, 0.03, 2) * size
    tissue = _blob(middle, np.array(size) * rng.uniform(0.36, 0.42, 2), 0.10, rng)
    tissue += rng.normal(0, 1.0, tissue.shape)  # torn, not cut
    room = _room(_filled(size, [tissue]))
    shares = rng.dirichlet(_ALIKE * np.array(_SHARES[slide_class]))
    counts = rng.multinomial(round(_CELLS_A_MM2 * np.count_nonzero(room) / 1e6), shares)
    direction = rng.uniform(0, math.pi)
    tumour, parts = None, []
    if slide_class == "tumour":
        tumour, found = _tumour(room, round(_IN_TUMOUR * counts[0]), rng)
        parts.append(found)
        room = _room((room > 0) & ~_filled(size, [tumour]))
    glands, found = _glands(room, counts[0] - sum(map(len, parts)), rng)
    parts.append(found)
    outlines = [ellipse_ring(*gland) for gland in glands.tolist()]
    stroma = _room((room > 0) & ~_filled(size, outlines))
    rest = _between_glands(stroma, counts[1:], direction, rng)
    lumina = tuple(_lumen(gland, rng) for gland in glands)
    return Scene(size, tissue, tumour, glands, lumina, _together([np.concatenate(parts), *rest]), direction, shares)


def _lumen(gland: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of any size and outline, and not quite in the middle: glands are not to look alike."""
    middle, narrow = gland[:2] + 0.12 * gland[3] * rng.uniform(-1, 1, 2), float(gland[3])
    return _blob(middle, narrow * rng.uniform(0.2, 0.5, 2), 0.35, rng)


def _together(kinds: list[np.ndarray]) -> Nuclei:
    every = np.concatenate(kinds)
    kind = np.repeat(np.arange(len(kinds)), [len(some) for some in kinds])
    return Nuclei(every[:, :2], kind, every[:, 2:4], every[:, 4], every[:, 5])


def _blob(middle: np.ndarray, radius: np.ndarray, roughness: float, rng: np.random.Generator) -> np.ndarray:
    """A ring around a point, never further than its radius."""
    step = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)
    wavy = sum(rng.uniform(0.4, 1.0) / k * np.cos(k * step + rng.uniform(0, 2 * math.pi)) for k in range(2, 7))
    far = 1 + roughness * np.asarray(wavy)
    return np.asarray(middle + radius * (far / far.max())[:, None] * np.stack([np.cos(step), np.sin(step)], axis=1))


def _filled(size: tuple[float, float], rings: list[np.ndarray]) -> np.ndarray:
    """Which squares of one um lie in some ring."""
    plane = np.zeros((math.ceil(size[1]), math.ceil(size[0])), np.uint8)
    for ring in rings:
        cv2.fillPoly(plane, [np.rint((ring - 0.5) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return plane.astype(bool)


def _room(free: np.ndarray) -> np.ndarray:
    """um to the next border, in squares of one um; 0 where it is not free."""
    framed = cv2.copyMakeBorder(free.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1])


def _at(plane: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Values of a plane of one-um squares at places."""
    x, y = np.clip(place.astype(int), 0, np.array(plane.shape[::-1]) - 1).T
    return np.asarray(plane[y, x])


def _sites(size: tuple[float, float], gap: float, rng: np.random.Generator) -> np.ndarray:
    """Places about `gap` apart everywhere: a hexagonal grid, each moved a little, in random order."""
    rows, columns = math.ceil(size[1] / (gap * 0.866)), math.ceil(size[0] / gap)
    y, x = np.mgrid[:rows, :columns]
    grid = np.stack([(x + 0.5 * (y % 2)) * gap, y * gap * 0.866], axis=-1).reshape(-1, 2)
    return rng.permutation(grid + rng.uniform(-0.18, 0.18, grid.shape) * gap)


def _tumour(room: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A patch of crowded nuclei: its outline, and (n, 6) nuclei as `gland_nuclei` gives them."""
    wanted = math.sqrt(1.15 * count * 0.866 * _TUMOUR_GAP**2 / math.pi)
    wide = np.argwhere(room >= min(1.1 * wanted, 0.95 * room.max()))[:, ::-1] + 0.5
    middle = wide[rng.integers(len(wide))]
    ring = _blob(middle, np.full(2, min(1.1 * wanted, 0.95 * float(room.max()))), 0.12, rng)
    shape = (float(room.shape[1]), float(room.shape[0]))
    places = _sites(shape, _TUMOUR_GAP, rng)
    places = places[_at(_room(_filled(shape, [ring])), places) > 4.0][:count]
    n = len(places)
    size = rng.uniform(3.0, 4.1, n)
    return ring, np.column_stack([places, size, size * rng.uniform(0.7, 0.95, n), rng.uniform(0, math.pi, n),
                                  rng.uniform(0.7, 1.15, n)])


def _glands(room: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Glands until they have `count` nuclei or there is no place for another: outlines, and (n, 6) nuclei."""
    glands, nuclei = np.zeros((0, 5)), [np.zeros((0, 6))]
    for at in _sites((room.shape[1], room.shape[0]), 12.0, rng):
        left = count - sum(map(len, nuclei))
        if left <= 0:
            break
        radius, squash, turn = rng.uniform(12.0, 24.0), rng.uniform(0.55, 1.0), rng.uniform(0, math.pi)
        outer = _RIM * radius
        others = np.hypot(*(glands[:, :2] - at).T) < glands[:, 2] + outer + 3.0
        if others.any() or _at(room, at[None])[0] < outer + 3.0:
            continue
        glands = np.vstack([glands, (*at, outer, outer * squash, turn)])
        ring = gland_nuclei(radius, squash, turn, rng)[:left]
        ring[:, :2] += at
        nuclei.append(ring)
    return glands, np.concatenate(nuclei)


def _between_glands(
    room: np.ndarray, counts: np.ndarray, direction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lymphocytes, in clusters, and stroma nuclei, along the fibres: (n, 6) each."""
    places = _sites((room.shape[1], room.shape[0]), _GAP, rng)
    places = places[_at(room, places) > 3.0]
    # The largest of log weight and Gumbel noise are a draw without replacement by weight.
    crowded = 2.2 * _at(smooth_noise(room.shape, 22.0, rng), places) + rng.gumbel(size=len(places))
    order = np.argsort(-crowded, kind="stable")
    round_ones = places[order[: counts[0]]]
    long_ones = places[np.sort(order[counts[0] :])][: counts[1]]
    n, size = len(round_ones), rng.uniform(2.0, 2.8, len(round_ones))
    lymphocytes = np.column_stack([round_ones, size, size * rng.uniform(0.8, 1.0, n), rng.uniform(0, math.pi, n),
                                   rng.uniform(0.9, 1.25, n)])
    n = len(long_ones)
    angle = wave(direction, long_ones)[1] + rng.normal(0, 0.1, n)
    stroma = np.column_stack([long_ones, rng.uniform(4.0, 6.5, n), rng.uniform(1.1, 1.6, n), angle,
                              rng.uniform(0.7, 1.05, n)])
    return lymphocytes, stroma
