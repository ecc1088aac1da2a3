"""Views for segmentation: what moves pixels moves image and label image alike, what changes colour only the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.dense_masks import Masks
from sciencessl.samples import Sample
from sciencessl.spec import View, ViewRandom
from sciencessl.views.affine import resize
from sciencessl.views.operations import Greyscale, ImageOperation, Solarise
from sciencessl.views.pair import TrainViews
from sciencessl.views.pipeline import Pipeline

MASK = "mask"
"""Field of a view that holds its class numbers."""

AREA = (0.5, 1.0)
"""Smallest and largest window over the area of the tile (ours)."""


@dataclass(frozen=True)
class Window:
    """A square part of a square image, turned and mirrored.

    Attributes:
        side: Over that of the image, in (0, 1].
        top: Of its upper edge, over the side of the image.
        left: Likewise.
        turns: Quarter turns, 0 to 3.
        mirror: Whether left and right change places after that.
    """

    side: float = 1.0
    top: float = 0.0
    left: float = 0.0
    turns: int = 0
    mirror: bool = False

    def __call__(self, image: np.ndarray, size: int, labels: bool = False) -> np.ndarray:
        """(S, S, ...) -> (size, size, ...): shrinking averages areas; class numbers are those of the nearest pixels."""
        extent = image.shape[0]
        length = max(1, round(self.side * extent))
        top, left = (min(round(start * extent), extent - length) for start in (self.top, self.left))
        cut = image[top : top + length, left : left + length]
        if labels:
            cut = cv2.resize(np.ascontiguousarray(cut), (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
        else:
            cut = resize(cut, size, size)
        turned = np.rot90(cut, self.turns)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirror else turned)


def draw_window(rng: np.random.Generator) -> Window:
    """A window of an area in `AREA`, anywhere inside, in any of the eight positions of a square."""
    side = math.sqrt(rng.uniform(*AREA))
    top, left = rng.uniform(0, 1 - side, 2)
    return Window(side, float(top), float(left), int(rng.integers(4)), bool(rng.random() < 0.5))


@dataclass(frozen=True)
class DenseView:
    """One view of a tile: of training with its class numbers, of evaluation the whole tile.

    Attributes:
        field: Of the image.
        size: Side of the view in pixels.
        masks: Of the samples that are trained on; None for evaluation.
        colour: What changes the image's colours in training.
        least_px: As `spec.View` has it, like `reads`.
        reads: The field.
    """

    field: str
    size: int
    masks: Masks | None
    colour: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None
    least_px: dict[str, float]
    reads: tuple[str, ...]

    def __call__(self, sample: Sample, random: ViewRandom) -> list[Sample]:
        """The view of a sample.

        Raises:
            DataError: When its image is not square.
        """
        image = sample.fields[self.field]
        if abs(image.shape[0] - image.shape[1]) > 1:  # a reduced JPEG may be off by one
            raise DataError(f"segmentation: the image is {image.shape[1]} x {image.shape[0]} pixels; tiles must be "
                            "square. Prepare tiles of one side.")
        if self.masks is None:
            return [Sample({self.field: Window()(image, self.size)}, sample.meta, sample.id, sample.index)]
        rng = random(0)
        window = draw_window(rng)
        seen, mask = window(image, self.size), window(self.masks[sample.index], self.size, labels=True)
        seen = self.colour(seen, rng) if self.colour else seen
        return [Sample({self.field: seen, MASK: mask[..., None]}, sample.meta, sample.id, sample.index)]


def dense_views(
    views: Callable[[Any], tuple[View, View]], field: str, masks: Masks | None, settings: Any
) -> tuple[DenseView, DenseView]:
    """A domain's views for segmentation: jitter and blur are those of its first training view.

    The whole tile is seen at the side that the encoder's views have, in evaluation; in training a window of it is.

    Args:
        views: Of the domain.
        field: That the encoder reads.
        masks: Of the samples that are trained on.
        settings: The argument of `views`; has the side of a view as `size`.

    Raises:
        ConfigError: When the domain's views are not operations on an image of bytes, one after the other.
    """
    train = getattr(views(settings)[0], "first", None)
    pipeline = train.pipelines[0] if type(train) is TrainViews else None
    if not isinstance(pipeline, Pipeline) or not hasattr(settings, "size"):
        raise ConfigError("kind 'dense' needs a domain whose views are image operations one after the other, so that "
                          "what moves pixels can move the label image too; pathology and web have such views.")
    # Greyscale and solarisation are of pretraining; fine-tuning goes without (pathology card).
    kept = [step for step in pipeline.transforms
            if isinstance(step, ImageOperation) and not isinstance(step, (Greyscale, Solarise))]
    size = int(settings.size)
    return (
        DenseView(field, size, masks, Pipeline(kept), {field: size / math.sqrt(AREA[0])}, (field,)),
        DenseView(field, size, None, None, {field: size}, (field,)),
    )
