"""Tiles found among FITS files: bands, masks and weights that belong together, and all that is refused or said."""

from __future__ import annotations

import bz2
import gzip
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep.fits_inventory import psf_fwhm
from sciencessl.data_prep.fits_planes import Planes, read_plane
from sciencessl.data_prep.fits_tiles import FoundTiles, find_tiles
from sciencessl.data_prep.listing import FileRef, file_ref, list_sources
from sciencessl.data_prep.sky_tiles import SkyTile
from sciencessl.errors import ConfigError, DataError

fits = pytest.importorskip("astropy.io.fits")
SHAPE = (40, 50)


def wcs_header(ra: float = 150.0, **cards: Any) -> Any:
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": 2.0})
    header.update({"CRPIX1": 25.5, "CRPIX2": 20.5, "CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4})
    header.update(cards)
    return header


def image(value: float = 1.0, shape: tuple[int, ...] = SHAPE, name: str = "", ra: float = 150.0, **cards: Any) -> Any:
    values = np.full(shape, value, np.float32)
    return fits.ImageHDU(values, header=wcs_header(ra, **cards), name=name or None)


def write(path: Path, *units: Any, **primary: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(primary)), *units]).writeto(path)


def find(folder: Path, bands: tuple[str, ...] = (), pattern: str = "") -> FoundTiles:
    return find_tiles(list_sources([folder]).files, bands, pattern)


def only(found: FoundTiles) -> SkyTile:
    (tile,) = found.tiles
    return tile


def test_bands_of_one_name_are_one_tile_in_order_of_wavelength(tmp_path: Path) -> None:
    for band in ("z", "g", "r"):
        write(tmp_path / f"tile-000-{band}.fits", image(BUNIT="nanomaggy", PSFFWHM=1.25))
    tile = only(find(tmp_path))
    assert (tile.id, tile.shape, list(tile.bands)) == ("tile-000", SHAPE, ["g", "r", "z"])
    assert (tile.bands["g"].unit, tile.bands["g"].psf_fwhm_arcsec) == ("nanomaggy", 1.25)
    assert tile.bands["g"].mask is None
    status = (tmp_path / "tile-000-g.fits").stat()
    assert tile.files["tile-000-g.fits"] == (status.st_size, status.st_mtime_ns)
    assert len(tile.files) == 3
    assert tile.wcs is not None
    np.testing.assert_allclose(tile.wcs.all_pix2world([[24.5, 19.5]], 0), [[150.0, 2.0]], atol=1e-12)


def test_the_first_word_of_filter_names_the_band_in_the_unit_or_the_first_header(tmp_path: Path) -> None:
    write(tmp_path / "a.fits", image(FILTER="z DECam SDSS c0004 9260.0 1520.0"))
    write(tmp_path / "b.fits", image(), BAND="HSC-I")
    write(tmp_path / "c.fits", image(FILTER1="CLEAR1L", FILTER2="F814W"))
    write(tmp_path / "d.fits", image(BAND=1))
    assert [list(tile.bands) for tile in find(tmp_path).tiles] == [["z"], ["HSC-I"], ["F814W"], ["band0"]]
    (tmp_path / "a.fits").rename(tmp_path / "alone.fits")
    assert list(find_tiles({"d.fits": file_ref(tmp_path / "d.fits")}, ["halpha"]).tiles[0].bands) == ["halpha"]


def test_image_mask_and_weight_in_files_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "brick-7-image-g.fits", image())
    write(tmp_path / "brick-7-invvar-g.fits", image())
    write(tmp_path / "brick-7-image-r.fits", image())
    write(tmp_path / "brick-7-maskbits.fits", fits.ImageHDU(np.zeros(SHAPE, np.int32)))
    found = find(tmp_path)
    tile = only(found)
    g, r = tile.bands["g"], tile.bands["r"]
    assert g.weight is not None
    assert g.weight.kind == "ivar"
    assert r.weight is None
    # A mask that names no band serves all of them.
    assert g.mask is not None
    assert g.mask == r.mask
    assert len(tile.files) == 4
    assert (found.refused, found.said) == ((), ())


