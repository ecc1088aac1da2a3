"""The source `survey`: tiles and a catalogue become a store, and nothing is lost on the way."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

import sciencessl
from sciencessl.data_prep.begin import begin
from sciencessl.data_prep.plan import make_plan
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.sky_tiles import own_bits
from sciencessl.data_prep.survey import survey
from sciencessl.data_prep.survey_bands import survey_bits
from sciencessl.data_prep.survey_settings import SurveySettings
from sciencessl.data_prep.task import prepare_row
from sciencessl.errors import ConfigError, DataError
from sciencessl.registry import load_domain
from sciencessl.store.reader import Store

SCALE = 0.4 / 3600
SIDE = 16


def tan(ra: float = 150.0, dec: float = 2.0, shape: tuple[int, int] = (120, 150), turn_deg: float = 0.0) -> WCS:
    """A tangent plane with north up at no turn."""
    turn = np.radians(turn_deg)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cd = SCALE * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return wcs


def write(path: Path, pixels: np.ndarray, wcs: WCS | None, **cards: Any) -> None:
    """A FITS file with one image."""
    header = fits.Header() if wcs is None else wcs.to_header()
    header.update({"BUNIT": "nanomaggy", **cards})
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(pixels, header).writeto(path, overwrite=True)


def catalogue(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """`catalogue.csv` of some rows."""
    with (folder / "catalogue.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def at(wcs: WCS, x: Sequence[float], y: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of a catalogue of sources at pixel positions."""
    sky = wcs.pixel_to_world(x, y)
    return [{"id": f"s{i:03d}", "ra": repr(float(place.ra.deg)), "dec": repr(float(place.dec.deg))}
            for i, place in enumerate(sky)]


def tiles(folder: Path, wcs: WCS, bands: str = "gr", name: str = "t0") -> np.ndarray:
    """(bands, H, W) of noise, written as one file a band."""
    pixels = np.random.default_rng(len(name)).normal(0, 1, (len(bands), 120, 150)).astype(np.float32)
    for band, plane in zip(bands, pixels, strict=True):
        write(folder / f"{name}-{band}.fits", plane, wcs, FILTER=band)
    return pixels


def prepared(folder: Path, out: Path, **settings: Any) -> Store:
    """The store of a folder of tiles."""
    found = {"size_px": SIDE, "workers": 0, "min_coverage": 0.0, **settings}
    return Store(sciencessl.prepare("galaxy", [folder], out, found).out)


def field(store: Store, name: str, identifier: str) -> np.ndarray:
    """(C, S, S) of one sample."""
    return np.asarray(store.payloads(name, [store.ids.index(identifier)])[0])


