"""Pipelines as views: one generator a view, samples that keep their identity, and what people are shown."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.samples import Sample
from sciencessl.views.pair import display_rgb, evaluation_views, train_views


def sample(image: np.ndarray) -> Sample:
    return Sample({"image": image, "mask": np.ones(2)}, {"patient": "p"}, "a", 4)


def test_view_v_is_pipeline_v_with_generator_v() -> None:
    def add(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image + rng.integers(1000)

    def subtract(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image - rng.integers(1000)

    image = np.zeros((2, 2, 1))
    views = train_views("image", [add, subtract])(sample(image), lambda v: np.random.default_rng(v + 5))
    drawn = [int(np.random.default_rng(v + 5).integers(1000)) for v in range(2)]
    assert [int(view.fields["image"][0, 0, 0]) for view in views] == [drawn[0], -drawn[1]]
    for view in views:
        assert (view.id, view.index, view.meta) == ("a", 4, {"patient": "p"})
        assert list(view.fields) == ["image"]
    assert image.max() == 0


def test_evaluation_is_one_view_that_draws_nothing() -> None:
    views = evaluation_views("image", lambda image: image * 2)(
        sample(np.ones((2, 2, 1))), lambda v: pytest.fail("drew")
    )
    assert len(views) == 1
    assert np.array_equal(views[0].fields["image"], np.full((2, 2, 1), 2.0))
    assert (views[0].id, views[0].index, views[0].meta) == ("a", 4, {"patient": "p"})


def test_rgb8_is_shown_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(display_rgb("image")(sample(image)), image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_any_channels_are_shown_as_rgb8(channels: int, dtype: str) -> None:
    image = (np.random.default_rng(0).random((9, 6, channels)) * 255).astype(dtype)
    shown = display_rgb("image")(sample(image))
    assert shown.shape == (9, 6, 3)
    assert shown.dtype == np.uint8
    if channels == 1:
        assert np.array_equal(shown[..., 0], shown[..., 2])


def test_flux_is_stretched_between_percentiles() -> None:
    """By hand: asinh(10 s) / asinh(10) of the flux s between its 1st and 99.5th percentile."""
    flux = np.random.default_rng(1).normal(0, 1, (40, 40, 1)).astype(np.float32)
    low, high = np.percentile(flux, (1, 99.5))
    want = 255 * np.arcsinh(10 * ((flux - low) / (high - low)).clip(0, 1)) / np.arcsinh(10)
    shown = display_rgb("image")(sample(flux))[..., :1].astype(float)
    assert np.abs(shown - want).max() <= 0.5001


def test_bands_from_blue_to_red_are_shown_in_reverse() -> None:
    flux = np.zeros((10, 10, 3), np.float32)
    flux[2:5, 2:5, 2] = 1.0  # the reddest band
    shown = display_rgb("image")(sample(flux))
    assert shown[3, 3].tolist() == [255, 0, 0]


def test_missing_and_constant_pixels_are_black() -> None:
    flux = np.random.default_rng(0).random((12, 12, 3), dtype=np.float32)
    flux[4, 4] = np.nan
    flux[5, 5] = np.inf
    shown = display_rgb("image")(sample(flux))
    assert shown[4, 4].tolist() == shown[5, 5].tolist() == [0, 0, 0]
    assert display_rgb("image")(sample(np.full((4, 4, 1), 3.0, np.float32))).max() == 0


@pytest.mark.filterwarnings("error")
def test_an_image_of_nothing_is_black() -> None:
    nothing = np.full((4, 4, 3), np.nan, np.float32)
    assert display_rgb("image")(sample(nothing)).max() == 0
    nothing[..., 0] = np.arange(4)
    assert display_rgb("image")(sample(nothing)).max(axis=(0, 1)).tolist() == [0, 0, 255]
