from __future__ import annotations

import colorsys
import itertools
import random
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.errors import DataError
from sciencessl.views.operations import (
    ByolColourJitter,
    CropResize,
    GaussianBlur,
    Greyscale,
    ImageOperation,
    Solarise,
    adjust_hsv,
    blur_kernel,
    channel_means,
)


def noise(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape, dtype=np.float32)


def jitter(image: np.ndarray, order: list[str], value_range: Any = None, **params: float) -> np.ndarray:
    neutral = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    return ByolColourJitter(value_range=value_range).apply(image, order=order, **(neutral | params))


def plain_jitter(image: np.ndarray, order: list[str], params: dict[str, float]) -> np.ndarray:
    """The card's formulas on values in [0, 1], pixel by pixel through the standard library's HSV."""
    x = image.astype(np.float64) / 255

    def each(change: Any) -> np.ndarray:
        flat = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*rgb))) for rgb in x.reshape(-1, 3)]
        return np.array(flat).reshape(x.shape)

    for name in order:
        value = params[name]
        if name == "brightness":
            x = x + value
        elif name == "contrast":
            mean = x.mean(axis=(0, 1))
            x = value * (x - mean) + mean
        elif name == "saturation":
            x = each(lambda h, s, v, f=value: (h, min(s * f, 1.0), v))
        else:
            x = each(lambda h, s, v, d=value: ((h + d) % 1.0, s, v))
        x = np.clip(x, 0, 1)
    return x * 255


class TestColourJitter:
    @pytest.mark.parametrize("delta", [-0.4, -0.1, 0.0, 0.25, 0.4])
    def test_brightness_is_added(self, delta: float) -> None:
        image = noise((9, 7, 3))
        expected = np.rint(np.clip(image + delta * 255.0, 0, 255))
        assert np.abs(jitter(image, ["brightness"], brightness=delta) - expected).max() <= 1
        assert np.abs(jitter(image, ["brightness"], brightness=delta) - expected).mean() < 0.02

    @pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
    @pytest.mark.parametrize("channels", [1, 2, 3, 5])
    def test_contrast_turns_around_each_channels_mean(self, factor: float, channels: int) -> None:
        image = (noise((8, 6, channels)) * np.linspace(0.3, 1, channels)).astype(np.uint8)
        mean = image.mean(axis=(0, 1))
        expected = np.clip(factor * (image - mean) + mean, 0, 255)
        assert np.abs(jitter(image, ["contrast"], contrast=factor) - expected).max() <= 0.5 + 1e-3

    def test_contrast_does_not_use_the_grey_mean(self) -> None:
        image = np.zeros((4, 4, 3), np.uint8) + np.array([40, 100, 200], np.uint8)
        assert np.array_equal(jitter(image, ["contrast"], contrast=0.6), image)

    @pytest.mark.parametrize("order", list(itertools.permutations(["brightness", "contrast", "saturation", "hue"])))
    def test_every_order_equals_the_formulas(self, order: tuple[str, ...]) -> None:
        rng = np.random.default_rng([len(order[0]), len(order[1])])
        params = {
            "brightness": rng.uniform(-0.4, 0.4), "contrast": rng.uniform(0.6, 1.4),
            "saturation": rng.uniform(0.8, 1.2), "hue": rng.uniform(-0.1, 0.1),
        }  # fmt: skip
        image = noise((16, 16, 3), seed=1)
        got = jitter(image, list(order), **params)
        assert np.abs(got - plain_jitter(image, list(order), params)).max() <= 0.5 + 2e-3

    @pytest.mark.parametrize("hue", [-0.5, -0.1, 0.1, 0.3])
    @pytest.mark.parametrize("saturation", [0.0, 0.8, 1.2, 5.0])
    def test_hue_and_saturation_on_floats(self, hue: float, saturation: float) -> None:
        image = noise((16, 16, 3), seed=2)
        x = image.astype(np.float32)
        adjust_hsv(x, saturation, hue)
        expected = plain_jitter(image, ["saturation", "hue"], {"saturation": saturation, "hue": hue})
        assert np.abs(x - expected).max() < 2e-3

    def test_grey_and_black_have_no_hue(self) -> None:
        image = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[:, None, None], 3, axis=2)
        assert np.array_equal(jitter(image, ["saturation", "hue"], saturation=1.2, hue=0.1), image)

    @pytest.mark.parametrize("channels", [1, 3, 5])
    def test_float_images_get_brightness_and_contrast_only(self, channels: int) -> None:
        image = noise((8, 8, channels), "float32") * 4 - 1
        order = ["hue", "contrast", "saturation", "brightness"]
        got = jitter(image, order, (-1.0, 3.0), brightness=0.1, contrast=1.2, saturation=1.2, hue=0.1)
        mean = image.mean(axis=(0, 1))
        expected = np.clip(np.clip(1.2 * (image - mean) + mean, -1, 3) + 0.4, -1, 3)
        assert got.dtype == np.float32
        assert np.allclose(got, expected, atol=2e-6)

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_uint8_of_other_channels_keeps_its_colour(self, channels: int) -> None:
        image = noise((8, 8, channels))
        assert np.array_equal(jitter(image, ["hue", "saturation"], saturation=1.2, hue=0.1), image)

    @pytest.mark.parametrize("channels", [2, 5])
    def test_missing_pixels_stay_missing_and_do_not_count(self, channels: int) -> None:
        image = noise((8, 8, channels), "float32")
        image[2, 3, 1] = np.nan
        image[:, :, 0] = np.nan
        means = channel_means(image)
        assert means[0] == 0
        assert means[1] == pytest.approx(np.nanmean(image[..., 1].astype(np.float64)))
        got = jitter(image, ["contrast"], (0.0, 1.0), contrast=0.5)
        assert np.array_equal(np.isnan(got), np.isnan(image))

    def test_float_images_need_a_declared_range(self) -> None:
        image = noise((4, 4, 1), "float32")
        with pytest.raises(DataError, match="value_range"):
            jitter(image, ["brightness"], brightness=0.1)
        free = ByolColourJitter(brightness=0.0)
        got = free.apply(image * 100, order=["contrast"], contrast=1.4)
        assert np.allclose(got.mean(), image.mean() * 100, rtol=1e-5)

    def test_strengths_are_uniform_and_orders_equally_likely(self) -> None:
        operation = ByolColourJitter()
        operation.set_random_state(np.random.default_rng(0), random.Random(0))
        drawn = [operation.get_params() for _ in range(4800)]
        for name, low, high in (
            ("brightness", -0.4, 0.4), ("contrast", 0.6, 1.4), ("saturation", 0.8, 1.2), ("hue", -0.1, 0.1),
        ):  # fmt: skip
            values = np.array([d[name] for d in drawn])
            assert values.min() >= low
            assert values.max() <= high
            width = high - low
            assert abs(values.mean() - (low + high) / 2) < 4 * width / np.sqrt(12 * 4800)
            assert abs(values.std() / (width / np.sqrt(12)) - 1) < 0.03
        counts = [sum(tuple(d["order"]) == order for d in drawn) for order in itertools.permutations(drawn[0]["order"])]
        assert max(abs(count - 200) for count in counts) < 4 * np.sqrt(200)


