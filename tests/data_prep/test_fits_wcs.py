"""World coordinates of tiles: the cards kept are enough for the full transform, and equal grids are told."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep.fits_wcs import build_wcs, needs_tables, same_grid, wcs_cards, wcs_of
from sciencessl.data_prep.sky_tiles import Plane, SkyTile
from sciencessl.errors import DataError

fits = pytest.importorskip("astropy.io.fits")
from astropy.wcs import WCS  # noqa: E402

SHAPE = (80, 100)
PIXELS = np.array([[0.0, 0.0], [99.0, 0.0], [0.0, 79.0], [49.3, 40.7]])


def tan_header(ctype: str = "TAN", angle_deg: float = 30.0, crval: float = 150.0, **cards: float) -> Any:
    """A rotated WCS of 0.25 arcsec a pixel."""
    header = fits.Header()
    c, s = np.cos(np.radians(angle_deg)) * 0.25 / 3600, np.sin(np.radians(angle_deg)) * 0.25 / 3600
    header.update({"CTYPE1": f"RA---{ctype}", "CTYPE2": f"DEC--{ctype}", "CRVAL1": crval, "CRVAL2": 2.0})
    header.update({"CRPIX1": 50.5, "CRPIX2": 40.5, "CD1_1": -c, "CD1_2": s, "CD2_1": s, "CD2_2": c})
    header.update({"CUNIT1": "deg", "CUNIT2": "deg", **cards})
    return header


def sip_header() -> Any:
    cards = {"A_ORDER": 2, "A_2_0": 3e-5, "A_0_2": -2e-5, "B_ORDER": 2, "B_1_1": 4e-5}
    return tan_header("TAN-SIP", **cards)


def tpv_header() -> Any:
    return tan_header("TPV", PV1_0=1e-5, PV1_1=1.001, PV1_4=0.3, PV2_1=0.999, PV2_6=-0.2)


@pytest.mark.parametrize("header", [tan_header(), sip_header(), tpv_header()], ids=["tan", "sip", "tpv"])
def test_the_kept_cards_give_the_transform_of_the_whole_header(header: Any) -> None:
    full = header.copy()
    full["EXPTIME"], full["OBJECT"], full["HISTORY"] = 90.0, "M 51", "and much else"
    cards = wcs_cards(full, SHAPE)
    assert "EXPTIME" not in cards
    wcs = wcs_of(cards)
    assert wcs is not None
    np.testing.assert_array_equal(wcs.all_pix2world(PIXELS, 0), WCS(header).all_pix2world(PIXELS, 0))


def test_distortions_are_not_lost() -> None:
    plain = wcs_of(wcs_cards(tan_header(), SHAPE))
    assert plain is not None
    for header in (sip_header(), tpv_header()):
        bent = wcs_of(wcs_cards(header, SHAPE))
        assert not same_grid(plain, bent, SHAPE)


def test_headers_without_celestial_axes_make_no_wcs() -> None:
    assert wcs_cards(fits.Header(), SHAPE) == ""
    assert wcs_of("") is None
    linear = fits.Header({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"})
    assert wcs_of(wcs_cards(linear, SHAPE)) is None
    one = tan_header()
    del one["CTYPE2"]
    with pytest.raises(Exception, match="Unmatched celestial axes"):
        wcs_of(wcs_cards(one, SHAPE))


def test_axes_beyond_the_sky_are_dropped() -> None:
    header = tan_header()
    header.update({"WCSAXES": 4, "CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CTYPE4": "STOKES", "CRVAL4": 1.0})
    wcs = wcs_of(wcs_cards(header, SHAPE))
    assert wcs is not None
    np.testing.assert_allclose(wcs.all_pix2world(PIXELS, 0), WCS(tan_header()).all_pix2world(PIXELS, 0), atol=1e-12)


def test_old_dialects_are_read_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    header = tan_header(A_ORDER=2, A_2_0=3e-5, B_ORDER=2)  # coefficients of SIP under a CTYPE that does not say so
    header["RADECSYS"], header["DATE-OBS"] = "FK5", "27/09/00"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wcs_of(wcs_cards(header, SHAPE)) is not None
    assert capfd.readouterr() == ("", "")


def test_grids_are_one_when_their_corners_lie_within_a_twentieth_of_a_pixel() -> None:
    first = WCS(tan_header())
    assert same_grid(first, WCS(tan_header(crval=150.0 + 0.04 * 0.25 / 3600)), SHAPE)
    assert not same_grid(first, WCS(tan_header(crval=150.0 + 0.06 * 0.25 / 3600)), SHAPE)
    assert not same_grid(first, WCS(tan_header(angle_deg=30.1)), SHAPE)
    assert not same_grid(first, None, SHAPE)
    assert same_grid(None, None, SHAPE)


def test_grids_across_zero_right_ascension_and_at_the_pole_are_compared_on_the_sky() -> None:
    assert same_grid(WCS(tan_header(crval=0.0)), WCS(tan_header(crval=360.0 - 1e-7)), SHAPE)
    # At the pole a turn of the image is a shift in right ascension.
    north, turned = tan_header(angle_deg=30.0, crval=150.0), tan_header(angle_deg=50.0, crval=170.0)
    for header in (north, turned):
        header["CRVAL2"], header["LONPOLE"] = 90.0, 180.0
    assert same_grid(WCS(north), WCS(turned), SHAPE)
    turned["CRVAL1"] = 130.0
    assert not same_grid(WCS(north), WCS(turned), SHAPE)


def look_up_file(path: Path, shift_px: float) -> Any:
    """An image whose look-up table (CPDIS) shifts every x by a constant."""
    unit = fits.ImageHDU(np.zeros(SHAPE, np.float32), header=tan_header(), name="SCI")
    tables = []
    for axis, value in ((1, shift_px), (2, 0.0)):
        unit.header[f"CPDIS{axis}"] = "LOOKUP"
        for record in (f"EXTVER: {axis}", "NAXES: 2", "AXIS.1: 1", "AXIS.2: 2"):
            unit.header.append(fits.Card(f"DP{axis}", record))
        tables.append(fits.ImageHDU(np.full((2, 2), value, np.float32), name="WCSDVARR", ver=axis))
        tables[-1].header.update({"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0})
        tables[-1].header.update({"CDELT1": 120.0, "CDELT2": 120.0})
    fits.HDUList([fits.PrimaryHDU(), unit, *tables]).writeto(path)
    return unit.header


def test_look_up_tables_come_from_the_file_of_the_tile(tmp_path: Path) -> None:
    header = look_up_file(tmp_path / "a.fits", 2.5)
    assert needs_tables(header)
    assert not needs_tables(sip_header())
    tile = SkyTile("a", SHAPE, {}, wcs_cards(header, SHAPE), Plane(str(tmp_path / "a.fits"), 1))
    assert tile.wcs is not None
    shifted = WCS(tan_header()).all_pix2world(PIXELS + np.array([2.5, 0.0]), 0)
    np.testing.assert_allclose(tile.wcs.all_pix2world(PIXELS, 0), shifted, atol=1e-11)
    copy = pickle.loads(pickle.dumps(tile))
    np.testing.assert_array_equal(copy.wcs.all_pix2world(PIXELS, 0), tile.wcs.all_pix2world(PIXELS, 0))


def test_a_look_up_file_that_is_gone_is_an_error_that_names_the_tile(tmp_path: Path) -> None:
    header = look_up_file(tmp_path / "a.fits", 2.5)
    (tmp_path / "a.fits").unlink()
    tile = SkyTile("field-7", SHAPE, {}, wcs_cards(header, SHAPE), Plane(str(tmp_path / "a.fits"), 1))
    with pytest.raises(DataError, match=r"tile field-7: its WCS cannot be built .*Check whether its files changed"):
        build_wcs(tile)


def test_a_tile_without_cards_has_no_wcs() -> None:
    assert build_wcs(SkyTile("a", SHAPE, {})) is None
