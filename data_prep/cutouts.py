"""Where sources lie on survey tiles and what their stamps hold: positions in batches, never one WCS object a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sciencessl.data_prep.sky import unit_vectors
from sciencessl.data_prep.sky_tiles import SkyTile
from sciencessl.data_prep.sky_wcs import Float64, pixel_scale_deg, pixel_to_world, world_to_pixel
from sciencessl.errors import DataError

Int64 = npt.NDArray[np.int64]

OUTSIDE = -(2**31)
"""First pixel of a stamp whose position is not a number: outside every tile."""

WINDOW_BYTES = 64 * 2**20
"""Most bytes read at once from an image that is not in memory."""


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pairs of a source and a tile that its stamp overlaps, by source, best tile first.

    Attributes:
        source: (K,) row of the source.
        tile: (K,) index of the tile.
        x: (K,) pixel of the source on that tile, 0-based; may lie outside it.
        y: (K,) the same.
        coverage: (K,) fraction of the stamp's pixels that lie on the tile, above 0 to 1.
    """

    source: Int64
    tile: Int64
    x: Float64
    y: Float64
    coverage: Float64


@dataclass(frozen=True, slots=True)
class Assignment:
    """The tile that each source is cut from.

    Attributes:
        owner: (N,) index of the tile; -1 where a stamp overlaps none.
        x: (N,) pixel of the source on its owner, 0-based; NaN without one.
        y: (N,) the same.
        coverage: (N,) fraction of the stamp's pixels that lie on the owner, 0 to 1.
    """

    owner: Int64
    x: Float64
    y: Float64
    coverage: Float64


@dataclass(frozen=True, slots=True)
class _Hits:
    """Sources whose stamps overlap one tile; `depth` is arcsec to its nearest edge, negative outside."""

    tile: int
    rows: Int64
    xy: Float64
    coverage: Float64
    depth: Float64


def coverage(shape: tuple[int, int], x: npt.ArrayLike, y: npt.ArrayLike, side: npt.ArrayLike) -> Float64:
    """Fraction of the pixels of each stamp that lie on an image of (H, W) pixels: (N,) from 0 to 1.

    Args:
        shape: (H, W) of the image.
        x: (N,) position in pixels, 0-based.
        y: (N,) the same.
        side: Pixels of a stamp's side, one number or (N,).
    """
    first, sides = origins(x, y, side), np.asarray(side, dtype=np.int64)
    inside = [
        np.clip(np.minimum(first[:, axis] + sides, shape[1 - axis]) - np.maximum(first[:, axis], 0), 0, None)
        for axis in (0, 1)
    ]
    result: Float64 = inside[0] * inside[1] / sides.astype(np.float64) ** 2
    return result


def _circle(tile: SkyTile) -> tuple[Float64, float]:
    """Unit vector of a tile's centre and the largest angle, in radians, from there to its border."""
    height, width = tile.shape
    along, up = np.linspace(-0.5, width - 0.5, 17), np.linspace(-0.5, height - 0.5, 17)
    x = np.concatenate([[(width - 1) / 2], along, along, np.full(17, -0.5), np.full(17, width - 0.5)])
    y = np.concatenate([[(height - 1) / 2], np.full(17, -0.5), np.full(17, height - 0.5), up, up])
    vectors = unit_vectors(*pixel_to_world(tile.wcs, x, y).T)
    chords = np.linalg.norm(vectors[1:] - vectors[0], axis=1)
    if not np.isfinite(chords).all():  # a map of the whole sky has corners that are no place
        return np.array([1.0, 0.0, 0.0]), np.pi
    return vectors[0], 2 * float(np.arcsin(min(chords.max() / 2, 1.0)))


