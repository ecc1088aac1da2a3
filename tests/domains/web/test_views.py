"""Views of photos: BYOL's pair with BYOL's rates, and the centre crop for evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sciencessl.data.order import augmentation_rng
from sciencessl.domains.web import SPEC
from sciencessl.domains.web.views import FIELD, WebViews, web_views
from sciencessl.errors import ConfigError
from sciencessl.samples import Sample
from sciencessl.views.pipeline import Pipeline

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
NAMES = ["CropResize", "HorizontalFlip", "ByolColourJitter", "Greyscale", "GaussianBlur", "Solarise"]
RATES = [(1.0, 0.5, 0.8, 0.2, 1.0, 0.0), (1.0, 0.5, 0.8, 0.2, 0.1, 0.2)]
"""Table 6 of arXiv 2006.07733, for the first and the second view."""


@pytest.fixture(scope="module")
def flags(applied: Callable[..., Any]) -> tuple[list[str], np.ndarray]:
    names, found = applied(SPEC, WebViews(size=8), IMAGE)
    return names, found


def test_operations_and_their_rates(flags: tuple[list[str], np.ndarray], has_rate: Callable[..., bool]) -> None:
    names, found = flags
    assert names == NAMES
    for view, i in itertools.product(range(2), range(len(NAMES))):
        assert has_rate(found[view, :, i], RATES[view][i]), (view, NAMES[i])


def test_swav_changes_pixels_of_all_views_alike(has_rate: Callable[..., bool]) -> None:
    """The rates of SwAV's released code; the two kinds of view differ in size and area alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sciencessl.views.pair.train_views", lambda field, pipelines, least_px: pipelines)
        made: Any = web_views(WebViews(size=16, colour="swav", small_views=1, small_size=8))[0]
    rates = (1.0, 0.5, 0.8, 0.2, 0.5, 0.0)
    hits = np.zeros((3, 1500, len(rates)), bool)
    for view, pipeline in enumerate(made):
        for i in range(hits.shape[1]):
            pipeline(IMAGE, augmentation_rng(0, 0, i, view))
            hits[view, i] = [bool(transform.params) for transform in pipeline.transforms]
    for view, i in itertools.product(range(3), range(len(rates))):
        assert has_rate(hits[view, :, i], rates[i]), (view, NAMES[i])
    jitter = made[2].transforms[2]
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4, 0.8, 0.8, 0.2)


def test_weaker_views_change_colours_by_a_share_and_blur_by_another(has_rate: Callable[..., bool]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sciencessl.views.pair.train_views", lambda field, pipelines, least_px: pipelines)
        made: Any = web_views(WebViews(size=8, strength=0.25, blur=0.5))[0]
    hits = np.zeros((2, 1500, len(NAMES)), bool)
    for view, pipeline in enumerate(made):
        jitter = pipeline.transforms[2]
        assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.1, 0.1, 0.05, 0.025)
        for i in range(hits.shape[1]):
            pipeline(IMAGE, augmentation_rng(0, 0, i, view))
            hits[view, i] = [bool(transform.params) for transform in pipeline.transforms]
    for view, rates in enumerate([(1.0, 0.5, 0.8, 0.05, 0.5, 0.0), (1.0, 0.5, 0.8, 0.05, 0.05, 0.05)]):
        for i, rate in enumerate(rates):
            assert has_rate(hits[view, :, i], rate), (view, NAMES[i])


def test_operations_are_independent_within_and_between_views(
    flags: tuple[list[str], np.ndarray], has_rate: Callable[..., bool]
) -> None:
    _, found = flags
    for view, (i, j) in itertools.product(range(2), itertools.combinations(range(len(NAMES)), 2)):
        assert has_rate(found[view, :, i] & found[view, :, j], RATES[view][i] * RATES[view][j]), (NAMES[i], NAMES[j])
    for i in range(len(NAMES)):
        assert has_rate(found[0, :, i] & found[1, :, i], RATES[0][i] * RATES[1][i]), NAMES[i]


@pytest.mark.parametrize("shape", [(96, 96, 3), (200, 110, 3), (20, 31, 3)])
def test_sizes_and_determinism(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    photo = Sample({FIELD: image}, {}, "p", 0)
    train, evaluate = web_views(WebViews(size=32))
    one, two = (train(photo, lambda view: augmentation_rng(0, 0, 1, view)) for _ in range(2))
    assert [view.fields[FIELD].shape for view in one] == [(32, 32, 3)] * 2
    assert all(np.array_equal(a.fields[FIELD], b.fields[FIELD]) for a, b in zip(one, two, strict=True))
    first, again = (evaluate(photo, lambda view: pytest.fail("evaluation draws"))[0].fields[FIELD] for _ in range(2))
    assert first.shape == (32, 32, 3)
    assert np.array_equal(first, again)


def test_crops_have_the_area_that_was_asked_for() -> None:
    gradient = np.zeros((200, 200, 3), np.uint8)
    gradient[:, :, 0] = np.arange(200)
    gradient[:, :, 1] = np.arange(200)[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sciencessl.views.pair.train_views", lambda field, pipelines, least_px: pipelines)
        made: Any = web_views(WebViews(size=64, area=(0.25, 0.25)))[0]
    crop = Pipeline(made[0].transforms[:1])
    for seed in range(20):
        view = crop(gradient, np.random.default_rng(seed)).astype(int)
        area = np.ptp(view[..., 0]) * np.ptp(view[..., 1])
        assert 0.22 * 200 * 200 < area < 0.27 * 200 * 200


@pytest.mark.parametrize("wrong", [{"size": 4}, {"area": (0.5, 0.2)}, {"area": (0.1, 1.2)}, {"small_views": -1},
                                   {"small_size": 4}, {"small_area": (0.0, 0.1)}, {"strength": 1.5}, {"blur": -0.1}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"views\.{next(iter(wrong))} is "):
        WebViews(**wrong)
