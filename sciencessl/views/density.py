"""Optical density of stained tissue, of pixels and back, and the colours of the usual stains.

Ruifrok and Johnston 2001 (Anal. Quant. Cytol. Histol. 23, 291). Intensity is (value + 1) / 256, so that 255 is clear
glass, black has a density, and every value comes back. Densities are natural logarithms unless called decadic.
"""

from __future__ import annotations

import cv2
import numpy as np

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Density in red, green and blue of haematoxylin, eosin and DAB, a row each; scaled to unit length by `stain_basis`.
Source: Ruifrok and Johnston 2001."""

GLASS = 0.15
"""Mean decadic density of the three channels from which a pixel counts as tissue entirely. Source: ours."""

_DENSITY = -np.log((np.arange(256) + 1) / 256).astype(np.float32)


def densities(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W, 3) float32 natural optical densities, 0 for 255 and 5.5 for 0."""
    found: np.ndarray = cv2.LUT(image, _DENSITY)
    return found


def tissue_share(density: np.ndarray, full: float) -> np.ndarray:
    """How much of a pixel is tissue rather than glass: (mean density / full)**2, 1 at most.

    Args:
        density: (H, W, 3) float32, natural.
        full: Mean density that counts as tissue entirely, natural.

    Returns:
        (H, W) float32 in [0, 1].
    """
    share: np.ndarray = cv2.min(cv2.transform(density, np.full((1, 3), 1 / (3 * full), dtype=np.float32)), 1.0)
    share *= share
    return share


def to_pixels(light: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 intensities, of which 1 is clear glass -> (H, W, 3) uint8, clipped and rounded."""
    # Darker than black is black: convertScaleAbs would take 256 light - 1 < 0 for positive.
    pixels: np.ndarray = cv2.convertScaleAbs(cv2.max(light, (1 / 256,) * 3 + (0.0,)), alpha=256, beta=-1)
    return pixels


def stain_basis() -> np.ndarray:
    """(3, 3) float64: `STAINS` with rows of unit length."""
    basis: np.ndarray = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    return basis
