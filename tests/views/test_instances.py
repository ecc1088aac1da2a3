"""Instances: they lie in both scenes, wherever these are, however they are turned, mirrored and resized."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.data.order import augmentation_rng
from sciencessl.errors import ConfigError
from sciencessl.evaluate.dense_views import dense_views
from sciencessl.registry import load_domain
from sciencessl.samples import Sample
from sciencessl.views.affine import RotatedCrop
from sciencessl.views.boxes import allowed, distinct, random_boxes, rectangle, room, within
from sciencessl.views.instances import TRIES, InstanceViews
from sciencessl.views.operations import CropResize
from sciencessl.views.pair import TrainViews
from sciencessl.views.proposals import least_side
from sciencessl.views.settings import CropViews

DOMAINS = ["galaxy", "pathology", "web"]
K = 4


def made(domain: str, **settings: Any) -> InstanceViews:
    spec = load_domain(domain)
    views: Any = spec.views(spec.train_options(instances=K, **settings))[0]
    return views


def pixels(views: InstanceViews, image: np.ndarray, number: int = 0) -> list[np.ndarray]:
    found = views(Sample({views.field: image}, {}, "a", 0), lambda view: augmentation_rng(0, 0, number, view))
    return [view.fields[views.field] for view in found]


def drawn(views: InstanceViews, image: np.ndarray, number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Outlines of the scenes that training would see, and the boxes of the instances."""
    given = views.given(Sample({views.field: image}, {}, "a", 0))
    scenes = [view(given) for view in views._framed[:2]]
    generators = [augmentation_rng(0, 0, number, view) for view in range(2)]
    frames, boxes = views.draw(given, scenes, image.shape, generators)
    return [scene.outline(frame) for scene, frame in zip(scenes, frames, strict=True)], boxes


