"""Reading the stamps of a tile's sources: flux, mask and weights of every band, and what belongs to each stamp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciencessl.data_prep.decode import Refused, hash_pixels
from sciencessl.data_prep.fits_planes import Planes
from sciencessl.data_prep.sky_level import fill_missing, sky_and_noise
from sciencessl.data_prep.sky_tiles import SkyTile, own_bits
from sciencessl.data_prep.source import Input, Item, Task
from sciencessl.data_prep.survey_bands import Frame, read_band
from sciencessl.data_prep.survey_settings import SurveySettings
from sciencessl.spec import FieldSpec
from sciencessl.store.writer import PreparedSample, Refusal

LOW_COVERAGE, NO_PIXELS = "low-coverage", "no-known-pixel"


@dataclass(frozen=True)
class Shown:
    """A tile that shows some sources of another, too.

    Attributes:
        tile: The tile.
        bands: That are taken from it.
        rows: (k,) which sources of the chunk.
        x: (k,) their 0-based pixel position in the tile.
        y: (k,)
    """

    tile: SkyTile
    bands: Sequence[str]
    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """Sources that one tile owns, up to a number: what one input is read from.

    Attributes:
        owner: The tile.
        others: Tiles that show some of the sources too, in the order in which they fill what is missing.
        ids: n identifiers.
        splits: n splits.
        ra: (n,) degrees; NaN without a WCS.
        dec: (n,) degrees.
        x: (n,) 0-based pixel position in the owner.
        y: (n,)
        field_px: (n,) side of the field in pixels of the owner.
        columns: Values that stay with the pixels, n a column.
    """

    owner: SkyTile
    others: Sequence[Shown]
    ids: Sequence[str]
    splits: Sequence[str]
    ra: np.ndarray
    dec: np.ndarray
    x: np.ndarray
    y: np.ndarray
    field_px: np.ndarray
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shown(self) -> tuple[Shown, ...]:
        """All tiles that the sources are cut from, the owner first."""
        return Shown(self.owner, tuple(self.owner.bands), np.arange(len(self)), self.x, self.y), *self.others


@dataclass
class Stamps:
    """Stamps of n sources in C bands as they fill up.

    Attributes:
        image: (n, C, S, S) float32; NaN where nothing is known.
        mask: (n, C, S, S) bit planes with our own two bits on top.
        ivar: The same of inverse variances, or None.
    """

    image: np.ndarray
    mask: np.ndarray
    ivar: np.ndarray | None

    @classmethod
    def empty(cls, n: int, channels: int, side: int, mask_dtype: str, weights: bool) -> Stamps:
        """Nothing known yet."""
        shape = (n, channels, side, side)
        return cls(
            np.full(shape, np.nan, np.float32), np.full(shape, own_bits(mask_dtype)[0], mask_dtype),
            np.zeros(shape, np.float32) if weights else None,
        )

    @property
    def unknown(self) -> np.ndarray:
        """(n, C, S, S) bool: off every tile, or not finite there."""
        off, broken = own_bits(self.mask.dtype)
        return np.asarray((self.mask & (off | broken)) != 0)

    def incomplete(self, rows: np.ndarray, channel: int) -> np.ndarray:
        """(k,) bool: which of some stamps lack pixels of a band."""
        off, broken = own_bits(self.mask.dtype)
        return np.asarray(((self.mask[rows, channel] & (off | broken)) != 0).any(axis=(1, 2)))

    def take(
        self, rows: np.ndarray, channel: int, image: np.ndarray, mask: np.ndarray, ivar: np.ndarray | None
    ) -> None:
        """Take pixels of a band that are known there and were not before."""
        off, broken = own_bits(self.mask.dtype)
        before = self.mask[rows, channel]
        new: Any = True
        if not (before == off).all():
            # What one tile has broken and the next has not is taken; what neither knows stays as the first has it.
            new = (((before & (off | broken)) != 0) & ((mask & (off | broken)) == 0)) | (before == off)
        for held, piece in ((self.image, image), (self.mask, mask), (self.ivar, ivar)):
            if held is not None and piece is not None:
                held[rows, channel] = piece if new is True else np.where(new, piece, held[rows, channel])


@dataclass(frozen=True)
class SurveyReader:
    """Reads the chunks of a task one after the other. Pickles; files are opened where it is used.

    Attributes:
        fields: As stored: the image, its mask, and its inverse variance where the survey has weights.
        name: Of the image field.
        survey: The settings.
    """

    fields: Mapping[str, FieldSpec]
    name: str
    survey: SurveySettings

    def read(self, task: Task) -> Iterator[Item]:
        """One sample or one refusal for each source."""
        for entry in task.inputs:
            if isinstance(entry.handle, Chunk):
                yield from self._read(entry, entry.handle)
            else:
                yield from entry.handle

    def fingerprint(self, entry: Input) -> str:
        """Nothing: samples are compared by their pixels, not by their tiles, which may be large."""
        return ""

    def _read(self, entry: Input, chunk: Chunk) -> Iterator[Item]:
        frame = Frame.of(chunk.owner, chunk.x, chunk.y, chunk.field_px, chunk.ra, chunk.dec, self.survey)
        try:
            stamps = self._stamps(chunk, frame)
        except Refused as refused:
            detail = f"tile {chunk.owner.id}: {refused.detail}"
            yield from (Refusal(identifier, refused.reason, detail) for identifier in chunk.ids)
            return
        yield from self._samples(entry, chunk, frame, stamps)

    def _stamps(self, chunk: Chunk, frame: Frame) -> Stamps:
        """Raises Refused where a file of a tile cannot be read."""
        bands, mask = self.fields[self.name].channels, self.fields[f"{self.name}.mask"]
        ivar = f"{self.name}.ivar" in self.fields
        stamps = Stamps.empty(len(chunk), len(bands), self.survey.size_px, mask.dtype, ivar)
        with Planes() as planes:
            for shown in chunk.shown:
                for channel, name in enumerate(bands):
                    if name not in shown.bands:
                        continue
                    lacking = stamps.incomplete(shown.rows, channel)
                    if lacking.any():
                        rows = shown.rows[lacking]
                        piece = read_band(planes, shown.tile, name, frame.only(rows), shown.x[lacking],
                                          shown.y[lacking], mask.dtype, ivar)
                        stamps.take(rows, channel, *piece)
        return stamps

    def _samples(self, entry: Input, chunk: Chunk, frame: Frame, stamps: Stamps) -> Iterator[Item]:
        unknown = stamps.unknown
        known = 1.0 - unknown.mean(axis=(2, 3))
        columns, sky, noise = self._columns(chunk, frame, stamps, known)
        if self.survey.subtract_sky:
            stamps.image -= np.nan_to_num(sky)[..., None, None].astype(np.float32)
            sky = np.where(np.isfinite(sky), 0.0, sky)
        fill_missing(stamps.image, unknown, self.survey.fill, sky, noise, chunk.ids)  # type: ignore[arg-type]
        names = list(columns)
        for i, values in enumerate(zip(*columns.values(), strict=True)):
            why = self._refused(known[i])
            if why is not None:
                yield Refusal(chunk.ids[i], *why)
                continue
            payload = {self.name: stamps.image[i], f"{self.name}.mask": stamps.mask[i]}
            if stamps.ivar is not None:
                payload[f"{self.name}.ivar"] = stamps.ivar[i]
            found = {
                **dict(zip(names, values, strict=True)), "file": entry.file, "pixel_hash": hash_pixels(stamps.image[i]),
            }
            yield PreparedSample(chunk.ids[i], chunk.splits[i], payload, found)

    def _refused(self, known: np.ndarray) -> tuple[str, str] | None:
        there = known[known > 0]
        if not there.size:
            return NO_PIXELS, "every pixel of every band is off the tile, not finite or without weight"
        if there.min() < self.survey.min_coverage:
            band = self.fields[self.name].channels[int(np.argmin(np.where(known > 0, known, np.inf)))]
            return LOW_COVERAGE, (f"{there.min():.0%} of the pixels of band {band} are known, min_coverage is "
                                  f"{self.survey.min_coverage:.0%}")
        return None

    def _columns(
        self, chunk: Chunk, frame: Frame, stamps: Stamps, known: np.ndarray
    ) -> tuple[dict[str, Sequence[Any]], np.ndarray, np.ndarray]:
        """Column -> n values, and (n, C) sky and noise."""
        bands, owner, side = self.fields[self.name].channels, chunk.owner, self.survey.size_px
        # Of the field in stored pixels, so that times the pixel scale it is the side on the sky.
        columns: dict[str, Sequence[Any]] = {
            **chunk.columns, **frame.columns(), "tile": [owner.id] * len(chunk), "tile_x": chunk.x.tolist(),
            "size_px": (chunk.field_px if self.survey.fit == "pad" else np.full(len(chunk), float(side))).tolist(),
            "tile_y": chunk.y.tolist(), "width": [side] * len(chunk), "height": [side] * len(chunk),
            "unit": [_unit(chunk)] * len(chunk),
            "coverage": np.where(known > 0, known, np.inf).min(axis=1).tolist(),
        }
        off, broken = own_bits(stamps.mask.dtype)
        sky, noise = np.empty(known.shape), np.empty(known.shape)
        for channel, name in enumerate(bands):
            mask = stamps.mask[:, channel]
            sky[:, channel], noise[:, channel] = sky_and_noise(stamps.image[:, channel], mask == 0)
            masked = np.asarray(mask & ~np.array(off | broken, mask.dtype)) != 0
            columns |= {
                f"coverage_{name}": known[:, channel].tolist(), f"missing_{name}": (known[:, channel] == 0).tolist(),
                f"masked_{name}": masked.mean(axis=(1, 2)).tolist(), f"sky_{name}": sky[:, channel].tolist(),
                f"noise_{name}": noise[:, channel].tolist(),
                f"psf_fwhm_arcsec_{name}": _psf(chunk, name),
            }
        return columns, sky, noise


def _unit(chunk: Chunk) -> str:
    """The unit of all bands; where they differ, each band's."""
    units = {name: shown.tile.bands[name].unit for shown in reversed(chunk.shown) for name in shown.bands}
    if len(set(units.values())) == 1:
        return next(iter(units.values()))
    return ", ".join(f"{name}: {unit or 'unknown'}" for name, unit in sorted(units.items()))


def _psf(chunk: Chunk, band: str) -> list[float | None]:
    """Of the owner; where it lacks the band, of the first tile that has it and shows the source."""
    found: list[float | None] = [None] * len(chunk)
    for shown in reversed(chunk.shown):
        if band in shown.bands:
            for row in shown.rows.tolist():
                found[row] = shown.tile.bands[band].psf_fwhm_arcsec
    return found
