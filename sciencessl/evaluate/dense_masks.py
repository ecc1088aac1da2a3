"""Label images of samples: a column of encoded images of one plane, whose values are classes.

Labels come later than pixels, so the column is one of a table (`store label --from regions --masks`, `--from masks`).
Its field's metadata may name the values: `classes`, a JSON list, value 0 first. 255 is a pixel that nobody judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from sciencessl.errors import DataError
from sciencessl.evaluate.dense_metrics import IGNORED
from sciencessl.spec import TransferTask
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side

NAMES = b"classes"
"""Key of the metadata that names values."""


@dataclass(frozen=True)
class Masks:
    """The label images of a store, as a task names their values. Picklable; only samples given are held.

    Attributes:
        files: Store index -> encoded image.
        classes: Class names in the order of their numbers.
        numbers: (256,) uint8, value of a pixel -> class number, or `IGNORED`.
        where: In words, for errors.
    """

    files: Mapping[int, bytes]
    classes: tuple[str, ...]
    numbers: np.ndarray
    where: str

    def __getitem__(self, index: int) -> np.ndarray:
        """(S, S) uint8 class numbers of a sample.

        Raises:
            DataError: When its image is none, is not square, or is not of one plane of bytes.
        """
        found: np.ndarray = self.numbers[_decoded(self.files[index], self.where, index)]
        return found

    @cached_property
    def digest(self) -> str:
        """Of all that is held."""
        known = sorted(self.files)
        parts = [digest(self.files[index]).encode() for index in known]
        return digest(repr((known, self.classes)).encode(), self.numbers.tobytes(), *parts)

    def take(self, index: np.ndarray) -> Masks:
        """Those of some samples."""
        return Masks({i: self.files[i] for i in index.tolist()}, self.classes, self.numbers, self.where)


@dataclass(frozen=True)
class Counted:
    """Pixels of each class in the samples of a side.

    Attributes:
        classes: In the order of their smallest value.
        pixels: (N, K) int64; a sample without a label image, or with no judged pixel, has none.
    """

    classes: tuple[str, ...]
    pixels: np.ndarray


def count_pixels(task: TransferTask, side: Side) -> Counted:
    """Decode each label image once, and count.

    Raises:
        StoreError: When the store lacks the column.
        DataError: When a value of the column is no such image.
    """
    of_value = _class_of_value(task, side.store)
    classes = tuple(dict.fromkeys(of_value.values()))
    masks = read_masks(side.store, task, classes, side.index)
    pixels = np.zeros((len(side.index), len(classes)), np.int64)
    for row, index in enumerate(side.index.tolist()):
        if index in masks.files:
            pixels[row] = np.bincount(masks[index].ravel(), minlength=256)[: len(classes)]
    return Counted(classes, pixels)


def read_masks(store: Store, task: TransferTask, classes: tuple[str, ...], index: np.ndarray) -> Masks:
    """The label images of samples; those without one are left out, and values of other classes are ignored.

    Args:
        store: Which has the task's column.
        task: Of kind `dense`.
        classes: Class names in the order of their numbers, 255 at most.
        index: (n,) store indices.

    Raises:
        StoreError: When the store lacks the column.
        DataError: When a value of the column is no encoded image.
    """
    where = f"column {task.column!r} of {store.path}"
    numbers = np.full(256, IGNORED, np.uint8)
    for value, name in _class_of_value(task, store).items():
        if name in classes:
            numbers[value] = classes.index(name)
    column = store.column(task.column)
    files = {}
    for i in index.tolist():
        if column[i] is not None and column[i] == column[i]:
            if not isinstance(column[i], bytes):
                raise DataError(f"task {task.name!r}: {where} holds {column[i]!r}, expected label images (PNG). Kind "
                                "'dense' reads what `store label --from masks` wrote; for a class a sample ask for "
                                "kind 'class'.")
            files[i] = column[i]
    return Masks(files, classes, numbers, where)


def value_names(store: Store, column: str) -> tuple[str, ...]:
    """What the values of a column of label images are called, value 0 first; empty where the table does not say."""
    table = store.columns().get(column, "rows")
    data = store.rows if table == "rows" else store.table(table).data
    raw = (data.schema.field(column).metadata or {}).get(NAMES)
    return tuple(json.loads(raw)) if raw else ()


def _class_of_value(task: TransferTask, store: Store) -> dict[int, str]:
    """Value of a pixel -> class; values that the task does not map are not in it."""
    names = value_names(store, task.column)
    named = {value: names[value] if value < len(names) else str(value) for value in range(IGNORED)}
    if not task.classes:
        return named
    return {value: task.classes[name] for value, name in named.items() if name in task.classes}


def _decoded(raw: bytes, where: str, index: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED) if raw else None
    if image is None or image.ndim != 2 or image.dtype != np.uint8 or image.shape[0] != image.shape[1]:
        got = "no image" if image is None else f"{image.dtype} of shape {image.shape}"
        raise DataError(f"{where}: the sample at index {index} has {got}; a label image is a square PNG of one plane "
                        "of bytes: a class a pixel, 255 where nobody judged.")
    found: np.ndarray = image
    return found
