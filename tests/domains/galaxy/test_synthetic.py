"""The synthetic survey on disk: catalogue, truth, tiles and stamps agree with each other, and with a store of them."""

from __future__ import annotations

import csv
import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sciencessl
from sciencessl.data_prep.vote_columns import match_columns
from sciencessl.domains.galaxy.exposure import PIXEL_SCALE
from sciencessl.domains.galaxy.morphology import BANDS
from sciencessl.domains.galaxy.schema import SCHEMAS
from sciencessl.domains.galaxy.synthetic import OVERLAP, STAMP, rgb, synthetic_survey
from sciencessl.errors import ConfigError

fits = pytest.importorskip("astropy.io.fits")
WCS = pytest.importorskip("astropy.wcs").WCS

N = 46
SIDE = 64

Row = dict[str, str]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_survey(tmp_path_factory.mktemp("survey"), np.random.default_rng(11), N)


@pytest.fixture(scope="module")
def rows(survey: Path) -> list[Row]:
    return table(survey / "catalogue.csv")


@pytest.fixture(scope="module")
def truth(survey: Path) -> list[Row]:
    return table(survey / "truth.csv")


@pytest.fixture(scope="module")
def store(survey: Path) -> sciencessl.Store:
    """As `prepare galaxy FOLDER` makes it: from the tiles."""
    out = survey.parent / "survey.zarr"
    sciencessl.prepare("galaxy", [survey], out, {"keep": ("mag_r", "redshift", "r50_arcsec")})
    return sciencessl.Store(out)


def table(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sky(rows: list[Row]) -> np.ndarray:
    return np.array([[float(row["ra"]), float(row["dec"])] for row in rows])


def blocks(image: np.ndarray) -> np.ndarray:
    """Grey means of 4 x 4 pixels."""
    means: np.ndarray = image.astype(float).mean(axis=2).reshape(STAMP // 4, 4, STAMP // 4, 4).mean(axis=(1, 3))
    return means


def centroid(plane: np.ndarray, x: float, y: float) -> np.ndarray:
    """x and y of the light within a Gaussian window that moves along with it."""
    down, across = np.indices(plane.shape)
    for _ in range(20):
        weights = plane * np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * 1.5**2))
        moved = np.array([(weights * across).sum(), (weights * down).sum()]) / weights.sum()
        x, y = np.array([x, y]) + 2 * (moved - (x, y))
    return np.array([x, y])


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wcs_of(store: sciencessl.Store, row: int) -> WCS:
    wcs = WCS(naxis=2)
    value = {name: store.column(f"wcs_{name}")[row] for name in
             ("crval1", "crval2", "crpix1", "crpix2", "cd1_1", "cd1_2", "cd2_1", "cd2_2")}
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [value["crval1"], value["crval2"]]
    wcs.wcs.crpix = [value["crpix1"], value["crpix2"]]
    wcs.wcs.cd = [[value["cd1_1"], value["cd1_2"]], [value["cd2_1"], value["cd2_2"]]]
    return wcs


def planes(store: sciencessl.Store) -> dict[str, np.ndarray]:
    """Field -> (N, C, H, W)."""
    return {name: np.stack(store.payloads(name, np.arange(len(store)))) for name in store.header.fields}


def test_catalogue_and_stamps(survey: Path, rows: list[Row]) -> None:
    assert list(rows[0])[:9] == ["id_str", "ra", "dec", "mag_g", "mag_r", "mag_z", "r50_arcsec", "redshift", "class"]
    assert len({row["id_str"] for row in rows}) == N
    assert {f"{row['id_str']}.jpg" for row in rows} == {path.name for path in (survey / "stamps").glob("*.jpg")}
    for row in rows:
        image = np.asarray(Image.open(survey / "stamps" / f"{row['id_str']}.jpg"))
        assert image.shape == (STAMP, STAMP, 3)
        middle, background = image[32:40, 32:40].mean(), np.median(image)
        assert middle > background + 20