def test_units_of_one_file_are_told_by_their_names(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.zeros(3))], name="WCSCORR")
    units = [image(name="IMAGE"), image(name="MASK"), image(name="VARIANCE"), image(name="ARCHIVE"), table]
    write(tmp_path / "calexp-HSC-I-9813-4,4.fits", *units, FILTER="HSC-I")
    found = find(tmp_path)
    tile = only(found)
    band = tile.bands["HSC-I"]
    assert tile.id == "calexp-9813-4,4"
    assert band.mask is not None
    assert band.weight is not None
    assert [(plane.hdu, plane.kind) for plane in band.planes] == [(1, "image"), (2, "mask"), (3, "variance")]
    sentence = "calexp-HSC-I-9813-4,4.fits[ARCHIVE] left out: neither image, mask nor weight by name."
    assert found.said == (sentence,)


def test_variance_and_sigma_come_before_weight_maps(tmp_path: Path) -> None:
    # A drizzled weight map may hold exposure times, so that errors beside it are the better weights.
    write(tmp_path / "a.fits", image(name="SCI"), image(name="WHT"), image(name="ERR"))
    weight = only(find(tmp_path)).bands["band0"].weight
    assert weight is not None
    assert (weight.kind, weight.hdu) == ("sigma", 3)


def test_detectors_of_one_file_are_tiles_of_their_own(tmp_path: Path) -> None:
    for kind in ("ooi", "ood"):
        units = [image(name=name, ra=150.0 + i) for i, name in enumerate(("N12", "S3"))]
        write(tmp_path / f"c4d_1_{kind}_z.fits", *units)
    units = [image(name="SCI", ra=1.0), image(name="ERR"), image(name="SCI", ra=2.0), image(name="ERR")]
    units[2].ver = units[3].ver = 2
    write(tmp_path / "hst.fits", *units)
    found = find(tmp_path)
    assert [tile.id for tile in found.tiles] == ["c4d_1.N12", "c4d_1.S3", "hst.1", "hst.2"]
    assert [tile.bands[next(iter(tile.bands))].image.hdu for tile in found.tiles] == [1, 2, 1, 3]
    for tile in found.tiles[:2]:
        assert tile.bands["z"].mask is not None
    weights = [tile.bands["band0"].weight for tile in found.tiles[2:]]
    assert [weight.hdu for weight in weights if weight is not None] == [2, 4]


@pytest.mark.parametrize(
    ("cards", "bands", "expected"),
    [
        ({}, (), ["band0", "band1", "band2"]),
        ({}, ("g", "r", "z"), ["g", "r", "z"]),
        ({"BANDS": "grz"}, (), ["g", "r", "z"]),
        ({"BANDS": "grz"}, ("r", "g"), ["r", "g", "z"]),  # two of three are asked for, and the header names them
        ({"BANDS": "grz"}, ("z", "r", "g"), ["z", "r", "g"]),  # asked for in another order than the layers have
        ({"BAND0": "u", "BAND1": "g", "BAND2": "r"}, (), ["u", "g", "r"]),
        ({"FILTER1": "u", "FILTER2": "g", "FILTER3": "r"}, (), ["u", "g", "r"]),
    ],
)
def test_layers_of_a_cube_are_bands(tmp_path: Path, cards: dict[str, str], bands: Any, expected: list[str]) -> None:
    cube = np.stack([np.full(SHAPE, i, np.float32) for i in range(3)])
    write(tmp_path / "a.fits", fits.ImageHDU(cube, header=wcs_header(**cards), name="SCI"),
          fits.ImageHDU(cube.astype(np.uint8), name="DQ"))  # fmt: skip
    tile = only(find(tmp_path, bands))
    assert list(tile.bands) == expected
    for band in tile.bands.values():
        assert band.mask is not None
        assert read_plane(band.image)[0, 0] == read_plane(band.mask)[0, 0] == band.image.layer
    named = cards.get("BANDS")
    layers = {name: band.image.layer for name, band in tile.bands.items()}
    assert layers == {name: (named.index(name) if named else i) for i, name in enumerate(expected)}


def test_layers_of_a_mask_serve_bands_in_files_of_their_own(tmp_path: Path) -> None:
    for band in "gr":
        write(tmp_path / f"a-{band}.fits", image())
    write(tmp_path / "a-mask.fits", fits.ImageHDU(np.zeros((2, *SHAPE), np.uint8)))
    tile = only(find(tmp_path, ("r", "g")))
    layers = {name: band.mask.layer for name, band in tile.bands.items() if band.mask is not None}
    assert layers == {"r": 0, "g": 1}


