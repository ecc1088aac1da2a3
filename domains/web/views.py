"""Views of web photos: BYOL's own augmentations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciencessl.spec import View
from sciencessl.views.settings import check_views

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
        check_views(self)


def web_views(settings: WebViews) -> tuple[View, View]:
    """BYOL's two views, and the resized centre crop for evaluation."""
    from sciencessl.views.byol import CropSettings, byol_views, evaluated_side, evaluation_view
    from sciencessl.views.pair import crop_least_px, evaluation_views, train_views

    centre = evaluation_view(settings.size)
    unused = np.random.default_rng(0)
    crop = CropSettings(area=settings.area)
    least_px = crop_least_px(settings.size, crop.area, crop.aspect)
    evaluate = evaluation_views(FIELD, lambda image: centre(image, unused), evaluated_side(settings.size))
    return train_views(FIELD, byol_views(settings.size, crop=crop), least_px), evaluate
