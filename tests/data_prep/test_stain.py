"""Stain fits and normalisation: known stains are found again, two stainings of one tissue agree, glass stays."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.stain import (
    FITS,
    MOST_PIXELS,
    NAMES,
    TARGETS,
    StainFit,
    fit_macenko,
    fit_reinhard,
    fit_slide,
    normalise,
)
from sciencessl.errors import ConfigError, DataError

USUAL = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
BLUISH = ((0.75, 0.60, 0.25), (0.30, 0.90, 0.30))
PURPLE = ((0.55, 0.78, 0.35), (0.15, 0.85, 0.50))
METHODS = list(FITS)


def amounts(side: int = 96, seed: int = 0) -> np.ndarray:
    """(S, S, 2) smooth amounts of both stains, with pure places of each and some glass."""
    rng = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), 3) for _ in range(3)]
    nuclei, pink, holes = (field / field.std() for field in fields)
    both = np.stack([np.clip(nuclei, 0, None), np.clip(0.6 + 0.4 * pink, 0, None)], axis=-1)
    both[nuclei > 1, 1] = 0
    both[holes > 1] = 0
    return both


def paint(amount: np.ndarray, stains: Any = USUAL, strength: Any = (1.0, 1.0), noise: float = 0.0) -> np.ndarray:
    """Natural densities of amounts in these stains, as uint8 pixels."""
    vectors = np.array(stains) / np.linalg.norm(stains, axis=1, keepdims=True)
    light = 256 * np.exp(-(amount * strength) @ vectors) - 1
    light += np.random.default_rng(1).normal(0, noise, light.shape) if noise else 0
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def pixels(**kwargs: Any) -> np.ndarray:
    return paint(amounts(), **kwargs).reshape(-1, 3)


def degrees(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(np.degrees(np.arccos(min(1.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b)))))


class TestMacenko:
    @pytest.mark.parametrize("stains", [USUAL, BLUISH, PURPLE])
    @pytest.mark.parametrize("noise", [0.0, 3.0])
    def test_known_stains_are_found_in_order(self, stains: Any, noise: float) -> None:
        fit = fit_macenko(pixels(stains=stains, noise=noise))
        assert degrees(fit.values[:3], stains[0]) < (1.5 if noise == 0 else 4)
        assert degrees(fit.values[3:6], stains[1]) < (1.5 if noise == 0 else 4)
        assert np.linalg.norm(np.reshape(fit.values[:6], (2, 3)), axis=1) == pytest.approx([1, 1], abs=1e-5)

    def test_amounts_are_the_99th_percentiles(self) -> None:
        amount = amounts()
        fit = fit_macenko(paint(amount, strength=(1.3, 0.7)).reshape(-1, 3))
        tissue = amount.reshape(-1, 2)[amount.sum(axis=-1).ravel() > 0.3]
        assert fit.values[6:] == pytest.approx(np.percentile(tissue * (1.3, 0.7), 99, axis=0), rel=0.04)

    def test_equals_an_independent_computation(self) -> None:
        rgb = pixels(stains=PURPLE, noise=2.0)
        density = -np.log((rgb.astype(float) + 1) / 256)
        density = density[density.mean(axis=1) >= 0.15]
        _, _, rows = np.linalg.svd(density, full_matrices=False)
        first, second = rows[0] * np.sign(rows[0].sum()), rows[1]
        angles = np.sort(np.arctan2(density @ second, density @ first))
        at = (len(angles) - 1) * np.array([0.01, 0.99])
        ends = [np.cos(a) * first + np.sin(a) * second for a in np.interp(at, np.arange(len(angles)), angles)]
        expected = np.maximum(sorted(ends, key=lambda vector: -vector[0]), 0)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        most = np.percentile(np.linalg.lstsq(expected.T, density.T, rcond=None)[0], 99, axis=1)
        fit = fit_macenko(rgb)
        assert fit.values == pytest.approx([*expected.ravel(), *most], abs=1e-6)
        assert fit.pixels == len(density)

    def test_eosin_that_lets_red_pass_is_found(self) -> None:
        # A defect elsewhere: with a threshold on every channel pure eosin is no tissue, and haematoxylin gets in.
        amount = amounts()
        amount[..., 0] *= np.random.default_rng(0).random(amount.shape[:2]) > 0.2
        pale = paint(amount, strength=(1.0, 0.8)).reshape(-1, 3)
        assert degrees(fit_macenko(pale).values[3:6], USUAL[1]) < 2

    def test_it_does_not_matter_how_pixels_are_ordered_or_how_much_glass_there_is(self) -> None:
        rgb = pixels(noise=2.0)
        fit = fit_macenko(rgb)
        shuffled = np.random.default_rng(0).permutation(np.concatenate([rgb, np.full_like(rgb, 250)]))
        assert fit_macenko(shuffled).values == pytest.approx(fit.values, abs=2e-6)

    @pytest.mark.parametrize("more", [(3.0, 0.5), (0.4, 2.0)])
    def test_haematoxylin_is_first_whichever_prevails(self, more: tuple[float, float]) -> None:
        fit = fit_macenko(pixels(strength=more))
        assert fit.values[0] > fit.values[3]
        assert degrees(fit.values[:3], USUAL[0]) < 3


class TestReinhard:
    def lab(self, rgb: np.ndarray) -> np.ndarray:
        """The paper's l, alpha and beta, written out."""
        r, g, b = ((rgb.reshape(-1, 3).astype(float) + 1) / 256).T
        long = np.log(0.3811 * r + 0.5783 * g + 0.0402 * b)
        medium = np.log(0.1967 * r + 0.7244 * g + 0.0782 * b)
        short = np.log(0.0241 * r + 0.1288 * g + 0.8444 * b)
        return np.stack([(long + medium + short) / 3**0.5, (long + medium - 2 * short) / 6**0.5,
                         (long - medium) / 2**0.5], axis=1)

    def test_equals_the_papers_formulas(self) -> None:
        rgb = pixels(stains=BLUISH)
        tissue = -np.log((rgb + 1.0) / 256).mean(axis=1) >= 0.15
        lab = self.lab(rgb[tissue])
        assert fit_reinhard(rgb).values == pytest.approx([*lab.mean(axis=0), *lab.std(axis=0)], abs=1e-6)

    def test_tissue_gets_the_targets_mean_and_deviation(self) -> None:
        amount = amounts() * 0.5 + 0.35
        tile, other = paint(amount, USUAL), paint(amounts(seed=5) * 0.5 + 0.3, PURPLE)
        target = fit_slide([other], "reinhard")
        lab = self.lab(normalise(tile, fit_slide([tile], "reinhard"), target))
        assert [*lab.mean(axis=0), *lab.std(axis=0)] == pytest.approx(target.values, abs=0.01)

    def test_the_usual_target_is_the_documented_one(self) -> None:
        # The documented l is the mean of logarithms of values to 256, ours of intensities to 1.
        assert TARGETS["reinhard"].values[0] + 3**0.5 * np.log(256) == pytest.approx(8.74108109)


