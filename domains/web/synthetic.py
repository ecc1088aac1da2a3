"""A synthetic crawl on disk: photo-like scenes of four kinds in class folders, and a few files that are no images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sciencessl.errors import ConfigError

CLASSES = ("balls", "hills", "skyline", "stripes")
"""Shaded spheres on a floor; layered ridges under a sky; towers with windows; folded striped cloth."""

SPLITS = ("train", "val", "test")

_VAL_SHARE = _TEST_SHARE = 0.15


def synthetic_photos(folder: Path, rng: np.random.Generator, n: int) -> Path:
    """Write N synthetic photos as `SPLIT/CLASS/NAME.jpg`, and three broken files among those of the train split.

    Photos are 72 to 280 px a side, of aspect ratios 1:2 to 2:1, some of them grey; palette, light and size are drawn
    independently of class. The broken files (a JPEG cut off in the middle, a text file and an empty file named .jpg)
    are what an ingest must refuse with a reason. The same generator state writes the same bytes. All numbers are ours.

    Args:
        folder: Where to write; made if missing. Give a new one: files of an earlier call would stay.
        rng: Source of all draws.
        n: Number of good photos, 1 or more; classes are as equal in number as N allows, and about 15 % of each
            class go to val and to test. The broken files come on top.

    Returns:
        The folder, a source for `prepare web`.

    Raises:
        ConfigError: For n below 1.
    """
    if n < 1:
        raise ConfigError(f"synthetic photos: n must be 1 or more, got {n}.")
    for split in SPLITS:
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
    numbers = rng.permutation(n)
    for i, number in enumerate(numbers):
        kind = i % len(CLASSES)
        photo = draw_photo(kind, rng)
        place = folder / _split(i // len(CLASSES), -(-(n - kind) // len(CLASSES))) / CLASSES[kind]
        photo.save(place / f"{number:06d}.jpg", quality=int(rng.integers(70, 96)))
    _write_broken(folder / "train", rng)
    return folder


def _split(rank: int, of: int) -> str:
    """Split of the rank-th photo of a class of that many: test and val first, so that few photos fill all three."""
    test, val = round(_TEST_SHARE * of), round(_VAL_SHARE * of)
    return "test" if rank < test else "val" if rank < test + val else "train"


def _write_broken(folder: Path, rng: np.random.Generator) -> None:
    whole = io.BytesIO()
    draw_photo(0, rng).save(whole, format="JPEG", quality=90)
    (folder / CLASSES[0] / "truncated.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    page = "<html><body>404: the photo that you asked for is not here</body></html>\n"
    (folder / CLASSES[1] / "error-page.jpg").write_text(page, encoding="utf-8")
    (folder / CLASSES[2] / "empty.jpg").write_bytes(b"")


def draw_photo(kind: int, rng: np.random.Generator, longest_px: tuple[int, int] = (144, 280)) -> Image.Image:
    """A photo of the kind `CLASSES[kind]`, 1:2 to 2:1, its long side between the two; a few are grey (mode `L`)."""
    aspect = 2.0 ** rng.uniform(-1, 1)
    longest = int(rng.integers(longest_px[0], longest_px[1] + 1))
    width, height = round(longest * min(1.0, aspect)), round(longest * min(1.0, 1 / aspect))
    scene = _SCENES[kind](height, width, _palette(rng), rng)
    image = Image.fromarray(_camera(scene, rng))
    return image.convert("L") if rng.random() < 0.06 else image


def _palette(rng: np.random.Generator) -> np.ndarray:
    """(6, 3) colours in [0, 1], from dark to light, around two hues."""
    hues = (rng.random() + rng.choice((0.0, rng.uniform(0.1, 0.5)), size=6) + rng.normal(0, 0.03, 6)) % 1.0
    saturation = np.clip(rng.uniform(0.1, 0.8) + rng.normal(0, 0.12, 6), 0, 1)
    value = np.linspace(rng.uniform(0.15, 0.35), rng.uniform(0.8, 1.0), 6)
    hsv = np.stack([hues * 360, saturation, value], axis=1).astype(np.float32)[None]
    colours: np.ndarray = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]
    return colours


def _noise(height: int, width: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit spread, features about `scale` px wide."""
    rows, columns = max(math.ceil(height / scale) + 1, 2), max(math.ceil(width / scale) + 1, 2)
    field = rng.standard_normal((rows, columns), dtype=np.float32)
    smooth: np.ndarray = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth


