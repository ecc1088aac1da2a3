"""Which tile each source is cut from, how large its field is there, and what must stay on one side of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sciencessl.data_prep.cutouts import assign, overlaps
from sciencessl.data_prep.groups import percolation, sky_groups
from sciencessl.data_prep.sky_tiles import SkyTile
from sciencessl.data_prep.sky_wcs import pixel_scale_deg, pixel_to_world, world_to_pixel
from sciencessl.data_prep.survey_objects import Objects
from sciencessl.data_prep.survey_settings import SurveySettings
from sciencessl.data_prep.tiling import grid_centres, keep_one_per_patch
from sciencessl.errors import ConfigError, DataError, did_you_mean

OUTSIDE, NO_TILE, TOO_LARGE = "outside-every-tile", "no-such-tile", "too-large"
SAME_GRID_PX = 0.05
"""Pixel grids of two tiles are one where they are shifted by whole pixels to within this."""
SAME_SCALE = 1e-3
"""Pixel scales that differ by a smaller share are one where only coverage depends on them."""
MOST_FIELD_PX, MOST_REPROJECTED_PX = 2048, 1024
"""Largest fields that are resampled and reprojected: each takes about a gigabyte."""
GRID_PATCH = 0.5
"""Grid stamps of two tiles that are closer than this share of a step show the same patch of sky."""


@dataclass(frozen=True)
class Beside:
    """Sources that a tile shows, too, besides the one that owns them.

    Attributes:
        tile: Number of the tile.
        bands: That are taken from it.
        source: (k,) rows of the sources, ascending.
        x: (k,) 0-based pixel position in this tile.
        y: (k,)
    """

    tile: int
    bands: tuple[str, ...]
    source: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Placed:
    """N sources on their tiles.

    Attributes:
        objects: They, with positions on the sky wherever a tile's WCS gives them.
        owner: (N,) number of the tile that each is cut from; -1 where `refused` says why there is none.
        x: (N,) 0-based pixel position in that tile.
        y: (N,)
        field_px: (N,) side of the field in pixels of that tile.
        refused: Row -> (reason, detail).
        others: Tiles beside the owners, where they are wanted; of one source the best comes first.
    """

    objects: Objects
    owner: np.ndarray
    x: np.ndarray
    y: np.ndarray
    field_px: np.ndarray
    refused: Mapping[int, tuple[str, str]]
    others: Sequence[Beside] = ()


def place(objects: Objects, tiles: Sequence[SkyTile], survey: SurveySettings) -> Placed:
    """Find the tile of each source.

    Raises:
        ConfigError: When sizes in arcsec are asked of tiles without a WCS.
        DataError: When sources have sky positions and no tile has a WCS, or pixel positions say of no tile.
    """
    scales = np.array([_scale(tile) for tile in tiles])
    find = _place_on_sky if np.isnan(objects.x).all() else _place_in_pixels
    placed = _without_large(find(objects, tiles, scales, survey), survey)
    return replace(placed, others=_others(placed, tiles, scales, survey))


def _place_on_sky(objects: Objects, tiles: Sequence[SkyTile], scales: np.ndarray, survey: SurveySettings) -> Placed:
    if np.isnan(scales).all():
        raise DataError(
            f"the catalogue has positions on the sky, but none of the {len(tiles)} tiles has a celestial WCS (CTYPE, "
            "CRVAL, CRPIX, CD). Give pixel positions with --x and --y, or tiles with a WCS."
        )
    with_wcs = np.flatnonzero(~np.isnan(scales))
    known = ~np.isin(np.arange(len(objects)), list(objects.bad))
    found = assign([tiles[number] for number in with_wcs.tolist()], np.where(known, objects.ra, np.nan), objects.dec,
                   _sides(objects, scales[with_wcs], survey))
    owner = np.where(found.owner >= 0, with_wcs[found.owner], -1)
    refused = dict(objects.bad)
    for row in np.flatnonzero(known & (owner < 0)).tolist():
        refused[row] = (OUTSIDE, f"ra {objects.ra[row]:.5f}, dec {objects.dec[row]:.5f} lies on none of the tiles")
    field_px = _field_px(objects, np.where(owner >= 0, scales[owner], np.nan), survey)
    return Placed(objects, owner, found.x, found.y, field_px, refused)


def _sides(objects: Objects, scales: np.ndarray, survey: SurveySettings) -> np.ndarray:
    """Whole pixels of each field: (N,), or (tiles, N) where the tiles' scales differ by more than rounding."""
    if scales.max() / scales.min() - 1 < SAME_SCALE:
        scales = np.median(scales, keepdims=True)
    rows = [np.ceil(_field_px(objects, np.full(len(objects), scale), survey)) for scale in scales]
    sides = np.nan_to_num(np.stack(rows), nan=1).astype(np.int64)
    return np.asarray(sides[0] if len(sides) == 1 else sides)


