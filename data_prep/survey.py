"""The source `survey`: a catalogue and FITS tiles, or tiles alone, become stamps with all that an astronomer needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.data_prep.catalogue import find_catalogue
from sciencessl.data_prep.columns import FILE_NAMES, first_name
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.fits_names import band_order
from sciencessl.data_prep.fits_planes import Planes
from sciencessl.data_prep.fits_tiles import find_tiles
from sciencessl.data_prep.ingest import images
from sciencessl.data_prep.listing import FITS_SUFFIXES, Listing, Reader, has_suffix, list_sources
from sciencessl.data_prep.manifest import sample_splits, split_settings
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.sky_tiles import SkyTile
from sciencessl.data_prep.source import Input, Source, refused_inputs
from sciencessl.data_prep.split import assign_split
from sciencessl.data_prep.survey_bands import counted_bits, survey_bits
from sciencessl.data_prep.survey_objects import Objects, catalogue_objects, has_positions
from sciencessl.data_prep.survey_placing import Placed, grid_objects, groups_of, place, require_one_grid
from sciencessl.data_prep.survey_reader import Chunk, Shown, SurveyReader
from sciencessl.data_prep.survey_settings import SurveySettings
from sciencessl.errors import ConfigError, DataError, unknown_name
from sciencessl.spec import DomainSpec, FieldSpec
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.writer import Refusal

NAME = "survey"
CHUNK_BYTES = 160 * 2**20
"""Payload of the sources of one tile that are read at a time: a tile with more is opened again."""
NO_IMAGE = "not-an-image"
"""Reason of FITS files that hold no image: surveys keep tables beside their tiles, which are nothing that was lost."""
MASK_LOOK_PX, MOSTLY = 512, 0.5
"""Side of the part of one mask that is looked at beforehand, and the share of bad pixels from which it is told."""


def survey(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None = None,
    out: Path | None = None,
) -> Source:
    """Stamps around the sources of a catalogue, or on a grid, out of FITS tiles.

    Args:
        spec: The domain; its primary field becomes `image` with companions `.mask` and, with weights, `.ivar`.
        sources: Folders, files or globs with FITS tiles, and a catalogue among them unless `--catalogue` names one.
        settings: Columns and splits.
        options: A `SurveySettings`; None means all defaults.
        out: The store; nothing is kept beside it.

    Raises:
        ConfigError: For columns, bands or sizes that do not fit.
        DataError: For no tiles, an unusable catalogue, sources that lie on no tile, or bands on different pixel grids
            where nobody asked for reprojection.
    """
    chosen = options if isinstance(options, SurveySettings) else SurveySettings()
    _check_settings(settings)
    reader = Reader()
    listing = list_sources(sources)
    catalogue = None if chosen.grid_px else find_catalogue(listing, reader, settings.catalogue)
    found = find_tiles(_tile_files(listing, catalogue.where if catalogue else ""), chosen.bands, chosen.tile_pattern)
    files = [refusal for refusal in found.refused if refusal.reason != NO_IMAGE]
    tiles, bands, said = _with_bands(found.tiles, chosen, found.refused)
    if len(files) < len(found.refused):
        said.append(f"{len(found.refused) - len(files)} FITS files without an image, such as tables, are left out")
    if catalogue is None:
        if not chosen.grid_px:
            raise DataError(
                f"there is no catalogue in {listing.searched}: name one with --catalogue, or cut whole tiles into "
                "stamps with --grid-px."
            )
        objects = grid_objects(tiles, chosen)
    else:
        objects = catalogue_objects(catalogue, spec, settings, chosen)
    placed = place(objects, tiles, chosen)
    require_one_grid(placed, tiles, chosen)
    groups, group_words = groups_of(placed, tiles, chosen)
    splits = _splits(placed.objects, groups, settings)
    fields = _fields(spec, tiles, bands, chosen)
    inputs = _inputs(placed, tiles, groups, splits, fields, files)
    words = [*found.said, *said, _mask_words(tiles, chosen), *objects.said, group_words]
    stamps = SurveyReader(fields, spec.primary, chosen)
    return Source(
        name=NAME, fields=fields, inputs=inputs, settings=_digested(objects, settings, chosen),
        read=stamps.read, fingerprint=stamps.fingerprint, labels=objects.labels,
        guessed=tuple(word for word in words if word), close=reader.close,
    )


def images_or_survey(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None = None,
    out: Path | None = None,
) -> Source:
    """The source `survey` where there are FITS tiles and a catalogue of positions that names no files, or a grid is
    asked for; else `images`."""
    make = survey if _is_survey(sources, settings, options) else images
    return make(spec, sources, settings, options, out)


def _is_survey(sources: Sequence[str | Path], settings: PrepareSettings, options: object | None) -> bool:
    if isinstance(options, SurveySettings) and options.grid_px:
        return True
    listing = list_sources(sources)
    if settings.file or not any(has_suffix(name, FITS_SUFFIXES) for name in listing.files):
        return False
    catalogue = find_catalogue(listing, Reader(), settings.catalogue)
    if catalogue is None or first_name(FILE_NAMES, catalogue.data.column_names):
        return False
    named = isinstance(options, SurveySettings) and (options.ra or options.x)
    return bool(named) or has_positions(catalogue)


def _check_settings(settings: PrepareSettings) -> None:
    if settings.resize_px is not None:
        raise ConfigError("prepare setting resize_px shrinks image files; --size-px and --scale-arcsec-px decide the "
                          "size of a survey's stamps.")
    if settings.append_to:
        raise ConfigError("prepare setting append_to adds image files; a survey's stamps cannot be appended yet. "
                          "Prepare a store of its own and give both stores to --data.")


def _tile_files(listing: Listing, catalogue: str) -> dict[str, Any]:
    """FITS files that are not the catalogue."""
    files = {
        name: ref for name, ref in listing.files.items()
        if has_suffix(name, FITS_SUFFIXES) and not (ref.path == catalogue and not ref.member)
    }
    if not files:
        raise DataError(f"no FITS tiles in {listing.searched}: looked for {' '.join(FITS_SUFFIXES)}.")
    return files


def _with_bands(
    tiles: Sequence[SkyTile], chosen: SurveySettings, refused: Sequence[Refusal]
) -> tuple[list[SkyTile], tuple[str, ...], list[str]]:
    """Tiles that have some of the bands, those bands in order, and a sentence on what there is."""
    if not tiles:
        first = f", such as {refused[0].id}: {refused[0].reason}, {refused[0].detail}" if refused else ""
        raise DataError(f"none of the FITS files is a tile; {len(refused)} were refused{first}.")
    known = sorted({name for tile in tiles for name in tile.bands}, key=band_order)
    for name in chosen.bands:
        if name not in known:
            raise ConfigError(f"--bands: {unknown_name('band', name, known)}")
    bands = chosen.bands or tuple(known)
    kept = [_only(tile, bands) for tile in tiles if set(bands) & set(tile.bands)]
    some = [band for tile in kept for band in tile.bands.values()]
    extras = [what for what, there in (("mask", any(band.mask for band in some)),
                                       ("weights", any(band.weight for band in some))) if there]
    with_extras = f" with {' and '.join(extras)}" if extras else ""
    return kept, bands, [f"tiles: {len(kept):,}, bands {' '.join(bands)}{with_extras}"]


def _only(tile: SkyTile, bands: Sequence[str]) -> SkyTile:
    """A tile as if it had no other bands."""
    return replace(tile, bands={name: band for name, band in tile.bands.items() if name in bands})


def _mask_words(tiles: Sequence[SkyTile], chosen: SurveySettings) -> str:
    """A sentence where most pixels of a tile would count as bad; empty where few do, or nothing can be read."""
    plane = next((band.mask for tile in tiles for band in tile.bands.values() if band.mask is not None), None)
    if plane is None:
        return ""
    try:
        with Planes() as planes:
            window = planes.windows(plane, 1, MASK_LOOK_PX)
            height, width = (max((length - MASK_LOOK_PX) // 2, 0) for length in window.shape)
            bits = survey_bits(np.asarray(window[height : height + MASK_LOOK_PX, width : width + MASK_LOOK_PX]))
    except Refused:
        return ""  # told of each source when it is cut
    bad = (bits & counted_bits(chosen)) != 0
    if bad.mean() < MOSTLY:
        return ""
    shares = {bit: ((bits >> bit) & 1).mean() for bit in range(29)}
    often = ", ".join(f"bit {bit} in {share:.0%}" for bit, share in shares.items() if share > 0)
    return (f"mask: {bad.mean():.0%} of the pixels in the middle of {Path(plane.path).name} are masked ({often}), and "
            "views leave masked pixels out. If some bits mark no defects, such as DETECTED, name those that do with "
            "--mask-bits")


def _fields(
    spec: DomainSpec, tiles: Sequence[SkyTile], bands: tuple[str, ...], chosen: SurveySettings
) -> dict[str, FieldSpec]:
    some = [band for tile in tiles for band in tile.bands.values()]
    shape, name = (chosen.size_px, chosen.size_px), spec.primary
    image = replace(spec.fields[name], kind="array", channels=bands, dtype="float32", shape=shape)
    companion = replace(image, primary=False, scale_unit="")
    mask = replace(companion, dtype="int32" if any(band.mask for band in some) else "uint8")
    fields = {name: image, f"{name}.mask": mask}
    return {**fields, f"{name}.ivar": companion} if any(band.weight for band in some) else fields


def _splits(objects: Objects, groups: Sequence[str], settings: PrepareSettings) -> list[str]:
    if objects.catalogue is not None and objects.chosen is not None:
        return sample_splits(objects.catalogue, objects.chosen, groups, settings)
    if settings.stratify:
        raise ConfigError("--stratify needs a catalogue with a column of classes; give one with --catalogue, or leave "
                          "it out.")
    fractions = (settings.test_fraction, settings.val_fraction)
    return [assign_split(group, settings.split_seed, *fractions) for group in groups]


def _inputs(
    placed: Placed, tiles: Sequence[SkyTile], groups: Sequence[str], splits: Sequence[str],
    fields: Mapping[str, FieldSpec], files: Sequence[Refusal],
) -> list[Input]:
    bytes_each = sum(
        len(field.channels) * int(np.prod(field.shape)) * np.dtype(field.dtype).itemsize for field in fields.values()
    )
    most = max(1, CHUNK_BYTES // bytes_each)
    inputs = []
    for number in np.unique(placed.owner[placed.owner >= 0]).tolist():
        rows = np.flatnonzero(placed.owner == number)
        for part, first in enumerate(range(0, len(rows), most)):
            chunk = _chunk(placed, tiles, number, rows[first : first + most], groups, splits)
            inputs.append(_chunk_input(chunk, part, bytes_each))
    ids = placed.objects.ids
    refused = [*files, *(Refusal(ids[row], *why) for row, why in sorted(placed.refused.items()))]
    if not inputs:
        raise DataError(
            f"not one of {len(ids):,} sources can be cut from the {len(tiles)} tiles, such as {refused[-1].id}: "
            f"{refused[-1].reason}, {refused[-1].detail}."
        )
    return [*inputs, *refused_inputs(refused)]


def _chunk(
    placed: Placed, tiles: Sequence[SkyTile], number: int, rows: np.ndarray, groups: Sequence[str],
    splits: Sequence[str],
) -> Chunk:
    objects = placed.objects
    columns = {name: [values[row] for row in rows.tolist()] for name, values in objects.columns.items()}
    columns["group"] = [groups[row] for row in rows.tolist()]
    others = []
    for other in placed.others:
        at = np.searchsorted(rows, other.source)
        mine = (at < len(rows)) & (rows[np.minimum(at, len(rows) - 1)] == other.source)
        if mine.any():
            others.append(Shown(tiles[other.tile], other.bands, at[mine], other.x[mine], other.y[mine]))
    return Chunk(
        tiles[number], others, [objects.ids[row] for row in rows.tolist()], [splits[row] for row in rows.tolist()],
        objects.ra[rows], objects.dec[rows], placed.x[rows], placed.y[rows], placed.field_px[rows], columns,
    )


def _chunk_input(chunk: Chunk, part: int, bytes_each: int) -> Input:
    tiles = (chunk.owner, *(shown.tile for shown in chunk.others))
    files = {name: stamp for tile in tiles for name, stamp in tile.files.items()}
    told = digest(canonical_json([chunk.ids, chunk.splits, chunk.x, chunk.y, chunk.field_px, chunk.columns,
                                  [[s.tile.id, s.bands, s.rows] for s in chunk.others]]))
    changed = int(digest(canonical_json(files))[:15], 16)
    return Input(
        id=f"{chunk.owner.id}#{part}", file=min(chunk.owner.files), size=sum(size for size, _ in files.values()),
        stamp=changed, split="train", columns={"sources": told}, handle=chunk, samples=len(chunk),
        expected_bytes=len(chunk) * bytes_each, ids=tuple(chunk.ids),
    )


def _digested(objects: Objects, settings: PrepareSettings, chosen: SurveySettings) -> dict[str, Any]:
    """What changes pixels, ids or splits."""
    own = {entry: value for entry, value in asdict(chosen).items() if entry in SurveySettings.__dataclass_fields__}
    if objects.chosen is not None:
        return {**split_settings(objects.chosen, sorted(objects.columns), settings), NAME: own}
    drawn = {"seed": settings.split_seed, "test": settings.test_fraction, "val": settings.val_fraction}
    return {"group": "", "split": drawn, "keep": [], NAME: own}
