"""Reading the tiles of a part of a slide: native JPEG tiles byte for byte where they serve, else resampled pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciencessl.data.decode import decode
from sciencessl.data_prep.decode import Refused, encode, hash_pixels
from sciencessl.data_prep.slides.grid import TileGrid
from sciencessl.data_prep.slides.guards import strictly
from sciencessl.data_prep.slides.opening import open_slide
from sciencessl.data_prep.slides.pseudonyms import scrub
from sciencessl.data_prep.slides.slide import Level, Mpp, SlideInfo, SlideReader
from sciencessl.data_prep.slides.tiles import is_native, native_place, read_tiles
from sciencessl.data_prep.source import Input, Item, Task
from sciencessl.data_prep.stain import StainFit, normalise
from sciencessl.data_prep.tile_quality import tile_quality
from sciencessl.spec import FieldSpec
from sciencessl.store.writer import PreparedSample, Refusal

CHANGED = "changed"
"""Reason of tiles whose slide is not what it was when it was looked at."""


@dataclass(frozen=True)
class TileIds(Sequence[str]):
    """Identifiers of tiles, made when they are asked for: `SLIDE_X_Y`, X and Y in whole level-0 px.

    Attributes:
        slide: Name of the slide.
        x: (n,) left edges in level-0 px.
        y: (n,) upper edges.
    """

    slide: str
    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return TileIds(self.slide, self.x[index], self.y[index])
        return f"{self.slide}_{round(float(self.x[index]))}_{round(float(self.y[index]))}"


@dataclass(frozen=True)
class SlidePart:
    """Neighbouring tiles of a slide: what one input is read from.

    Attributes:
        slide: Its name, or pseudonym.
        path: Where it is.
        info: As it was when it was looked at.
        mpp: The slide's pixel scale.
        grid: n tiles.
        shares: (n,) their shares of tissue.
        stain: Fit of the slide's stain, or None.
        secrets: Words that must not appear in what is written.
    """

    slide: str
    path: str
    info: SlideInfo
    mpp: Mpp
    grid: TileGrid
    shares: np.ndarray
    stain: Mapping[str, Any] | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ids(self) -> TileIds:
        """Of the tiles."""
        return TileIds(self.slide, self.grid.x0, self.grid.y0)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Of the slide when it was looked at."""
        return self.info.levels


@dataclass(frozen=True)
class SlideTiles:
    """Reads the parts of a task one after the other. Pickles; slides are opened where it is used.

    Attributes:
        field: The field as stored.
        name: Its name.
        encoding: `jpeg`, `png` or `raw`.
        quality: Of JPEG.
        stain: Method of stain normalisation, or `none`.
    """

    field: FieldSpec
    name: str
    encoding: str
    quality: int
    stain: str = "none"

    def read(self, task: Task) -> Iterator[Item]:
        """One sample or one refusal for each tile."""
        for entry in task.inputs:
            if isinstance(entry.handle, SlidePart):
                yield from self._read(entry, entry.handle)
            else:
                yield from entry.handle

    def fingerprint(self, entry: Input) -> str:
        """Nothing: tiles are compared by their pixels, not by their slides, which are large."""
        return ""

    def _read(self, entry: Input, part: SlidePart) -> Iterator[Item]:
        ids, left = part.ids, dict.fromkeys(range(len(part.grid)))
        failed: Refused | None = None
        while left:
            alone = failed is not None  # after a failure tile by tile, so that only bad ones are refused
            try:
                with closing(_open(part)) as reader:
                    for some in [[index] for index in left] if alone else [[*left]]:
                        for index, sample in self._samples(entry, part, reader, some):
                            del left[index]
                            yield sample
            except Refused as refused:
                failed = refused
                # A slide that cannot be opened takes all that is left of it along.
                gone = list(left) if isinstance(refused, _NotOpened) else list(left)[:1] if alone else []
                for index in gone:
                    del left[index]
                    yield Refusal(ids[index], refused.reason, scrub(refused.detail, part.secrets, part.slide))

    def _samples(
        self, entry: Input, part: SlidePart, reader: SlideReader, indices: Sequence[int]
    ) -> Iterator[tuple[int, PreparedSample]]:
        passed = set()
        if self.passes_through(part):
            for index in indices:
                place = native_place(part.info, part.grid, index)
                payload = None if place is None else reader.native_jpeg(part.grid.level, *place)
                # Where it is damaged pixels are read the other way, which says what is wrong.
                pixels = None if payload is None else strictly(payload, self.field)
                if payload is not None and pixels is not None:
                    passed.add(index)
                    yield index, self._sample(entry, part, index, payload, pixels, pixels, True)
        rest = [index for index in indices if index not in passed]
        if rest:
            for index, pixels in read_tiles(reader, part.grid, np.array(rest)):
                yield index, self._encoded(entry, part, index, pixels)

    def passes_through(self, part: SlidePart) -> bool:
        """Whether native tiles are what is to be stored."""
        if part.info.backend != "native":
            return False
        return self.encoding == "jpeg" and self.stain == "none" and is_native(part.info, part.grid)

    def _encoded(self, entry: Input, part: SlidePart, index: int, pixels: np.ndarray) -> PreparedSample:
        # Quality is of the pixels as scanned: pen and glass have other colours afterwards.
        shown = pixels if part.stain is None else normalise(pixels, StainFit.from_dict(part.stain))
        if self.encoding == "raw":
            return self._sample(entry, part, index, np.moveaxis(shown, 2, 0), pixels, shown, False)
        payload = encode(shown, self.encoding == "jpeg", self.quality)
        return self._sample(entry, part, index, payload, pixels, decode(payload, self.field), False)

    def _sample(
        self, entry: Input, part: SlidePart, index: int, payload: Any, pixels: np.ndarray, stored: np.ndarray,
        passed: bool,
    ) -> PreparedSample:
        grid, (height, width) = part.grid, stored.shape[:2]
        mpp = float(np.mean(grid.mpp))
        known = {name: value for name, value in entry.columns.items() if name != "tiles"}
        columns = {
            **known, **self._place(part, index), **tile_quality(pixels, mpp), "passthrough": passed, "width": width,
            "height": height, "file": entry.file, "pixel_hash": hash_pixels(stored),
        }
        return PreparedSample(part.ids[index], entry.split, {self.name: payload}, columns)

    def _place(self, part: SlidePart, index: int) -> dict[str, Any]:
        grid = part.grid
        return {
            "slide": part.slide, "x_px": float(grid.x0[index]), "y_px": float(grid.y0[index]),
            "field_px_x": grid.field0[0], "field_px_y": grid.field0[1], "mpp": float(np.mean(grid.mpp)),
            "mpp_x": grid.mpp[0], "mpp_y": grid.mpp[1], "slide_mpp_x": part.mpp.x, "slide_mpp_y": part.mpp.y,
            "mpp_origin": part.mpp.origin, "level": grid.level, "valid": float(grid.valid[index]),
            "tissue": float(part.shares[index]), "vendor": part.info.vendor,
        }


class _NotOpened(Refused):
    """The slide itself, not one of its tiles."""


def _open(part: SlidePart) -> SlideReader:
    try:
        reader = open_slide(part.path)
    except Refused as refused:
        raise _NotOpened(refused.reason, refused.detail) from refused
    if reader.info.levels != part.levels:
        reader.close()
        raise _NotOpened(CHANGED, "its levels are not what they were when it was looked at; run the command again")
    return reader
