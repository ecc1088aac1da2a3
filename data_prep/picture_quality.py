"""What a picture shows, as numbers to filter by: how much there is to see, how sharp it is, how much is one colour."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np

SHARPNESS_PX = 128
"""Sharpness is of pictures with a short side of this to twice this, so that it means the same at any resolution."""
COLOUR_BITS = 5
"""Bits a channel that tell colours apart."""
ENOUGH_PIXELS, ENOUGH_ROWS = 2**13, 32
"""Histograms are of every n-th row of a larger picture, so that about so many pixels and at least so many rows stay."""


def entropy(grey: np.ndarray) -> float:
    """Entropy of the histogram of grey values, in bits: 0 for one value, 8 for all 256 equally often.

    Two values equally often have 1 bit; three quarters and one quarter, 0.8113. Photos have 6 to 7.9; pages of text,
    logos and charts less than 4. Source: Shannon 1948, of the histogram; ours.

    Args:
        grey: (H, W) uint8.
    """
    counts = cv2.calcHist([_some_rows(grey)], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    share = counts[counts > 0] / counts.sum()
    return abs(float(share @ np.log2(share)))


def sharpness(grey: np.ndarray) -> float:
    """Standard deviation of the Laplacian, in grey levels: 0 for one colour and for even slopes, higher is sharper.

    A chessboard of 0 and v with fields of one pixel has 4 v: each pixel differs from its four neighbours by v. Pictures
    twice as large as `SHARPNESS_PX`, or more, are shrunk by a whole number first. Source: Pech-Pacheco et al. 2000
    (variance of the Laplacian); its root, ours.

    Args:
        grey: (H, W) uint8.
    """
    times = min(grey.shape) // SHARPNESS_PX
    if times > 1:
        height, width = (side // times for side in grey.shape)
        grey = cv2.resize(grey[: height * times, : width * times], (width, height), interpolation=cv2.INTER_AREA)
    bent = cv2.Laplacian(grey, cv2.CV_16S)
    mean = cv2.sumElems(bent)[0] / bent.size
    # The sum of squares is exact; meanStdDev takes ten times as long.
    return float(np.sqrt(max(cv2.norm(bent, cv2.NORM_L2SQR) / bent.size - mean**2, 0.0)))


def one_colour(pixels: np.ndarray) -> float:
    """Share of the most frequent colour, above 0 to 1; colours are told apart by their `COLOUR_BITS` highest bits.

    A picture of one colour has 1; one whose left half is white and right half noise, about 0.5. Source: ours.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.
    """
    some = _some_rows(pixels)
    channels = [0] if pixels.ndim == 2 else [0, 1, 2]
    count = len(channels)
    counts = cv2.calcHist([some], channels, None, [2**COLOUR_BITS] * count, [0, 256] * count)
    return float(counts.max() / (some.shape[0] * some.shape[1]))


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """(H, W) uint8 luma of (H, W, 3) red, green and blue; what is grey already as it is."""
    return pixels if pixels.ndim == 2 else cast(np.ndarray, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def _some_rows(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return pixels[:: max(min(height * width // ENOUGH_PIXELS, height // ENOUGH_ROWS), 1)]
