"""Guards for decoders that trust what they are given: what bytes claim to be, and damage that only prints words."""

from __future__ import annotations

import os
import tempfile
import threading
from functools import lru_cache
from typing import IO

import numpy as np

from sciencessl.data.decode import decode, jpeg_size
from sciencessl.data_prep.decode import Refused
from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec

_CODESTREAM = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream and of its sizes (ITU-T T.800, A.5.1)."""
_SEARCHED = 4096
_MOST_TIMES = 16
"""Values that bytes may claim for each pixel of their tile: four channels, and strips that are padded to four times."""
_STDERR = 2
_lock = threading.Lock()


def claimed_values(data: bytes) -> int:
    """Width times height times components that the header of a JPEG or JPEG 2000 asks memory for; 0 for other bytes."""
    at = data.find(_CODESTREAM, 0, _SEARCHED)
    if at >= 0 and len(data) >= at + 42 and not data.startswith(b"\xff\xd8"):
        right, lower, left, upper = (int.from_bytes(data[at + k : at + k + 4]) for k in (8, 12, 16, 20))
        return max(right - left, 0) * max(lower - upper, 0) * int.from_bytes(data[at + 40 : at + 42])
    height, width = jpeg_size(data) or (0, 0)
    return height * width * 3


def check_claim(data: bytes, width: int, height: int) -> None:
    """Whether the bytes of a tile or strip claim about its size, before a decoder takes memory and time for them.

    Raises:
        Refused: With reason `corrupt` where they claim far more.
    """
    if claimed_values(data) > _MOST_TIMES * width * height:
        raise Refused("corrupt", f"a tile or strip of {width} x {height} px claims to be a far larger image")


def strictly(payload: bytes, field: FieldSpec) -> np.ndarray | None:
    """`decode` for slides, which have damage that must not pass for tissue.

    libjpeg goes on over a damaged scan, with other pixels from there on, and OpenCV tells that only by words on the
    standard error. They are caught here; where another thread writes there meanwhile, its words go along and the tile
    counts as damaged, so that another reader is asked. Source: ours.

    Returns:
        As `decode`; None for bytes that are damaged or no image.
    """
    with _lock:
        try:
            sink, kept = _sink(os.getpid()), os.dup(_STDERR)
        except OSError:  # a process without standard error, or without room for a file
            return _decoded(payload, field)
        os.dup2(sink.fileno(), _STDERR)
        try:
            pixels = _decoded(payload, field)
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
        if os.lseek(sink.fileno(), 0, os.SEEK_CUR):
            os.lseek(sink.fileno(), 0, os.SEEK_SET)
            return None
    return pixels


def _decoded(payload: bytes, field: FieldSpec) -> np.ndarray | None:
    try:
        return decode(payload, field)
    except StoreError:
        return None


@lru_cache(maxsize=1)
def _sink(process: int) -> IO[bytes]:
    """A file that nobody reads, one for each process: forked ones would share its place."""
    return tempfile.TemporaryFile(buffering=0)
