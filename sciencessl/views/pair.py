"""Pipelines as a domain's views: the primary field through one pipeline a view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from sciencessl.samples import Sample
from sciencessl.spec import View, ViewRandom

ImageView = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def train_views(field: str, pipelines: Sequence[ImageView]) -> View:
    """View number v of a sample is pipeline v on its field, drawing from generator v."""

    def make(sample: Sample, random: ViewRandom) -> list[Sample]:
        image = sample.fields[field]
        return [
            Sample({field: pipeline(image, random(number))}, sample.meta, sample.id, sample.index)
            for number, pipeline in enumerate(pipelines)
        ]

    return make


def evaluation_views(field: str, pipeline: Callable[[np.ndarray], np.ndarray]) -> View:
    """One view without randomness."""

    def make(sample: Sample, random: ViewRandom) -> list[Sample]:
        return [Sample({field: pipeline(sample.fields[field])}, sample.meta, sample.id, sample.index)]

    return make


def display_rgb(field: str) -> Callable[[Sample], np.ndarray]:
    """Sample -> (H, W, 3) uint8, as a function that travels to other processes. Float fields are shown through asinh
    between their 1st and 99.5th percentile, per channel; more than three channels show the first three, in reverse so
    that red is the longest wavelength."""
    return partial(_show, field)


def _show(field: str, sample: Sample) -> np.ndarray:
    image = sample.fields[field]
    if image.dtype != np.uint8:
        image = _stretched(image[..., ::-1] if image.shape[2] > 1 else image)
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] == 2:
        image = np.stack([image[..., 0], image.mean(axis=2).astype(np.uint8), image[..., 1]], axis=2)
    return np.ascontiguousarray(image[..., :3] if image.shape[2] <= 3 else image[..., -3:])


def _stretched(image: np.ndarray) -> np.ndarray:
    known = np.isfinite(image)
    # A band without any value is black, which zeros are.
    finite = np.where(known, image, np.where(known.any(axis=(0, 1)), np.nan, 0.0))
    low, high = np.nanpercentile(finite, (1.0, 99.5), axis=(0, 1))
    scaled = np.nan_to_num((finite - low) / np.maximum(high - low, 1e-12), nan=0.0).clip(0.0, 1.0)
    shown: np.ndarray = (255 * np.arcsinh(10 * scaled) / np.arcsinh(10.0)).round().astype(np.uint8)
    return shown
