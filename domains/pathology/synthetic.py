"""Synthetic H&E tiles on disk: three tissue patterns, stained differently for each patient."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sciencessl.errors import ConfigError

CLASSES = ("glandular", "small-cell", "spindle")
"""Rings of nuclei around a lumen; dense small round nuclei; sparse long nuclei along fibres."""

TILE = 96
"""Side of a tile in pixels."""

_TILES_PER_SLIDE = 10
_PAD = 12  # drawn around the tile, so that nuclei are cut at its edge as by a real tiling
_DRAWN = TILE + 2 * _PAD
_FINE = 2  # drawn at twice the resolution, then averaged: smooth outlines
_MPP = (0.46, 0.50, 0.55)
# Optical density of haematoxylin and eosin in red, green, blue (Ruifrok and Johnston 2001), unit length.
_STAINS = np.array([[0.651, 0.701, 0.290], [0.269, 0.948, 0.170]])


@dataclass(frozen=True)
class Stain:
    """Haematoxylin and eosin of one patient.

    Attributes:
        vectors: (2, 3) optical density of each in red, green and blue, unit length.
        strength: (2,) how much of each.
    """

    vectors: np.ndarray
    strength: np.ndarray


@dataclass(frozen=True)
class _Patient:
    stain: Stain
    mpp: float


@dataclass
class _Canvas:
    """Amounts of the two stains on the fine grid, drawn into by the patterns; lengths in micrometres."""

    nuclei: np.ndarray
    cytoplasm: np.ndarray
    scale: float  # fine pixels a micrometre

    def ellipse(self, plane: np.ndarray, at: tuple[float, float], axes: tuple[float, float], angle: float,
                amount: float) -> None:
        centre = (round(at[0] * self.scale * 16), round(at[1] * self.scale * 16))
        half = (max(round(axes[0] * self.scale * 16), 8), max(round(axes[1] * self.scale * 16), 8))
        cv2.ellipse(plane, centre, half, math.degrees(angle), 0, 360, amount, -1, cv2.LINE_8, 4)

    @property
    def extent(self) -> float:
        return len(self.nuclei) / self.scale


def synthetic_tiles(folder: Path, rng: np.random.Generator, n: int) -> Path:
    """Write N synthetic H&E tiles and their catalogue.

    Files: `tiles/ID.jpg` (96 px RGB) and `catalogue.csv` (id, file, class, patient, slide, mpp in micrometres a pixel).
    About ten tiles come from a slide, one or two slides from a patient; every patient has all classes. Stain colour,
    stain strength and mpp belong to the patient, so colour says who, not what. The same generator state writes the
    same bytes. All numbers but the stain vectors are ours.

    Args:
        folder: Where to write; made if missing. Give a new one: files of an earlier call would stay.
        rng: Source of all draws.
        n: Number of tiles, 1 or more; classes are as equal in number as N allows.

    Returns:
        The folder, a source for `prepare pathology`.

    Raises:
        ConfigError: For n below 1.
    """
    if n < 1:
        raise ConfigError(f"synthetic tiles: n must be 1 or more, got {n}.")
    (folder / "tiles").mkdir(parents=True, exist_ok=True)
    kinds = rng.permutation(np.arange(n) % len(CLASSES))
    slide_of = np.arange(n) // _TILES_PER_SLIDE
    patient_of = _patients_of_slides(int(slide_of[-1]) + 1, rng)
    patients = [_draw_patient(rng) for _ in range(int(patient_of[-1]) + 1)]
    with (folder / "catalogue.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "file", "class", "patient", "slide", "mpp"])
        for i, (kind, slide) in enumerate(zip(kinds, slide_of, strict=True)):
            number = int(patient_of[slide])
            name = f"s{slide:04d}-t{i:05d}"
            Image.fromarray(_tile(int(kind), patients[number], rng)).save(folder / "tiles" / f"{name}.jpg", quality=92)
            known = [name, f"tiles/{name}.jpg", CLASSES[kind], f"p{number:04d}", f"s{slide:04d}"]
            writer.writerow([*known, patients[number].mpp])
    return folder


def _patients_of_slides(slides: int, rng: np.random.Generator) -> np.ndarray:
    new = rng.random(slides) < 0.7
    new[0] = False
    new[2:] |= ~new[1:-1]  # never a third slide of one patient
    numbers: np.ndarray = np.cumsum(new)
    return numbers


def _draw_patient(rng: np.random.Generator) -> _Patient:
    return _Patient(draw_stain(rng), float(rng.choice(_MPP)))


def draw_stain(rng: np.random.Generator, spread: float = 0.07, around: np.ndarray = _STAINS) -> Stain:
    """A stain: each number of the vectors `around` (2, 3) off by `spread`, and any strength from pale to dark. The
    default is those of Ruifrok and Johnston (2001)."""
    vectors = np.abs(around + rng.normal(0, spread, size=around.shape))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Stain(vectors, rng.uniform((0.75, 0.55), (1.35, 1.35)))


def _tile(kind: int, patient: _Patient, rng: np.random.Generator) -> np.ndarray:
    side = _DRAWN * _FINE
    canvas = _Canvas(np.zeros((side, side), np.float32), np.zeros((side, side), np.float32), _FINE / patient.mpp)
    canvas.cytoplasm += 0.45
    _PATTERNS[kind](canvas, rng)
    _gaps(canvas, rng)
    nuclei, cytoplasm = _warp([canvas.nuclei, canvas.cytoplasm], rng)
    amounts = [_finish(nuclei, 0.55, rng), _finish(cytoplasm, 0.3, rng)]
    amounts[0] += 0.06 * amounts[1]
    density = np.einsum("shw,s,sc->hwc", np.stack(amounts), patient.stain.strength, patient.stain.vectors)
    light = 244.0 * np.exp(-density) + rng.normal(0, 1.5, size=density.shape)
    shot: np.ndarray = np.clip(light, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(shot[_PAD:-_PAD, _PAD:-_PAD])


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise smoothed over `sigma` pixels: float32 of a shape (h, w), with a variance of 1."""
    field = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), sigma)
    scaled: np.ndarray = field / field.std()
    return scaled


