"""From stored values to model input, and the statistics that this takes: the same step wherever a model runs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sciencessl.errors import ConfigError, DataError, unknown_name
from sciencessl.spec import InputStats
from sciencessl.views.stretch import NOISE_SCALE, noise_level

if TYPE_CHECKING:
    import torch
    from torch import Tensor

StretchKind = Literal["linear", "asinh", "log"]
STRETCHES = ("linear", "asinh", "log")
"""Of scaled float pixels x on the way to the model: x, asinh(x), or sign(x) log(1 + |x|)."""

_MOST_PIXELS = 2**24


def standardise(x: Tensor, stats: InputStats) -> Tensor:
    """x / scale, stretched, less the mean, over the standard deviation: mean 0 and variance 1 a channel.

    Args:
        x: (B, C, H, W) uint8 or float32, on any device; never changed.
        stats: Of C channels.

    Returns:
        (B, C, H, W) float32 in the memory format of x. Pixels that are not finite become 0, the channel's mean.

    Raises:
        DataError: When the channels of x and of the statistics differ.
    """
    import torch

    scale, mean, std = _fitting_constants(x, stats)
    y = x.to(torch.float32) / scale
    if stats.stretch == "asinh":
        y = torch.asinh(y)
    elif stats.stretch == "log":
        y = torch.sign(y) * torch.log1p(torch.abs(y))
    y = (y - mean) / std
    if x.is_floating_point():
        y = torch.where(torch.isfinite(y), y, torch.zeros((), dtype=y.dtype, device=y.device))
    return y


def unstandardise(y: Tensor, stats: InputStats) -> Tensor:
    """Model input -> stored values, such as flux: undoes `standardise`, except for pixels that were not finite, which
    come back as the flux whose input is 0.

    Args:
        y: (B, C, H, W) float, on any device; never changed.
        stats: Of C channels.

    Returns:
        (B, C, H, W) float32, of 8-bit images 0 to 255 and not rounded.

    Raises:
        DataError: When the channels of y and of the statistics differ.
    """
    import torch

    scale, mean, std = _fitting_constants(y, stats)
    x = y.to(torch.float32) * std + mean
    if stats.stretch == "asinh":
        x = torch.sinh(x)
    elif stats.stretch == "log":
        x = torch.sign(x) * torch.expm1(torch.abs(x))
    return x * scale


def _fitting_constants(x: Tensor, stats: InputStats) -> tuple[Tensor, Tensor, Tensor]:
    from sciencessl.losses.checks import holds_values

    if x.ndim != 4 or x.shape[1] != len(stats.mean):
        raise DataError(
            f"model input of shape {tuple(x.shape)} does not fit statistics of {len(stats.mean)} channels; "
            "expected (B, C, H, W) from the same kind of store as the run's training data."
        )
    # Tensors made for a fake or traced one must not be kept for the real ones that follow.
    constants = _constants if holds_values(x) else _constants.__wrapped__
    return constants(stats, x.device)


@lru_cache(maxsize=32)
def _constants(stats: InputStats, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    # Kept on the device: building them at each step would copy from the host and wait for the device.
    import torch

    with torch.inference_mode(False):
        scale, mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).reshape(1, -1, 1, 1)
            for values in (stats.scale, stats.mean, stats.std)
        )
    return scale, mean, std


def fit_stats(
    images: Iterable[np.ndarray], channels: int, stretch: StretchKind = "asinh", dtype: str = "uint8"
) -> InputStats:
    """Scale, mean and standard deviation of each channel over images of split=train.

    uint8: scale 255, always linear, in one pass. Other dtypes: scale = 3 `noise_level`s of the finite pixels, so that
    asinh and log are linear in the noise and logarithmic in the light; 1 for a constant channel. Such images are held
    in memory: a few thousand do.
    Means and variances are added up in float64 over finite pixels; a constant channel gets std 1, which maps it to 0
    instead of dividing by 0. Source: ours.

    Args:
        images: (H, W, C) arrays of one dtype; sizes may differ. Missing and masked pixels are NaN.
        channels: C.
        stretch: Of float images, one of `STRETCHES`.
        dtype: NumPy name of the stored dtype.

    Raises:
        ConfigError: For an unknown stretch.
        DataError: For no image, an image of other channels, or a channel without a finite pixel.
    """
    if stretch not in STRETCHES:
        raise ConfigError(unknown_name("stretch", stretch, STRETCHES))
    if np.dtype(dtype) == np.uint8:
        return _finish(_Moments(channels).over(images, np.full(channels, 255.0), "linear"), "linear")
    held = [_checked(image, channels) for image in images]
    scale = np.array([_noise_scale(held, channel) for channel in range(channels)])
    return _finish(_Moments(channels).over(held, scale, stretch), stretch)


def _checked(image: np.ndarray, channels: int) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != channels:
        raise DataError(f"input statistics: expected (H, W, {channels}) images, got one of shape {image.shape}.")
    return image


def _noise_scale(images: list[np.ndarray], channel: int) -> float:
    # A stride common to all images bounds memory where there are more than 2**24 pixels.
    stride = 1 + sum(image.shape[0] * image.shape[1] for image in images) // _MOST_PIXELS
    pixels = [image[..., channel].reshape(-1)[::stride] for image in images]
    values = np.concatenate([np.empty(0), *(p[np.isfinite(p)] for p in pixels)])
    return NOISE_SCALE * noise_level(values) or 1.0


class _Moments:
    """Count, mean, sum of squared deviations and extremes of each channel, image after image.

    Source: Chan, Golub & LeVeque 1983, the pairwise update.
    """

    def __init__(self, channels: int) -> None:
        self.count = np.zeros(channels)
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)
        self.low = np.full(channels, np.inf)
        self.high = np.full(channels, -np.inf)
        self.scale = np.ones(channels)

    def over(self, images: Iterable[np.ndarray], scale: np.ndarray, stretch: str) -> _Moments:
        """Add all images, scaled and stretched."""
        self.scale = scale
        for image in images:
            x = _checked(image, len(scale)).reshape(-1, len(scale)).astype(np.float64) / scale
            if stretch != "linear":
                x = np.arcsinh(x) if stretch == "asinh" else np.sign(x) * np.log1p(np.abs(x))
            self._add(x)
        return self

    def _add(self, x: np.ndarray) -> None:
        known = np.isfinite(x)
        count = known.sum(axis=0)
        mean = np.where(known, x, 0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(known, x - mean, 0) ** 2).sum(axis=0)
        total = np.maximum(self.count + count, 1)
        step = np.where(count > 0, mean - self.mean, 0)
        self.squares += squares + step**2 * self.count * count / total
        self.mean += step * count / total
        self.count += count
        self.low = np.minimum(self.low, np.where(known, x, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(known, x, -np.inf).max(axis=0, initial=-np.inf))


def _finish(moments: _Moments, stretch: StretchKind) -> InputStats:
    empty = np.flatnonzero(moments.count == 0).tolist()
    if empty:
        raise DataError(
            f"input statistics: channels {empty} of {len(moments.count)} have no finite pixel in the images given; "
            "check that the split is not empty and that the band was observed, or leave the band out."
        )
    constant = moments.low == moments.high
    std = np.where(constant, 1.0, np.sqrt(moments.squares / moments.count))
    return InputStats(_floats(moments.mean), _floats(std), _floats(moments.scale), stretch)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
