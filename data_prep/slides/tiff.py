"""What a TIFF says of itself, before a pixel is decoded: its pages and pixel scale, whether it is cut, or no RGB."""

from __future__ import annotations

import itertools
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.refusals import AGAIN, refusals, tifffile_module
from sciencessl.data_prep.slides.slide import Mpp

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
"""ResolutionUnit -> um: inch, centimetre. Unit 1 is an aspect ratio and no scale."""
_MOST_PAGES = 10_000
_WANTED = "expected one image of 8-bit RGB or grey; fluorescence and raw scans must be exported as RGB first"


@dataclass(frozen=True)
class Page:
    """One image of a TIFF and where its compressed tiles lie.

    Attributes:
        width: Pixels.
        height: Pixels.
        tile_px: (width, height) of a tile; None where it is made of strips.
        compression: As TIFF numbers it: 7 is JPEG, 33003 and 33005 are JPEG 2000.
        photometric: As TIFF numbers it: 2 is RGB, 6 is YCbCr.
        samples: Numbers a pixel.
        planar: Whether samples of a pixel lie together.
        offsets: (tiles,) int64, byte of the file that each tile starts at, in order of rows.
        counts: (tiles,) int64 bytes; 0 where the file has no such tile.
        tables: JPEG tables that the tiles share.
    """

    width: int
    height: int
    tile_px: tuple[int, int] | None
    compression: int
    photometric: int
    samples: int
    planar: bool
    offsets: np.ndarray
    counts: np.ndarray
    tables: bytes | None

    @cached_property
    def columns(self) -> int:
        """Of tiles; 0 for strips."""
        return math.ceil(self.width / self.tile_px[0]) if self.tile_px else 0

    @cached_property
    def rows(self) -> int:
        """Of tiles; 0 for strips."""
        return math.ceil(self.height / self.tile_px[1]) if self.tile_px else 0


@dataclass(frozen=True)
class Facts:
    """What a TIFF says: the levels of its first image as tifffile finds them, all its images, and its pixel scale."""

    levels: list[Page]
    pages: list[Page]
    mpp: Mpp | None


def read_facts(path: str, alone: bool) -> Facts:
    """Everything that is needed of a TIFF before a pixel is read.

    Args:
        path: The file.
        alone: As in `check_pixels`.

    Raises:
        Refused: With reason `not-rgb8`, `truncated` or `unreadable`.
    """
    with open_tiff(path) as tiff, refusals(path, "unreadable", "its TIFF directory is damaged"):
        check_pixels(tiff, alone)
        pages = [as_page(page) for page in itertools.islice(tiff.pages, _MOST_PAGES)]
        return Facts([as_page(page) for page in tiff_levels(tiff)], pages, resolution(tiff))


def is_tiff(path: str) -> bool:
    """Whether a file begins like a TIFF or BigTIFF.

    Raises:
        Refused: With reason `missing-file` or `unreadable` where it cannot be opened.
    """
    with refusals(path, "unreadable"), open(path, "rb") as file:
        return file.read(4) in _MAGIC


def open_tiff(path: str) -> Any:
    """`tifffile.TiffFile` of a path that `is_tiff`; close it.

    Raises:
        Refused: With reason `truncated` where its directory lies beyond its end, `unreadable` for other damage.
        MissingExtraError: When tifffile is not installed.
    """
    module = tifffile_module()
    check_chain(path, first_only=True)
    with refusals(path, "unreadable", "its TIFF directory cannot be read"):
        tiff = module.TiffFile(path)
        try:
            if min(tiff.pages[0].imagewidth, tiff.pages[0].imagelength) < 1:
                raise Refused("unreadable", "its TIFF directory holds no image")
        except BaseException:
            tiff.close()
            raise
    return tiff


def check_chain(path: str, first_only: bool = False) -> None:
    """Follow the chain of image directories.

    Raises:
        Refused: With reason `truncated` where one lies beyond the end of the file: scanners write directories last,
            so that a copy that was cut has lost them.
    """
    size = os.path.getsize(path)
    with refusals(path, "unreadable"), open(path, "rb") as file:
        try:
            for place in itertools.islice(_directories(file), 1 if first_only else _MOST_PAGES):
                if place >= size:
                    where = f"the file ends at byte {size}, and its TIFF directory is at {place}"
                    raise Refused("truncated", f"{where}; {AGAIN}")
        except struct.error as error:
            raise Refused("truncated", f"the file ends at byte {size}, within its TIFF directory; {AGAIN}") from error


