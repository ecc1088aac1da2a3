"""Views of web photos: BYOL's own augmentations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciencessl.errors import ConfigError
from sciencessl.spec import View

FIELD = "image"


@dataclass(frozen=True)
class WebViews:
    """Settings of the views of photos; all else is BYOL's (arXiv 2006.07733, appendix B).

    Attributes:
        size: Side of a view in pixels.
        area: Smallest and largest crop area, as a fraction of the photo.
    """

    size: int = 64
    area: tuple[float, float] = (0.08, 1.0)

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ConfigError(f"views.size is {self.size}; it must be 8 pixels or more. 64 suits a small encoder.")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"views.area is {self.area}; it must be two fractions in (0, 1], the smaller first.")


def web_views(settings: WebViews) -> tuple[View, View]:
    """BYOL's two views, and the resized centre crop for evaluation."""
    from sciencessl.views.byol import CropSettings, byol_views, evaluation_view
    from sciencessl.views.pair import evaluation_views, train_views

    centre = evaluation_view(settings.size)
    unused = np.random.default_rng(0)
    evaluate = evaluation_views(FIELD, lambda image: centre(image, unused))
    return train_views(FIELD, byol_views(settings.size, crop=CropSettings(area=settings.area))), evaluate
