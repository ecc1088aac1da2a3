"""Quality columns of tiles: numbers for made-up tiles, and that tissue is not called ink, blur or fold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.tile_quality import (
    GLASS,
    QUALITY_COLUMNS,
    edge_width_px,
    optical_density,
    pen_pixels,
    tile_quality,
)
from sciencessl.errors import DataError
from tests.data_prep.tissue_scenes import (
    BLOOD,
    EOSIN,
    HAEMATOXYLIN,
    INKS,
    WHITE,
    picture,
    smooth_noise,
    stroke,
)

SIDE = 256
MPP = 0.5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def tissue_density(rng: np.random.Generator, nuclei: int = 90) -> np.ndarray:
    """(SIDE, SIDE, 3) optical density of eosin with dark round nuclei of 7 um."""
    cells = np.zeros((SIDE, SIDE), np.uint8)
    for x, y in rng.integers(0, SIDE, (nuclei, 2)).tolist():
        cv2.circle(cells, (x, y), 7, 1, -1)
    eosin = 0.25 * (1 + 0.2 * smooth_noise(rng, (SIDE, SIDE), 3))
    dark = 0.6 * cv2.GaussianBlur(cells.astype(float), (0, 0), 0.7)
    return eosin[..., None] * EOSIN + dark[..., None] * HAEMATOXYLIN


def tile_of(density: np.ndarray, noise: float = 1.0) -> np.ndarray:
    return picture(np.random.default_rng(0), density, noise=noise)


def blurred(tile: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(tile, (0, 0), sigma) if sigma else tile


def test_columns_are_those_that_are_documented(rng: np.random.Generator) -> None:
    found = tile_quality(tile_of(tissue_density(rng)), MPP)
    assert list(found) == list(QUALITY_COLUMNS) == ["background", "pen", "blur", "fold"]
    assert all(type(value) is float for value in found.values())
    assert all(name in (tile_quality.__doc__ or "") for name in found)


def test_tissue_in_focus_is_clean(rng: np.random.Generator) -> None:
    found = tile_quality(tile_of(tissue_density(rng)), MPP)
    assert found["background"] < 0.01
    assert found["pen"] < 0.005
    assert found["fold"] < 0.01
    assert found["blur"] < 0.6


@pytest.mark.parametrize("glass", [WHITE, (201, 199, 202)])
def test_background_is_the_share_of_glass(rng: np.random.Generator, glass: tuple[int, int, int]) -> None:
    density = tissue_density(rng)
    density[:, :64] = 0
    assert tile_quality(picture(rng, density, glass), MPP)["background"] == pytest.approx(0.25, abs=0.02)
    assert tile_quality(picture(rng, 0 * density, glass), MPP)["background"] > 0.99


def test_density_is_that_of_the_law() -> None:
    pixel = np.array([[[255, 119, 0]]], np.uint8)
    expected = [-math.log10(256 / 246), -math.log10(120 / 246), math.log10(246)]
    assert optical_density(pixel).ravel().tolist() == pytest.approx(expected, rel=1e-6)
    assert optical_density(np.full((2, 1, 3), 200, np.uint8), (200.0,) * 3).tolist() == [[[0, 0, 0]]] * 2
    assert GLASS == (245.0, 245.0, 245.0)


@pytest.mark.parametrize("ink", INKS)
def test_ink_on_glass_is_measured_by_its_area(rng: np.random.Generator, ink: str) -> None:
    tile = tile_of(np.zeros((SIDE, SIDE, 3)))
    drawn = stroke(tile, ink, (0, 128), (255, 128), 60)
    assert tile_quality(tile, MPP)["pen"] == pytest.approx(drawn.mean(), abs=0.02)


@pytest.mark.parametrize(("ink", "least"), [("blue", 0.5), ("green", 0.9), ("red", 0.2), ("black", 0.9)])
def test_ink_on_tissue_is_seen(rng: np.random.Generator, ink: str, least: float) -> None:
    tile = tile_of(tissue_density(rng, nuclei=30))
    drawn = stroke(tile, ink, (0, 128), (255, 128), 60)
    assert tile_quality(tile, MPP)["pen"] > least * drawn.mean()


@pytest.mark.parametrize("stain", [EOSIN, HAEMATOXYLIN, EOSIN + HAEMATOXYLIN, BLOOD, 0.5 * EOSIN + BLOOD])
@pytest.mark.parametrize("strength", [0.05, 0.2, 0.5, 1.0])
def test_stains_and_blood_are_no_ink(stain: np.ndarray, strength: float) -> None:
    tile = tile_of(np.broadcast_to(strength * stain, (SIDE, SIDE, 3)))
    assert pen_pixels(tile).mean() < 0.01


def test_faint_ink_is_for_looking_around_sure_ink() -> None:
    washed = tile_of(np.full((8, 8, 3), [0.11, 0.03, 0.04]), noise=0)
    assert not pen_pixels(washed).any()
    assert pen_pixels(washed, faint=True).all()


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0, 4.0])
def test_blur_of_one_edge_is_the_standard_deviation_of_its_gaussian(sigma: float) -> None:
    step = np.where(np.arange(SIDE) < 128, 30.0, 220.0)
    edge = np.broadcast_to(cv2.GaussianBlur(step[None], (0, 0), sigma), (SIDE, SIDE))
    grey = np.rint(edge).astype(np.uint8)
    assert edge_width_px(grey) == pytest.approx(sigma, rel=0.07)
    assert edge_width_px(np.ascontiguousarray(grey.T)) == pytest.approx(sigma, rel=0.07)
    tile = np.repeat(grey[..., None], 3, axis=2)
    for mpp in (0.25, 1.0):
        assert tile_quality(tile, mpp)["blur"] == pytest.approx(sigma * mpp, rel=0.07)


def test_blur_grows_with_defocus_and_survives_compression(rng: np.random.Generator) -> None:
    sharp = tile_of(tissue_density(rng))
    plain = [tile_quality(blurred(sharp, sigma), MPP)["blur"] for sigma in (0, 1, 2, 3)]
    assert plain == sorted(plain)
    assert plain[0] < 0.6
    assert plain[2] > 0.9
    for sigma, before in zip((0, 1, 2), plain, strict=False):
        _, raw = cv2.imencode(".jpg", blurred(sharp, sigma), [cv2.IMWRITE_JPEG_QUALITY, 85])
        assert tile_quality(cv2.imdecode(raw, cv2.IMREAD_COLOR), MPP)["blur"] == pytest.approx(before, abs=0.15)


# A defect elsewhere: the plain variance of the Laplacian calls pale tiles blurred.
def test_blur_does_not_depend_on_the_strength_of_the_stain(rng: np.random.Generator) -> None:
    density = tissue_density(rng)
    found = [tile_quality(tile_of(k * density, noise=0), MPP)["blur"] for k in (0.3, 0.6, 1.0)]
    assert max(found) - min(found) < 0.06
    half = density.copy()
    half[:128] = 0
    assert tile_quality(tile_of(half, noise=0), MPP)["blur"] == pytest.approx(found[-1], abs=0.1)


def test_tissue_too_soft_to_have_edges_counts_as_blurred(rng: np.random.Generator) -> None:
    density = np.repeat(0.15 + 0.05 * smooth_noise(rng, (SIDE, SIDE), 50)[..., None], 3, axis=2)
    assert tile_quality(tile_of(density, noise=0), MPP)["blur"] == 4 * MPP


def test_empty_tiles_have_no_blur_to_speak_of() -> None:
    assert math.isnan(tile_quality(np.full((SIDE, SIDE, 3), 243, np.uint8), MPP)["blur"])
    assert math.isnan(tile_quality(tile_of(np.zeros((SIDE, SIDE, 3))), MPP)["blur"])


def test_a_fold_is_tissue_laid_over_itself(rng: np.random.Generator) -> None:
    density = 1.5 * tissue_density(rng, nuclei=60)
    folded = density.copy()
    folded[80:176] *= 2
    fold = tile_quality(tile_of(folded), MPP)["fold"]
    assert 0.15 < fold < 0.4  # 0.375 of the tile, less half the window on either side
    assert tile_quality(tile_of(folded * 0.9), MPP)["fold"] == pytest.approx(fold, abs=0.1)
    assert tile_quality(tile_of(2 * density), MPP)["fold"] < 0.05  # strong stain everywhere is no fold


def test_columns_do_not_change_when_a_tile_is_turned(rng: np.random.Generator) -> None:
    density = tissue_density(rng)
    density[:60] = 0
    tile = tile_of(density)
    stroke(tile, "green", (0, 200), (255, 180), 20)
    expected = tile_quality(tile, MPP)
    turns: list[Callable[[np.ndarray], np.ndarray]] = [np.rot90, np.flipud, lambda tile: np.swapaxes(tile, 0, 1)]
    for turn in turns:
        assert tile_quality(np.ascontiguousarray(turn(tile)), MPP) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (37, 251)])
def test_tiles_of_any_size_and_scale_have_numbers(shape: tuple[int, int]) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for mpp in (0.05, 0.5, 40.0):
        found = tile_quality(tile, mpp)
        assert all(0 <= found[name] <= 1 for name in ("background", "pen", "fold"))
        assert math.isnan(found["blur"]) or found["blur"] >= 0


def test_a_tile_takes_little_time(rng: np.random.Generator) -> None:
    tile = tile_of(tissue_density(rng))
    tile_quality(tile, MPP)
    began = time.process_time()
    for _ in range(40):
        tile_quality(tile, MPP)
    assert (time.process_time() - began) / 40 < 4e-3  # 0.7 ms on a quiet core


def test_bad_tiles_are_refused_with_what_was_expected() -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    for bad in (good[..., 0], good.astype(np.uint16), good[:, :0]):
        with pytest.raises(DataError, match=r"tile_quality needs a \(h, w, 3\) uint8 tile; got"):
            tile_quality(bad, MPP)
    for mpp in (0.0, float("nan")):
        with pytest.raises(DataError, match=r"um a pixel, a number above 0; got"):
            tile_quality(good, mpp)


def test_real_tissue_is_clean_and_sharp_and_loses_focus_when_smoothed(shared_data: Path) -> None:
    names = sorted((shared_data / "pathology" / "lc25000_lung" / "lung_aca").iterdir())[:60:2]
    tiles = [cv2.cvtColor(cv2.imread(str(name)), cv2.COLOR_BGR2RGB) for name in names]
    found = [tile_quality(tile, 0.5) for tile in tiles]
    assert np.median([one["pen"] for one in found]) < 0.005
    assert max(one["pen"] for one in found) < 0.03
    assert np.percentile([one["fold"] for one in found], 90) < 0.05
    soft = [tile_quality(cv2.GaussianBlur(tile, (0, 0), 2), 0.5)["blur"] for tile in tiles]
    assert max(one["blur"] for one in found) < 0.65 < np.percentile(soft, 5)
