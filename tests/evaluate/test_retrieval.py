"""Retrieval scores against hand-worked rankings and scikit-learn's average precision."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate import knn
from sciencessl.evaluate.retrieval import retrieval_scores


def embedded(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return rng.normal(size=(n, 8)) + np.eye(8)[labels] + 5.0, labels


def test_worked_ranking() -> None:
    # Angles from the query: 10, 20, 30, 170 degrees and their mirror image, so that the pool's mean is zero.
    angles = np.deg2rad([10, 20, 30, 170, 190, 200, 210, 350])
    pool = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([0, 1, 0, 0, 1, 1, 1, 1])
    found = retrieval_scores(pool, labels, np.array([[1.0, 0.0]]), np.array([0]), k=3)
    # Ranking: 10 and 350 tie (0 and 1), 20 (1), 30 (0), 210 (1), 200 (1), 170 and 190 tie (0 and 1).
    assert found.average_precision[0] == pytest.approx((1 / 2 + 2 / 4 + 3 / 8) / 3)
    assert found.precision_at_k[0] == pytest.approx(1 / 3)
    one = retrieval_scores(pool, labels, np.array([[1.0, 0.0]]), np.array([0]), k=1)
    assert one.precision_at_k[0] == pytest.approx(1 / 2)


def test_average_precision_is_scikit_learns_on_centred_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_BLOCK", 200)
    (pool, labels), (queries, asked) = embedded(60, 0), embedded(25, 1)
    found = retrieval_scores(pool, labels, queries, asked)
    similarity = cosine_similarity(queries - pool.mean(axis=0), pool - pool.mean(axis=0))
    for row in range(25):
        expected = average_precision_score(labels == asked[row], similarity[row])
        assert found.average_precision[row] == pytest.approx(expected)
        nearest = np.argsort(-similarity[row])[:10]
        assert found.precision_at_k[row] == pytest.approx((labels[nearest] == asked[row]).mean())
    assert found.k == 10


def test_shift_scale_and_order_do_not_matter() -> None:
    (pool, labels), (queries, asked) = embedded(40, 2), embedded(10, 3)
    turned = np.random.default_rng(0).permutation(40)
    one = retrieval_scores(pool, labels, queries, asked)
    two = retrieval_scores(3 * pool[turned] + 7, labels[turned], 3 * queries + 7, asked)
    np.testing.assert_allclose(one.average_precision, two.average_precision)
    np.testing.assert_allclose(one.precision_at_k, two.precision_at_k)


def test_an_encoder_that_sees_nothing_scores_the_share_of_each_class() -> None:
    labels = np.repeat([0, 1], [30, 10])
    found = retrieval_scores(np.ones((40, 4)), labels, np.ones((2, 4)), np.array([0, 1]), k=7)
    np.testing.assert_allclose(found.average_precision, [0.75, 0.25])
    np.testing.assert_allclose(found.precision_at_k, [0.75, 0.25])


def test_the_queries_are_not_part_of_the_centre() -> None:
    (pool, labels), (queries, asked) = embedded(40, 4), embedded(10, 5)
    alone = retrieval_scores(pool, labels, queries[:1], asked[:1])
    together = retrieval_scores(pool, labels, queries, asked)
    assert alone.average_precision[0] == pytest.approx(together.average_precision[0])


def test_a_class_that_the_pool_lacks_is_not_found_and_small_pools_shorten_k() -> None:
    pool, _ = embedded(4, 6)
    found = retrieval_scores(pool, np.zeros(4, int), pool[:2] + 1, np.array([0, 5]))
    assert found.k == 4
    assert found.average_precision.tolist() == [1.0, 0.0]
    assert found.precision_at_k.tolist() == [1.0, 0.0]


def test_refuses() -> None:
    pool, labels = embedded(5, 7)
    with pytest.raises(ConfigError, match="k = 6 must lie between 1 and the 5 samples"):
        retrieval_scores(pool, labels, pool, labels, k=6)
    with pytest.raises(DataError, match=r"pool \(5, 8\), its labels \(4,\)"):
        retrieval_scores(pool, labels[:4], pool, labels)
    with pytest.raises(DataError, match=r"n and M >= 1"):
        retrieval_scores(pool, labels, pool[:0], labels[:0])
    with pytest.raises(DataError, match="not finite"):
        retrieval_scores(pool, labels, pool * np.nan, labels)
