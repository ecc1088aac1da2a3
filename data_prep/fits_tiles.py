"""Finding survey tiles among FITS files: headers are read, names are understood, and no pixel is touched."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.fits_inventory import FoundPlane, planes_in_file
from sciencessl.data_prep.fits_names import FileName, band_order, guess, matched, matcher
from sciencessl.data_prep.fits_wcs import same_grid, wcs_of
from sciencessl.data_prep.listing import FileRef
from sciencessl.data_prep.sky_tiles import Band, Kind, SkyTile
from sciencessl.data_prep.sky_wcs import pixel_scale_deg
from sciencessl.errors import DataError
from sciencessl.store.writer import Refusal

if TYPE_CHECKING:
    from astropy.wcs import WCS

_FROM_WCSLIB = re.compile(r"ERROR \d+ in \S+ at line \d+(?: of file \S+?:)?\s*")
_WEIGHTS: tuple[Kind, ...] = ("variance", "sigma", "ivar")
"""What is taken first where a survey has several: WHT of drizzled images may hold exposure times."""


@dataclass(frozen=True)
class FoundTiles:
    """What was found among the files.

    Attributes:
        tiles: Sorted by id.
        refused: Files, by name, that cannot be read or hold nothing that could be a tile.
        said: Sentences for the user on what was left out or taken apart.
        apart: Id -> ids of the tiles that it was taken apart into, since its bands do not share one grid.
    """

    tiles: tuple[SkyTile, ...]
    refused: tuple[Refusal, ...]
    said: tuple[str, ...]
    apart: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class _Search:
    """What is asked for, and what has been collected so far."""

    files: Mapping[str, FileRef]
    bands: Sequence[str]
    planes: dict[str, list[FoundPlane]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    said: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    apart: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def refuse(self, name: str, reason: str, detail: str) -> None:
        self.refused[name, reason] = Refusal(name, reason, detail)

    def say(self, sentence: str, *names: str) -> None:
        if names:
            self.said[sentence].update(dict.fromkeys(names))


def find_tiles(files: Mapping[str, FileRef], bands: Sequence[str] = (), pattern: str = "") -> FoundTiles:
    """Group the image planes of FITS files into tiles: named bands on one grid, each with mask and weights.

    A plane's band comes from FILTER, BAND and the like in its header, from its EXTNAME, from the first header of its
    file, or from the file name; its kind (image, mask, inverse variance, variance, sigma) from EXTNAME and file name.
    Names of files without their words for band and kind name the tile. Layers of a cube are bands.

    Args:
        files: Relative name -> file on disk.
        bands: Names of the layers of cubes in order, and words that count as bands in file names.
        pattern: How files are named, with `{tile}` and if need be `{band}` and `{kind}`; overrides guessing.

    Raises:
        ConfigError: When the pattern has an unknown field or no `{tile}`.
        DataError: When two files hold the same plane of one tile.
        MissingExtraError: When astropy is not installed.
    """
    search = _Search(files, bands)
    for name in _picked(pattern, search):
        _look(name, search)
    tiles: list[SkyTile] = []
    for planes in search.planes.values():
        tiles += _tiles_of(_distinct(planes, search), search)
    tiles.sort(key=lambda tile: tile.id)
    said = tuple(f"{_listed(list(names))} {sentence}" for sentence, names in search.said.items())
    return FoundTiles(tuple(tiles), tuple(search.refused.values()), said, search.apart)


def _look(name: FileName, search: _Search) -> None:
    try:
        found = planes_in_file(search.files[name.name], name, search.bands)
    except Refused as refused:
        search.refuse(name.name, refused.reason, refused.detail)
        return
    if found.empty:
        search.refuse(name.name, "empty-image", found.empty)
    search.say("left out: neither image, mask nor weight by name.", *found.others)
    for plane in found.planes:
        search.planes[plane.tile].append(plane)


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _picked(pattern: str, search: _Search) -> Iterator[FileName]:
    regex = matcher(pattern) if pattern else None
    for name in sorted(search.files):
        found = matched(name, regex) if regex else guess(name, search.bands)
        if found is None:
            search.say(f"left out: not named as the pattern {pattern!r} says.", name)
        elif found.kind == "other":
            search.say("left out: neither image, mask nor weight by name.", name)
        else:
            yield found


def _distinct(planes: list[FoundPlane], search: _Search) -> list[FoundPlane]:
    """The planes of one tile, one for each band and kind. Headers that name one filter for all give way to names.

    Reprojected images often keep the header of the image whose grid they were put on.
    """
    if _clash(planes) is None:
        return planes
    named = [plane.name.band if plane.plane.layer < 0 else "" for plane in planes]
    by_name = [replace(plane, band=band or plane.band) for plane, band in zip(planes, named, strict=True)]
    if clash := _clash(by_name):
        first, second = clash
        raise DataError(
            f"{first.file} and {second.file} both hold the {first.plane.kind} of tile {first.tile!r}, band "
            f"{first.band or 'unnamed'!r}. Leave one out, or say how files are named with a pattern such as "
            "'tile-{tile}-{band}.fits'."
        )
    search.say("took its bands from file names: its headers name one filter for several.", f"tile {planes[0].tile}")
    return by_name


def _clash(planes: list[FoundPlane]) -> tuple[FoundPlane, FoundPlane] | None:
    seen: dict[tuple[str, str, Kind], FoundPlane] = {}
    for plane in planes:
        other = seen.setdefault(plane.key, plane)
        if other is not plane:
            return other, plane
    return None


@dataclass(frozen=True)
class _Image:
    """One band with what it lies on."""

    found: FoundPlane
    wcs: WCS | None


def _tiles_of(planes: list[FoundPlane], search: _Search) -> list[SkyTile]:
    """One tile of the planes that share a name, or several where their bands share no grid."""
    transforms: dict[tuple[str, str], WCS | None] = {}
    images = [_Image(found, _wcs(found, transforms, search)) for found in planes if found.plane.kind == "image"]
    images.sort(key=lambda image: band_order(image.found.band, search.bands))
    groups = _grids(images)
    tile, made = planes[0].tile, []
    for i, group in enumerate(groups):
        whole = len(groups) == 1 or (i == 0 and len(group) > 1)
        for part in [group] if whole else [[image] for image in group]:
            made.append(_tile(tile if whole else f"{tile}.{part[0].found.band}", part, planes, search))
    if len(made) > 1:
        search.apart[tile] = tuple(one.id for one in made)
        shapes = "; ".join(f"{one.id} {one.shape[1]} x {one.shape[0]} px" for one in made)
        search.say(f"taken apart, since its bands do not share one grid: {shapes}.", f"tile {tile}")
    search.say("left out: mask or weights that no image takes.", *_unused(planes, made))
    return made


def _unused(planes: list[FoundPlane], made: list[SkyTile]) -> list[str]:
    return sorted({found.file for found in planes} - {file for tile in made for file in tile.files})


def _wcs(found: FoundPlane, transforms: dict[tuple[str, str], WCS | None], search: _Search) -> WCS | None:
    key = found.cards, found.plane.path if found.tables else ""
    try:
        if key not in transforms:
            transforms[key] = wcs_of(*key)
    except Exception as error:  # cards that contradict themselves make astropy raise anything
        transforms[key] = None
        said = _FROM_WCSLIB.sub("", " ".join(str(error).split()))[:160].rstrip(". ")
        search.say(f"can be used by pixel positions only: the WCS cannot be read ({said}).", found.file)
        return None
    if transforms[key] is None:
        search.say("can be used by pixel positions only: no celestial WCS in the header (CTYPE1, CTYPE2).", found.file)
    return transforms[key]


def _grids(images: Sequence[_Image]) -> list[list[_Image]]:
    """Images that share shape and places on the sky, the largest group first."""
    groups: list[list[_Image]] = []
    for image in images:
        group = next((group for group in groups if _share_grid(group[0], image)), None)
        if group is None:
            groups.append([image])
        else:
            group.append(image)
    return sorted(groups, key=len, reverse=True)


def _share_grid(first: _Image, second: _Image) -> bool:
    if first.found.shape != second.found.shape:
        return False
    return first.wcs is second.wcs or same_grid(first.wcs, second.wcs, first.found.shape)


def _tile(tile: str, images: list[_Image], planes: list[FoundPlane], search: _Search) -> SkyTile:
    used: list[FoundPlane] = []
    bands = {image.found.band: _band(image, planes, used, search) for image in images}
    first = images[0].found
    read = {found.file: (search.files[found.file].size, search.files[found.file].stamp) for found in used}
    has_wcs = images[0].wcs is not None
    return SkyTile(
        tile,
        first.shape,
        bands,
        first.cards if has_wcs else "",
        first.plane if has_wcs and first.tables else None,
        dict(sorted(read.items())),
    )


def _band(image: _Image, planes: list[FoundPlane], used: list[FoundPlane], search: _Search) -> Band:
    found = image.found
    mask = _beside(found, ("mask",), planes, search)
    weight = _beside(found, _WEIGHTS, planes, search)
    used.extend(plane for plane in (found, mask, weight) if plane)
    return Band(
        found.plane,
        mask.plane if mask else None,
        weight.plane if weight else None,
        found.unit,
        _fwhm_arcsec(image),
    )


def _fwhm_arcsec(image: _Image) -> float | None:
    if image.found.fwhm is None:
        return None
    width, unit = image.found.fwhm
    if unit == "arcsec":
        return width
    return None if image.wcs is None else width * pixel_scale_deg(image.wcs) * 3600


def _beside(image: FoundPlane, kinds: Sequence[Kind], planes: list[FoundPlane], search: _Search) -> FoundPlane | None:
    """The mask or weight of an image: of its band, of its place in a cube, or one without a band, which serves all."""
    place = image.plane.layer
    if place < 0 and image.band in search.bands:
        place = search.bands.index(image.band)
    for band in (image.band, f"band{place}", ""):
        for kind in kinds:
            found = next((plane for plane in planes if (plane.band, plane.plane.kind) == (band, kind)), None)
            if found is not None and found.shape == image.shape:
                return found
            if found is not None:
                sizes = [f"{width} x {height} px" for height, width in (found.shape, image.shape)]
                search.refuse(found.file, "shape", f"the {kind} is {sizes[0]}, its image {image.file} {sizes[1]}")
    return None
