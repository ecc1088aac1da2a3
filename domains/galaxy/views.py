"""Views of galaxies: any rotation, flips, crop, mild brightness; no hue for flux, where colour is measured.

An 8-bit colour stamp is a picture, not a measurement: its colours are those of a stretch. Left alone they are the
easiest thing that two views share, and an encoder that matches colours need not look at shapes. What is done to the
values of flux, and how masks are kept out of it, is in `flux_views`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from sciencessl.errors import ConfigError
from sciencessl.spec import View
from sciencessl.views.settings import CropViews

if TYPE_CHECKING:
    from sciencessl.domains.galaxy.flux_views import Flux
    from sciencessl.views.instances import Framed

FIELD = "image"


@dataclass(frozen=True)
class GalaxyViews(CropViews):
    """Settings of the views of galaxies.

    Crop, flips, jitter of 8-bit colour and greyscale are those of the hybrid paper's code (arXiv 2206.11927), except
    that brightness is milder, windows keep the galaxy in view and hardly change its shape, and some are blurred: ours.
    Of flux, noise and blur are on by default: depth and seeing differ within every survey and are no property of a
    galaxy. Reddening and missing bands change its colour, which is one, and are for those who want features that do
    not depend on it.

    Attributes:
        area: Smallest and largest window area, as a fraction of the stamp, which sets how large the galaxy is seen:
            areas of 0.46 to 0.69 make its size vary by 0.9 to 1.1. Surface brightness is kept, total flux is not.
        aspect: Smallest and largest width over height of the window.
        shift: Largest distance of the galaxy from the middle of the window, as a fraction of the window's side.
        parity_safe: No mirror flips, for labels that tell clockwise from anticlockwise.
        brightness: Additive, as a fraction of the range of uint8 stamps; float flux is never shifted.
        contrast: Around the mean of each channel, as a fraction; of flux a common factor, as by another exposure.
        saturation: Of colour, as a fraction; stamps of three 8-bit channels only.
        hue: Of colour, in turns; stamps of three 8-bit channels only.
        greyscale: Probability of dropping colour (stamps of three 8-bit channels only).
        blur: Probability of a blur, as by worse seeing.
        blur_px: Smallest and largest sigma of it, in pixels of the view for 8-bit stamps and of the stamp for flux.
        noise: Flux: smallest and largest noise that is added, in units of the stored one (its inverse variance, or else
            the differences of near pixels); 0 0 adds none.
        noise_to: Flux: band -> smallest and largest noise level, in the unit of the image, that noise is added up to
            instead: {g: [0.003, 0.006]}, as of a shallower survey. Noise above it stays; bands not named get none.
        reddening: Flux without sky: mean E(B-V) of added Galactic dust in magnitudes, drawn exponentially; 0 adds none.
        reddening_max: Largest E(B-V) that is drawn.
        extinction: A / E(B-V) of bands, {hsc_g: 3.24}, where those of DECam for u g r i z y do not do.
        band_drop: Flux: probability that one of several bands goes missing.
        evaluation_window: Side of the centred window that is evaluated, as a fraction of the stamp.
        stretch: Of flux on the way to the model, per band, fitted once and saved with the run.
    """

    area: tuple[float, float] = (0.3, 0.85)
    small_area: tuple[float, float] = (0.08, 0.3)
    aspect: tuple[float, float] = (0.95, 1.05)
    shift: float = 0.2
    parity_safe: bool = False
    brightness: float = 0.1
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    greyscale: float = 0.3
    blur: float = 0.3
    blur_px: tuple[float, float] = (0.1, 1.5)
    noise: tuple[float, float] = (0.0, 1.0)
    noise_to: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reddening: float = 0.0
    reddening_max: float = 0.5
    extinction: Mapping[str, float] = field(default_factory=dict)
    band_drop: float = 0.0
    evaluation_window: float = 0.75
    stretch: Literal["asinh", "linear", "log"] = "asinh"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.shift <= 0.5:
            raise ConfigError(f"views.shift is {self.shift}; it must be in [0, 0.5], so that the galaxy stays in view.")
        _check_flux(self)


def _check_flux(settings: GalaxyViews) -> None:
    rule = "two finite numbers, 0 or more, the smaller first"
    for name in ("blur_px", "noise"):
        _require(name, getattr(settings, name), _ordered(getattr(settings, name)), rule)
    for band, ends in settings.noise_to.items():
        _require(f"noise_to[{band!r}]", ends, _ordered(ends), rule)
    for band, value in settings.extinction.items():
        _require(f"extinction[{band!r}]", value, 0 <= value < math.inf, "A / E(B-V), finite and 0 or more")
    mean, most = settings.reddening, settings.reddening_max
    _require("reddening", mean, 0 <= mean < math.inf, "a mean E(B-V) in magnitudes, 0 or more")
    _require("reddening_max", most, 0 < most < math.inf, "an E(B-V) in magnitudes above 0")
    _require("band_drop", settings.band_drop, 0 <= settings.band_drop <= 1, "a probability in [0, 1]")


def _ordered(ends: Sequence[float]) -> bool:
    return len(ends) == 2 and 0 <= ends[0] <= ends[1] < math.inf


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"views.{name} is {value}; it must be {rule}.")


def galaxy_views(settings: GalaxyViews) -> tuple[View, View]:
    """Training views from the same distribution, large ones and small ones, and the centred window for evaluation."""
    from sciencessl.domains.galaxy.detections import galaxy_boxes
    from sciencessl.domains.galaxy.flux_views import (
        GalaxyEvaluationView,
        GalaxyInstanceViews,
        GalaxyTrainViews,
        evaluation_window,
    )
    from sciencessl.views.pair import multi_crop_views

    train = multi_crop_views(
        FIELD, settings, lambda size, area, number: _Pipeline(settings, size, area), settings.aspect
    )
    fraction, size = settings.evaluation_window, settings.size
    window = partial(evaluation_window, fraction=fraction, size=size)
    evaluate = GalaxyEvaluationView(FIELD, window, {FIELD: size / fraction})
    if settings.instances:
        instances = settings.instances
        return GalaxyInstanceViews(FIELD, train.pipelines, train.least_px, instances, galaxy_boxes), evaluate
    return GalaxyTrainViews(FIELD, train.pipelines, train.least_px), evaluate


class _Pipeline:
    """8-bit stamps and float flux differ in what may be done to their values; the image decides."""

    def __init__(self, settings: GalaxyViews, size: int, area: tuple[float, float]) -> None:
        from sciencessl.domains.galaxy.flux_views import FluxPipeline
        from sciencessl.views import operations as op
        from sciencessl.views.affine import RotatedCrop
        from sciencessl.views.instances import Cropping
        from sciencessl.views.pipeline import Pipeline

        def build(colour: bool) -> Pipeline:
            crop = RotatedCrop(size, area, settings.aspect, flips=not settings.parity_safe, shift=settings.shift)
            return Pipeline([crop]) if settings.plain else Pipeline([
                crop,
                op.ByolColourJitter(
                    settings.brightness, settings.contrast, settings.saturation * colour, settings.hue * colour, p=0.8
                ),
                op.Greyscale(p=settings.greyscale * colour),
                op.GaussianBlur(op.blur_kernel(size), sigma=settings.blur_px, p=settings.blur),
            ])

        self._stamp, self._grey = build(colour=True), build(colour=False)
        self._flux = FluxPipeline(settings, size, area)
        self._framed = Cropping(self._stamp), Cropping(self._grey)

    def __call__(self, given: np.ndarray | Flux, rng: np.random.Generator) -> np.ndarray:
        if not isinstance(given, np.ndarray):
            return self._flux(given, rng)
        return (self._stamp if given.shape[2] == 3 else self._grey)(given, rng)

    def framed(self, given: np.ndarray | Flux) -> Framed:
        """What does the same with a window that is given."""
        return self._framed[given.shape[2] != 3] if isinstance(given, np.ndarray) else self._flux