def test_a_cube_of_another_number_of_layers_than_bands_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.fits", image(shape=(3, *SHAPE)))
    (refused,) = find(tmp_path, ("g", "r")).refused
    assert (refused.id, refused.reason) == ("a.fits", "shape")
    assert refused.detail == "HDU 1 has 3 layers without names, and 2 bands were named"


def test_packed_files_are_found_like_plain_ones(tmp_path: Path) -> None:
    write(tmp_path / "x-g.fits", image())
    raw = (tmp_path / "x-g.fits").read_bytes()
    (tmp_path / "x-r.fits.gz").write_bytes(gzip.compress(raw))
    (tmp_path / "x-i.fits.bz2").write_bytes(bz2.compress(raw))
    packed = fits.CompImageHDU(np.ones(SHAPE, np.float32), header=wcs_header())
    write(tmp_path / "x-z.fits.fz", packed)
    tile = only(find(tmp_path))
    assert list(tile.bands) == ["g", "r", "i", "z"]
    assert tile.shape == SHAPE
    for band in tile.bands.values():
        np.testing.assert_array_equal(read_plane(band.image), np.ones(SHAPE))


def test_two_files_of_the_same_plane_are_an_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path / "a/tile-1-g.fits", image())
    write(tmp_path / "b/tile-1-g.fits", image())
    with pytest.raises(DataError, match=r"a/tile-1-g\.fits and b/tile-1-g\.fits both hold the image of tile 'tile-1', "
                                        r"band 'g'\. Leave one out, or say how files are named with a pattern"):
        find(tmp_path)
    tiles = find(tmp_path, pattern="{tile}/tile-1-{band}.fits").tiles
    assert [tile.id for tile in tiles] == ["a", "b"]


def test_file_names_win_where_headers_name_one_filter_for_all(tmp_path: Path) -> None:
    for band in "gri":
        write(tmp_path / f"field_{band}.fits", image(FILTER="g"))
    found = find(tmp_path)
    assert list(only(found).bands) == ["g", "r", "i"]
    assert found.said == ("tile field took its bands from file names: its headers name one filter for several.",)


def test_a_pattern_overrides_guessing_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    write(tmp_path / "c4d_7_ooi_z_ls9.fits", image(FILTER="g"))
    write(tmp_path / "c4d_7_oow_z_ls9.fits", image())
    write(tmp_path / "c4d_7_oox_z_ls9.fits", image())
    write(tmp_path / "other.fits", image())
    found = find(tmp_path, pattern="c4d_{tile}_oo{kind}_{band}_ls9.fits")
    tile = only(found)
    assert (tile.id, list(tile.bands)) == ("7", ["z"])
    assert tile.bands["z"].weight is not None
    (said,) = found.said
    assert said.startswith("c4d_7_oox_z_ls9.fits, other.fits left out: not named as the pattern")
    with pytest.raises(ConfigError, match=r"has no \{tile\}"):
        find(tmp_path, pattern="{band}.fits")


def test_bands_of_another_shape_or_grid_are_tiles_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "t-g.fits", image())
    write(tmp_path / "t-r.fits", image(ra=150.0 + 0.04e-4))  # 0.04 pixel, less than the tolerance
    write(tmp_path / "t-i.fits", image(ra=150.0 + 1e-4))
    write(tmp_path / "t-z.fits", image(shape=(80, 100)))
    found = find(tmp_path)
    assert {tile.id: list(tile.bands) for tile in found.tiles} == {"t": ["g", "r"], "t.i": ["i"], "t.z": ["z"]}
    assert found.apart == {"t": ("t", "t.i", "t.z")}
    assert found.said == (
        "tile t taken apart, since its bands do not share one grid: t 50 x 40 px; t.i 50 x 40 px; t.z 100 x 80 px.",
    )


def test_two_bands_on_two_grids_share_no_name(tmp_path: Path) -> None:
    write(tmp_path / "t-g.fits", image())
    write(tmp_path / "t-r.fits", image(shape=(80, 100)))
    assert [tile.id for tile in find(tmp_path).tiles] == ["t.g", "t.r"]


