"""Tiles with one pixel grid each and the WCS that surveys have: TAN, SIP, TPV, look-up tables, other frames."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from sciencessl.data_prep.sky_tiles import SkyTile

SHAPE = (400, 520)
ARCSEC = 0.262
DISTORTIONS = ("TAN", "SIP", "TPV")


def header_of(kind: str = "TAN", ra: float = 150.1, dec: float = 2.2, turn: float = 20.0, **cards: Any) -> Any:
    """Cards of a WCS around a place. SIP and TPV bend corners by tens of pixels, more than any survey's do."""
    from astropy.io.fits import Header

    angle, scale = np.radians(turn), ARCSEC / 3600
    head = Header()
    head.update(
        CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=ra, CRVAL2=dec, CRPIX1=250.5, CRPIX2=210.0, CUNIT1="deg",
        CUNIT2="deg", CD1_1=-scale * np.cos(angle), CD1_2=scale * np.sin(angle), CD2_1=scale * np.sin(angle),
        CD2_2=scale * np.cos(angle), RADESYS="ICRS",
    )
    if kind == "SIP":
        head.update(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", A_ORDER=3, B_ORDER=3, A_2_0=2e-5, A_1_1=-1e-5)
        head.update(A_0_2=1e-5, B_2_0=-1e-5, B_0_2=2e-5, A_3_0=4e-8, B_0_3=-4e-8)
    if kind == "TPV":
        head.update(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", PV1_0=0.0, PV1_1=1.0, PV1_2=0.0, PV1_4=0.3, PV1_7=20.0)
        head.update(PV2_0=0.0, PV2_1=1.0, PV2_2=0.0, PV2_4=-0.2, PV2_7=-10.0)
    head.update(cards)
    return head


def wcs_of(kind: str = "TAN", **given: Any) -> Any:
    """The WCS of `header_of`."""
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(header_of(kind, **given))


def bent_by_tables(size_px: float = 3.0) -> Any:
    """A TAN WCS whose pixels are moved by look-up tables, as CPDIS does."""
    from astropy.wcs import DistortionLookupTable

    wcs = wcs_of()
    waves = np.sin(np.linspace(0, 3, 9))[:, None] * np.cos(np.linspace(0, 2, 11))[None]
    table = np.asarray(size_px * waves, dtype=np.float32)
    step = (SHAPE[1] / 10, SHAPE[0] / 8)
    wcs.cpdis1 = DistortionLookupTable(table, (1.0, 1.0), (1.0, 1.0), step)
    wcs.cpdis2 = DistortionLookupTable(-table, (1.0, 1.0), (1.0, 1.0), step)
    return wcs


def tile_of(wcs: Any, name: str = "tile", shape: tuple[int, int] = SHAPE) -> SkyTile:
    """A tile without files that has a WCS."""
    tile = SkyTile(name, shape, {})
    tile.__dict__["wcs"] = wcs
    return tile
