"""Thumbnails of slides whose tissue is known: stained shapes on glass of any colour, ink, borders, lace."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

MPP = 8.0
SHAPE = (300, 400)
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
BLOOD = np.array([0.10, 0.60, 0.40])
WHITE, GREY, TINTED = (244, 243, 245), (201, 199, 202), (238, 232, 222)
INKS = {"blue": (30, 70, 170), "green": (40, 140, 90), "red": (205, 25, 35), "black": (28, 27, 30)}


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Noise of standard deviation 1, correlated over `sigma` pixels."""
    noise = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), sigma)
    return (noise - noise.mean()) / noise.std()


def blob(rng: np.random.Generator, shape: tuple[int, int] = SHAPE, radius: float = 90) -> np.ndarray:
    """A round piece with a wavy outline in the middle of the picture."""
    y, x = np.indices(shape)
    distance = np.hypot(y - shape[0] / 2, x - shape[1] / 2)
    return distance + radius / 8 * smooth_noise(rng, shape, radius / 5) < radius


def box(x: int, y: int, width: int, height: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A rectangle."""
    mask = np.zeros(shape, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def lace(rng: np.random.Generator, inside: np.ndarray, cell_px: int = 10) -> np.ndarray:
    """Membranes between fat cells: what is near the border of two cells of a jittered grid."""
    rows, columns = (np.arange(-1, side // cell_px + 2) for side in inside.shape)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    centres = (centres + rng.uniform(-0.3, 0.3, centres.shape)) * cell_px
    nearest, _ = cKDTree(centres).query(np.stack(np.indices(inside.shape), axis=-1), k=2)
    return inside & (nearest[..., 1] - nearest[..., 0] < 1.6)


def density(rng: np.random.Generator, tissue: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """(h, w, 3) optical density of stained tissue: eosin everywhere, clusters of haematoxylin."""
    eosin = 0.22 * (1 + 0.2 * smooth_noise(rng, tissue.shape, 1.5))
    nuclei = 0.22 * np.clip(1 + 0.8 * smooth_noise(rng, tissue.shape, 2), 0.05, None)
    amount = cv2.GaussianBlur(tissue.astype(float), (0, 0), 0.6) * strength
    return amount[..., None] * (eosin[..., None] * EOSIN + nuclei[..., None] * HAEMATOXYLIN)


def picture(
    rng: np.random.Generator, absorbed: np.ndarray, glass: tuple[int, int, int] = WHITE, noise: float = 1.5
) -> np.ndarray:
    """(h, w, 3) uint8 of light that went through glass and what absorbs."""
    light = np.array(glass) * 10**-absorbed + rng.normal(0, noise, absorbed.shape)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def stroke(image: np.ndarray, ink: str, start: tuple[int, int], end: tuple[int, int], width: int = 14) -> np.ndarray:
    """Draw with a pen, in place, over glass and tissue; returns where."""
    where = np.zeros(image.shape[:2], np.uint8)
    cv2.line(where, start, end, 1, width, cv2.LINE_AA)
    through = np.where(where[..., None] > 0, np.array(INKS[ink]) / 245, 1.0)
    image[:] = np.rint(image * cv2.GaussianBlur(through, (0, 0), 0.8)).astype(np.uint8)
    return where > 0


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union."""
    return float((found & true).sum() / max((found | true).sum(), 1))
