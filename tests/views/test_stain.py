"""Stain jitter against the formula in float64, and what it must leave alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from sciencessl.errors import DataError
from sciencessl.views.density import STAINS, stain_basis
from sciencessl.views.stain import StainJitter

NEUTRAL: dict[str, Any] = {"factors": [1.0] * 3, "shifts": [0.0] * 3}


def noise(side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def jitter(image: np.ndarray, **params: Any) -> np.ndarray:
    return StainJitter().apply(image, **(NEUTRAL | params))


def stained(amounts: list[float]) -> np.ndarray:
    """A flat tile with these amounts of haematoxylin, eosin and DAB."""
    value = 256 * 10 ** -(np.array(amounts) @ stain_basis()) - 1
    return np.broadcast_to(np.rint(np.clip(value, 0, 255)).astype(np.uint8), (8, 8, 3)).copy()


def amounts_of(image: np.ndarray) -> np.ndarray:
    """(3,) of a flat tile."""
    density = -np.log10((image[0, 0].astype(np.float64) + 1) / 256)
    return np.linalg.solve(stain_basis().T, density)


def plain(image: np.ndarray, factors: list[float], shifts: list[float]) -> np.ndarray:
    """The formula pixel by pixel in float64, decadic densities, through amounts of stains."""
    basis = STAINS / np.sqrt((STAINS**2).sum(axis=1))[:, None]
    out = np.empty(image.shape)
    for at in np.ndindex(image.shape[:2]):
        density = -np.log10((image[at].astype(np.float64) + 1) / 256)
        tissue = min(density.mean() / 0.15, 1.0) ** 2
        amounts = np.linalg.solve(basis.T, density) * factors + tissue * np.array(shifts)
        out[at] = 256 * 10 ** -(amounts @ basis) - 1
    return np.clip(out, 0, 255)


@pytest.mark.parametrize(
    ("factors", "shifts"),
    [([1.2, 1, 1], [0, 0, 0]), ([1, 1, 1], [0.1, 0, -0.2]), ([0.8, 1.2, 1.1], [-0.2, 0.2, 0.05])],
)
def test_equals_the_formula(factors: list[float], shifts: list[float]) -> None:
    image = noise()
    got = jitter(image, factors=factors, shifts=shifts)
    assert got.dtype == np.uint8
    assert np.abs(got - plain(image, factors, shifts)).max() < 0.5 + 2e-3


def test_without_change_every_value_comes_back() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    for image in (grey, noise(64)):
        assert np.array_equal(jitter(image), image)
    operation = StainJitter(0.0)
    operation.set_random_state(np.random.default_rng(0), random.Random(0))
    assert np.array_equal(operation(image=noise(), force_apply=True)["image"], noise())


def test_clear_glass_stays_white() -> None:
    # A defect elsewhere: an additive shift of every pixel tints the background, by up to 150 levels here.
    white = np.full((8, 8, 3), 255, np.uint8)
    operation = StainJitter(0.2)
    operation.set_random_state(np.random.default_rng(0), random.Random(0))
    glass = np.full((8, 8, 3), 240, np.uint8)
    for _ in range(200):
        assert np.array_equal(operation(image=white)["image"], white)
        assert np.abs(operation(image=glass)["image"].astype(int) - 240).max() <= 12


def test_one_stain_changes_and_the_others_stay() -> None:
    before = amounts_of(stained([0.5, 0.4, 0.1]))
    more = amounts_of(jitter(stained([0.5, 0.4, 0.1]), factors=[1.5, 1, 1]))
    assert more == pytest.approx([1.5 * before[0], before[1], before[2]], abs=0.02)
    shifted = amounts_of(jitter(stained([0.5, 0.4, 0.1]), shifts=[0, 0.2, 0]))
    assert shifted == pytest.approx([before[0], before[1] + 0.2, before[2]], abs=0.02)


def test_black_stays_black_and_nothing_wraps_around() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert jitter(black, factors=[1.2] * 3, shifts=[0.2] * 3).max() == 0
    dark = np.full((4, 4, 3), (1, 0, 2), np.uint8)
    assert jitter(dark, factors=[1.2] * 3, shifts=[0.2] * 3).max() == 0
    pale = np.full((4, 4, 3), (240, 120, 250), np.uint8)
    assert jitter(pale, factors=[0.8, 0.8, 1.2], shifts=[-0.2, -0.2, -0.2])[0, 0, 0] == 255


def test_strengths_are_uniform_and_drawn_for_each_stain() -> None:
    operation = StainJitter(0.2)
    operation.set_random_state(np.random.default_rng(0), random.Random(0))
    drawn = [operation.get_params() for _ in range(4000)]
    values = np.array([[*d["factors"], *d["shifts"]] for d in drawn]) - [1, 1, 1, 0, 0, 0]
    assert np.abs(values).max() <= 0.2
    assert np.abs(values.mean(axis=0)).max() < 4 * 0.4 / np.sqrt(12 * 4000)
    assert np.abs(values.std(axis=0) / (0.4 / np.sqrt(12)) - 1).max() < 0.03
    assert np.abs(np.corrcoef(values.T) - np.eye(6)).max() < 0.08


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 1), np.uint8)])
def test_what_is_no_colour_tile_is_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"RGB images of uint8, got .*views\.stain to 0"):
        jitter(image)


def test_the_input_is_not_changed() -> None:
    image = noise()
    image.setflags(write=False)
    jitter(image, factors=[1.2] * 3)
    assert np.array_equal(image, noise())
