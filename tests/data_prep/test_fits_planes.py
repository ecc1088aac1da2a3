"""Planes of FITS files: every way that pixels are stored comes back as astropy reads it, and little is read."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep import fits_planes
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.fits_planes import Planes, read_plane
from sciencessl.data_prep.sky_tiles import Plane

fits = pytest.importorskip("astropy.io.fits")
RNG = np.random.default_rng(0)
FLOATS = RNG.normal(size=(60, 70)).astype(np.float32)
FLOATS[3, 4] = np.nan
WHOLE = RNG.integers(-100, 100, size=(60, 70)).astype(np.int16)
WINDOW = slice(5, 13), slice(60, 70)


def scaled(kind: Any) -> Any:
    unit = kind(WHOLE)
    unit.header["BSCALE"], unit.header["BZERO"], unit.header["BLANK"] = 0.5, 3.0, 7
    return unit


UNITS = {
    "float32": lambda: fits.ImageHDU(FLOATS),
    "float64": lambda: fits.ImageHDU(FLOATS.astype(np.float64)),
    "int16": lambda: fits.ImageHDU(WHOLE),
    "uint8": lambda: fits.ImageHDU(np.abs(WHOLE).astype(np.uint8)),
    "int8": lambda: fits.ImageHDU(WHOLE.astype(np.int8)),
    "uint16": lambda: fits.ImageHDU(WHOLE.astype(np.uint16)),
    "uint32": lambda: fits.ImageHDU(WHOLE.astype(np.uint32)),
    "scaled": lambda: scaled(fits.ImageHDU),
    "scaled-rice": lambda: scaled(fits.CompImageHDU),
    "uint16-rice": lambda: fits.CompImageHDU(WHOLE.astype(np.uint16)),
    "rice": lambda: fits.CompImageHDU(FLOATS, compression_type="RICE_1"),
    "rice-blocks": lambda: fits.CompImageHDU(FLOATS, compression_type="RICE_1", tile_shape=(16, 16)),
    "rice-dithered": lambda: fits.CompImageHDU(FLOATS, quantize_method=2, quantize_level=8),
    "gzip-1": lambda: fits.CompImageHDU(FLOATS, compression_type="GZIP_1"),
    "gzip-2-exact": lambda: fits.CompImageHDU(FLOATS, compression_type="GZIP_2", quantize_level=0),
    "hcompress": lambda: fits.CompImageHDU(np.nan_to_num(FLOATS), compression_type="HCOMPRESS_1"),
}


def write(path: Path, *units: Any) -> str:
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(path)
    return str(path)


@pytest.mark.parametrize("name", UNITS)
def test_pixels_are_those_that_astropy_reads_whole_and_in_windows(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", UNITS[name]())
    with fits.open(path, memmap=False) as units:
        expected = np.array(units[1].data)
    values = read_plane(Plane(path, 1))
    assert values.dtype == expected.dtype.newbyteorder("=")
    assert values.dtype.isnative
    np.testing.assert_array_equal(values, expected)
    with Planes() as planes:
        for n_sources in (1, 10**6):
            pixels = planes.windows(Plane(path, 1), n_sources, 8)
            assert pixels.shape == (60, 70)
            assert pixels.dtype.newbyteorder("=") == values.dtype
            np.testing.assert_array_equal(pixels[WINDOW], expected[WINDOW])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("name", ["float32", "scaled", "rice"])
def test_packed_files_hold_the_same_pixels(pack: Any, name: str, tmp_path: Path) -> None:
    plain = write(tmp_path / "a.fits", UNITS[name]())
    (tmp_path / "b.fits.packed").write_bytes(pack(Path(plain).read_bytes()))
    np.testing.assert_array_equal(read_plane(Plane(str(tmp_path / "b.fits.packed"), 1)), read_plane(Plane(plain, 1)))


@pytest.mark.parametrize("kind", ["ImageHDU", "CompImageHDU"])
def test_a_layer_of_a_cube_is_read_alone(kind: str, tmp_path: Path) -> None:
    cube = np.stack([WHOLE, 2 * WHOLE, 3 * WHOLE])
    path = write(tmp_path / "a.fits", getattr(fits, kind)(cube), fits.ImageHDU(WHOLE[None, None]))
    for layer in range(3):
        np.testing.assert_array_equal(read_plane(Plane(path, 1, layer)), cube[layer])
    np.testing.assert_array_equal(read_plane(Plane(path, 2)), WHOLE)


@pytest.mark.parametrize("kind", ["ImageHDU", "CompImageHDU"])
def test_in_a_mask_the_stored_number_stands_where_blank_marks_it(kind: str, tmp_path: Path) -> None:
    unit = getattr(fits, kind)(WHOLE)
    unit.header["BLANK"] = 7
    path = write(tmp_path / "a.fits", unit)
    assert (WHOLE == 7).any()
    image, mask = read_plane(Plane(path, 1)), read_plane(Plane(path, 1, kind="mask"))
    np.testing.assert_array_equal(np.isnan(image), WHOLE == 7)
    np.testing.assert_array_equal(mask, WHOLE)
    assert mask.dtype == np.int16


def test_plain_files_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(FLOATS))
    with Planes() as planes:
        pixels = planes.windows(Plane(path, 1), 10**6, 64)
        assert isinstance(pixels, np.ndarray)
        assert not pixels.flags.owndata
        assert not pixels.flags.writeable
        bases = [pixels.base]
        while getattr(bases[-1], "base", None) is not None:
            bases.append(bases[-1].base)
        assert any(isinstance(base, np.memmap) for base in bases)


def test_compressed_files_are_read_in_sections_only_while_that_reads_less(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", fits.CompImageHDU(np.zeros((1000, 50), np.int16)))
    plane = Plane(path, 1)
    with Planes() as planes:
        # A row is one tile: a window of 9 rows touches 10 of 1000, and its pixels cost twice those of a full read.
        assert not isinstance(planes.windows(plane, 49, 9), np.ndarray)
        whole = planes.windows(plane, 50, 9)
        assert isinstance(whole, np.ndarray)
        assert planes.windows(plane, 1, 9) is whole


def test_each_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(FLOATS), fits.ImageHDU(WHOLE))
    Path(path + ".gz").write_bytes(gzip.compress(Path(path).read_bytes()))
    opened: list[str] = []
    real = fits_planes._open
    monkeypatch.setattr(fits_planes, "_open", lambda name: opened.append(name) or real(name))
    with Planes() as planes:
        for hdu in (1, 2, 1, 2):
            planes.read(Plane(path, hdu))
            planes.read(Plane(path + ".gz", hdu))
    assert opened == [path, path + ".gz"]


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits_planes, "KEEP_BYTES", 3 * FLOATS.nbytes)
    monkeypatch.setattr(fits_planes, "OPEN_FILES", 3)
    plain = [write(tmp_path / f"{i}.fits", fits.ImageHDU(FLOATS)) for i in range(5)]
    packed = [write(tmp_path / f"{i}.fits.gz", fits.ImageHDU(FLOATS)) for i in range(5)]
    tiled = [write(tmp_path / f"c{i}.fits", fits.CompImageHDU(FLOATS)) for i in range(5)]
    with Planes() as planes:
        for path in (*plain, *packed, *tiled):
            np.testing.assert_array_equal(planes.read(Plane(path, 1)).shape, FLOATS.shape)
            assert len(planes._files) <= 3
            assert planes._unpacked_bytes() <= 3 * FLOATS.nbytes
        assert len(planes._decoded) == 3
        kept = planes.windows(Plane(plain[0], 1), 1, 8)
    np.testing.assert_array_equal(kept[WINDOW], FLOATS[WINDOW])


def reason(path: str, hdu: int = 1) -> str:
    with pytest.raises(Refused) as refused:
        read_plane(Plane(path, hdu))
    return refused.value.reason


def test_cut_files_are_refused_as_truncated_however_they_are_packed(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.fits", fits.ImageHDU(FLOATS))
    tiled = write(tmp_path / "b.fits", fits.CompImageHDU(FLOATS))
    for pack in (bytes, gzip.compress, bz2.compress):
        raw = pack(Path(plain).read_bytes())
        (tmp_path / "cut.fits").write_bytes(raw[: len(raw) * 2 // 3])
        assert reason(str(tmp_path / "cut.fits")) == "truncated"
    (tmp_path / "cut.fits").write_bytes(Path(tiled).read_bytes()[: 4 * 2880])
    assert reason(str(tmp_path / "cut.fits")) == "truncated"


def test_a_damaged_heap_is_refused_as_corrupt(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.fits", fits.CompImageHDU(FLOATS, compression_type="GZIP_1")))
    raw = bytearray(path.read_bytes())
    raw[-2880 * 3 : -2880] = b"\xff" * 5760
    path.write_bytes(raw)
    assert reason(str(path)) == "corrupt"


def test_planes_that_are_not_there_are_refused(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.zeros(3))])
    path = write(tmp_path / "a.fits", table)
    assert reason(path, 1) == "not-an-image"
    assert reason(path, 5) == "not-an-image"
    assert reason(str(tmp_path / "gone.fits")) == "missing-file"


def test_a_bomb_is_refused_as_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits_planes, "MAX_UNPACKED_BYTES", 10_000)
    assert reason(write(tmp_path / "a.fits.gz", fits.ImageHDU(FLOATS))) == "too-large"
