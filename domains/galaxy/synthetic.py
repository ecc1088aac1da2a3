"""A small synthetic survey on disk: overlapping sky tiles, a catalogue with drawn votes, the truth, RGB stamps."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sciencessl.domains.galaxy.exposure import (
    PIXEL_SCALE,
    SATURATION,
    SKY_SIGMA,
    Exposure,
    Stars,
    draw_stars,
    expose,
    paste,
)
from sciencessl.domains.galaxy.morphology import BANDS, BOX, Galaxies, answer_fractions, draw_galaxies, render
from sciencessl.domains.galaxy.schema import load_schema
from sciencessl.domains.galaxy.synthetic_tables import write_catalogue, write_truth
from sciencessl.domains.galaxy.votes import simulate_votes
from sciencessl.errors import ConfigError
from sciencessl.views.stretch import legacy_stretch

if TYPE_CHECKING:
    from astropy.wcs import WCS

STAMP = 72
"""Side of a stamp in pixels."""

OVERLAP = 80
"""Pixels that neighbouring tiles share."""

_SPACING = 64  # less than BOX: wings overlap a little, as on the sky
_PER_TILE = 400
_FIRST, _BEYOND = 8, 24  # of the outermost cells, pixels cut off on two sides and added on the two others


@dataclass(frozen=True)
class _Layout:
    """N galaxies in cells of 64 pixels, in tiles of `side` x `side` cells, `wide` tiles a row, on one pixel grid."""

    rows: list[np.ndarray]
    side: int
    wide: int
    turn: float
    wcs: WCS

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sky in pixels."""
        block = self.side * _SPACING
        return self.wide * block + _BEYOND, math.ceil(len(self.rows) / self.wide) * block + _BEYOND

    def block(self, number: int) -> np.ndarray:
        """x and y of the first pixel of a tile's own cells."""
        return np.array([number % self.wide, number // self.wide]) * self.side * _SPACING

    def box(self, number: int) -> tuple[int, int, int, int]:
        """First and last pixel (exclusive) of a tile: x, y, x, y."""
        first, half = self.block(number), OVERLAP // 2
        low = np.maximum(first - half, _FIRST)
        high = np.minimum(first + self.side * _SPACING + half, self.size)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def synthetic_survey(folder: Path, rng: np.random.Generator, n: int) -> Path:
    """Write a survey of N synthetic galaxies.

    Tiles overlap by 80 px, so that some galaxies lie on two; some stamps reach beyond the edge of the survey. Files:

    - `tiles/tile-TTT-BAND.fits`: float32 nanomaggies a pixel in g, r and z, TAN WCS, one pixel grid for all tiles, with
      a Moffat PSF, noise, dead and hot columns, a saturated star with its bleed and a block of NaN in each tile.
    - `tiles/tile-TTT-BAND-invvar.fits` and `-mask.fits`: inverse variance, and a mask of two bits.
    - `catalogue.csv`: id_str, ra and dec in degrees, magnitudes, half-light radius in arcsec, redshift, class, and gzd5
      vote counts drawn down the tree with 20 to 40 volunteers a galaxy.
    - `truth.csv`: what was drawn, of stars too: fluxes in nanomaggies and the shape.
    - `stamps/ID.jpg`: 72 px RGB of each galaxy, without the defects, and the catalogue once more.

    The same generator state writes the same bytes.

    Args:
        folder: Where to write; made if missing. Give a new one: files of an earlier call would stay.
        rng: Source of all draws.
        n: Number of galaxies, 1 or more; one in 13 is a merger, the other classes are as equal in number as can be.

    Returns:
        The folder: `prepare galaxy` cuts its tiles, and of its folder `stamps` it takes the image files.

    Raises:
        ConfigError: For n below 1.
    """
    if n < 1:
        raise ConfigError(f"synthetic survey: n must be 1 or more, got {n}.")
    for name in ("tiles", "stamps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    galaxies = draw_galaxies(n, rng)
    schema = load_schema("gzd5")
    votes = simulate_votes(schema, answer_fractions(galaxies, schema, rng), rng.integers(20, 41, size=n), rng)
    names = [f"syn{i:06d}" for i in rng.choice(1_000_000, size=n, replace=False)]
    layout = _lay_out(n, rng)
    positions = np.concatenate([_positions(layout, number, rng) for number in range(len(layout.rows))])
    stars = draw_stars(*layout.size, _bright(layout, rng), rng)
    for number in range(len(layout.rows)):
        _write_tile(folder, layout, number, names, galaxies, positions, stars, rng)
    sky = layout.wcs.all_pix2world(positions, 0)
    write_catalogue(folder / "catalogue.csv", names, galaxies, sky, schema, votes, rng)
    shutil.copyfile(folder / "catalogue.csv", folder / "stamps" / "catalogue.csv")
    stars_sky = layout.wcs.all_pix2world(stars.position, 0)
    write_truth(folder / "truth.csv", names, galaxies, sky, stars.flux, stars_sky, layout.turn)
    return folder


def rgb(bands: np.ndarray) -> np.ndarray:
    """Colour image of g, r, z fluxes with the asinh stretch of the Legacy Surveys viewer (Lupton et al. 2004).

    Args:
        bands: (3, H, W) in g, r, z, nanomaggies a pixel.

    Returns:
        (H, W, 3) uint8: z is red, r green, g blue.
    """
    stretched = legacy_stretch(BANDS[::-1]).apply(np.moveaxis(bands[::-1], 0, -1))
    image: np.ndarray = (stretched * 255 + 0.5).astype(np.uint8)
    return image


def _lay_out(n: int, rng: np.random.Generator) -> _Layout:
    """At least two tiles once there are galaxies enough, so that a tile can be held out; the sky turned by up to 5
    degrees."""
    from astropy.wcs import WCS

    rows = np.array_split(np.arange(n), max(math.ceil(n / _PER_TILE), min(2, n)))
    side, wide = math.ceil(math.sqrt(max(map(len, rows)))), math.ceil(math.sqrt(len(rows)))
    turn = math.radians(rng.uniform(-5.0, 5.0))
    wcs = WCS(naxis=2)
    layout = _Layout(rows, side, wide, turn, wcs)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [rng.uniform(20.0, 330.0), rng.uniform(-30.0, 30.0)]
    wcs.wcs.crpix = [length // 2 for length in layout.size]
    turned = np.array([[-math.cos(turn), math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    wcs.wcs.cd = PIXEL_SCALE / 3600 * turned
    wcs.wcs.cunit = ["deg", "deg"]
    return layout


def _positions(layout: _Layout, number: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) x and y on the sky's grid: cells of the tile in random order, off their middle by up to 4 px."""
    cells = rng.permutation(layout.side**2)[: len(layout.rows[number])]
    corner = np.stack([cells % layout.side, cells // layout.side], axis=1) * _SPACING
    positions: np.ndarray = layout.block(number) + corner + _SPACING / 2 + rng.uniform(-4.0, 4.0, (len(cells), 2))
    return positions


def _bright(layout: _Layout, rng: np.random.Generator) -> np.ndarray:
    """(tiles, 2) places of saturated stars, one a tile, where four cells meet."""
    blocks = np.array([layout.block(number) for number in range(len(layout.rows))])
    corners = rng.integers(1, max(layout.side, 2), (len(blocks), 2)) * _SPACING
    places: np.ndarray = blocks + corners + rng.uniform(-2.0, 2.0, corners.shape)
    return places


def _write_tile(
    folder: Path, layout: _Layout, number: int, names: Sequence[str], galaxies: Galaxies, positions: np.ndarray,
    stars: Stars, rng: np.random.Generator,
) -> None:
    x0, y0, x1, y1 = layout.box(number)
    first = np.array([x0, y0])
    near = np.all((positions > first - BOX) & (positions < np.array([x1, y1]) + BOX), axis=1)
    scene = _scene(galaxies.take(np.flatnonzero(near)), positions[near] - first, (y1 - y0, x1 - x0))
    seen = expose(scene, Stars(stars.position - first, stars.flux), rng)
    for row in layout.rows[number].tolist():
        x, y = np.rint(positions[row] - first).astype(int) - STAMP // 2
        stamp = np.zeros((len(BANDS), STAMP, STAMP), dtype=np.float32)
        paste(stamp, seen.clean, -x, -y)
        # Image files count rows from the top, FITS from the bottom: flip, so that both show the same handedness.
        Image.fromarray(rgb(stamp)[::-1]).save(folder / "stamps" / f"{names[row]}.jpg", quality=95)
    wcs = layout.wcs.deepcopy()
    wcs.wcs.crpix = layout.wcs.wcs.crpix - first
    _write_planes(folder / "tiles" / f"tile-{number:03d}", seen, wcs)


def _scene(galaxies: Galaxies, positions: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    scene = np.zeros((len(BANDS), *shape), dtype=np.float32)
    corners = np.rint(positions).astype(int) - BOX // 2
    for first in range(0, len(galaxies), 64):
        rows = np.arange(first, min(first + 64, len(galaxies)))
        boxes = render(galaxies.take(rows), positions[rows] - corners[rows])
        for box, (x, y) in zip(boxes, corners[rows].tolist(), strict=True):
            paste(scene, box, x, y)
    return scene


def _write_planes(stem: Path, seen: Exposure, wcs: WCS) -> None:
    from astropy.io import fits

    header: Any = wcs.to_header()
    for i, band in enumerate(BANDS):
        header["FILTER"] = band
        header["PSFFWHM"] = (seen.seeing[band], "arcsec")
        header["SKYSIGMA"] = (SKY_SIGMA[band], "nanomaggies a pixel")
        header["SATURATE"] = (SATURATION, "nanomaggies a pixel")
        header["MAGZERO"] = (22.5, "AB magnitude of 1 nanomaggy")
        for kind, planes, unit in (("", seen.flux, "nanomaggy"), ("-invvar", seen.ivar, "1/nanomaggy^2"),
                                   ("-mask", seen.mask, "")):
            header["BUNIT"] = unit
            path = stem.with_name(f"{stem.name}-{band}{kind}.fits")
            fits.PrimaryHDU(planes[i], header=header).writeto(path, overwrite=True)
