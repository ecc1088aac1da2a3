"""Cells of each class in each tile: counts, as losses on votes take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sciencessl.data_prep.region_areas import UNCLASSIFIED
from sciencessl.data_prep.regions import Region
from sciencessl.errors import DataError, MissingExtraError

MASK_SUFFIXES = (".npz", ".npy", ".png", ".tif", ".tiff")
AT_ONCE = 1 << 16
"""Cells that are dealt to tiles at once."""


@dataclass(frozen=True)
class Cells:
    """Cells of a slide.

    Attributes:
        places: (m, 2) float64 x, y of their centres in level-0 pixels.
        names: (m,) class of each, as text.
    """

    places: np.ndarray
    names: np.ndarray


@dataclass(frozen=True)
class CellCounts:
    """Cells in the n tiles of a slide.

    Attributes:
        classes: The k classes.
        counts: (n, k) int64.
        cells: Of the slide.
        outside: How many of them lie in no tile.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    cells: int = 0
    outside: int = 0


def cells_of_regions(regions: Sequence[Region]) -> Cells:
    """Each point is a cell, and each area one at its centre of area."""
    places = np.array([region.centroid for region in regions]).reshape(-1, 2)
    return Cells(places, np.array([region.class_name or UNCLASSIFIED for region in regions], object))


def cells_of_masks(instances: np.ndarray, types: np.ndarray) -> Cells:
    """Each instance is a cell at the mean of its pixels, of the type that most of them have.

    Args:
        instances: (h, w) whole numbers, the same on all pixels of a cell; 0 is none. Of level-0 pixels.
        types: (h, w) whole numbers, the class of each pixel; 0 is none, and counts only where a cell has no other. Of
            two types with as many pixels the smaller number wins.

    Raises:
        DataError: When the two differ in shape.
    """
    if instances.shape != types.shape:
        raise DataError(f"mask of instances {instances.shape} and mask of types {types.shape} differ in shape; both "
                        "are of the same pixels.")
    y, x = np.nonzero(instances)
    _, cell = np.unique(instances[y, x], return_inverse=True)
    size = np.bincount(cell)
    if not len(size):
        return Cells(np.zeros((0, 2)), np.zeros(0, object))
    places = np.stack([np.bincount(cell, values + 0.5) / size for values in (x, y)], 1)
    known, kind = np.unique(types[y, x], return_inverse=True)
    votes = np.zeros((len(size), len(known)), np.int64)
    np.add.at(votes, (cell, kind), 1)
    votes[:, known == 0] = 0
    names = np.array([str(value) for value in known], object)[votes.argmax(1)]
    names[votes.sum(1) == 0] = UNCLASSIFIED
    return Cells(places, names)


def read_mask(path: Path) -> np.ndarray:
    """(h, w) whole numbers of a mask: NPY, NPZ with one array, PNG or TIFF.

    Raises:
        DataError: When it cannot be read, or is no single plane of whole numbers.
        MissingExtraError: When a TIFF is to be read, and tifffile is not installed.
    """
    try:
        found = _mask(path)
    except MissingExtraError:
        raise
    except Exception as error:  # damaged bytes raise whatever their library likes
        raise DataError(f"mask {path} cannot be read: {type(error).__name__}: {error}.") from None
    if found is None or found.ndim != 2 or found.dtype.kind not in "iub":
        got = "nothing" if found is None else f"{found.dtype} of shape {found.shape}"
        raise DataError(f"mask {path} holds {got}, expected one plane of whole numbers.")
    return found


def _mask(path: Path) -> np.ndarray | None:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                raise ValueError(f"it has the arrays {', '.join(arrays.files)}, expected one")
            return np.asarray(arrays[arrays.files[0]])
    if suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if suffix == ".png":
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtraError("a TIFF mask needs tifffile: pip install 'sciencessl[pathology]'.") from error
    return np.asarray(tifffile.imread(path))


def cells_together(parts: Sequence[Cells]) -> Cells:
    """The cells of several files of a slide."""
    return Cells(np.concatenate([part.places for part in parts]), np.concatenate([part.names for part in parts]))


def count_cells(boxes: np.ndarray, cells: Cells) -> CellCounts:
    """Cells of each class in each tile.

    A cell is counted where its centre is: on the left or upper edge it is in the tile, on the right or lower one in the
    next. So of tiles side by side each cell is in one, and of tiles that overlap in all that hold its centre.

    Args:
        boxes: (n, 4) x, y, width, height of tiles in level-0 pixels.
        cells: Of the slide.
    """
    classes, kind = np.unique(cells.names.astype(str), return_inverse=True)
    counts = np.zeros((len(boxes), len(classes)), np.int64)
    found = np.zeros(len(kind), bool)
    for tile, cell in tiles_of_points(boxes, cells.places):
        np.add.at(counts, (tile, kind[cell]), 1)
        found[cell] = True
    return CellCounts(tuple(classes.tolist()), counts, len(found), int((~found).sum()))


def tiles_of_points(boxes: np.ndarray, points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which points lie in which tiles: pairs of indices of tiles and of points, some points at a time."""
    if not len(boxes) or not len(points):
        return
    # A tile that begins in a bin of the largest size ends in the same or in the next one.
    size, corner = boxes[:, 2:].max(0), boxes[:, :2].min(0)
    bins = np.floor((boxes[:, :2] - corner) / size).astype(np.int64)
    across = int(bins[:, 0].max()) + 3  # one more at either end, so that no bin is the neighbour of another row's
    key = bins[:, 1] * across + bins[:, 0]
    order = np.argsort(key, kind="stable")
    for start in range(0, len(points), AT_ONCE):
        some = points[start : start + AT_ONCE]
        place = np.floor((some - corner) / size)
        place = np.clip(place, -1, bins.max(0) + 1).astype(np.int64)
        for back in ((0, 0), (1, 0), (0, 1), (1, 1)):
            wanted = (place[:, 1] - back[1]) * across + place[:, 0] - back[0]
            first, stop = (np.searchsorted(key[order], wanted, side) for side in ("left", "right"))
            point = np.repeat(np.arange(len(some)), stop - first)
            tile = order[np.arange(len(point)) - np.repeat(np.cumsum(stop - first) - stop, stop - first)]
            inside = ((boxes[tile, :2] <= some[point]) & (some[point] < boxes[tile, :2] + boxes[tile, 2:])).all(1)
            yield tile[inside], point[inside] + start
