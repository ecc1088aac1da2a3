"""Two scenes of an image and crops of what lies in both, as UniVIP compares them (arXiv 2203.06965)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from sciencessl.samples import Sample
from sciencessl.spec import ViewRandom
from sciencessl.views.boxes import clipped, random_boxes, rectangle, room, within
from sciencessl.views.pair import ImageView, TrainViews
from sciencessl.views.pipeline import Pipeline
from sciencessl.views.proposals import least_side

SCENES = 2
LEAST_ROOM = 2.0
"""Side in pixels of an overlap that boxes can be drawn in."""
TRIES = 20
"""Pairs of scenes that are drawn, at most, until enough proposals lie in both. Source: UniVIP, second hand."""


class Framed(Protocol):
    """A pipeline whose crop can be drawn, or given, before the rest happens; a frame is what it calls a crop."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """A random frame of an image of (H, W, C)."""

    def outline(self, frame: Any) -> np.ndarray:
        """(4, 2) corners x, y of a frame in the image, where pixel k reaches from k to k + 1."""

    def around(self, box: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """A frame that shows just a box (left, top, right, bottom); how it is turned or mirrored is drawn."""

    def look(self, given: Any, frame: Any, rng: np.random.Generator) -> np.ndarray:
        """The view of a frame."""


class Cropping:
    """A pipeline of image operations that begins with a crop, as `Framed`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._crop = pipeline.transforms[0]
        self._rest = Pipeline(pipeline.transforms[1:])

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """As `Framed` has it; a frame is the arguments of the crop's `apply`."""
        return self._crop.draw(shape[0], shape[1], rng)

    def outline(self, frame: Any) -> np.ndarray:
        """As `Framed` has it."""
        found: np.ndarray = self._crop.outline(**frame)
        return found

    def around(self, box: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """As `Framed` has it."""
        return self._crop.around(box, rng)

    def look(self, given: Any, frame: Any, rng: np.random.Generator) -> np.ndarray:
        """As `Framed` has it."""
        return self._rest(self._crop.apply(given, **frame), rng)


@dataclass(frozen=True)
class InstanceViews(TrainViews):
    """Views 0 and 1 are scenes, then come K crops of what lies in both, then the same K crops anew.

    Two scenes are drawn until K proposals lie wholly in both, `TRIES` times at most; K of them are taken at random.
    Else the last pair whose overlap has room for a box is kept, with the proposals inside it, and `random_boxes` in the
    overlap make up the number (the pair of the largest overlap where none has that room; the first scene twice where
    no two overlap by two pixels). Both crops of an instance show one box; mirror images and pixel values are drawn for
    each by itself. Scenes and boxes are drawn from the generators of views 0 and 1.

    Source: UniVIP, whose text was read second hand; keeping proposals in the last resort, and the resort itself where
    crops hardly overlap, are ours.

    Attributes:
        instances: K.
        find: What the pipelines are given -> (N, 4) int32 proposals, the same for the same image.
    """

    instances: int
    find: Callable[[Any], np.ndarray]

    def __call__(self, sample: Sample, random: ViewRandom) -> list[Sample]:
        """The views of a sample."""
        given = self.given(sample)
        shape = getattr(given, "image", given).shape
        framed = [view(given) for view in self._framed]
        generators = [random(number) for number in range(len(self.pipelines))]
        scenes, boxes = self.draw(given, framed[:SCENES], shape, generators[:SCENES])
        frames = scenes + [
            view.around(box, shape, rng) for view, box, rng in
            zip(framed[SCENES:], [*boxes, *boxes], generators[SCENES:], strict=True)
        ]
        return [
            Sample({self.field: view.look(given, frame, rng)}, sample.meta, sample.id, sample.index)
            for view, frame, rng in zip(framed, frames, generators, strict=True)
        ]

    @cached_property
    def _framed(self) -> list[Callable[[Any], Framed]]:
        return [_framing(pipeline) for pipeline in self.pipelines]

    def draw(
        self, given: Any, scenes: list[Framed], shape: tuple[int, ...], generators: list[np.random.Generator]
    ) -> tuple[list[Any], np.ndarray]:
        """The frames of the two scenes, and the (K, 4) boxes in both."""
        proposals, least, rng = self.find(given), least_side(shape), generators[0]
        tried = []
        for _ in range(TRIES):
            frames = [scene.draw(shape, own) for scene, own in zip(scenes, generators, strict=True)]
            outlines = [scene.outline(frame) for scene, frame in zip(scenes, frames, strict=True)]
            inside = proposals[within(proposals, outlines[0]) & within(proposals, outlines[1])]
            if len(inside) >= self.instances:
                return frames, inside[rng.permutation(len(inside))[: self.instances]]
            tried.append((frames, outlines, inside))
        frames, overlap, inside = _roomiest(tried, shape, least)
        return frames, random_boxes(overlap, inside, self.instances, least, rng)

    @property
    def first(self) -> TrainViews:
        """The first scene alone, drawn once: views of one number, as evaluation trains on."""
        return TrainViews(self.field, self.pipelines[:1], self.least_px)


def _framing(pipeline: ImageView) -> Callable[[Any], Framed]:
    """What is given -> the pipeline as `Framed`; one that has several ways chooses by `framed`."""
    if isinstance(pipeline, Pipeline):
        cropping = Cropping(pipeline)
        return lambda given: cropping
    chosen: Callable[[Any], Framed] = pipeline.framed  # type: ignore[attr-defined]
    return chosen


def _roomiest(
    tried: list[tuple[list[Any], list[np.ndarray], np.ndarray]], shape: tuple[int, ...], least: float
) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Frames, their overlap and the proposals in it, of the last pair with room for a box, or of the roomiest one."""
    most, best = -1.0, None
    for frames, outlines, inside in reversed(tried):
        overlap = _overlap(shape, *outlines)
        space = room(overlap)
        if space > most:
            most, best = space, (frames, overlap, inside)
        if most >= least:
            break
    assert best is not None
    if most < min(LEAST_ROOM, least):
        frames, outlines, inside = tried[-1]
        best = [frames[0], frames[0]], _overlap(shape, outlines[0]), inside
    return best


def _overlap(shape: tuple[int, ...], *outlines: np.ndarray) -> np.ndarray:
    """What outlines share within an image."""
    found = rectangle(0, 0, shape[1], shape[0])
    for outline in outlines:
        found = clipped(found, outline)
    return found
