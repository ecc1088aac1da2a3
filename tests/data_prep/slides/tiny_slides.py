"""Small slides on disk, made pixel by pixel, for tests of what reads files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile

GLASS = 244


def tissue_picture(width: int, height: int, seed: int = 0, box: tuple[float, float, float, float] | None = None):
    """(height, width, 3) uint8: pink tissue with dark nuclei in a box (shares of width and height), glass around."""
    rng = np.random.default_rng(seed)
    left, top, right, bottom = box or (0.2, 0.2, 0.8, 0.8)
    picture = np.full((height, width, 3), GLASS, np.uint8)
    x0, x1, y0, y1 = (round(v) for v in (left * width, right * width, top * height, bottom * height))
    inside = np.array([216, 150, 190]) + 12 * cv2.GaussianBlur(rng.standard_normal((y1 - y0, x1 - x0, 3)), (0, 0), 2)
    picture[y0:y1, x0:x1] = np.clip(inside, 0, 255)
    for _ in range((x1 - x0) * (y1 - y0) // 700):
        at = (int(rng.integers(x0 + 5, x1 - 5)), int(rng.integers(y0 + 5, y1 - 5)))
        cv2.circle(picture, at, 4, (96, 60, 130), -1, cv2.LINE_AA)
    return picture


def write_slide(
    path: Path, picture: np.ndarray, mpp: float | None = 0.5, tile: int = 64, levels: int = 2, aperio: bool = False,
    label: np.ndarray | None = None,
) -> Path:
    """A tiled pyramidal JPEG TIFF that OpenSlide opens, with or without a scale; `aperio` makes it an SVS."""
    said = f"Aperio Image Library v11\r\n{picture.shape[1]}x{picture.shape[0]} JPEG|AppMag = 20"
    if mpp is not None:
        said += f"|MPP = {mpp}"
    shared = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 92}, "metadata": None}
    unit = {} if mpp is None or aperio else {"resolution": (1e4 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=False) as out:
        for level in range(levels):
            size = (picture.shape[1] >> level, picture.shape[0] >> level)
            pixels = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if level else picture
            out.write(pixels, tile=(tile, tile), description=said if aperio else None, subfiletype=0 if aperio else
                      int(level > 0), software=None, **shared, **unit)
            if aperio and level == 0:
                out.write(picture[::8, ::8], description="Aperio thumbnail", software=None, **shared)
        if label is not None:
            out.write(label, description="Aperio\r\nlabel 10x10", subfiletype=1, software=None, photometric="rgb",
                      compression="lzw", metadata=None)
    return path
