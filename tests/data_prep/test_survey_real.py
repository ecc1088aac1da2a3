"""Real surveys by the command line, against values taken from their files by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

from sciencessl.cli import run as command
from sciencessl.store.reader import Store


def table(path: Path, columns: list[str], rows: list[list[object]]) -> Path:
    """A CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def run(*words: object) -> int:
    """The command line."""
    return command([str(word) for word in words])


def stamp(store: Store, name: str, field: str = "image") -> np.ndarray:
    """(C, S, S) of one sample."""
    return np.asarray(store.payloads(field, [store.ids.index(name)])[0])


def test_an_sdss_field_in_three_bands(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "galaxy" / "fits_sdss_gri"
    rows = [["middle", 313.170189503, -5.69296404072], ["edge", 313.115, -5.69], ["far", 10.0, 41.0]]
    where = table(tmp_path / "sources.csv", ["id", "ra", "dec"], rows)
    out = tmp_path / "sdss.zarr"
    assert run("prepare", "galaxy", folder, "--catalogue", where, "--out", out, "--size-px", 64,
               "--min-coverage", 0.2, "--workers", 0) == 3
    store = Store(out)
    assert store.header.fields["image"].channels == ("g", "r", "i")
    assert store.ids == [name for name in store.ids if name in ("middle", "edge")]
    assert store.refusals().to_pylist()[0]["reason"] == "outside-every-tile"
    for channel, band in enumerate("gri"):
        with fits.open(folder / f"reprojected_sdss_{band}.fits.bz2") as units:
            position = WCS(units[0].header).all_world2pix([rows[0][1:]], 0)[0]
            whole = Cutout2D(units[0].data, tuple(position), 64, mode="partial", fill_value=np.nan).data
        np.testing.assert_array_equal(stamp(store, "middle")[channel], whole)
    # CRPIX is 342.67, 248.67 (1-based), so the pixel of the reference position is 341, 247 (0-based).
    assert store.column("tile_x")[store.ids.index("middle")] == pytest.approx(341.6667, abs=1e-3)
    assert store.column("unit")[0] == "nanomaggy"
    assert store.column("scale_arcsec_px")[0] == pytest.approx(3 * 0.3959, abs=0.001)


def test_decam_exposures_with_mask_and_weight(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "galaxy" / "legacypipe_ccds" / "testcase3" / "images"
    image = next(folder.rglob("c4d_140818_232043_ooi_z_ls9.N12.fits"))
    with fits.open(image) as units:
        pixels, wcs = np.array(units[1].data), WCS(units[1].header)
    with fits.open(str(image).replace("_ooi_", "_ood_")) as units:
        flags = np.array(units[1].data)
    with fits.open(str(image).replace("_ooi_", "_oow_")) as units:
        weight = np.array(units[1].data)
    centre = ((pixels.shape[1] - 1) / 2 + 0.2, (pixels.shape[0] - 1) / 2 + 0.2)
    ra, dec = wcs.all_pix2world([centre], 0)[0]
    where = table(tmp_path / "sources.csv", ["id", "ra", "dec"], [["a", repr(float(ra)), repr(float(dec))]])
    out = tmp_path / "decam.zarr"
    assert run("prepare", "galaxy", image.parent, "--catalogue", where, "--out", out, "--size-px", 32,
               "--workers", 0) == 0
    store = Store(out)
    assert store.header.fields["image"].channels == ("z",)
    np.testing.assert_array_equal(stamp(store, "a")[0], Cutout2D(pixels, centre, 32).data)
    ivar, mask = stamp(store, "a", "image.ivar")[0], stamp(store, "a", "image.mask")[0]
    np.testing.assert_array_equal(ivar, np.maximum(Cutout2D(weight, centre, 32).data, 0))
    np.testing.assert_array_equal(mask & ((1 << 29) - 1), np.where(ivar > 0, Cutout2D(flags, centre, 32).data,
                                                                   mask & ((1 << 29) - 1)))
    whole = tmp_path / "grz.zarr"
    assert run("prepare", "galaxy", folder, "--catalogue", where, "--out", whole, "--size-px", 24, "--reproject",
               "--min-coverage", 0.1, "--workers", 0) in (0, 3)
    assert Store(whole).header.fields["image"].channels == ("g", "r", "z")


def test_hsc_in_five_bands_with_mask_and_variance(shared_data: Path, tmp_path: Path) -> None:
    with np.load(shared_data / "galaxy" / "hsc_scarlet" / "hsc_cosmos_35.npz") as known:
        images, mask, variance = known["images"], known["mask"], known["variance"]
        bands, places = [str(name) for name in known["filters"]], known["catalog"]
    units = [fits.PrimaryHDU(), fits.ImageHDU(images, name="IMAGE"), fits.ImageHDU(mask, name="MASK"),
             fits.ImageHDU(variance, name="VARIANCE")]
    (tmp_path / "hsc").mkdir()
    fits.HDUList(units).writeto(tmp_path / "hsc" / "cosmos.fits")
    table(tmp_path / "hsc" / "catalogue.csv", ["id", "x", "y"],
          [[f"h{i}", place["x"], place["y"]] for i, place in enumerate(places)])
    out = tmp_path / "hsc.zarr"
    assert run("prepare", "galaxy", tmp_path / "hsc", "--source", "survey", "--bands", *bands, "--out", out,
               "--size-px", 20, "--min-coverage", 0, "--workers", 0) == 0
    store = Store(out)
    assert store.header.fields["image"].channels == ("g", "r", "i", "z", "y")
    for i, place in enumerate(places):
        at = (float(place["x"]), float(place["y"]))
        for channel in range(5):
            cut = [Cutout2D(values[channel].astype(np.float64), at, 20, mode="partial", fill_value=np.nan).data
                   for values in (images, variance, mask)]
            inside = np.isfinite(cut[0])
            np.testing.assert_array_equal(stamp(store, f"h{i}")[channel], cut[0].astype(np.float32))
            np.testing.assert_allclose(stamp(store, f"h{i}", "image.ivar")[channel][inside], 1 / cut[1][inside],
                                       rtol=1e-5)
            np.testing.assert_array_equal(stamp(store, f"h{i}", "image.mask")[channel][inside], cut[2][inside])
