"""Stamps on another pixel grid: flux conserved, the source at the centre, missing pixels, weights and masks with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sciencessl.data_prep.sky_wcs import Float64, tangent_sky, world_to_pixel

if TYPE_CHECKING:
    from astropy.wcs import WCS

LEAST_GOOD = 0.5
"""Share of a new pixel's area that good pixels must cover for it to have a value."""

_AT_ONCE = 128  # stamps whose weights are in memory together
_REACH = 3  # pixels beside a place that its parabola is made from
_NODES, _DEGREE = 9, 5  # places a side that the full WCS is asked for, and the polynomial between them
_FINEST_PX = 0.5  # native pixels between the points that a new pixel is the mean of


@dataclass(frozen=True, slots=True)
class Planes:
    """Stamps of several bands with what belongs to their pixels.

    Attributes:
        flux: (N, C, H, W) float, unit a pixel or unit an area; anything where not good.
        good: (N, C, H, W) bool: pixels whose flux counts.
        ivar: (N, C, H, W) float inverse variance, 0 = unknown; None without weights.
        mask: (N, C, H, W) integer bit planes; None without masks.
    """

    flux: np.ndarray
    good: npt.NDArray[np.bool_]
    ivar: np.ndarray | None = None
    mask: np.ndarray | None = None

    def rows(self, rows: slice) -> Planes:
        """Some of the stamps."""
        ivar, mask = (None if plane is None else plane[rows] for plane in (self.ivar, self.mask))
        return Planes(self.flux[rows], self.good[rows], ivar, mask)


