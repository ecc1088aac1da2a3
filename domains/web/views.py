"""Views of web photos: BYOL's own augmentations, or those of SwAV."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sciencessl.spec import View
from sciencessl.views.byol import (
    CropSettings,
    PhotometricSettings,
    byol_views,
    evaluated_side,
    evaluation_view,
    swav_photometric,
)
from sciencessl.views.settings import CropViews

FIELD = "image"


@dataclass(frozen=True)
class WebViews(CropViews):
    """Settings of the views of photos; all else is BYOL's (arXiv 2006.07733, appendix B).

    Attributes:
        colour: How pixels change: `byol`, where the first two views differ in blur and solarisation and further ones
            take turns, or `swav`, the same for all views (arXiv 2006.09882, as run by SEER, arXiv 2103.01988).
        strength: Factor of all of that but blur: of the changes of colour and of the probabilities of greyscale and
            solarisation.
        blur: Factor of the probabilities of blur; 0, for photos of few pixels, turns it off.
    """

    colour: Literal["byol", "swav"] = "byol"
    strength: float = 1.0
    blur: float = 1.0


def web_views(settings: WebViews) -> tuple[View, View]:
    """Training views, large ones and small ones, and the resized centre crop for evaluation."""
    from sciencessl.views.pair import evaluation_views, multi_crop_views
    from sciencessl.views.pipeline import Pipeline

    centre = evaluation_view(settings.size)
    unused = np.random.default_rng(0)
    photometric = _weaker(swav_photometric() if settings.colour == "swav" else PhotometricSettings(), settings)

    def pipeline(size: int, area: tuple[float, float], number: int) -> Pipeline:
        full = byol_views(size, photometric, CropSettings(area))[number % 2]
        return Pipeline(full.transforms[:2]) if settings.plain else full  # crop and mirror

    evaluate = evaluation_views(FIELD, lambda image: centre(image, unused), evaluated_side(settings.size))
    return multi_crop_views(FIELD, settings, pipeline, CropSettings().aspect), evaluate


def _weaker(colour: PhotometricSettings, settings: WebViews) -> PhotometricSettings:
    """Changes of pixel values by the factors of the settings."""
    k = settings.strength
    return replace(
        colour, brightness=k * colour.brightness, contrast=k * colour.contrast, saturation=k * colour.saturation,
        hue=k * colour.hue, greyscale=k * colour.greyscale, solarise=_times(k, colour.solarise),
        blur=_times(settings.blur, colour.blur),
    )


def _times(factor: float, pair: tuple[float, float]) -> tuple[float, float]:
    return factor * pair[0], factor * pair[1]