def _warp(planes: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Bend everything a little: no nucleus is an exact ellipse."""
    side = len(planes[0])
    grid = np.arange(side, dtype=np.float32)
    # Drawn coarse and enlarged: at this smoothness nobody sees the difference, and it is much faster.
    bend = [1.6 * cv2.resize(smooth_noise((side // 4, side // 4), 1.8, rng), (side, side)) for _ in range(2)]
    map_x, map_y = grid[None, :] + bend[0], grid[:, None] + bend[1]
    return [cv2.remap(plane, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for plane in planes]


def _finish(plane: np.ndarray, grain: float, rng: np.random.Generator) -> np.ndarray:
    """To tile resolution, slightly out of focus, with chromatin or fibre texture."""
    coarse = cv2.resize(cv2.GaussianBlur(plane, (0, 0), 1.1), (_DRAWN, _DRAWN), interpolation=cv2.INTER_AREA)
    texture = smooth_noise(coarse.shape, 0.8, rng) + smooth_noise(coarse.shape, 3.0, rng)
    textured: np.ndarray = coarse * np.exp(0.35 * grain * texture)
    return textured


def _spread(n: int, extent: float, gap: float, rng: np.random.Generator) -> np.ndarray:
    """Up to n points (x, y), no two closer than `gap` micrometres."""
    points = rng.uniform(0, extent, size=(4 * n, 2))
    close = np.square(points[:, None] - points[None]).sum(axis=2) < gap**2
    free = np.ones(len(points), dtype=bool)
    kept: list[int] = []
    for i in range(len(points)):
        if free[i] and len(kept) < n:
            kept.append(i)
            free &= ~close[i]
    chosen: np.ndarray = points[kept]
    return chosen


def _fibres(canvas: _Canvas, direction: float, depth: float, rng: np.random.Generator) -> None:
    """Streaks of eosin along a direction: noise smeared along one axis, then turned."""
    side = len(canvas.cytoplasm)
    noise = rng.standard_normal((side, side), dtype=np.float32)  # half resolution of a square twice as wide
    streaks = cv2.GaussianBlur(noise, (0, 0), sigmaX=13.0, sigmaY=1.0)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), -math.degrees(direction), 2.0)
    turned = cv2.warpAffine(streaks / streaks.std(), turn, (side, side))
    canvas.cytoplasm *= np.exp(depth * turned)


def _gaps(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Tears, fat and vessels: empty places in any tissue, so that white is no sign of a gland."""
    for at in _spread(int(rng.integers(0, 4)), canvas.extent, 20.0, rng):
        axes = (rng.uniform(2.5, 7.0), rng.uniform(2.0, 4.5))
        angle = rng.uniform(0, math.pi)
        for plane, amount in ((canvas.nuclei, 0.0), (canvas.cytoplasm, 0.03)):
            canvas.ellipse(plane, (float(at[0]), float(at[1])), axes, angle, amount)


def _nucleus(canvas: _Canvas, at: np.ndarray, axes: tuple[float, float], angle: float, amount: float) -> None:
    where = (float(at[0]), float(at[1]))
    canvas.ellipse(canvas.nuclei, where, axes, angle, amount)
    # A darker rim: membrane and the chromatin along it.
    canvas.ellipse(canvas.nuclei, where, (0.72 * axes[0], 0.72 * axes[1]), angle, 0.8 * amount)


def _glandular(canvas: _Canvas, rng: np.random.Generator) -> None:
    _fibres(canvas, rng.uniform(0, math.pi), rng.uniform(0.1, 0.45), rng)
    for at in _spread(int(rng.integers(6, 14)), canvas.extent, 8.0, rng):
        _nucleus(canvas, at, (rng.uniform(3.5, 5.0), rng.uniform(1.2, 1.8)), rng.uniform(0, math.pi), 0.75)
    for at in _spread(int(rng.integers(3, 6)), canvas.extent, 23.0, rng):
        _gland(canvas, at, rng.uniform(10.0, 14.0), rng)


def _gland(canvas: _Canvas, at: np.ndarray, radius: float, rng: np.random.Generator) -> None:
    """Basal nuclei, cytoplasm towards the middle, an empty lumen."""
    squash, turn = rng.uniform(0.7, 1.0), rng.uniform(0, math.pi)
    middle = (float(at[0]), float(at[1]))
    for plane, size, amount in (
        (canvas.nuclei, 1.25, 0.0), (canvas.cytoplasm, 1.25, rng.uniform(0.5, 0.75)), (canvas.cytoplasm, 0.42, 0.03)
    ):
        canvas.ellipse(plane, middle, (size * radius, size * radius * squash), turn, amount)
    for x, y, along, across, angle, amount in gland_nuclei(radius, squash, turn, rng).tolist():
        _nucleus(canvas, at + np.array([x, y]), (along, across), angle, amount)


def gland_nuclei(radius: float, squash: float, turn: float, rng: np.random.Generator) -> np.ndarray:
    """A ring of basal nuclei, which point outwards.

    Args:
        radius: Of the ring along its longer axis, um.
        squash: Shorter over longer axis.
        turn: Angle of the longer axis, radians.
        rng: Source of the scatter.

    Returns:
        (n, 6): x and y from the middle and half axes in um, angle in radians, amount of haematoxylin.
    """
    count = round(2 * math.pi * radius * (1 + squash) / 2 / rng.uniform(4.2, 5.2))
    nuclei = np.empty((count, 6))
    for i, step in enumerate(np.linspace(0, 2 * math.pi, count, endpoint=False) + rng.uniform(0, 1)):
        along, across = radius * np.array([math.cos(step), squash * math.sin(step)]) * rng.uniform(0.93, 1.07)
        x, y = (along * math.cos(turn) - across * math.sin(turn), along * math.sin(turn) + across * math.cos(turn))
        angle = math.atan2(y, x) + rng.normal(0, 0.15)
        nuclei[i] = (x, y, rng.uniform(2.8, 3.6), rng.uniform(1.7, 2.2), angle, rng.uniform(0.8, 1.1))
    return nuclei


def _small_cell(canvas: _Canvas, rng: np.random.Generator) -> None:
    _fibres(canvas, rng.uniform(0, math.pi), rng.uniform(0.05, 0.4), rng)
    gap = rng.uniform(4.6, 6.2)
    for at in _spread(200, canvas.extent, gap, rng):
        size = rng.uniform(2.0, 2.9)
        _nucleus(canvas, at, (size, size * rng.uniform(0.75, 1.0)), rng.uniform(0, math.pi), rng.uniform(0.6, 1.2))


def _spindle(canvas: _Canvas, rng: np.random.Generator) -> None:
    direction, bend = rng.uniform(0, math.pi), rng.uniform(0, 0.35)
    _fibres(canvas, direction, rng.uniform(0.15, 0.5), rng)
    for at in _spread(int(rng.integers(16, 40)), canvas.extent, 6.5, rng):
        angle = direction + bend * math.sin(at.sum() / 18.0) + rng.normal(0, 0.1)
        _nucleus(canvas, at, (rng.uniform(5.0, 8.0), rng.uniform(1.1, 1.7)), angle, rng.uniform(0.7, 1.1))


_PATTERNS: tuple[Callable[[_Canvas, np.random.Generator], None], ...] = (_glandular, _small_cell, _spindle)
