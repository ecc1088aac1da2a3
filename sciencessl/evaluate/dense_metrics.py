"""Metrics of segmentation: true positive, false positive and false negative pixels, added up over the whole test set.

No mean over images: an image with ten pixels of a class weighs as those ten pixels. Classes of which the test set has
no pixel have no intersection to speak of; they are left out of means over classes, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sciencessl.errors import ConfigError, DataError, unknown_name
from sciencessl.evaluate.sample_scores import ratio_scores

EPSILON = 1e-5
"""Added to every denominator, in pixels (pathology card)."""

IGNORED = 255
"""Value of a pixel that nobody judged."""

DENSE_METRICS = ("mean_iou", "micro_iou", "dice")
"""Names: mean over classes of TP / (TP + FP + FN); the same ratio of sums over classes; mean over classes of
2 TP / (2 TP + FP + FN)."""


def pixel_counts(truth: np.ndarray, told: np.ndarray, n_classes: int) -> np.ndarray:
    """(3, K) int64 true positive, false positive and false negative pixels of one image.

    Args:
        truth: (h, w) class numbers, or `IGNORED`.
        told: (h, w) class numbers.
        n_classes: K.

    Raises:
        DataError: For shapes that do not match.
    """
    if truth.shape != told.shape:
        raise DataError(f"segmentation: truth {truth.shape} and prediction {told.shape} differ in shape.")
    judged = truth != IGNORED
    pairs = truth[judged].astype(np.int64) * n_classes + told[judged]
    confusion = np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
    hits = np.diag(confusion)
    return np.stack([hits, confusion.sum(axis=0) - hits, confusion.sum(axis=1) - hits])


def dense_scores(name: str, counts: np.ndarray) -> np.ndarray:
    """(m,) scores of images whose mean is the metric of all their pixels together (`sample_scores.ratio_scores`).

    So `hierarchical_interval` covers units, whose images may depend on each other in any way.

    Args:
        name: One of `DENSE_METRICS`.
        counts: (m, 3, K) of `pixel_counts`.

    Raises:
        ConfigError: For another name.
        DataError: When no image has a judged pixel.
    """
    if name not in DENSE_METRICS:
        raise ConfigError(unknown_name("metric of segmentation", name, DENSE_METRICS))
    hits, false, missed = counts.astype(np.float64).transpose(1, 0, 2)
    known = np.flatnonzero((hits + missed).sum(axis=0) > 0)
    if not len(known):
        raise DataError(f"segmentation: not one pixel of {len(counts)} images was judged; there is nothing to score.")
    if name == "micro_iou":
        return _ratio(hits.sum(axis=1), (hits + false + missed).sum(axis=1))
    times = 2 if name == "dice" else 1
    each = [_ratio(times * hits[:, c], times * hits[:, c] + false[:, c] + missed[:, c]) for c in known]
    found: np.ndarray = np.mean(each, axis=0)
    return found


def dense_metrics(counts: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Every metric by name, and `iou CLASS` of each class; NaN for one that the test set lacks.

    Args:
        counts: As `dense_scores`.
        classes: K names.

    Raises:
        DataError: As `dense_scores`.
    """
    found = {name: float(dense_scores(name, counts).mean()) for name in DENSE_METRICS}
    hits, false, missed = counts.sum(axis=0, dtype=np.float64)
    each = np.where(hits + missed > 0, hits / (hits + false + missed + EPSILON), np.nan)
    return found | {f"iou {name}": value for name, value in zip(classes, each.tolist(), strict=True)}


def _ratio(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return ratio_scores(values, weights + EPSILON / len(weights))
