"""Tiled TIFF and SVS decoded tile by tile, each once, where that is proven to give what OpenSlide gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, Protocol

import numpy as np

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.guards import check_claim, strictly
from sciencessl.data_prep.slides.mosaic import TileCache, framed, from_tiles
from sciencessl.data_prep.slides.native_jpeg import Tables, shared_tables, spliced
from sciencessl.data_prep.slides.openslide_reader import unsendable
from sciencessl.data_prep.slides.refusals import AGAIN, refusals
from sciencessl.data_prep.slides.slide import Level, SlideInfo, SlideReader
from sciencessl.data_prep.slides.tiff import Page
from sciencessl.spec import FieldSpec

PROOFS = 8
"""Tiles of each level that are compared before one is trusted."""
MOST_TILE_PX = 2**24
_DRAWS = 64
_JPEG, _APERIO_YCBCR = 7, 33003
_JPEG2000 = (_APERIO_YCBCR, 33005, 34712)
_RGB, _YCBCR = 2, 6
_FIELD = FieldSpec("bytes", ("red", "green", "blue"))


class Judge(SlideReader, Protocol):
    """A reader whose pixels count as true."""

    def exact(self, level: int, at: np.ndarray) -> np.ndarray:
        """Which pixels along either axis can be read as they are: (n,) bool."""


@dataclass(frozen=True)
class _Native:
    """A level whose tiles are decoded here: its page, and what tiles share where they are JPEG."""

    page: Page
    tables: Tables | None


class NativeReader:
    """A slide of which some levels are decoded tile by tile, and the rest is asked of another reader."""

    def __init__(self, path: str, judge: Judge, pages: Sequence[Page]) -> None:
        """Find native tiles of the levels, and compare some of each level with the judge's pixels.

        Which tiles are compared is drawn from the sizes of file and level, so that it is the same each time. Levels
        whose tiles cannot be decoded here, or not compared, stay with the judge. Where one tile differs, all do.
        Damaged tiles say nothing: when they are read, they are what the judge makes of them, or refused.

        Args:
            path: The file.
            judge: An open reader of the same file; it is closed with this one, and when this raises.
            pages: Images of the file, those of levels among them.

        Raises:
            Refused: As `read`, when the file or one of the tiles cannot be read.
        """
        self._path = path
        self._judge = judge
        self._file = -1
        self._cache = TileCache()
        try:
            with refusals(path, "unreadable"):
                self._file = os.open(path, os.O_RDONLY)
            self._levels = [_native(level, pages) for level in judge.info.levels]
            self.info = self._proven()
        except BaseException:
            self.close()
            raise

    def _proven(self) -> SlideInfo:
        for index, native in enumerate(self._levels):
            if native is None:
                continue
            places = self._draw(index, native.page)
            equal = [same for place in places for same in self._compared(index, native, *place)]
            if False in equal:
                self._levels = [None] * len(self._levels)
                why = f"{equal.count(False)} of {len(equal)} native tiles of level {index} decode to other pixels"
                return replace(self._judge.info, said=f"{self._judge.info.said}, since {why}")
            if True not in equal:
                self._levels[index] = None
        return self._described()

    def _draw(self, index: int, page: Page) -> list[tuple[int, int]]:
        rng = np.random.default_rng([os.fstat(self._file).st_size, index, page.width, page.height])
        across, down = page.tile_px or (0, 0)
        can_x = np.flatnonzero(self._judge.exact(index, np.arange(page.columns) * across))
        can_y = np.flatnonzero(self._judge.exact(index, np.arange(page.rows) * down))
        drawn = zip(rng.choice(can_x, _DRAWS).tolist(), rng.choice(can_y, _DRAWS).tolist(), strict=True)
        return [place for place in dict.fromkeys(drawn) if page.counts[place[1] * page.columns + place[0]]][:PROOFS]

    def _compared(self, index: int, native: _Native, column: int, row: int) -> list[bool | None]:
        """Whether a tile is what the judge sees, None where it cannot be decoded here; nothing for a damaged tile."""
        across, down = native.page.tile_px or (0, 0)
        x, y = column * across, row * down
        width, height = min(across, native.page.width - x), min(down, native.page.height - y)
        mine = self._decoded(native, column, row)
        try:
            theirs = self._judge.read(index, x, y, width, height)
        except Refused:
            return []
        return [None if mine is None else np.array_equal(mine[:height, :width], theirs)]

    def _described(self) -> SlideInfo:
        info = self._judge.info
        found = [i for i, native in enumerate(self._levels) if native]
        if not found:
            return info
        levels = tuple(
            replace(level, tile_px=native.page.tile_px) if native else level
            for level, native in zip(info.levels, self._levels, strict=True)
        )
        others = f"; others are {info.said}" if len(found) < len(levels) else ""
        said = f"decodes native tiles of level {', '.join(map(str, found))}{others}"
        return replace(info, backend="native", levels=levels, said=said)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """As `SlideReader.read`."""
        native = self._levels[level]
        if native is None or native.page.tile_px is None:
            return self._judge.read(level, x, y, width, height)
        tile_px, tile = native.page.tile_px, partial(self._tile, level)
        size = native.page.width, native.page.height
        self._cache.make_room(height, tile_px, size[0])
        return framed((x, y, width, height), size, lambda box: from_tiles(box, tile_px, tile))

    def _tile(self, level: int, column: int, row: int) -> np.ndarray:
        return self._cache.get((level, column, row), lambda: self._decode(level, column, row))

    def _decode(self, level: int, column: int, row: int) -> np.ndarray:
        native = self._levels[level]
        assert native is not None
        pixels = self._decoded(native, column, row)
        if pixels is not None:
            return pixels
        # A tile that is not there, or damaged: what it stands for, or what is wrong with it, is the judge's to say.
        width, height = native.page.tile_px or (0, 0)
        return self._judge.read(level, column * width, row * height, width, height)

    def _decoded(self, native: _Native, column: int, row: int) -> np.ndarray | None:
        data = self._compressed(native.page, column, row)
        if native.tables is None:
            return _jpeg2000(data, native.page)
        file = spliced(data, native.tables, native.page.tile_px or (0, 0))
        return None if file is None else strictly(file, _FIELD)

    def _compressed(self, page: Page, column: int, row: int) -> bytes:
        index = row * page.columns + column
        count = page.counts.item(index)
        try:
            data = os.pread(self._file, count, page.offsets.item(index))
        except OSError as error:
            raise Refused("corrupt", f"its pixels cannot be read: {error.strerror}") from error
        if len(data) < count:
            raise Refused("truncated", f"the file ends within its pixels; {AGAIN}")
        return data

    def native_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """As `SlideReader.native_jpeg`."""
        native = self._levels[level]
        if native is None or native.tables is None or native.page.tile_px is None:
            return None
        across, down = native.page.tile_px
        if min(column, row) < 0 or (column + 1) * across > native.page.width or (row + 1) * down > native.page.height:
            return None
        return spliced(self._compressed(native.page, column, row), native.tables, native.page.tile_px)

    def close(self) -> None:
        """As `SlideReader.close`."""
        self._cache.clear()
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._judge.close()

    def __reduce__(self) -> NoReturn:
        raise unsendable(self)


def _native(level: Level, pages: Sequence[Page]) -> _Native | None:
    """What decodes a level here, by the page of its size; None where it has no such tiles."""
    for page in pages:
        if (page.width, page.height) == (level.width, level.height):
            if not page.tile_px or not page.planar or page.samples != 3 or np.prod(page.tile_px) > MOST_TILE_PX:
                return None
            if page.compression in _JPEG2000:
                return _Native(page, None)
            tables = shared_tables(page.tables, page.photometric == _RGB)
            known = page.compression == _JPEG and page.photometric in (_RGB, _YCBCR) and tables is not None
            return _Native(page, tables) if known else None
    return None


def _jpeg2000(data: bytes, page: Page) -> np.ndarray | None:
    """(height, width, 3) uint8 RGB of a JPEG 2000 tile; None where it is damaged, or another thing than expected."""
    across, down = page.tile_px or (0, 0)
    try:
        import imagecodecs

        check_claim(data, across, down)
        pixels: np.ndarray = imagecodecs.jpeg2k_decode(data)
    except Exception:  # the judge says what is wrong with it
        return None
    if pixels.shape != (down, across, 3) or pixels.dtype != np.uint8:
        return None
    return from_ycbcr(pixels) if page.compression == _APERIO_YCBCR else pixels


_CHROMA = np.arange(256) - 128
_RED, _BLUE = np.round(1.402 * _CHROMA).astype(np.int16), np.round(1.772 * _CHROMA).astype(np.int16)
_GREEN_CB = np.round(2**16 * (0.5 - 0.34414 * _CHROMA)).astype(np.int32)
_GREEN_CR = np.round(2**16 * -0.71414 * _CHROMA).astype(np.int32)


def from_ycbcr(pixels: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 YCbCr of full range -> RGB, rounded as libjpeg and OpenSlide do (JFIF 1.02, page 3)."""
    luma, cb, cr = (pixels[..., i] for i in range(3))
    colours = (_RED[cr], (_GREEN_CB[cb] + _GREEN_CR[cr]) >> 16, _BLUE[cb])
    return np.stack([np.clip(luma.astype(np.int16) + colour, 0, 255).astype(np.uint8) for colour in colours], axis=-1)
