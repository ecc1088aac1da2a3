"""One resampling for rotation, crop and flips: against exact array operations and an independent resampling."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from sciencessl.data.order import augmentation_rng
from sciencessl.views.affine import RotatedCrop, centre_window
from sciencessl.views.pipeline import Pipeline

DRAWS = 4000
UPRIGHT: dict[str, Any] = {"angle": 0.0, "mirror": (False, False)}


def noise(height: int, width: int, channels: int = 3, dtype: str = "float32") -> np.ndarray:
    image = np.random.default_rng(0).random((height, width, channels), dtype=np.float32)
    return (image * 255).astype(np.uint8) if dtype == "uint8" else image


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    planes = [np.sin(0.11 * x + 0.3) + 0.02 * y, np.cos(0.09 * y) * np.sin(0.07 * x), 0.01 * x + 0.1 * np.cos(0.1 * y)]
    return np.stack(planes, -1).astype(np.float32)


def reference(
    image: np.ndarray, size: int, window: tuple[float, float], centre: tuple[float, float], angle: float,
    mirror: tuple[bool, bool],
) -> np.ndarray:
    """The same view by scipy: a point at (u, v) of the result, from its middle in units of its side, is that of the
    window at (+-u * width, +-v * height), turned by the angle about the window's centre."""
    v, u = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    along = u * window[0] * (-1 if mirror[0] else 1), v * window[1] * (-1 if mirror[1] else 1)
    x = centre[0] + along[0] * math.cos(angle) - along[1] * math.sin(angle)
    y = centre[1] + along[0] * math.sin(angle) + along[1] * math.cos(angle)
    planes = [
        ndimage.map_coordinates(image[..., c], [y - 0.5, x - 0.5], order=1, mode="mirror")
        for c in range(image.shape[2])
    ]
    return np.stack(planes, -1)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_whole_image_is_itself(channels: int, dtype: str) -> None:
    image = noise(24, 24, channels, dtype)
    got = RotatedCrop(24, (1, 1)).apply(image, window=(24, 24), centre=(12, 12), **UPRIGHT)
    assert got.dtype == image.dtype
    assert np.array_equal(got, image)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_quarter_turns_are_exact(turns: int, dtype: str) -> None:
    image = noise(21, 21, 5, dtype)
    crop = RotatedCrop(21, (1, 1))
    got = crop.apply(image, window=(21, 21), centre=(10.5, 10.5), angle=turns * math.pi / 2, mirror=(False, False))
    assert np.array_equal(got, np.rot90(image, turns))


@pytest.mark.parametrize("mirror", [(True, False), (False, True), (True, True)])
def test_flips_are_exact(mirror: tuple[bool, bool]) -> None:
    image = noise(20, 20)
    got = RotatedCrop(20, (1, 1)).apply(image, window=(20, 20), centre=(10, 10), angle=0.0, mirror=mirror)
    want = image[:, ::-1] if mirror[0] else image
    assert np.array_equal(got, want[::-1] if mirror[1] else want)


def test_an_upright_window_is_a_slice() -> None:
    image = noise(40, 50)
    got = RotatedCrop(16, (0.1, 0.1)).apply(image, window=(16, 16), centre=(30, 12), **UPRIGHT)
    assert np.array_equal(got, image[4:20, 22:38])


@pytest.mark.parametrize("channels", [1, 3, 5, 9])
def test_shrinking_by_a_whole_factor_averages_blocks(channels: int) -> None:
    image = noise(48, 64, channels)
    got = RotatedCrop(12, (1, 1)).apply(image, window=(48, 48), centre=(32, 24), **UPRIGHT)
    blocks = image[:, 8:56].reshape(12, 4, 12, 4, channels).mean(axis=(1, 3))
    np.testing.assert_allclose(got, blocks, atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_any_window_equals_an_independent_resampling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = smooth(60, 75)
    window = (rng.uniform(20, 55), rng.uniform(20, 55))
    centre = (rng.uniform(20, 55), rng.uniform(20, 40))
    angle, mirror = rng.uniform(0, 2 * math.pi), (bool(rng.integers(2)), bool(rng.integers(2)))
    got = RotatedCrop(28, (1, 1)).apply(image, window=window, centre=centre, angle=angle, mirror=mirror)
    # OpenCV rounds positions to 1/32 pixel; the image changes by at most 0.13 a pixel.
    np.testing.assert_allclose(got, reference(image, 28, window, centre, angle, mirror), atol=0.13 / 32 * 1.5)


@pytest.mark.parametrize("shape", [(96, 96), (131, 118), (150, 203)])
@pytest.mark.parametrize("size", [16, 24, 64])
@pytest.mark.parametrize("seed", range(4))
def test_a_point_source_lands_where_it_should(shape: tuple[int, int], size: int, seed: int) -> None:
    """Also where the image is shrunk first, by sides that are no multiples of the factor."""
    rng = np.random.default_rng(seed)
    height, width = shape
    side = rng.uniform(0.7, 0.95) * min(shape)
    window, angle = (side, side * rng.uniform(0.8, 1.0)), rng.uniform(0, 2 * math.pi)
    mirror = (bool(rng.integers(2)), bool(rng.integers(2)))
    centre = (rng.uniform(side / 2, width - side / 2), rng.uniform(side / 2, height - side / 2))
    # Where in the result, from its middle in units of its side; then by hand into the image.
    u, v = rng.uniform(-0.25, 0.25, 2)
    a, b = u * window[0] * (-1 if mirror[0] else 1), v * window[1] * (-1 if mirror[1] else 1)
    x = centre[0] + a * math.cos(angle) - b * math.sin(angle)
    y = centre[1] + a * math.sin(angle) + b * math.cos(angle)
    grid_y, grid_x = np.mgrid[:height, :width] + 0.5
    sigma = 1.5 * max(side / size, 1.0)
    star = np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * sigma**2)).astype(np.float32)[..., None]
    got = RotatedCrop(size, (1, 1)).apply(star, window=window, centre=centre, angle=angle, mirror=mirror)[..., 0]
    out_y, out_x = np.mgrid[:size, :size] + 0.5
    found = (got * out_x).sum() / got.sum(), (got * out_y).sum() / got.sum()
    assert abs(found[0] - (0.5 + u) * size) < 0.1
    assert abs(found[1] - (0.5 + v) * size) < 0.1


