"""Reading planes of FITS files: as little as the windows that are wanted need."""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.fits_headers import Unit, astropy_fits, open_regular, packer, refusals, scan, unpacked
from sciencessl.data_prep.sky_tiles import Plane

MAX_UNPACKED_BYTES = 8 * 2**30
"""Packed files that unpack to more are refused: tiles of 20,000 pixels a side in five bands are as large."""
KEEP_BYTES = 512 * 2**20
"""Unpacked files and decoded planes that stay at hand; the last one stays whatever its size."""
OPEN_FILES = 64
SECTION_COST = 2.0
"""What a tile-compressed pixel costs in `.section`, of what it costs in a full read: 1.0 to 2.1 were measured for RICE,
GZIP and HCOMPRESS with tiles of a row, of 16 rows and of 100 x 100 pixels (docs/reference/tiles.md)."""


class Pixels(Protocol):
    """What can be cut from: an array, or something that reads the part that is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that come out, in any byte order."""
        ...

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """The rows and columns of two slices without steps."""
        ...


@dataclass(frozen=True)
class _Scale:
    """What the numbers on disk stand for, by BSCALE, BZERO and BLANK (FITS standard 4.0, section 5.3)."""

    stored: np.dtype[Any]
    factor: float
    zero: float
    blank: int | None

    @property
    def is_none(self) -> bool:
        return self.factor == 1 and self.zero == 0 and self.blank is None

    @property
    def flips_sign(self) -> bool:
        """Whether BZERO only shifts between signed and unsigned, as FITS lacks uint16 and int8."""
        bits = 8 * self.stored.itemsize
        shift = -(2.0**7) if bits == 8 else 2.0 ** (bits - 1)
        return self.stored.kind != "f" and self.blank is None and self.factor == 1 and self.zero == shift

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the true numbers, wide enough for what is stored."""
        if self.is_none:
            return self.stored.newbyteorder("=")
        if self.flips_sign:
            return np.dtype(f"{'i' if self.stored.kind == 'u' else 'u'}{self.stored.itemsize}")
        return np.dtype("f8" if self.stored.itemsize > (4 if self.stored.kind == "f" else 2) else "f4")

    def apply(self, stored: np.ndarray) -> np.ndarray:
        raw = np.asarray(stored, dtype=self.stored.newbyteorder("="))
        if self.is_none:
            return raw
        if self.flips_sign:
            bits = raw.view(f"u{raw.itemsize}")
            turned: np.ndarray = bits ^ bits.dtype.type(1 << (8 * raw.itemsize - 1))
            return turned.view(self.dtype)
        values = raw.astype(self.dtype)
        if self.blank is not None:
            values[raw == self.blank] = np.nan
        values *= self.factor
        values += self.zero
        return values


@dataclass(frozen=True)
class _Scaled:
    """Numbers on disk that are scaled when they are read, and only those that are."""

    raw: np.ndarray
    scale: _Scale

    @property
    def shape(self) -> tuple[int, ...]:
        return self.raw.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.scale.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        return self.scale.apply(self.raw[key])


@dataclass(frozen=True)
class _Sections:
    """A tile-compressed image that decompresses only the tiles that a window touches."""

    section: Any
    lead: tuple[int, ...]
    shape: tuple[int, ...]
    scale: _Scale

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.scale.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        with refusals():
            return self.scale.apply(self.section[(*self.lead, *key)])


@dataclass
class _File:
    """A file that is open: its units, its bytes, and astropy's view of it where a unit is tile-compressed.

    `path` is None where the bytes are those of an unpacked copy in memory.
    """

    units: list[Unit]
    content: np.ndarray
    path: str | None
    hdus: Any = None


class Planes:
    """Reads planes of FITS files, each file opened once while it is at hand. A context manager; belongs to one process.

    What is kept is bounded: at most 64 open files, and about 512 MiB of unpacked files and decoded planes.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._decoded: OrderedDict[Plane, np.ndarray] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files; arrays that were handed out stay valid."""
        while self._files:
            _close(self._files.popitem()[1])
        self._decoded.clear()

    def read(self, plane: Plane) -> np.ndarray:
        """The whole plane as (H, W) in native byte order, a copy.

        Numbers are scaled by BSCALE and BZERO, uint16 and the like come back as such, and pixels that BLANK marks are
        NaN, in masks the number that is stored.

        Raises:
            Refused: With reason missing-file, truncated, corrupt, too-large, or not-an-image where the unit is none.
        """
        everything = slice(None), slice(None)
        values = self.windows(plane, 1, 2**31)[everything]
        return np.array(values, dtype=values.dtype.newbyteorder("="))

    def windows(self, plane: Plane, n_sources: int, side: int) -> Pixels:
        """The plane as something to cut windows from, chosen so that little is read. Windows may be big-endian.

        | file | read |
        |---|---|
        | plain | memory-mapped; integers are scaled window by window |
        | gzip, bzip2 | unpacked once into memory, then as a plain file |
        | tile-compressed | in sections where few windows are wanted, else the whole plane at once |

        Sections are taken while the tiles that all windows touch hold fewer than half of the plane's pixels. What comes
        back for a tile-compressed file serves until 64 other files were asked for.

        Args:
            plane: From `find_tiles`.
            n_sources: How many windows will be cut.
            side: Their side in pixels.

        Raises:
            Refused: As `read` does.
        """
        file = self._file(plane.path)
        with refusals():
            unit = _unit(file, plane)
            if not unit.packed:
                return _plain(file, unit, plane)
            return self._compressed(file, unit, plane, n_sources, side)

    def _compressed(self, file: _File, unit: Unit, plane: Plane, n_sources: int, side: int) -> Pixels:
        if plane in self._decoded:
            self._decoded.move_to_end(plane)
            return self._decoded[plane]
        if file.hdus is None:
            source = io.BytesIO(file.content.tobytes()) if file.path is None else file.path
            fits = astropy_fits("reading FITS tiles")
            # Scaled here, not by astropy, which loads a whole memory-mapped file for it or refuses to.
            file.hdus = fits.open(source, memmap=file.path is not None, do_not_scale_image_data=True)
        image = file.hdus[unit.index]
        height, width = unit.shape[-2:]
        lead = (0,) * (len(unit.axes) - len(unit.shape)) + ((plane.layer,) if plane.layer >= 0 else ())
        lazy = _Sections(image.section, lead, (height, width), _scale(unit, plane))
        tile_h, tile_w = int(unit.header.get("ZTILE2", 1)), int(unit.header.get("ZTILE1", width))
        touched = min(height, side + tile_h) * min(width, side + tile_w)
        if n_sources * touched * SECTION_COST < height * width:
            return lazy
        self._decoded[plane] = values = lazy[:, :]
        self._trim()
        return values

    def _file(self, path: str) -> _File:
        if path in self._files:
            self._files.move_to_end(path)
        else:
            self._files[path] = _open(path)
            self._trim()
        return self._files[path]

    def _trim(self) -> None:
        while len(self._decoded) > 1 and sum(values.nbytes for values in self._decoded.values()) > KEEP_BYTES:
            self._decoded.popitem(last=False)
        while len(self._files) > 1 and (len(self._files) > OPEN_FILES or self._unpacked_bytes() > KEEP_BYTES):
            _close(self._files.popitem(last=False)[1])

    def _unpacked_bytes(self) -> int:
        return sum(file.content.nbytes for file in self._files.values() if not isinstance(file.content, np.memmap))


def read_plane(plane: Plane) -> np.ndarray:
    """One whole plane as (H, W) in native byte order.

    Raises:
        Refused: As `Planes.read` does.
    """
    with Planes() as planes:
        return planes.read(plane)


def _open(path: str) -> _File:
    with refusals(), open_regular(path) as file:
        if packer(file.read(3)) is None:
            file.seek(0)
            return _File(scan(file), np.memmap(path, np.uint8, "r"), path)
        file.seek(0)
        plain = unpacked(file, MAX_UNPACKED_BYTES)
        return _File(scan(io.BytesIO(plain)), np.frombuffer(plain, np.uint8), None)


def _close(file: _File) -> None:
    if file.hdus is not None:
        file.hdus.close()


def _unit(file: _File, plane: Plane) -> Unit:
    if plane.hdu >= len(file.units) or not file.units[plane.hdu].is_image:
        raise Refused("not-an-image", f"HDU {plane.hdu} is no image; did the file change since it was listed?")
    return file.units[plane.hdu]


def _plain(file: _File, unit: Unit, plane: Plane) -> Pixels:
    """An uncompressed image on its bytes; nothing is read yet."""
    values = np.asarray(file.content)[unit.offset : unit.offset + unit.size].view(unit.dtype).reshape(unit.shape)
    scale = _scale(unit, plane)
    if plane.layer >= 0:
        values = values[plane.layer]
    return values if scale.is_none else _Scaled(values, scale)


def _scale(unit: Unit, plane: Plane) -> _Scale:
    header = unit.header
    # In a mask every stored number is a flag: what BLANK marks is a bad pixel like others.
    blank = header.get("BLANK") if unit.dtype.kind != "f" and plane.kind != "mask" else None
    return _Scale(unit.dtype, float(header.get("BSCALE", 1)), float(header.get("BZERO", 0)), blank)
