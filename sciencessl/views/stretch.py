"""Stretches: flux to brightness by one fixed rule for every stamp of a survey, and back.

A rule is fitted once, on stamps of split=train, and stored: equal flux is then equally bright wherever it is shown or
learned from, and brightness can be turned into flux again. With u = (flux - zero) / scale of each band, so that 0 is
the sky and 1 is white, and b the softening:

- `linear`, `percentile`: u. They differ in what is fitted: the same scale for all bands, or two percentiles of each.
- `asinh`: asinh(u / b) / asinh(1 / b), linear below b and logarithmic above.
- `log`: sign(u) log(1 + |u| / b) / log(1 + 1 / b).
- `lupton`: all bands times F(I) / I with I = mean of u over bands and F(I) = asinh((I - m) / b) / asinh((1 - m) / b),
  which keeps colours (Lupton et al. 2004, PASP 116, 133, eq. 2). The minimum m is taken from the intensity, never from
  a band.
- `legacy`: as the viewer of the Legacy Surveys, u asinh(I / b) / (I asinh(1 / b)), I = mean of max(0, u).

What is missing (NaN, infinite) stays missing: it becomes NaN, never a brightness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from sciencessl.errors import ConfigError, DataError, unknown_name

Kind = Literal["linear", "asinh", "log", "percentile", "lupton", "legacy"]
KINDS: tuple[str, ...] = get_args(Kind)

NOISE_SCALE = 3.0
"""Softening in noise levels: linear in the noise, logarithmic in the light."""

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

LEAST_WHITE = 5.0
"""Noise levels above the sky that white is at least, in stamps of little but sky."""

ENDS = (1.0, 99.7)
"""Percentiles of the pixels of a band that become black (`percentile`) and white."""

LEGACY_SCALES = {"u": 1.5, "g": 6.0, "r": 3.4, "i": 1.0, "z": 2.2}
"""Band -> what the Legacy Surveys viewer multiplies flux in nanomaggies by."""
LEGACY_OFFSET, LEGACY_Q = 0.03, 20.0

_PIXELS_AN_IMAGE = 2**14
_SOFTENED = ("asinh", "log", "lupton", "legacy")
_COLOUR = ("lupton", "legacy")


@dataclass(frozen=True)
class Stretch:
    """One rule for all stamps of a survey; the formulas are those of the module.

    Attributes:
        kind: One of `KINDS`.
        zero: Flux that becomes 0, one value a band, in the unit of the image.
        scale: Flux above `zero` that becomes 1, one value a band; positive.
        softening: b, in units of `scale`: one value a band for `asinh` and `log`, one in all for `lupton` and `legacy`,
            none for the others.
        minimum: m of `lupton`, in units of `scale`: intensities up to it are black. Below 1, 0 or more.
        clip: What becomes of values above 1 in `lupton`: `together` divides the bands of a pixel by the largest, which
            keeps its colour (the paper's rule), `each` cuts each band. Other kinds cut each.

    Raises:
        ConfigError: For an unknown kind, numbers of values that do not fit, or values that are not finite and positive
            where they must be.
    """

    kind: Kind
    zero: tuple[float, ...]
    scale: tuple[float, ...]
    softening: tuple[float, ...] = ()
    minimum: float = 0.0
    clip: Literal["together", "each"] = "together"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(unknown_name("stretch", self.kind, KINDS))
        wanted = 0 if self.kind not in _SOFTENED else 1 if self.kind in _COLOUR else len(self.zero)
        if not self.zero or len(self.scale) != len(self.zero) or len(self.softening) != wanted:
            raise ConfigError(
                f"stretch {self.kind!r} of {len(self.zero)} bands: expected one zero and one scale a band and {wanted} "
                f"softening, got {len(self.zero)}, {len(self.scale)} and {len(self.softening)}."
            )
        if not all(map(math.isfinite, self.zero)) or not all(0 < v < math.inf for v in (*self.scale, *self.softening)):
            raise ConfigError(
                f"stretch {self.kind!r}: zero {self.zero} must be finite, scale {self.scale} and softening "
                f"{self.softening} finite and positive."
            )
        if not 0 <= self.minimum < 1 or self.clip not in ("together", "each"):
            raise ConfigError(
                f"stretch {self.kind!r}: minimum is {self.minimum} and clip {self.clip!r}; expected a number from 0 to "
                "below 1, and 'together' or 'each'."
            )

    def apply(self, image: np.ndarray, clip: bool = True) -> np.ndarray:
        """Flux -> brightness.

        Args:
            image: (H, W, C) flux of any number type, C bands; never changed. Missing pixels are NaN.
            clip: Whether to cut to [0, 1]. Without it faint and bright flux goes below 0 and above 1, and nothing is
                lost; `lupton` and `legacy` keep negative values too.

        Returns:
            (H, W, C) float32. NaN where the flux is not finite; with `lupton` and `legacy`, which need all bands of a
            pixel, in all bands where it is not in one.

        Raises:
            DataError: When the image has other bands.
        """
        u = (with_missing(self._checked(image).astype(np.float64), None) - self.zero) / self.scale
        y = self._in_colour(u) if self.kind in _COLOUR else self._in_bands(u)
        if clip and self.kind == "lupton" and self.clip == "together":
            y /= np.maximum(y.max(axis=-1, keepdims=True), 1.0)
        result: np.ndarray = (y.clip(0.0, 1.0) if clip else y).astype(np.float32)
        return result

    def invert(self, shown: np.ndarray) -> np.ndarray:
        """Brightness -> flux: undoes `apply` where it cut nothing.

        Args:
            shown: (H, W, C) from `apply`.

        Returns:
            (H, W, C) float32 flux. What was cut comes back as the flux of 0 or of 1.

        Raises:
            DataError: When the image has other bands, or the kind mixes bands, which cannot be undone.
        """
        if self.kind in _COLOUR:
            raise DataError(
                f"stretch {self.kind!r} mixes the bands of a pixel and cuts faint ones, so flux does not come back; to "
                "turn brightness into flux, use linear, asinh, log or percentile."
            )
        y = self._checked(shown).astype(np.float64)
        if self.kind == "asinh":
            y = np.sinh(y * np.arcsinh(1 / self._softening)) * self._softening
        if self.kind == "log":
            y = np.sign(y) * np.expm1(np.abs(y) * np.log1p(1 / self._softening)) * self._softening
        result: np.ndarray = (y * self.scale + self.zero).astype(np.float32)
        return result

    def of_bands(self, bands: Sequence[int]) -> Stretch:
        """The same rule for some bands, by position."""
        def chosen(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(values[band] for band in bands)

        shared = self.kind in _COLOUR or not self.softening
        softening = self.softening if shared else chosen(self.softening)
        return replace(self, zero=chosen(self.zero), scale=chosen(self.scale), softening=softening)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` inverts it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stretch:
        """Build from `to_dict` output.

        Raises:
            ConfigError: As `Stretch`.
        """
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**plain)

    @property
    def _softening(self) -> np.ndarray:
        return np.array(self.softening)

    def _checked(self, image: np.ndarray) -> np.ndarray:
        if image.ndim != 3 or image.shape[2] != len(self.zero):
            raise DataError(f"stretch of {len(self.zero)} bands: expected (H, W, {len(self.zero)}), got {image.shape}.")
        return image

    def _in_bands(self, u: np.ndarray) -> np.ndarray:
        if self.kind == "asinh":
            return np.asarray(np.arcsinh(u / self._softening) / np.arcsinh(1 / self._softening))
        if self.kind == "log":
            return np.asarray(np.sign(u) * np.log1p(np.abs(u) / self._softening) / np.log1p(1 / self._softening))
        return u

    def _in_colour(self, u: np.ndarray) -> np.ndarray:
        b = self.softening[0]
        intensity = (np.maximum(u, 0.0) if self.kind == "legacy" else u).mean(axis=-1, keepdims=True)
        if self.kind == "legacy":  # asinh(I / b) / I tends to 1 / b
            seen = np.maximum(intensity, 1e-9)
            return np.asarray(u * np.arcsinh(seen / b) / (seen * math.asinh(1 / b)))
        above = np.maximum(intensity - self.minimum, 0.0)
        curve = np.arcsinh(above / b) / math.asinh((1 - self.minimum) / b)
        # Intensities up to the minimum are black; NaN compares false, so divides NaN.
        dark = intensity <= self.minimum
        return np.asarray(np.where(dark, 0.0, u * curve / np.where(dark, 1.0, intensity)))


def fit_stretch(
    images: Iterable[np.ndarray], channels: int, kind: Kind = "asinh", ends: tuple[float, float] = ENDS
) -> Stretch:
    """The rule for a survey, from a sample of its training stamps: give some hundreds. Source: ours.

    Of each band, over the finite pixels of all stamps: the sky is the median, the noise 1.4826 times the median
    absolute deviation, the ends are percentiles. `zero` is the sky, for `asinh` and `log` less one noise level, so that
    what is fainter than the sky's noise is not cut, and for `percentile` the lower end. `scale` is what the upper end
    has more than it; but for `percentile` white is five noise levels above the sky or more, lest noise alone fill the
    range, and for `linear` the scale is the largest of all bands, so that colours stay. b is three noise levels, for
    `lupton` of the intensity. A band that is constant has scale 1, and one without a finite pixel zero 0 too. No
    randomness; at most 16,384 pixels of a stamp are looked at, evenly spread.

    Args:
        images: (H, W, C) arrays of any number type; sizes may differ. Missing and masked pixels are NaN.
        channels: C.
        kind: One of `KINDS` but `legacy`, which is not fitted: see `legacy_stretch`.
        ends: Lower and upper percentile, 0 to 100.

    Raises:
        DataError: When an image has other channels.
        ConfigError: For a kind that is not fitted, or ends that are not ascending percentiles.
    """
    if kind not in KINDS or kind == "legacy":
        raise ConfigError(unknown_name("stretch to fit", kind, [name for name in KINDS if name != "legacy"]))
    if not 0 <= ends[0] < ends[1] <= 100:
        raise ConfigError(f"the ends of a stretch are {ends}; expected two ascending percentiles from 0 to 100.")
    levels = [_Levels.of(values, ends) for values in _pooled(images, channels)]
    zero = [band.low if kind == "percentile" else band.sky - (kind in ("asinh", "log")) * band.noise for band in levels]
    white = [band.high if kind == "percentile" else band.white for band in levels]
    width = [end - start for start, end in zip(zero, white, strict=True)]
    scale = [(max(width) if kind == "linear" else own) or 1.0 for own in width]
    noise = np.array([band.noise for band in levels]) / scale
    if kind in _COLOUR:
        noise = np.array([math.hypot(*noise.tolist()) / channels])
    softening = tuple((NOISE_SCALE * noise).clip(1e-4, 10.0).tolist()) if kind in _SOFTENED else ()
    return Stretch(kind, tuple(zero), tuple(scale), softening)


def lupton_stretch(bands: int, stretch: float, q: float, minimum: float = 0.0) -> Stretch:
    """F(I) = asinh(Q (I - minimum) / stretch) / Q in units of the flux, as in the paper (1 / stretch is its alpha).

    Args:
        bands: Number of bands.
        stretch: Flux at which the curve has its slope 1 / stretch; positive.
        q: Q, positive: how soon the curve bends.
        minimum: Intensity that is black.
    """
    white = minimum + stretch * math.sinh(q) / q  # the paper's M: F(M) = 1
    return Stretch("lupton", (0.0,) * bands, (white,) * bands, (stretch / q / white,), minimum / white)


def legacy_stretch(bands: Sequence[str]) -> Stretch:
    """That of the Legacy Surveys viewer: (f s + m) asinh(Q I) / (sqrt(Q) I) with I = mean of max(0, f s + m), cut to
    [0, 1].

    Args:
        bands: Names of the bands of an image in nanomaggies a pixel of 0.262 arcsec: u, g, r, i or z.

    Raises:
        ConfigError: For a band that the viewer has no scale for.
    """
    for band in bands:
        if band not in LEGACY_SCALES:
            raise ConfigError(unknown_name("band of the Legacy Surveys viewer", band, LEGACY_SCALES))
    scales = [LEGACY_SCALES[band] for band in bands]
    white = math.sinh(math.sqrt(LEGACY_Q)) / LEGACY_Q  # asinh(Q I) / sqrt(Q) is 1 there
    zero = tuple(-LEGACY_OFFSET / scale for scale in scales)
    return Stretch("legacy", zero, tuple(white / scale for scale in scales), (1 / (LEGACY_Q * white),), clip="each")


def with_missing(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Pixels with NaN where they are not finite, or where a mask of the same shape is not 0; the image where none is.

    Raises:
        DataError: When image and mask differ in shape.
    """
    if mask is not None and mask.shape != image.shape:
        raise DataError(f"a mask of shape {mask.shape} does not fit an image of shape {image.shape}.")
    bad = ~np.isfinite(image) if mask is None else ~np.isfinite(image) | (mask != 0)
    return np.where(bad, np.float32(np.nan), image) if bad.any() else image


def noise_level(values: np.ndarray) -> float:
    """1.4826 times the median absolute deviation of finite values, a noise level where most pixels are background.

    Where more than half of the values are equal (padding), of those that differ from the median; 0 for none or a
    constant.
    """
    if not values.size:
        return 0.0
    deviation = np.abs(values - np.median(values))
    mad = float(np.median(deviation))
    if mad == 0 and deviation.any():
        mad = float(np.median(deviation[deviation > 0]))
    return MAD_TO_SIGMA * mad


@dataclass(frozen=True)
class _Levels:
    """Of one band."""

    sky: float
    noise: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, ends: tuple[float, float]) -> _Levels:
        if not values.size:
            return cls(0.0, 0.0, 0.0, 0.0)
        low, sky, high = np.percentile(values, (ends[0], 50.0, ends[1])).tolist()
        return cls(sky, noise_level(values), low, high)

    @property
    def white(self) -> float:
        return max(self.high, self.sky + LEAST_WHITE * self.noise)


def _pooled(images: Iterable[np.ndarray], channels: int) -> list[np.ndarray]:
    """Finite values of each band over all images."""
    pools: list[list[np.ndarray]] = [[] for _ in range(channels)]
    for image in images:
        if image.ndim != 3 or image.shape[2] != channels:
            raise DataError(f"fit of a stretch: expected (H, W, {channels}) images, got one of shape {image.shape}.")
        pixels = image.reshape(-1, channels)
        step = 1 + (len(pixels) - 1) // _PIXELS_AN_IMAGE
        while step > 1 and math.gcd(step, image.shape[1]) > 1:  # else a few columns would speak for all
            step += 1
        for pool, values in zip(pools, pixels[::step].T.astype(np.float64), strict=True):
            pool.append(values[np.isfinite(values)])
    return [np.concatenate([np.empty(0), *pool]) for pool in pools]
