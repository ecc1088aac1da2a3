"""What planes one FITS file holds: band, kind, WCS cards, unit and PSF width, from its headers and its name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.fits_headers import Unit, open_regular, opened, refusals, scan
from sciencessl.data_prep.fits_names import FileName, is_band, kind_of, words_of
from sciencessl.data_prep.fits_wcs import has_axes, needs_tables, wcs_cards
from sciencessl.data_prep.listing import FileRef
from sciencessl.data_prep.sky_tiles import Kind, Plane

_BAND_KEYS = ("FILTER", "BAND", "FILTER1", "FILTER2", "FILTNAM", "FILTNAM1")
_NO_BANDS = ("clear", "open", "none", "n/a", "nan", "unknown")
_FWHM_KEYS = {
    "PSFFWHM": "arcsec",
    "PSF_FWHM": "arcsec",
    # As measured in the image, where SExtractor and SWarp write arcsec.
    "SEEING": "arcsec",
    # The NOIRLab community pipelines write pixels, others arcsec: only its comment tells.
    "FWHM": "",
}


@dataclass(frozen=True)
class FoundPlane:
    """One plane of a file, and what its headers say. Headers themselves are not kept: they are many and large.

    Attributes:
        tile: Name of the tile that it belongs to.
        band: Its band; empty for a mask or weight that names none.
        plane: Where it is.
        name: What the name of its file says.
        shape: (H, W) in pixels.
        label: Words of EXTNAME that say neither band nor kind, such as the detector.
        version: EXTVER; 1 where there is none.
        cards: Those of its WCS, for an image; empty without one.
        tables: Whether the WCS reads look-up tables of the file.
        unit: BUNIT.
        fwhm: PSF width and its unit; None where the header does not say.
    """

    tile: str
    band: str
    plane: Plane
    name: FileName
    shape: tuple[int, int]
    label: str
    version: int
    cards: str = ""
    tables: bool = False
    unit: str = ""
    fwhm: tuple[float, Literal["px", "arcsec"]] | None = None

    @property
    def file(self) -> str:
        """Relative name of the file."""
        return self.name.name

    @property
    def key(self) -> tuple[str, str, Kind]:
        """(tile, band, kind), which one plane may have."""
        return self.tile, self.band, self.plane.kind


@dataclass(frozen=True)
class Inventory:
    """What is in one file.

    Attributes:
        planes: Images, masks and weights.
        others: Names of image units that are neither.
        empty: Units of no size, in words; empty text where there is none.
    """

    planes: tuple[FoundPlane, ...]
    others: tuple[str, ...]
    empty: str


def planes_in_file(ref: FileRef, name: FileName, bands: Sequence[str] = ()) -> Inventory:
    """Read the headers of one file.

    Args:
        ref: Where it is.
        name: What its name says.
        bands: Names of the layers of cubes, in order.

    Raises:
        Refused: With reason in-archive, missing-file, corrupt, truncated, shape, or not-an-image.
    """
    if ref.member:
        raise Refused("in-archive", f"tiles are not read from inside an archive; unpack {ref.path}")
    with refusals(), open_regular(ref.path) as file, opened(file) as stream:
        units = scan(stream)
        images = [unit for unit in units if unit.is_image and len(unit.axes) > 1]
        if not images:
            raise Refused("not-an-image", "a FITS file without an image of two or three axes")
        empty = [unit for unit in images if not all(unit.axes)]
        images = [unit for unit in images if all(unit.axes)]
        planes: list[FoundPlane] = []
        others = []
        for unit, kind in zip(images, _kinds(name, images), strict=True):
            if kind == "other":
                others.append(f"{name.name}[{unit.name or unit.index}]")
            else:
                planes += _planes(unit, kind, Plane(ref.path, unit.index, -1, kind), name, bands, units[0])
        shapes = ", ".join(f"HDU {unit.index} is {' x '.join(map(str, unit.axes[::-1]))} px" for unit in empty)
        return Inventory(tuple(_labelled(planes)), tuple(others), shapes)


def _kinds(name: FileName, images: Sequence[Unit]) -> list[Any]:
    """What each image unit is. Where one calls itself image, those with names that say nothing are none."""
    said = [kind_of(words_of(unit.name)) for unit in images]
    kinds: list[Any] = []
    for unit, kind in zip(images, said, strict=True):
        if kind not in ("", "image"):
            kinds.append(kind)
        elif not kind and unit.name and not is_band(unit.name) and "image" in said:
            kinds.append("other")
        else:
            kinds.append(name.kind or "image")
    return kinds


def _planes(
    unit: Unit, kind: Kind, plane: Plane, name: FileName, bands: Sequence[str], first: Unit
) -> Iterator[FoundPlane]:
    *layers, height, width = unit.shape
    if len(layers) > 1:
        raise Refused(
            "shape", f"HDU {unit.index} has {len(unit.shape)} axes, expected (height, width) or (bands, h, w)"
        )
    band = "" if layers else _band(unit, name, bands, first)
    if not layers and not band and kind == "image":
        band = bands[0] if len(bands) == 1 else "band0"
    label = "_".join(word for word in words_of(unit.name) if not kind_of([word]) and word != band)
    version = int(unit.header.get("EXTVER", 1))
    found = FoundPlane(name.tile_of(band), band, plane, name, (height, width), label, version)
    if kind == "image":
        found = _with_sky(found, unit, first)
    if not layers:
        yield found
        return
    for layer, named in enumerate(_layers(unit, layers[0], kind, bands)):
        yield replace(found, band=named, plane=replace(plane, layer=layer))


def _with_sky(found: FoundPlane, unit: Unit, first: Unit) -> FoundPlane:
    """With WCS, unit and PSF width. An extension without a WCS takes that of a first unit without data."""
    headers = (unit.header,) if unit is first else (unit.header, first.header)
    header = first.header if not has_axes(unit.header) and not first.size else unit.header
    units = [str(header["BUNIT"]).strip() for header in headers if header.get("BUNIT")]
    return replace(
        found,
        cards=wcs_cards(header, found.shape),
        tables=needs_tables(header),
        unit=units[0] if units else "",
        fwhm=psf_fwhm(headers),
    )


def _band(unit: Unit, name: FileName, bands: Sequence[str], first: Unit) -> str:
    if name.tile is not None and name.band:
        return name.band
    words = [word for word in words_of(unit.name) if is_band(word, bands)]
    named = words[-1] if words else ""
    return _header_band(unit.header) or named or _header_band(first.header) or name.band


def _header_band(header: Any, keys: Sequence[str] = _BAND_KEYS) -> str:
    """The first word of the first key that names a filter; numbers and empty places of a filter wheel name none."""
    for key in keys:
        words = str(header.get(key, "")).split()
        if words and not words[0].lower().startswith(_NO_BANDS) and not words[0].replace(".", "").isdigit():
            return words[0]
    return ""


def _layers(unit: Unit, count: int, kind: Kind, bands: Sequence[str]) -> list[str]:
    """Names of the layers of a cube: those of its header, or those given, in order, or band0, band1...

    Given names overrule a header only where it does not know them: the order that bands are asked for in is no order
    of layers.
    """
    named = _header_layers(unit.header, count)
    if named and set(bands) <= set(named):
        return named
    # Layers of masks and weights without names belong to the layers of the image, whatever those are called.
    if kind == "image" and len(bands) == count:
        return list(bands)
    if kind == "image" and bands:
        raise Refused("shape", f"HDU {unit.index} has {count} layers without names, and {len(bands)} bands were named")
    return [f"band{i}" for i in range(count)]


def _header_layers(header: Any, count: int) -> list[str]:
    """BAND0, BAND1... or from 1, or FILTERi, or one letter each in BANDS; empty where there are none."""
    for start in (0, 1):
        numbered = [_header_band(header, (f"BAND{i}", f"FILTER{i}")) for i in range(start, start + count)]
        if all(numbered) and len(set(numbered)) == count:
            return numbered
    letters = str(header.get("BANDS", "")).replace(",", "").replace(" ", "")
    return list(letters) if len(letters) == count == len(set(letters)) else []


def _labelled(planes: list[FoundPlane]) -> list[FoundPlane]:
    """Tiles of a file with several images of one band, such as one a detector, told apart by EXTNAME or EXTVER."""
    labels: tuple[Callable[[FoundPlane], str], ...] = (
        lambda plane: "",
        lambda plane: plane.label,
        lambda plane: f"{plane.label}.{plane.version}".strip("."),
        lambda plane: str(plane.plane.hdu),
    )
    named = planes
    for label in labels:
        named = [replace(plane, tile=f"{plane.tile}.{label(plane)}".rstrip(".")) for plane in planes]
        if len({plane.key for plane in named}) == len(named):
            break
    return named


def psf_fwhm(headers: Sequence[Any]) -> tuple[float, Literal["px", "arcsec"]] | None:
    """Width of the PSF and its unit; None where no header has it, or its unit is uncertain.

    PSFFWHM, PSF_FWHM and SEEING are in arcsec and FWHM says nothing, unless the comment beside them names pixels or
    arcsec.

    Args:
        headers: Those of the image, its own first.
    """
    for key, unit in _FWHM_KEYS.items():
        for header in headers:
            width = _positive(header.get(key))
            comment = str(header.comments[key]).lower() if width else ""
            said = "px" if "pix" in comment else "arcsec" if "arcsec" in comment else unit
            if width and said:
                return width, "px" if said == "px" else "arcsec"
    return None


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
