"""`store label --from regions|cells|masks`: what people or programs drew or painted becomes a table of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.errors import ConfigError, did_you_mean
from sciencessl.registry import annotation_reader, mask_reader
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.tables import REMOVALS, current_digest, some_names, write_table

DEFAULT_NAMES = {"regions": "region", "cells": "cells", "masks": "mask"}
"""What is drawn -> name of its table."""
SIDE = "width"
"""Column of the pixels along a side of a stored tile."""
BOX = ("x_px", "y_px", "field_px_x", "field_px_y")
"""Columns of a tile's place on its slide, in level-0 pixels: upper left corner, width and height."""
SLIDE = "slide"
SHOWN = 5


@dataclass(frozen=True)
class DrawnReport:
    """What `label_drawn` did.

    Attributes:
        store: The store.
        name: Of the table.
        columns: Its columns.
        labelled: Tiles that have a row in it.
        with_value: Tiles of which it says something: a class, or a count above 0.
        said: Sentences on what was taken, and on what was left out.
        refused: Files that could not be used: `file`, `reason`, `detail` of each.
        unchanged: Whether the table was there already, just so.
        digest: Of the table: what runs record.
    """

    store: Path
    name: str
    columns: tuple[str, ...]
    labelled: int
    with_value: int
    said: tuple[str, ...]
    refused: tuple[Any, ...]
    unchanged: bool
    digest: str


def label_drawn(
    store: str | Path,
    source: str | Path,
    origin: str,
    name: str = "",
    rule: str = "majority",
    min_fraction: float | None = None,
    classes: Sequence[str] = (),
    raters: bool = False,
    by_file: str = "",
    note: str = "",
    overwrite: bool = False,
    masks: bool = False,
) -> DrawnReport:
    """Put what annotation files say of tiles beside the pixels of a sealed store prepared from slides.

    Args:
        store: A sealed store whose rows have `slide` and the columns of `BOX`.
        source: An annotation file, or a folder with them, named after the slides.
        origin: `regions` gives areas and the class of each tile, `cells` gives counts. `masks` are label images, named
            after samples or slides; for the former any store will do.
        name: Of the table, its question and its column of classes; empty takes that of `DEFAULT_NAMES`.
        rule: How a tile gets its class: `majority`, `centre` or `any`.
        min_fraction: Share of the tile that its class must cover; None is 0.5 for a majority, else 0.
        classes: `NAME` or `NAME=OURS` of the classes to take, the earlier going before; empty takes all.
        raters: Whether several people annotated the same slides, whose classes are votes.
        by_file: CSV that says of which slide each file is.
        note: Where the annotations come from, in words, before what is known of them.
        overwrite: Replace another table of that name.
        masks: Whether regions become a label image of each tile: value i + 1 for the i-th of `classes`, 0 elsewhere.

    Raises:
        ConfigError: For a store that is not made of slides, or settings, files or classes that do not exist.
        DataError: When no file is of a slide of the store or can be used.
        StoreError: When the store is missing or unsealed, has another table of that name, or is being written.
    """
    name = name or DEFAULT_NAMES.get("masks" if masks else origin, origin)
    if name == REMOVALS:
        raise ConfigError(f"table {name!r} is written by `sciencessl store remove`; choose another --name.")
    opened = Store(store)
    if name in opened.rows.column_names:
        raise ConfigError(f"--name {name}: the rows of {opened.path} have a column of that name, which the table's "
                          "would hide; choose another.")
    options: dict[str, Any] = {"rule": rule, "least": min_fraction, "classes": tuple(classes), "raters": raters,
                               "by_file": str(local_path(by_file, "--by-file")) if by_file else ""}
    if origin == "masks":
        read = _painted(opened, local_path(source, "TABLE"), name, classes)
    else:
        slides, boxes = _tiles(opened)
        options |= {"sides": tuple(_sides(opened))} if masks else {}
        read = annotation_reader()(origin, local_path(source, "TABLE"), name, opened.ids, slides, boxes, options)
    with only_writer(opened.path):
        before = current_digest(opened.path, name) if name in opened.tables else ""
        said = "; ".join(filter(None, (note, read.note)))
        written = write_table(opened.path, name, read.data, read.schema, note=said, overwrite=overwrite)
    return DrawnReport(
        opened.path, name, tuple(written.columns), written.data.num_rows, read.with_value,
        (*read.said, *_hidden(opened, name, written.columns)), read.refused, before == written.digest, written.digest,
    )


def _tiles(store: Store) -> tuple[list[str], np.ndarray]:
    """Slide of each tile, and (n, 4) place of each."""
    known = store.columns()
    for column in (SLIDE, *BOX):
        if column not in known:
            raise ConfigError(
                f"{store.path} has no column {column!r}.{did_you_mean(column, known)} What is drawn on slides labels "
                f"stores that were prepared from slides, whose tiles have {', '.join((SLIDE, *BOX))}."
            )
    boxes = np.stack([store.column(column).astype(np.float64) for column in BOX], 1)
    if not (np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()):
        raise ConfigError(f"{store.path}: {', '.join(BOX)} must be numbers, and fields above 0, in each row.")
    return [str(slide) for slide in store.column(SLIDE)], boxes


def _sides(store: Store) -> list[int]:
    """Pixels along a side of each tile as it is stored."""
    if SIDE not in store.columns():
        raise ConfigError(f"{store.path} has no column {SIDE!r}, the pixels along a side of a tile, which label images "
                          "are to have; prepare it again.")
    return [int(side) for side in store.column(SIDE)]


def _painted(store: Store, source: Path, name: str, classes: Sequence[str]) -> Any:
    known = store.columns()
    if all(column in known for column in (SLIDE, *BOX, SIDE)):
        slides, boxes = _tiles(store)
        return mask_reader()(source, name, store.ids, slides, boxes, _sides(store), classes)
    return mask_reader()(source, name, store.ids, [], np.zeros((0, 4)), [], classes)


def _hidden(store: Store, name: str, columns: Sequence[str]) -> list[str]:
    """Which columns of which tables bear the same name."""
    others = [other for other in store.tables if other not in (name, REMOVALS)]
    return [f"column {column!r} {'hides' if name > other else 'is hidden by'} that of table {other!r}"
            for other in others for column in store.table(other).columns if column in columns]


def drawn_text(found: DrawnReport) -> str:
    """What was done, for people."""
    lines = [*found.said, f"table {found.name!r} of {found.store}: {some_names(found.columns)}",
             f"{found.labelled:,} tiles have a row, and {found.with_value:,} of them a label"]
    if found.refused:
        lines.append(f"refused: {len(found.refused):,} files")
        lines += [f"  {file.file}: {file.reason}, {file.detail}" for file in found.refused[:SHOWN]]
        left = len(found.refused) - SHOWN
        lines += [f"  and {left:,} more; --json lists all"] if left > 0 else []
    return "\n".join([*lines, "nothing to do: the table was there already" if found.unchanged else
                      f"table digest {found.digest}"])
