"""Small slides that tests write: pyramids of tiled TIFF whose pixels are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")


def tissue(width: int, height: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: smooth blobs and noise of every colour, so that any shift or smoothing shows."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (height // 16 + 2, width // 16 + 2, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth + rng.normal(0, 25, smooth.shape), 0, 255), np.uint8)


@pytest.fixture(scope="session")
def image() -> Callable[..., np.ndarray]:
    """Width, height, seed -> pixels."""
    return tissue


WriteSlide = Callable[..., list[np.ndarray]]


def write(
    path: Path, sizes: Sequence[tuple[int, int]], tile: int = 64, compression: Any = "deflate", sub: bool = False,
    **options: Any,
) -> list[np.ndarray]:  # fmt: skip
    """A pyramid of unrelated noise, one image a level; returns its pixels (before any lossy compression)."""
    levels = [tissue(*size, seed=i) for i, size in enumerate(sizes)]
    shape = {"photometric": "rgb", "tile": (tile, tile), "compression": compression, "metadata": None, **options}
    with tifffile.TiffWriter(path) as file:
        for i, pixels in enumerate(levels):
            subifds = len(sizes) - 1 if sub and i == 0 else None
            file.write(pixels, subifds=subifds, subfiletype=1 if i else 0, **shape)
    return levels


@pytest.fixture(scope="session")
def write_slide() -> WriteSlide:
    """See `write`."""
    return write