def test_a_rotated_wcs_is_a_wcs(tmp_path: Path) -> None:
    write(tmp_path / "t.fits", image(CD1_1=-6e-5, CD1_2=8e-5, CD2_1=8e-5, CD2_2=6e-5))
    wcs = only(find(tmp_path)).wcs
    assert wcs is not None
    ra, dec = wcs.all_pix2world([[25.5, 19.5]], 0)[0]
    assert ra == pytest.approx(150.0 - 6e-5 / np.cos(np.radians(2.0)), abs=1e-9)
    assert dec == pytest.approx(2.0 + 8e-5, abs=1e-9)


def test_tiles_without_a_wcs_take_pixel_positions_and_say_so(tmp_path: Path) -> None:
    half = image()
    del half.header["CTYPE2"]
    none = image()
    del none.header["CTYPE1"], none.header["CTYPE2"]
    singular = image(CD1_1=0.0, CD2_2=0.0)
    write(tmp_path / "solar.fits", image(CTYPE1="HPLN-TAN", CTYPE2="HPLT-TAN"))
    write(tmp_path / "none-g.fits", none)
    write(tmp_path / "none-r.fits", fits.ImageHDU(np.zeros(SHAPE)))
    write(tmp_path / "half.fits", half)
    write(tmp_path / "singular.fits", singular)
    found = find(tmp_path)
    assert [(tile.id, tile.header, tile.wcs, len(tile.bands)) for tile in found.tiles] == [
        ("half", "", None, 1), ("none", "", None, 2), ("singular", "", None, 1),
        ("solar", "", None, 1),
    ]  # fmt: skip
    assert found.refused == ()
    assert any(said.startswith("none-g.fits, none-r.fits can be used by pixel positions only: no celestial WCS")
               for said in found.said)  # fmt: skip
    reasons = "\n".join(found.said)
    unread = "can be used by pixel positions only: the WCS cannot be read"
    assert f"half.fits {unread} (Unmatched celestial axes)." in reasons
    assert re.search(rf"singular.fits {unread} \(Linear transformation matrix is singular", reasons)
    assert re.search(rf"solar.fits {unread} \(.*axes HPLN-TAN, HPLT-TAN, which are no celestial frame", reasons)


def test_an_extension_takes_the_wcs_of_an_empty_first_unit(tmp_path: Path) -> None:
    write(tmp_path / "a.fits", fits.ImageHDU(np.zeros(SHAPE)), **dict(wcs_header()))
    assert only(find(tmp_path)).wcs is not None


def test_a_look_up_table_is_read_from_the_file_of_the_tile(tmp_path: Path) -> None:
    unit, tables = image(name="SCI"), []
    for axis in (1, 2):
        unit.header[f"CPDIS{axis}"] = "LOOKUP"
        for record in (f"EXTVER: {axis}", "NAXES: 2", "AXIS.1: 1", "AXIS.2: 2"):
            unit.header.append(fits.Card(f"DP{axis}", record))
        table = fits.ImageHDU(np.full((2, 2), 3.0, np.float32), name="WCSDVARR", ver=axis)
        table.header.update({f"{key}{i}": 1.0 for key in ("CRPIX", "CRVAL") for i in (1, 2)})
        table.header.update({"CDELT1": 60.0, "CDELT2": 60.0})
        tables.append(table)
    write(tmp_path / "a.fits", unit, *tables)
    tile = only(find(tmp_path))
    assert tile.wcs_plane == tile.bands["band0"].image
    assert tile.wcs is not None
    np.testing.assert_allclose(tile.wcs.all_pix2world([[21.5, 16.5]], 0), [[150.0, 2.0]], atol=1e-9)