class TestGreyscale:
    def test_weights(self) -> None:
        image = noise((9, 5, 3))
        got = Greyscale().apply(image)
        expected = image @ np.array([0.2989, 0.5870, 0.1140])
        assert np.abs(got - expected[..., None]).max() <= 0.5 + 1e-3
        assert got.shape == image.shape
        floats = noise((9, 5, 3), "float32")
        grey = Greyscale().apply(floats)
        assert np.allclose(grey, (floats @ np.array([0.2989, 0.5870, 0.1140]))[..., None], atol=1e-6)

    def test_other_channels_take_the_mean(self) -> None:
        image = noise((4, 4, 5), "float32")
        assert np.allclose(Greyscale().apply(image), image.mean(axis=2, keepdims=True), atol=1e-6)
        single = noise((4, 4, 1))
        assert np.array_equal(Greyscale().apply(single), single)


class TestBlur:
    def test_kernel_sizes_of_the_card(self) -> None:
        assert [blur_kernel(size) for size in (224, 128, 96, 64, 32)] == [23, 13, 9, 7, 3]
        assert blur_kernel(19) == 1

    @pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.5), (7, 1.0), (7, 2.0), (23, 0.1), (23, 1.3), (23, 2.0)])
    @pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (3, "float32"), (5, "float32")])
    def test_equals_direct_convolution(self, kernel: int, sigma: float, channels: int, dtype: str) -> None:
        image = noise((30, 26, channels), dtype)
        offsets = np.arange(kernel) - kernel // 2
        weights = np.exp(-(offsets**2) / (2 * sigma**2))
        weights /= weights.sum()
        padded = np.pad(image.astype(np.float64), [(kernel // 2,) * 2] * 2 + [(0, 0)], mode="reflect")
        rows = sum(w * padded[i : i + 30] for i, w in enumerate(weights))
        expected = sum(w * rows[:, i : i + 26] for i, w in enumerate(weights))
        got = GaussianBlur(kernel).apply(image, sigma=sigma)
        assert got.shape == image.shape
        assert got.dtype == image.dtype
        assert np.abs(got - expected).max() < (0.501 if dtype == "uint8" else 4e-6)

    def test_sigma_is_uniform(self) -> None:
        operation = GaussianBlur(7)
        operation.set_random_state(np.random.default_rng(0), random.Random(0))
        sigma = np.array([operation.get_params()["sigma"] for _ in range(4000)])
        assert 0.1 <= sigma.min() < 0.11
        assert 1.99 < sigma.max() <= 2.0
        assert abs(sigma.mean() - 1.05) < 4 * 1.9 / np.sqrt(12 * 4000)


class TestSolarise:
    def test_uint8(self) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
        x = levels / 255
        assert np.array_equal(Solarise().apply(levels), np.rint(np.where(x < 0.5, x, 1 - x) * 255))

    def test_the_threshold_itself_is_inverted(self) -> None:
        assert Solarise(0.2).apply(np.array([[[50], [51]]], np.uint8)).ravel().tolist() == [50, 204]
        at = np.array([[[0.125], [0.25]]], np.float32)
        assert Solarise(0.25, value_range=(0.0, 1.0)).apply(at).ravel().tolist() == [0.125, 0.75]

    def test_floats_in_their_range(self) -> None:
        x = noise((8, 8, 3), "float32")
        assert np.allclose(Solarise(value_range=(0.0, 1.0)).apply(x), np.where(x < 0.5, x, 1 - x))
        got = Solarise(0.25, value_range=(-1.0, 3.0)).apply(x * 4 - 1)
        assert np.allclose(got, np.where(x < 0.25, x, 1 - x) * 4 - 1, atol=1e-6)
        with pytest.raises(DataError, match="value range"):
            Solarise().apply(x)


class TestCrop:
    def crop(self, image: np.ndarray, box: tuple[int, int, int, int], size: int, **kwargs: Any) -> np.ndarray:
        return CropResize(size, **kwargs).apply(image, crop_coords=box)

    @pytest.mark.parametrize("channels", [1, 2, 3, 5, 6])
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_bicubic_up_to_twice_the_output_and_area_above(self, channels: int, dtype: str) -> None:
        image = noise((80, 90, channels), dtype)
        for right, bottom, how in ((43, 45, cv2.INTER_CUBIC), (23, 20, cv2.INTER_CUBIC), (63, 65, cv2.INTER_AREA)):
            box = (3, 5, right, bottom)
            got = self.crop(image, box, 20)
            part = image[box[1] : box[3], box[0] : box[2]]
            planes = (np.ascontiguousarray(part[..., c]) for c in range(channels))
            each = [cv2.resize(plane, (20, 20), interpolation=how) for plane in planes]
            assert got.shape == (20, 20, channels)
            assert np.allclose(got, np.stack(each, axis=-1), atol=1e-5)

    def test_area_averages_where_bicubic_would_alias(self) -> None:
        stripes = np.zeros((128, 128, 1), np.uint8)
        stripes[:, ::4] = 255
        got = self.crop(stripes, (0, 0, 128, 128), 32)
        assert np.abs(got.astype(int) - 64).max() <= 1

    def test_float_overshoot_is_clipped_to_a_declared_range(self) -> None:
        edge = np.zeros((8, 8, 1), np.float32)
        edge[:, 4:] = 1
        free = self.crop(edge, (0, 0, 8, 8), 32)
        assert free.max() > 1.01
        held = self.crop(edge, (0, 0, 8, 8), 32, value_range=(0.0, 1.0))
        assert (held.min(), held.max()) == (0, 1)
        assert np.array_equal(held, np.clip(free, 0, 1))

    def test_area_and_aspect_of_crops(self) -> None:
        operation = CropResize(8)
        operation.set_random_state(np.random.default_rng(0), random.Random(0))
        side, draws = 1000, 8000
        boxes = np.array(
            [operation.get_params_dependent_on_data({"shape": (side, side)}, {})["crop_coords"] for _ in range(draws)]
        )
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        area, aspect = width * height / side**2, np.log(width / height)
        # Independent draw of the same law: boxes that do not fit are drawn again.
        rng = np.random.default_rng(1)
        a, r = rng.uniform(0.08, 1, 400_000), rng.uniform(np.log(3 / 4), np.log(4 / 3), 400_000)
        fits = (a * np.exp(r) <= 1) & (a * np.exp(-r) <= 1)
        assert abs(area.mean() - a[fits].mean()) < 4 * a[fits].std() / np.sqrt(draws)
        assert abs(aspect.mean()) < 4 * r[fits].std() / np.sqrt(draws)
        assert abs(aspect.std() - r[fits].std()) < 0.01
        assert area.min() > 0.079
        assert (boxes.min(axis=0) >= 0).all()
        assert boxes.max() <= side


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_no_operation_changes_its_input(channels: int, dtype: str) -> None:
    image = noise((40, 40, channels), dtype)
    image.setflags(write=False)
    span = (0.0, 1.0)
    operations: list[ImageOperation | CropResize] = [
        ByolColourJitter(value_range=span), Greyscale(), GaussianBlur(7), Solarise(value_range=span),
        CropResize(16, value_range=span),
    ]  # fmt: skip
    for operation in operations:
        operation.set_random_state(np.random.default_rng(0), random.Random(0))
        result = operation(image=image, force_apply=True)["image"]
        assert result.dtype == image.dtype
        assert result.shape[2] == channels
    assert np.array_equal(image, noise((40, 40, channels), dtype))
