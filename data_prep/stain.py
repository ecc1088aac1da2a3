"""The stains of a slide, and tiles as another staining would have coloured them.

Macenko et al. 2009 (ISBI, "A method for normalizing histology slides for quantitative analysis") and Reinhard et al.
2001 (IEEE CG&A 21(5), "Color transfer between images"). Densities are natural and glass is 255, as in
`sciencessl.views.density`: the usual reference values and threshold of 0.15 are those of natural densities.

Fit a slide once, on tiles that were selected for tissue: on one tile the method takes what the tile shows for what the
stain is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sciencessl.data_prep.decode import Refused
from sciencessl.errors import ConfigError, DataError, unknown_name
from sciencessl.views.density import densities, tissue_share, to_pixels

BETA = 0.15
"""Mean natural density of the three channels from which a pixel is tissue. Source: Macenko 2009; the mean is ours,
since eosin lets red light pass and a threshold on every channel leaves out where it is purest."""
ALPHA = 1.0
"""Percentile of angles, and 100 minus it of amounts, that count as extreme. Source: Macenko 2009."""
LEAST_PIXELS = 1000
"""Tissue pixels that a fit needs. Source: ours."""
LEAST_DEGREES = 5.0
"""Angle between two stains; below it there is one colour. Source: ours."""
LEAST_SPREAD = 0.05
"""Standard deviation of the mean density of tissue; below it there is one colour and noise. Source: ours."""
LEAST_DEVIATION = 1e-3
"""Standard deviation of l, alpha and beta; below it there is no colour to stretch. Source: ours."""
MOST_DEGREES = 45.0
"""Angle of a stain from the reference one; above it the colours are not those of H&E. Source: ours."""
MOST_PIXELS = 1_000_000
_PIXELS_PER_TILE = 4096

NAMES: Mapping[str, tuple[str, ...]] = {
    "macenko": ("h_r", "h_g", "h_b", "e_r", "e_g", "e_b", "h_max", "e_max"),
    "reinhard": ("l_mean", "alpha_mean", "beta_mean", "l_std", "alpha_std", "beta_std"),
}
"""Method -> the numbers of its fit: densities in red, green and blue of one unit of haematoxylin and of eosin, and the
99th percentile of their amounts; or mean and standard deviation of l, alpha and beta."""

# Reinhard 2001, from red, green and blue to the responses of the three cones, whose logarithms are made uncorrelated.
_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])


@dataclass(frozen=True)
class StainFit:
    """What the stain of a slide is like.

    Attributes:
        method: "macenko" or "reinhard".
        values: Of `NAMES[method]`, in that order.
        pixels: Tissue pixels that it is from; 0 for a reference.
    """

    method: str
    values: tuple[float, ...]
    pixels: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for columns and JSON: `method`, `pixels` and those of `NAMES[method]`."""
        return {"method": self.method, "pixels": self.pixels, **dict(zip(NAMES[self.method], self.values, strict=True))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StainFit:
        """The fit that `to_dict` wrote; other keys are passed over.

        Raises:
            ConfigError: For an unknown method or a missing value.
        """
        names = _names(str(values.get("method")))
        missing = [name for name in ("pixels", *names) if name not in values]
        if missing:
            raise ConfigError(f"stain fit: {', '.join(missing)} missing from {sorted(values)}; fit the slide again.")
        return cls(values["method"], tuple(float(values[name]) for name in names), int(values["pixels"]))


TARGETS: Mapping[str, StainFit] = {
    "macenko": StainFit("macenko", (0.5626, 0.7201, 0.4062, 0.2159, 0.8012, 0.5581, 1.9705, 1.0308)),
    "reinhard": StainFit(
        "reinhard", (8.74108109 - 3**0.5 * math.log(256), -0.12440419, 0.0444982, 0.6135447, 0.10989545, 0.0286032)
    ),
}
"""Method -> the staining that slides are given unless somebody fits one of theirs.

Macenko: the reference of Veta's implementation (2013, after Vink et al., J. Microscopy), which most others took over.
Reinhard: a region of TCGA-A2-A3XS-DX1 (Amgad et al. 2019), the target that HistomicsTK documents; its l is of values to
256, ours of intensities to 1.
"""


def fit_macenko(pixels: np.ndarray) -> StainFit:
    """Colour and strength of haematoxylin and eosin.

    Densities of tissue span a plane, that of the two largest singular values of all of them, not centred; its extreme
    directions at the 1st and 99th percentile of the angle are the stains. Haematoxylin has more red density. Amounts
    solve the least squares of each pixel in the two, their 99th percentile is what a tile is scaled by. The order of
    pixels does not matter.

    Args:
        pixels: (n, 3) uint8 RGB, of selected tiles; glass among them does not count.

    Raises:
        Refused: `no-stain` for fewer than `LEAST_PIXELS` tissue pixels, for one colour, and for colours far from H&E.
        DataError: For another dtype or shape.
    """
    density = _tissue(pixels)
    plane = np.linalg.eigh(density.T @ density)[1][:, [2, 1]]
    plane[:, 0] *= np.sign(plane[:, 0].sum())
    along, across = (density @ plane).T
    low, high = np.percentile(np.arctan2(across, along), [ALPHA, 100 - ALPHA])
    stains = np.clip(np.array([[np.cos(a), np.sin(a)] for a in (low, high)]) @ plane.T, 0, None)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    stains = stains[np.argsort(-stains[:, 0])]
    _check_stains(stains)
    amounts = density @ np.linalg.pinv(stains)
    most = np.percentile(amounts, 100 - ALPHA, axis=0)
    return StainFit("macenko", _floats(stains, most), len(density))


def _check_stains(stains: np.ndarray) -> None:
    apart = _degrees(stains[0], stains[1])
    if apart < LEAST_DEGREES:
        raise Refused(
            "no-stain", f"haematoxylin and eosin would be {apart:.1f} degrees apart, expected {LEAST_DEGREES:g} or "
            "more: there is one colour; use --stain none, or leave the slide out."
        )
    reference = np.reshape(TARGETS["macenko"].values[:6], (2, 3))
    for name, found, usual in zip(("haematoxylin", "eosin"), stains, reference, strict=True):
        off = _degrees(found, usual)
        if off > MOST_DEGREES:
            raise Refused(
                "no-stain", f"what would be {name} is {off:.0f} degrees from it, expected {MOST_DEGREES:g} at most: "
                "this is not H&E; use --stain none, or leave the slide out."
            )


def fit_reinhard(pixels: np.ndarray) -> StainFit:
    """Mean and standard deviation of l, alpha and beta of tissue, the paper's decorrelated logarithms (not CIELAB).

    Args:
        pixels: (n, 3) uint8 RGB, of selected tiles; glass among them does not count (ours: the paper takes all).

    Raises:
        Refused: `no-stain` for fewer than `LEAST_PIXELS` tissue pixels, for one colour, and for grey.
        DataError: For another dtype or shape.
    """
    lab = np.log(np.exp(-_tissue(pixels)) @ _LMS.T) @ _LAB.T
    mean, std = lab.mean(axis=0), lab.std(axis=0)
    if std.min() < LEAST_DEVIATION:
        raise Refused("no-stain", "tissue is grey or of one hue; use --stain none, or leave the slide out.")
    return StainFit("reinhard", _floats(mean, std), len(lab))


FITS: Mapping[str, Callable[[np.ndarray], StainFit]] = {"macenko": fit_macenko, "reinhard": fit_reinhard}
"""Method -> its fit."""


def fit_slide(tiles: Iterable[np.ndarray], method: str) -> StainFit:
    """The fit of one slide from as many of its selected tiles as one likes.

    Up to 4096 pixels of a tile on a regular grid, and `MOST_PIXELS` of all, thinned evenly: 3 MB however many tiles.

    Args:
        tiles: (S, S, 3) uint8 RGB each.
        method: One of `FITS`.

    Raises:
        Refused: As the fits do; also without any tile.
        ConfigError: For an unknown method.
        DataError: For another dtype or shape.
    """
    _names(method)
    held, count, step = [np.empty((0, 3), dtype=np.uint8)], 0, 1
    for tile in tiles:
        stride = max(1, round((tile.shape[0] * tile.shape[1] / _PIXELS_PER_TILE) ** 0.5))
        held.append(tile[::stride, ::stride].reshape(-1, 3)[::step])
        count += len(held[-1])
        if count > MOST_PIXELS:
            held, step = [np.concatenate(held)[::2]], 2 * step
            count = len(held[0])
    return FITS[method](np.concatenate(held))


def normalise(tiles: np.ndarray, fit: StainFit, target: StainFit | None = None) -> np.ndarray:
    """Tiles of one slide as the target's staining would have coloured them.

    Macenko: amounts of the slide's stains, not below 0, scaled by the ratio of the 99th percentiles, in the target's
    colours; what is in neither stain is dropped. Reinhard: l, alpha and beta moved and scaled from the slide's mean and
    standard deviation to the target's. Glass keeps its colour: a pixel whose mean density is below `BETA` is mixed with
    its own by `tissue_share` (ours).

    Args:
        tiles: (H, W, 3) or (B, H, W, 3) uint8 RGB.
        fit: Of the slide.
        target: Of the same method, such as another slide's; None is that of `TARGETS`.

    Returns:
        As tiles; new memory.

    Raises:
        ConfigError: For fits of different methods.
        DataError: For another dtype or shape.
    """
    target = TARGETS[fit.method] if target is None else target
    if fit.method != target.method:
        raise ConfigError(f"stain: the slide is fitted by {fit.method}, the target by {target.method}; use one method.")
    if tiles.dtype != np.uint8 or tiles.ndim not in (3, 4) or tiles.shape[-1] != 3:
        raise DataError(f"stain: expected (H, W, 3) or (B, H, W, 3) uint8 tiles, got {tiles.dtype} of {tiles.shape}.")
    recolour = {"macenko": _recolour_macenko, "reinhard": _recolour_reinhard}[fit.method](fit, target)
    out = np.empty_like(tiles)
    for i in np.ndindex(tiles.shape[:-3]):
        out[i] = _recoloured(np.ascontiguousarray(tiles[i]), recolour)
    return out


def _recoloured(tile: np.ndarray, recolour: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    density = densities(tile)
    share = cv2.merge([tissue_share(density, BETA)] * 3)
    old = cv2.exp(-density)
    new = cv2.min(recolour(density), (1.0,) * 4)
    new -= old
    new *= share
    new += old
    return to_pixels(new)


def _recolour_macenko(fit: StainFit, target: StainFit) -> Callable[[np.ndarray], np.ndarray]:
    (stains, most), (wanted, wanted_most) = (
        (np.reshape(one.values[:6], (2, 3)), np.array(one.values[6:])) for one in (fit, target)
    )
    unmix = np.linalg.pinv(stains).T.astype(np.float32)
    mix = -((wanted_most / most)[:, None] * wanted).T.astype(np.float32)
    return lambda density: cv2.exp(cv2.transform(cv2.max(cv2.transform(density, unmix), 0.0), mix))


def _recolour_reinhard(fit: StainFit, target: StainFit) -> Callable[[np.ndarray], np.ndarray]:
    (mean, std), (wanted, wanted_std) = (np.reshape(one.values, (2, 3)) for one in (fit, target))
    scale = _LAB.T @ np.diag(wanted_std / std) @ _LAB  # _LAB is orthogonal
    move = _LAB.T @ (wanted - mean * wanted_std / std)
    affine = np.column_stack([scale, move]).astype(np.float32)
    there, back = _LMS.astype(np.float32), np.linalg.inv(_LMS).astype(np.float32)

    def recolour(density: np.ndarray) -> np.ndarray:
        cones = cv2.log(cv2.transform(cv2.exp(-density), there))
        light: np.ndarray = cv2.transform(cv2.exp(cv2.transform(cones, affine)), back)
        return light

    return recolour


def _tissue(pixels: np.ndarray) -> np.ndarray:
    """(k, 3) float64 natural densities of the pixels that are tissue."""
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3:
        raise DataError(f"stain fit: expected (n, 3) uint8 pixels, got {pixels.dtype} of shape {pixels.shape}.")
    density = -np.log((np.arange(256) + 1) / 256)[pixels]
    mean = density.mean(axis=1)
    kept: np.ndarray = density[mean >= BETA]
    if len(kept) < LEAST_PIXELS:
        raise Refused(
            "no-stain", f"{len(kept)} of {len(pixels)} pixels are stained tissue, expected {LEAST_PIXELS} or more; "
            "select more tiles or tiles with more tissue, or use --stain none."
        )
    if mean[mean >= BETA].std() < LEAST_SPREAD:
        raise Refused("no-stain", "tissue has one colour without variation; use --stain none, or leave the slide out.")
    return kept


def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _floats(*arrays: np.ndarray) -> tuple[float, ...]:
    # Rounded, so that the order of sums, which differs between machines, does not change what is made of a slide.
    return tuple(round(float(value), 6) for array in arrays for value in array.ravel())


def _names(method: str) -> tuple[str, ...]:
    if method not in NAMES:
        raise ConfigError(unknown_name("stain method", method, NAMES))
    return NAMES[method]
