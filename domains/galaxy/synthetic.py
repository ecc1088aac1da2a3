"""A small synthetic survey on disk: sky tiles with a WCS, RGB stamps, and a catalogue with drawn votes."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from sciencessl.domains.galaxy.morphology import BANDS, BOX, CLASSES, Galaxies, answer_fractions, draw_galaxies, render
from sciencessl.domains.galaxy.schema import load_schema
from sciencessl.domains.galaxy.votes import simulate_votes
from sciencessl.errors import ConfigError
from sciencessl.views.stretch import legacy_stretch

if TYPE_CHECKING:
    from astropy.wcs import WCS

PIXEL_SCALE = 0.396
"""Arcseconds a pixel, as in SDSS imaging."""

STAMP = 72
"""Side of a stamp in pixels."""

_SPACING = 64  # less than BOX: wings overlap a little, as on the sky
_MARGIN = 44  # a stamp or a rendering box around a galaxy of the outermost cell stays on the tile
_PER_TILE = 400
_PSF_FWHM = {"g": 1.25, "r": 1.15, "z": 1.05}
_SKY_SIGMA = {"g": 0.006, "r": 0.010, "z": 0.018}
_GAIN = 400.0  # photo-electrons a nanomaggy


def synthetic_survey(folder: Path, rng: np.random.Generator, n: int) -> Path:
    """Write a survey of N synthetic galaxies: a few sky tiles, a stamp of each galaxy, a catalogue.

    Files: `tiles/tile-TTT-BAND.fits` (float32 nanomaggies a pixel, TAN WCS, in g, r and z), `stamps/ID.jpg` (72 px
    RGB cut from the tiles), `catalogue.csv` (id_str, file, ra and dec in degrees, mag_r, class, and gzd5 vote counts
    drawn down the tree with 20 to 40 volunteers a galaxy). Every galaxy lies on exactly one tile. The same generator
    state writes the same bytes.

    Args:
        folder: Where to write; made if missing. Give a new one: files of an earlier call would stay.
        rng: Source of all draws.
        n: Number of galaxies, 1 or more; classes are as equal in number as N allows.

    Returns:
        The folder, a source for `prepare galaxy`.

    Raises:
        ConfigError: For n below 1.
    """
    if n < 1:
        raise ConfigError(f"synthetic survey: n must be 1 or more, got {n}.")
    for name in ("tiles", "stamps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    galaxies = draw_galaxies(n, rng)
    schema = load_schema("gzd5")
    fractions = answer_fractions(galaxies, schema, rng)
    votes = simulate_votes(schema, fractions, rng.integers(20, 41, size=n), rng)
    names = [f"syn{i:06d}" for i in rng.choice(1_000_000, size=n, replace=False)]
    sky = np.concatenate([
        _write_tile(folder, number, galaxies.take(rows), [names[row] for row in rows], wcs, rng)
        for number, (rows, wcs) in enumerate(zip(_deal(n), _tile_wcs(n, rng), strict=True))
    ])
    with (folder / "catalogue.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id_str", "file", "ra", "dec", "mag_r", "class", *schema.columns])
        for i, name in enumerate(names):
            mag_r = 22.5 - 2.5 * math.log10(galaxies.flux[i, 1])
            known = [name, f"stamps/{name}.jpg", f"{sky[i, 0]:.7f}", f"{sky[i, 1]:.7f}", f"{mag_r:.3f}"]
            writer.writerow([*known, CLASSES[galaxies.kind[i]], *votes[i].tolist()])
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


def _deal(n: int) -> list[np.ndarray]:
    """Rows of each tile: at least two tiles once there are galaxies enough, so that a tile can be held out."""
    return np.array_split(np.arange(n), max(math.ceil(n / _PER_TILE), min(2, n)))


def _side(n: int) -> int:
    return math.ceil(math.sqrt(max(len(rows) for rows in _deal(n))))


def _tile_wcs(n: int, rng: np.random.Generator) -> list[WCS]:
    """One tangent-plane WCS a tile: side by side in right ascension with a gap, each turned by up to 5 degrees."""
    from astropy.wcs import WCS

    size = _side(n) * _SPACING + 2 * _MARGIN
    ra, dec = rng.uniform(20.0, 330.0), rng.uniform(-30.0, 30.0)
    step = 1.3 * size * PIXEL_SCALE / 3600 / math.cos(math.radians(dec))
    tiles = []
    for number in range(len(_deal(n))):
        turn = math.radians(rng.uniform(-5.0, 5.0))
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [ra + number * step, dec]
        wcs.wcs.crpix = [(size + 1) / 2, (size + 1) / 2]
        turned = np.array([[-math.cos(turn), math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        wcs.wcs.cd = PIXEL_SCALE / 3600 * turned
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.pixel_shape = (size, size)
        tiles.append(wcs)
    return tiles


def _write_tile(
    folder: Path, number: int, galaxies: Galaxies, names: list[str], wcs: WCS, rng: np.random.Generator
) -> np.ndarray:
    size = int(wcs.pixel_shape[0])
    positions = _positions(len(galaxies), (size - 2 * _MARGIN) // _SPACING, rng)
    tile = _observe(_paste(galaxies, positions, size, rng) + _field_objects(size, rng), rng)
    for name, (x, y) in zip(names, np.rint(positions).astype(int), strict=True):
        low_x, low_y = x - STAMP // 2, y - STAMP // 2
        stamp = rgb(tile[:, low_y : low_y + STAMP, low_x : low_x + STAMP])
        # Image files count rows from the top, FITS from the bottom: flip, so that both show the same handedness.
        Image.fromarray(stamp[::-1]).save(folder / "stamps" / f"{name}.jpg", quality=95)
    for band, plane in zip(BANDS, tile, strict=True):
        _write_fits(folder / "tiles" / f"tile-{number:03d}-{band}.fits", plane, wcs, band)
    sky: np.ndarray = wcs.all_pix2world(positions, 0)
    return sky


def _positions(n: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) x and y, 0-based pixels: cells of a grid in random order, off their middle by up to 4 px."""
    cells = rng.permutation(side * side)[:n]
    middle = np.stack([cells % side, cells // side], axis=1) * _SPACING + _MARGIN + _SPACING / 2
    positions: np.ndarray = middle + rng.uniform(-4.0, 4.0, size=(n, 2))
    return positions


def _paste(galaxies: Galaxies, positions: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    tile = np.zeros((len(BANDS), size, size), dtype=np.float32)
    corners = np.rint(positions).astype(int) - BOX // 2
    for first in range(0, len(galaxies), 64):
        rows = np.arange(first, min(first + 64, len(galaxies)))
        boxes = render(galaxies.take(rows), positions[rows] - corners[rows], rng)
        for box, (x, y) in zip(boxes, corners[rows], strict=True):
            tile[:, y : y + BOX, x : x + BOX] += box
    return tile


def _field_objects(size: int, rng: np.random.Generator) -> np.ndarray:
    """Faint points (stars, distant galaxies) at random places, 3 in 10,000 pixels."""
    field = np.zeros((len(BANDS), size, size), dtype=np.float32)
    n = rng.poisson(3e-4 * size * size)
    x, y = rng.integers(0, size, size=(2, n))
    brightness = 10 ** rng.uniform(-0.8, 1.0, size=n)
    slope = rng.normal(0.6, 0.3, size=n)
    colours = np.exp(np.array([[-1.0], [0.0], [0.8]]) * slope)
    for band in range(len(BANDS)):
        np.add.at(field[band], (y, x), (brightness * colours[band]).astype(np.float32))
    return field


def _observe(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = np.empty_like(tile)
    for i, band in enumerate(BANDS):
        seen = gaussian_filter(tile[i], _PSF_FWHM[band] / PIXEL_SCALE / 2.3548)
        noise = np.sqrt(_SKY_SIGMA[band] ** 2 + np.maximum(seen, 0) / _GAIN)
        out[i] = seen + noise * rng.standard_normal(seen.shape, dtype=np.float32)
    return out


def _write_fits(path: Path, plane: np.ndarray, wcs: WCS, band: str) -> None:
    from astropy.io import fits

    header: Any = wcs.to_header()
    header["FILTER"] = band
    header["BUNIT"] = "nanomaggy"
    header["MAGZERO"] = (22.5, "AB magnitude of 1 nanomaggy")
    header["PSFFWHM"] = (_PSF_FWHM[band], "arcsec")
    header["SKYSIGMA"] = (_SKY_SIGMA[band], "nanomaggies a pixel")
    fits.PrimaryHDU(plane, header=header).writeto(path, overwrite=True)
