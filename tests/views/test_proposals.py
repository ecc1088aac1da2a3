"""Proposals: what is painted is found, the same each time, in pictures of any kind and size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sciencessl.views.boxes import allowed, distinct, iou
from sciencessl.views.proposals import least_side, level_boxes, picture_boxes


def painted(seed: int, side: int = 200, objects: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A picture of smooth clutter with ellipses of one colour each, and the boxes of these."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.normal(0, 60, (side, side, 3)).astype(np.float32), (0, 0), 3)
    image, boxes = 120 + 2 * ground, np.empty((0, 4), np.int64)
    while len(boxes) < objects:
        width, height = rng.integers(side // 7, side // 3, 2)
        left, top = rng.integers(0, side - width), rng.integers(0, side - height)
        box = np.array([left, top, left + width, top + height])
        if not len(boxes) or iou(boxes, box).max() == 0:
            middle = (int(left + width / 2), int(top + height / 2))
            colour = rng.integers(0, 256, 3).tolist()
            cv2.ellipse(image, middle, (int(width / 2), int(height / 2)), 0, 0, 360, colour, -1)
            boxes = np.vstack([boxes, box])
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8), boxes


def test_most_of_what_is_painted_is_found() -> None:
    best = [iou(picture_boxes(image), box).max() for image, boxes in map(painted, range(8)) for box in boxes]
    assert np.mean(np.array(best) > 0.5) > 0.85
    assert np.mean(best) > 0.65


@pytest.mark.parametrize("shape", [(200, 200, 3), (64, 48, 1), (90, 300, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_boxes_are_of_allowed_shapes_and_hardly_overlap(shape: tuple[int, int, int], dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    boxes = picture_boxes(image)
    assert len(boxes) > 3
    assert boxes.dtype == np.int32
    assert allowed(boxes, least_side(shape)).all()
    assert len(distinct(boxes, 99)) == len(boxes)
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= (shape[1], shape[0])).all()


def test_the_same_image_has_the_same_boxes_and_is_left_alone() -> None:
    image, _ = painted(0)
    before = image.copy()
    assert np.array_equal(picture_boxes(image), picture_boxes(image))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 300, 3), (32, 32, 3), (200, 200, 1)])
def test_a_flat_picture_has_none(shape: tuple[int, int, int]) -> None:
    assert picture_boxes(np.full(shape, 77, np.uint8)).shape == (0, 4)


def test_maps_of_any_scale_have_the_same_boxes() -> None:
    one = np.zeros((32, 32), np.float32)
    one[8:18, 10:22] = 1
    expected = level_boxes([one], [[0.5]], one.shape)
    assert expected.tolist() == [[10, 8, 22, 18]]
    for scale in (1e-30, 1e30):
        scaled = one * np.float32(scale)
        assert np.array_equal(level_boxes([scaled], [[0.5 * scale]], one.shape), expected)


def test_boxes_grow_with_the_picture() -> None:
    image, _ = painted(3, side=128)
    twice = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)
    assert np.array_equal(2 * picture_boxes(image), picture_boxes(twice))


@pytest.mark.parametrize(("shape", "least"), [((480, 640), 60.0), ((64, 64), 8.0), ((32, 40), 8.0), ((10, 90), 5.0),
                                              ((1, 1), 1.0)])
def test_the_shortest_side_is_an_eighth_and_of_small_pictures_eight_pixels(
    shape: tuple[int, int], least: float
) -> None:
    assert least_side(shape) == least
