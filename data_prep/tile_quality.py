"""What may be wrong with a tile of a slide, as numbers to be thresholded later: ink, blur, folds, empty glass."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

GLASS = (245.0, 245.0, 245.0)
"""Colour of glass where a tile's own slide is not known."""


def optical_density(rgb: np.ndarray, glass: tuple[float, float, float] = GLASS) -> Float32:
    """How much each channel is absorbed: -log10((I + 1) / (glass + 1)).

    Args:
        rgb: (..., 3) uint8, two or three dimensions.
        glass: Colour of what absorbs nothing, 0 to 255 each.

    Returns:
        float32 of the same shape: 0 for glass, negative for what is brighter, at most 2.41.

    Source: Beer-Lambert law; one added so that black stays finite.
    """
    levels = np.arange(1, 257, dtype=np.float64)
    table = np.stack([-np.log10(levels / (white + 1)) for white in glass], axis=1).astype(np.float32)
    return cv2.LUT(rgb, table.reshape(1, 256, 3)).reshape(rgb.shape)


def pen_pixels(rgb: np.ndarray) -> Bool:
    """Which pixels have a colour that pens have and stained tissue has not.

    Haematoxylin, eosin and blood absorb green most, so red ink alone is near them. With R, G, B the optical densities:

    - blue and green ink: R > 1.35 G and R > 0.3. Tissue of eight scanners has R < 0.9 G, bluish haematoxylin of
      immunostains R < 1.25 G.
    - red ink: B > 0.72 G, R < 0.35 G and G > 0.4. The densest red blood cells come close: up to 2 % of the pixels of
      tiles full of them.
    - black ink, and the black borders of scanners: all above 0.6 and within 25 % of each other. Carbon pigment too.

    Args:
        rgb: (h, w, 3) uint8.

    Returns:
        (h, w) bool.

    Source: ours.
    """
    red, green, blue = cv2.split(optical_density(rgb))
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    cold = (red > 1.35 * green) & (red > 0.3) & (high < 1.6)
    warm = (blue > 0.72 * green) & (red < 0.35 * green) & (green > 0.4)
    black = (low > 0.6) & (high < 1.25 * low)
    found: Bool = cold | warm | black
    return found