def test_bad_files_are_refused_with_a_reason_each_and_the_rest_is_found(tmp_path: Path) -> None:
    write(tmp_path / "good.fits", image())
    raw = (tmp_path / "good.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(raw[:9000])
    (tmp_path / "header.fits").write_bytes(raw[:1000])
    (tmp_path / "gz.fits.gz").write_bytes(gzip.compress(raw)[:-30])
    (tmp_path / "page.fits").write_bytes(b"<!doctype html>" * 300)
    (tmp_path / "nothing.fits").write_bytes(b"")
    (tmp_path / "link.fits").symlink_to(tmp_path / "gone")
    write(tmp_path / "table.fits", fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.zeros(3))]))
    write(tmp_path / "zero.fits", fits.ImageHDU(np.zeros((0, 50), np.float32)))
    write(tmp_path / "line.fits", fits.ImageHDU(np.zeros(50, np.float32)))
    write(tmp_path / "many.fits", fits.ImageHDU(np.zeros((2, 2, 4, 5), np.float32)))
    found = find(tmp_path)
    assert only(found).id == "good"
    assert {refused.id: refused.reason for refused in found.refused} == {
        "cut.fits": "truncated", "header.fits": "truncated", "gz.fits.gz": "truncated", "page.fits": "corrupt",
        "nothing.fits": "truncated", "link.fits": "missing-file", "table.fits": "not-an-image",
        "zero.fits": "empty-image", "line.fits": "not-an-image", "many.fits": "shape",
    }  # fmt: skip
    details = {refused.id: refused.detail for refused in found.refused}
    assert details["zero.fits"] == "HDU 1 is 50 x 0 px"
    assert details["page.fits"] == "no FITS file: it begins with b'<!doctype', expected b'SIMPLE  ='"


def test_an_empty_unit_beside_a_good_one_is_a_row_and_the_good_one_is_used(tmp_path: Path) -> None:
    write(tmp_path / "a.fits", image(name="SCI"), fits.ImageHDU(np.zeros((0, 50), np.uint8), name="DQ"))
    found = find(tmp_path)
    assert only(found).bands["band0"].mask is None
    assert [(refused.id, refused.reason) for refused in found.refused] == [("a.fits", "empty-image")]


def test_members_of_archives_are_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "a.fits", image())
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "a.fits", "a.fits")
    found = find_tiles({"a.fits": FileRef(str(tmp_path / "x.zip"), "a.fits", 1, 1)})
    (refused,) = found.refused
    assert (refused.reason, refused.detail.split(";")[1].split()[0]) == ("in-archive", "unpack")


def test_a_mask_of_another_shape_is_refused_and_a_mask_without_image_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.fits", image())
    write(tmp_path / "a_mask.fits", image(shape=(41, 50)))
    write(tmp_path / "b_mask.fits", image())
    found = find(tmp_path)
    assert only(found).bands["band0"].mask is None
    details = [(refused.id, refused.reason, refused.detail) for refused in found.refused]
    assert details == [("a_mask.fits", "shape", "the mask is 50 x 41 px, its image a.fits 50 x 40 px")]
    assert found.said == ("a_mask.fits, b_mask.fits left out: mask or weights that no image takes.",)


def test_blocks_of_nan_are_read_as_they_are(tmp_path: Path) -> None:
    values = np.ones(SHAPE, np.float32)
    values[10:20, 5:15] = np.nan
    write(tmp_path / "a.fits", fits.CompImageHDU(values, header=wcs_header()))
    plane = only(find(tmp_path)).bands["band0"].image
    np.testing.assert_array_equal(np.isnan(read_plane(plane)), np.isnan(values))


@pytest.mark.parametrize(
    ("key", "value", "comment", "expected"),
    [
        ("FWHM", 3.26, "Median FWHM in pixels", 3.26 * 0.36),
        ("FWHM", 0.9, "[arcsec] of stars", 0.9),
        ("FWHM", 3.26, "", None),  # pixels or arcsec: nobody knows
        ("SEEING", 0.8, "", 0.8),
        ("PSFFWHM", 1.3, "", 1.3),
        ("PSF_FWHM", 2.0, "pixels", 0.72),
        ("SEEING", "NaN", "", None),
        ("SEEING", -1.0, "", None),
        ("DIMMSEE", 0.7, "[arcsec] DIMM Seeing", None),  # of the site, not of the image
    ],
)
def test_the_psf_width_is_taken_where_its_unit_is_certain(
    tmp_path: Path, key: str, value: Any, comment: str, expected: float | None
) -> None:
    unit = image()
    unit.header[key] = (value, comment)
    write(tmp_path / "a.fits", unit)
    width = only(find(tmp_path)).bands["band0"].psf_fwhm_arcsec
    assert width == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_a_width_in_pixels_needs_a_scale(tmp_path: Path) -> None:
    unit = fits.ImageHDU(np.zeros(SHAPE))
    unit.header["FWHM"] = (3.0, "pixels")
    assert psf_fwhm([unit.header]) == (3.0, "px")
    write(tmp_path / "a.fits", unit)
    assert only(find(tmp_path)).bands["band0"].psf_fwhm_arcsec is None


