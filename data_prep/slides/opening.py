"""One way to open any slide: native tiles where they prove equal, else OpenSlide, else a flat image."""

from __future__ import annotations

import math
import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from sciencessl.data_prep.decode import MAX_PIXELS, Refused
from sciencessl.data_prep.listing import IMAGE_SUFFIXES, has_suffix
from sciencessl.data_prep.slides.flat_reader import FlatReader
from sciencessl.data_prep.slides.native_reader import NativeReader
from sciencessl.data_prep.slides.openslide_reader import OpenSlideReader
from sciencessl.data_prep.slides.refusals import AGAIN, CONVERT, openslide_module, refusals
from sciencessl.data_prep.slides.slide import SlideReader
from sciencessl.data_prep.slides.tiff import Facts, check_chain, check_whole, is_tiff, read_facts

_GENERIC = "generic-tiff"
_NEEDS = {
    ".mrxs": "it needs the folder of the same name beside it",
    ".vms": "it needs the .jpg files that it names beside it",
}
_CHECK = "check that it is a slide and was copied whole"


def open_slide(path: str) -> SlideReader:
    """Open a slide in this process, and read pixels of every level once.

    Args:
        path: The file; for DICOM any file of a folder that holds the series, for MIRAX the `.mrxs` file.

    Raises:
        Refused: With reason `missing-file`, `unreadable`, `corrupt`, `truncated`, `not-rgb8` or `too-large`, and a hint
            that names no path.
        MissingExtraError: When OpenSlide or tifffile is not installed.
    """
    _check_file(path)
    with refusals(path, "unreadable"):
        vendor = openslide_module().OpenSlide.detect_format(path)
    if is_tiff(path):
        return _open_tiff(path, vendor)
    if vendor is not None:
        return OpenSlideReader(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in IMAGE_SUFFIXES:
        # An .mrxs is a JPEG of the whole slide, a thumbnail: without its folder it must not pass for a flat slide.
        raise Refused("unreadable", f"no reader knows its format; {_NEEDS.get(suffix, _CHECK)}")
    return FlatReader(path)


def _open_tiff(path: str, vendor: str | None) -> SlideReader:
    try:
        if vendor is None:
            check_chain(path)
        facts = read_facts(path, alone=vendor in (None, _GENERIC))
    except Refused as refused:
        if vendor is None or refused.reason == "not-rgb8":
            raise
        return OpenSlideReader(path)  # which understands what tifffile does not
    for page in facts.pages:  # before OpenSlide: it ends the process where memory for one does not suffice
        if page.tile_px and math.prod(page.tile_px) > MAX_PIXELS:
            size = f"{page.tile_px[0]} x {page.tile_px[1]} px"
            raise Refused("too-large", f"it claims tiles of {size}; if that is so, {CONVERT}")
    judge = _judge(path, vendor, facts)
    pages = facts.levels if isinstance(judge, FlatReader) else facts.pages
    sizes = {(level.width, level.height) for level in judge.info.levels}
    try:
        for page in pages:
            if (page.width, page.height) in sizes:
                check_whole(page, os.path.getsize(path))
    except BaseException:
        judge.close()
        raise
    return NativeReader(path, judge, pages)


def _judge(path: str, vendor: str | None, facts: Facts) -> OpenSlideReader | FlatReader:
    """OpenSlide where it opens the file and sees all of its levels, else tifffile."""
    if vendor is None:
        return FlatReader(path)
    try:
        reader = OpenSlideReader(path, facts.mpp)
    except Refused as refused:
        if refused.reason != "unreadable":
            raise
        return FlatReader(path)
    if vendor == _GENERIC and len(reader.info.levels) < len(facts.levels):  # levels in SubIFDs
        reader.close()
        return FlatReader(path)
    return reader


def _check_file(path: str) -> None:
    with refusals(path, "unreadable"):
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise Refused("unreadable", "a folder; name the slide file in it")
        if not stat.S_ISREG(status.st_mode):
            raise Refused("unreadable", "a pipe or a device; expected a file")
        if status.st_size == 0:
            raise Refused("truncated", f"the file is empty; {AGAIN}")


def one_per_slide(paths: Iterable[str]) -> list[str]:
    """Files that stand for a slide each, among all that were found, in their order.

    Left out are further files of a DICOM series in the same folder, what lies in the folder that belongs to an `.mrxs`
    file, and images that a `.vms` or `.vmu` file names as its own.

    Raises:
        MissingExtraError: When there is DICOM and OpenSlide is not installed.
    """
    found = list(paths)
    owned = {str(Path(path).with_suffix("")) for path in found if has_suffix(path, (".mrxs",))}
    parts = {part for path in found if has_suffix(path, (".vms", ".vmu")) for part in _named_in(path)}
    series: dict[str, set[str]] = defaultdict(set)
    return [
        path for path in found
        if os.path.dirname(path) not in owned and path not in parts
        and not (has_suffix(path, (".dcm",)) and _seen(path, series[os.path.dirname(path)]))
    ]  # fmt: skip


def _named_in(path: str) -> Iterable[str]:
    """Files beside an index of key=value lines that it names; none where it cannot be read."""
    try:
        text = Path(path).read_bytes()[:2**20].decode("utf-8", "replace")
    except OSError:
        return []
    names = (line.partition("=")[2].strip() for line in text.splitlines())
    return [os.path.join(os.path.dirname(path), name) for name in names if name]


def _seen(path: str, series: set[str]) -> bool:
    """Whether a DICOM file belongs to a series that was met before; one that does not open counts as new."""
    module = openslide_module()
    try:
        with module.OpenSlide(path) as slide:
            name = slide.properties.get("dicom.SeriesInstanceUID", path)
    except (module.OpenSlideError, OSError):
        return False
    new = name not in series
    series.add(name)
    return not new
