"""A scene stained and scanned: RGB pixels, with folds, blurred zones and pen marks. All numbers are ours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from sciencessl.domains.pathology.synthetic import Stain, smooth_noise
from sciencessl.domains.pathology.synthetic_scene import Scene, ellipse_ring, wave

GLASS = 244
INKS = {"blue": (30, 80, 190), "green": (25, 130, 70), "black": (34, 34, 38)}
"""Colour of pens on glass."""

_ONE = 128  # of a plane's value: an amount of 1; up to 2 fits
_EOSIN, _GLAND, _TUMOUR, _LUMEN = 0.45, 0.62, 0.52, 0.03
_ROWS = 256
_FOLD = (17.0, 9.0)  # um that the upper layer of a fold is moved
_BLUR = 3.5  # um, sigma


@dataclass(frozen=True)
class Defects:
    """What went wrong with a slide; places in um.

    Attributes:
        pen: Colour, one of `INKS`; empty without a mark.
        stroke: (k, 2) the mark's line.
        stroke_width: Of the line.
        blurred: x, y, half axes of a zone out of focus; None without one.
        fold: (4, 2) corners of a fold; None without one.
    """

    pen: str = ""
    stroke: np.ndarray | None = None
    stroke_width: float = 20.0
    blurred: tuple[float, float, float, float] | None = None
    fold: np.ndarray | None = None


def draw_defects(scene: Scene, pen: str, blurred: bool, fold: bool, rng: np.random.Generator) -> Defects:
    """Where the defects of a slide are: a pen's arc around the tissue, a zone and a fold inside it.

    Args:
        scene: The slide.
        pen: Colour, one of `INKS`, or empty.
        blurred: Whether a zone is out of focus.
        fold: Whether the tissue is folded.
        rng: Source of the draws.
    """
    width, height = scene.size
    middle = scene.tissue.mean(axis=0)
    first = rng.uniform(0, 2 * math.pi)
    step = np.linspace(first, first + 1.3, 12)
    stroke = middle + 0.43 * np.array([width, height]) * np.stack([np.cos(step), np.sin(step)], axis=1)
    x, y = (middle + rng.uniform(-0.12, 0.12, 2) * scene.size).tolist()
    turn = rng.uniform(0, math.pi)
    along, across = np.array([math.cos(turn), math.sin(turn)]), np.array([-math.sin(turn), math.cos(turn)])
    a, b = 0.17 * min(scene.size) * along, 0.035 * min(scene.size) * across
    corners = middle + rng.uniform(-0.1, 0.1, 2) * scene.size + np.array([-a - b, a - b, a + b, b - a])
    return Defects(pen, stroke if pen else None, max(0.04 * width, 8.0),
                   (x, y, 0.17 * width, 0.15 * height) if blurred else None, corners if fold else None)


def draw_picture(scene: Scene | None, defects: Defects, stain: Stain, size: tuple[int, int], mpp: float,
                 rng: np.random.Generator) -> np.ndarray:
    """The pixels of a slide at its finest level.

    Args:
        scene: What lies on it; None for glass.
        defects: What went wrong.
        stain: Of its patient and site.
        size: Width and height in pixels.
        mpp: um a pixel.
        rng: Source of texture and noise.

    Returns:
        (height, width, 3) uint8.
    """
    planes = [np.zeros(size[::-1], np.uint8) for _ in range(2)]
    if scene is not None:
        _draw_tissue(planes, scene, mpp, rng)
        _draw_nuclei(planes[0], scene, mpp)
        if defects.fold is not None:
            _draw_fold(planes, defects.fold, mpp)
    picture = _lit(planes, stain, mpp, rng)
    if defects.blurred is not None:
        _draw_blur(picture, defects.blurred, mpp)
    if defects.stroke is not None:
        _draw_ink(picture, defects, mpp)
    return picture


def _corners(ring: np.ndarray, mpp: float) -> list[np.ndarray]:
    """A ring for OpenCV: sixteenths of a pixel, from the middle of the first pixel."""
    return [np.rint((ring / mpp - 0.5) * 16).astype(np.int32)]


def _fill(plane: np.ndarray, ring: np.ndarray, amount: float, mpp: float) -> None:
    cv2.fillPoly(plane, _corners(ring, mpp), round(amount * _ONE), cv2.LINE_AA, 4)


def _ellipse(plane: np.ndarray, place: np.ndarray, axes: tuple[float, float], angle: float, amount: float,
             mpp: float) -> None:
    x, y = np.rint((place / mpp - 0.5) * 16).astype(int).tolist()
    half = round(axes[0] / mpp * 16), round(axes[1] / mpp * 16)
    cv2.ellipse(plane, (x, y), half, math.degrees(angle), 0, 360, round(amount * _ONE), -1, cv2.LINE_AA, 4)


def _draw_tissue(planes: list[np.ndarray], scene: Scene, mpp: float, rng: np.random.Generator) -> None:
    nuclei, cytoplasm = planes
    inside = np.zeros_like(cytoplasm)
    _fill(inside, scene.tissue, 255 / _ONE, mpp)
    np.copyto(cytoplasm, cv2.multiply(_fibres(scene, nuclei.shape, mpp, rng), inside, scale=1 / 255))
    np.copyto(nuclei, cv2.convertScaleAbs(inside, alpha=0.05 * _ONE / 255))
    if scene.tumour is not None:
        _fill(cytoplasm, scene.tumour, _TUMOUR, mpp)
        _fill(nuclei, scene.tumour, 0.12, mpp)
    for gland, lumen in zip(scene.glands, scene.lumina, strict=True):
        _fill(cytoplasm, ellipse_ring(*gland, corners=64), _GLAND, mpp)
        for plane in planes:
            _fill(plane, lumen, _LUMEN, mpp)


def _fibres(scene: Scene, shape: tuple[int, ...], mpp: float, rng: np.random.Generator) -> np.ndarray:
    """Amounts of eosin everywhere, in wavy streaks: noise that varies across fibres quickly, and slowly along them."""
    coarse = 4
    y, x = np.mgrid[: -(-shape[0] // coarse), : -(-shape[1] // coarse)].astype(np.float32)
    place = np.stack([x, y], axis=-1) * (coarse * mpp)
    across = wave(scene.direction, place)[0]
    along = place[..., 0] * math.cos(scene.direction) + place[..., 1] * math.sin(scene.direction)
    noise = smooth_noise((512, 512), 1.5, rng)
    streaks = cv2.remap(noise, (along / 12.0 % 510).astype(np.float32), (across / 1.6 % 510).astype(np.float32),
                        cv2.INTER_LINEAR)
    amount = np.clip(_EOSIN * _ONE * np.exp(0.22 * streaks), 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(amount, shape[::-1], interpolation=cv2.INTER_LINEAR))


def _draw_nuclei(plane: np.ndarray, scene: Scene, mpp: float) -> None:
    nuclei = scene.nuclei
    rows = zip(nuclei.place, nuclei.axes.tolist(), nuclei.angle.tolist(), nuclei.amount.tolist(), strict=True)
    for place, (along, across), angle, amount in rows:
        _ellipse(plane, place, (along, across), angle, amount, mpp)
        # A darker rim: membrane and the chromatin along it.
        _ellipse(plane, place, (0.72 * along, 0.72 * across), angle, 0.8 * amount, mpp)


def _draw_fold(planes: list[np.ndarray], fold: np.ndarray, mpp: float) -> None:
    """A second layer of the tissue from beside it."""
    mask = np.zeros_like(planes[0])
    _fill(mask, fold, 255 / _ONE, mpp)
    shift = [round(um / mpp) for um in reversed(_FOLD)]
    for plane in planes:
        cv2.add(plane, np.roll(plane, shift, axis=(0, 1)), dst=plane, mask=mask)


def _lit(planes: list[np.ndarray], stain: Stain, mpp: float, rng: np.random.Generator) -> np.ndarray:
    """Light through the stained planes, a little out of focus, with texture and noise (Beer-Lambert law)."""
    height, width = planes[0].shape
    # Noise is drawn once and cut at another place for each band of rows.
    grain = [smooth_noise((_ROWS + 128, width + 128), 0.4 / mpp, rng),
             smooth_noise((_ROWS + 128, width + 128), 1.5 / mpp, rng)]
    shot = rng.standard_normal((_ROWS + 128, width + 128, 3), dtype=np.float32)
    strength = (stain.vectors.T * stain.strength / _ONE).astype(np.float32)
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _ROWS):
        rows = min(_ROWS, height - top)
        dy, dx = rng.integers(0, 128, 2)
        window = np.s_[dy : dy + rows, dx : dx + width]
        texture = cv2.exp(0.10 * (grain[0][window] + grain[1][window]))
        amounts = [_focused(plane, top, rows, mpp) * texture for plane in planes]
        light = GLASS * cv2.exp(-cv2.transform(cv2.merge(amounts), strength)) + 1.2 * shot[window]
        picture[top : top + rows] = np.clip(light, 0, 255)
    return picture


def _focused(plane: np.ndarray, top: int, rows: int, mpp: float) -> np.ndarray:
    reach = 8
    first = max(top - reach, 0)
    band = plane[first : top + rows + reach].astype(np.float32)
    return np.asarray(cv2.GaussianBlur(band, (0, 0), 0.22 / mpp)[top - first : top - first + rows])


def _draw_blur(picture: np.ndarray, zone: tuple[float, float, float, float], mpp: float) -> None:
    mask = np.zeros(picture.shape[:2], np.float32)
    cv2.fillPoly(mask, _corners(ellipse_ring(*zone, 0.0, corners=64), mpp), 1.0, cv2.LINE_8, 4)
    x, y, w, h = (int(v / mpp) for v in (zone[0] - zone[2], zone[1] - zone[3], 2 * zone[2], 2 * zone[3]))
    pad = round(4 * _BLUR / mpp)
    window = np.s_[max(y - pad, 0) : y + h + pad, max(x - pad, 0) : x + w + pad]
    share = cv2.GaussianBlur(mask[window], (0, 0), _BLUR / mpp)[..., None]
    sharp = picture[window].astype(np.float32)
    soft = cv2.GaussianBlur(sharp, (0, 0), _BLUR / mpp)
    picture[window] = sharp + share * (soft - sharp)


def _draw_ink(picture: np.ndarray, defects: Defects, mpp: float) -> None:
    """Ink lies on the cover slip: it multiplies the light."""
    assert defects.stroke is not None
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.polylines(mask, _corners(defects.stroke, mpp), False, 1, round(defects.stroke_width / mpp), cv2.LINE_8, 4)
    inked = mask.astype(bool)
    picture[inked] = picture[inked].astype(np.float32) / GLASS * np.array(INKS[defects.pen], np.float32)
