"""Rotation, crop and flips in one resampling: for fields where no direction is up."""

from __future__ import annotations

import math
from typing import Any

import albumentations
import cv2
import numpy as np

from sciencessl.views.boxes import rectangle

Range = tuple[float, float]


class RotatedCrop(albumentations.ImageOnlyTransform):  # type: ignore[misc]  # albumentations is untyped
    """A square window of random place, size, aspect and angle, resampled once.

    Rotating first and cropping afterwards would interpolate twice; here one affine map does both, so that noise and
    the PSF are smoothed once. Outside the image its reflection is seen. An image that would shrink more than twice is
    first averaged down by a whole factor, since four taps would alias. Source: ours.

    Args:
        size: Side of the result in pixels.
        area: Window area over image area, drawn uniformly.
        aspect: Width over height of the window, drawn log-uniformly.
        rotate: Any angle when True; otherwise upright.
        flips: Mirror along each axis with probability 1/2.
        shift: Largest distance along each axis between the centres of window and image, as a fraction of the window's
            side, for images of one centred object; None allows every place where an upright window lies inside.
    """

    def __init__(
        self, size: int, area: Range, aspect: Range = (1.0, 1.0), rotate: bool = True, flips: bool = True,
        shift: float | None = None,
    ) -> None:
        super().__init__(p=1.0)
        self.size = size
        self.area = area
        self.aspect = aspect
        self.rotate = rotate
        self.flips = flips
        self.shift = shift

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the window of this image."""
        height, width = params["shape"][:2]
        return self.draw(height, width, self.random_generator)

    def draw(self, height: int, width: int, rng: np.random.Generator) -> dict[str, Any]:
        """The window of an image of this shape as arguments of `apply`; the mirrors are drawn last."""
        side = math.sqrt(rng.uniform(*self.area) * height * width)
        ratio = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
        window = (side * math.sqrt(ratio), side / math.sqrt(ratio))
        centre = tuple(
            extent / 2 + self._reach(extent, length) * rng.uniform(-1.0, 1.0)
            for extent, length in zip((width, height), window, strict=True)
        )
        angle = rng.uniform(0.0, 2 * math.pi) if self.rotate else 0.0
        mirror = (rng.random() < 0.5, rng.random() < 0.5) if self.flips else (False, False)
        return {"window": window, "centre": centre, "angle": angle, "mirror": mirror}

    def outline(self, window: Range, centre: Range, angle: float, mirror: tuple[bool, bool]) -> np.ndarray:
        """(4, 2) corners x, y of a drawn window in the image, where pixel k reaches from k to k + 1."""
        corners = rectangle(-0.5, -0.5, 0.5, 0.5) * window
        turned: np.ndarray = corners @ _rotation(angle).T + np.array(centre)
        return turned

    def around(self, box: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        """The window that shows just a box (left, top, right, bottom), in any of its quarter turns and mirror images
        that this crop draws."""
        left, top, right, bottom = box.tolist()
        turns = int(rng.integers(4)) if self.rotate else 0
        mirror = (rng.random() < 0.5, rng.random() < 0.5) if self.flips else (False, False)
        sides = (float(right - left), float(bottom - top))
        return {
            "window": sides[::-1] if turns % 2 else sides, "centre": ((left + right) / 2, (top + bottom) / 2),
            "angle": turns * math.pi / 2, "mirror": mirror,
        }

    def _reach(self, extent: float, length: float) -> float:
        """Largest distance of the centres along one axis, in pixels."""
        slack = max(extent - length, 0.0) / 2
        return slack if self.shift is None else min(self.shift * length, slack)

    def apply(
        self, img: np.ndarray, window: Range, centre: Range, angle: float, mirror: tuple[bool, bool], **params: Any
    ) -> np.ndarray:
        """(H, W, C) -> (size, size, C) of the same dtype."""
        factor = max(int(min(window) / self.size), 1)
        full_height, full_width = img.shape[:2]
        height, width = full_height // factor, full_width // factor
        if factor > 1:
            img = resize(img, height, width)
        # Sides that are no multiples of the factor shrink by a little more than it.
        matrix = self._matrix(window, centre, angle, mirror, (full_width / width, full_height / height))
        out = cv2.warpAffine(
            img, matrix, (self.size, self.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
        )
        result: np.ndarray = out.reshape(self.size, self.size, -1)
        return result

    def _matrix(
        self, window: Range, centre: Range, angle: float, mirror: tuple[bool, bool], shrink: Range
    ) -> np.ndarray:
        """Pixel (x, y) of the result -> pixel of the image shrunk by (x, y) factors; centres are at whole numbers."""
        scale = np.array(window) / self.size * np.where(mirror, -1.0, 1.0)
        linear = _rotation(angle) * scale
        middle = (self.size - 1) / 2
        offset = np.array(centre) - 0.5 - linear @ np.array([middle, middle])
        full = np.column_stack([linear, offset])
        # The centre of a shrunk pixel k lies at (k + 0.5) * factor - 0.5 of the full image.
        factor = np.array(shrink)
        full[:, 2] = (full[:, 2] + 0.5) / factor - 0.5
        full[:, :2] /= factor[:, None]
        return full


def _rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def centre_window(image: np.ndarray, fraction: float, size: int) -> np.ndarray:
    """The middle square of an image, (H, W, C) -> (size, size, C): what is evaluated.

    Args:
        fraction: Side of the window over the shorter side of the image, in (0, 1].
        size: Side of the result in pixels; shrinking averages areas.
    """
    side = max(round(min(image.shape[:2]) * fraction), 1)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    window = image[top : top + side, left : left + side]
    return resize(window, size, size)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, C) -> (height, width, C) of the same dtype; shrinking averages areas, growing is bicubic."""
    how = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_CUBIC
    # OpenCV averages areas of four channels at most.
    parts = [
        cv2.resize(np.ascontiguousarray(image[..., i : i + 4]), (width, height), interpolation=how)
        for i in range(0, image.shape[2], 4)
    ]
    shaped = [part.reshape(height, width, -1) for part in parts]
    return shaped[0] if len(shaped) == 1 else np.concatenate(shaped, axis=2)