def _hits(tiles: Sequence[SkyTile], ra: Float64, dec: Float64, side_px: npt.ArrayLike) -> Iterator[_Hits]:
    """What each tile holds, in the order of the tiles' ids."""
    from scipy.spatial import cKDTree

    lost = next((tile.id for tile in tiles if tile.wcs is None), None)
    if lost is not None:
        raise DataError(
            f"tile {lost!r} has no celestial WCS, so it holds no sky position; give its sources by pixel x and y."
        )
    sides = np.broadcast_to(np.asarray(side_px, dtype=np.int64), (len(tiles), len(ra)))
    known = np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90))
    tree = cKDTree(unit_vectors(ra[known], dec[known]))
    for t in sorted(range(len(tiles)) if known.size else (), key=lambda t: tiles[t].id):
        tile, scale = tiles[t], pixel_scale_deg(tiles[t].wcs)
        centre, radius = _circle(tile)
        # 1.5 half-sides reach the corner of a stamp; a tenth more for pixels larger than at the reference pixel.
        reach = min(np.pi, 1.1 * (radius + 1.5 * np.radians(scale) * (sides[t].max() / 2 + 1)))
        rows = known[np.sort(np.asarray(tree.query_ball_point(centre, 2 * np.sin(reach / 2)), dtype=np.int64))]
        xy = world_to_pixel(tile.wcs, ra[rows], dec[rows])
        covered = coverage(tile.shape, xy[:, 0], xy[:, 1], sides[t, rows])
        hit = np.flatnonzero(covered > 0)
        edges = np.minimum(xy[hit], np.array(tile.shape[::-1]) - 1 - xy[hit]) + 0.5
        depth = np.round(3600 * scale * edges.min(axis=1, initial=np.inf), 6)  # rounded: noise decides no tie
        yield _Hits(t, rows[hit], xy[hit], covered[hit], depth)


def assign(tiles: Sequence[SkyTile], ra: npt.ArrayLike, dec: npt.ArrayLike, side_px: npt.ArrayLike) -> Assignment:
    """The tile that owns each source: the one that holds most pixels of its stamp.

    Ties go to the tile whose edge is farthest from the source on the sky, then to the id that sorts first. Each tile
    transforms the sources within its circle on the sky in one call; a circle knows no RA 0/360 and no pole.

    Args:
        tiles: Tiles with a celestial WCS.
        ra: (N,) degrees, ICRS; NaN is owned by none.
        dec: (N,) degrees, ICRS.
        side_px: Pixels of a stamp's side: one number, (N,), or (tiles, N) where the tiles' scales differ.

    Raises:
        DataError: For a tile without celestial WCS.
    """
    ra, dec = (np.ravel(np.asarray(values, dtype=np.float64)) for values in (ra, dec))
    n = len(ra)
    owner, position = np.full(n, -1, dtype=np.int64), np.full((n, 2), np.nan)
    covered, depth = np.zeros(n), np.full(n, -np.inf)
    for hits in _hits(tiles, ra, dec, side_px):
        best = covered[hits.rows]
        better = (hits.coverage > best) | ((hits.coverage == best) & (hits.depth > depth[hits.rows]))
        rows = hits.rows[better]
        owner[rows], position[rows] = hits.tile, hits.xy[better]
        covered[rows], depth[rows] = hits.coverage[better], hits.depth[better]
    return Assignment(owner, position[:, 0], position[:, 1], covered)


def overlaps(tiles: Sequence[SkyTile], ra: npt.ArrayLike, dec: npt.ArrayLike, side_px: npt.ArrayLike) -> Overlaps:
    """Every tile that each stamp overlaps, its owner first and the others in the order of `assign`: for stitching.

    Args, errors: As for `assign`; asking for the sources that their owner does not cover is enough.
    """
    ra, dec = (np.ravel(np.asarray(values, dtype=np.float64)) for values in (ra, dec))
    found = list(_hits(tiles, ra, dec, side_px))
    if not found:
        nothing = np.zeros(0)
        return Overlaps(nothing.astype(np.int64), nothing.astype(np.int64), nothing, nothing, nothing)
    rank = np.concatenate([np.full(len(hits.rows), i) for i, hits in enumerate(found)])
    source, xy = np.concatenate([hits.rows for hits in found]), np.concatenate([hits.xy for hits in found])
    covered, depth = (np.concatenate([getattr(hits, name) for hits in found]) for name in ("coverage", "depth"))
    order = np.lexsort((rank, -depth, -covered, source))
    tile = np.array([hits.tile for hits in found])[rank[order]]
    return Overlaps(source[order], tile, xy[order, 0], xy[order, 1], covered[order])


