"""The synthetic survey on disk: catalogue, stamps and tiles agree with each other."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sciencessl.data_prep.vote_columns import match_columns
from sciencessl.domains.galaxy.schema import SCHEMAS
from sciencessl.domains.galaxy.synthetic import PIXEL_SCALE, STAMP, rgb, synthetic_survey
from sciencessl.errors import ConfigError

N = 46


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_survey(tmp_path_factory.mktemp("survey"), np.random.default_rng(11), N)


@pytest.fixture(scope="module")
def rows(survey: Path) -> list[dict[str, str]]:
    with (survey / "catalogue.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def blocks(image: np.ndarray) -> np.ndarray:
    """Grey means of 4 x 4 pixels."""
    means: np.ndarray = image.astype(float).mean(axis=2).reshape(STAMP // 4, 4, STAMP // 4, 4).mean(axis=(1, 3))
    return means


def centroid(plane: np.ndarray, x: int, y: int) -> np.ndarray:
    """x and y of the light in 7 x 7 pixels, above the faintest of them."""
    window = plane[y - 3 : y + 4, x - 3 : x + 4]
    weights = (window - window.min()) / (window - window.min()).sum()
    rows, columns = np.indices(window.shape)
    return np.array([x - 3 + (weights * columns).sum(), y - 3 + (weights * rows).sum()])


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_catalogue_and_stamps(survey: Path, rows: list[dict[str, str]]) -> None:
    assert list(rows[0])[:6] == ["id_str", "file", "ra", "dec", "mag_r", "class"]
    assert len({row["id_str"] for row in rows}) == N
    assert {row["file"] for row in rows} == {f"stamps/{path.name}" for path in (survey / "stamps").iterdir()}
    for row in rows:
        image = np.asarray(Image.open(survey / row["file"]))
        assert image.shape == (STAMP, STAMP, 3)
        middle, sky = image[32:40, 32:40].mean(), np.median(image)
        assert middle > sky + 20


def test_classes_are_balanced(rows: list[dict[str, str]]) -> None:
    counts = Counter(row["class"] for row in rows)
    assert set(counts) == {"elliptical", "spiral", "edge-on"}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_votes_fit_the_schema(rows: list[dict[str, str]]) -> None:
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


def test_wcs_places_each_galaxy_on_one_tile_at_its_position(survey: Path, rows: list[dict[str, str]]) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    from astropy.wcs import WCS
    from scipy.ndimage import gaussian_filter

    sky = np.array([[float(row["ra"]), float(row["dec"])] for row in rows])
    found: list[list[np.ndarray]] = [[] for _ in rows]
    paths = sorted((survey / "tiles").glob("*-r.fits"))
    assert len(paths) == 2
    for path in paths:
        with fits.open(path) as hdus:
            plane, wcs = gaussian_filter(hdus[0].data.astype(float), 1.0), WCS(hdus[0].header)
        height, width = plane.shape
        for k, (x, y) in enumerate(wcs.all_world2pix(sky, 0)):
            if 0 <= x < width and 0 <= y < height:
                found[k].append(centroid(plane, round(x), round(y)) - (x, y))
    assert [len(places) for places in found] == [1] * N
    offsets = np.array(found)[:, 0]
    assert np.hypot(*offsets.T).max() < 1.0
    # Half a pixel here would be an origin or a flip gone wrong.
    assert np.abs(offsets.mean(axis=0)).max() < 0.2


def test_stamps_are_cut_from_the_tiles_around_the_position(survey: Path, rows: list[dict[str, str]]) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    from astropy.wcs import WCS

    bands = [survey / "tiles" / f"tile-000-{band}.fits" for band in "grz"]
    cube = np.stack([fits.getdata(path) for path in bands])
    assert cube.dtype.kind == "f"
    assert cube.dtype.itemsize == 4
    wcs = WCS(fits.getheader(bands[0]))
    np.testing.assert_allclose(np.abs(wcs.proj_plane_pixel_scales()[0].to_value("arcsec")), PIXEL_SCALE, rtol=1e-6)
    first = rows[: N // 2]
    for row in first[:8]:
        x, y = np.rint(wcs.all_world2pix(float(row["ra"]), float(row["dec"]), 0)).astype(int)
        cut = rgb(cube[:, y - STAMP // 2 : y + STAMP // 2, x - STAMP // 2 : x + STAMP // 2])
        stamp = blocks(np.asarray(Image.open(survey / row["file"])))
        # The first row is the top in an image file and the bottom in FITS. JPEG drops colour noise, not block means.
        kept, flipped = np.abs(stamp - blocks(cut[::-1])).mean(), np.abs(stamp - blocks(cut)).mean()
        assert kept < 3.5
        assert flipped > 1.5 * kept


def test_headers_name_band_and_unit(survey: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    for band in "grz":
        header = fits.getheader(survey / "tiles" / f"tile-001-{band}.fits")
        assert header["FILTER"] == band
        assert header["BUNIT"] == "nanomaggy"
        assert header["CTYPE1"] == "RA---TAN"


def test_same_generator_writes_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthetic_survey(tmp_path / name, np.random.default_rng(seed), 7)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_mean_colour_does_not_tell_the_class(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    folder = synthetic_survey(tmp_path, np.random.default_rng(5), 360)
    with (folder / "catalogue.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    colour = np.stack([np.asarray(Image.open(folder / row["file"])).mean(axis=(0, 1)) / 255 for row in rows])
    features = (colour - colour.mean(axis=0)) / colour.std(axis=0)
    score = cross_val_score(LogisticRegression(), features, [row["class"] for row in rows], cv=5).mean()
    # Chance is 1/3; 360 galaxies give a standard error of 0.025.
    assert score < 0.46


def test_one_galaxy_and_none(tmp_path: Path) -> None:
    assert len(list((synthetic_survey(tmp_path, np.random.default_rng(0), 1) / "stamps").iterdir())) == 1
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