def test_no_pixel_is_read_to_find_tiles(tmp_path: Path) -> None:
    # 40 GB of pixels that were never written: reading them would take longer than any test.
    header = fits.PrimaryHDU(header=wcs_header()).header
    header.update({"BITPIX": -32, "NAXIS": 2})
    header.insert("NAXIS", ("NAXIS2", 100_000), after=True)
    header.insert("NAXIS", ("NAXIS1", 100_000), after=True)
    with open(tmp_path / "huge.fits", "wb") as file:
        file.write(header.tostring().encode())
        file.truncate(file.tell() + 4 * 100_000**2)
    tile = only(find(tmp_path))
    assert tile.shape == (100_000, 100_000)
    with Planes() as planes:
        pixels = planes.windows(tile.bands["band0"].image, 10**6, 64)
        np.testing.assert_array_equal(pixels[99_936:, 99_936:], np.zeros((64, 64)))


def test_decam_triplets(shared_data: Path) -> None:
    found = find(shared_data / "galaxy" / "legacypipe_ccds" / "testcase3" / "images")
    assert len(found.tiles) == 8
    assert (found.refused, found.said, found.apart) == ((), (), {})
    tile = found.tiles[0]
    assert (tile.id, tile.shape, list(tile.bands)) == ("c4d_140818_232043_ls9.N12", (51, 41), ["z"])
    band = tile.bands["z"]
    assert band.mask is not None
    assert band.weight is not None
    assert [plane.kind for plane in band.planes] == ["image", "mask", "ivar"]
    assert "_ooi_" in band.image.path
    assert "_ood_" in band.mask.path
    assert "_oow_" in band.weight.path
    assert band.psf_fwhm_arcsec == pytest.approx(3.260759 * 0.2623, rel=1e-3)
    with fits.open(band.image.path) as units:
        from astropy.wcs import WCS

        corner = WCS(units[1].header).all_pix2world([[40.0, 50.0]], 0)
        np.testing.assert_array_equal(read_plane(band.image), units[1].data)
    assert "PV1_10" in tile.header
    assert tile.wcs is not None
    np.testing.assert_array_equal(tile.wcs.all_pix2world([[40.0, 50.0]], 0), corner)
    assert read_plane(band.mask).dtype == np.int32
    assert (read_plane(band.weight) >= 0).all()


def test_sdss_fields_are_one_tile_whose_bands_come_from_file_names(shared_data: Path) -> None:
    found = find(shared_data / "galaxy" / "fits_sdss_gri")
    tile = only(found)
    # The headers of the reprojected fields all say FILTER = 'g'.
    assert (tile.id, tile.shape, list(tile.bands)) == ("reprojected_sdss", (496, 682), ["g", "r", "i"])
    assert tile.bands["r"].unit == "nanomaggy"
    assert tile.wcs is not None
    np.testing.assert_allclose(tile.wcs.all_pix2world([[341.6667, 247.3333]], 0), [[313.17019, -5.69296]], atol=1e-5)
    with Planes() as planes:
        values = planes.read(tile.bands["r"].image)
    with fits.open(shared_data / "galaxy" / "fits_sdss_gri" / "reprojected_sdss_r.fits.bz2") as units:
        np.testing.assert_array_equal(values, units[0].data)


def test_hsc_cubes_are_five_bands_and_psf_images_none(shared_data: Path) -> None:
    files = {name: ref for name, ref in list_sources([shared_data / "galaxy" / "hsc_scarlet"]).files.items()
             if "HSC" in name}  # fmt: skip
    found = find_tiles(files, ("g", "r", "i", "z", "y"))
    tile = only(found)
    assert (tile.id, tile.shape, list(tile.bands)) == ("Cut_HSC", (50, 50), ["g", "r", "i", "z", "y"])
    assert found.said == ("PSF_HSC.fits left out: neither image, mask nor weight by name.",)
    with fits.open(shared_data / "galaxy" / "hsc_scarlet" / "Cut_HSC.fits") as units:
        np.testing.assert_array_equal(read_plane(tile.bands["i"].image), units[0].data[2])