def clutter(seed: int, side: int = 120) -> np.ndarray:
    """A picture of twelve discs of different colours."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 90, np.uint8)
    for _ in range(12):
        middle, colour = tuple(rng.integers(10, side - 10, 2).tolist()), rng.integers(0, 256, 3).tolist()
        cv2.circle(image, middle, int(rng.integers(7, 14)), colour, -1)
    return image


@pytest.mark.parametrize("domain", DOMAINS)
def test_instances_follow_the_scenes_twice(domain: str) -> None:
    views, again, other = (pixels(made(domain, size=48, instance_size=16), clutter(0), n) for n in (0, 0, 1))
    assert [view.shape for view in views] == [(48, 48, 3)] * 2 + [(16, 16, 3)] * (2 * K)
    assert all(np.array_equal(a, b) for a, b in zip(views, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(views, other, strict=True))


@pytest.mark.parametrize("domain", DOMAINS)
def test_instances_lie_in_both_scenes_and_in_the_image(domain: str) -> None:
    views, proposed = made(domain), 0
    for number in range(10):
        image = clutter(number)
        outlines, boxes = drawn(views, image, number)
        assert boxes.shape == (K, 4)
        assert all(within(boxes, outline).all() for outline in [*outlines, rectangle(0, 0, 120, 120)])
        assert allowed(boxes, least_side(image.shape)).all()
        assert len(distinct(boxes, K)) == K
        found = {tuple(box) for box in views.find(image).tolist()}
        proposed += sum(tuple(box) in found for box in boxes.tolist())
    assert proposed > 0.6 * 10 * K


COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [240, 240, 20]], np.uint8)
PLACES = np.array([[30, 34, 54, 58], [62, 30, 92, 52], [34, 66, 50, 92], [60, 62, 90, 88]], np.int32)


def marked() -> np.ndarray:
    """Four rectangles of a colour each around the middle of a grey picture."""
    image = np.full((120, 120, 3), 128, np.uint8)
    for (left, top, right, bottom), colour in zip(PLACES, COLOURS, strict=True):
        image[top:bottom, left:right] = colour
    return image


def share(view: np.ndarray, colour: np.ndarray) -> float:
    return float((np.abs(view.astype(int) - colour).max(axis=2) < 60).mean())


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_painted_object_is_in_both_scenes_and_fills_its_instance_however_it_is_mirrored_and_turned(
    domain: str
) -> None:
    """Known boxes as proposals, so that each instance has one colour; in the scenes its area tells their scale."""
    views = made(domain, size=96, instance_size=24, plain=True, area=(0.5, 0.9))
    views = type(views)(views.field, views.pipelines, views.least_px, K, lambda given: PLACES)
    for number in range(8):
        outlines, boxes = drawn(views, marked(), number)
        scenes = pixels(views, marked(), number)
        for k, box in enumerate(boxes):
            colour = COLOURS[int((box == PLACES).all(axis=1).argmax())]
            for copy in (scenes[2 + k], scenes[2 + K + k]):
                assert share(copy[2:-2, 2:-2], colour) == 1.0
            for scene, outline in zip(scenes[:2], outlines, strict=True):
                window = cv2.contourArea(outline.astype(np.float32))
                expected = (box[2] - box[0]) * (box[3] - box[1]) / window
                assert share(scene, colour) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("crop", [CropResize(40), RotatedCrop(40, (0.1, 0.3), (0.5, 2.0))])
def test_outlines_are_where_a_crop_looks_and_a_crop_around_a_box_shows_it_alone(crop: Any) -> None:
    """Ramps tell the place of each pixel: the mean of a view is the middle of its window, and its ends the sides."""
    ramp = np.zeros((200, 200, 3), np.float32)
    ramp[..., 0], ramp[..., 1] = np.arange(200) + 0.5, np.arange(200)[:, None] + 0.5
    rng, seen = np.random.default_rng(0), 0
    for frame in (crop.draw(200, 200, rng) for _ in range(40)):
        outline = crop.outline(**frame)
        if outline.min() >= 0 and outline.max() <= 200:  # else it sees reflections
            middle = crop.apply(ramp, **frame)[..., :2].mean(axis=(0, 1))
            np.testing.assert_allclose(middle, outline.mean(axis=0), atol=0.6)
            seen += 1
    assert seen > 5
    for box in PLACES:
        view = crop.apply(ramp, **crop.around(box, rng))[..., :2]
        (left, top, right, bottom), low, high = box, view.min(axis=(0, 1)), view.max(axis=(0, 1))
        np.testing.assert_allclose([*low, *high], [left, top, right, bottom], atol=1.0)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 90, 3), (33, 20, 1), (32, 32, 3)])
def test_flat_and_tiny_images_have_instances_too(domain: str, shape: tuple[int, int, int]) -> None:
    for area in ((0.01, 0.02), (0.3, 1.0)):
        found = pixels(made(domain, area=area, instance_size=16, plain=True), np.full(shape, 99, np.uint8))
        assert len(found) == 2 + 2 * K
        assert all(view.shape[:2] == (16, 16) for view in found[2:])


def test_scenes_that_never_meet_become_one_scene() -> None:
    views, image = made("web", area=(0.01, 0.01)), np.full((200, 200, 3), 99, np.uint8)
    for number in range(10):
        (first, second), boxes = drawn(views, image, number)
        assert within(boxes, first).all()
        assert within(boxes, second).all()
        assert np.array_equal(first, second) or room(first) > 2


def test_scenes_are_drawn_anew_until_enough_proposals_are_in_both_and_then_no_more() -> None:
    views, asked = made("web"), []

    class Counting:
        def __init__(self, own: Any) -> None:
            self.own = own
            self.outline = own.outline

        def draw(self, *given: Any) -> Any:
            asked.append(given)
            return self.own.draw(*given)

    def count(boxes: np.ndarray) -> int:
        asked.clear()
        found = type(views)(views.field, views.pipelines, views.least_px, K, lambda given: boxes)
        scenes: Any = [Counting(view(None)) for view in views._framed[:2]]
        generators = [augmentation_rng(0, 0, 0, view) for view in range(2)]
        found.draw(np.empty(0), scenes, (120, 120, 3), generators)
        return len(asked) // 2

    assert count(PLACES[:0]) == TRIES
    assert count(PLACES[:3]) == TRIES
    many = random_boxes(rectangle(0, 0, 120, 120), PLACES, 60, 15.0, np.random.default_rng(0))
    assert count(many) < TRIES


@pytest.mark.parametrize("domain", ["pathology", "web"])
def test_both_copies_of_an_instance_have_colours_of_their_own_and_those_of_the_first_view(domain: str) -> None:
    views: Any = made(domain, instance_size=64)
    steps = [[(type(step).__name__, step.p) for step in pipeline.transforms] for pipeline in views.pipelines]
    assert all(found == steps[0] for found in steps[2:])
    found = pixels(views, clutter(0))
    assert not any(np.array_equal(found[2 + k], found[2 + K + k]) for k in range(K))


@pytest.mark.parametrize("domain", DOMAINS)
def test_evaluation_trains_on_the_first_scene_alone(domain: str) -> None:
    spec = load_domain(domain)
    views: Any = spec.views(spec.train_options(instances=K))[0].first
    assert type(views) is (TrainViews if domain != "galaxy" else type(spec.views(spec.train_options())[0]))
    assert len(pixels(views, clutter(0))) == 1
    if domain != "galaxy":
        dense = dense_views(spec.views, spec.primary, None, spec.train_options(instances=K))[1]
        assert dense.size == 64


def test_images_are_decoded_large_enough_for_the_smallest_box() -> None:
    views = made("web", size=16, area=(0.9, 1.0), instance_size=48)
    assert views.least_px == {views.field: 48 * 8}


@pytest.mark.parametrize("large", [1, 3])
def test_instances_need_two_large_views(large: int) -> None:
    with pytest.raises(ConfigError, match=rf"views\.instances is 4 and views\.large_views {large}; .*large_views 2"):
        CropViews(instances=4, large_views=large)


def test_small_views_are_never_taken_for_instances() -> None:
    """Two instances twice and four small views of one size are as many as four instances twice."""
    with pytest.raises(ConfigError, match=r"views\.instances is 2 and views\.small_views 4; .*small_views 0, or"):
        CropViews(instances=2, small_views=4)