def resample_stamps(
    planes: Planes, centre: npt.ArrayLike, ratio: npt.ArrayLike, side: int, *, flux_per_pixel: bool = True
) -> Planes:
    """Stamps on a grid of another scale and the same directions, with each source exactly at the centre.

    A new pixel takes the flux of the area that it overlaps, spread over each old pixel as a parabola whose integral is
    that pixel's flux: sums are conserved exactly, and neither do smaller pixels show the old ones as blocks nor is a
    shift a blur. Where a parabola needs a pixel that is missing, flux is spread evenly. Neighbouring new pixels share
    old ones, so their noise is correlated: `ivar` is right for each alone, not for sums over many.

    Args:
        planes: Stamps, all of one size. A new pixel whose good share is below `LEAST_GOOD` has no value; above it the
            good pixels stand for the missing ones.
        centre: (N, 2) x, y of the source in pixels of its stamp, 0-based, sub-pixel.
        ratio: Side of a new pixel in old ones, one number or (N,): above 1 pixels grow.
        side: Pixels of the new side; the source is at (side - 1) / 2, between pixels where it is even.
        flux_per_pixel: Whether flux is per pixel (sums are conserved) or per area (values are).

    Returns:
        (N, C, side, side) planes: float64 flux, NaN where not good; ivar of the sum of weighted pixels, 0 where one of
        them is unknown; mask bits of all old pixels that a new one overlaps.

    Source: the parabolas of Colella & Woodward 1984, eqs. 1.5 to 1.9, without limiter.
    """
    n = len(planes.flux)
    centres, ratios = np.asarray(centre, dtype=np.float64), np.broadcast_to(np.asarray(ratio, dtype=np.float64), (n,))
    parts = []
    for start in range(0, max(n, 1), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        parts.append(_resampled(planes.rows(rows), centres[rows], ratios[rows], side, flux_per_pixel))
    return _joined(parts)


def _resampled(planes: Planes, centre: Float64, ratio: Float64, side: int, flux_per_pixel: bool) -> Planes:
    height, width = planes.flux.shape[-2:]
    edges = centre[:, :, None] + (np.arange(side + 1) - side / 2) * ratio[:, None, None]
    area = (ratio**2)[:, None, None, None]
    scale = area if flux_per_pixel else np.ones_like(area)
    even = _Separable(_even_weights(edges[:, 1], height), _even_weights(edges[:, 0], width))
    mask = None if planes.mask is None else _bits(even.touching(), planes.mask)
    wide, sizes = _padded(planes), (height + 2 * _REACH, width + 2 * _REACH)
    curves = _Separable(*(_curve_weights(edges[:, 1 - i] + _REACH, sizes[i]) for i in (0, 1)))
    smooth = _weighted(curves, wide, area, scale)
    whole = curves.touching()(~wide.good) < 0.5
    if whole.all():
        return Planes(smooth.flux, smooth.good, smooth.ivar, mask)
    rough = _weighted(even, planes, area, scale)
    ivar = None if smooth.ivar is None or rough.ivar is None else np.where(whole, smooth.ivar, rough.ivar)
    return Planes(np.where(whole, smooth.flux, rough.flux), rough.good, ivar, mask)


def _padded(planes: Planes) -> Planes:
    """With missing pixels around, so that a parabola at the border is one that lacks pixels."""
    around = [(0, 0), (0, 0), (_REACH, _REACH), (_REACH, _REACH)]
    ivar = None if planes.ivar is None else np.pad(planes.ivar, around)
    return Planes(np.pad(planes.flux, around), np.pad(planes.good, around), ivar)


def _even_weights(edges: Float64, size: int) -> Float64:
    """(N, side, size): length of each old pixel that lies between two of (N, side + 1) edges."""
    left = np.arange(size) - 0.5
    low, high = edges[:, :-1, None], edges[:, 1:, None]
    lengths: Float64 = np.clip(np.minimum(high, left + 1) - np.maximum(low, left), 0, None)
    return lengths


def _curve_weights(edges: Float64, size: int) -> Float64:
    """(N, side, size): weight of each old pixel in the integral of the parabolas between two edges."""
    away = edges[:, :, None] - (np.arange(size) - 0.5)
    whole = np.floor(away)
    t, pixel = away - whole, -whole.astype(np.int64)  # pixel: its place relative to the one that the edge lies in
    left, right = t - 2 * t**2 + t**3, t**3 - t**2  # weights of the flux at the left and right border of that pixel
    steps = [1 - left / 12, 1 + 7 / 12 * left - right / 12, 3 * t**2 - 2 * t**3 + 7 / 12 * (left + right),
             7 / 12 * right - left / 12, -right / 12]  # fmt: skip
    below = np.select([pixel == place for place in range(-2, 3)], steps, (pixel < -2).astype(np.float64))
    return np.diff(below, axis=1)


@dataclass(frozen=True, slots=True)
class _Separable:
    """Weighted sums over old pixels, by rows and by columns: (N, side, H) and (N, side, W)."""

    by_y: Float64
    by_x: Float64

    def __call__(self, values: np.ndarray) -> Float64:
        sums: Float64 = self.by_y[:, None] @ values.astype(np.float64) @ self.by_x[:, None].swapaxes(-1, -2)
        return sums

    def squared(self) -> _Separable:
        return _Separable(self.by_y**2, self.by_x**2)

    def touching(self) -> _Separable:
        """1 for every old pixel that has weight: sums count pixels."""
        return _Separable(*((np.abs(weights) > 1e-9).astype(np.float64) for weights in (self.by_y, self.by_x)))


def _weighted(weights: Any, planes: Planes, full: Float64, scale: Float64) -> Planes:
    """New planes: flux is `scale` times the weighted mean of good pixels; the weights of all of them sum to `full`."""
    share = weights(planes.good)
    good = share >= LEAST_GOOD * full
    gain = np.divide(scale, share, out=np.zeros_like(share), where=good)
    flux = np.where(good, gain * weights(np.where(planes.good, planes.flux, 0)), np.nan)
    ivar = None
    if planes.ivar is not None:
        known = planes.good & (planes.ivar > 0)
        variance = gain**2 * weights.squared()(np.divide(1, planes.ivar, out=np.zeros(known.shape), where=known))
        certain = good & (variance > 0) & (weights.touching()(planes.good & ~known) < 0.5)
        ivar = np.divide(1, variance, out=np.zeros_like(variance), where=certain)
    return Planes(flux, good, ivar)


def _bits(touching: Any, mask: np.ndarray) -> np.ndarray:
    """Every bit that an old pixel with weight has."""
    held, bit = int(np.bitwise_or.reduce(mask, axis=None)) if mask.size else 0, 1
    new: np.ndarray = touching(mask & 0).astype(mask.dtype)  # of the new shape, without a bit
    while bit <= held:
        if held & bit:
            new |= np.where(touching((mask & bit) != 0) > 0.5, mask.dtype.type(bit), mask.dtype.type(0))
        bit <<= 1
    return new


def _joined(parts: Sequence[Planes]) -> Planes:
    first = parts[0]
    ivar = None if first.ivar is None else np.concatenate([part.ivar for part in parts if part.ivar is not None])
    mask = None if first.mask is None else np.concatenate([part.mask for part in parts if part.mask is not None])
    flux, good = np.concatenate([part.flux for part in parts]), np.concatenate([part.good for part in parts])
    return Planes(flux, good, ivar, mask)


def north_up(
    ra: npt.ArrayLike, dec: npt.ArrayLike, scale_arcsec_px: npt.ArrayLike, side: int
) -> dict[str, Float64]:
    """The TAN WCS of stamps centred on sources, north up and east left: columns as of `sky_wcs.affine_wcs`.

    Args:
        ra: (N,) degrees, ICRS.
        dec: (N,) degrees, ICRS.
        scale_arcsec_px: Side of a pixel at the centre, one number or (N,).
        side: Pixels of a stamp's side.
    """
    ra, dec = (np.ravel(np.asarray(values, dtype=np.float64)) for values in (ra, dec))
    same = np.ones(len(ra))
    middle, scale = (side + 1) / 2 * same, np.asarray(scale_arcsec_px) / 3600 * same
    return {
        "wcs_crval1": ra, "wcs_crval2": dec, "wcs_crpix1": middle, "wcs_crpix2": middle,
        "wcs_cd1_1": -scale, "wcs_cd1_2": 0 * same, "wcs_cd2_1": 0 * same, "wcs_cd2_2": scale,
    }  # fmt: skip


def reproject_stamps(
    planes: Planes, wcs: WCS, first: npt.ArrayLike, target: Mapping[str, Float64], side: int,
    *, flux_per_pixel: bool = True,
) -> Planes:  # fmt: skip
    """Stamps of a tile on another grid of the sky each: rotated, of another scale, without the tile's distortions.

    A new pixel is the mean of the old image, linear between pixel centres, over a grid of points half an old pixel
    apart or closer, times its area in old pixels. So it is as blurred as linear interpolation makes it: 0.41 old pixels
    are added in quadrature to the sigma of a star. The full WCS is asked for 9 x 9 places of each stamp, and the
    polynomial between them is within a thousandth of a pixel for distortions that surveys have.

    Args:
        planes: Windows of one tile, all of one size; larger than the target by a pixel or more on each side.
        wcs: Full WCS of the tile.
        first: (N, 2) x, y of each window's first pixel on the tile.
        target: Columns as of `sky_wcs.affine_wcs` or `north_up`.
        side: Pixels of the new side.
        flux_per_pixel: Whether flux is per pixel (sums are conserved) or per area (values are).

    Returns:
        As for `resample_stamps`.

    Source: ours. Against `reproject` it carries missing pixels, variance and mask bits through the same weights.
    """
    corners = np.asarray(first, dtype=np.float64)
    nodes = np.linspace(-0.5, side - 0.5, _NODES)
    places = _native(wcs, target, nodes) - corners[:, None, None]
    unit = _Unit(side)
    stretch = np.nan_to_num(np.abs(np.diff(places, axis=1)).max(initial=0) / (nodes[1] - nodes[0]), nan=1.0)
    points = max(2, int(np.ceil(stretch / _FINEST_PX)))
    parts = []
    for i in range(len(corners)):
        xy, area = unit.fine(places[i], points), unit.area(places[i])
        weights = _Points(_point_weights(xy, planes.flux.shape[-2:], side, points), side)
        stamp = planes.rows(slice(i, i + 1))
        new = _weighted(weights, stamp, np.ones(()), area if flux_per_pixel else np.ones(()))
        mask = None if stamp.mask is None else _bits(weights.touching(), stamp.mask)
        parts.append(Planes(new.flux, new.good, new.ivar, mask))
    return _joined(parts) if parts else planes


def _native(wcs: WCS, target: Mapping[str, Float64], nodes: Float64) -> Float64:
    """(N, K, K, 2) tile pixels x, y of the places (row, column) = nodes x nodes of each target stamp."""
    y, x = (grid.ravel() for grid in np.meshgrid(nodes, nodes, indexing="ij"))
    dx, dy = (x + 1 - target["wcs_crpix1"][:, None]), (y + 1 - target["wcs_crpix2"][:, None])
    east = target["wcs_cd1_1"][:, None] * dx + target["wcs_cd1_2"][:, None] * dy
    north = target["wcs_cd2_1"][:, None] * dx + target["wcs_cd2_2"][:, None] * dy
    sky = tangent_sky(np.stack([target["wcs_crval1"], target["wcs_crval2"]], axis=1), east, north)
    return world_to_pixel(wcs, sky[..., 0].ravel(), sky[..., 1].ravel()).reshape(len(dx), len(nodes), len(nodes), 2)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Polynomials over a stamp of a side, fitted to its nodes."""

    side: int

    def _basis(self, at: Float64) -> Float64:
        """(K, nodes): values at `at`, in pixels, from values at the nodes."""
        legendre = np.polynomial.legendre.legvander
        fit = np.linalg.pinv(legendre(np.linspace(-1, 1, _NODES), _DEGREE))
        basis: Float64 = legendre((2 * at + 1) / self.side - 1, _DEGREE) @ fit
        return basis

    def fine(self, places: Float64, points: int) -> Float64:
        """(side * points, side * points, 2): x, y of a grid of points in each pixel."""
        basis = self._basis((np.arange(self.side * points) + 0.5) / points - 0.5)
        grid: Float64 = np.einsum("ai,bj,ijk->abk", basis, basis, places, optimize=True)
        return grid

    def area(self, places: Float64) -> Float64:
        """(side, side): old pixels that each new one covers."""
        pixels = np.arange(self.side, dtype=np.float64)
        low, high, at = self._basis(pixels - 0.5), self._basis(pixels + 0.5), self._basis(pixels)
        by_x = np.einsum("ai,bj,ijk->kab", at, high - low, places, optimize=True)
        by_y = np.einsum("ai,bj,ijk->kab", high - low, at, places, optimize=True)
        pixels_each: Float64 = np.abs(by_x[0] * by_y[1] - by_x[1] * by_y[0])
        return pixels_each


@dataclass(frozen=True, slots=True)
class _Points:
    """Weighted sums over old pixels as one sparse matrix (side * side, H * W)."""

    matrix: Any
    side: int

    def __call__(self, values: np.ndarray) -> Float64:
        flat = values.reshape(values.shape[1], -1).astype(np.float64)
        return (self.matrix @ flat.T).T.reshape(1, len(flat), self.side, self.side)  # type: ignore[no-any-return]

    def squared(self) -> _Points:
        return _Points(self.matrix.multiply(self.matrix).tocsr(), self.side)

    def touching(self) -> _Points:
        return _Points((self.matrix > 1e-9).astype(np.float64), self.side)


def _point_weights(xy: Float64, shape: tuple[int, ...], side: int, points: int) -> Any:
    """Mean over the points of each new pixel of the four old pixels around them; those outside have no weight."""
    from scipy.sparse import csr_matrix

    height, width = shape
    # By new pixel first, then by point: (side, points, side, points) -> (side, side, points, points).
    ordered = xy.reshape(side, points, side, points, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    ordered = np.nan_to_num(ordered, nan=-9.0)
    low = np.floor(ordered).astype(np.int64)
    near = ordered - low
    columns, weights = [], []
    for right, up in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = low[:, 0] + right, low[:, 1] + up
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        columns.append(np.where(inside, y * width + x, 0))
        weights.append(inside * np.abs(1 - right - near[:, 0]) * np.abs(1 - up - near[:, 1]) / points**2)
    starts = np.arange(side * side + 1) * 4 * points**2
    values, places = np.stack(weights, axis=1).ravel(), np.stack(columns, axis=1).ravel()
    matrix = csr_matrix((values, places, starts), shape=(side * side, height * width))
    matrix.sum_duplicates()
    return matrix