def test_magnitudes_sizes_and_redshifts_are_those_of_galaxies(rows: list[Row], truth: list[Row]) -> None:
    for row, true in zip(rows, truth, strict=False):
        assert row["id_str"] == true["id_str"]
        for band in BANDS:
            assert abs(float(row[f"mag_{band}"]) - (22.5 - 2.5 * np.log10(float(true[f"flux_{band}"])))) < 6e-4
        assert abs(float(row["r50_arcsec"]) - float(true["r50_arcsec"])) < 6e-4
        # By hand: distance modulus of cz / 70 km/s/Mpc, and a luminosity within 4 standard deviations of -21.
        modulus = 5 * np.log10(float(row["redshift"]) * 3e5 / 70) + 25
        assert -23.8 < float(row["mag_r"]) - modulus < -18.2


def test_classes_are_balanced_and_some_are_mergers(rows: list[Row]) -> None:
    counts = Counter(row["class"] for row in rows)
    assert counts.pop("merger") == N // 13
    assert set(counts) == {"elliptical", "spiral", "edge-on"}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_votes_fit_the_schema(rows: list[Row]) -> None:
    schema = SCHEMAS["gzd5"]
    assert match_columns(schema, list(rows[0])).columns == {column: column for column in schema.columns}
    votes = np.array([[int(row[column]) for column in schema.columns] for row in rows])
    totals = votes[:, :3].sum(axis=1)
    assert totals.min() >= 20
    assert totals.max() <= 40
    start, stop = schema.groups[-1]
    np.testing.assert_array_equal(votes[:, start:stop].sum(axis=1), votes[:, 0] + votes[:, 1])
    smooth = votes[:, 0] / totals
    elliptical = np.array([row["class"] == "elliptical" for row in rows])
    assert smooth[elliptical].mean() > smooth[~elliptical].mean() + 0.3


def test_tiles_lie_on_one_grid_and_overlap(survey: Path, rows: list[Row]) -> None:
    """Some galaxies lie on two tiles, and both show the same light there."""
    (first, left), (second, right) = (
        (WCS(fits.getheader(path)), fits.getdata(path)) for path in sorted((survey / "tiles").glob("*-r.fits"))
    )
    shift = first.wcs.crpix - second.wcs.crpix
    np.testing.assert_array_equal(shift, np.rint(shift))
    assert left.shape[1] - shift[0] == OVERLAP
    step = int(shift[0])
    apart = left[:, step:] - right[:, :OVERLAP]
    assert abs(np.nanmedian(apart)) < 0.001
    # Noise of the two exposures is independent: 0.010 each.
    assert 0.010 < 1.4826 * np.nanmedian(np.abs(apart)) < 0.020
    x, y = first.all_world2pix(sky(rows), 0).T
    on_left, on_right = (x < left.shape[1] - 0.5), (x > step - 0.5)
    assert (on_left | on_right).all()
    assert 3 < (on_left & on_right).sum() < N / 2
    assert (np.minimum(x, y) < SIDE / 2).any()  # their stamps reach beyond the edge


def test_stamps_are_cut_from_the_tiles_around_the_position(survey: Path, rows: list[Row]) -> None:
    compared = sum(compare_stamps(survey, number, rows) for number in (0, 1))
    assert compared >= 3