def test_a_missing_pixel_stays_local() -> None:
    image = smooth(40, 40)
    image[20, 20] = np.nan
    got = RotatedCrop(32, (1, 1)).apply(image, window=(36, 36), centre=(20, 20), angle=0.7, mirror=(True, False))
    lost = np.argwhere(np.isnan(got).any(axis=-1))
    assert 0 < len(lost) <= 16
    assert np.ptp(lost, axis=0).max() <= 4


@cache
def draws(height: int, width: int, **settings: Any) -> list[dict[str, Any]]:
    """What is drawn in training for an image of this shape."""
    pipeline = Pipeline([RotatedCrop(8, **settings)])
    image = np.zeros((height, width, 1), np.uint8)
    found = []
    for i in range(DRAWS):
        pipeline(image, augmentation_rng(0, 0, i, 0))
        found.append(dict(pipeline.transforms[0].params))
    return found


def assert_rate(hits: np.ndarray, rate: float) -> None:
    assert abs(hits.mean() - rate) <= 4 * math.sqrt(rate * (1 - rate) / hits.size)


def test_angles_are_uniform() -> None:
    angles = np.array([drawn["angle"] for drawn in draws(32, 32, area=(0.3, 0.9))])
    assert stats.kstest(angles, stats.uniform(0, 2 * math.pi).cdf).pvalue > 1e-3
    assert {drawn["angle"] for drawn in draws(32, 32, area=(0.3, 0.9), rotate=False)} == {0.0}


def test_each_axis_is_mirrored_half_of_the_time_and_independently() -> None:
    mirrored = np.array([drawn["mirror"] for drawn in draws(32, 32, area=(0.3, 0.9))])
    assert_rate(mirrored[:, 0], 0.5)
    assert_rate(mirrored[:, 1], 0.5)
    assert_rate(mirrored[:, 0] & mirrored[:, 1], 0.25)


@pytest.mark.parametrize(("flips", "rate"), [(True, 0.5), (False, 0.0)])
def test_handedness(flips: bool, rate: float) -> None:
    """The sign of the map's determinant: without flips no view shows a mirror image."""
    crop = RotatedCrop(8, (1, 1))
    mirror_images = []
    for drawn in draws(32, 32, area=(0.3, 0.9), aspect=(0.8, 1.25), flips=flips):
        matrix = crop._matrix(drawn["window"], drawn["centre"], drawn["angle"], drawn["mirror"], (1.0, 1.0))
        mirror_images.append(np.linalg.det(matrix[:, :2]) < 0)
    assert_rate(np.array(mirror_images), rate)


def test_area_and_aspect_are_drawn_as_documented() -> None:
    windows = np.array([drawn["window"] for drawn in draws(40, 60, area=(0.2, 0.6), aspect=(0.5, 2.0))])
    area = windows.prod(axis=1) / (40 * 60)
    assert stats.kstest(area, stats.uniform(0.2, 0.4).cdf).pvalue > 1e-3
    ratio = np.log(windows[:, 0] / windows[:, 1])
    assert stats.kstest(ratio, stats.uniform(-math.log(2), 2 * math.log(2)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, None])
def test_an_upright_window_lies_inside_and_keeps_the_centre(shift: float | None) -> None:
    found = draws(40, 60, area=(0.1, 0.6), shift=shift)
    windows, centres = (np.array([drawn[name] for drawn in found]) for name in ("window", "centre"))
    middle, extent = np.array([30.0, 20.0]), np.array([60.0, 40.0])
    away = np.abs(centres - middle)
    assert np.all(away <= np.maximum(extent - windows, 0) / 2 + 1e-9)
    if shift is not None:
        assert np.all(away <= shift * windows + 1e-9)
    if shift != 0.0:
        assert away.max() > 2
        assert abs((centres - middle).mean()) < 0.5


@pytest.mark.parametrize("size", [8, 16, 40])
@pytest.mark.parametrize(("height", "width"), [(30, 30), (30, 51), (51, 30), (12, 12)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_centre_window_has_its_size_and_place(height: int, width: int, size: int, channels: int) -> None:
    image = noise(height, width, channels)
    got = centre_window(image, 0.75, size)
    assert got.shape == (size, size, channels)
    side = round(0.75 * min(height, width))
    exact = centre_window(image, 0.75, side)
    top, left = (height - side) // 2, (width - side) // 2
    assert np.array_equal(exact, image[top : top + side, left : left + side])
    assert np.array_equal(centre_window(image, 0.75, size), got)


def test_centre_window_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 1), np.float32)
    stripes[:, ::4] = 1.0
    np.testing.assert_allclose(centre_window(stripes, 1.0, 16), 0.25, atol=1e-6)
