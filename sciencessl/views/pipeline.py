"""The one interface to albumentations: an image and a generator in, an image out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from sciencessl.errors import DataError


class Pipeline:
    """Transforms applied in order, all drawing from the generator of the call.

    Built once a worker, called once a view. Every transform, nested ones too, gets the same NumPy generator and the
    same `random.Random`, which is seeded from it: the result depends on the image and the generator's state alone.
    Seeding each transform by itself (`set_random_seed`) would hand all of them the same numbers, so that operations
    of equal probability would occur together; see the tests of the joint rates. Not for several threads at once.

    Attributes:
        transforms: The albumentations transforms; after a call, `params` of each is non-empty where it was applied.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        import albumentations

        self.transforms = tuple(transforms)
        self._compose = albumentations.Compose(list(transforms), is_check_shapes=False)
        self._random = random.Random(0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One augmented image.

        Args:
            image: (H, W, C) uint8 or float32, any C; never changed. The result may share its memory.
            rng: Generator of this view; it is advanced.

        Returns:
            (H', W', C) of the same dtype.

        Raises:
            DataError: For another dtype or number of dimensions.
        """
        if image.ndim != 3 or image.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"a view takes an (H, W, C) image of uint8 or float32, got {image.dtype} of shape {image.shape}; "
                "the domain's decode should return that."
            )
        self._random.seed(int(rng.integers(2**63)))
        self._compose.set_random_state(rng, self._random)
        result: np.ndarray = self._compose(image=image)["image"]
        return result
