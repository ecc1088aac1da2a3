from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import InputStats
from sciencessl.views.to_input import fit_stats, standardise, unstandardise


def test_standardise_uint8_by_hand() -> None:
    stats = InputStats(mean=(0.5, 0.2), std=(0.25, 0.1), scale=(255.0, 255.0))
    x = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    got = standardise(x, stats)
    assert got.dtype == torch.float32
    assert torch.allclose(got, torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]]), atol=1e-6)


def test_standardise_float_by_hand() -> None:
    stats = InputStats(mean=(0.1,), std=(2.0,), scale=(4.0,), stretch="asinh")
    x = torch.tensor([[[[0.0, 4.0, -40.0]]]])
    expected = (np.arcsinh([0.0, 1.0, -10.0]) - 0.1) / 2
    assert np.allclose(standardise(x, stats).numpy().ravel(), expected, atol=1e-6)


def test_the_logarithm_is_that_of_one_more_than_the_scaled_flux_on_both_sides_of_0() -> None:
    stats = InputStats(mean=(0.1,), std=(2.0,), scale=(4.0,), stretch="log")
    expected = (np.array([0.0, np.log(2), -np.log(11)]) - 0.1) / 2
    got = standardise(torch.tensor([[[[0.0, 4.0, -40.0]]]]), stats)
    assert np.allclose(got.numpy().ravel(), expected, atol=1e-6)


@pytest.mark.parametrize("stretch", ["linear", "asinh", "log"])
def test_model_input_becomes_flux_again(stretch: str) -> None:
    rng = np.random.default_rng(5)
    flux = rng.standard_t(1.5, (2, 3, 16, 16)) * np.array([0.01, 1.0, 300.0])[:, None, None]
    x = torch.from_numpy(flux.astype(np.float32))
    stats = fit_stats(list(x.permute(0, 2, 3, 1).numpy()), 3, stretch, "float32")  # type: ignore[arg-type]
    back = unstandardise(standardise(x, stats), stats)
    assert back.dtype == torch.float32
    unit = torch.tensor(stats.scale).view(-1, 1, 1)
    assert ((back - x).abs() / torch.maximum(x.abs(), unit)).max() < 1e-5
    assert x.abs().max() / unit.min() > 1e3


def test_model_input_of_stamps_becomes_levels_again_and_other_channels_are_refused() -> None:
    stats = InputStats(mean=(0.5, 0.2), std=(0.25, 0.1), scale=(255.0, 255.0))
    x = torch.randint(0, 256, (1, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unstandardise(standardise(x, stats), stats).round().to(torch.uint8), x)
    with pytest.raises(DataError, match="2 channels"):
        unstandardise(torch.zeros(1, 3, 4, 4), stats)


@pytest.mark.parametrize("stretch", ["linear", "asinh", "log"])
def test_missing_pixels_become_the_mean_and_the_input_is_kept(stretch: str) -> None:
    stats = InputStats(mean=(5.0, 1.0), std=(2.0, 1.0), scale=(1.0, 1.0), stretch=stretch)
    x = torch.full((1, 2, 2, 2), 3.0)
    x[0, 0, 0, 0], x[0, 1, 1, 1] = torch.nan, torch.inf
    before = x.clone()
    got = standardise(x, stats)
    assert got[0, 0, 0, 0] == 0
    assert got[0, 1, 1, 1] == 0
    assert (got != 0).sum() == 6
    assert torch.equal(x.nan_to_num(7.0), before.nan_to_num(7.0))


def test_constants_of_tensors_without_values_are_not_kept_for_real_ones() -> None:
    stats, x = InputStats((0.125,), (0.5,), (255.0,)), torch.full((1, 1, 2, 2), 51, dtype=torch.uint8)
    with FakeTensorMode() as mode:
        assert standardise(mode.from_tensor(x), stats).shape == x.shape
    assert torch.allclose(standardise(x, stats), torch.tensor((0.2 - 0.125) / 0.5))


def test_memory_format_and_gradient_survive() -> None:
    stats = InputStats(mean=(0.0,) * 3, std=(2.0,) * 3, scale=(1.0,) * 3)
    with torch.inference_mode():
        standardise(torch.zeros(2, 3, 4, 4), stats)
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = standardise(x, stats)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 0.5))


def test_other_channels_are_refused() -> None:
    stats = InputStats(mean=(0.0,), std=(1.0,), scale=(1.0,))
    for shape in ((2, 3, 4, 4), (3, 4, 4)):
        with pytest.raises(DataError, match="1 channels"):
            standardise(torch.zeros(shape), stats)


