"""NDPA, what Hamamatsu's NDP.view draws: nanometres from the middle of the glass. Source: files of the program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from sciencessl.data_prep.drawn import Drawn, ellipse
from sciencessl.errors import DataError, MissingExtraError

NM_PER_UM = 1000.0


@dataclass(frozen=True)
class NdpPlace:
    """Where a slide of Hamamatsu lies on its glass.

    Attributes:
        size: (width, height) of level 0 in pixels.
        mpp: (x, y) um a pixel.
        offset_nm: (x, y) nanometres from the middle of the glass to the middle of the slide:
            `hamamatsu.XOffsetFromSlideCentre` and `hamamatsu.YOffsetFromSlideCentre`.
    """

    size: tuple[float, float]
    mpp: tuple[float, float]
    offset_nm: tuple[float, float]

    def pixels(self, nanometres: np.ndarray) -> np.ndarray:
        """(k, 2) nanometres -> (k, 2) level-0 pixels."""
        found: np.ndarray = (nanometres - self.offset_nm) / (NM_PER_UM * np.array(self.mpp)) + np.array(self.size) / 2
        return found


def read_ndpa(root: Element, drawn: Drawn, place: NdpPlace | None = None) -> None:
    """Take closed freehand areas and rectangles, circles and pins; the class is the title, or else the details.

    Open lines, rulers and pointers (arrows, of which the file does not say the tip) are counted.

    Args:
        root: The parsed file.
        drawn: Where they go.
        place: Of the slide; None looks into the slide beside the file, `SLIDE.ndpi` beside `SLIDE.ndpi.ndpa`.

    Raises:
        DataError: When nothing tells the place, or for what is damaged, with the number of the view, from 0.
        MissingExtraError: When the slide must be opened, and OpenSlide is not installed.
    """
    place = place or slide_place(drawn.path)
    for number, view in enumerate(root.iter("ndpviewstate")):
        where = f"ndpviewstate {number}"
        name = view.findtext("title") or view.findtext("details") or ""
        unit = view.findtext("coordformat") or "nanometers"
        if not unit.lower().startswith("nano"):
            raise drawn.error(where, f"has coordinates in {unit!r}, expected nanometers")
        for found in view.iter("annotation"):
            _take(found, name, drawn, where, place)


def _take(found: Element, name: str, drawn: Drawn, where: str, place: NdpPlace) -> None:
    kind = found.get("type", "")
    if kind in ("freehand", "rectangle") and (kind == "rectangle" or found.findtext("closed") == "1"):
        corners = [_pair(point, drawn, where) for point in found.iterfind("pointlist/point")]
        drawn.area([place.pixels(drawn.corners(corners, where))] if corners else [[]], name, where)
    elif kind == "circle":
        centre, radius = np.array(_pair(found, drawn, where)), _numbers(found, ("radius",), drawn, where)[0]
        drawn.area([place.pixels(ellipse(np.stack([centre - radius, centre + radius])))], name, where)
    elif kind == "pin":
        drawn.point(place.pixels(np.array([_pair(found, drawn, where)]))[0], name, where)
    elif kind == "freehand":
        drawn.skipped["lines"] += 1
    else:
        drawn.skipped[f"annotations of type {kind!r}"] += 1


def _pair(tag: Element, drawn: Drawn, where: str) -> list[float]:
    return _numbers(tag, ("x", "y"), drawn, where)


def _numbers(tag: Element, names: Iterable[str], drawn: Drawn, where: str) -> list[float]:
    try:
        return [float(tag.findtext(name) or f"no <{name}>") for name in names]
    except ValueError as error:
        raise drawn.error(where, f"has a place that is no number: {error}") from None


def slide_place(annotations: Path) -> NdpPlace:
    """Where the slide of an NDPA file lies, as the slide itself says.

    Raises:
        DataError: When there is no slide beside the file, or it does not say.
        MissingExtraError: When OpenSlide is not installed.
    """
    slide = annotations.with_suffix("")
    if not slide.is_file():
        raise DataError(
            f"annotations {annotations} count nanometres from the middle of the glass, and no slide {slide.name} lies "
            "beside them to say where it is. Put the file beside its slide, as NDP.view does, or export GeoJSON from "
            "QuPath."
        )
    return _place(annotations, _properties(slide))


def _properties(slide: Path) -> Mapping[str, str]:
    """What OpenSlide says of a slide, its size among it."""
    try:
        import openslide
    except ImportError as error:
        raise MissingExtraError("an NDPA file needs its slide, and OpenSlide to open it: pip install "
                                "'sciencessl[pathology]'.") from error
    try:
        with openslide.OpenSlide(str(slide)) as found:
            return dict(found.properties)
    except openslide.OpenSlideError as error:
        raise DataError(f"slide {slide}, whose annotations are to be read, cannot be opened: {error}.") from None


def _place(annotations: Path, said: Mapping[str, str]) -> NdpPlace:
    pairs = (("openslide.level[0].width", "openslide.level[0].height"), ("openslide.mpp-x", "openslide.mpp-y"),
             ("hamamatsu.XOffsetFromSlideCentre", "hamamatsu.YOffsetFromSlideCentre"))
    try:
        size, mpp, offset = ((float(said[x]), float(said[y])) for x, y in pairs)
    except (KeyError, ValueError) as error:
        raise DataError(f"annotations {annotations}: the slide beside them does not say {error}, which places them; "
                        "export GeoJSON from QuPath instead.") from None
    return NdpPlace(size, mpp, offset)
