"""The two training views of BYOL, the colours of SwAV, and the evaluation view, from settings of plain numbers.

Table of operations: BYOL (arXiv 2006.07733), appendix B, table 6, and the released augmentations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sciencessl.errors import ConfigError
from sciencessl.views.pipeline import Pipeline

Pair = tuple[float, float]


@dataclass(frozen=True)
class CropSettings:
    """How much of the image a view shows.

    Attributes:
        area: Lowest and highest share of the image's area, drawn uniformly.
        aspect: Lowest and highest width / height, drawn log-uniformly.

    Raises:
        ConfigError: For a pair that is not 0 < low <= high, or an area above 1.
    """

    area: Pair = (0.08, 1.0)
    aspect: Pair = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name in ("area", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"crop.{name}={(low, high)} must be (low, high) with 0 < low <= high.")
        if self.area[1] > 1:
            raise ConfigError(f"crop.area={self.area} is a share of the image and cannot exceed 1.")


@dataclass(frozen=True)
class PhotometricSettings:
    """How pixel values change. Pairs of probabilities belong to view 1 and view 2.

    Attributes:
        jitter: Probability of the colour jitter.
        brightness: Largest shift, as a fraction of the value range.
        contrast: Largest relative change of contrast around each channel's mean.
        saturation: Largest relative change of saturation; uint8 RGB only.
        hue: Largest turn of the hue, in turns; uint8 RGB only.
        greyscale: Probability of grey.
        blur: Probabilities of the Gaussian blur.
        sigma: Range of its width in pixels.
        solarise: Probabilities of solarisation.
        threshold: Where it starts, as a fraction of the value range.
        value_range: Lowest and highest value of float images. uint8 needs none. Brightness and solarise refuse float
            images while it is None.

    Raises:
        ConfigError: For a value outside its range.
    """

    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    greyscale: float = 0.2
    blur: Pair = (1.0, 0.1)
    sigma: Pair = (0.1, 2.0)
    solarise: Pair = (0.0, 0.2)
    threshold: float = 0.5
    value_range: Pair | None = None

    def __post_init__(self) -> None:
        for name in ("jitter", "brightness", "contrast", "saturation", "greyscale", "threshold", "blur", "solarise"):
            value = getattr(self, name)
            if not all(0 <= v <= 1 for v in (value if isinstance(value, tuple) else (value,))):
                raise ConfigError(f"photometric.{name}={value} must lie in [0, 1].")
        if not 0 <= self.hue <= 0.5:
            raise ConfigError(f"photometric.hue={self.hue} must lie in [0, 0.5]: half a turn is every hue.")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ConfigError(f"photometric.sigma={self.sigma} must be (low, high) with 0 < low <= high, in pixels.")
        if self.value_range is not None and not -math.inf < self.value_range[0] < self.value_range[1] < math.inf:
            raise ConfigError(f"photometric.value_range={self.value_range} must be finite (low, high) with low < high.")


def swav_photometric() -> PhotometricSettings:
    """What SwAV and SEER change pixel values by, the same for every view: colour distortion of strength 1 and blur half
    the time, no solarisation.

    Brightness is added here and multiplied by a factor there: a shift of 0.4 of the range is what a factor of up to
    1.8 does to middle grey (ours).

    Source: SEER (arXiv 2103.01988) and its configurations; SwAV (arXiv 2006.09882); SimCLR (arXiv 2002.05709).
    """
    return PhotometricSettings(
        brightness=0.4, contrast=0.8, saturation=0.8, hue=0.2, blur=(0.5, 0.5), solarise=(0.0, 0.0)
    )


def byol_views(
    size: int,
    photometric: PhotometricSettings | None = None,
    crop: CropSettings | None = None,
    flip: float = 0.5,
) -> tuple[Pipeline, Pipeline]:
    """The two views of BYOL: crop, flip, jitter, greyscale, blur, solarise, in this order.

    Args:
        size: Side of both views in pixels; the blur kernel follows from it.
        photometric: Changes of pixel values; BYOL's by default.
        crop: Crop; BYOL's by default.
        flip: Probability of the horizontal flip.

    Returns:
        Pipelines of view 1 (always blurred) and view 2 (solarised at times).

    Raises:
        ConfigError: For a size below 1 or a flip that is no probability.
    """
    if size < 1 or not 0 <= flip <= 1:
        raise ConfigError(f"views: size={size} must be at least 1 pixel and flip={flip} lie in [0, 1].")
    settings = photometric or PhotometricSettings()
    chosen = crop or CropSettings()
    return _view(size, settings, chosen, flip, 0), _view(size, settings, chosen, flip, 1)


def _view(size: int, photometric: PhotometricSettings, crop: CropSettings, flip: float, which: int) -> Pipeline:
    # Imported here: reading or printing settings must not cost the import of albumentations.
    import albumentations

    from sciencessl.views import operations as op

    of = photometric
    jitter = op.ByolColourJitter(of.brightness, of.contrast, of.saturation, of.hue, of.value_range, p=of.jitter)
    return Pipeline(
        [
            op.CropResize(size, crop.area, crop.aspect, of.value_range),
            albumentations.HorizontalFlip(p=flip),
            jitter,
            op.Greyscale(p=of.greyscale),
            op.GaussianBlur(op.blur_kernel(size), of.sigma, p=of.blur[which]),
            op.Solarise(of.threshold, of.value_range, p=of.solarise[which]),
        ]
    )


def evaluated_side(size: int) -> int:
    """Shorter side in pixels that an image is resized to before its centre is evaluated: size * 256 / 224, rounded."""
    return round(size * 256 / 224)


def evaluation_view(size: int, shorter_side: int | None = None) -> Pipeline:
    """The whole image, as evaluated: shorter side resized, then the centre cropped to a square.

    Shrinking averages areas and so does not alias; enlarging is bicubic (the released code is bicubic for both).

    Args:
        size: Side of the crop in pixels.
        shorter_side: What the shorter side is resized to; `evaluated_side(size)` by default.

    Raises:
        ConfigError: For a size below 1 or a shorter side below the size.
    """
    shorter = evaluated_side(size) if shorter_side is None else shorter_side
    if not 1 <= size <= shorter:
        raise ConfigError(f"evaluation view: size={size} must be at least 1 and at most shorter_side={shorter}.")
    import albumentations
    import cv2

    resized = albumentations.SmallestMaxSize(shorter, interpolation=cv2.INTER_CUBIC, area_for_downscale="image")
    return Pipeline([resized, albumentations.CenterCrop(size, size)])
