"""Whole tiles as grids of stamps, for data without a catalogue; where tiles overlap, one stamp a patch of sky."""

from __future__ import annotations

import numpy as np

from sciencessl.data_prep.sky import chord, require_positions, unit_vectors
from sciencessl.errors import ConfigError, DataError, unknown_name

EDGES = ("skip", "pad", "shift")
"""What happens where the grid meets the far edge of a tile: see `grid_centres`."""


def grid_centres(shape: tuple[int, int], side_px: int, step_px: int, edge: str = "skip") -> np.ndarray:
    """Centres of the stamps of a regular grid over a tile, row after row from the first pixel.

    A stamp of side s that begins at pixel o has its centre at o + (s - 1) / 2, so that of an even side lies between
    two pixels.

    Args:
        shape: (H, W) of the tile.
        side_px: Of the stamps.
        step_px: From one stamp to the next; below the side stamps overlap, above it there are gaps.
        edge: `skip` keeps to stamps that lie inside, and leaves a rest below one step; `pad` goes on until nothing is
            left, so that the last stamps reach beyond the tile; `shift` moves the last ones back until they lie inside.
            Where not one stamp fits, only `pad` gives any.

    Returns:
        (N, 2) float64 x, y of centres, 0-based.

    Raises:
        ConfigError: For a side or step below 1, a shape below 0, or an unknown edge.
    """
    if side_px < 1 or step_px < 1 or min(shape) < 0:
        raise ConfigError(f"grid of side_px {side_px} and step_px {step_px} over {tuple(shape)} pixels: side and step "
                          "must be 1 or more, and no side of the tile below 0.")
    y, x = (grid_starts(length, side_px, step_px, edge) + (side_px - 1) / 2 for length in shape)
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)


def grid_starts(length: int, side: int, step: int, edge: str) -> np.ndarray:
    """First pixels of the stamps along one axis, ascending; see `grid_centres`.

    Raises:
        ConfigError: For an unknown edge.
    """
    if edge not in EDGES:
        raise ConfigError(unknown_name("edge policy", edge, EDGES))
    inside = np.arange(0, length - side + 1, step)
    if edge == "pad":
        return np.arange(0, max(length - side, 0) + step, step) if length else inside
    if edge == "shift" and len(inside) and inside[-1] + side < length:
        return np.append(inside, length - side)
    return inside


def keep_one_per_patch(
    ra: np.ndarray, dec: np.ndarray, coverage: np.ndarray, tile_index: np.ndarray, radius_arcsec: float
) -> np.ndarray:
    """Which stamps to keep so that no two centres lie within a radius: of two the one with more coverage.

    Stamps are taken from the most coverage to the least (then by tile, Dec and RA), and each one that is kept drops all
    others within the radius. So the order of the rows does not count. A radius of half the step or less drops
    nothing of a grid itself, but for stamps that its edge policy has shifted.

    Args:
        ra: (N,) degrees.
        dec: (N,) degrees.
        coverage: (N,) share of each stamp that its tile covers.
        tile_index: (N,) integers, given to tiles by their names rather than as they come.
        radius_arcsec: 0 or more.

    Returns:
        (N,) bool.

    Raises:
        ConfigError: For a radius that is negative or not finite.
        DataError: For lengths that differ, a row that is no place on the sky, or NaN coverage.
    """
    from scipy.spatial import cKDTree

    ra, dec = require_positions(ra, dec, "stamps of a grid")
    coverage, tile_index = np.asarray(coverage, np.float64), np.asarray(tile_index)
    if not coverage.shape == tile_index.shape == ra.shape or np.isnan(coverage).any():
        raise DataError(f"stamps of a grid: {len(ra)} positions, coverage of shape {coverage.shape} and tile_index of "
                        f"shape {tile_index.shape}; expected one number each, and no NaN.")
    if not (np.isfinite(radius_arcsec) and radius_arcsec >= 0):
        raise ConfigError(f"radius_arcsec is {radius_arcsec}; expected arcsec of 0 or more.")
    kept = np.ones(len(ra), dtype=bool)
    if not len(ra):
        return kept
    points, reach = unit_vectors(ra, dec), float(chord(radius_arcsec))
    tree = cKDTree(points)
    near = tree.query_ball_point(points, reach, return_length=True)
    open_ = near > 1
    kept[open_] = False
    for row in np.lexsort((ra, dec, tile_index, -coverage)).tolist():
        if open_[row]:
            open_[tree.query_ball_point(points[row], reach)] = False
            kept[row] = True
    return kept