def _without_large(placed: Placed, survey: SurveySettings) -> Placed:
    """The same without fields that do not fit into a stamp which is only padded, or into memory."""
    most = MOST_REPROJECTED_PX if survey.reproject else MOST_FIELD_PX if survey.resamples else survey.size_px
    large = (placed.owner >= 0) & (np.rint(placed.field_px) > most)
    takes = f"are made from at most {most} px" if survey.resamples else f"have size_px {most}"
    why = {row: (TOO_LARGE, f"its field has {placed.field_px[row]:.0f} px, stamps {takes}")
           for row in np.flatnonzero(large).tolist()}
    return replace(placed, owner=np.where(large, -1, placed.owner), refused={**placed.refused, **why})


def _others(
    placed: Placed, tiles: Sequence[SkyTile], scales: np.ndarray, survey: SurveySettings
) -> tuple[Beside, ...]:
    """Tiles beside the owners that are wanted: for stitching all, else the best that has a band which is lacking."""
    on_sky = np.flatnonzero(~np.isnan(scales))
    every = {name for tile in tiles for name in tile.bands}
    if len(on_sky) < 2 or not (survey.stitch or any(set(tiles[number].bands) < every for number in on_sky.tolist())):
        return ()
    ra = np.where(placed.owner >= 0, placed.objects.ra, np.nan)
    sides = _sides(placed.objects, scales[on_sky], survey)
    found = overlaps([tiles[number] for number in on_sky.tolist()], ra, placed.objects.dec, sides)
    number, owner = on_sky[found.tile], placed.owner[found.source]
    pairs = np.flatnonzero(number != owner)
    taken: dict[tuple[int, int, tuple[str, ...]], list[int]] = defaultdict(list)
    source, rank, lacking = -1, 0, every
    for pair, row, own, other in zip(pairs.tolist(), found.source[pairs].tolist(), owner[pairs].tolist(),
                                     number[pairs].tolist(), strict=True):
        if row != source:
            source, rank, lacking = row, 0, every - set(tiles[own].bands)
        bands = set(tiles[other].bands) if survey.stitch else lacking & set(tiles[other].bands)
        if bands:
            taken[rank, other, tuple(sorted(bands))].append(pair)
            rank, lacking = rank + 1, lacking - bands
    return tuple(
        Beside(other, bands, *(getattr(found, name)[rows] for name in ("source", "x", "y")))
        for (_, other, bands), rows in sorted(taken.items())
    )


def require_one_grid(placed: Placed, tiles: Sequence[SkyTile], survey: SurveySettings) -> None:
    """Refuse stamps of bands or tiles whose pixels do not lie on one grid, unless they are to be reprojected.

    Raises:
        DataError: Naming two tiles, and what to do.
    """
    if survey.reproject:
        return
    for other in placed.others:
        owners = placed.owner[other.source]
        for number in np.unique(owners).tolist():
            own, at = tiles[number], np.flatnonzero(owners == number)
            row = _on_another_grid(placed, other, at, own, tiles[other.tile])
            if row is not None:
                raise DataError(
                    f"source {placed.objects.ids[row]!r} lies on tiles {own.id!r} (bands {' '.join(own.bands)}) and "
                    f"{tiles[other.tile].id!r} (bands {' '.join(tiles[other.tile].bands)}), whose pixels lie on "
                    "different grids. Pass --reproject to resample all bands onto one grid at each source, or choose "
                    "bands of one grid with --bands."
                )


