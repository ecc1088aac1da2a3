"""Boxes in an image and convex outlines around them: which lie inside, which overlap too much, and random ones.

Boxes are (N, 4) int32: left, top, right, bottom, where pixel k reaches from k to k + 1. Outlines are (n, 2) corners
x, y of a convex polygon in the same measure, in either direction.
"""

from __future__ import annotations

import math

import numpy as np

MOST_IOU = 0.5
"""Largest intersection over union of two boxes that are both kept. Source: UniVIP (arXiv 2203.06965), second hand."""
LONGEST = 3.0
"""Longer over shorter side of a box, at most. Source: as above."""
CANDIDATES = 64
_SLACK = 1e-6


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Its (4, 2) outline."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def clipped(outline: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The part of a convex outline that lies in a convex window; (0, 2) where they do not meet.

    Source: Sutherland & Hodgman 1974.
    """
    for normal, offset in zip(*_half_planes(window), strict=True):
        if not len(outline):
            break
        depth = outline @ normal + offset
        kept = []
        for start, end, inside, next_inside in zip(
            outline, _following(outline), depth, _following(depth), strict=True
        ):
            kept += [start] if inside >= 0 else []
            if (inside > 0 > next_inside) or (inside < 0 < next_inside):
                kept.append(start + (end - start) * inside / (inside - next_inside))
        outline = np.array(kept).reshape(-1, 2)
    return outline


def _half_planes(outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) unit normals that point inwards and (n,) offsets: a point is inside where normal . point + offset >= 0."""
    along = _following(outline) - outline
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-12) * (1.0 if _area(outline) > 0 else -1.0)
    normals = np.column_stack([-along[:, 1] / length, along[:, 0] / length])
    return normals, -(normals * outline).sum(axis=1)


def _following(corners: np.ndarray) -> np.ndarray:
    """Each corner's next one; np.roll takes ten times as long."""
    return np.concatenate([corners[1:], corners[:1]])


def _area(outline: np.ndarray) -> float:
    """Signed: positive where corners go from x to y."""
    (x, y), (next_x, next_y) = outline.T, _following(outline).T
    return 0.5 * float(x @ next_y - y @ next_x)


def within(boxes: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes lie wholly inside a convex outline."""
    normals, offsets = _half_planes(outline)
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]].astype(np.float64)
    inside: np.ndarray = (corners @ normals.T + offsets >= -_SLACK).all(axis=(1, 2))
    return inside


def room(outline: np.ndarray) -> float:
    """Side of the largest upright square around the mean of the corners; 0 for no outline."""
    if len(outline) < 3 or abs(_area(outline)) < _SLACK:
        return 0.0
    return float(_reach(outline, outline.mean(axis=0)[None], np.ones((1, 2)))[0])


def _reach(outline: np.ndarray, centres: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(N,) factors by which upright boxes of these (N, 2) widths and heights around these centres just fit inside."""
    normals, offsets = _half_planes(outline)
    depth = centres @ normals.T + offsets
    extent = shapes @ np.abs(normals).T / 2
    found: np.ndarray = np.maximum((depth / extent).min(axis=1), 0.0)
    return found


def iou(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of boxes with one (4,) box."""
    low, high = np.maximum(boxes[:, :2], other[:2]), np.minimum(boxes[:, 2:], other[2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (other[2:] - other[:2]).prod()
    share: np.ndarray = common / np.maximum(areas - common, 1)
    return share


def distinct(boxes: np.ndarray, most: int) -> np.ndarray:
    """Places of the first `most` boxes that overlap no earlier kept one by more than `MOST_IOU`, in order."""
    kept: list[int] = []
    free = np.arange(len(boxes))
    while len(free) and len(kept) < most:
        kept.append(int(free[0]))
        free = free[iou(boxes[free], boxes[free[0]]) <= MOST_IOU]
    return np.array(kept, dtype=np.int64)


def allowed(boxes: np.ndarray, least: float) -> np.ndarray:
    """(N,) bool: both sides `least` pixels or more, and neither more than `LONGEST` times the other."""
    sides = boxes[:, 2:] - boxes[:, :2]
    fits: np.ndarray = (sides.min(axis=1) >= least) & (sides.max(axis=1) <= LONGEST * sides.min(axis=1))
    return fits


def random_boxes(
    outline: np.ndarray, taken: np.ndarray, count: int, least: float, rng: np.random.Generator
) -> np.ndarray:
    """As many boxes inside a convex outline: those that are taken, and random ones.

    Centres are mixtures of the corners, aspects log-uniform, sides half to all of what fits. Boxes that are `allowed`
    and `distinct` come first; where there are too few of them, first smaller and longer ones are let in, the largest
    first, then such as overlap others, and in the end one pixel in the middle, several times. It never fails.
    Source: ours.

    Args:
        outline: Corners of the convex polygon.
        taken: (M, 4) boxes that come first, M below `count`.
        count: Boxes wanted.
        least: Shortest side in pixels.
        rng: Draws them.

    Returns:
        (count, 4) int32.
    """
    drawn = max(CANDIDATES, 8 * count)
    centres = rng.dirichlet(np.ones(len(outline)), drawn) @ outline
    stretch = np.exp(rng.uniform(-0.5, 0.5, drawn) * math.log(LONGEST))
    shapes = np.column_stack([stretch, 1 / stretch])
    halves = shapes * (_reach(outline, centres, shapes) * rng.uniform(0.5, 1.0, drawn) / 2)[:, None]
    boxes = np.column_stack([np.ceil(centres - halves - _SLACK), np.floor(centres + halves + _SLACK)]).astype(np.int32)
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    boxes = boxes[shorter > 0]
    rank = np.where(allowed(boxes, least), np.inf, shorter[shorter > 0])
    pixel = np.floor(outline.mean(axis=0)).astype(np.int32)
    boxes = np.concatenate([taken, boxes[np.argsort(-rank, kind="stable")], np.append(pixel, pixel + 1)[None]])
    kept = distinct(boxes, count)
    others = np.setdiff1d(np.arange(len(boxes)), kept)
    found: np.ndarray = boxes[np.resize(np.concatenate([kept, others]), count)].astype(np.int32)
    return found
