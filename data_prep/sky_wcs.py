"""Sky and pixels through the full WCS of a tile, in batches: distortions, frames and order of axes respected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sciencessl.data_prep.sky import unit_vectors
from sciencessl.errors import DataError

if TYPE_CHECKING:
    from astropy.wcs import WCS

Float64 = npt.NDArray[np.float64]

_FARTHEST_PX = 2.0**31
_SOLVED_PX = 0.01  # a position whose way back misses by more is no solution but where the iteration gave up


def _frame(wcs: WCS) -> Any:
    """The celestial frame of a WCS; None where its coordinates are ICRS already."""
    from astropy.coordinates import ICRS
    from astropy.wcs.utils import wcs_to_celestial_frame

    try:
        frame = wcs_to_celestial_frame(wcs)
    except ValueError as error:
        raise DataError(
            f"a tile's WCS has axes {', '.join(wcs.wcs.ctype)}, which are no celestial frame that astropy knows "
            f"({error}); set CTYPE1, CTYPE2 and RADESYS in its header, or give sources by pixel x and y."
        ) from error
    return None if isinstance(frame, ICRS) else frame


def _turned(lon: Float64, lat: Float64, of: Any, to: Any) -> tuple[Float64, Float64]:
    """Degrees in one frame as degrees in another."""
    from astropy.coordinates import SkyCoord

    turned = SkyCoord(lon, lat, unit="deg", frame=of).transform_to(to).represent_as("unitspherical")
    return turned.lon.deg, turned.lat.deg


def _lon_lat_axes(wcs: WCS) -> list[int]:
    return [wcs.wcs.lng, wcs.wcs.lat]


def _pixel_to_native(wcs: WCS, xy: Float64) -> tuple[Float64, Float64]:
    world = wcs.all_pix2world(xy, 0)[:, _lon_lat_axes(wcs)]
    return world[:, 0], world[:, 1]


def pixel_to_world(wcs: WCS, x: npt.ArrayLike, y: npt.ArrayLike) -> Float64:
    """Sky positions of pixels through the full WCS, distortions included, in one call.

    Args:
        wcs: Celestial WCS of two axes, in any frame and order of axes.
        x: (N,) pixels, 0-based, whole numbers at pixel centres.
        y: (N,) the same.

    Returns:
        (N, 2) ra, dec in degrees, ICRS, ra in [0, 360); NaN where the projection has no such position.
    """
    lon, lat = _pixel_to_native(wcs, np.stack(np.broadcast_arrays(x, y), axis=-1).astype(np.float64).reshape(-1, 2))
    frame = _frame(wcs)
    if frame is not None:
        lon, lat = _turned(lon, lat, frame, "icrs")
    return np.stack([lon % 360, lat], axis=1)


def world_to_pixel(wcs: WCS, ra: npt.ArrayLike, dec: npt.ArrayLike) -> Float64:
    """Pixels of sky positions through the full WCS, distortions included, in one call.

    Every answer is turned back into a sky position and kept only where that is the one asked for, so a distortion that
    diverges far from its tile, or a projection that folds the other side of the sky onto it, gives no false hit.

    Args:
        wcs: Celestial WCS of two axes, in any frame and order of axes.
        ra: (N,) degrees, ICRS.
        dec: (N,) degrees, ICRS.

    Returns:
        (N, 2) x, y, 0-based, whole numbers at pixel centres; NaN where a position has no pixel.

    Raises:
        DataError: For a WCS whose axes are no celestial frame.
    """
    lon, lat = (np.ravel(np.asarray(values, dtype=np.float64)) for values in (ra, dec))
    out = np.full((len(lon), 2), np.nan)
    known = np.flatnonzero(np.isfinite(lon) & (np.abs(lat) <= 90))
    lon, lat = lon[known], lat[known]
    frame = _frame(wcs)
    if frame is not None:
        lon, lat = _turned(lon, lat, "icrs", frame)
    if known.size == 0:
        return out
    world = np.empty((known.size, 2))
    world[:, _lon_lat_axes(wcs)] = np.stack([lon, lat], axis=1)
    with np.errstate(all="ignore"):  # what diverges overflows on its way, and is dropped below
        pixels = wcs.all_world2pix(world, 0, tolerance=1e-6, adaptive=True, quiet=True)
        pixels[~(np.abs(pixels) < _FARTHEST_PX).all(axis=1)] = np.nan
        missed = np.linalg.norm(unit_vectors(*_pixel_to_native(wcs, pixels)) - unit_vectors(lon, lat), axis=1)
    solved = missed <= _SOLVED_PX * np.radians(pixel_scale_deg(wcs))  # False for NaN
    out[known[solved]] = pixels[solved]
    return out


def pixel_scale_deg(wcs: WCS) -> float:
    """Side of a pixel in degrees: the root of its area at the reference pixel, distortions left out."""
    return float(np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix))))


def affine_wcs(wcs: WCS, first: npt.ArrayLike, side: npt.ArrayLike) -> dict[str, Float64]:
    """The TAN WCS of each stamp, tangent to the full WCS at the stamp's centre.

    At the centre both agree; away from it they differ by the curvature of the distortion alone, which on DECam images
    (TPV) is below 0.001 pixels at the corners of 64 px. Derivatives are central differences over half a stamp, exact
    for distortions of second order.

    Args:
        wcs: Full celestial WCS of the tile.
        first: (N, 2) x, y of each stamp's first pixel on the tile, as `cutouts.origins` gives them.
        side: Pixels of a stamp's side, one number or (N,).

    Returns:
        Column -> (N,): `wcs_crval1`, `wcs_crval2` (degrees, ICRS), `wcs_crpix1`, `wcs_crpix2` (1-based pixel of the
        stamp), `wcs_cd1_1`, `wcs_cd1_2`, `wcs_cd2_1`, `wcs_cd2_2` (degrees a pixel), for RA---TAN and DEC--TAN. NaN
        where the projection has no such position.
    """
    corner = np.asarray(first, dtype=np.float64)
    sides = np.broadcast_to(np.asarray(side, dtype=np.float64), (len(corner),))
    centre, step = corner + (sides[:, None] - 1) / 2, np.maximum(sides / 4, 1.0)
    away = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    places = centre[None] + away[:, None] * step[None, :, None]
    world = pixel_to_world(wcs, places[..., 0].ravel(), places[..., 1].ravel()).reshape(5, -1, 2)
    plane = _tangent_plane(world[0], world[1:])
    by_x, by_y = (plane[0] - plane[1]) / (2 * step), (plane[2] - plane[3]) / (2 * step)
    middle = np.where(np.isfinite(by_x[0]), (sides + 1) / 2, np.nan)
    return {
        "wcs_crval1": world[0, :, 0], "wcs_crval2": world[0, :, 1], "wcs_crpix1": middle, "wcs_crpix2": middle,
        "wcs_cd1_1": by_x[0], "wcs_cd1_2": by_y[0], "wcs_cd2_1": by_x[1], "wcs_cd2_2": by_y[1],
    }  # fmt: skip


def _tangent_axes(centre: Float64) -> tuple[Float64, Float64, Float64]:
    """Unit vectors ahead, east and north of (N, 2) places on the sky: (N, 3) each."""
    lon, lat = np.radians(centre[:, 0]), np.radians(centre[:, 1])
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=-1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=-1)
    return unit_vectors(centre[:, 0], centre[:, 1]), east, north


def _tangent_plane(centre: Float64, world: Float64) -> Float64:
    """Gnomonic coordinates in degrees: (K, 2, N) east and north of (K, N, 2) ra, dec, from (N, 2) centres.

    Source: Calabretta & Greisen 2002, section 5.1.3, written with vectors so that poles need no care.
    """
    ahead, east, north = _tangent_axes(centre)
    places = unit_vectors(world[..., 0], world[..., 1])
    depth = (places * ahead).sum(-1)
    plane: Float64 = np.degrees(np.stack([(places * east).sum(-1) / depth, (places * north).sum(-1) / depth], axis=1))
    return plane


def tangent_sky(centre: Float64, east_deg: Float64, north_deg: Float64) -> Float64:
    """(N, K, 2) ra, dec of (N, K) gnomonic coordinates around (N, 2) centres: TAN without distortion."""
    ahead, east, north = (axis[:, None] for axis in _tangent_axes(centre))
    plane = np.radians(np.stack([east_deg, north_deg]))[..., None]
    x, y, z = np.moveaxis(ahead + plane[0] * east + plane[1] * north, -1, 0)
    sky: Float64 = np.degrees(np.stack([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))], axis=-1))
    return sky
