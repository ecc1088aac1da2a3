"""Whatever libraries raise over damaged slides -> `Refused`, in words that name no file."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sciencessl.data_prep.decode import Refused
from sciencessl.errors import MissingExtraError

_IDENTIFIER = re.compile(r"\d+(?:\.\d+){5,}")
_CUT = ("truncated", "premature", "unexpected end", "end of file", "short read")
CONVERT = "convert it to a tiled TIFF, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
"""What to do with a file that no reader opens as it is."""
AGAIN = "copy the slide again from where it comes"
"""What to do with a damaged file."""


def openslide_module() -> Any:
    """`openslide`.

    Raises:
        MissingExtraError: When it is not installed, or its library is not.
    """
    try:
        import openslide
    except (ImportError, OSError) as error:  # OSError: the module is there, and the library is not
        raise _missing("openslide-python and openslide-bin") from error
    return openslide


def tifffile_module() -> Any:
    """`tifffile`, silent.

    Raises:
        MissingExtraError: When it is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise _missing("tifffile") from error
    # It logs what is odd in a file together with the file's name, which may be that of a patient.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


def _missing(names: str) -> MissingExtraError:
    return MissingExtraError(f"reading slides needs {names}; install them with: pip install 'sciencessl[pathology]'")


@contextmanager
def refusals(path: str, reason: str, doing: str = "") -> Iterator[None]:
    """Turns whatever libraries raise into `Refused`.

    Args:
        path: The slide: its name is left out of what is said, and where it is gone the reason is `missing-file`.
        reason: To count by, where the words tell no better one (`truncated`, `too-large`).
        doing: What was tried, before the words: "OpenSlide cannot open it".
    """
    try:
        yield
    except (Refused, MissingExtraError):
        raise
    except Exception as error:  # hostile bytes raise anything from KeyError to struct.error
        # Of errors of the file system, what happened: the rest is the path.
        what = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        words = nameless(f"{doing}: {what}" if doing else what, path)
        raise Refused(_better(error, words, path) or reason, words) from error


def _better(error: Exception, words: str, path: str) -> str:
    if not os.path.exists(path):
        return "missing-file"
    if isinstance(error, MemoryError):
        return "too-large"
    return "truncated" if isinstance(error, EOFError) or any(cut in words.lower() for cut in _CUT) else ""


def nameless(words: str, path: str) -> str:
    """Words without names of a file and its neighbours, or identifiers of DICOM, on one line of 200 letters at most."""
    whole = os.path.abspath(path)
    for known in (whole, path, os.path.splitext(whole)[0]):
        words = words.replace(known, "the file")
    for folder in {os.path.dirname(whole), os.path.dirname(path)} - {"", "/"}:
        # Formats of several files tell which of them is bad; names end where words go on.
        words = re.sub(re.escape(folder) + r"/?[^:\n]*", "a file beside it", words)
    words = _IDENTIFIER.sub("UID", words.replace(os.path.basename(whole), "the file"))
    return " ".join(words.split())[:200]
