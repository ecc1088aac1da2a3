"""Views of float flux: what a telescope could have seen on another night, with what it did not see left out.

Flux is (H, W, C) float32 in the unit of the store, NaN where nothing is known: masked, outside coverage, not finite.
All smoothing and interpolation is weighted by what is known, so that neither a NaN nor a bad value reaches its
neighbours. Every step works on the stored pixel grid, where the inverse variance holds, until one resampling makes the
view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.views.affine import RotatedCrop, centre_window
from sciencessl.views.instances import InstanceViews
from sciencessl.views.pair import EvaluationView, TrainViews
from sciencessl.views.stretch import MAD_TO_SIGMA

if TYPE_CHECKING:
    from sciencessl.domains.galaxy.views import GalaxyViews
    from sciencessl.samples import Sample

FIELD, MASK, IVAR = "image", "image.mask", "image.ivar"

LEAST_WEIGHT = 0.5
"""A pixel is known where at least this share of the weights that make it lies on known pixels."""

EXPOSURE_RATE = 0.8
"""Probability of a change of exposure, as of the colour jitter of 8-bit stamps."""

EXTINCTION = {"u": 3.995, "g": 3.214, "r": 2.165, "i": 1.592, "z": 1.211, "y": 1.064}
"""A / E(B-V) of the DECam filters, for E(B-V) of Schlegel, Finkbeiner & Davis 1998. Source: documentation of the Legacy
Surveys catalogues, which computed them as Schlafly & Finkbeiner 2011 (arXiv 1012.4804), appendix, and says that they
differ slightly from the table there. Those of SDSS (4.239, 3.303, 2.285, 1.698, 1.263) and HSC are up to 7 % larger."""

_LEVEL_SAMPLES = 4096
"""Pixels of a band, at most, that its noise level is measured on: about 3 % of sampling error."""


@dataclass(frozen=True)
class Flux:
    """One stamp, opened once for all its views.

    Attributes:
        image: (H, W, C) float32, NaN where nothing is known.
        bands: Names of the C bands.
        ivar: (H, W, C) inverse variance, in the unit of the image to the -2; 0 where it is not known. None without it.
    """

    image: np.ndarray
    bands: tuple[str, ...]
    ivar: np.ndarray | None = None

    @cached_property
    def sigma(self) -> np.ndarray:
        """Standard deviation of the noise, (H, W, C) float32: 1 / sqrt(ivar), and NaN where that is not known. A band
        without any inverse variance has its `noise_level` everywhere."""
        if self.ivar is None:
            return np.broadcast_to(noise_level(self.image), self.image.shape)
        known = (self.ivar > 0) & (self.ivar < np.inf)
        sigma: np.ndarray = 1 / np.sqrt(np.where(known, self.ivar, np.float32(np.nan)))
        bare = ~known.any(axis=(0, 1))
        if bare.any():
            sigma[..., bare] = noise_level(self.image[..., bare])
        return sigma


def open_flux(sample: Sample) -> Flux:
    """The flux of a sample, with its mask and inverse variance where the store has them.

    Args:
        sample: Field `image` (H, W, C) float32; `image.mask`, 0 where a pixel is good, and `image.ivar` of that shape;
            names of the bands in `meta["channels"]["image"]`, by default numbers from 0.

    Raises:
        DataError: For another dtype, number of dimensions, or a companion of another shape.
    """
    image = sample.fields[FIELD]
    if image.ndim != 3 or image.dtype != np.float32:
        raise DataError(
            f"a view of galaxies takes an (H, W, C) image of uint8 or float32, got {image.dtype} of shape "
            f"{image.shape} for sample {sample.id or sample.index}; `prepare` stores one of the two."
        )
    mask, ivar = (_companion(sample, name, image.shape) for name in (MASK, IVAR))
    known = np.isfinite(image)
    if mask is not None:
        known &= mask == 0
    bands = sample.meta.get("channels", {}).get(FIELD) or map(str, range(image.shape[2]))
    return Flux(image if known.all() else np.where(known, image, np.float32(np.nan)), tuple(bands), ivar)


def _companion(sample: Sample, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    found = sample.fields.get(name)
    if found is not None and found.shape != shape:
        raise DataError(
            f"field {name} of sample {sample.id or sample.index} has shape {found.shape}, its image {shape}; "
            "both must have the same pixels and bands: prepare the store again."
        )
    return found


def noise_level(image: np.ndarray) -> np.ndarray:
    """Noise of each band, (H, W, C) -> (C,) float32, from pixels that are known.

    1.4826 / sqrt(6) * median |2 x[j] - x[j - 2] - x[j + 2]| along rows: light that changes slowly does not count, nor
    does it matter that resampling has made neighbours alike. 0 where no such five pixels are known, or most are equal.
    Source: Stoehr et al. 2008 (DER_SNR), ADASS XVII.
    """
    height, width, channels = image.shape
    rows = image[:: 1 + height * width // _LEVEL_SAMPLES]
    bends = np.abs(2 * rows[:, 2:-2] - rows[:, :-4] - rows[:, 4:]).reshape(-1, channels)
    known = np.isfinite(bends)
    bands = (bends[known[:, band], band] for band in range(channels))
    medians = np.array([np.median(band) if band.size else 0.0 for band in bands], np.float32)
    level: np.ndarray = medians * np.float32(MAD_TO_SIGMA / math.sqrt(6))
    return level


def over_known(linear: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """A smoothing or resampling, over known pixels only: linear(x * known) / linear(known).

    Constant flux stays constant beside a hole, and a hole smaller than the smoothing is filled from around it; pixels
    with less than `LEAST_WEIGHT` of their weights on known ones are NaN. Source: Knutsson & Westin 1993, normalized
    convolution.

    Args:
        linear: (H, W, C) float32 -> (H', W', C) float32, each channel for itself, constants unchanged.
        image: (H, W, C) float32, NaN where nothing is known.
    """
    known = np.isfinite(image)
    if known.all():
        return linear(image)
    weights = linear(known.astype(np.float32))
    out: np.ndarray = linear(np.where(known, image, np.float32(0))) / np.maximum(weights, np.float32(LEAST_WEIGHT))
    out[weights < LEAST_WEIGHT] = np.nan
    return out


def seeing(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """Flux through worse seeing, the same in all bands: a PSF of variance s^2 gets one of s^2 + sigma_px^2.

    The kernel is the discrete Gaussian exp(-t) I_n(t), t = sigma_px^2, whose variance is t at any width; a sampled
    Gaussian of 0.4 pixels has half of it. Source: Lindeberg 1990, scale-space for discrete signals.

    Args:
        image: (H, W, C) float32, NaN where nothing is known. Outside it its reflection is seen.
        sigma_px: Of the Gaussian, in pixels.

    Returns:
        (H, W, C) float32. Total flux is kept; noise becomes smaller and smooth.
    """
    from scipy.special import ive

    reach = math.ceil(5 * sigma_px) + 1  # weights beyond add up to 3e-6
    kernel = ive(np.arange(-reach, reach + 1), sigma_px**2)
    kernel /= kernel.sum()
    return over_known(lambda x: cv2.sepFilter2D(x, -1, kernel, kernel).reshape(x.shape), image)


def white_noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Standard normal noise, float32: 16 random bits a pixel choose one of 65,536 quantiles, so it ends at 4.3 sigma.

    Several times as fast as NumPy's own, which would take longer than all else that is done to a view. Source: ours.
    """
    count = math.prod(shape)
    words = np.random.SFC64(seed).random_raw(-(-count // 4))
    noise: np.ndarray = _quantiles()[words.view(np.uint16)[:count]].reshape(shape)
    return noise


@cache
def _quantiles() -> np.ndarray:
    from scipy.special import ndtri

    values = ndtri((np.arange(2**16) + 0.5) / 2**16)
    table: np.ndarray = (values / values.std()).astype(np.float32)
    return table


def reddening_factors(
    bands: Sequence[str], ebv: float, extinction: Mapping[str, float] | None = None
) -> np.ndarray:
    """What Galactic dust leaves of the flux in each band, 10^(-0.4 R E(B-V)): (C,) float32.

    Args:
        bands: Names of the bands.
        ebv: E(B-V) in magnitudes.
        extinction: Band -> R = A / E(B-V), before those of `EXTINCTION`, which are found in small or capital letters.

    Raises:
        ConfigError: For a band without a coefficient.
    """
    known = {**EXTINCTION, **{name.upper(): value for name, value in EXTINCTION.items()}, **(extinction or {})}
    unknown = [band for band in bands if band not in known]
    if unknown:
        raise ConfigError(
            f"views.reddening needs A / E(B-V) of every band; it is not known for {', '.join(unknown)} of "
            f"{', '.join(bands)}. Give it, as in `views.extinction: {{{unknown[0]}: 2.5}}`, or set views.reddening "
            "to 0."
        )
    factors: np.ndarray = np.power(10, [-0.4 * known[band] * ebv for band in bands]).astype(np.float32)
    return factors


def drawn_ebv(share: float, mean: float, most: float) -> float:
    """Quantile of an exponential distribution of E(B-V) that ends at `most`, for a share in [0, 1); 0 for a mean of 0.

    Args:
        share: The quantile.
        mean: Of the distribution without its end, in magnitudes.
        most: In magnitudes.
    """
    return -mean * math.log1p(share * math.expm1(-most / mean)) if mean > 0 else 0.0


@dataclass(frozen=True)
class FluxDraw:
    """What is drawn for one view.

    Attributes:
        window: Arguments of `RotatedCrop.apply`: rotation, flips, shift, size.
        exposure: Factor of all bands; 1 leaves them.
        ebv: E(B-V) of added dust, in magnitudes.
        blur_px: Sigma of worse seeing in stored pixels; 0 for none.
        noise: Added noise in units of the stored one.
        levels: (C,) shares in [0, 1): where in its range of `noise_to` the new level of each band lies.
        noise_seed: Of the noise itself.
        dropped: Share in [0, 1) that says which of the bands that are there goes missing; None for none.
    """

    window: Mapping[str, Any]
    exposure: float
    ebv: float
    blur_px: float
    noise: float
    levels: np.ndarray
    noise_seed: int
    dropped: float | None


class FluxPipeline:
    """Flux to a training view: dust, seeing, noise, one resampling, exposure, and a band that goes missing.

    Rotation, flips, shift and size are one affine map, so that noise and PSF are smoothed once. It keeps surface
    brightness, flux a pixel: a galaxy seen larger by z has z^2 of its flux. Exposure is one factor of all bands, which
    keeps colours. Dust dims the stored noise with the light, seeing smooths it; what noise adds is that of the stored
    pixels.

    Every number is drawn, in one order, whatever is switched on, and the noise has a generator of its own: switching
    one operation off leaves the draws of all others as they were. Source: ours.

    Args:
        settings: Of the views.
        size: Side of a view in pixels.
        area: Smallest and largest window area, as a fraction of the stamp.
    """

    def __init__(self, settings: GalaxyViews, size: int, area: tuple[float, float]) -> None:
        self.settings = settings if not settings.plain else replace(
            settings, contrast=0.0, blur=0.0, noise=(0.0, 0.0), noise_to={}, reddening=0.0, band_drop=0.0
        )
        self.crop = RotatedCrop(size, area, settings.aspect, flips=not settings.parity_safe, shift=settings.shift)

    def __call__(self, flux: Flux, rng: np.random.Generator) -> np.ndarray:
        """(size, size, C) float32, NaN where nothing is known."""
        return self.apply(flux, self.draw(flux.image.shape, rng))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> FluxDraw:
        """What is done to a stamp of shape (H, W, C); advances the generator by an amount that no setting of an
        operation on values changes."""
        settings = self.settings
        exposed, blurred, dropped = (rng.random(3) < (EXPOSURE_RATE, settings.blur, settings.band_drop)).tolist()
        exposure, dust, blur, noise, drop = rng.random(5).tolist()
        levels, seed = rng.random(shape[2]), int(rng.integers(2**63))
        return FluxDraw(
            window=self.crop.draw(shape[0], shape[1], rng),
            exposure=1 + settings.contrast * (2 * exposure - 1) if exposed else 1.0,
            ebv=drawn_ebv(dust, settings.reddening, settings.reddening_max),
            blur_px=_between(settings.blur_px, blur) if blurred else 0.0,
            noise=_between(settings.noise, noise),
            levels=levels, noise_seed=seed, dropped=drop if dropped else None,
        )

    def outline(self, drawn: FluxDraw) -> np.ndarray:
        """(4, 2) corners of the drawn window in the stamp, as `views.instances.Framed` has them, like the next two."""
        return self.crop.outline(**drawn.window)

    def around(self, box: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> FluxDraw:
        """What is done to a stamp so that just a box of it is seen."""
        return replace(self.draw(shape, rng), window=self.crop.around(box, rng))

    def look(self, flux: Flux, drawn: FluxDraw, rng: np.random.Generator) -> np.ndarray:
        """The view of what was drawn; draws nothing more."""
        return self.apply(flux, drawn)

    def apply(self, flux: Flux, drawn: FluxDraw) -> np.ndarray:
        """The view of what was drawn, (size, size, C) float32, NaN where nothing is known.

        Raises:
            ConfigError: For settings that name bands which are not there, or do not know one that is.
        """
        image, factors = flux.image, None
        if drawn.ebv > 0:
            factors = reddening_factors(flux.bands, drawn.ebv, self.settings.extinction)
            image = image * factors
        if drawn.blur_px > 0:
            image = seeing(image, drawn.blur_px)
        added = self._added_sigma(flux, drawn, factors)
        if added is not None:
            noise = white_noise(image.shape, drawn.noise_seed)
            noise *= added
            noise += image
            image = noise
        view = over_known(lambda x: self.crop.apply(x, **drawn.window), image)
        # Not around the mean, as for pictures: under a bright galaxy the sky would move by many times its noise.
        view *= np.float32(drawn.exposure)
        return view if drawn.dropped is None else without_band(view, drawn.dropped)

    def _added_sigma(self, flux: Flux, drawn: FluxDraw, factors: np.ndarray | None) -> np.ndarray | None:
        """Standard deviation of the noise that is added, (H, W, C), 0 where that of the stored one is not known; None
        where none is."""
        ranges = self.settings.noise_to
        if not ranges:
            return _known_or_0(flux.sigma * np.float32(drawn.noise)) if drawn.noise > 0 else None
        unknown = [band for band in ranges if band not in flux.bands]
        if unknown:
            raise ConfigError(
                f"views.noise_to names the band {unknown[0]!r}; the bands of this store are {', '.join(flux.bands)}."
            )
        shares = zip(flux.bands, drawn.levels.tolist(), strict=True)
        new = np.array([_between(ranges.get(band, (0.0, 0.0)), share) for band, share in shares], np.float32)
        old = flux.sigma if factors is None else flux.sigma * factors
        added: np.ndarray = np.sqrt(_known_or_0(np.square(new) - np.square(old)))
        return added


def _known_or_0(x: np.ndarray) -> np.ndarray:
    """The larger of a number and 0; NaN becomes 0."""
    found: np.ndarray = np.fmax(x, 0)
    return found


def _between(ends: Sequence[float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def without_band(view: np.ndarray, share: float) -> np.ndarray:
    """A view with one band less: NaN, which is the band's mean in the model's input.

    Args:
        view: (H, W, C) float32.
        share: In [0, 1); which of the bands that have a known pixel. The last one of them is never taken.
    """
    there = np.flatnonzero(np.isfinite(view).any(axis=(0, 1)))
    if len(there) < 2:
        return view
    out = view.copy()
    out[..., there[int(share * len(there))]] = np.nan
    return out


class _WithCompanions:
    reads: ClassVar[tuple[str, ...]] = (FIELD, MASK, IVAR)

    def given(self, sample: Sample) -> Any:
        """The image where it is an 8-bit picture, and else its `Flux`."""
        image = sample.fields[FIELD]
        return image if image.dtype == np.uint8 else open_flux(sample)


class GalaxyTrainViews(_WithCompanions, TrainViews):
    """Views whose pipelines are given a picture, or a `Flux` with what its mask and inverse variance say."""


class GalaxyInstanceViews(_WithCompanions, InstanceViews):
    """The same with instances: what stands out of a picture, or of the noise of flux."""

    @property
    def first(self) -> GalaxyTrainViews:
        """The first scene alone."""
        return GalaxyTrainViews(self.field, self.pipelines[:1], self.least_px)


class GalaxyEvaluationView(_WithCompanions, EvaluationView):
    """The same without randomness."""


def evaluation_window(given: np.ndarray | Flux, fraction: float, size: int) -> np.ndarray:
    """The middle square of a picture or of known flux; arguments as in `centre_window`."""
    if isinstance(given, Flux):
        return over_known(lambda x: centre_window(x, fraction, size), given.image)
    return centre_window(given, fraction, size)
