"""Boxes around what may be objects, without learning: the same for the same image. Source: ours.

Stands in for the selective search of UniVIP (arXiv 2203.06965): there proposals are searched once, offline; these take
a few milliseconds, at load time.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sciencessl.views.affine import resize
from sciencessl.views.boxes import allowed, distinct

SEARCHED_PX = 64
"""Longer side of the image that is searched."""
LEAST_SHARE = 1 / 8
"""Shortest side of a box over the shorter side of the image: 64 px of photos of 480 px, as UniVIP has it (second
hand)."""
LEAST_PX = 8
"""Fewest pixels of it, where half the image has as many: less is a blot when it is enlarged (ours)."""
MOST_BOXES = 48
QUANTILES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def least_side(shape: Sequence[int]) -> float:
    """Shortest side of a box in pixels, for an image of (H, W, ...)."""
    side = min(shape[:2])
    return max(LEAST_SHARE * side, min(LEAST_PX, side / 2), 1.0)


def picture_boxes(image: np.ndarray) -> np.ndarray:
    """What stands out in a picture: connected parts above several levels of two maps.

    One map says how far a smoothed pixel is from the mean of the image (frequency-tuned saliency, Achanta et al. 2009,
    in the image's own channels), the other how far from its surroundings; both have distances over all channels.

    Args:
        image: (H, W, C) uint8 or float32, finite.

    Returns:
        (N, 4) int32, as `level_boxes` orders and filters them; N may be 0.
    """
    small = searched(image).astype(np.float32)
    sigma = max(small.shape[:2]) / 48
    fine, wide = (_blurred(small, sigma * factor) for factor in (1, 8))
    maps = [np.linalg.norm(fine - around, axis=2) for around in (small.mean(axis=(0, 1)), wide)]
    return level_boxes(maps, [_quantiles(one) for one in maps], image.shape)


def _quantiles(one: np.ndarray) -> list[float]:
    ordered = np.sort(one, axis=None)
    levels: list[float] = ordered[[int(share * (len(ordered) - 1)) for share in QUANTILES]].tolist()
    return levels


def searched(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> the same with `SEARCHED_PX` on the longer side at most, by averages over areas."""
    scale = min(1.0, SEARCHED_PX / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return resize(image, height, width) if scale < 1 else image


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    found: np.ndarray = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE).reshape(image.shape)
    return found


def level_boxes(
    maps: Sequence[np.ndarray], levels: Sequence[Sequence[float]], shape: Sequence[int]
) -> np.ndarray:
    """Bounding boxes of the connected parts of maps above levels, the most certain first.

    Certain is what has more than its surroundings: the mean of the map in the box less that in a frame around it of
    half its sides, over the map's standard deviation. Boxes that do not stand out, that are not `boxes.allowed`, and
    that overlap a more certain one by more than `boxes.MOST_IOU` are left out; `MOST_BOXES` are kept.

    Args:
        maps: (h, w) float32, higher where an object is.
        levels: Of each map.
        shape: (H, W, ...) of the image that boxes are wanted for.

    Returns:
        (N, 4) int32 in pixels of that image.
    """
    growth = np.tile(np.array([shape[1], shape[0]]) / np.array(maps[0].shape[::-1]), 2)
    found, scores = [], []
    for one, own in zip(maps, levels, strict=True):
        parts = np.concatenate([_parts(one, level) for level in own])
        boxes = np.rint(parts * growth).astype(np.int32)
        usable = allowed(boxes, least_side(shape))
        found.append(boxes[usable])
        scores.append(_certainty(one, parts[usable]))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    certain = order[: int((np.concatenate(scores) > 0).sum())]
    everywhere: np.ndarray = np.concatenate(found)[certain]
    best: np.ndarray = everywhere.take(distinct(everywhere, MOST_BOXES), axis=0)
    return best


def _parts(one: np.ndarray, level: float) -> np.ndarray:
    """(N, 4) boxes of what is connected above a level, diagonals included."""
    stats = cv2.connectedComponentsWithStats((one > level).astype(np.uint8), connectivity=8)[2][1:, :4]
    return np.column_stack([stats[:, :2], stats[:, :2] + stats[:, 2:]])


def _certainty(one: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) by how many standard deviations of a map its mean in boxes is above that around them."""
    one = one.astype(np.float64)  # squares of large values overflow in single precision
    sums = cv2.integral(one)
    margin = (boxes[:, 2:] - boxes[:, :2] + 3) // 4
    high = np.array(one.shape[::-1])
    around = np.column_stack([np.maximum(boxes[:, :2] - margin, 0), np.minimum(boxes[:, 2:] + margin, high)])
    inside, both = (_sum(sums, b) for b in (boxes, around))
    n, m = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, around))
    frame = (both - inside) / np.maximum(m - n, 1)
    found: np.ndarray = (inside / n - frame) / max(float(one.std()), 1e-12)
    return np.where(m > n, found, 0.0)


def _sum(sums: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    left, top, right, bottom = boxes.T
    total: np.ndarray = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return total
