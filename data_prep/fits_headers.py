"""FITS files opened as far as their headers: unpacked where they must be, with where each array lies and how large."""

from __future__ import annotations

import bz2
import gzip
import io
import math
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np

from sciencessl.data_prep.decode import Refused
from sciencessl.errors import MissingExtraError

BLOCK = 2880
MAX_HEADER_BLOCKS = 10_000
"""A header of more than 360,000 cards is damage: without END a file would be read to its end."""
_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class Unit:
    """One header-data unit.

    Attributes:
        index: Its number in the file, from 0.
        header: Its cards as they are stored: those of a table where the image is tile-compressed.
        offset: Byte of the unpacked file that its data start at.
        size: Bytes of its data, padding left out.
    """

    index: int
    header: Any
    offset: int
    size: int

    @property
    def packed(self) -> bool:
        """Whether it is a tile-compressed image (fpack)."""
        return bool(self.header.get("ZIMAGE", False))

    @property
    def is_image(self) -> bool:
        """Whether its data are an array; true for a primary unit without data too."""
        return self.packed or str(self.header.get("XTENSION", "IMAGE")).strip() == "IMAGE"

    @property
    def name(self) -> str:
        """EXTNAME; empty where it has none or only the one that compression writes."""
        name = str(self.header.get("EXTNAME", "")).strip()
        return "" if name in ("COMPRESSED_IMAGE", "PRIMARY") else name

    @property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the axes in the order of numpy."""
        z = "Z" if self.packed else ""
        return tuple(int(self.header[f"{z}NAXIS{i}"]) for i in range(int(self.header.get(f"{z}NAXIS", 0)), 0, -1))

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W), or (layers, H, W): leading axes of length 1 are left out, as radio images have."""
        axes = self.axes
        while len(axes) > 2 and axes[0] == 1:
            axes = axes[1:]
        return axes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers as stored, before BSCALE and BZERO."""
        return np.dtype(_TYPES[int(self.header["ZBITPIX" if self.packed else "BITPIX"])])


def astropy_fits(doing: str) -> Any:
    """`astropy.io.fits`.

    Args:
        doing: What it is needed for, for the message: "reading FITS stamps".

    Raises:
        MissingExtraError: When astropy is not installed.
    """
    try:
        from astropy.io import fits
    except ImportError as error:
        raise MissingExtraError(f"{doing} needs astropy; install it with: pip install 'sciencessl[galaxy]'") from error
    return fits


def packer(start: bytes) -> Any:
    """The module that unpacks a file beginning with these bytes, `gzip` or `bz2`; None where it is not packed."""
    return gzip if start.startswith(b"\x1f\x8b") else bz2 if start.startswith(b"BZh") else None


def open_regular(path: str) -> IO[bytes]:
    """A file opened for reading.

    Raises:
        Refused: With reason corrupt for a pipe or a device, which might never end.
        OSError: As the file system says.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Refused("corrupt", f"{path!r} is no regular file")
    return open(path, "rb")


@contextmanager
def opened(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The content of a file that stands at its start, without gzip or bzip2 around it.

    Raises:
        Refused: With reason truncated when the file is empty.
    """
    start = file.read(3)
    file.seek(0)
    if not start:
        raise Refused("truncated", "the file is empty")
    module = packer(start)
    if module is None:
        yield file
    else:
        with module.open(file) as stream:
            yield cast(IO[bytes], stream)


def unpacked(file: IO[bytes], max_bytes: int) -> bytes | bytearray:
    """All bytes of a file without gzip or bzip2 around it, as long as it is no bomb.

    Raises:
        Refused: With reason truncated when it is empty, too-large when more than `max_bytes` come out.
        EOFError: When a packed file ends early.
    """
    plain = bytearray()
    with opened(file) as stream:
        while block := stream.read(min(4 * 2**20, max_bytes + 1 - len(plain))):
            plain += block
            if len(plain) > max_bytes:
                raise Refused("too-large", f"more than {max_bytes} bytes unpacked")
    return plain


@contextmanager
def refusals() -> Iterator[None]:
    """Turns whatever damaged files make libraries raise into `Refused`: missing-file, truncated or corrupt.

    What they only warn of, such as cards that break the standard, is passed over: surveys are full of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Refused, MissingExtraError):
        raise
    except FileNotFoundError as error:
        raise Refused("missing-file", f"{error.filename} is not there") from error
    except Exception as error:  # hostile headers raise anything from KeyError to struct.error
        reason = "truncated" if isinstance(error, EOFError) or "truncated" in str(error).lower() else "corrupt"
        raise Refused(reason, f"{type(error).__name__}: {error}"[:200]) from error


def scan(stream: IO[bytes]) -> list[Unit]:
    """The header-data units of a FITS file. No pixel is kept, and none read where the stream can jump.

    Args:
        stream: The unpacked file from its start.

    Raises:
        Refused: With reason corrupt where it is no FITS file, truncated where headers or data end early.
    """
    units: list[Unit] = []
    start = 0
    while True:
        stream.seek(start)
        text = _header_text(stream, first=not units)
        if text is None:
            return units
        header = astropy_fits("reading FITS files").Header.fromstring(text)
        unit = Unit(len(units), header, start + len(text), _data_bytes(header))
        _check_data(stream, unit)
        units.append(unit)
        start = unit.offset + BLOCK * math.ceil(unit.size / BLOCK)


def _header_text(stream: IO[bytes], first: bool) -> bytes | None:
    """The blocks of one header; None where no further unit begins: what follows the last one is no FITS."""
    blocks = [stream.read(BLOCK)]
    if first and not blocks[0].startswith(b"SIMPLE  ="):
        raise Refused("corrupt", f"no FITS file: it begins with {blocks[0][:9]!r}, expected b'SIMPLE  ='")
    if not first and not blocks[0].startswith(b"XTENSION"):
        return None
    while not _ends(blocks[-1]):
        if len(blocks[-1]) < BLOCK:
            raise Refused("truncated", "a header ends before its END card")
        if len(blocks) > MAX_HEADER_BLOCKS:
            raise Refused("corrupt", f"a header without END in {MAX_HEADER_BLOCKS} blocks")
        blocks.append(stream.read(BLOCK))
    return b"".join(blocks)


def _ends(block: bytes) -> bool:
    return len(block) == BLOCK and re.search(rb"^(?:.{80})*?END {77}", block, re.DOTALL) is not None


def _data_bytes(header: Any) -> int:
    axes = [int(header[f"NAXIS{i}"]) for i in range(1, int(header["NAXIS"]) + 1)]
    if min(axes, default=0) < 0:
        raise Refused("corrupt", f"an axis of negative length: {axes}")
    if int(header["BITPIX"]) not in _TYPES:
        raise Refused("corrupt", f"BITPIX is {header['BITPIX']}, expected one of {', '.join(map(str, _TYPES))}")
    if not axes:
        return 0
    elements = int(header.get("GCOUNT", 1)) * (int(header.get("PCOUNT", 0)) + math.prod(axes))
    return abs(int(header["BITPIX"])) // 8 * elements


def _check_data(stream: IO[bytes], unit: Unit) -> None:
    """Reads the last byte: packed streams know no length, and a plain file may be cut."""
    if not unit.size:
        return
    stream.seek(unit.offset + unit.size - 1)
    if not stream.read(1):
        has = stream.seek(0, io.SEEK_END) - unit.offset
        raise Refused("truncated", f"HDU {unit.index} should hold {unit.size} bytes of data and has {max(has, 0)}")
