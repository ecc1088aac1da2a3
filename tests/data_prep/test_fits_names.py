"""Names of FITS files: tile, band and kind of plane, guessed or by a pattern."""

from __future__ import annotations

import pytest

from sciencessl.data_prep.fits_names import band_order, guess, kind_of, matched, matcher, words_of
from sciencessl.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "tile", "band", "kind"),
    [
        ("c4d_140818_232043_ooi_z_ls9.N12.fits", "c4d_140818_232043_ls9.N12", "z", "image"),
        ("deep/CP/c4d_140818_232043_ood_z_ls9.N12.fits", "c4d_140818_232043_ls9.N12", "z", "mask"),
        ("c4d_140818_232043_oow_z_ls9.N12.fits.fz", "c4d_140818_232043_ls9.N12", "z", "ivar"),
        ("legacysurvey-1498p017-image-g.fits.fz", "legacysurvey-1498p017", "g", "image"),
        ("legacysurvey-1498p017-invvar-g.fits.fz", "legacysurvey-1498p017", "g", "ivar"),
        ("legacysurvey-1498p017-maskbits.fits.fz", "legacysurvey-1498p017", "", "mask"),
        ("legacysurvey-1498p017-psfsize-g.fits.fz", "legacysurvey-1498p017", "g", "other"),
        ("frame-r-001729-3-0080.fits.bz2", "frame-001729-3-0080", "r", ""),
        ("reprojected_sdss_g.fits.bz2", "reprojected_sdss", "g", ""),
        ("unwise-3460p121-w1-invvar-m.fits.gz", "unwise-3460p121-m", "w1", "ivar"),
        ("hst_ceers_f814w_drz_wht.fits", "hst_ceers_drz", "f814w", "ivar"),
        ("tile-000-g.fits", "tile-000", "g", ""),
        ("g/tile-000.fits", "tile-000", "g", ""),
        ("masks/tile-000-r.fit", "tile-000", "r", "mask"),
        ("object7/image.fits", "object7", "", "image"),
        ("image.fits", "image", "", "image"),
    ],
)
def test_surveys_name_tile_band_and_kind(name: str, tile: str, band: str, kind: str) -> None:
    found = guess(name)
    assert (found.tile_of(found.band), found.band, found.kind) == (tile, band, kind)


def test_the_band_of_the_header_is_taken_out_of_the_name_however_it_is_spelled() -> None:
    assert guess("calexp-HSC-I-9813-4,4.fits").tile_of("HSC-I") == "calexp-9813-4,4"
    assert guess("field12.r.stack.fits").tile_of("r.MP9602") == "field12.stack"


def test_words_given_as_bands_count_as_bands() -> None:
    assert guess("tile-7-halpha.fits").band == ""
    found = guess("tile-7-halpha.fits", ("halpha",))
    assert (found.band, found.tile_of("halpha")) == ("halpha", "tile-7")


def test_a_word_for_mask_or_weight_decides_over_the_word_image() -> None:
    assert kind_of(words_of("IMAGE_MASK")) == "mask"
    assert kind_of(words_of("SCI")) == "image"
    assert kind_of(words_of("N12")) == ""


def test_bands_sort_by_the_order_given_then_by_wavelength_then_by_number() -> None:
    assert sorted(["z", "band1", "g", "r", "u"], key=band_order) == ["u", "g", "r", "z", "band1"]
    assert sorted(["g", "r", "z"], key=lambda band: band_order(band, ("z", "r"))) == ["z", "r", "g"]
    assert sorted(["band10", "band2"], key=band_order) == ["band2", "band10"]
    assert sorted(["f814w", "f606w", "HSC-G", "HSC-I"], key=band_order) == ["HSC-G", "HSC-I", "f606w", "f814w"]


def test_a_pattern_reads_its_fields_whatever_the_words_would_say() -> None:
    regex = matcher("c4d_{tile}_oo{kind}_{band}_ls9.fits")
    found = matched("CP/c4d_2014_ood_z_ls9.fits.fz", regex)
    assert found is not None
    assert (found.tile_of("z"), found.band, found.kind) == ("2014", "z", "mask")
    assert matched("c4d_2014_oox_z_ls9.fits", regex) is None
    assert matched("other.fits", regex) is None


def test_a_pattern_with_a_slash_is_held_against_folders_too() -> None:
    found = matched("night1/g/5.fits", matcher("{tile}/{band}/*.fits"))
    assert found is not None
    assert (found.tile_of("g"), found.band) == ("night1", "g")
    assert matched("a/night1/g/5.fits", matcher("{tile}/{band}/*.fits")) is None


def test_a_field_that_comes_twice_must_repeat() -> None:
    regex = matcher("{tile}/{tile}-{band}.fits")
    assert matched("a/a-g.fits", regex) is not None
    assert matched("a/b-g.fits", regex) is None


def test_patterns_that_cannot_work_say_what_is_expected() -> None:
    with pytest.raises(ConfigError, match=r"has the field \{filter\}; expected \{tile\}, \{band\} and \{kind\}"):
        matcher("tile-{tile}-{filter}.fits")
    with pytest.raises(ConfigError, match=r"has no \{tile\}; write one such as"):
        matcher("{band}.fits")
