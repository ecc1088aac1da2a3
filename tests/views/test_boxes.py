"""Boxes and outlines: inside or not, clipped areas against OpenCV, and random boxes that never fail."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from sciencessl.views.boxes import allowed, clipped, distinct, iou, random_boxes, rectangle, room, within

NONE = np.empty((0, 4), np.int32)


def turned(centre: tuple[float, float], sides: tuple[float, float], degrees: float) -> np.ndarray:
    """An outline as OpenCV draws it, from its own corners."""
    return cv2.boxPoints((centre, sides, degrees)).astype(np.float64)


def area(outline: np.ndarray) -> float:
    return float(cv2.contourArea(outline.astype(np.float32))) if len(outline) > 2 else 0.0


@pytest.mark.parametrize("seed", range(20))
def test_the_overlap_of_turned_windows_has_the_area_that_opencv_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (
        turned(tuple(rng.uniform(0, 100, 2)), tuple(rng.uniform(10, 80, 2)), rng.uniform(0, 360)) for _ in range(2)
    )
    expected = cv2.intersectConvexConvex(one.astype(np.float32), other.astype(np.float32))[0]
    assert area(clipped(one, other)) == pytest.approx(expected, abs=0.05, rel=1e-3)
    assert area(clipped(other[::-1], one)) == pytest.approx(expected, abs=0.05, rel=1e-3)


def test_windows_that_do_not_meet_share_nothing() -> None:
    assert len(clipped(rectangle(0, 0, 5, 5), rectangle(6, 0, 9, 5))) == 0
    touching = clipped(rectangle(0, 0, 5, 5), rectangle(5, 0, 9, 5))
    assert room(touching) == 0
    assert room(np.empty((0, 2))) == 0


def test_a_box_is_inside_up_to_the_edge_and_not_beyond() -> None:
    boxes = np.array([[2, 3, 7, 8], [1, 3, 7, 8], [2, 3, 7, 9], [4, 4, 5, 5]], np.int32)
    for outline in (rectangle(2, 3, 7, 8), rectangle(2, 3, 7, 8)[::-1]):
        assert within(boxes, outline).tolist() == [True, False, False, True]
    diamond = np.array([(5.0, 0.0), (10.0, 5.0), (5.0, 10.0), (0.0, 5.0)])
    boxes = np.array([[3, 3, 7, 7], [2, 3, 8, 7], [2, 2, 8, 8]], np.int32)
    assert within(boxes, diamond).tolist() == [True, True, False]


def test_room_is_that_of_a_square_in_the_middle() -> None:
    assert room(rectangle(0, 0, 8, 4)) == pytest.approx(4)
    assert room(np.array([(5.0, 0.0), (10.0, 5.0), (5.0, 10.0), (0.0, 5.0)])) == pytest.approx(5)


def test_shares_and_shapes_by_hand() -> None:
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4], [0, 0, 4, 2]], np.int32)
    np.testing.assert_allclose(iou(boxes, boxes[0]), [1.0, 8 / 24, 0.0, 0.5])
    assert distinct(boxes, 9).tolist() == [0, 1, 2, 3]  # a half is allowed
    assert distinct(np.array([[0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9]]), 9).tolist() == [0, 2]
    assert distinct(boxes, 2).tolist() == [0, 1]
    shapes = np.array([[0, 0, 9, 3], [0, 0, 10, 3], [0, 0, 3, 9], [0, 0, 2, 6]], np.int32)
    assert allowed(shapes, 3.0).tolist() == [True, False, True, False]


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_random_boxes_lie_inside_and_are_large_and_different_where_there_is_room(count: int, degrees: float) -> None:
    outline = turned((50.0, 40.0), (70.0, 50.0), degrees)
    for seed in range(8):
        boxes = random_boxes(outline, NONE, count, 6.0, np.random.default_rng(seed))
        assert boxes.shape == (count, 4)
        assert boxes.dtype == np.int32
        assert within(boxes, outline).all()
        assert allowed(boxes, 6.0).all()
        assert len(distinct(boxes, count)) == count


def test_boxes_that_are_taken_come_first_and_are_kept_apart_from_the_others() -> None:
    taken = np.array([[10, 10, 40, 40], [50, 12, 60, 30]], np.int32)
    boxes = random_boxes(rectangle(0, 0, 80, 60), taken, 5, 6.0, np.random.default_rng(0))
    assert np.array_equal(boxes[:2], taken)
    assert len(distinct(boxes, 5)) == 5


def test_where_there_is_no_room_smaller_boxes_come_first_and_then_the_same_ones() -> None:
    narrow = rectangle(10, 10, 15, 15)
    boxes = random_boxes(narrow, NONE, 4, 20.0, np.random.default_rng(0))
    assert within(boxes, narrow).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    pixel = random_boxes(rectangle(10.2, 10.3, 10.9, 10.8), NONE, 4, 20.0, np.random.default_rng(0))
    assert pixel.tolist() == [[10, 10, 11, 11]] * 4


def test_random_boxes_are_the_same_for_the_same_generator() -> None:
    outline = turned((50.0, 40.0), (70.0, 50.0), 20.0)
    one, again, other = (random_boxes(outline, NONE, 4, 6.0, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    sides = np.concatenate([random_boxes(outline, NONE, 4, 6.0, np.random.default_rng(s)) for s in range(60)])
    shapes = (sides[:, 2] - sides[:, 0]) / (sides[:, 3] - sides[:, 1])
    assert shapes.max() > 2
    assert shapes.min() < 0.5
    assert abs(np.log(shapes).mean()) < math.log(1.5)