def compare_stamps(survey: Path, tile: int, rows: list[Row]) -> int:
    """How many image files were compared with the tile that they are cut from."""
    rows = np.array_split(np.array(rows), 2)[tile].tolist()
    names = [survey / "tiles" / f"tile-{tile:03d}-{band}.fits" for band in BANDS]
    cube = np.stack([fits.getdata(path) for path in names])
    mask = np.stack([fits.getdata(path.with_name(f"{path.stem}-mask.fits")) for path in names])
    assert (cube.dtype.kind, cube.dtype.itemsize, mask.dtype.kind) == ("f", 4, "i")
    wcs = WCS(fits.getheader(names[0]))
    np.testing.assert_allclose(np.abs(wcs.proj_plane_pixel_scales()[0].to_value("arcsec")), PIXEL_SCALE, rtol=1e-6)
    compared = 0
    for row in rows:
        x, y = np.rint(wcs.all_world2pix(float(row["ra"]), float(row["dec"]), 0)).astype(int)
        place = np.s_[:, y - STAMP // 2 : y + STAMP // 2, x - STAMP // 2 : x + STAMP // 2]
        inside = cube[place].shape[1:] == (STAMP, STAMP)
        if not inside or min(x, y) < STAMP // 2 or mask[place].any() or not np.isfinite(cube[place]).all():
            continue
        compared += 1
        cut = rgb(cube[place])
        stamp = blocks(np.asarray(Image.open(survey / "stamps" / f"{row['id_str']}.jpg")))
        # The first row is the top in an image file and the bottom in FITS. JPEG drops colour noise, not block means.
        kept, flipped = np.abs(stamp - blocks(cut[::-1])).mean(), np.abs(stamp - blocks(cut)).mean()
        assert kept < 3.5
        assert flipped > 1.5 * kept
    return compared


def test_headers_name_band_unit_and_seeing(survey: Path) -> None:
    seeing = set()
    for tile in ("000", "001"):
        for band in BANDS:
            header = fits.getheader(survey / "tiles" / f"tile-{tile}-{band}.fits")
            assert (header["FILTER"], header["BUNIT"], header["CTYPE1"]) == (band, "nanomaggy", "RA---TAN")
            seeing.add(header["PSFFWHM"])
    assert len(seeing) == 6
    assert all(0.9 < fwhm < 1.4 for fwhm in seeing)


def test_a_store_of_the_tiles_holds_all_galaxies_in_place(store: sciencessl.Store, rows: list[Row]) -> None:
    assert list(store.header.fields) == ["image", "image.ivar", "image.mask"]
    assert store.header.fields["image"].channels == BANDS
    assert sorted(store.ids) == sorted(row["id_str"] for row in rows)
    assert {"mag_r", "redshift", "r50_arcsec", "psf_fwhm_arcsec_r"} <= set(store.columns())
    coverage = np.asarray(store.column("coverage"))
    assert 0.5 < coverage.min() < 1
    known = {row["id_str"]: row for row in rows}
    for number, name in enumerate(store.ids):
        x, y = wcs_of(store, number).all_world2pix(sky([known[name]]), 0)[0]
        # Whole pixels are kept, so the source is off the middle by half a pixel at most.
        assert max(abs(x - (SIDE - 1) / 2), abs(y - (SIDE - 1) / 2)) < 0.51


def test_noise_of_a_store_is_that_of_its_inverse_variance(store: sciencessl.Store) -> None:
    found = planes(store)
    image, mask, ivar = found["image"], found["image.mask"], found["image.ivar"]
    good = (mask == 0) & (ivar > 0)
    assert (ivar[mask != 0] == 0).all()
    assert 0.9 < good.mean() < 1
    # Differences of neighbours on blank sky, in units of what the weights say.
    blank = np.abs(image) < 0.05
    pairs = good[..., 1:] & good[..., :-1] & blank[..., 1:] & blank[..., :-1]
    apart = (image[..., 1:] - image[..., :-1])[pairs] / np.sqrt(1 / ivar[..., 1:][pairs] + 1 / ivar[..., :-1][pairs])
    assert abs(1.4826 * np.median(np.abs(apart)) - 1) < 0.05


def test_flux_in_a_stamp_is_the_true_flux(store: sciencessl.Store, truth: list[Row]) -> None:
    """Stamps without defects whose light all lies well inside: the sum of pixels is the sum of true fluxes."""
    found = planes(store)
    flux = np.array([[float(row[f"flux_{band}"]) for band in BANDS] for row in truth])
    radius = np.array([float(row["r50_arcsec"] or 0) / PIXEL_SCALE for row in truth])
    compared = 0
    for number in range(len(store)):
        image, ivar = found["image"][number], found["image.ivar"][number]
        if found["image.mask"][number].any():
            continue
        x, y = wcs_of(store, number).all_world2pix(sky(truth), 0).T
        depth = np.minimum(np.minimum(x, y), SIDE - 1 - np.maximum(x, y))  # inside the edge, negative beyond it
        reach = np.where(radius > 0, 3 + 1.8 * radius, 8)
        inside, straddles = depth > reach, (np.abs(depth) <= reach) & (flux[:, 1] > 0.3)
        if straddles.any():
            continue
        compared += 1
        total, sigma = image.sum(axis=(1, 2)), np.sqrt((1 / ivar).sum(axis=(1, 2)))
        assert (np.abs(total - flux[inside].sum(axis=0)) < 4 * sigma + 0.01 * flux[inside].sum(axis=0)).all()
    assert compared >= 3


def test_stars_lie_where_the_truth_says(survey: Path, truth: list[Row], tmp_path: Path) -> None:
    """Stamps around stars alone: their light is where the stamp's own WCS says, on average within 0.05 px."""
    places = sky(truth)
    pixels = [math.cos(math.radians(places[0, 1])), 1] * (places - places[0]) * 3600 / PIXEL_SCALE
    apart = np.hypot(*(pixels[:, None] - pixels[None]).T)
    alone = (apart + 1e9 * np.eye(len(truth))).min(axis=0) > 12
    galaxies = np.array([row["class"] != "star" for row in truth])
    radius = np.array([float(row["r50_arcsec"] or 0) for row in truth]) / PIXEL_SCALE
    alone &= (apart > 2 + 3 * radius[:, None])[galaxies].all(axis=0)
    chosen = [row for row, ok in zip(truth, alone, strict=True) if ok and 4 < float(row["flux_r"]) < 100]
    path = tmp_path / "stars.csv"
    path.write_text("id,ra,dec\n" + "".join(f"{row['id_str']},{row['ra']},{row['dec']}\n" for row in chosen))
    sciencessl.prepare("galaxy", [survey / "tiles"], tmp_path / "stars.zarr",
                       {"catalogue": str(path), "size_px": 16, "min_coverage": 1.0})
    store = sciencessl.Store(tmp_path / "stars.zarr")
    known = {row["id_str"]: row for row in chosen}
    found, offsets = planes(store), []
    for number, name in enumerate(store.ids):
        if found["image.mask"][number].any():
            continue
        x, y = wcs_of(store, number).all_world2pix(sky([known[name]]), 0)[0]
        # The bands together, each as much as its noise allows.
        light = np.tensordot(np.median(found["image.ivar"][number], axis=(1, 2)), found["image"][number], 1)
        offsets.append(centroid(light, x, y) - (x, y))
    assert len(offsets) >= 3
    # Photons alone make a star of 5 nanomaggies scatter by 0.03 px.
    assert np.abs(offsets).max() < 0.12
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.05


def test_same_generator_writes_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthetic_survey(tmp_path / name, np.random.default_rng(seed), 7)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_mean_colour_does_not_tell_the_class(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    folder = synthetic_survey(tmp_path, np.random.default_rng(5), 390)
    known = [row for row in table(folder / "catalogue.csv") if row["class"] != "merger"]
    stamps = [Image.open(folder / "stamps" / f"{row['id_str']}.jpg") for row in known]
    colour = np.stack([np.asarray(image).mean(axis=(0, 1)) / 255 for image in stamps])
    features = (colour - colour.mean(axis=0)) / colour.std(axis=0)
    score = cross_val_score(LogisticRegression(), features, [row["class"] for row in known], cv=5).mean()
    # Chance is 1/3; 360 galaxies give a standard error of 0.025.
    assert score < 0.46


def test_one_galaxy_and_none(tmp_path: Path) -> None:
    assert len(list((synthetic_survey(tmp_path, np.random.default_rng(0), 1) / "stamps").glob("*.jpg"))) == 1
    with pytest.raises(ConfigError, match="n must be 1 or more, got 0"):
        synthetic_survey(tmp_path, np.random.default_rng(0), 0)


def test_rgb_by_hand() -> None:
    # One band at a time: I = (0.03 * 3 + f * s) / 3, value = (f s + 0.03) asinh(20 I) / sqrt(20) / I.
    bands = np.zeros((3, 1, 2))
    bands[1, 0, 0] = 0.1
    intensity = (0.09 + 0.34) / 3
    factor = np.arcsinh(20 * intensity) / np.sqrt(20) / intensity
    expected = np.array([0.03, 0.37, 0.03]) * factor * 255
    np.testing.assert_allclose(rgb(bands)[0, 0], np.clip(expected, 0, 255), atol=0.51)
