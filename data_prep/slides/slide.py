"""What is known of a slide, and what a backend must be able to do with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

WHITE = 255
"""Value of pixels outside a slide, or where its scanner saw nothing: what glass looks like."""


@dataclass(frozen=True)
class Mpp:
    """Pixel scale of level 0.

    Attributes:
        x: um a pixel along a row.
        y: um a pixel along a column.
        origin: Where it is from, in words: `openslide.mpp-x`, `TIFF resolution tags`, `manifest`, `--slide-mpp`...
    """

    x: float
    y: float
    origin: str


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Attributes:
        width: Pixels.
        height: Pixels.
        downsample: (x, y) level-0 pixels to one pixel of this level, at least 1. A whole number where the level's size
            is that of level 0 divided by it up to rounding, else the ratio of sizes.
        tile_px: (width, height) of the tiles that the file is made of; None where it has none or nobody knows.
    """

    width: int
    height: int
    downsample: tuple[float, float] = (1.0, 1.0)
    tile_px: tuple[int, int] | None = None


@dataclass(frozen=True)
class SlideInfo:
    """What a file says of its slide. Nothing here identifies a patient: no comment, label, date or name.

    Attributes:
        backend: `openslide`, `flat` or `native`.
        vendor: As OpenSlide calls it: `aperio`, `hamamatsu`, `generic-tiff`, `dicom`...; `flat` for images without one.
        levels: From fine to coarse; the first is level 0.
        mpp: As the file says, whatever it is; None where it says nothing.
        power: Objective power, for people only: it is no pixel scale.
        said: How the backend came to be chosen, for people: "decodes native tiles", "falls back on OpenSlide: ...".
    """

    backend: str
    vendor: str
    levels: tuple[Level, ...]
    mpp: Mpp | None = None
    power: float | None = None
    said: str = ""


class SlideReader(Protocol):
    """An open slide. Opened where it is used, never sent to another process; close it."""

    @property
    def info(self) -> SlideInfo:
        """What the file says."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of one level, never resampled.

        Args:
            level: Index of the level.
            x: Left edge in pixels of that level; may be negative.
            y: Upper edge in pixels of that level; may be negative.
            width: Pixels of that level.
            height: Pixels of that level.

        Returns:
            (height, width, 3) uint8 RGB; white outside the level and where the slide is transparent.

        Raises:
            Refused: With reason `corrupt`, `truncated` or `missing-file` when pixels cannot be read.
        """

    def native_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """A native tile as a JPEG file of its own, its entropy-coded scan byte for byte that of the slide.

        Returns:
            The file, decoded by any JPEG library to the pixels that `read` gives; None where the tile is no baseline
            JPEG, lies off the level, or reaches over its edge.
        """

    def close(self) -> None:
        """Release the file and every cache."""
