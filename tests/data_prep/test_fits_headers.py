"""FITS headers without pixels: where arrays lie, packed files, and what damaged files are refused for."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.fits_headers import Unit, open_regular, opened, refusals, scan, unpacked

fits = pytest.importorskip("astropy.io.fits")
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def raw_of(*units: Any) -> bytes:
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(out)
    return out.getvalue()


def units_of(raw: bytes) -> list[Unit]:
    with refusals(), opened(io.BytesIO(raw)) as stream:
        return scan(stream)


def reason(raw: bytes) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        units_of(raw)
    return refused.value.reason, refused.value.detail


def test_offsets_point_at_the_pixels_of_each_unit() -> None:
    raw = raw_of(fits.ImageHDU(VALUES, name="SCI"), fits.ImageHDU(VALUES.astype(np.int16) + 1, name="DQ"))
    _, image, mask = units_of(raw)
    for unit, expected in ((image, VALUES), (mask, VALUES + 1)):
        stored = np.frombuffer(raw[unit.offset : unit.offset + unit.size], unit.dtype).reshape(unit.shape)
        np.testing.assert_array_equal(stored, expected)
    assert (image.index, image.name, image.is_image, image.packed) == (1, "SCI", True, False)


def test_packed_files_have_the_same_units_as_plain_ones() -> None:
    raw = raw_of(fits.ImageHDU(VALUES))
    for pack in (gzip.compress, bz2.compress):
        assert [(u.offset, u.size) for u in units_of(pack(raw))] == [(u.offset, u.size) for u in units_of(raw)]


def test_tile_compressed_images_have_the_shape_and_type_of_the_image() -> None:
    unit = units_of(raw_of(fits.CompImageHDU(VALUES.astype(np.int16))))[1]
    assert (unit.packed, unit.is_image, unit.shape, unit.dtype, unit.name) == (True, True, (3, 4), np.dtype(">i2"), "")


def test_leading_axes_of_length_one_are_left_out_of_the_shape() -> None:
    assert units_of(raw_of(fits.ImageHDU(VALUES[None, None])))[1].shape == (3, 4)
    assert units_of(raw_of(fits.ImageHDU(np.stack([VALUES] * 2)[None])))[1].shape == (2, 3, 4)


def test_tables_are_no_images() -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.zeros(3))])
    assert [unit.is_image for unit in units_of(raw_of(table))] == [True, False]


def test_damaged_files_are_refused_with_a_reason_and_never_with_another_error() -> None:
    raw = raw_of(fits.ImageHDU(np.zeros((100, 100))))
    assert reason(b"") == ("truncated", "the file is empty")
    assert reason(b"GIF89a" * 600)[0] == "corrupt"
    assert reason(raw[:2000]) == ("truncated", "a header ends before its END card")
    assert reason(raw[: 2880 + 1000])[0] == "truncated"
    cut = raw[: 2 * 2880 + 5000]
    assert reason(cut) == ("truncated", "HDU 1 should hold 80000 bytes of data and has 5000")
    assert reason(gzip.compress(raw)[:-20])[0] == "truncated"
    assert reason(bz2.compress(raw)[:-20])[0] == "truncated"
    assert reason(gzip.compress(cut))[0] == "truncated"
    assert reason(raw.replace(b"NAXIS1  =                  100", b"NAXIS1  =                 -100")) == (
        "corrupt", "an axis of negative length: [-100, 100]",
    )  # fmt: skip


def test_an_unknown_type_of_pixels_is_named() -> None:
    raw = raw_of(fits.ImageHDU(VALUES)).replace(b"BITPIX  =                  -32", b"BITPIX  =                  -33")
    assert reason(raw) == ("corrupt", "BITPIX is -33, expected one of 8, 16, 32, 64, -32, -64")


def test_cards_that_break_the_standard_are_passed_over_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    raw = raw_of(fits.ImageHDU(VALUES, header=fits.Header({"OBJECT": "M 51"})))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unit = units_of(raw.replace(b"OBJECT  =", b"o\xffject  ="))[1]
        with refusals():
            assert [card.keyword for card in unit.header.cards][-1] != "OBJECT"
    assert capfd.readouterr() == ("", "")


def test_the_padding_after_the_last_array_may_be_missing_and_rubbish_may_follow_it() -> None:
    raw = raw_of(fits.ImageHDU(VALUES))
    data_end = 2 * 2880 + VALUES.nbytes
    assert len(units_of(raw[:data_end])) == 2
    assert len(units_of(raw + b"x" * 999)) == 2


def test_a_bomb_is_refused_before_it_is_unpacked_whole() -> None:
    bomb = gzip.compress(bytes(10 * 2**20))
    with pytest.raises(Refused, match="too-large: more than 1048576 bytes unpacked"):
        unpacked(io.BytesIO(bomb), 2**20)
    assert len(unpacked(io.BytesIO(bomb), 10 * 2**20)) == 10 * 2**20


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.fits")
    with pytest.raises(Refused, match=r"corrupt: .* is no regular file"):
        open_regular(str(tmp_path / "pipe.fits"))


def test_a_file_that_is_gone_is_refused_as_missing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"missing-file: .*gone.fits is not there"), refusals():
        open_regular(str(tmp_path / "gone.fits"))
