"""Stain jitter of H&E tissue: how much of each stain there is changes, where it is does not.

Source: Tellez et al. (arXiv 1902.06543). Amounts and shifts are in decadic density.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from sciencessl.errors import DataError
from sciencessl.views.density import GLASS, densities, stain_basis, tissue_share, to_pixels
from sciencessl.views.operations import ImageOperation


def jitter_matrix(factors: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """What scaling and shifting the amounts of the stains does to densities, as one linear map.

    Amounts c = D B^-1 of a pixel with densities D (a row), B the basis; D' = (c factors + w shifts) B.

    Args:
        factors: (..., 3) float, of haematoxylin, eosin and DAB.
        shifts: (..., 3) float, in decadic density.

    Returns:
        (..., 3, 4) float64, applied to a column (D, w ln 10) of natural densities D and the share of tissue w.
    """
    basis = stain_basis()
    scale = np.einsum("ij,...j,jk->...ki", np.linalg.inv(basis), factors, basis)
    shift = math.log(10) * np.asarray(shifts, dtype=np.float64) @ basis
    return np.concatenate([scale, shift[..., None]], axis=-1)


class StainJitter(ImageOperation):
    """The amount c of haematoxylin, eosin and DAB becomes c U(1 - s, 1 + s) + w U(-s, s), drawn for each stain.

    s is the strength; 0.05 is "HED-light" and 0.2 "HED-strong" of the source. w fades the shift out on clear glass:
    the square of the mean density of a pixel over `GLASS`, 1 at most, so background stays as white as it was (ours; the
    source shifts all pixels, others mask them). Amounts may be negative and are not clipped, so that strength 0 changes
    nothing. For colour tiles only: RGB of uint8.

    Source: Tellez et al., arXiv 1902.06543, section on stain colour augmentation; the fade is ours.
    """

    def __init__(self, strength: float = 0.05, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.strength = strength

    def get_params(self) -> dict[str, Any]:
        """Factors and shifts of the three stains, for one image."""
        uniform, s = self.py_random.uniform, self.strength
        return {"factors": [uniform(1 - s, 1 + s) for _ in range(3)], "shifts": [uniform(-s, s) for _ in range(3)]}

    def apply(self, img: np.ndarray, factors: list[float], shifts: list[float], **params: Any) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W, 3) uint8.

        Raises:
            DataError: For another dtype or number of channels.
        """
        if img.dtype != np.uint8 or img.shape[2] != 3:
            raise DataError(
                f"stain jitter takes RGB images of uint8, got {img.dtype} of shape {img.shape}; set views.stain to 0 "
                "for images that are not stained tissue in colour."
            )
        density = densities(img)
        tissue = tissue_share(density, math.log(10) * GLASS)
        change = jitter_matrix(np.array(factors), np.array(shifts)).astype(np.float32)
        return to_pixels(cv2.exp(cv2.transform(cv2.merge([density, tissue]), -change)))
