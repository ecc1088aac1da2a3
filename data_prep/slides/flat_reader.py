"""Plain images as slides: through Pillow, or a TIFF through tifffile, strip by strip where it is large."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any, NoReturn, cast

import numpy as np
from PIL import Image

from sciencessl.data_prep.decode import FORMATS, MAX_PIXELS, Refused, to_eight_bits
from sciencessl.data_prep.slides.guards import check_claim
from sciencessl.data_prep.slides.mosaic import TileCache, framed, from_tiles
from sciencessl.data_prep.slides.openslide_reader import on_white, pyramid, unsendable
from sciencessl.data_prep.slides.refusals import CONVERT, refusals
from sciencessl.data_prep.slides.slide import Level, SlideInfo
from sciencessl.data_prep.slides.tiff import (
    Page,
    as_page,
    check_pixels,
    check_whole,
    is_tiff,
    open_tiff,
    resolution,
    tiff_levels,
)

WHOLE_PIXELS = 2**24
"""A TIFF of strips that has so many pixels or fewer is decoded at once."""
_TOO_MANY = f"more than the {MAX_PIXELS / 1e6:.0f} million pixels that are decoded at once"
_INVERTED, _PALETTE, _CMYK = 0, 3, 5
_PREMULTIPLIED, _STRAIGHT = 1, 2


class FlatReader:
    """An image as Pillow or tifffile reads it. EXIF orientation is left as it is; alpha is laid over white.

    A PNG, JPEG or the like is one level and decoded when it is opened, up to `MAX_PIXELS`. Levels of a TIFF are decoded
    by strips or tiles when they are asked for, and a bounded number of them kept.
    """

    def __init__(self, path: str) -> None:
        """Open it, and decode the last corner of each level.

        Raises:
            Refused: With reason `unreadable`, `corrupt`, `truncated`, `not-rgb8` or `too-large`.
            MissingExtraError: When it is a TIFF and tifffile is not installed.
        """
        self._path = path
        self._tiff: Any = None
        self._cache = TileCache()
        try:
            self.info = self._open_tiff() if is_tiff(path) else self._open_image()
            for index, level in enumerate(self.info.levels):
                self.read(index, level.width - 1, level.height - 1, 1, 1)
        except BaseException:
            self.close()
            raise

    def _open_image(self) -> SlideInfo:
        with refusals(self._path, "unreadable", "it is no image that is known"), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the budget is ours
            try:
                image = Image.open(self._path, formats=FORMATS)
            except Image.DecompressionBombError as error:
                raise Refused("too-large", f"{_TOO_MANY}; {CONVERT}") from error
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Refused("too-large", f"{width} x {height} px: {_TOO_MANY}; {CONVERT}")
            with refusals(self._path, "corrupt", "its pixels cannot be decoded"):
                image.load()
                _check_depth(image, self._path)
                self._whole = np.asarray(to_eight_bits(image).convert("RGB"))
        self._segments_px = [(width, height)]
        return SlideInfo("flat", "flat", (Level(width, height),), said="a flat image, decoded whole")

    def _open_tiff(self) -> SlideInfo:
        self._tiff = open_tiff(self._path)
        with refusals(self._path, "corrupt", "its TIFF directory is damaged"):
            check_pixels(self._tiff, alone=True)
            self._pages = tiff_levels(self._tiff)
            pages = [as_page(page) for page in self._pages]
            for page in pages:
                check_whole(page, self._tiff.filehandle.size)
            mpp = resolution(self._tiff)
        strips = [int(page.rowsperstrip) if page.rowsperstrip else 0 for page in self._pages]
        self._segments_px = [_segment_px(page, rows) for page, rows in zip(pages, strips, strict=True)]
        levels = pyramid([(page.width, page.height) for page in pages], [page.tile_px for page in pages])
        return SlideInfo("flat", "flat", levels, mpp, said="read through tifffile")

    def _tile(self, level: int, column: int, row: int) -> np.ndarray:
        if self._tiff is None:
            return self._whole
        return self._cache.get((level, column, row), lambda: self._segment(level, column, row))

    def _segment(self, level: int, column: int, row: int) -> np.ndarray:
        page, across = self._pages[level], self._segments_px[level][0]
        with refusals(self._path, "corrupt", "its pixels cannot be decoded"):
            if self._segments_px[level] == (page.imagewidth, page.imagelength):
                for index in range(len(page.dataoffsets)):
                    check_claim(_compressed(page, index), page.imagewidth, page.imagelength)
                return eight_bit_rgb(page.asarray(), page)
            return decode_segment(page, row * math.ceil(page.imagewidth / across) + column)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """As `SlideReader.read`."""
        size, tile_px, tile = self.info.levels[level], self._segments_px[level], partial(self._tile, level)
        self._cache.make_room(height, tile_px, size.width)
        return framed((x, y, width, height), (size.width, size.height), lambda box: from_tiles(box, tile_px, tile))

    def exact(self, level: int, at: np.ndarray) -> np.ndarray:
        """Which pixels along an axis can be read as they are: all."""
        return np.ones(len(at), bool)

    def native_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """None: what is read through Pillow or tifffile is decoded."""
        return None

    def close(self) -> None:
        """As `SlideReader.close`."""
        self._cache.clear()
        self._whole = np.empty((0, 0, 3), np.uint8)
        if self._tiff is not None:
            self._tiff.close()

    def __reduce__(self) -> NoReturn:
        raise unsendable(self)


def _segment_px(page: Page, rows: int) -> tuple[int, int]:
    """What is decoded at once: a tile, a strip, or all of a small page, or of one whose channels lie apart."""
    if page.planar and page.tile_px:
        segment = page.tile_px
    elif not page.planar or page.width * page.height <= WHOLE_PIXELS:
        segment = (page.width, page.height)
    else:
        segment = (page.width, min(rows, page.height) or page.height)
    if math.prod(segment) > MAX_PIXELS:
        raise Refused("too-large", f"{segment[0]} x {segment[1]} px in one piece: {_TOO_MANY}; {CONVERT}")
    return segment


def decode_segment(page: Any, index: int) -> np.ndarray:
    """One strip or tile of a `TiffPage`, decoded by tifffile: (height, width, 3) uint8, white where the file has none.

    Raises:
        Refused: With reason `truncated` where the file ends within it, `corrupt` where it claims to be far larger,
            `not-rgb8` for a colour space that is not known.
        Exception: Whatever a decoder raises over damaged bytes.
    """
    data = _compressed(page, index)
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    check_claim(data, page.tilewidth if page.is_tiled else page.imagewidth, rows)
    found, _, (_, height, width, _) = page.decode(data or None, index, jpegtables=page.jpegtables)
    if found is None:
        return np.full((height, width, 3), 255, np.uint8)
    return eight_bit_rgb(found[0], page)


def _compressed(page: Any, index: int) -> bytes:
    file = page.parent.filehandle
    file.seek(page.dataoffsets[index])
    data: bytes = file.read(page.databytecounts[index])
    if len(data) < page.databytecounts[index]:
        raise Refused("truncated", "the file ends within its pixels")
    return data


def eight_bit_rgb(pixels: np.ndarray, page: Any) -> np.ndarray:
    """What tifffile decodes of a `TiffPage` of 8 bits, (H, W) or (H, W, samples), as (H, W, 3) uint8 RGB.

    Raises:
        Refused: With reason `not-rgb8` for a colour space that is not known.
    """
    if int(page.planarconfig) == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    photometric, samples = int(page.photometric), 1 if pixels.ndim == 2 else pixels.shape[2]
    if photometric == _PALETTE and page.colormap is not None:
        return np.ascontiguousarray((np.asarray(page.colormap) >> 8).astype(np.uint8).T[grey])
    if samples == 1 and photometric in (_INVERTED, 1):
        return np.repeat((255 - grey if photometric == _INVERTED else grey)[..., None], 3, axis=2)
    if photometric == _CMYK and samples == 4:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels), "CMYK").convert("RGB"))
    if photometric not in (2, 6) or samples not in (3, 4):
        raise Refused("not-rgb8", f"{samples} channel(s) in a colour space that is not known ({page.photometric!r})")
    return np.ascontiguousarray(pixels) if samples == 3 else _without_alpha(pixels, tuple(page.extrasamples))


def _without_alpha(pixels: np.ndarray, extra: tuple[int, ...]) -> np.ndarray:
    if extra == (_STRAIGHT,):
        return on_white(pixels)
    if extra == (_PREMULTIPLIED,):
        light = pixels[..., :3].astype(np.uint16) + (255 - pixels[..., 3:])
        return cast(np.ndarray, np.minimum(light, 255).astype(np.uint8))
    return np.ascontiguousarray(pixels[..., :3])


def _check_depth(image: Image.Image, path: str) -> None:
    depth = 8
    if image.format == "PNG":  # Pillow shows 16-bit RGB as 8-bit RGB: byte 24 of the file is its bit depth
        with open(path, "rb") as file:
            depth = file.read(25)[24]
    if depth == 16 or image.mode.startswith(("I", "F")):
        raise Refused("not-rgb8", "16 bits or more a channel; expected 8-bit RGB or grey: export it as RGB first")
