"""What a picture shows: closed forms of entropy, sharpness and the share of one colour."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sciencessl.data_prep import picture_quality as quality

RNG = np.random.default_rng(0)


def halves(share: float, low: int, high: int, side: int = 64) -> np.ndarray:
    """A share of the columns has one value, the rest the other."""
    out = np.full((side, side), low, np.uint8)
    out[:, round(side * share) :] = high
    return out


def test_entropy_of_histograms_worked_by_hand() -> None:
    assert quality.entropy(np.full((9, 9), 77, np.uint8)) == 0
    assert quality.entropy(halves(0.5, 10, 200)) == 1
    # -(3/4 log2 3/4 + 1/4 log2 1/4) = 2 - 3/4 log2 3
    assert quality.entropy(halves(0.75, 10, 200)) == pytest.approx(2 - 0.75 * np.log2(3))
    assert quality.entropy(np.arange(256, dtype=np.uint8).reshape(16, 16)) == 8


def test_entropy_is_that_of_an_independent_sum_and_asks_not_where_pixels_are() -> None:
    grey = RNG.normal(120, 30, (80, 100)).clip(0, 255).astype(np.uint8)
    counts = [int((grey == value).sum()) for value in range(256)]
    expected = -sum(count / grey.size * np.log2(count / grey.size) for count in counts if count)
    assert quality.entropy(grey) == pytest.approx(expected)
    assert quality.entropy(RNG.permuted(grey.ravel()).reshape(grey.shape)) == pytest.approx(expected)


def test_sharpness_of_a_chessboard_is_four_times_its_contrast() -> None:
    board = (np.indices((50, 50)).sum(axis=0) % 2 * 30).astype(np.uint8)
    inside = board[1:-1, 1:-1].astype(float)
    np.testing.assert_allclose(quality.sharpness(board), 120, rtol=1e-3)
    assert set(np.unique(inside)) == {0, 30}


def test_one_value_and_even_slopes_are_not_sharp() -> None:
    assert quality.sharpness(np.full((40, 60), 9, np.uint8)) == 0
    slope = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    bent = quality.sharpness(slope)
    assert bent < 0.25  # the mirrored border alone


def test_sharpness_is_an_independent_sum_of_neighbours() -> None:
    grey = RNG.integers(0, 256, (30, 40), dtype=np.uint8)
    wide = np.pad(grey.astype(float), 1, mode="reflect")
    bent = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * wide[1:-1, 1:-1]
    assert quality.sharpness(grey) == pytest.approx(bent.std())


def test_blurring_lowers_sharpness_and_resolution_hardly_changes_it() -> None:
    texture = cv2.resize(RNG.integers(0, 256, (128, 128), dtype=np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC)
    blurred = [quality.sharpness(cv2.GaussianBlur(texture, (0, 0), sigma)) for sigma in (1, 2, 4, 8)]
    assert blurred == sorted(blurred, reverse=True)
    assert quality.sharpness(cv2.resize(texture, (1024, 1024))) == pytest.approx(quality.sharpness(texture), rel=0.1)


def test_share_of_one_colour() -> None:
    assert quality.one_colour(np.full((33, 20, 3), 7, np.uint8)) == 1
    assert quality.one_colour(halves(0.75, 10, 200)) == 0.75
    coloured = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    coloured[:, :32] = 255
    assert quality.one_colour(coloured) == pytest.approx(0.5, abs=0.01)


def test_colours_within_eight_levels_are_one_and_beyond_are_two() -> None:
    assert quality.one_colour(halves(0.5, 16, 23)) == 1
    assert quality.one_colour(halves(0.5, 16, 24)) == 0.5
    three = np.stack([halves(0.5, 16, 24), np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)], axis=2)
    assert quality.one_colour(three) == 0.5


@pytest.mark.parametrize("shape", [(2000, 600, 3), (40, 9000, 3), (9000, 40, 3), (1, 1, 3), (700, 900)])
def test_large_pictures_are_sampled_fairly(shape: tuple[int, ...]) -> None:
    pixels = np.zeros(shape, np.uint8)
    pixels[: shape[0] // 2] = 255
    # Every n-th row: the border between the halves is met within one of the rows looked at.
    assert quality.one_colour(pixels) == pytest.approx(max(0.5, 1 / shape[0]), abs=1 / quality.ENOUGH_ROWS)
    assert quality.entropy(quality.to_grey(pixels)) == pytest.approx(float(shape[0] > 1), abs=0.01)


def test_grey_is_luma() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_array_equal(quality.to_grey(colours), [[76, 150, 29]])
    grey = colours[..., 0]
    assert quality.to_grey(grey) is grey
