"""Where a model of bags looks: the tiles of a slide with their attention, for QuPath and as a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sciencessl.data.loader import Decoder
from sciencessl.evaluate.plots import save_figure
from sciencessl.registry import load_domain
from sciencessl.store.display import fit_display
from sciencessl.store.drawn_labels import BOX
from sciencessl.store.files import write_atomic
from sciencessl.store.format import digest
from sciencessl.store.reader import Store

MAP_PX = 1200
"""Longest side of the mosaic in pixels."""

TILE_PX = 128
"""Most pixels of a tile in it."""

MOST = 3.0
"""Binary logarithm of attention over the average at which colours end: an eighth and eight times."""

CHUNK = 256
"""Tiles that are decoded at a time."""


def tile_boxes(store: Store) -> np.ndarray | None:
    """(N, 4) x, y, width and height of every sample of a store in level-0 pixels of its slide; None where the store
    does not tell them."""
    known = store.columns()
    if not all(column in known for column in BOX):
        return None
    boxes = np.stack([store.column(column).astype(np.float64) for column in BOX], axis=1)
    return boxes if np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all() else None


def map_name(bag: str) -> str:
    """What the files of a bag are called: its name, with what no file may be called replaced.

    >>> map_name("TCGA-05 4244")
    'TCGA-05_4244-ade1'
    """
    plain = re.sub(r"[^\w.-]+", "_", bag).lstrip(".")
    return plain if plain == bag else f"{plain}-{digest(bag.encode())[:4]}"


def write_attention_geojson(path: Path, boxes: np.ndarray, attention: np.ndarray) -> None:
    """Write tiles with their attention as QuPath reads them: objects of type `tile`, in level-0 pixels.

    Measurements are `attention`, which adds up to 1 over the slide, and `attention x tiles`, 1 for an average tile: in
    QuPath, Measure > Show measurement maps colours the tiles by either.

    Args:
        path: Of the file.
        boxes: (n, 4) x, y, width, height.
        attention: (n,).
    """
    features = [_feature(box, share, len(attention)) for box, share in zip(boxes.tolist(), attention, strict=True)]
    text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))
    write_atomic(path, text.encode())


def _feature(box: list[float], share: float, tiles: int) -> dict[str, Any]:
    x, y, width, height = box
    corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    ring = [[round(value, 3) for value in corner] for corner in corners]
    measured = {"attention": float(f"{share:.6g}"), "attention x tiles": float(f"{share * tiles:.6g}")}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "tile", "isLocked": True, "measurements": measured}}


def mosaic(images: Iterable[np.ndarray], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tiles of a slide where they lie, white between them.

    Args:
        images: n arrays (H, W, 3) uint8.
        boxes: (n, 4) x, y, width, height of each in level-0 pixels.

    Returns:
        (H', W', 3) uint8, at most `MAP_PX` long; and (n, 4) int64 left, top, right, bottom of each tile in it.
    """
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    scale = min(MAP_PX / float((high - low).max()), TILE_PX / float(boxes[:, 2:].max()))
    near = np.floor((boxes[:, :2] - low) * scale + 1e-9).astype(np.int64)
    far = np.maximum(np.floor((boxes[:, :2] + boxes[:, 2:] - low) * scale + 1e-9).astype(np.int64), near + 1)
    width, height = far.max(axis=0)
    shown = np.full((height, width, 3), 255, np.uint8)
    places = np.concatenate([near, far], axis=1)
    for image, (left, top, right, bottom) in zip(images, places.tolist(), strict=True):
        size = (right - left, bottom - top)
        shown[top:bottom, left:right] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return shown, places


def tile_images(store: Store, index: np.ndarray) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 of samples as their domain displays them, a few in memory at a time."""
    decoder, display = Decoder(store, load_domain(store.header.domain).decode), fit_display(store)
    for start in range(0, len(index), CHUNK):
        for sample in decoder(index[start : start + CHUNK]):
            yield display(sample)


def attention_figure(shown: np.ndarray, places: np.ndarray, attention: np.ndarray, title: str) -> Any:
    """A slide beside itself with its tiles coloured by attention: blue below that of an average tile, red above.

    Args:
        shown: From `mosaic`.
        places: Likewise.
        attention: (n,), adds up to 1.
        title: Above both.
    """
    from matplotlib.figure import Figure

    level = np.full(shown.shape[:2], np.nan)
    values = np.clip(np.log2(np.maximum(attention * len(attention), 1e-12)), -MOST, MOST)
    for value, (left, top, right, bottom) in zip(values, places.tolist(), strict=True):
        level[top:bottom, left:right] = value
    height, width = shown.shape[:2]
    side = 9.0 / max(2 * width, height)
    figure = Figure(figsize=(max(2 * width * side, 4.0) + 1.2, max(height * side, 1.6) + 0.5), layout="constrained")
    plain, coloured = figure.subplots(1, 2)
    grey = cv2.cvtColor(cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    for axes, below in ((plain, shown), (coloured, grey)):  # grey, for the colours of stains would mix with the scale's
        axes.imshow(below)
        axes.set_axis_off()
    image = coloured.imshow(level, cmap="RdBu_r", vmin=-MOST, vmax=MOST, alpha=0.55, interpolation="nearest")
    bar = figure.colorbar(image, ax=(plain, coloured), ticks=[-3, -2, -1, 0, 1, 2, 3], shrink=0.9)
    bar.ax.set_yticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"], fontsize=8)
    bar.set_label("attention, times that of an average tile", fontsize=8.5)
    figure.suptitle(title, fontsize=9.5, parse_math=False)
    return figure


def write_map(folder: Path, bag: str, title: str, store: Store, index: np.ndarray, boxes: np.ndarray,
              attention: np.ndarray) -> None:
    """Write `BAG.geojson` and `BAG.png` for one bag.

    Args:
        folder: Of both.
        bag: Its name.
        title: Of the picture.
        store: Of its tiles.
        index: (n,) their store indices.
        boxes: (n, 4) their boxes.
        attention: (n,) of them.
    """
    write_attention_geojson(folder / f"{map_name(bag)}.geojson", boxes, attention)
    figure = attention_figure(*mosaic(tile_images(store, index), boxes), attention, title)
    save_figure(figure, folder / f"{map_name(bag)}.png")
