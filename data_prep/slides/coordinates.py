"""Tiles whose corners another tool chose: `SLIDE.h5` files of CLAM and TRIDENT instead of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.grid import TileGrid
from sciencessl.data_prep.slides.resolution import Target, serving_level
from sciencessl.data_prep.slides.slide import Mpp, SlideInfo
from sciencessl.errors import DataError
from sciencessl.evaluate.slide_h5 import SlideH5, read_slide_h5

ENDINGS = (".h5", "_patches.h5")
WITHIN = 0.02
"""Share by which fields may differ: both tools round magnifications, and pixels of scanners are 0.2467 um as often as
0.25, but the next scale that anybody asks for is much further."""


def coordinates_file(folder: str, slide: str) -> Path | None:
    """The file of a slide, if there is one."""
    return next((path for path in (Path(folder) / f"{slide}{ending}" for ending in ENDINGS) if path.is_file()), None)


def find_coordinates(folder: str, slide: str) -> SlideH5:
    """What another tool says of a slide.

    Raises:
        Refused: With reason `no-coords` where there is no file, or none that can be read.
    """
    path = coordinates_file(folder, slide)
    if path is None:
        raise Refused("no-coords", f"--coords has neither {' nor '.join(slide + ending for ending in ENDINGS)}")
    try:
        return read_slide_h5(path)
    except DataError as error:
        raise Refused("no-coords", str(error).replace(str(path), path.name)) from error


def coordinate_grid(info: SlideInfo, mpp: Mpp, target: Target, upsample: bool, found: SlideH5) -> TileGrid:
    """Tiles at given corners, each moved to the nearest stored pixel (`x0`, `y0` stay as given), row after row.

    Args:
        info: The slide.
        mpp: Scale of its level 0.
        target: Scale and side of stored tiles.
        upsample: As in `tile_grid`.
        found: Corners in level-0 px, and what says how large tiles are.

    Raises:
        Refused: With reason `other-tiles` where the file's tiles are not of this field or do not lie on the slide; as
            `serving_level`.
    """
    serving = serving_level(info, mpp, target, upsample)
    level, side, step = info.levels[serving.level], target.tile_px, serving.step
    down = level.downsample
    field0 = (side * step[0] * down[0], side * step[1] * down[1])
    theirs = _field0(found.attributes)
    if theirs is not None and max(abs(theirs / own - 1) for own in field0) > WITHIN:
        raise Refused("other-tiles", f"the coordinates are of tiles of {theirs:.5g} px of level 0 ({theirs * mpp.x:.4g}"
                      f" um), and {side} px of {serving.mpp[0]:.4g} um are {field0[0]:.5g}; ask for the scale and size "
                      "that they were made with")
    corners = np.unique(found.coords, axis=0).astype(np.float64)
    corners = corners[np.lexsort((corners[:, 0], corners[:, 1]))]
    x, y = (np.round(corners[:, axis] / (down[axis] * step[axis])) * step[axis] for axis in (0, 1))
    inside = [np.clip((np.minimum(at + side * each, size) - np.maximum(at, 0)) / (side * each), 0, 1)
              for at, each, size in ((x, step[0], level.width), (y, step[1], level.height))]
    valid = (inside[0] * inside[1]).astype(np.float32)
    if not len(valid) or not valid.all():
        raise Refused("other-tiles", f"{int((valid == 0).sum())} of {len(valid)} coordinates lie outside the slide, of "
                      f"{info.levels[0].width} x {info.levels[0].height} px: are they of another one?")
    return TileGrid(serving.level, side, step, serving.mpp, x, y, corners[:, 0], corners[:, 1], field0, valid)


def _field0(told: Mapping[str, Any]) -> float | None:
    """Side of the file's tiles in level-0 px; None where it does not say."""
    if "patch_size_level0" in told:
        return float(told["patch_size_level0"])
    if "patch_size" in told and "downsample" in told:
        return float(told["patch_size"]) * float(np.ravel(told["downsample"])[0])
    return None
