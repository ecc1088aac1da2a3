"""How much of each tile the regions of each class cover, and which class a tile is then of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sciencessl.data_prep.regions import Region, rasterise
from sciencessl.data_prep.tissue import box_means
from sciencessl.errors import ConfigError, unknown_name

SAMPLES = 64
"""Raster pixels along the side of a tile."""
BLOCK_TILES = 16
"""Tiles along the side of a block that is rastered at once: about 10^6 pixels, whatever the slide."""
RULES = ("majority", "centre", "any")
"""How a tile gets its class: see `tile_class`."""
LEAST = {"majority": 0.5, "centre": 0.0, "any": 0.0}
"""Share of a tile that its class must cover where nobody says another."""
UNCLASSIFIED = "unclassified"
"""Class of regions whose file names none."""


@dataclass(frozen=True)
class ClassAreas:
    """What covers the n tiles of a slide.

    Attributes:
        classes: The k classes.
        share: (n, k) float32 share of each tile that regions of each class cover, from 0 to 1; classes may overlap.
        centre: (n, k) bool, whether a class covers the centre of the tile.
    """

    classes: tuple[str, ...]
    share: np.ndarray
    centre: np.ndarray


def class_areas(boxes: np.ndarray, regions: Sequence[Region]) -> ClassAreas:
    """Areas of each class in each tile. Tiles may overlap, and lie anywhere.

    Tiles are rastered in blocks, with `SAMPLES` pixels along a side of the largest: a straight border through a tile
    displaces its share by half a pixel at most (0.8 % of the tile), borders at an angle and closed outlines by far
    less. Centres are right to one pixel.

    Args:
        boxes: (n, 4) x, y, width, height of tiles in level-0 pixels.
        regions: Areas; points are passed over.

    Source: ours.
    """
    areas = [region for region in regions if region.kind == "area"]
    classes = tuple(sorted({region.class_name or UNCLASSIFIED for region in areas}))
    found = ClassAreas(classes, np.zeros((len(boxes), len(classes)), np.float32),
                       np.zeros((len(boxes), len(classes)), bool))
    for column, name in enumerate(classes):
        same = [region for region in areas if (region.class_name or UNCLASSIFIED) == name]
        spans = np.array([region.box for region in same])
        for members in _blocks(boxes):
            _fill(found, column, boxes[members], members, same, spans)
    return found


def _blocks(boxes: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of the tiles of each block."""
    if not len(boxes):
        return
    side = boxes[:, 2:].max(0) * BLOCK_TILES
    _, block = np.unique(np.floor(boxes[:, :2] / side), axis=0, return_inverse=True)
    order = np.argsort(block.ravel(), kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(block.ravel()[order])) + 1)


def _fill(
    found: ClassAreas, column: int, boxes: np.ndarray, members: np.ndarray, regions: Sequence[Region], spans: np.ndarray
) -> None:
    low, high = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    near = np.flatnonzero((spans[:, :2] < high).all(1) & (spans[:, 2:] > low).all(1))
    if not near.size:
        return
    scale = boxes[:, 2:].max(0) / SAMPLES
    width, height = np.ceil((high - low) / scale - 1e-9).astype(int)
    raster = rasterise((regions[i] for i in near.tolist()), (height, width), (scale[0], scale[1]), (low[0], low[1]))
    placed = boxes - [*low, 0.0, 0.0]
    found.share[members, column] = box_means(raster, placed, (scale[0], scale[1]))
    x, y = ((placed[:, :2] + placed[:, 2:] / 2) / scale).astype(int).T
    found.centre[members, column] = raster[y, x]


def tile_class(areas: ClassAreas, order: Sequence[str], rule: str = "majority", least: float | None = None) -> list[
    str | None
]:
    """The class of each tile.

    Args:
        areas: Of the tiles.
        order: Classes that a tile may be of; the earlier one goes before where several may be.
        rule: `majority` is the class that covers most of the tile; `centre` the first in order that covers its centre;
            `any` the first in order that covers some of it.
        least: Share of the tile that the class must cover, from 0 to 1; None takes that of the rule in `LEAST`.

    Returns:
        One class a tile; None where no class may be.

    Raises:
        ConfigError: For an unknown rule, or a share out of range.
    """
    if rule not in RULES:
        raise ConfigError(f"--rule: {unknown_name('rule', rule, RULES)}")
    least = LEAST[rule] if least is None else least
    if not 0 <= least <= 1:
        raise ConfigError(f"--min-fraction {least:g}: a share of the tile is from 0 to 1.")
    columns = [areas.classes.index(name) for name in order if name in areas.classes]
    if not columns:
        return [None] * len(areas.share)
    share = areas.share[:, columns]
    may: np.ndarray = (share >= least) & (areas.centre[:, columns] if rule == "centre" else share > 0)
    best = np.argmax(np.where(may, share, -1.0) if rule == "majority" else may, axis=1)
    names = [areas.classes[column] for column in columns]
    return [names[i] if some else None for i, some in zip(best, np.any(may, axis=1), strict=True)]