@pytest.mark.parametrize("method", METHODS)
class TestNormalise:
    def test_two_stainings_of_one_tissue_agree(self, method: str) -> None:
        amount = amounts()
        one, two = paint(amount, USUAL, (1.0, 1.0)), paint(amount, BLUISH, (1.4, 0.8))
        a, b = (normalise(tile, fit_slide([tile], method), TARGETS[method]).astype(int) for tile in (one, two))
        before = np.abs(one.astype(int) - two).mean()
        assert before > 12
        assert np.abs(a - b).mean() < (0.1 if method == "macenko" else 0.4) * before

    def test_doing_it_twice_changes_nothing_more(self, method: str) -> None:
        tile, other = paint(amounts() * 0.5 + 0.35, BLUISH), paint(amounts(seed=5) * 0.5 + 0.4, PURPLE)
        target = fit_slide([other], method)
        once = normalise(tile, fit_slide([tile], method), target)
        twice = normalise(once, fit_slide([once], method), target)
        assert np.abs(once.astype(int) - tile).mean() > 5
        assert np.abs(twice.astype(int) - once).mean() < 1.5

    def test_the_own_fit_as_target_changes_nothing(self, method: str) -> None:
        tile = paint(amounts(), PURPLE)
        fit = fit_slide([tile], method)
        assert np.abs(normalise(tile, fit, fit).astype(int) - tile).max() <= 3

    def test_glass_keeps_its_colour(self, method: str) -> None:
        # A defect elsewhere: tiles without tissue come out pink, or grey.
        fit = fit_slide([paint(amounts(), BLUISH, (1.5, 1.5))], method)
        white = np.full((16, 16, 3), 255, np.uint8)
        assert np.array_equal(normalise(white, fit, TARGETS[method]), white)
        glass = np.clip(np.random.default_rng(0).normal(244, 2, (16, 16, 3)), 0, 255).astype(np.uint8)
        assert np.abs(normalise(glass, fit, TARGETS[method]).astype(int) - glass).max() <= 6

    def test_a_batch_is_its_tiles(self, method: str) -> None:
        tiles = np.stack([paint(amounts(32, seed), PURPLE) for seed in range(3)])
        fit = fit_slide([paint(amounts(), PURPLE)], method)
        batch = normalise(tiles, fit, TARGETS[method])
        assert batch.dtype == np.uint8
        assert all(np.array_equal(batch[i], normalise(tiles[i], fit, TARGETS[method])) for i in range(3))
        turned = normalise(tiles[0][::-1], fit)
        assert np.array_equal(turned, batch[0][::-1])

    def test_black_and_strange_pixels_are_just_pixels(self, method: str) -> None:
        fit = fit_slide([paint(amounts())], method)
        odd = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        odd[:4] = 0
        out = normalise(odd, fit, TARGETS[method])
        assert out[:4].max() < 60

    def test_what_is_no_tile_is_refused(self, method: str) -> None:
        fit = TARGETS[method]
        for wrong in (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)):
            with pytest.raises(DataError, match=r"expected \(H, W, 3\) or \(B, H, W, 3\) uint8 tiles"):
                normalise(wrong, fit, fit)


