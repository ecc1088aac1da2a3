"""Pipelines as a domain's views: the primary field through one pipeline a view, in one size or in two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sciencessl.samples import Sample
from sciencessl.spec import ViewRandom
from sciencessl.views.settings import CropViews, Pair

ImageView = Callable[[Any, np.random.Generator], np.ndarray]
"""What `TrainViews.given` gives, an image by default, and a generator -> a view."""


@dataclass(frozen=True)
class TrainViews:
    """View number v of a sample is pipeline v on its field, drawing from generator v.

    Attributes:
        field: The field that they are views of.
        pipelines: One a view.
        least_px: As `spec.View` has it; what is not named is decoded in full.
    """

    field: str
    pipelines: tuple[ImageView, ...]
    least_px: Mapping[str, float]

    def given(self, sample: Sample) -> Any:
        """What the pipelines are called with: the field, unless a domain needs more of a sample."""
        return sample.fields[self.field]

    def __call__(self, sample: Sample, random: ViewRandom) -> list[Sample]:
        """The views of a sample."""
        given = self.given(sample)
        return [
            Sample({self.field: pipeline(given, random(number))}, sample.meta, sample.id, sample.index)
            for number, pipeline in enumerate(self.pipelines)
        ]

    @property
    def first(self) -> TrainViews:
        """The first view alone, the same as among the others."""
        return replace(self, pipelines=self.pipelines[:1])


@dataclass(frozen=True)
class EvaluationView:
    """One view without randomness; attributes as in `TrainViews`."""

    field: str
    pipeline: Callable[[Any], np.ndarray]
    least_px: Mapping[str, float]

    def given(self, sample: Sample) -> Any:
        """What the pipeline is called with: the field, unless a domain needs more of a sample."""
        return sample.fields[self.field]

    def __call__(self, sample: Sample, random: ViewRandom) -> list[Sample]:
        """The view of a sample."""
        return [Sample({self.field: self.pipeline(self.given(sample))}, sample.meta, sample.id, sample.index)]


def train_views(field: str, pipelines: Sequence[ImageView], least_px: float = math.inf) -> TrainViews:
    """Pipelines on one field as the training views of a domain.

    Args:
        field: Name of the field.
        pipelines: One a view.
        least_px: Shorter side in pixels that an image needs so that no view has to enlarge it (`crop_least_px`). Large
            JPEGs are decoded no larger than that asks; inf decodes in full, as views that count in pixels of the
            stored image need.
    """
    return TrainViews(field, tuple(pipelines), {field: least_px})


def evaluation_views(
    field: str, pipeline: Callable[[np.ndarray], np.ndarray], least_px: float = math.inf
) -> EvaluationView:
    """A pipeline without randomness on one field as a domain's evaluation view; arguments as in `train_views`."""
    return EvaluationView(field, pipeline, {field: least_px})


def multi_crop_views(
    field: str,
    settings: CropViews,
    pipeline: Callable[[int, Pair, int], ImageView],
    aspect: Pair = (1.0, 1.0),
) -> TrainViews:
    """The large views that settings ask for, and small views or crops of instances, twice, after them.

    Source: SwAV (arXiv 2006.09882) for small views; for instances see `InstanceViews`.

    Args:
        field: Name of the field.
        settings: Number, size and area of the crops.
        pipeline: (size, area, number of the view) -> the pipeline of that view. Those of instances are of number 0
            (second hand: UniVIP does not say); their area is not used.
        aspect: Smallest and largest width over height of all crops.
    """
    large = [(settings.size, settings.area, number) for number in range(settings.large_views)]
    small = [(settings.small_size, settings.small_area, settings.large_views + k) for k in range(settings.small_views)]
    least = max(crop_least_px(size, area, aspect) for size, area, _ in large + small)
    if not settings.instances:
        return train_views(field, [pipeline(*crop) for crop in large + small], least)

    from sciencessl.views.instances import InstanceViews
    from sciencessl.views.proposals import LEAST_SHARE, picture_boxes

    instances = [(settings.instance_size, settings.area, 0)] * (2 * settings.instances)
    pipelines = tuple(pipeline(*crop) for crop in large + instances)
    least = max(least, settings.instance_size / LEAST_SHARE)
    return InstanceViews(field, pipelines, {field: least}, settings.instances, picture_boxes)


def crop_least_px(size: int, area: Pair, aspect: Pair = (1.0, 1.0)) -> float:
    """Shorter side in pixels of an image whose smallest random crop has `size` pixels along both sides. Source: ours.

    A crop of share a and width over height r has a shorter side of sqrt(a H W / max(r, 1 / r)); where none fits in ten
    draws, the largest one of allowed aspect in the middle is taken.

    Args:
        size: Side of the view in pixels.
        area: Smallest and largest crop area over image area.
        aspect: Smallest and largest width over height of the crop.
    """
    longest = max(aspect[1], 1 / aspect[0])
    return size / min(math.sqrt(area[0] / longest), 1 / longest)