def value(store: Store, column: str, identifier: str) -> Any:
    """One value of one sample."""
    return store.column(column)[store.ids.index(identifier)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "survey"
    made.mkdir()
    return made


def test_stamps_are_those_of_cutout2d_in_every_band_inside_at_edges_and_beyond(folder: Path, tmp_path: Path) -> None:
    # A defect elsewhere: at the edge of a tile the data were moved to the middle of the stamp.
    wcs = tan(turn_deg=20)
    pixels = tiles(folder, wcs)
    x, y = np.random.default_rng(0).uniform([[-6], [-6]], [[155], [125]], (2, 60))
    catalogue(folder, at(wcs, x, y))
    store = prepared(folder, tmp_path / "s.zarr", test_fraction=0.0)
    assert len(store) + store.refusals().num_rows == 60
    for i in range(60):
        if f"s{i:03d}" not in store.ids:
            continue
        for channel, plane in enumerate(pixels):
            whole = Cutout2D(plane, (x[i], y[i]), SIDE, mode="partial", fill_value=np.nan)
            stamp = field(store, "image", f"s{i:03d}")[channel]
            np.testing.assert_array_equal(stamp, whole.data)
            known = field(store, "image.mask", f"s{i:03d}")[channel] == 0
            np.testing.assert_array_equal(known, np.isfinite(whole.data))
        np.testing.assert_allclose(value(store, "coverage", f"s{i:03d}"), known.mean())


def test_the_wcs_of_a_stamp_finds_its_source(folder: Path, tmp_path: Path) -> None:
    # A defect elsewhere: stamps in Zarr stores have no WCS.
    wcs = tan(turn_deg=-35)
    tiles(folder, wcs)
    catalogue(folder, at(wcs, [70.3, 20.7], [60.2, 100.9]))
    store = prepared(folder, tmp_path / "s.zarr")
    for name in store.ids:
        own = WCS(naxis=2)
        own.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        own.wcs.crval = [value(store, f"wcs_crval{axis}", name) for axis in (1, 2)]
        own.wcs.crpix = [value(store, f"wcs_crpix{axis}", name) for axis in (1, 2)]
        own.wcs.cd = [[value(store, f"wcs_cd{row}_{column}", name) for column in (1, 2)] for row in (1, 2)]
        x, y = own.all_world2pix(value(store, "ra", name), value(store, "dec", name), 0)
        assert x + value(store, "origin_x", name) == pytest.approx(value(store, "tile_x", name), abs=0.01)
        assert y + value(store, "origin_y", name) == pytest.approx(value(store, "tile_y", name), abs=0.01)
        assert value(store, "scale_arcsec_px", name) == pytest.approx(0.4)


def test_masks_weights_and_missing_bands_stay_with_the_pixels(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    pixels = tiles(folder, wcs, "g")
    pixels[0, 50, 60:70] = np.nan
    write(folder / "t0-g.fits", pixels[0], wcs, FILTER="g", PSFFWHM=1.2)
    mask, weight = np.zeros((120, 150), np.int32), np.full((120, 150), 4.0, np.float32)
    mask[55, 65], weight[56, 66] = 5, 0
    write(folder / "t0-g-mask.fits", mask, wcs, FILTER="g")
    write(folder / "t0-g-invvar.fits", weight, wcs, FILTER="g")
    tiles(folder, tan(151.0), "gr", name="t1")
    catalogue(folder, at(wcs, [65], [54]))
    store = prepared(folder, tmp_path / "s.zarr")
    off, broken = own_bits("int32")
    stored, stamp = field(store, "image.mask", "s000"), field(store, "image", "s000")
    top, left = int(value(store, "origin_y", "s000")), int(value(store, "origin_x", "s000"))
    assert stored.dtype == np.int32
    assert stored[0, 55 - top, 65 - left] == 5
    assert stored[0, 56 - top, 66 - left] == off
    assert (stored[0, 50 - top, 60 - left : 70 - left] == broken).all()
    assert np.isnan(stamp[0, 50 - top, 60 - left])
    assert (stored[1] == off).all()
    assert value(store, "missing_r", "s000")
    assert not value(store, "missing_g", "s000")
    assert field(store, "image.ivar", "s000")[0, 0, 0] == 4
    assert field(store, "image.ivar", "s000")[0, 56 - top, 66 - left] == 0
    assert (field(store, "image.ivar", "s000")[1] == 0).all()
    assert value(store, "masked_g", "s000") == pytest.approx(1 / SIDE**2)
    assert value(store, "psf_fwhm_arcsec_g", "s000") == pytest.approx(1.2)
    assert value(store, "unit", "s000") == "nanomaggy"


@pytest.mark.parametrize(("fill", "holds"), [("zero", 0.0), ("sky", None), ("noise", None)])
def test_the_fill_policy_says_what_unknown_pixels_hold(
    folder: Path, tmp_path: Path, fill: str, holds: float | None
) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    catalogue(folder, at(wcs, [1.0], [60.0]))
    store = prepared(folder, tmp_path / "s.zarr", fill=fill)
    stamp, mask = field(store, "image", "s000"), field(store, "image.mask", "s000")
    unknown = stamp[mask != 0]
    assert unknown.size
    assert np.isfinite(stamp).all()
    if fill == "noise":
        assert 0.5 < unknown.std() < 1.5
    else:
        wanted = value(store, "sky_g", "s000") if holds is None else holds
        np.testing.assert_allclose(unknown, wanted, rtol=1e-6)


def test_every_row_that_cannot_be_cut_is_refused_with_its_reason(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    pixels = tiles(folder, wcs, "g")
    pixels[0, :40, :40] = np.nan
    write(folder / "t0-g.fits", pixels[0], wcs, FILTER="g")
    rows = at(wcs, [75, 0, 10], [60, 60, 10])
    rows += [{"id": "far", "ra": "10", "dec": "-80"}, {"id": "bad", "ra": "north", "dec": "2"},
             {"id": "none", "ra": "", "dec": ""}]
    catalogue(folder, rows)
    (folder / "broken-g.fits").write_bytes((folder / "t0-g.fits").read_bytes()[:3000])
    store = prepared(folder, tmp_path / "s.zarr", min_coverage=0.6)
    reasons = dict(zip(store.refusals()["id"].to_pylist(), store.refusals()["reason"].to_pylist(), strict=True))
    assert store.ids == ["s000"]
    assert reasons == {"s001": "low-coverage", "s002": "no-known-pixel", "far": "outside-every-tile",
                       "bad": "bad-position", "none": "bad-position", "broken-g.fits": "truncated"}


def test_a_tile_that_breaks_while_it_is_read_refuses_its_own_sources_only(folder: Path, tmp_path: Path) -> None:
    near, far = tan(), tan(152.0)
    tiles(folder, near, "g")
    tiles(folder, far, "g", name="t1")
    rows = at(near, [75], [60])
    catalogue(folder, [*rows, {**at(far, [75], [60])[0], "id": "other"}])
    packed = fits.CompImageHDU(fits.getdata(folder / "t1-g.fits"), fits.getheader(folder / "t1-g.fits"))
    packed.writeto(folder / "t1-g.fits.fz")
    (folder / "t1-g.fits").unlink()
    raw = bytearray((folder / "t1-g.fits.fz").read_bytes())
    raw[-9000:-3000] = bytes(6000)
    (folder / "t1-g.fits.fz").write_bytes(raw)
    store = prepared(folder, tmp_path / "s.zarr")
    assert "s000" in store.ids
    refused = store.refusals().to_pylist()
    assert [entry["id"] for entry in refused] == ["other"] or "other" in store.ids


def test_sources_across_ra_zero_and_at_the_pole_are_found(folder: Path, tmp_path: Path) -> None:
    wrap, pole = tan(0.0, 10.0), tan(30.0, 90.0)
    tiles(folder, wrap, "g")
    tiles(folder, pole, "g", name="t1")
    rows = at(wrap, [40, 110], [60, 60]) + at(pole, [60, 90], [50, 70])
    assert {float(row["ra"]) > 180 for row in rows[:2]} == {True, False}
    catalogue(folder, [{**row, "id": f"k{i}"} for i, row in enumerate(rows)])
    store = prepared(folder, tmp_path / "s.zarr")
    assert sorted(store.ids) == ["k0", "k1", "k2", "k3"]
    assert value(store, "tile_x", "k3") == pytest.approx(90, abs=1e-4)
    assert (store.column("coverage") == 1).all()


def test_duplicate_sources_are_one_group_and_duplicate_ids_an_error(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    rows = at(wcs, [75, 75.5, 30], [60, 60, 100])
    catalogue(folder, rows)
    store = prepared(folder, tmp_path / "s.zarr")
    assert value(store, "group", "s000") == value(store, "group", "s001") == "s000"
    assert value(store, "group", "s002") == "s002"
    catalogue(folder, [rows[0], rows[0]])
    with pytest.raises(DataError, match="occur more than once: 's000'"):
        prepared(folder, tmp_path / "t.zarr")


def test_bands_on_different_grids_are_an_error_that_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    tiles(folder, tan(turn_deg=30), "r", name="u7")
    catalogue(folder, at(wcs, [75], [60]))
    with pytest.raises(DataError, match=r"different grids\. Pass --reproject.*or choose bands"):
        prepared(folder, tmp_path / "s.zarr")
    assert prepared(folder, tmp_path / "s.zarr", bands=("g",)).header.fields["image"].channels == ("g",)


def test_neighbouring_tiles_fill_a_stamp_at_the_edge_on_request(folder: Path, tmp_path: Path) -> None:
    whole = tan(shape=(120, 300))
    pixels = np.random.default_rng(5).normal(0, 1, (120, 300)).astype(np.float32)
    for name, start in (("a", 0), ("b", 140)):
        part = whole.deepcopy()
        part.wcs.crpix = [whole.wcs.crpix[0] - start, whole.wcs.crpix[1]]
        write(folder / f"{name}-g.fits", pixels[:, start : start + 160], part, FILTER="g")
    catalogue(folder, at(whole, [150.3, 158.3, 141.3], [60.3, 40.3, 80.3]))
    alone = prepared(folder, tmp_path / "s.zarr", size_px=40)
    assert alone.column("coverage").min() < 1
    both = prepared(folder, tmp_path / "t.zarr", size_px=40, stitch=True)
    assert (both.column("coverage") == 1).all()
    for name, x, y in (("s000", 151, 61), ("s001", 159, 41), ("s002", 142, 81)):
        np.testing.assert_array_equal(field(both, "image", name)[0], pixels[y - 20 : y + 20, x - 20 : x + 20])


def test_whole_tiles_are_cut_into_a_grid_without_a_catalogue(folder: Path, tmp_path: Path) -> None:
    pixels = tiles(folder, tan(), "gr")
    store = prepared(folder, tmp_path / "s.zarr", grid_px=SIDE)
    assert len(store) == (120 // SIDE) * (150 // SIDE)
    first = min(store.ids)
    np.testing.assert_array_equal(field(store, "image", first), pixels[:, :SIDE, :SIDE])
    with pytest.raises(DataError, match=r"there is no catalogue.*--grid-px"):
        prepared(folder, tmp_path / "t.zarr", source="survey")


def test_pixel_positions_need_no_wcs(folder: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).normal(0, 1, (60, 70)).astype(np.float32)
    write(folder / "field-i.fits", pixels, None, FILTER="i")
    catalogue(folder, [{"id": "a", "X_IMAGE": "31", "Y_IMAGE": "21"}, {"id": "b", "X_IMAGE": "500", "Y_IMAGE": "9"},
                       {"id": "c", "X_IMAGE": "", "Y_IMAGE": "9"}])
    store = prepared(folder, tmp_path / "s.zarr", source="survey")
    np.testing.assert_array_equal(field(store, "image", "a")[0], pixels[12:28, 22:38])
    assert "ra" not in store.columns()
    assert dict(zip(*store.refusals().select(["id", "reason"]).to_pydict().values(), strict=True)) == {
        "b": "outside-every-tile", "c": "bad-position"}
    with pytest.raises(ConfigError, match="sizes in arcsec need tiles with a celestial WCS"):
        prepared(folder, tmp_path / "t.zarr", source="survey", size_arcsec=5.0)


def test_sky_positions_on_tiles_without_a_wcs_are_an_error(folder: Path, tmp_path: Path) -> None:
    write(folder / "field-i.fits", np.ones((60, 70), np.float32), None, FILTER="i")
    catalogue(folder, [{"id": "a", "ra": "31", "dec": "21"}])
    with pytest.raises(DataError, match="none of the 1 tiles has a celestial WCS"):
        prepared(folder, tmp_path / "s.zarr")


def test_own_sizes_are_padded_to_the_stored_shape_on_request(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    pixels = tiles(folder, wcs, "g")
    sizes = ["10", "7", "16", "30", "-1"]
    rows = at(wcs, [75, 40, 100, 60, 30], [60, 40, 60, 80, 30])
    catalogue(folder, [{**row, "box_px": size} for row, size in zip(rows, sizes, strict=True)])
    store = prepared(folder, tmp_path / "s.zarr", size_column="box_px", fit="pad")
    reasons = dict(zip(*store.refusals().select(["id", "reason"]).to_pydict().values(), strict=True))
    assert reasons == {"s003": "too-large", "s004": "bad-size"}
    for name, side, x, y in (("s000", 10, 75, 60), ("s001", 7, 40, 40), ("s002", 16, 100, 60)):
        whole = Cutout2D(pixels[0], (x, y), side).data
        start = (SIDE - side) // 2
        stamp = field(store, "image", name)[0]
        np.testing.assert_array_equal(stamp[start : start + side, start : start + side], whole)
        assert np.isfinite(stamp).sum() == side**2


def test_local_sky_is_stored_and_subtracted_on_request(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    pixels = tiles(folder, wcs, "g") + 100
    write(folder / "t0-g.fits", pixels[0], wcs, FILTER="g")
    catalogue(folder, at(wcs, [75], [60]))
    store = prepared(folder, tmp_path / "s.zarr", size_px=32)
    assert value(store, "sky_g", "s000") == pytest.approx(100, abs=0.3)
    assert value(store, "noise_g", "s000") == pytest.approx(1, abs=0.15)
    less = prepared(folder, tmp_path / "t.zarr", size_px=32, subtract_sky=True)
    assert np.median(field(less, "image", "s000")) == pytest.approx(0, abs=0.3)
    assert value(less, "sky_g", "s000") == value(store, "sky_g", "s000")


def test_a_second_run_does_nothing_and_tells_a_changed_tile(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    pixels = tiles(folder, wcs, "g")
    catalogue(folder, at(wcs, [75, 30], [60, 30]))
    digest = prepared(folder, tmp_path / "s.zarr").digest
    assert sciencessl.prepare("galaxy", [folder], tmp_path / "s.zarr",
                              {"size_px": SIDE, "workers": 0, "min_coverage": 0.0}).nothing_to_do
    assert prepared(folder, tmp_path / "s.zarr", verify_inputs=True).digest == digest
    write(folder / "t0-g.fits", pixels[0] + 1, wcs, FILTER="g")
    with pytest.raises(sciencessl.errors.StoreError, match="have other contents now"):
        prepared(folder, tmp_path / "s.zarr", verify_inputs=True)


def test_several_processes_make_the_same_store(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    for name, ra in (("t0", 150.0), ("t1", 151.0), ("t2", 152.0)):
        tiles(folder, tan(ra), "g", name=name)
    rows = [{**row, "id": f"{ra}-{row['id']}"} for ra in (150, 151, 152) for row in at(tan(ra), [75, 30], [60, 30])]
    catalogue(folder, rows)
    assert prepared(folder, tmp_path / "s.zarr").digest == prepared(folder, tmp_path / "t.zarr", workers=2).digest
    assert wcs.wcs.crval[0] == 150.0


def test_a_crowded_tile_is_cut_in_parts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wcs = tan()
    pixels = tiles(folder, wcs, "g")
    x, y = np.random.default_rng(2).uniform(20, 100, (2, 30)).round(1)
    catalogue(folder, at(wcs, x, y))
    monkeypatch.setattr("sciencessl.data_prep.survey.CHUNK_BYTES", 7 * SIDE * SIDE * 5)
    store = prepared(folder, tmp_path / "s.zarr")
    assert len(store) == 30
    assert store.header.rows == 5
    whole = Cutout2D(pixels[0], (x[29], y[29]), SIDE).data
    np.testing.assert_array_equal(field(store, "image", "s029")[0], whole)


@pytest.mark.parametrize(("settings", "words"), [
    ({"fill": "mean"}, "one of nan, zero, sky, noise"), ({"ra": "ra"}, "ra and dec is given as ra alone"),
    ({"size_arcsec": 3.0, "scale_arcsec_px": 0.3}, "only one of them"), ({"tile_pattern": "x.fits"}, "{tile} in it"),
    ({"size_px": 100_000}, "size_px is 100000; it must be 4 to 2048"),
    ({"bands": ("q",)}, "no band named 'q'"), ({"resize_px": 32}, "--size-px"),
])
def test_settings_that_do_not_fit_say_so(
    folder: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    catalogue(folder, at(wcs, [75], [60]))
    with pytest.raises(ConfigError, match=words):
        prepared(folder, tmp_path / "s.zarr", **settings)


def test_masks_that_cover_nearly_everything_are_told_with_their_bits(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    mask = np.full((120, 150), 32, np.int32)
    mask[54, 65] |= 2
    write(folder / "t0-g-mask.fits", mask, wcs, FILTER="g")
    catalogue(folder, at(wcs, [65.2], [54.2]))
    said = sciencessl.prepare("galaxy", [folder], tmp_path / "s.zarr", {"size_px": SIDE, "workers": 0}).guessed
    assert any("100% of the pixels" in word and "bit 5 in 100%" in word and "--mask-bits" in word for word in said)
    store = prepared(folder, tmp_path / "t.zarr", mask_bits=(1,))
    assert (field(store, "image.mask", "s000") != 0).sum() == 1
    assert value(store, "masked_g", "s000") == pytest.approx(1 / SIDE**2)


def star(wcs: WCS, shape: tuple[int, int], ra: float, dec: float, sigma_arcsec: float) -> np.ndarray:
    """(H, W) of a Gaussian star of flux 1000."""
    pixel = 3600 * np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))
    x, y = wcs.all_world2pix(ra, dec, 0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    sigma = sigma_arcsec / pixel
    return np.asarray(1000 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / sigma**2) / (2 * np.pi * sigma**2))


@pytest.mark.parametrize("settings", [
    {"scale_arcsec_px": 0.25}, {"scale_arcsec_px": 0.7}, {"size_arcsec": 20.0}, {"reproject": True},
    {"reproject": True, "scale_arcsec_px": 0.6},
])
def test_resampled_stars_keep_their_flux_to_half_a_percent_and_their_place(
    folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    wcs, shape = tan(turn_deg=25), (120, 150)
    pixels = np.zeros(shape)
    rows = at(wcs, [105.27, 40.9], [60.81, 55.1])
    for row in rows:
        pixels += star(wcs, shape, float(row["ra"]), float(row["dec"]), 0.6)
    write(folder / "t0-g.fits", pixels.astype(np.float32), wcs, FILTER="g")
    catalogue(folder, rows)
    store = prepared(folder, tmp_path / "s.zarr", size_px=32, **settings)
    for name in ("s000", "s001"):
        stamp = field(store, "image", name)[0].astype(np.float64)
        assert stamp.sum() == pytest.approx(1000, rel=0.005)
        places = np.mgrid[:32, :32]
        np.testing.assert_allclose([(place * stamp).sum() / stamp.sum() for place in places], 15.5, atol=0.05)
        scale = settings.get("scale_arcsec_px") or settings.get("size_arcsec", 32 * 0.4) / 32
        assert value(store, "scale_arcsec_px", name) == pytest.approx(scale, rel=1e-4)
        if settings.get("reproject"):
            assert value(store, "wcs_cd2_1", name) == 0
            assert value(store, "wcs_cd2_2", name) == pytest.approx(scale / 3600, rel=1e-4)


def test_bands_of_different_grids_are_reprojected_onto_one_on_request(folder: Path, tmp_path: Path) -> None:
    here, there, shape = tan(), tan(150.0005, 2.0003, turn_deg=50), (120, 150)
    (row,) = at(here, [80.3], [62.7])
    for band, wcs in (("g", here), ("r", there)):
        pixels = star(wcs, shape, float(row["ra"]), float(row["dec"]), 0.7)
        write(folder / f"{band}{band}-{band}.fits", pixels.astype(np.float32), wcs, FILTER=band)
        write(folder / f"{band}{band}-{band}-invvar.fits", np.full(shape, 4, np.float32), wcs, FILTER=band)
    catalogue(folder, [row])
    store = prepared(folder, tmp_path / "s.zarr", size_px=32, reproject=True)
    stamp, ivar = field(store, "image", "s000"), field(store, "image.ivar", "s000")
    np.testing.assert_allclose(stamp.sum(axis=(1, 2)), 1000, rtol=0.005)
    assert np.abs(stamp[0] - stamp[1]).max() < 0.02 * stamp.max()
    assert (ivar[:, 4:-4, 4:-4] > 4).all()  # a mean of pixels is less noisy than one


def test_surface_brightness_keeps_its_values_where_pixels_grow(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    write(folder / "t0-g.fits", np.full((120, 150), 3, np.float32), wcs, FILTER="g", BUNIT="MJy/sr")
    write(folder / "t0-r.fits", np.full((120, 150), 3, np.float32), wcs, FILTER="r")
    catalogue(folder, at(wcs, [75], [60]))
    store = prepared(folder, tmp_path / "s.zarr", size_px=32, scale_arcsec_px=0.8)
    stamp = field(store, "image", "s000")
    np.testing.assert_allclose(stamp[0], 3, rtol=1e-5)
    np.testing.assert_allclose(stamp[1], 12, rtol=1e-5)
    assert value(store, "unit", "s000") == "g: MJy/sr, r: nanomaggy"


def halves(folder: Path, first: str, second: str) -> tuple[WCS, np.ndarray]:
    """Two tiles on one grid that overlap by 20 px, with some bands each; the whole WCS and pixels."""
    whole = tan(shape=(120, 300))
    pixels = np.random.default_rng(5).normal(0, 1, (120, 300)).astype(np.float32)
    for name, start, bands in (("a", 0, first), ("b", 140, second)):
        part = whole.deepcopy()
        part.wcs.crpix = [whole.wcs.crpix[0] - start, whole.wcs.crpix[1]]
        for band in bands:
            write(folder / f"{name}-{band}.fits", pixels[:, start : start + 160], part, FILTER=band)
    return whole, pixels


def test_a_tile_with_a_band_that_the_owner_lacks_gives_that_band_and_stitches_no_other(
    folder: Path, tmp_path: Path
) -> None:
    whole, pixels = halves(folder, "g", "gr")
    catalogue(folder, at(whole, [145.3], [60.3]))
    store = prepared(folder, tmp_path / "s.zarr", size_px=40)
    assert value(store, "tile", "s000") == "a"
    assert value(store, "coverage_g", "s000") == 34 / 40
    assert value(store, "coverage_r", "s000") == 26 / 40
    np.testing.assert_array_equal(field(store, "image", "s000")[1][:, 14:], pixels[41:81, 140:166])
    both = prepared(folder, tmp_path / "t.zarr", size_px=40, stitch=True)
    assert value(both, "coverage_g", "s000") == 1
    assert value(both, "coverage_r", "s000") == 26 / 40


def test_a_band_that_the_owner_lacks_comes_from_the_tile_that_shows_most_of_it(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    pixels = tiles(folder, wcs, "g", name="owner")[0]
    for name, columns in (("a1", slice(0, 65)), ("b2", slice(40, 150))):  # a1 is read first, b2 shows all
        part = wcs.deepcopy()
        part.wcs.crpix = [wcs.wcs.crpix[0] - columns.start, wcs.wcs.crpix[1]]
        write(folder / f"{name}-r.fits", np.full_like(pixels[:, columns], columns.start), part, FILTER="r")
    catalogue(folder, at(wcs, [62.2], [60.2]))
    store = prepared(folder, tmp_path / "s.zarr")
    assert value(store, "tile", "s000") == "owner"
    assert (field(store, "image", "s000")[1] == 40).all()


def test_bands_that_nobody_asked_for_are_as_if_they_were_not_there(folder: Path, tmp_path: Path) -> None:
    tiles(folder, tan(), "g")
    tiles(folder, tan(turn_deg=30), "gr", name="u7")
    write(folder / "t0-i.fits", np.ones((120, 150), np.float32), tan(), FILTER="i", BUNIT="MJy/sr")
    catalogue(folder, at(tan(), [75], [60]))
    store = prepared(folder, tmp_path / "s.zarr", bands=("g",))
    assert value(store, "unit", "s000") == "nanomaggy"


def test_grids_that_are_mirrored_around_a_source_are_not_one(folder: Path, tmp_path: Path) -> None:
    here, mirrored = tan(), tan()
    mirrored.wcs.cd = here.wcs.cd * np.array([[-1, -1], [1, 1]])
    tiles(folder, here, "g")
    tiles(folder, mirrored, "r", name="u7")
    catalogue(folder, at(here, [74.5], [59.5]))
    with pytest.raises(DataError, match="different grids"):
        prepared(folder, tmp_path / "s.zarr")


def test_grid_stamps_are_cut_from_the_tile_that_they_are_named_for_with_or_without_wcs(
    folder: Path, tmp_path: Path
) -> None:
    tiles(folder, tan(), "g")
    tiles(folder, tan(150.0 + 30.3 * SCALE), "g", name="u7")
    write(folder / "nowhere-g.fits", np.ones((60, 70), np.float32), None, FILTER="g")
    store = prepared(folder, tmp_path / "s.zarr", grid_px=SIDE)
    assert not store.refusals().num_rows
    assert {"t0", "u7", "nowhere"} == set(store.column("tile"))
    for identifier, tile, x in zip(store.ids, store.column("tile"), store.column("origin_x"), strict=True):
        assert identifier.startswith(tile)
        assert x % SIDE == 0


def test_mask_bits_above_those_that_fit_still_make_a_pixel_bad(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    mask = np.zeros((120, 150), np.int32)
    mask[60, 75], mask[60, 76], mask[60, 77] = -(2**31), 1 << 29, 1
    write(folder / "t0-g-mask.fits", mask, wcs, FILTER="g")
    catalogue(folder, at(wcs, [75], [60]))
    stored = field(prepared(folder, tmp_path / "s.zarr"), "image.mask", "s000")
    assert sorted(stored[stored != 0].tolist()) == [1, 1 << 28, 1 << 28]


def test_survey_bits_take_masks_of_any_type() -> None:
    top = 1 << 28
    for mask, bits in (
        (np.array([True, False]), [1, 0]), (np.array([255, 1], np.uint8), [255, 1]),
        (np.array([-(2**15), 3], np.int16), [1 << 15, 3]), (np.array([1 << 40, 2], np.int64), [top, 2]),
        (np.array([4, np.nan, np.inf, 0], np.float32), [4, top, top, 0]),
        (np.array([2**31 + 5], np.uint32), [top | 5]),
    ):
        np.testing.assert_array_equal(survey_bits(mask), np.array(bits, np.int32))


def test_a_field_too_large_for_memory_is_refused(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    rows = at(wcs, [75, 40], [60, 50])
    catalogue(folder, [{**rows[0], "size": "10"}, {**rows[1], "size": "4e6"}])
    refused = prepared(folder, tmp_path / "s.zarr", size_column="size").refusals().to_pylist()
    assert [(entry["id"], entry["reason"]) for entry in refused] == [("s001", "too-large")]
    assert refused[0]["detail"] == "its field has 10000000 px, stamps are made from at most 2048 px"


def test_resampling_in_batches_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    catalogue(folder, at(wcs, *np.random.default_rng(2).uniform(20, 100, (2, 9))))
    whole = prepared(folder, tmp_path / "s.zarr", scale_arcsec_px=0.5)
    monkeypatch.setattr("sciencessl.data_prep.survey_bands.BATCH_PX", 3000)
    assert prepared(folder, tmp_path / "t.zarr", scale_arcsec_px=0.5).digest == whole.digest


def test_a_tile_that_ends_the_process_which_reads_it_refuses_each_of_its_sources(folder: Path, tmp_path: Path) -> None:
    wcs = tan()
    tiles(folder, wcs, "g")
    catalogue(folder, at(wcs, [75, 30], [60, 30]))
    spec = load_domain("galaxy")
    source = survey(spec, [folder], PrepareSettings(), SurveySettings(size_px=SIDE))
    plan = make_plan("galaxy", source)
    header = begin(tmp_path / "s.zarr", plan, overwrite=False)
    ((entry,),) = [task.inputs for task in plan.tasks]
    receipt = prepare_row(tmp_path / "s.zarr", header, plan.tasks[0], source, {entry.id: "it ended"})
    assert receipt.refused == {"crashed": 2}


def test_preparing_a_survey_loads_no_torch(folder: Path, tmp_path: Path) -> None:
    tiles(folder, tan(), "g")
    catalogue(folder, at(tan(), [75], [60]))
    code = ("import sys, sciencessl; sciencessl.prepare('galaxy', [sys.argv[1]], sys.argv[2], {'workers': 0}); "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / "s.zarr")], check=True)
