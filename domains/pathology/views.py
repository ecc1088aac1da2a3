"""Views of tissue tiles: any rotation, flips, crop, stain and colour jitter, greyscale, blur."""

from __future__ import annotations

from dataclasses import dataclass

from sciencessl.spec import View
from sciencessl.views.settings import CropViews

FIELD = "tile"


@dataclass(frozen=True)
class PathologyViews(CropViews):
    """Settings of the views of tissue tiles.

    Crop aside, the values are those of the PTCGA200 pretraining (pathology card, arXiv 2303.15693: jitter 0.4, 0.4,
    0.4, 0.1 at p 0.8, greyscale 0.2, blur 0.5); any angle instead of upright crops is ours, since a tile has no up, and
    so is the stain jitter, which that pretraining does not have: 0.05 is the lighter of the two strengths of Tellez et
    al. (arXiv 1902.06543), 0.2 the stronger.

    Attributes:
        stain: How much haematoxylin, eosin and DAB change, as a fraction; 0 turns it off, as tissue that is not stained
            in colour needs.
        stain_p: Probability of that.
        brightness: Additive, as a fraction of the range.
        contrast: Around the mean of each channel.
        saturation: Of colour.
        hue: Of colour, in turns.
        greyscale: Probability of dropping colour.
        blur: Probability of a blur, sigma 0.1 to 2 pixels.
        evaluation_window: Side of the centred window that is evaluated, as a fraction of the tile.
    """

    area: tuple[float, float] = (0.2, 1.0)
    small_area: tuple[float, float] = (0.05, 0.2)
    stain: float = 0.05
    stain_p: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    greyscale: float = 0.2
    blur: float = 0.5
    evaluation_window: float = 1.0


def pathology_views(settings: PathologyViews) -> tuple[View, View]:
    """Training views from the same distribution, large ones and small ones, and the centred window for evaluation."""
    from sciencessl.views import operations as op
    from sciencessl.views.affine import RotatedCrop, centre_window
    from sciencessl.views.pair import evaluation_views, multi_crop_views
    from sciencessl.views.pipeline import Pipeline
    from sciencessl.views.stain import StainJitter

    def pipeline(size: int, area: tuple[float, float], number: int) -> Pipeline:
        crop = RotatedCrop(size, area)
        return Pipeline([crop]) if settings.plain else Pipeline([
            crop,
            *([StainJitter(settings.stain, p=settings.stain_p)] if settings.stain > 0 else []),
            op.ByolColourJitter(settings.brightness, settings.contrast, settings.saturation, settings.hue, p=0.8),
            op.Greyscale(p=settings.greyscale),
            op.GaussianBlur(op.blur_kernel(size), sigma=(0.1, 2.0), p=settings.blur),
        ])

    evaluate = evaluation_views(
        FIELD, lambda image: centre_window(image, settings.evaluation_window, settings.size),
        settings.size / settings.evaluation_window,
    )
    return multi_crop_views(FIELD, settings, pipeline), evaluate
