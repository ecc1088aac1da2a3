"""Boxes around light that stands out of the noise of a stamp, as proposals of instances. Source: ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from sciencessl.views.proposals import level_boxes, picture_boxes, searched

if TYPE_CHECKING:
    from sciencessl.domains.galaxy.flux_views import Flux

SIGMAS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Levels above the sky that light is connected at, in its noise: a blend comes apart at the higher ones."""
SEEING_PX = 1.0


def galaxy_boxes(given: np.ndarray | Flux) -> np.ndarray:
    """(N, 4) int32 boxes of what stands out of a picture, as `picture_boxes` finds them, or of the noise of flux.

    Of flux: each band less its median over its noise level, added up over the bands, smoothed, in noise levels of
    that; where no band is known there is no light. Boxes as `level_boxes` orders and filters them.
    """
    from sciencessl.domains.galaxy.flux_views import noise_level

    if isinstance(given, np.ndarray):
        return picture_boxes(given)
    image = given.image
    known = np.isfinite(image)
    sky = np.array([np.median(image[..., band][known[..., band]]) if known[..., band].any() else 0.0
                    for band in range(image.shape[2])], np.float32)
    noise = noise_level(image)
    light = np.where(known, image - sky, 0.0) / np.where(noise > 0, noise, np.float32(1))
    found = cv2.GaussianBlur(light.sum(axis=2, dtype=np.float32), (0, 0), SEEING_PX)[..., None]
    found /= np.maximum(noise_level(found), np.float32(1e-6))
    return level_boxes([searched(found)[..., 0]], [SIGMAS], image.shape)