def _on_another_grid(placed: Placed, other: Beside, at: np.ndarray, own: SkyTile, tile: SkyTile) -> int | None:
    """A row whose two tiles differ by more than a shift of whole pixels, at the source or at the ends of its field."""
    rows = other.source[at]
    here = np.stack([placed.x[rows], placed.y[rows]], axis=1)
    shift = np.rint(np.stack([other.x[at], other.y[at]], axis=1) - here)
    # Towards the middle of the owner, as a distortion holds no farther than its tile.
    inwards = np.where(here < np.array(own.shape[::-1]) / 2, 1, -1) * placed.field_px[rows, None] / 2
    wrong = np.zeros(len(rows), dtype=bool)
    for axes in ((0, 0), (1, 0), (0, 1)):
        there = here + inwards * axes
        sky = pixel_to_world(own.wcs, *there.T)
        apart = np.abs(world_to_pixel(tile.wcs, *sky.T) - there - shift)
        wrong |= ~(apart <= SAME_GRID_PX).all(axis=1)
    return int(rows[wrong][0]) if wrong.any() else None


def _place_in_pixels(
    objects: Objects, tiles: Sequence[SkyTile], scales: np.ndarray, survey: SurveySettings
) -> Placed:
    owner, refused = _named_tiles(objects, tiles)
    for row, why in objects.bad.items():
        refused[row], owner[row] = why, -1
    field_px = _field_px(objects, np.where(owner >= 0, scales[owner], np.nan), survey)
    for number, tile in enumerate(tiles):
        rows = np.flatnonzero(owner == number)
        half = field_px[rows] / 2 + 0.5
        outside = rows[(objects.x[rows] < -half) | (objects.x[rows] > tile.shape[1] - 1 + half)
                       | (objects.y[rows] < -half) | (objects.y[rows] > tile.shape[0] - 1 + half)]
        for row in outside.tolist():
            refused[row] = (OUTSIDE, f"x {objects.x[row]:.1f}, y {objects.y[row]:.1f} lies outside tile {tile.id} of "
                            f"{tile.shape[1]} x {tile.shape[0]} px")
        owner[outside] = -1
    return Placed(_with_sky(objects, owner, tiles), owner, objects.x, objects.y, field_px, refused)


def _named_tiles(objects: Objects, tiles: Sequence[SkyTile]) -> tuple[np.ndarray, dict[int, tuple[str, str]]]:
    """(N,) number of the tile that each row names, and reasons for those that name none."""
    if not objects.tile:
        if len(tiles) > 1:
            raise DataError(
                f"the catalogue has pixel positions, and there are {len(tiles)} tiles ({tiles[0].id}, {tiles[1].id}"
                "...): name the column that says which tile with --tile."
            )
        return np.zeros(len(objects), np.int64), {}
    numbers = {tile.id: number for number, tile in enumerate(tiles)}
    owner = np.array([numbers.get(name, -1) for name in objects.tile], dtype=np.int64)
    if (owner < 0).all():
        raise DataError(
            f"no row of the catalogue names one of the {len(tiles)} tiles: rows name {objects.tile[0]!r} and the like, "
            f"tiles are called {', '.join(list(numbers)[:5])}.{did_you_mean(objects.tile[0], numbers)}"
        )
    return owner, {
        row: (NO_TILE, f"there is no tile {objects.tile[row]!r}") for row in np.flatnonzero(owner < 0).tolist()
    }


def _with_sky(objects: Objects, owner: np.ndarray, tiles: Sequence[SkyTile]) -> Objects:
    """The same with positions on the sky, as far as tiles give them."""
    ra, dec = np.array(objects.ra), np.array(objects.dec)
    for number in np.unique(owner[owner >= 0]).tolist():
        rows = np.flatnonzero(owner == number)
        wcs = tiles[number].wcs
        if wcs is not None:
            ra[rows], dec[rows] = pixel_to_world(wcs, objects.x[rows], objects.y[rows]).T
    return replace(objects, ra=ra, dec=dec)


def _scale(tile: SkyTile) -> float:
    return float("nan") if tile.wcs is None else 3600 * pixel_scale_deg(tile.wcs)


