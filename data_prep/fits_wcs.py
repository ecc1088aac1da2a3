"""World coordinates of tiles: the cards that hold them, the full transform, and whether two grids are one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from sciencessl.data_prep.fits_headers import astropy_fits
from sciencessl.data_prep.sky import unit_vectors
from sciencessl.data_prep.sky_wcs import pixel_scale_deg, pixel_to_world
from sciencessl.errors import DataError

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from sciencessl.data_prep.sky_tiles import SkyTile

SAME_GRID_PX = 0.05
"""Grids whose corners and centre lie closer than this on the sky are one grid."""
_CARDS = re.compile(
    r"WCSAXES|(?:CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)\d+|(?:CD|PC)\d+_\d+|(?:PV|PS)\d+_\d+|LONPOLE|LATPOLE"
    r"|RADESYS|RADECSYS|EQUINOX|EPOCH|(?:A|B|AP|BP)_(?:ORDER|DMAX|\d+_\d+)|WAT\d_\d+"
    # Look-up tables: distortion papers of the WCS series (CPDIS, DP), and detector to image (D2IM).
    r"|(?:CPDIS|CQDIS|CPERR|CQERR|D2IMDIS|D2IMERR)\d+|(?:DP|DQ|D2IM)\d+(?:\..*)?|AXISCORR|D2IMEXT"
)
_LOOK_UP = re.compile(r"(?:CPDIS|CQDIS|D2IMDIS)\d+|D2IMEXT")


def wcs_cards(header: Any, axes: tuple[int, int]) -> str:
    """The cards of a header that its primary WCS is made of, one a line; empty where it names no axes.

    Args:
        header: An `astropy.io.fits.Header`, that of the table where the image is tile-compressed.
        axes: (H, W) of the image in pixels.
    """
    if not has_axes(header):
        return ""
    fits = astropy_fits("reading a WCS")
    size = [fits.Card("NAXIS", 2), fits.Card("NAXIS1", axes[1]), fits.Card("NAXIS2", axes[0])]
    cards = [card for card in header.cards if _CARDS.fullmatch(card.keyword)]
    return str(fits.Header([*size, *cards]).tostring(sep="\n", endcard=False, padding=False))


def has_axes(header: Any) -> bool:
    """Whether a header names world axes at all."""
    return bool(str(header.get("CTYPE1", "")).strip())


def needs_tables(header: Any) -> bool:
    """Whether the WCS reads look-up tables from other units of its file."""
    return any(_LOOK_UP.fullmatch(card.keyword) for card in header.cards) or any(
        str(header.get(f"CTYPE{axis}", "")).endswith("-TAB") for axis in (1, 2)
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what astropy says of old dialects of dates, units and SIP, which it then reads as they are meant."""
    from astropy import log

    level = log.level
    log.setLevel("ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def wcs_of(cards: str, path: str = "") -> WCS | None:
    """The two-dimensional celestial transform of some cards; None where they make none.

    Args:
        cards: From `wcs_cards`.
        path: File with its look-up tables; empty where it needs none.

    Raises:
        DataError: For a celestial frame that astropy does not know.
        Exception: Whatever cards that contradict themselves make astropy raise.
    """
    if not cards:
        return None
    fits = astropy_fits("reading a WCS")
    from astropy.wcs import WCS

    with _quiet():
        header = fits.Header.fromstring(cards, sep="\n")
        if path:
            with fits.open(path) as units:
                wcs = WCS(header, fobj=units, naxis=2)
        else:
            wcs = WCS(header, naxis=2)
        if not wcs.has_celestial:
            return None
        # Singular matrices and frames that nobody knows would otherwise come up at the first source.
        pixel_to_world(wcs, wcs.wcs.crpix[0], wcs.wcs.crpix[1])
    return wcs


def build_wcs(tile: SkyTile) -> WCS | None:
    """The full celestial WCS of a tile, distortions included; None without one.

    Its world coordinates are those of its own frame (see `wcs.wcs.radesys`), which for most surveys is ICRS.

    Raises:
        DataError: When the file that its look-up tables come from cannot be read any more.
    """
    try:
        return wcs_of(tile.header, tile.wcs_plane.path if tile.wcs_plane else "")
    except Exception as error:  # astropy raises anything for tables that are damaged
        raise DataError(
            f"tile {tile.id}: its WCS cannot be built ({type(error).__name__}: {error}); it could when the tiles were "
            "listed. Check whether its files changed."
        ) from error


def same_grid(first: WCS | None, second: WCS | None, shape: tuple[int, int]) -> bool:
    """Whether the corners and the centre of two images lie on the same places of the sky, to 0.05 pixel.

    Args:
        first: WCS of one image, or None; two images without WCS share their grid.
        second: WCS of the other.
        shape: (H, W) of both.
    """
    if first is None or second is None:
        return first is second
    height, width = shape
    x, y = np.array([[0, width - 1, 0, width - 1, width / 2], [0, 0, height - 1, height - 1, height / 2]])
    there = [unit_vectors(*pixel_to_world(wcs, x, y).T) for wcs in (first, second)]
    apart_arcsec = np.degrees(np.linalg.norm(there[0] - there[1], axis=1)) * 3600
    return bool(np.all(apart_arcsec < SAME_GRID_PX * pixel_scale_deg(first) * 3600))
