"""The embedding map and the neighbours: determinism, degenerate input, and a hand-made matrix."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.errors import DataError
from sciencessl.evaluate.maps import (
    FEWEST,
    embedding_map,
    nearest_neighbours,
    normalised,
    principal_components,
    spread_over_classes,
)


def clusters(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return 4 * np.eye(3, 16)[labels] + 0.3 * rng.standard_normal((n, 16)), labels


def test_a_map_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    features, _ = clusters()
    first = embedding_map(features, seed=3)
    np.testing.assert_array_equal(first, embedding_map(features.copy(), seed=3))
    assert not np.array_equal(first, embedding_map(features, seed=4))


def test_a_map_keeps_clusters_apart_and_fills_the_unit_square() -> None:
    features, labels = clusters()
    points = embedding_map(features)
    assert points.shape == (60, 2)
    assert np.abs(points).max() == pytest.approx(1)
    away = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert (labels[away.argmin(axis=1)] == labels).all()


@pytest.mark.parametrize("n", [0, 1, 2, FEWEST - 1, FEWEST])
def test_a_map_of_few_samples_is_finite(n: int) -> None:
    points = embedding_map(np.random.default_rng(1).standard_normal((n, 5)))
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()


def test_a_collapsed_encoder_still_has_a_map() -> None:
    points = embedding_map(np.ones((40, 8)))
    assert np.isfinite(points).all()


def test_features_that_are_not_finite_are_refused() -> None:
    features = np.ones((10, 3))
    features[4, 1] = np.nan
    with pytest.raises(DataError, match="1 of 10 embeddings are not finite, the first at row 4"):
        embedding_map(features)


def test_a_row_of_zeros_stays_zero() -> None:
    np.testing.assert_allclose(normalised(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


def test_principal_components_are_those_of_the_covariance() -> None:
    features = np.random.default_rng(2).standard_normal((50, 4)) * [5, 3, 1, 0.2]
    values, axes = np.linalg.eigh(np.cov(features.T))
    found = principal_components(features, 2)
    np.testing.assert_allclose(found.var(axis=0, ddof=1), values[::-1][:2])
    expected = (features - features.mean(axis=0)) @ axes[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)
    assert (principal_components(features[:, :1], 2)[:, 1] == 0).all()


POOL = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0], [5.0, 0.0], [0.6, 0.8]])
"""Angles 0, 90, 45, 180, 0 and 53.13 degrees."""


def test_neighbours_of_a_hand_made_matrix() -> None:
    found = nearest_neighbours(np.array([[2.0, 0.0], [0.0, 1.0]]), POOL, 3)
    np.testing.assert_array_equal(found.index, [[0, 4, 2], [1, 5, 2]])
    np.testing.assert_allclose(found.similarity, [[1, 1, np.sqrt(0.5)], [1, 0.8, np.sqrt(0.5)]])


def test_ties_go_to_the_lower_position() -> None:
    pool = np.tile([[0.3, 0.1, 0.7]], (40, 1)) * np.arange(1, 41)[:, None]
    found = nearest_neighbours(pool[:2], pool, 5)
    np.testing.assert_array_equal(found.index, [[0, 1, 2, 3, 4]] * 2)


def test_a_query_in_the_pool_is_not_its_own_neighbour() -> None:
    found = nearest_neighbours(POOL[[0, 3]], POOL, 9, own=np.array([0, 3]))
    assert found.index.shape == (2, 5)
    np.testing.assert_array_equal(found.index[0], [4, 2, 5, 1, 3])
    assert 3 not in found.index[1]
    mixed = nearest_neighbours(POOL[[0, 3]], POOL, 1, own=np.array([-1, 3]))
    np.testing.assert_array_equal(mixed.index, [[0], [1]])


def test_widths_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match="queries have 3 features and the pool 2"):
        nearest_neighbours(np.ones((1, 3)), POOL, 1)


def test_queries_cover_rare_classes() -> None:
    labels = np.array(["common"] * 95 + ["rare"] * 3 + ["single"] * 2, dtype=object)
    taken = spread_over_classes(labels, 6, np.random.default_rng(0))
    assert sorted(labels[taken]) == ["common"] * 2 + ["rare"] * 2 + ["single"] * 2
    assert len(set(taken.tolist())) == 6
    assert len(spread_over_classes(labels[:3], 8, np.random.default_rng(0))) == 3
