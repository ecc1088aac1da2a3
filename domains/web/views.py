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
    from sciencessl.views.byol import CropSettings, byol_views, evaluation_view
    from sciencessl.views.pair import evaluation_views, train_views

    centre = evaluation_view(settings.size)
    unused = np.random.default_rng(0)
    evaluate = evaluation_views(FIELD, lambda image: centre(image, unused))
    return train_views(FIELD, byol_views(settings.size, crop=CropSettings(area=settings.area))), evaluate
