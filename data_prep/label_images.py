"""Label images of tiles: what is drawn on slides, or painted by someone, as one PNG a tile whose values are classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from sciencessl.data_prep.cell_counts import MASK_SUFFIXES, read_mask
from sciencessl.data_prep.regions import Region, rasterise
from sciencessl.errors import ConfigError, DataError

BACKGROUND = "background"
"""What value 0 is called where nothing is drawn; a task that does not map it ignores those pixels."""

UNJUDGED = 255
"""Value of a pixel that nobody judged."""


def region_images(
    boxes: np.ndarray, sides: Sequence[int], regions: Sequence[Region], classes: Sequence[str]
) -> list[bytes]:
    """A PNG for each tile: value i + 1 where the i-th class is drawn, 0 where none is.

    Args:
        boxes: (n, 4) x, y, width, height of tiles in level-0 pixels.
        sides: (n) pixels along a side of each tile as it is stored.
        regions: Areas; points are passed over.
        classes: 254 at most; the earlier go before where they overlap.

    Source: ours (`regions.rasterise`: a pixel is of a class when its centre is).
    """
    areas = {name: [region for region in regions if region.kind == "area" and region.class_name == name]
             for name in classes}
    spans = {name: np.array([region.box for region in same]).reshape(-1, 4) for name, same in areas.items()}
    found = []
    for (x, y, width, height), side in zip(boxes.tolist(), sides, strict=True):
        image = np.zeros((side, side), np.uint8)
        for value in range(len(classes), 0, -1):
            span = spans[classes[value - 1]]
            near = (span[:, :2] < (x + width, y + height)).all(1) & (span[:, 2:] > (x, y)).all(1)
            some = [areas[classes[value - 1]][i] for i in np.flatnonzero(near).tolist()]
            image[rasterise(some, (side, side), (width / side, height / side), (x, y))] = value
        found.append(_png(image))
    return found


def image_table(name: str, ids: Sequence[str], images: Sequence[bytes], names: Sequence[str]) -> pa.Table:
    """Label images as a table with one column, whose field names the values, 0 first."""
    metadata = {b"classes": json.dumps(list(names)).encode()}
    schema = pa.schema([pa.field("id", pa.string()), pa.field(name, pa.binary(), metadata=metadata)])
    return pa.table([pa.array(ids, pa.string()), pa.array(images, pa.binary())], schema=schema)


def find_images(
    source: Path, ids: Sequence[str], slides: Sequence[str]
) -> tuple[dict[str, Path], dict[str, Path], int]:
    """Which tile or slide each image of a folder is of: `ID.png` or `SLIDE.png`, in any sub-folder.

    Returns:
        Id -> file, slide -> file, and how many files are of neither.

    Raises:
        ConfigError: When there is no folder, or no image in it.
        DataError: When not one is named after a sample or slide, or two after the same.
    """
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in MASK_SUFFIXES and path.is_file()
                   ) if source.is_dir() else []
    if not files:
        raise ConfigError(f"{source} is no folder with label images ({', '.join(MASK_SUFFIXES)}), named after samples "
                          "(ID.png) or slides (SLIDE.png).")
    own, known = set(ids), set(slides)
    tiles: dict[str, Path] = {}
    whole: dict[str, Path] = {}
    strange = 0
    for path in files:
        into = tiles if path.stem in own else whole if path.stem in known else None
        if into is None:
            strange += 1
        elif into.setdefault(path.stem, path) != path:
            raise DataError(f"{into[path.stem]} and {path} are both of {path.stem!r}; keep one of them.")
    if not tiles and not whole:
        raise DataError(f"not one of the {len(files):,} images of {source} is named after a sample of the store, such "
                        f"as {ids[0]}.png{f', or after a slide, such as {slides[0]}.png' if slides else ''}; the first "
                        f"is {files[0].name}.")
    return tiles, whole, strange


def tile_image(path: Path) -> bytes:
    """The label image of one tile as PNG.

    Raises:
        DataError: When it is not square, or a value is no class number.
    """
    return _png(_values(read_mask(path), path))


def cut_images(path: Path, boxes: np.ndarray, sides: Sequence[int]) -> list[bytes]:
    """The label images of tiles, cut from that of their slide, which has the pixels of level 0.

    What of a tile lies outside the slide's image is `UNJUDGED`; where pixels are of another size, the nearest counts.

    Raises:
        DataError: When a value is no class number.
    """
    whole = _values(read_mask(path), path, square=False)
    height, width = whole.shape
    found = []
    for (x, y, across, down), side in zip(boxes.tolist(), sides, strict=True):
        columns = np.floor(x + (np.arange(side) + 0.5) * across / side).astype(np.int64)
        rows = np.floor(y + (np.arange(side) + 0.5) * down / side).astype(np.int64)
        image = whole[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))].copy()
        image[(rows < 0) | (rows >= height)] = UNJUDGED
        image[:, (columns < 0) | (columns >= width)] = UNJUDGED
        found.append(_png(image))
    return found


def numbered_names(names: Mapping[str, str]) -> tuple[str, ...]:
    """What values are called, 0 first, from `NUMBER=NAME`; a value without one by its number.

    Raises:
        ConfigError: For what is no such number.
    """
    for number in names:
        if not (number.isdecimal() and int(number) < UNJUDGED):
            raise ConfigError(f"--classes {number}: label images have numbers, so give NUMBER=NAME, such as "
                              "0=background 1=nucleus, each number below 255.")
    most = max((int(number) for number in names), default=-1)
    return tuple(names.get(str(value), str(value)) for value in range(most + 1))


def _values(found: np.ndarray, path: Path, square: bool = True) -> np.ndarray:
    if square and found.shape[0] != found.shape[1]:
        raise DataError(f"label image {path} has {found.shape[1]} x {found.shape[0]} pixels; that of a tile is square.")
    if found.size and (found.min() < 0 or found.max() > UNJUDGED):
        raise DataError(f"label image {path} has values from {found.min()} to {found.max()}; a value is a class from 0 "
                        "to 254, or 255 where nobody judged. Images of instances are counted with --from cells.")
    return found.astype(np.uint8)


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])
