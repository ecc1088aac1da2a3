"""Optical densities and back."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.views.density import densities, stain_basis, tissue_share, to_pixels

LEVELS = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


def test_densities_are_natural_logarithms_and_every_value_comes_back() -> None:
    found = densities(LEVELS)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.log(256 / (LEVELS + 1.0)), abs=1e-6)
    assert (found[-1, -1, 0], found[0, 0, 0]) == (0, pytest.approx(5.545, abs=1e-3))
    assert np.array_equal(to_pixels(np.exp(-found)), LEVELS)


def test_what_is_brighter_than_glass_or_darker_than_black_is_clipped() -> None:
    light = np.array([[[-0.5, 0.0, 1 / 512], [0.5, 1.0, 7.0]]], np.float32)
    assert to_pixels(light).tolist() == [[[0, 0, 0], [127, 255, 255]]]


def test_the_share_of_tissue_grows_with_the_square_of_the_mean_density() -> None:
    density = np.array([[[0.0, 0.0, 0.0], [0.1, 0.2, 0.3], [0.4, 0.4, 0.4], [5.0, 0.0, 0.0]]], np.float32)
    assert tissue_share(density, 0.4)[0] == pytest.approx([0, 0.25, 1, 1])


def test_stains_have_unit_length_and_are_told_apart() -> None:
    basis = stain_basis()
    assert np.linalg.norm(basis, axis=1) == pytest.approx([1, 1, 1])
    assert basis[0, :2] / basis[0, 2] == pytest.approx([0.65 / 0.29, 0.70 / 0.29])
    assert abs(np.linalg.det(basis)) > 0.1
