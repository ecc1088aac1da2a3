"""Metrics of segmentation: worked numbers, accumulation over the test set, intervals by unit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, jaccard_score

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.dense_metrics import DENSE_METRICS, dense_metrics, dense_scores, pixel_counts
from sciencessl.evaluate.statistics import hierarchical_interval

WORKED = np.array([[[50, 10], [5, 20], [20, 5]]])


def test_the_worked_numbers_of_the_pathology_card() -> None:
    found = dense_metrics(WORKED, ("a", "b"))
    assert found["iou a"] == pytest.approx(0.666667, abs=1e-6)
    assert found["iou b"] == pytest.approx(0.285714, abs=1e-6)
    assert found["mean_iou"] == pytest.approx(0.476190, abs=1e-6)
    assert found["micro_iou"] == pytest.approx(0.545455, abs=1e-6)
    assert found["dice"] == pytest.approx((100 / 125 + 20 / 45) / 2, abs=1e-6)


def test_pixels_are_counted_as_scikit_learn_does_over_all_images_together() -> None:
    rng = np.random.default_rng(0)
    truth, told = rng.integers(0, 3, (2, 5, 8, 8)).astype(np.uint8)
    counts = np.stack([pixel_counts(*pair, 3) for pair in zip(truth, told, strict=True)])
    found, flat = dense_metrics(counts, ("a", "b", "c")), (truth.ravel(), told.ravel())
    assert found["mean_iou"] == pytest.approx(jaccard_score(*flat, average="macro"), abs=1e-6)
    assert found["micro_iou"] == pytest.approx(jaccard_score(*flat, average="micro"), abs=1e-6)
    assert found["dice"] == pytest.approx(f1_score(*flat, average="macro"), abs=1e-6)
    # A defect elsewhere: a mean over images weighs an image with one pixel of a class as one full of it.
    each = np.mean([jaccard_score(a.ravel(), b.ravel(), average="macro") for a, b in zip(truth, told, strict=True)])
    assert abs(each - found["mean_iou"]) > 1e-4


def test_pixels_that_nobody_judged_count_for_nothing() -> None:
    truth = np.array([[0, 1], [255, 255]], np.uint8)
    assert pixel_counts(truth, np.array([[0, 0], [1, 0]]), 2).tolist() == [[1, 0], [1, 0], [0, 1]]


def test_a_class_that_the_test_lacks_is_left_out_of_means() -> None:
    """Its false positives are false negatives of others, so that they still cost."""
    counts = np.array([[[50, 10, 0], [5, 20, 0], [20, 5, 0]]])
    found = dense_metrics(counts, ("a", "b", "c"))
    assert np.isnan(found["iou c"])
    assert found["mean_iou"] == pytest.approx(0.476190, abs=1e-6)
    counts[0, 1, 2] = 7
    assert dense_metrics(counts, ("a", "b", "c"))["mean_iou"] == pytest.approx(0.476190, abs=1e-6)


@pytest.mark.parametrize("name", DENSE_METRICS)
def test_the_mean_of_the_scores_is_the_metric_and_leaving_an_image_out_moves_it_as_they_say(name: str) -> None:
    counts = np.random.default_rng(1).integers(1, 100, (200, 3, 4))
    scores = dense_scores(name, counts)
    whole = dense_scores(name, counts.sum(axis=0, keepdims=True)).mean()
    assert scores.mean() == pytest.approx(whole, abs=1e-9)
    left = [dense_scores(name, np.delete(counts, i, axis=0)).mean() for i in range(20)]
    assert (whole - np.array(left)) * 199 == pytest.approx((scores - whole)[:20], rel=0.03, abs=2e-4)


def test_the_interval_covers_by_unit() -> None:
    """30 patients of 4 images each that are alike: counts of a patient share its difficulty."""
    rng = np.random.default_rng(2)
    units, hit = np.repeat(np.arange(30), 4), 0
    truth = _expected()
    for _ in range(400):
        counts = _images(rng, 30, 4)
        interval = hierarchical_interval(dense_scores("mean_iou", counts), units)
        hit += interval.low <= truth <= interval.high
    low, high = stats.binom.ppf([0.001, 0.999], 400, 0.95) / 400
    assert low - 0.02 <= hit / 400 <= high


def _images(rng: np.random.Generator, patients: int, images: int) -> np.ndarray:
    recall = np.repeat(rng.beta(6, 3, patients), images)
    positive = rng.integers(100, 900, patients * images)
    hits = rng.binomial(positive, recall)
    false = rng.binomial(1000 - positive, 0.1)
    return np.stack([[1000 - positive - false, hits], [positive - hits, false], [false, positive - hits]]
                    ).transpose(2, 0, 1)


def _expected() -> float:
    many = _images(np.random.default_rng(3), 200_000, 1)
    return float(dense_scores("mean_iou", many).mean())


def test_what_cannot_be_scored_is_said() -> None:
    with pytest.raises(ConfigError, match="no metric of segmentation named 'iou'"):
        dense_scores("iou", WORKED)
    with pytest.raises(DataError, match="not one pixel of 2 images was judged"):
        dense_scores("dice", np.zeros((2, 3, 2)))
    with pytest.raises(DataError, match=r"truth \(2, 2\) and prediction \(3, 3\) differ"):
        pixel_counts(np.zeros((2, 2), np.uint8), np.zeros((3, 3)), 2)
