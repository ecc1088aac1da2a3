from __future__ import annotations

import itertools
from functools import cache

import cv2
import numpy as np
import pytest

from sciencessl.data.order import augmentation_rng
from sciencessl.errors import ConfigError, DataError
from sciencessl.views.byol import CropSettings, PhotometricSettings, byol_views, evaluation_view

DRAWS = 20_000
OPERATIONS = ("crop", "flip", "jitter", "greyscale", "blur", "solarise")
RATES = {
    0: {"crop": 1.0, "flip": 0.5, "jitter": 0.8, "greyscale": 0.2, "blur": 1.0, "solarise": 0.0},
    1: {"crop": 1.0, "flip": 0.5, "jitter": 0.8, "greyscale": 0.2, "blur": 0.1, "solarise": 0.2},
}


@cache
def applied(which: int) -> np.ndarray:
    """(DRAWS, 6) bool: which operations were applied, drawn exactly as in training; pixels are 8 x 8."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    view = byol_views(8)[which]
    flags = np.zeros((DRAWS, len(OPERATIONS)), dtype=bool)
    for i in range(DRAWS):
        view(image, augmentation_rng(seed=0, epoch=0, index_or_key=i, view=which))
        flags[i] = [bool(transform.params) for transform in view.transforms]
    return flags


def assert_rate(hits: np.ndarray, rate: float) -> None:
    assert abs(hits.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / hits.size)


@pytest.mark.parametrize("which", [0, 1])
def test_operations_stand_in_the_order_of_the_card(which: int) -> None:
    names = [type(transform).__name__ for transform in byol_views(64)[which].transforms]
    assert names == ["CropResize", "HorizontalFlip", "ByolColourJitter", "Greyscale", "GaussianBlur", "Solarise"]
    assert byol_views(224)[which].transforms[4].kernel == 23
    jitter = byol_views(224)[which].transforms[2]
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4, 0.4, 0.2, 0.1)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_rates(which: int, operation: str) -> None:
    assert_rate(applied(which)[:, OPERATIONS.index(operation)], RATES[which][operation])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("pair", list(itertools.combinations(OPERATIONS, 2)))
def test_joint_rates_are_those_of_independent_draws(which: int, pair: tuple[str, str]) -> None:
    flags = applied(which)
    both = flags[:, OPERATIONS.index(pair[0])] & flags[:, OPERATIONS.index(pair[1])]
    assert_rate(both, RATES[which][pair[0]] * RATES[which][pair[1]])


def test_greyscale_and_solarise_meet_in_four_of_a_hundred_second_views() -> None:
    flags = applied(1)
    both = (flags[:, OPERATIONS.index("greyscale")] & flags[:, OPERATIONS.index("solarise")]).mean()
    assert 0.034 < both < 0.046


def test_the_views_of_one_sample_are_independent() -> None:
    first, second = applied(0), applied(1)
    for name in ("flip", "jitter", "greyscale"):
        i = OPERATIONS.index(name)
        assert_rate(first[:, i] & second[:, i], RATES[0][name] * RATES[1][name])


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_any_number_of_channels_and_both_dtypes(channels: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((50, 40, channels), dtype=np.float32)
    image = (image * 255).astype(np.uint8) if dtype == "uint8" else image
    views = byol_views(16, PhotometricSettings(value_range=(0.0, 1.0)))
    for i in range(60):
        for which, view in enumerate(views):
            got = view(image, augmentation_rng(0, 0, i, which))
            assert got.shape == (16, 16, channels)
            assert got.dtype == image.dtype
            assert got.flags.c_contiguous
            if dtype == "float32":
                assert got.min() >= 0
                assert got.max() <= 1


def test_float_images_without_range_pass_where_nothing_needs_one() -> None:
    image = np.random.default_rng(0).normal(0, 50, (40, 40, 5)).astype(np.float32)
    with pytest.raises(DataError, match="value_range"):
        byol_views(16, PhotometricSettings(jitter=1.0))[0](image, np.random.default_rng(0))
    calm = PhotometricSettings(brightness=0.0, solarise=(0.0, 0.0))
    for view in byol_views(16, calm):
        assert view(image, np.random.default_rng(0)).min() < -1


@pytest.mark.parametrize(("height", "width", "size"), [(100, 160, 64), (480, 300, 224), (20, 30, 64), (73, 73, 64)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_evaluation_view(height: int, width: int, size: int, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    got = evaluation_view(size)(image, np.random.default_rng(0))
    shorter = round(size * 256 / 224)
    target = (round(width * shorter / min(height, width)), round(height * shorter / min(height, width)))
    how = cv2.INTER_AREA if min(height, width) > shorter else cv2.INTER_CUBIC
    if (width, height) == target:
        whole = image
    else:
        planes = [cv2.resize(np.ascontiguousarray(image[..., c]), target, interpolation=how) for c in range(channels)]
        whole = np.stack(planes, -1)
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    assert got.shape == (size, size, channels)
    assert np.array_equal(got, whole[top : top + size, left : left + size])
    assert np.array_equal(evaluation_view(size)(image, np.random.default_rng(9)), got)


def test_evaluation_view_does_not_alias() -> None:
    stripes = np.zeros((256, 256, 1), np.uint8)
    stripes[:, ::4] = 255
    got = evaluation_view(64, shorter_side=64)(stripes, np.random.default_rng(0))
    assert np.abs(got.astype(int) - 64).max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"jitter": 1.1}, {"blur": (1.0, -0.1)}, {"solarise": (0.0, 2.0)}, {"hue": 0.6}, {"sigma": (0.0, 1.0)},
        {"sigma": (2.0, 1.0)}, {"value_range": (1.0, 1.0)}, {"value_range": (0.0, float("inf"))}, {"threshold": 2.0},
    ],
)  # fmt: skip
def test_photometric_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"photometric.{next(iter(wrong))}"):
        PhotometricSettings(**wrong)


def test_crop_and_size_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"crop\.area"):
        CropSettings(area=(0.5, 0.2))
    with pytest.raises(ConfigError, match=r"crop\.area.*exceed 1"):
        CropSettings(area=(0.5, 1.2))
    with pytest.raises(ConfigError, match=r"crop\.aspect"):
        CropSettings(aspect=(0.0, 1.0))
    with pytest.raises(ConfigError, match="size=0"):
        byol_views(0)
    with pytest.raises(ConfigError, match=r"flip=1\.5"):
        byol_views(8, flip=1.5)
    with pytest.raises(ConfigError, match="shorter_side=60"):
        evaluation_view(64, shorter_side=60)
