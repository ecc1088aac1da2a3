"""Finding survey tiles among FITS files: headers are read, names are understood, and no pixel is touched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.fits_headers import Unit, opened, refusals, scan
from sciencessl.data_prep.fits_names import FileName, band_order, guess, is_band, kind_of, matched, matcher, words_of
from sciencessl.data_prep.fits_wcs import (
    needs_tables,
    psf_fwhm_arcsec,
    same_grid,
    scale_arcsec_px,
    wcs_cards,
    wcs_of,
)  # fmt: skip
from sciencessl.data_prep.listing import FileRef
from sciencessl.data_prep.sky_tiles import Band, Kind, Plane, SkyTile
from sciencessl.errors import DataError
from sciencessl.store.writer import Refusal

if TYPE_CHECKING:
    from astropy.wcs import WCS

_BAND_KEYS = ("FILTER", "BAND", "FILTER1", "FILTER2", "FILTNAM", "FILTNAM1")
_NO_BANDS = ("clear", "open", "none", "n/a", "nan", "unknown")
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


@dataclass(frozen=True)
class _Claim:
    """One plane that was found, and what its headers say."""

    tile: str
    band: str
    plane: Plane
    name: FileName
    shape: tuple[int, int]
    headers: tuple[Any, ...]

    @property
    def file(self) -> str:
        return self.name.name


@dataclass
class _Search:
    """What has been collected so far."""

    claims: dict[str, list[_Claim]] = field(default_factory=lambda: defaultdict(list))
    refused: list[Refusal] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    apart: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def refuse(self, name: str, refused: Refused) -> None:
        self.refused.append(Refusal(name, refused.reason, refused.detail))


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
    search = _Search()
    for name in _picked(files, bands, pattern, search):
        try:
            for claim in _planes_of(files[name.name], name, bands, search):
                search.claims[claim.tile].append(claim)
        except Refused as refused:
            search.refuse(name.name, refused)
    tiles = [
        tile for claims in search.claims.values() for tile in _tiles_of(_distinct(claims, search), bands, files, search)
    ]
    tiles.sort(key=lambda tile: tile.id)
    said = [f"{_listed(names)} {sentence}" for sentence, names in search.left_out.items()]
    return FoundTiles(tuple(tiles), tuple(search.refused), tuple(said), search.apart)


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _picked(files: Mapping[str, FileRef], bands: Sequence[str], pattern: str, search: _Search) -> Iterator[FileName]:
    regex = matcher(pattern) if pattern else None
    for name in sorted(files):
        found = matched(name, regex) if regex else guess(name, bands)
        if found is None:
            search.left_out[f"left out: not named as the pattern {pattern!r} says."].append(name)
        elif found.kind == "other":
            search.left_out["left out: neither image, mask nor weight by name."].append(name)
        else:
            yield found


def _planes_of(ref: FileRef, name: FileName, bands: Sequence[str], search: _Search) -> list[_Claim]:
    """The planes of one file. Units of no size are noted in `search`; a file without any plane is refused."""
    if ref.member:
        raise Refused("in-archive", f"tiles are not read from inside an archive; unpack {ref.path}")
    with refusals(), open(ref.path, "rb") as file, opened(file) as stream:
        units = scan(stream)
        images = [unit for unit in units if unit.is_image and len(unit.axes) > 1]
        empty = [unit for unit in images if not all(unit.axes)]
        if empty:
            shapes = ", ".join(f"HDU {unit.index} {unit.name}".strip() + f" is {unit.axes}" for unit in empty)
            search.refuse(name.name, Refused("empty-image", shapes))
        kinds = _kinds(name, [unit for unit in images if unit not in empty])
        found = [(unit, kind) for unit, kind in kinds if kind != "other"]
        for unit, kind in kinds:
            if kind == "other":
                here = f"{name.name}[{unit.name or unit.index}]"
                search.left_out["left out: neither image, mask nor weight by name."].append(here)
        if not kinds and not empty:
            raise Refused("not-an-image", "a FITS file without an image")
        return _labelled([claim for unit, kind in found for claim in _claims(unit, kind, ref, name, bands, units[0])])


def _kinds(name: FileName, images: Sequence[Unit]) -> list[tuple[Unit, Any]]:
    """What each image unit is. Where one calls itself image, those with names that say nothing are none."""
    said = [kind_of(words_of(unit.name)) for unit in images]
    unnamed = "other" if "image" in said else (name.kind or "image")
    kinds = []
    for unit, kind in zip(images, said, strict=True):
        if kind in ("", "image") and name.kind not in ("", "image"):
            kind = name.kind
        is_named_band = bool(unit.name) and is_band(unit.name)
        kinds.append((unit, kind or ((name.kind or "image") if not unit.name or is_named_band else unnamed)))
    return kinds


def _claims(
    unit: Unit, kind: Kind, ref: FileRef, name: FileName, bands: Sequence[str], first: Unit
) -> Iterator[_Claim]:
    headers = (unit.header,) if unit is first else (unit.header, first.header)
    *layers, height, width = unit.shape
    shape = height, width
    if len(layers) > 1:
        raise Refused(
            "shape", f"HDU {unit.index} has {len(unit.shape)} axes, expected (height, width) or (bands, h, w)"
        )
    if not layers:
        band = _band(unit, name, bands, first)
        yield _Claim(name.tile_of(band), band, Plane(ref.path, unit.index, -1, kind), name, shape, headers)
        return
    tile = name.tile_of("")
    for layer, band in enumerate(_layers(unit, layers[0], bands)):
        yield _Claim(tile, band, Plane(ref.path, unit.index, layer, kind), name, shape, headers)


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


def _layers(unit: Unit, count: int, bands: Sequence[str]) -> list[str]:
    """Names of the layers of a cube: those given, those of its header (BAND0..., BANDS), or band0, band1..."""
    if bands and len(bands) != count:
        raise Refused("shape", f"HDU {unit.index} has {count} layers, and {len(bands)} bands were named")
    if bands:
        return list(bands)
    for start in (0, 1):
        numbered = [_header_band(unit.header, (f"BAND{i}", f"FILTER{i}")) for i in range(start, start + count)]
        if all(numbered) and len(set(numbered)) == count:
            return numbered
    letters = str(unit.header.get("BANDS", "")).replace(",", "").replace(" ", "")
    if len(letters) == count == len(set(letters)):
        return list(letters)
    return [f"band{i}" for i in range(count)]


def _labelled(claims: list[_Claim]) -> list[_Claim]:
    """Tiles of a file with several images of one band, such as one a detector, told apart by EXTNAME or EXTVER."""

    def rest(claim: _Claim) -> str:
        words = [word for word in words_of(_extname(claim)) if not kind_of([word]) and word != claim.band]
        return "_".join(words)

    def with_version(claim: _Claim) -> str:
        return f"{rest(claim)}.{claim.headers[0].get('EXTVER', 1)}".strip(".")

    labels: tuple[Callable[[_Claim], str], ...] = (lambda _: "", rest, with_version, lambda claim: str(claim.plane.hdu))
    for label in labels:
        named = [replace(claim, tile=f"{claim.tile}.{label(claim)}".rstrip(".")) for claim in claims]
        if len({(claim.tile, claim.band, claim.plane.kind) for claim in named}) == len(named):
            break
    return named


def _extname(claim: _Claim) -> str:
    return str(claim.headers[0].get("EXTNAME", ""))


def _distinct(claims: list[_Claim], search: _Search) -> list[_Claim]:
    """The planes of one tile, one for each band and kind. Headers that name one filter for all give way to names.

    Reprojected images often keep the header of the image whose grid they were put on.
    """
    if _clash(claims):
        by_name = [replace(claim, band=claim.name.band or claim.band) for claim in claims]
        if clash := _clash(by_name):
            first, second = clash
            raise DataError(
                f"{first.file} and {second.file} both hold the {first.plane.kind} of tile {first.tile!r}, band "
                f"{first.band or 'unnamed'!r}. Leave one out, or say how files are named with a pattern such as "
                "'tile-{tile}-{band}.fits'."
            )
        search.left_out["took its bands from file names: headers name one filter for several."].append(claims[0].tile)
        return by_name
    return claims


def _clash(claims: list[_Claim]) -> tuple[_Claim, _Claim] | None:
    seen: dict[tuple[str, Kind], _Claim] = {}
    for claim in claims:
        other = seen.setdefault((claim.band, claim.plane.kind), claim)
        if other is not claim:
            return other, claim
    return None


@dataclass(frozen=True)
class _Image:
    """One band with what it lies on."""

    claim: _Claim
    name: str
    cards: str
    wcs: WCS | None


def _tiles_of(
    claims: list[_Claim], bands: Sequence[str], files: Mapping[str, FileRef], search: _Search
) -> Iterator[SkyTile]:
    """One tile of the planes that share a name, or several where their bands share no grid."""
    images = [_image(claim, bands, search) for claim in claims if claim.plane.kind == "image"]
    images.sort(key=lambda image: band_order(image.name, bands))
    if not images:
        search.left_out["left out: mask or weights that no image takes."].extend(claim.file for claim in claims)
        return
    groups = _grids(images)
    tile = claims[0].tile
    ids = [tile if len(groups) == 1 or (i == 0 and len(group) > 1) else "" for i, group in enumerate(groups)]
    made = []
    for group, whole in zip(groups, ids, strict=True):
        parts = [group] if whole else [[image] for image in group]
        made += [_tile(whole or f"{tile}.{part[0].name}", part, claims, files, search) for part in parts]
    if len(made) > 1:
        search.apart[tile] = tuple(one.id for one in made)
        shapes = "; ".join(f"{one.id} {one.shape[1]} x {one.shape[0]} px" for one in made)
        search.left_out[f"taken apart, since its bands do not share one grid: {shapes}."].append(f"tile {tile}")
    if unused := {claim.file for claim in claims} - {file for one in made for file in one.files}:
        search.left_out["left out: mask or weights that no image takes."].extend(sorted(unused))
    yield from made


def _image(claim: _Claim, bands: Sequence[str], search: _Search) -> _Image:
    header, cards, wcs = claim.headers[0], "", None
    try:
        # An extension without a WCS takes the one of a first unit that has no data of its own.
        if not str(header.get("CTYPE1", "")).strip() and not claim.headers[-1].get("NAXIS", 0):
            header = claim.headers[-1]
        cards = wcs_cards(header, claim.shape)
        wcs = wcs_of(cards, claim.plane.path if needs_tables(header) else "")
    except Exception as error:  # cards that contradict themselves make astropy raise anything
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
        search.left_out[f"can be used by pixel positions only: the WCS cannot be read ({said})."].append(claim.file)
    else:
        if wcs is None:
            search.left_out[
                "can be used by pixel positions only: the header has no celestial WCS (CTYPE1 and CTYPE2)."
            ].append(claim.file)
    alone = bands[0] if len(bands) == 1 else "band0"
    return _Image(claim, claim.band or alone, cards if wcs is not None else "", wcs)


def _grids(images: Sequence[_Image]) -> list[list[_Image]]:
    """Images that share shape and places on the sky, the largest group first."""
    groups: list[list[_Image]] = []
    for image in images:
        for group in groups:
            if _share_grid(group[0], image):
                group.append(image)
                break
        else:
            groups.append([image])
    return sorted(groups, key=len, reverse=True)


def _share_grid(first: _Image, second: _Image) -> bool:
    if first.claim.shape != second.claim.shape:
        return False
    alone = not (needs_tables(first.claim.headers[0]) or needs_tables(second.claim.headers[0]))
    return (alone and first.cards == second.cards) or same_grid(first.wcs, second.wcs, first.claim.shape)


def _tile(
    tile: str, images: list[_Image], claims: list[_Claim], files: Mapping[str, FileRef], search: _Search
) -> SkyTile:
    used: list[_Claim] = []
    bands = {image.name: _band_of(image, claims, used, search) for image in images}
    first = images[0]
    tables = first.claim.plane if first.cards and needs_tables(first.claim.headers[0]) else None
    read = {claim.file: (files[claim.file].size, files[claim.file].stamp) for claim in used}
    return SkyTile(tile, first.claim.shape, bands, first.cards, tables, dict(sorted(read.items())))


def _band_of(image: _Image, claims: list[_Claim], used: list[_Claim], search: _Search) -> Band:
    mask = _beside(image, ("mask",), claims, search)
    weight = _beside(image, _WEIGHTS, claims, search)
    used.extend(claim for claim in (image.claim, mask, weight) if claim)
    scale = scale_arcsec_px(image.wcs) if image.wcs is not None else None
    units = [str(header["BUNIT"]).strip() for header in image.claim.headers if header.get("BUNIT")]
    return Band(
        image.claim.plane,
        mask.plane if mask else None,
        weight.plane if weight else None,
        units[0] if units else "",
        psf_fwhm_arcsec(image.claim.headers, scale),
    )


def _beside(image: _Image, kinds: Sequence[Kind], claims: list[_Claim], search: _Search) -> _Claim | None:
    """The mask or weight of an image: of its band, of its layer, or one without a band, which serves all bands."""
    names = (image.claim.band, f"band{image.claim.plane.layer}", "")
    for name in names:
        for kind in kinds:
            for claim in claims:
                if claim.band == name and claim.plane.kind == kind:
                    if claim.shape == image.claim.shape:
                        return claim
                    _note_shape(claim, image, search)
    return None


def _note_shape(claim: _Claim, image: _Image, search: _Search) -> None:
    sizes = f"{claim.shape[1]} x {claim.shape[0]} px, and the image {image.claim.shape[1]} x {image.claim.shape[0]}"
    search.refused.append(Refusal(claim.file, "shape", f"the {claim.plane.kind} of {image.claim.file} is {sizes}"))