def _field_px(objects: Objects, scales: np.ndarray, survey: SurveySettings) -> np.ndarray:
    """(N,) side of each field in pixels of a tile of that scale in arcsec/px."""
    if survey.size_column and objects.size_unit == "px":
        return objects.size
    arcsec = objects.size if survey.size_column else np.full(len(objects), survey.size_arcsec or np.nan)
    if survey.scale_arcsec_px:
        arcsec = np.full(len(objects), survey.size_px * survey.scale_arcsec_px)
    if np.isnan(arcsec).all():
        return np.full(len(objects), float(survey.size_px))
    if np.isnan(scales).all():
        raise ConfigError(
            "sizes in arcsec need tiles with a celestial WCS, and these have none. Leave out --size-arcsec, "
            "--scale-arcsec-px and columns in arcsec: --size-px counts pixels."
        )
    return np.asarray(arcsec / scales)


def grid_objects(tiles: Sequence[SkyTile], survey: SurveySettings) -> Objects:
    """Stamps of a regular grid over every tile; of those of two tiles that show the same patch of sky, one.

    Raises:
        DataError: When no tile is as large as a stamp.
    """
    side = survey.size_px
    centres = [grid_centres(tile.shape, side, survey.grid_px) for tile in tiles]
    number = np.repeat(np.arange(len(tiles)), [len(found) for found in centres])
    if not len(number):
        raise DataError(f"none of the {len(tiles)} tiles is as large as a stamp of {side} x {side} px.")
    x, y = np.concatenate(centres).T
    of = [tiles[at].id for at in number.tolist()]
    ids = [f"{name}-{int(row):06d}-{int(column):06d}" for name, row, column in zip(of, y, x, strict=True)]
    nothing = np.full(len(ids), np.nan)
    objects = _with_sky(Objects(ids, nothing, nothing, x, y, of, nothing), number, tiles)
    kept = np.ones(len(ids), dtype=bool)
    scales = [_scale(tile) for tile in tiles]
    if len(tiles) > 1 and not np.isnan(scales).any():
        radius = GRID_PATCH * survey.grid_px * float(np.median(scales))
        kept = keep_one_per_patch(objects.ra, objects.dec, np.ones(len(ids)), number, radius)
    said = f"grid: {len(ids):,} stamps, {survey.grid_px} px apart, over {len(tiles)} tiles"
    dropped = "" if kept.all() else f"; {int((~kept).sum()):,} left out: a neighbouring tile shows the same sky"
    rows = np.flatnonzero(kept)
    return replace(
        objects, ids=[ids[row] for row in rows.tolist()], tile=[of[row] for row in rows.tolist()], ra=objects.ra[rows],
        dec=objects.dec[rows], x=x[rows], y=y[rows], size=nothing[rows], said=(said + dropped,),
    )


def groups_of(placed: Placed, tiles: Sequence[SkyTile], survey: SurveySettings) -> tuple[list[str], str]:
    """The group of each source, and a sentence on how it was found."""
    objects = placed.objects
    if objects.groups is not None:
        return list(objects.groups), ""
    owners = placed.owner.tolist()
    tile_ids = [tiles[number].id if number >= 0 else objects.ids[row] for row, number in enumerate(owners)]
    known = np.isfinite(objects.ra) & np.isfinite(objects.dec)
    if survey.group_by == "tile" or not known.any():
        why = "" if survey.group_by == "tile" else ": there are no positions on the sky to tell sources by"
        return tile_ids, f"group: all of a tile{why}"
    rows, shows = np.flatnonzero(known), survey.group_by == "overlap"
    radius = np.full(len(rows), survey.match_arcsec)
    if shows:
        radius = np.maximum(radius, np.nan_to_num(_half_field_arcsec(placed, tiles)[rows]))
    found = sky_groups([objects.ids[row] for row in rows.tolist()], objects.ra[rows], objects.dec[rows], radius)
    groups = list(objects.ids)
    for row, group in zip(rows.tolist(), found, strict=True):
        groups[row] = group
    what = "that show each other (closer than half a stamp)" if shows else f"closer than {survey.match_arcsec:g} arcsec"
    said = f"group: sources {what}: {len(set(groups)):,} groups of {len(groups):,} sources"
    warning = percolation(groups)
    return groups, f"{said}; {warning}" if warning else said


def _half_field_arcsec(placed: Placed, tiles: Sequence[SkyTile]) -> np.ndarray:
    """(N,) half the side of each field; NaN where it has no tile, or that no WCS."""
    scales = np.array([_scale(tile) for tile in tiles])
    return np.asarray(placed.field_px * np.where(placed.owner >= 0, scales[placed.owner], np.nan) / 2)
