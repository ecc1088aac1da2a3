"""Views of galaxies: any rotation, flips, crop, mild brightness; no hue for flux, where colour is measured.

An 8-bit colour stamp is a picture, not a measurement: its colours are those of a stretch. Left alone they are the
easiest thing that two views share, and an encoder that matches colours need not look at shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sciencessl.errors import ConfigError
from sciencessl.spec import View
from sciencessl.views.settings import check_views

FIELD = "image"


@dataclass(frozen=True)
class GalaxyViews:
    """Settings of the views of galaxies.

    Crop, flips, jitter of 8-bit colour and greyscale are those of the hybrid paper's code (arXiv 2206.11927), except
    that brightness is milder, windows keep the galaxy in view and hardly change its shape, and some are blurred: ours.

    Attributes:
        size: Side of a view in pixels.
        area: Smallest and largest window area, as a fraction of the stamp.
        aspect: Smallest and largest width over height of the window.
        shift: Largest distance of the galaxy from the middle of the window, as a fraction of the window's side.
        parity_safe: No mirror flips, for labels that tell clockwise from anticlockwise.
        brightness: Additive, as a fraction of the range of uint8 stamps; float flux is never shifted.
        contrast: Around the mean of each channel, as a fraction; for flux it is a change of exposure.
        saturation: Of colour, as a fraction; stamps of three 8-bit channels only.
        hue: Of colour, in turns; stamps of three 8-bit channels only.
        greyscale: Probability of dropping colour (stamps of three 8-bit channels only).
        blur: Probability of a blur, as by worse seeing, sigma 0.1 to 1.5 pixels.
        evaluation_window: Side of the centred window that is evaluated, as a fraction of the stamp.
        small_views: Small views beside the two large ones, for multi-crop methods.
        small_size: Side of a small view in pixels.
        small_area: Smallest and largest window area of small views, as a fraction of the stamp.
        stretch: Of flux on the way to the model, per band, fitted once and saved with the run.
    """

    size: int = 64
    area: tuple[float, float] = (0.3, 0.85)
    aspect: tuple[float, float] = (0.95, 1.05)
    shift: float = 0.2
    parity_safe: bool = False
    brightness: float = 0.1
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    greyscale: float = 0.3
    blur: float = 0.3
    evaluation_window: float = 0.75
    small_views: int = 0
    small_size: int = 32
    small_area: tuple[float, float] = (0.08, 0.3)
    stretch: Literal["asinh", "linear", "log"] = "asinh"

    def __post_init__(self) -> None:
        check_views(self)
        if not 0 <= self.shift <= 0.5:
            raise ConfigError(f"views.shift is {self.shift}; it must be in [0, 0.5], so that the galaxy stays in view.")


def galaxy_views(settings: GalaxyViews) -> tuple[View, View]:
    """Training views from the same distribution, two large ones and the small ones, and the centred window for
    evaluation."""
    from sciencessl.views.affine import centre_window
    from sciencessl.views.pair import evaluation_views, multi_crop_views

    train = multi_crop_views(
        FIELD, settings, lambda size, area, number: _Pipeline(settings, size, area), settings.aspect
    )
    evaluate = evaluation_views(
        FIELD, lambda image: centre_window(image, settings.evaluation_window, settings.size),
        settings.size / settings.evaluation_window,
    )
    return train, evaluate


class _Pipeline:
    """8-bit stamps and float flux differ in what may be done to their values; the image decides."""

    def __init__(self, settings: GalaxyViews, size: int, area: tuple[float, float]) -> None:
        from sciencessl.views import operations as op
        from sciencessl.views.affine import RotatedCrop
        from sciencessl.views.pipeline import Pipeline

        def build(brightness: float, colour: bool) -> Pipeline:
            return Pipeline([
                RotatedCrop(size, area, settings.aspect, flips=not settings.parity_safe, shift=settings.shift),
                op.ByolColourJitter(
                    brightness, settings.contrast, settings.saturation * colour, settings.hue * colour, p=0.8
                ),
                op.Greyscale(p=settings.greyscale * colour),
                op.GaussianBlur(op.blur_kernel(size), sigma=(0.1, 1.5), p=settings.blur),
            ])

        self._stamp = build(settings.brightness, colour=True)
        self._grey = build(settings.brightness, colour=False)
        self._flux = build(0.0, colour=False)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if image.dtype != "uint8":
            return self._flux(image, rng)
        return (self._stamp if image.shape[2] == 3 else self._grey)(image, rng)
