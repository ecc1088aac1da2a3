"""The image operations of BYOL that albumentations does not have, or has with other formulas.

Formulas: BYOL (arXiv 2006.07733), appendix B, and its released augmentations. Importing this module imports
albumentations and OpenCV; settings live in `sciencessl.views.byol`, which does not.
"""

from __future__ import annotations

import math
import random
from itertools import groupby
from typing import Any

import albumentations
import cv2
import numpy as np
from albumentations.augmentations.geometric.functional import resize

from sciencessl.errors import DataError
from sciencessl.views.boxes import rectangle

Range = tuple[float, float]

GREY = (0.2989, 0.5870, 0.1140)
"""Luma weights of red, green and blue, as released with BYOL; they sum to 0.9999."""


def blur_kernel(size: int) -> int:
    """Side of the blur kernel in pixels for views of a given size: 2 int(size / 20) + 1, so 23 at 224 and 7 at 64."""
    return 2 * int(size / 10 / 2) + 1


class ImageOperation(albumentations.ImageOnlyTransform):  # type: ignore[misc]  # albumentations is untyped
    """An operation on pixel values that knows their range.

    Attributes:
        value_range: Lowest and highest value of float images; None where they have none. uint8 is always (0, 255).
    """

    def __init__(self, value_range: Range | None = None, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.value_range = value_range

    def range_of(self, image: np.ndarray) -> Range | None:
        """Lowest and highest value of this image's kind."""
        return (0.0, 255.0) if image.dtype == np.uint8 else self.value_range

    def needed_range(self, image: np.ndarray) -> Range:
        """The same where an operation cannot do without.

        Raises:
            DataError: For a float image without a declared range.
        """
        known = self.range_of(image)
        if known is None:
            raise DataError(
                f"{type(self).__name__} got a float image whose value range is not declared; set value_range=(low, "
                "high) in the photometric settings, or turn brightness and solarise off."
            )
        return known


class ByolColourJitter(ImageOperation):
    """Brightness, contrast, saturation and hue in random order, clipped to the value range after each.

    x in units of the value range: brightness x + U(-b, b); contrast (x - mean) U(1 - c, 1 + c) + mean with the mean of
    each channel of this image; saturation S U(1 - s, 1 + s) and hue H + U(-h, h) turns in HSV. Brightness is additive
    and contrast uses channel means, both unlike torchvision. Saturation and hue apply to uint8 images of 3 channels
    only: other images have no colour in that sense. Computed in float32, rounded once; HSV through OpenCV, whose
    round trip is off by less than 0.001 of 255.

    Source: BYOL, appendix B; what happens to other images is ours.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        value_range: Range | None = None,
        p: float = 0.8,
    ) -> None:
        super().__init__(value_range, p)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def get_params(self) -> dict[str, Any]:
        """Order of the four and their strengths, drawn for one image whatever its channels."""
        uniform = self.py_random.uniform
        order = ["brightness", "contrast", "saturation", "hue"]
        self.py_random.shuffle(order)
        return {
            "order": order,
            "brightness": uniform(-self.brightness, self.brightness),
            "contrast": uniform(1 - self.contrast, 1 + self.contrast),
            "saturation": uniform(1 - self.saturation, 1 + self.saturation),
            "hue": uniform(-self.hue, self.hue),
        }

    def apply(self, img: np.ndarray, order: list[str], **params: Any) -> np.ndarray:
        """(H, W, C) -> (H, W, C) of the same dtype."""
        coloured = img.dtype == np.uint8 and img.shape[2] == 3
        bounds = self.needed_range(img) if self.brightness > 0 else self.range_of(img)
        x = img.astype(np.float32)
        # Saturation and hue commute and cannot leave the range: where they are neighbours one trip to HSV serves both.
        for colour, group in groupby(order, key=("saturation", "hue").__contains__):
            names = list(group)
            if colour and coloured:
                adjust_hsv(x, **{name: params[name] for name in names})
            for name in names if not colour else ():
                self._tone(x, name, params[name], bounds)
        return to_dtype(x, img.dtype)

    def _tone(self, x: np.ndarray, name: str, strength: float, bounds: Range | None) -> None:
        if name == "contrast":
            scale_contrast(x, strength)
        elif bounds is not None:
            x += strength * (bounds[1] - bounds[0])
        if bounds is not None:
            np.clip(x, *bounds, out=x)


def scale_contrast(x: np.ndarray, factor: float) -> None:
    """(H, W, C) float32 scaled around the mean of each channel, in place; NaN does not count and stays."""
    height, width, channels = x.shape
    offset = ((1 - factor) * channel_means(x)).astype(np.float32)
    # Rows as long vectors: broadcasting over a last axis of 3 would be five times slower.
    rows = x.reshape(height, width * channels)
    rows *= np.float32(factor)
    rows += np.tile(offset, width)


def channel_means(x: np.ndarray) -> np.ndarray:
    """(C,) float64 means of an (H, W, C) image over its pixels that are not NaN; 0 for a channel without any."""
    if x.shape[2] <= 4:
        means = np.array(cv2.mean(x)[: x.shape[2]])
    else:
        means = x.mean(axis=(0, 1), dtype=np.float64)
    if np.isnan(means).any():
        known = ~np.isnan(x)
        means = np.where(known, x, 0).sum(axis=(0, 1), dtype=np.float64) / np.maximum(known.sum(axis=(0, 1)), 1)
    return means


def adjust_hsv(x: np.ndarray, saturation: float = 1.0, hue: float = 0.0) -> None:
    """(H, W, 3) float32 RGB >= 0 of any scale, in place: saturation multiplied (to 1 at most), hue turned, in turns."""
    # H += 360 hue, S *= saturation in one pass; OpenCV takes any hue >= 0 modulo 360 on the way back.
    affine = np.array([[1, 0, 0, 360 * (hue % 1.0)], [0, saturation, 0, 0], [0, 0, 1, 0]], dtype=np.float32)
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    cv2.transform(hsv, affine, hsv)
    if saturation > 1:
        cv2.min(hsv, (np.inf, 1.0, np.inf, np.inf), hsv)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, x)


def to_dtype(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Float values in the range of a dtype as that dtype, rounded to the nearest where it is uint8."""
    if dtype != np.uint8:
        return x
    rounded: np.ndarray = cv2.convertScaleAbs(x).reshape(x.shape)
    return rounded


class Greyscale(ImageOperation):
    """Every channel becomes 0.2989 R + 0.5870 G + 0.1140 B; the plain mean where there are not three channels (ours).

    Source: BYOL, appendix B.
    """

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """(H, W, C) -> (H, W, C) of the same dtype, all channels equal."""
        channels = img.shape[2]
        if channels == 1:
            return img
        weights = np.array(GREY if channels == 3 else [1 / channels] * channels, dtype=np.float32)
        grey = to_dtype(img.astype(np.float32) @ weights, img.dtype)
        out: np.ndarray = cv2.merge([grey] * channels)
        return out


class GaussianBlur(ImageOperation):
    """Gaussian blur with a fixed kernel side and sigma U(low, high) pixels, drawn for each image.

    Edges are reflected, where the released code pads with zeros and so darkens them (ours). A kernel of 1, which
    views below 20 pixels get, changes nothing. NaN spreads by half the kernel: a pixel with unknown input is unknown.

    Source: BYOL, appendix B.
    """

    def __init__(self, kernel: int, sigma: tuple[float, float] = (0.1, 2.0), p: float = 1.0) -> None:
        super().__init__(p=p)
        self.kernel = kernel
        self.sigma = sigma

    def get_params(self) -> dict[str, Any]:
        """The width of this image's kernel."""
        return {"sigma": self.py_random.uniform(*self.sigma)}

    def apply(self, img: np.ndarray, sigma: float, **params: Any) -> np.ndarray:
        """(H, W, C) -> (H, W, C) of the same dtype."""
        # Weights beyond 5 sigma add up to 6e-7: leaving them out halves the time at kernel 23 and changes no pixel.
        side = min(self.kernel, 2 * math.ceil(5 * sigma) + 1)
        # In float32: OpenCV's 8-bit blur rounds its weights, and is slower.
        blurred = cv2.GaussianBlur(img.astype(np.float32), (side, side), sigma)
        return to_dtype(blurred.reshape(img.shape), img.dtype)


class Solarise(ImageOperation):
    """x where x < threshold, else low + high - x: 1 - x for values in [0, 1].

    Attributes:
        threshold: As a fraction of the value range.

    Source: BYOL, appendix B.
    """

    def __init__(self, threshold: float = 0.5, value_range: Range | None = None, p: float = 0.2) -> None:
        super().__init__(value_range, p)
        self.threshold = threshold

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """(H, W, C) -> (H, W, C) of the same dtype."""
        low, high = self.needed_range(img)
        cut = low + self.threshold * (high - low)
        if img.dtype == np.uint8:
            levels = np.arange(256)
            table = np.where(levels < cut, levels, 255 - levels).astype(np.uint8)
            inverted: np.ndarray = cv2.LUT(img, table).reshape(img.shape)
            return inverted
        return np.where(img >= np.float32(cut), np.float32(low + high) - img, img)


class CropResize(albumentations.RandomResizedCrop):  # type: ignore[misc]  # albumentations is untyped
    """Random resized crop: area U(area) of the image, log-uniform aspect, resized bicubically.

    A crop more than twice the output along a side is resized by area averaging: four taps would skip pixels there and
    alias. The released code is bicubic throughout (the rule is ours). Float images with a declared range are clipped
    to it, since bicubic weights overshoot; uint8 saturates.

    Source: BYOL, appendix B; Szegedy et al. 2015 for the crop.
    """

    def __init__(
        self, size: int, area: Range = (0.08, 1.0), aspect: Range = (3 / 4, 4 / 3), value_range: Range | None = None
    ) -> None:
        super().__init__(size=(size, size), scale=area, ratio=aspect, interpolation=cv2.INTER_CUBIC, p=1.0)
        self.value_range = value_range

    def draw(self, height: int, width: int, rng: np.random.Generator) -> dict[str, Any]:
        """The window of an image of this shape as arguments of `apply`, drawn outside a pipeline."""
        self.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        return {"crop_coords": self.get_params_dependent_on_data({"shape": (height, width)}, {})["crop_coords"]}

    def outline(self, crop_coords: tuple[int, int, int, int]) -> np.ndarray:
        """(4, 2) corners x, y of a drawn window in the image, where pixel k reaches from k to k + 1."""
        return rectangle(*crop_coords)

    def around(self, box: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        """The window that shows just a box (left, top, right, bottom); draws nothing."""
        return {"crop_coords": tuple(box.tolist())}

    def apply(self, img: np.ndarray, crop_coords: tuple[int, int, int, int], **params: Any) -> np.ndarray:
        """(H, W, C) -> (size, size, C) of the same dtype."""
        left, top, right, bottom = crop_coords
        shrinks = max((bottom - top) / self.size[0], (right - left) / self.size[1]) > 2
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        out: np.ndarray = resize(img[top:bottom, left:right], self.size, how)
        if self.value_range is not None and img.dtype != np.uint8:
            out = np.clip(out, *self.value_range)
        return out