def test_macenko_equals_the_formula_pixel_by_pixel() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    fit, target = fit_macenko(pixels(stains=PURPLE)), TARGETS["macenko"]
    s, t = (np.reshape(one.values[:6], (2, 3)) for one in (fit, target))
    for at in np.ndindex(12, 12):
        density = -np.log((tile[at].astype(float) + 1) / 256)
        amount = np.maximum(np.linalg.lstsq(s.T, density, rcond=None)[0], 0)
        new = np.exp(-(amount * np.array(target.values[6:]) / fit.values[6:]) @ t)
        share = min(density.mean() / 0.15, 1) ** 2
        expected = 256 * (share * new + (1 - share) * np.exp(-density)) - 1
        assert np.abs(normalise(tile, fit, target)[at] - expected).max() < 0.51


@pytest.mark.parametrize("method", METHODS)
class TestFits:
    def test_values_survive_json(self, method: str) -> None:
        fit = FITS[method](pixels())
        values = json.loads(json.dumps(fit.to_dict()))
        assert set(values) == {"method", "pixels", *NAMES[method]}
        assert StainFit.from_dict({"slide": "s1", **values}) == fit
        assert {type(value) for value in fit.values} == {float}
        assert {type(value) for value in TARGETS[method].values} == {float}
        del values["pixels"]
        with pytest.raises(ConfigError, match=r"stain fit: pixels missing from .*fit the slide again"):
            StainFit.from_dict(values)

    @pytest.mark.parametrize("empty", [np.empty((0, 3), np.uint8), np.full((5000, 3), 250, np.uint8)])
    def test_glass_alone_has_no_stain(self, method: str, empty: np.ndarray) -> None:
        with pytest.raises(Refused, match=r"no-stain: 0 of \d+ pixels are stained tissue.*--stain none"):
            FITS[method](empty)

    @pytest.mark.parametrize("colour", [(220, 150, 190), (0, 0, 0), (128, 128, 128)])
    def test_one_colour_has_no_stain(self, method: str, colour: tuple[int, ...]) -> None:
        noisy = np.random.default_rng(0).normal(colour, 2, (5000, 3)) if any(colour) else np.zeros((5000, 3))
        with pytest.raises(Refused, match=r"no-stain: tissue has one colour without variation.*leave the slide out"):
            FITS[method](np.clip(noisy, 0, 255).astype(np.uint8))

    def test_many_tiles_take_bounded_memory_and_give_the_same(self, method: str) -> None:
        tile = paint(amounts(128), noise=2.0)
        few, many = fit_slide([tile], method), fit_slide((tile for _ in range(300)), method)
        assert 4 * few.pixels < many.pixels <= MOST_PIXELS
        assert many.values == pytest.approx(few.values, abs=0.03)
        assert fit_slide([tile, np.full_like(tile, 255)], method) == few

    def test_what_is_no_pixels_is_refused(self, method: str) -> None:
        with pytest.raises(DataError, match=r"expected \(n, 3\) uint8 pixels, got float64"):
            FITS[method](np.zeros((5, 3)))


def test_one_stain_alone_and_other_colours_are_not_he() -> None:
    grey = np.exp(-np.linspace(0.3, 2, 5000))[:, None] * np.full(3, 255.0)
    with pytest.raises(Refused, match=r"no-stain: haematoxylin and eosin would be \d\.\d degrees apart"):
        fit_macenko(grey.astype(np.uint8))
    with pytest.raises(Refused, match=r"no-stain: tissue is grey or of one hue; use --stain none"):
        fit_reinhard(grey.astype(np.uint8))
    with pytest.raises(Refused, match=r"no-stain: what would be haematoxylin is \d\d degrees from it.*not H&E"):
        fit_macenko(pixels(stains=((1.0, 0.1, 0.1), (0.1, 0.1, 1.0))))


def test_methods_are_named() -> None:
    with pytest.raises(ConfigError, match="stain method"):
        fit_slide([], "vahadane")
    with pytest.raises(ConfigError, match="fitted by macenko, the target by reinhard"):
        normalise(np.zeros((8, 8, 3), np.uint8), TARGETS["macenko"], TARGETS["reinhard"])
    with pytest.raises(Refused, match="no-stain: 0 of 0 pixels"):
        fit_slide([], "macenko")


@pytest.mark.parametrize("method", METHODS)
def test_real_photographs_come_to_one_staining(shared_data: Path, method: str) -> None:
    folder = shared_data / "pathology/lc25000_lung"
    of: dict[str, list[Path]] = {}
    with (folder / "catalogue.csv").open() as file:
        for row in csv.DictReader(file):
            of.setdefault(row["source_tile"], []).append(folder / row["file"])
    photographs = [files[:4] for files in of.values() if len(files) >= 12][::20]
    before, after = [], []
    for files in photographs:
        tiles = np.stack([np.asarray(Image.open(file)) for file in files])
        before.append(fit_slide(tiles, method))
        after.append(fit_slide(normalise(tiles, before[-1], TARGETS[method]), method))
    spread = [np.std([fit.values[:6] for fit in fits], axis=0).mean() for fits in (before, after)]
    assert len(photographs) > 5
    assert spread[1] < 0.35 * spread[0]