def origins(x: npt.ArrayLike, y: npt.ArrayLike, side: npt.ArrayLike) -> Int64:
    """First pixel of each stamp: ceil(position - side / 2), the rule of `astropy.nddata.Cutout2D`.

    Args:
        x: (N,) position in pixels, 0-based, whole numbers at pixel centres.
        y: (N,) the same.
        side: Pixels of a stamp's side, one number or (N,).

    Returns:
        (N, 2) int64 x, y; may be negative. `OUTSIDE` for positions that are not finite.
    """
    corner = np.ceil(np.stack([np.ravel(x), np.ravel(y)], axis=1) - np.reshape(side, (-1, 1)) / 2.0)
    first: Int64 = np.clip(np.nan_to_num(corner, nan=OUTSIDE), OUTSIDE, -OUTSIDE).astype(np.int64)
    return first


def cut_stamps(
    image: Any, x: npt.ArrayLike, y: npt.ArrayLike, side: int, fill: float, out: np.ndarray | None = None
) -> np.ndarray:
    """Square stamps around positions, pixel for pixel those of `astropy.nddata.Cutout2D(mode="partial")`.

    A source at the edge stays at the centre of its stamp, and what lies outside the image is `fill`.

    Args:
        image: (H, W) array, memory map, or whatever has a shape and reads `image[rows, columns]` from a file, such as
            `.section` of an astropy HDU. The latter is read in windows that hold many stamps.
        x: (N,) position in pixels, 0-based, whole numbers at pixel centres; NaN gives a stamp of `fill`.
        y: (N,) the same.
        side: Pixels of a stamp's side.
        fill: Value of pixels outside the image.
        out: (N, side, side) array to write into, converted to its dtype; a new one without.

    Returns:
        (N, side, side) in the dtype of the image and native byte order, or `out`.

    Raises:
        DataError: When `fill` is no value of the dtype, such as NaN for integers.
    """
    first = origins(x, y, side)
    if out is None:
        out = np.empty((len(first), side, side), dtype=np.dtype(image.dtype).newbyteorder("="))
    if out.dtype.kind in "iub" and not (np.isfinite(fill) and np.asarray(fill).astype(out.dtype) == fill):
        raise DataError(f"fill {fill} is no value of {out.dtype} pixels; fill them with a whole number, such as 0.")
    if isinstance(image, np.ndarray):
        _cut(image, first, out, np.argsort(first[:, 1], kind="stable"), fill)
        return out
    for rows, x0, y0, window in _windows(image, first, side):
        _cut(window, first - np.array([x0, y0]), out, rows, fill)
    return out


def _cut(image: np.ndarray, first: Int64, out: np.ndarray, rows: Int64, fill: float) -> None:
    """Stamps number `rows` from an array into `out`."""
    (height, width), side = image.shape, out.shape[-1]
    for i, (x, y) in zip(rows.tolist(), first[rows].tolist(), strict=True):
        if 0 <= x <= width - side and 0 <= y <= height - side:
            out[i] = image[y : y + side, x : x + side]
            continue
        stamp, left, top = out[i], max(x, 0), max(y, 0)
        stamp[...] = fill
        right, bottom = min(x + side, width), min(y + side, height)
        if left < right and top < bottom:
            stamp[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]


def _windows(image: Any, first: Int64, side: int) -> Iterator[tuple[Int64, int, int, np.ndarray]]:
    """Rows of stamps, and a window of the image that holds all of them: x0, y0, pixels.

    Stamps are halved across the longer side of their window until it is no larger than `WINDOW_BYTES` and holds at most
    twice the pixels of its stamps, so crowded tiles are read once and few sources read little.
    """
    height, width = image.shape
    inside = ((first < [width, height]) & (first + side > 0)).all(axis=1)
    if not inside.all():
        yield np.flatnonzero(~inside), 0, 0, np.zeros((0, 0))
    most = WINDOW_BYTES // np.dtype(image.dtype).itemsize
    groups = [np.flatnonzero(inside)] if inside.any() else []
    while groups:
        rows = groups.pop()
        low = np.maximum(first[rows].min(axis=0), 0)
        high = np.minimum(first[rows].max(axis=0) + side, [width, height])
        if len(rows) == 1 or np.prod(high - low) <= min(most, 2 * len(rows) * side**2):
            yield rows, int(low[0]), int(low[1]), np.asarray(image[low[1] : high[1], low[0] : high[0]])
            continue
        rows = rows[np.argsort(first[rows, int(np.argmax(high - low))], kind="stable")]
        groups += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