def _camera(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven light, vignette, focus, exposure and noise; to uint8."""
    height, width = scene.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + 0.18 * (x * math.cos(angle) + y * math.sin(angle)) - 0.12 * (x * x + y * y)
    lit = cv2.GaussianBlur(scene * light[..., None] * rng.uniform(0.75, 1.15), (0, 0), rng.uniform(0.4, 1.1))
    lit += rng.uniform(0.005, 0.03) * rng.standard_normal(scene.shape, dtype=np.float32)
    exposed: np.ndarray = np.clip(lit * 255, 0, 255).astype(np.uint8)
    return exposed


def _gradient(height: int, top: np.ndarray, bottom: np.ndarray, width: int) -> np.ndarray:
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    filled: np.ndarray = np.broadcast_to((1 - down) * top + down * bottom, (height, width, 3)).copy()
    return filled


def _backdrop(height: int, width: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sky or a wall with soft clouds or stains."""
    top, bottom = palette[rng.permutation(np.arange(3, 6))[:2]]
    clouds = _noise(height, width, 40.0, rng) + 0.5 * _noise(height, width, 14.0, rng)
    return _gradient(height, top, bottom, width) * (1 + 0.05 * clouds[..., None])


def _balls(height: int, width: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scene = _backdrop(height, width, palette, rng)
    horizon = int(height * rng.uniform(0.3, 0.6))
    grain = 1 + 0.08 * _noise(height - horizon, width, 4.0, rng)
    scene[horizon:] = _gradient(height - horizon, palette[1], palette[2], width) * grain[..., None]
    light = rng.uniform(-0.6, 0.6)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    # From far to near: a near ball hides a far one.
    for depth in np.sort(rng.uniform(0, 1, size=int(rng.integers(2, 8)))):
        radius = (0.09 + 0.14 * depth) * min(height, width)
        middle = (rng.uniform(0, width), horizon + depth * (height - horizon) * 0.9 - 0.6 * radius)
        _ball(scene, (x - middle[0]) / radius, (y - middle[1]) / radius, palette[rng.integers(6)], light)
    return scene


def _ball(scene: np.ndarray, x: np.ndarray, y: np.ndarray, colour: np.ndarray, light: float) -> None:
    below = np.ix_(np.abs(y[:, 0] - 0.95) < 0.39, np.abs(x[0] + light) < 1.56)
    shadow = np.clip(1.3 - np.hypot((x[below] + light) / 1.2, (y[below] - 0.95) / 0.3), 0, 1)
    scene[below] *= 1 - 0.6 * shadow[..., None]
    near = np.ix_(np.abs(y[:, 0]) < 1, np.abs(x[0]) < 1)
    x, y = x[near], y[near]
    square = x * x + y * y
    z = np.sqrt(np.clip(1 - square, 0, 1))
    facing = np.clip(light * x - 0.6 * y + 0.55 * z, 0, None)
    shine = np.clip(facing, 0, 1) ** 18
    shaded = colour * (0.3 + 0.85 * facing[..., None]) + 0.7 * shine[..., None]
    scene[near] = np.where((square < 1)[..., None], shaded, scene[near])


def _hills(height: int, width: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scene = _backdrop(height, width, palette, rng)
    haze = scene[: height // 3].mean(axis=(0, 1))
    layers = int(rng.integers(3, 7))
    rough = rng.uniform(0.05, 0.14)
    rows = np.arange(height, dtype=np.float32)[:, None]
    order = rng.permutation(6)
    for layer in range(layers):
        near = (layer + 1) / layers
        waves = _noise(1, width, width / 3, rng)[0] + 0.3 * _noise(1, width, 12.0, rng)[0]
        ridge = height * (0.25 + 0.6 * layer / layers + rough * waves)
        colour = near * palette[order[layer % 6]] * rng.uniform(0.6, 1.0) + (1 - near) * haze
        texture = 1 + 0.12 * near * _noise(height, width, 3.0 + 5.0 * near, rng)
        np.copyto(scene, colour * texture[..., None], where=(rows > ridge[None, :])[..., None])
    return scene


def _skyline(height: int, width: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scene = _backdrop(height, width, palette, rng)
    x = -rng.uniform(0, 20)
    while x < width:
        broad = rng.uniform(0.08, 0.22) * width
        top = int(height * rng.uniform(0.1, 0.75))
        _tower(scene[top:, max(int(x), 0) : int(x + broad)], palette, rng)
        x += broad * rng.uniform(0.75, 1.3)
    return scene


def _tower(front: np.ndarray, palette: np.ndarray, rng: np.random.Generator) -> None:
    height, width = front.shape[:2]
    if min(height, width) < 4:
        return
    front[:] = palette[rng.integers(5)] * np.linspace(1.0, rng.uniform(0.6, 0.9), width)[None, :, None]
    step_y, step_x = int(rng.integers(6, 13)), int(rng.integers(5, 10))
    lit, dark = palette[5] * rng.uniform(0.9, 1.1), palette[0] * rng.uniform(0.5, 1.0)
    on = rng.random() * rng.random()
    for y in range(3, height - step_y, step_y):
        for x in range(2, width - step_x + 2, step_x):
            front[y : y + step_y // 2, x : x + step_x // 2 + 1] = lit if rng.random() < on else dark


def _stripes(height: int, width: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, math.pi)
    folds = _noise(height, width, rng.uniform(40, 80), rng)
    across = x * math.cos(angle) + y * math.sin(angle) + rng.uniform(3, 9) * folds
    period = rng.uniform(9, 28)
    colours = palette[rng.permutation(6)[: rng.integers(2, 5)]]
    band = np.floor(across / period * len(colours)).astype(int) % len(colours)
    # Light on the folds: brighter where the cloth turns towards the upper left.
    slope = np.gradient(cv2.GaussianBlur(folds, (0, 0), 2.0))
    shade = np.clip(1 + 6.0 * (slope[0] + slope[1]), 0.45, 1.4)
    weave = 1 + 0.05 * _noise(height, width, 1.5, rng)
    cloth: np.ndarray = colours[band] * (shade * weave)[..., None]
    return cloth


_SCENES: tuple[Callable[[int, int, np.ndarray, np.random.Generator], np.ndarray], ...] = (
    _balls, _hills, _skyline, _stripes
)
