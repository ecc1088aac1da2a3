"""Are two images one, turned, mirrored, zoomed or encoded again? Pixels around the centre in log-polar coordinates.

There a turn is a shift along one axis, a zoom about the centre a shift along the other and a mirror image a reversal,
so that aligning two images is a correlation. Each pixel is compared with its surroundings first (their mean taken off,
divided by their spread): a bright galaxy, a stain or a change of exposure then count no more than faint stars.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

RINGS, ANGLES = 24, 64
"""Shape of a map: rings from the centre outwards, angles."""
SHIFTS = 5
"""Rings by which two maps may be shifted against each other: zooms up to `STEP` ** 5 = 1.59."""
SIDE, INNER = 128, 7
"""Side of the square that an image is shrunk to, and radius of the innermost ring, in pixels of that square."""
STEP = (SIDE / 2 / INNER) ** (1 / RINGS)
"""Ratio of the radii of neighbouring rings."""
BOX = 7
"""Side of the surroundings that a pixel is compared with, in cells of the map."""
FLOOR_LEVELS = 2.0
"""Spread, in grey levels, of surroundings that count half: below it there is more noise than image."""
RIDGE = 0.05
"""Share of a full map's energy that is added to every norm: flat images resemble nothing, equal ones score to 0.95."""
HARMONICS = 8
"""Angular frequencies whose amplitudes are looked up."""

_WEIGHT = STEP ** np.arange(RINGS, dtype=np.float64)
_WEIGHT *= RINGS / _WEIGHT.sum()


@dataclass(frozen=True)
class Alignment:
    """How p pairs of images lie best on each other.

    Attributes:
        score: (p,) correlation of the compared pixels, -1 to 0.95.
        turn_deg: (p,) counterclockwise angle by which the second is turned against the first, 0 to below 360.
        zoom: (p,) scale of the second against the first.
        mirrored: (p,) whether the second is the first mirrored top to bottom, and then turned.
    """

    score: np.ndarray
    turn_deg: np.ndarray
    zoom: np.ndarray
    mirrored: np.ndarray

    def take(self, pairs: np.ndarray) -> Alignment:
        """Those of some pairs, by position."""
        return Alignment(self.score[pairs], self.turn_deg[pairs], self.zoom[pairs], self.mirrored[pairs])