def _directories(file: IO[bytes]) -> Iterator[int]:
    """Byte of each image directory of a TIFF or BigTIFF, until one is 0 or was there before."""
    head = file.read(16)
    order = ">" if head.startswith(b"M") else "<"
    # Entries of a directory are counted by 2 or 8 bytes, take 12 or 20 each, and a place of 4 or 8 bytes follows them.
    count, entry, place, first = ("H", 12, "I", 4) if head[2:4] in (b"*\0", b"\0*") else ("Q", 20, "Q", 8)
    (at,) = struct.unpack_from(order + place, head, first)
    seen: set[int] = set()
    while at and at not in seen:
        yield at
        seen.add(at)
        file.seek(at)
        (entries,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
        file.seek(entry * entries, os.SEEK_CUR)
        (at,) = struct.unpack(order + place, file.read(struct.calcsize(place)))


def check_pixels(tiff: Any, alone: bool) -> None:
    """Whether the first page has colours of 8 bits, or grey ones.

    Args:
        tiff: A `TiffFile`.
        alone: Whether the file must hold one image, at several resolutions at most. Formats of scanners hold more.

    Raises:
        Refused: With reason `not-rgb8`, also for stacks of channels or of focal planes.
    """
    page = tiff.pages[0]
    bits, samples = page.bitspersample, page.samplesperpixel
    if bits != 8 or str(page.dtype) != "uint8" or samples not in (1, 3, 4):
        raise Refused("not-rgb8", f"its first image has {samples} channel(s) of {bits} bits, {_WANTED}")
    layers = _layers(tiff) if alone else 1
    if layers > 1:
        raise Refused("not-rgb8", f"a stack of {layers} images (channels, focal planes or pages), {_WANTED}")


def _layers(tiff: Any) -> int:
    series = tiff.series[0]
    return math.prod(size for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXS")


def tiff_levels(tiff: Any) -> list[Any]:
    """Pages of the first image of a `TiffFile`, from fine to coarse, as tifffile finds its pyramid."""
    found = [level.keyframe for level in tiff.series[0].levels]
    sizes = [page.imagewidth * page.imagelength for page in found]
    # A pyramid whose levels are in no order is none.
    return found if sizes == sorted(sizes, reverse=True) else found[:1]


def as_page(page: Any) -> Page:
    """A `TiffPage` of tifffile in plain values."""
    tile = (int(page.tilewidth), int(page.tilelength)) if page.is_tiled else None
    return Page(
        int(page.imagewidth), int(page.imagelength), tile, int(page.compression), int(page.photometric),
        int(page.samplesperpixel), int(page.planarconfig) == 1, np.asarray(page.dataoffsets, np.int64),
        np.asarray(page.databytecounts, np.int64), page.jpegtables,
    )  # fmt: skip


def check_whole(page: Page, file_bytes: int) -> None:
    """Whether everything that a page points at lies in the file.

    Raises:
        Refused: With reason `truncated` where it does not, `corrupt` where tiles are missing from its table.
    """
    tiles = page.columns * page.rows
    planes = 1 if page.planar else page.samples
    if len(page.offsets) != len(page.counts) or (page.tile_px and len(page.offsets) != tiles * planes):
        listed = f"its tables list {len(page.offsets)} places and {len(page.counts)} sizes of tiles"
        raise Refused("corrupt", f"{listed}, and it has {tiles * planes or 'some'}; {AGAIN}")
    end = int((page.offsets + page.counts).max(initial=0))
    if end > file_bytes:
        raise Refused("truncated", f"the file has {file_bytes} bytes, and its pixels end at {end}; {AGAIN}")


def resolution(tiff: Any) -> Mpp | None:
    """Pixel scale by the resolution tags of the first page, whatever it is; None without a unit of length.

    Both numbers of each fraction count, and inch is the unit where none is given (TIFF 6.0, ResolutionUnit).
    """
    tags = tiff.pages[0].tags
    unit = _UM_PER_UNIT.get(int(tags.valueof(296, 2)))
    per_unit = [_ratio(tags.valueof(tag)) for tag in (282, 283)]
    if unit is None or None in per_unit or 0 in per_unit:
        return None
    return Mpp(unit / (per_unit[0] or 1), unit / (per_unit[1] or 1), "TIFF resolution tags")


def _ratio(value: Any) -> float | None:
    try:
        above, below = value
        return float(above / below)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
