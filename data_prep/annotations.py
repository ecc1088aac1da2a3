"""Annotation files of slides: whatever program wrote them, its regions in level-0 pixels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from sciencessl.data_prep.annotations_json import read_darwin, read_geojson
from sciencessl.data_prep.annotations_ndpa import NdpPlace, read_ndpa
from sciencessl.data_prep.annotations_parquet import read_geoparquet
from sciencessl.data_prep.annotations_xml import read_aperio, read_asap
from sciencessl.data_prep.drawn import Drawn
from sciencessl.data_prep.regions import Region
from sciencessl.errors import DataError
from sciencessl.store.files import read_file

ANNOTATION_SUFFIXES = (".geojson", ".json", ".xml", ".annotations", ".ndpa", ".parquet")
FORMATS = ("GeoJSON as QuPath writes it, Darwin JSON, XML of ASAP, of Aperio ImageScope or of HALO, NDPA, and "
           "GeoParquet with polygons as WKB")
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_annotations(
    path: str | Path, place: NdpPlace | None = None, nuclei: bool = False, skipped: Counter[str] | None = None
) -> list[Region]:
    """The regions of an annotation file, told by what is in it and not by its name.

    Open rings are closed. Lines, arrows, and areas that are lines or have fewer than three corners are left out, and
    counted. A class is what each format calls it: QuPath's classification, or else the name; the group of ASAP; the
    layer of ImageScope; the title of NDP.view.

    Args:
        path: The file.
        place: Where an NDPA file's slide lies; None looks into the slide beside it. Other formats need none.
        nuclei: Take the nucleus of QuPath's cells that have one, instead of the cell.
        skipped: Where to count what was left out, by reason; None forgets it.

    Raises:
        DataError: For a file that is missing, of another format or damaged, with the place in it and what was expected.
        MissingExtraError: When an NDPA file needs its slide, and OpenSlide is not installed.
    """
    drawn = Drawn(Path(path))
    try:
        raw = read_file(drawn.path)
    except OSError as error:
        raise DataError(f"annotations {path} cannot be read: {error.strerror or error}.") from None
    start = raw.removeprefix(b"\xef\xbb\xbf").lstrip()[:4]
    if start[:1] in (b"{", b"["):
        _read_json(raw, drawn, nuclei)
    elif start[:1] == b"<" or start[:2] in BYTE_ORDER_MARKS:
        _read_xml(raw, drawn, place)
    elif start == b"PAR1":
        read_geoparquet(raw, drawn)
    else:
        raise DataError(f"annotations {path} begin with {start!r}; known are {FORMATS}.")
    if skipped is not None:
        skipped.update(drawn.skipped)
    return drawn.regions


def _read_json(raw: bytes, drawn: Drawn, nuclei: bool) -> None:
    try:
        found = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotations {drawn.path} are no JSON ({error}); the file may be cut.") from None
    if isinstance(found, dict) and isinstance(found.get("annotations"), list):
        read_darwin(found, drawn)
    else:
        read_geojson(found, drawn, nuclei)


def _read_xml(raw: bytes, drawn: Drawn, place: NdpPlace | None) -> None:
    if b"<!ENTITY" in raw:
        # Entities within entities can swell a short file to gigabytes, and no program that draws regions writes any.
        raise DataError(f"annotations {drawn.path} declare XML entities, which no annotation needs; refused.")
    try:
        root = ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"annotations {drawn.path} are no XML ({error}); the file may be cut.") from None
    readers: dict[str, Callable[[], None]] = {
        "ASAP_Annotations": lambda: read_asap(root, drawn),
        "Annotations": lambda: read_aperio(root, drawn),
        "annotations": lambda: read_ndpa(root, drawn, place),
    }
    if root.tag not in readers:
        raise DataError(f"annotations {drawn.path} have the root <{root.tag}>, expected one of "
                        f"{', '.join(f'<{name}>' for name in readers)}; known are {FORMATS}.")
    readers[root.tag]()