def polar_map(image: np.ndarray) -> np.ndarray:
    """The pixels of an image against their surroundings, in log-polar coordinates about its centre.

    The image is made grey and shrunk to a square, whatever its sides: a copy with another aspect is found, one of a
    photo that is not square and was turned by other than quarter turns is not.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (RINGS, ANGLES) float32, about unit variance where there is structure, 0 where there is none.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    method = cv2.INTER_AREA if min(grey.shape) >= SIDE else cv2.INTER_LINEAR
    square = cv2.resize(grey, (SIDE, SIDE), interpolation=method).astype(np.float32)
    fine = cv2.remap(square, *_places(), cv2.INTER_LINEAR)
    rough = cv2.resize(fine, (ANGLES, RINGS), interpolation=cv2.INTER_AREA)
    detail = rough - _surroundings(rough)
    return np.asarray(detail / np.sqrt(_surroundings(detail * detail) + FLOOR_LEVELS**2), dtype=np.float32)


@cache
def _places() -> tuple[np.ndarray, np.ndarray]:
    """Where a map of twice the size is read, (2 RINGS, 2 ANGLES) columns and lines of the square."""
    radius = INNER * STEP ** ((np.arange(2 * RINGS) + 0.5) / 2)
    # Half a fine cell on, so that cells average to places that a mirror maps onto each other.
    angle = 2 * np.pi * (np.arange(2 * ANGLES) + 0.5) / (2 * ANGLES)
    centre = (SIDE - 1) / 2
    across, down = (centre + radius[:, None] * wave for wave in (np.cos(angle), np.sin(angle)))
    return across.astype(np.float32), down.astype(np.float32)


def _surroundings(cells: np.ndarray) -> np.ndarray:
    around = np.concatenate([cells[:, -BOX:], cells, cells[:, :BOX]], axis=1)
    mean: np.ndarray = cv2.blur(around, (BOX, BOX), borderType=cv2.BORDER_REFLECT_101)[:, BOX:-BOX]
    return mean


def amplitudes(maps: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """What of a map neither a turn nor a mirror changes, for each zoom: what look-alikes are looked up by.

    Args:
        maps: (n, RINGS, ANGLES).
        centre: (RINGS - SHIFTS, HARMONICS) that is taken off, as `amplitude_centre` gives it.

    Returns:
        (SHIFTS + 1, n, D) float32 unit vectors, or zeros for maps without structure. [s] describes the rings from s
        on, so that [s] of an image fits [0] of the same one shrunk by `STEP` ** s.
    """
    windows = _windows(maps)
    vectors = ((windows - centre) * np.sqrt(_WEIGHT[: RINGS - SHIFTS, None])).reshape(SHIFTS + 1, len(maps), -1)
    vectors[~windows.any(axis=(2, 3))] = 0
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-9), dtype=np.float32)


def amplitude_centre(maps: np.ndarray) -> np.ndarray:
    """(RINGS - SHIFTS, HARMONICS) mean spectrum of some maps: what all of them share tells none apart."""
    return np.asarray(_windows(maps).mean(axis=(0, 1)))


def _windows(maps: np.ndarray) -> np.ndarray:
    """(SHIFTS + 1, n, RINGS - SHIFTS, HARMONICS) roots of amplitudes; roots, so that the strongest do not decide."""
    spectrum = np.sqrt(np.abs(np.fft.rfft(np.asarray(maps, dtype=np.float32), axis=2)[:, :, 1 : HARMONICS + 1]))
    return np.stack([spectrum[:, s : s + RINGS - SHIFTS] for s in range(SHIFTS + 1)])


def align(first: np.ndarray, second: np.ndarray) -> Alignment:
    """Lay pairs of maps on each other, over all turns, both hands and zooms up to `SHIFTS` rings either way.

    The score is the normalised correlation over the rings that both have, outer rings weighing more as they cover more
    pixels, at the best place.

    Args:
        first: (p, RINGS, ANGLES).
        second: (p, RINGS, ANGLES).
    """
    first, second = np.asarray(first, dtype=np.float32), np.asarray(second, dtype=np.float32)
    waves = [np.fft.rfft(maps, axis=2) for maps in (first, second)]
    energy = [np.square(maps).sum(axis=2) for maps in (first, second)]
    best = np.full(len(first), -np.inf)
    place = np.zeros((3, len(first)), dtype=np.int64)
    for shift in range(-SHIFTS, SHIFTS + 1):
        inner, outer = slice(max(shift, 0), RINGS + min(shift, 0)), slice(max(-shift, 0), RINGS - max(shift, 0))
        weight = np.sqrt(_WEIGHT[inner] * _WEIGHT[outer])
        norm = np.sqrt((energy[0][:, inner] @ weight) * (energy[1][:, outer] @ weight))
        norm += RIDGE * ANGLES * weight.sum()
        weighted = np.conj(waves[0][:, inner]) * weight[:, None]
        for mirrored in (0, 1):
            other = np.conj(waves[1][:, outer]) if mirrored else waves[1][:, outer]
            surface = np.fft.irfft((weighted * other).sum(axis=1), n=ANGLES, axis=1)
            peak = surface.argmax(axis=1)
            score = np.take_along_axis(surface, peak[:, None], axis=1)[:, 0] / norm
            better = score > best
            best[better] = score[better]
            place[:, better] = np.stack([np.full(len(peak), shift), peak, np.full(len(peak), mirrored)])[:, better]
    return _alignment(best, *place)


def _alignment(score: np.ndarray, shift: np.ndarray, peak: np.ndarray, mirrored: np.ndarray) -> Alignment:
    # Angles of images grow clockwise. A mirror takes the middle of cell k to that of cell -k - 1, a reversal to -k.
    turn = np.where(mirrored == 1, peak - 1, -peak) % ANGLES * (360 / ANGLES)
    return Alignment(score, turn, STEP ** -shift.astype(np.float64), mirrored.astype(bool))