def test_fit_uint8_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, 9, 3), dtype=np.uint8) for h in (5, 17, 30)]
    stats = fit_stats(iter(images), 3, dtype="uint8")
    pixels = np.concatenate([i.reshape(-1, 3) for i in images]) / 255
    assert stats.scale == (255.0,) * 3
    assert stats.stretch == "linear"
    assert np.allclose(stats.mean, pixels.mean(axis=0), rtol=1e-12)
    assert np.allclose(stats.std, pixels.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("stretch", ["linear", "asinh", "log"])
def test_fit_float_equals_numpy_with_missing_pixels(stretch: str) -> None:
    rng = np.random.default_rng(1)
    images = [rng.normal([0, 10], [1, 0.1], (20, 21, 2)).astype(np.float32) for _ in range(7)]
    images[0][3:9] = np.nan
    images[1][..., 1] = np.nan
    images[2][0, 0, 0] = np.inf
    stats = fit_stats(iter(images), 2, stretch, "float32")
    for c in range(2):
        values = np.concatenate([i[..., c].ravel() for i in images]).astype(np.float64)
        values = values[np.isfinite(values)]
        scale = 3 * 1.4826 * np.median(np.abs(values - np.median(values)))
        x = values / scale
        y = {"linear": x, "asinh": np.arcsinh(x), "log": np.copysign(np.log(1 + abs(x)), x)}[stretch]
        assert stats.scale[c] == pytest.approx(scale, rel=1e-6)
        assert stats.mean[c] == pytest.approx(y.mean(), abs=1e-6)
        assert stats.std[c] == pytest.approx(y.std(), rel=1e-6)
    # 3 sigma of a normal distribution with sigma 1
    assert stats.scale[0] == pytest.approx(3.0, rel=0.05)


def test_fitted_input_has_mean_zero_and_variance_one() -> None:
    rng = np.random.default_rng(2)
    images = [rng.gamma(2.0, 3.0, (16, 16, 4)).astype(np.float32) for _ in range(10)]
    stats = fit_stats(images, 4, "asinh", "float32")
    y = standardise(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), stats)
    assert torch.allclose(y.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(y.std(dim=(0, 2, 3), correction=0), torch.ones(4), atol=1e-5)


def test_scale_ignores_a_few_bright_pixels_and_padding() -> None:
    rng = np.random.default_rng(3)
    image = rng.normal(0, 2, (64, 64, 1)).astype(np.float32)
    image[:4] = 1e6
    assert fit_stats([image], 1, "asinh", "float32").scale[0] == pytest.approx(6.0, rel=0.15)
    padded = np.zeros((64, 64, 1), np.float32)
    padded[:20] = rng.normal(0, 2, (20, 64, 1))
    assert fit_stats([padded], 1, "asinh", "float32").scale[0] == pytest.approx(6.0, rel=0.15)


@pytest.mark.parametrize(("dtype", "value", "mean"), [("uint8", 51, 0.2), ("float32", 7.1, np.arcsinh(7.1))])
def test_constant_channel_gets_std_one(dtype: str, value: float, mean: float) -> None:
    stats = fit_stats([np.full((5, 7, 1), value, dtype=dtype)] * 3, 1, "asinh", dtype)
    assert stats.std == (1.0,)
    assert stats.mean[0] == pytest.approx(mean)
    x = torch.full((1, 1, 2, 2), value).to(getattr(torch, dtype))
    assert standardise(x, stats).abs().max() < 1e-6


def test_large_offsets_lose_no_precision() -> None:
    rng = np.random.default_rng(4)
    images = [(1e6 + rng.normal(0, 1, (16, 16, 1))) for _ in range(5)]
    stats = fit_stats(images, 1, "linear", "float64")
    values = np.concatenate([i.ravel() for i in images])
    assert stats.std[0] * stats.scale[0] == pytest.approx(values.std(), rel=1e-9)


def test_channels_without_a_finite_pixel_are_named() -> None:
    image = np.zeros((4, 4, 3), np.float32)
    image[..., 1] = np.nan
    with pytest.raises(DataError, match=r"channels \[1\] of 3 have no finite pixel"):
        fit_stats([image], 3, "asinh", "float32")
    for dtype in ("uint8", "float32"):
        with pytest.raises(DataError, match=r"channels \[0, 1\]"):
            fit_stats([], 2, "asinh", dtype)
        with pytest.raises(DataError, match=r"\(H, W, 2\)"):
            fit_stats([np.zeros((4, 4, 3), dtype)], 2, "asinh", dtype)


def test_an_unknown_stretch_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no stretch named 'arcsinh'\. Did you mean 'asinh'\?"):
        fit_stats([np.zeros((2, 2, 1), np.float32)], 1, "arcsinh", "float32")  # type: ignore[arg-type]
