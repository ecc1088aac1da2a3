"""Hooks: functions of yours that score images as they are prepared, or say what is to be blurred in them.

    def nsfw(images):                       # list of (H, W, 3) uint8
        return {"nsfw": model(images)}      # one number an image

    def faces(images):
        found = [detector(image) for image in images]
        return {"faces": [len(boxes) for boxes in found], "boxes": found}      # x0, y0, x1, y1 in pixels

Each name becomes a column, except `boxes`: what they enclose is blurred beyond recognition before the image is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import cv2
import numpy as np

from sciencessl.data.decode import decode
from sciencessl.data_prep.crawl.kept import OWN
from sciencessl.data_prep.decode import Canonical, Encoded, Refused, encode, hash_pixels
from sciencessl.errors import ConfigError, RegistryError
from sciencessl.registry import local_attribute, method_source_digest, resolve
from sciencessl.spec import FieldSpec
from sciencessl.store.conditions import Condition, value_meets

BATCH = 16
"""Images that a hook is given at once."""
BOXES, BLURRED = "boxes", "blurred"
"""What a hook says of places to be blurred, and the column with how many were."""
COARSE = 6
"""Blocks a side that are left of a blurred box."""

T = TypeVar("T")
Item = tuple[T, Encoded | Refused]


@dataclass(frozen=True)
class Hooks:
    """The hooks of a run. Pickles: functions are loaded where they are called.

    Attributes:
        names: `MODULE:FUNCTION` or `FILE.py:FUNCTION`.
        field: How images are stored.
        canonical: How images are encoded.
    """

    names: tuple[str, ...]
    field: FieldSpec
    canonical: Canonical

    @property
    def digests(self) -> list[str]:
        """Names, and for files their contents: other code, other columns."""
        return [f"{name.rpartition('/')[2]} {method_source_digest(name)}".strip() for name in self.names]

    @cached_property
    def _functions(self) -> list[Any]:
        return [_load(name) for name in self.names]

    def check(self) -> None:
        """Load all hooks.

        Raises:
            ConfigError: When one cannot be loaded, or is no function.
        """
        for name, function in zip(self.names, self._functions, strict=True):
            if not callable(function):
                raise ConfigError(f"--hooks {name} is a {type(function).__name__}, expected a function.")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def apply(self, items: Iterator[Item[T]]) -> Iterator[Item[T]]:
        """The same items in order, images with the columns that hooks give, and blurred where they say so."""
        if not self.names:
            yield from items
            return
        while batch := list(islice(items, BATCH)):
            good = [found for _, found in batch if isinstance(found, Encoded)]
            told = iter(self._all(good))
            yield from ((what, next(told) if isinstance(found, Encoded) else found) for what, found in batch)

    def _all(self, images: Sequence[Encoded]) -> list[Encoded | Refused]:
        pixels = [_rgb(decode(image.payload, self.field)) for image in images]
        columns: list[dict[str, Any]] = [{} for _ in images]
        failed: dict[int, Refused] = {}
        for name, function in zip(self.names, self._functions, strict=True):
            for place, said in enumerate(_call(name, function, pixels)):
                if isinstance(said, Refused):
                    failed.setdefault(place, said)
                else:
                    boxes = [*columns[place].get(BOXES, ()), *said.get(BOXES, ())]
                    columns[place] |= {**said, BOXES: boxes}
        return [failed.get(place) or self._with(image, columns[place]) for place, image in enumerate(images)]

    def _with(self, image: Encoded, columns: dict[str, Any]) -> Encoded:
        boxes = columns.pop(BOXES, [])
        told = replace(image, columns={**image.columns, **columns, BLURRED: len(boxes)})
        if not boxes:
            return told
        pixels = blur_boxes(decode(image.payload, self.field), boxes)
        plain = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        payload = encode(plain, image.payload.startswith(b"\xff\xd8"), self.canonical.jpeg_quality,
                         self.canonical.chroma)
        return replace(told, payload=payload, pixel_hash=hash_pixels(decode(payload, self.field)))


def _load(name: str) -> Any:
    try:
        return local_attribute(name, "--hooks") if ".py:" in name else resolve(name)
    except RegistryError as error:
        told = str(error).removeprefix(f"--hooks {name}: ")
        raise ConfigError(f"--hooks {name}: {told} Give MODULE:FUNCTION or FILE.py:FUNCTION.") from error


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _call(name: str, function: Any, pixels: Sequence[np.ndarray]) -> list[dict[str, Any] | Refused]:
    """What a hook says of each image. Where it fails, images are given one by one, so that one costs no other."""
    try:
        return _told(name, function(list(pixels)), len(pixels))
    except ConfigError:
        raise
    except Exception as error:  # the user's own code may raise anything
        if len(pixels) == 1:
            return [Refused("hook-failed", f"{name.rpartition(':')[2]}: {type(error).__name__}: {error}"[:200])]
        return [said for one in pixels for said in _call(name, function, [one])]


def _told(name: str, said: Any, count: int) -> list[dict[str, Any] | Refused]:
    if not isinstance(said, Mapping) or any(_length(values) != count for values in said.values()):
        raise ConfigError(f"--hooks {name}: of {count} images it returned {type(said).__name__} "
                          f"{said if len(repr(said)) < 80 else ''}; expected a mapping from names to one value an "
                          "image.")
    if taken := sorted(OWN & {*map(str, said)}):
        raise ConfigError(f"--hooks {name}: every image has a column {taken[0]!r} already; return the values under "
                          "another name.")
    return [{column: _plain(values[place], column) for column, values in said.items()} for place in range(count)]


def _length(values: Any) -> int:
    return len(values) if hasattr(values, "__len__") else -1


def _plain(value: Any, column: str) -> Any:
    """Numbers as float64, so that every row has one type; boxes, checked."""
    if column == BOXES:
        boxes = [tuple(map(float, box)) for box in value]
        if any(len(box) != 4 or not np.isfinite(box).all() for box in boxes):
            raise ValueError(f"boxes are four finite numbers each, x0, y0, x1, y1, not {value!r}")
        return boxes
    if isinstance(value, str):
        return value
    number = float(value)
    if np.isnan(number):  # it would meet no condition of --drop, and pass a filter that is there for safety
        raise ValueError(f"{column} is no number")
    return number


def blur_boxes(pixels: np.ndarray, boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Averages over `COARSE` x `COARSE` blocks in place of what boxes enclose: no edge of it is left.

    Args:
        pixels: (H, W, C) uint8.
        boxes: x0, y0, x1, y1 each, in pixels; parts outside the image do not count.

    Returns:
        (H, W, C) uint8, a copy.
    """
    out = pixels.copy()
    height, width = out.shape[:2]
    for box in boxes:
        x0, y0 = (max(0, int(np.floor(edge))) for edge in box[:2])
        x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
        if x1 <= x0 or y1 <= y0:
            continue
        coarse = cv2.resize(out[y0:y1, x0:x1], (min(COARSE, x1 - x0), min(COARSE, y1 - y0)),
                            interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(coarse, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        out[y0:y1, x0:x1] = smooth.reshape(y1 - y0, x1 - x0, -1)
    return out


def check_drops(columns: Mapping[str, Any], conditions: Sequence[Condition]) -> None:
    """Refuse an image whose columns meet any condition.

    Raises:
        Refused: As `filtered:COLUMN`.
        ConfigError: When it has no such column.
    """
    for condition in conditions:
        if condition.column not in columns:
            raise ConfigError(f"--drop {condition.text!r}: images have no column {condition.column!r}; they have "
                              f"{', '.join(sorted(columns))}.")
        if value_meets(columns[condition.column], condition):
            raise Refused(f"filtered:{condition.column}", f"meets {condition.text!r}")
