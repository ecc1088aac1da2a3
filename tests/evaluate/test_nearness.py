"""Similarity to examples, and distance from all others."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.errors import DataError
from sciencessl.evaluate.embedded import Embedded
from sciencessl.evaluate.nearness import similarity, strangeness


def embedded(values: np.ndarray, part: int = 7) -> Embedded:
    """In parts that are out of order, with rows that nobody asked for among them."""
    places = [np.arange(start, min(start + part, len(values))) for start in range(0, len(values), part)][::-1]
    def reader(place: np.ndarray):  # type: ignore[no-untyped-def]
        return lambda: np.concatenate([values[place], np.full((1, values.shape[1]), 9.0)])
    return Embedded(tuple((reader(place), np.append(place, -1)) for place in places), len(values))


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).normal(1.0, 1.0, (40, 5))


def units(values: np.ndarray) -> np.ndarray:
    centred = values.astype(np.float32) - values.astype(np.float32).mean(axis=0, dtype=np.float64)
    return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True))


def test_similarity_is_the_greatest_cosine_with_any_example(values: np.ndarray) -> None:
    examples = np.array([31, 4])
    score, nearest = similarity(embedded(values), examples)
    products = units(values) @ units(values)[examples].T
    assert score == pytest.approx(products.max(axis=1), abs=2e-6)
    assert nearest.tolist() == products.argmax(axis=1).tolist()
    assert score[31] == score[4] == 1
    assert nearest[[31, 4]].tolist() == [0, 1]


def test_strangeness_is_the_distance_to_the_kth_neighbour(values: np.ndarray) -> None:
    every = np.arange(40)
    found = strangeness(embedded(values), every, every, k=3)
    apart = np.linalg.norm(units(values)[:, None] - units(values)[None], axis=2)
    assert found == pytest.approx(np.sort(apart, axis=1)[:, 3], abs=1e-5)  # place 0 is the sample itself


def test_samples_of_one_object_are_no_neighbours_of_each_other(values: np.ndarray) -> None:
    values[10:16] = values[10] + np.random.default_rng(0).normal(0, 1e-3, (6, 5))
    every, objects = np.arange(40), np.arange(40)
    objects[10:16] = 10
    alone = strangeness(embedded(values), every, objects, k=2)[10]
    assert strangeness(embedded(values), every, every, k=2)[10] < 0.01
    apart = np.linalg.norm(units(values) - units(values)[10], axis=1)[objects != 10]
    assert alone == pytest.approx(np.sort(apart)[1], abs=1e-5)


def test_the_parts_that_embeddings_come_in_change_nothing(values: np.ndarray) -> None:
    others = np.array([0, 3, 5, 9, 20, 22, 39])
    for part in (1, 40):
        found = strangeness(embedded(values, part), others, np.arange(40), k=2)
        assert found == pytest.approx(strangeness(embedded(values), others, np.arange(40), k=2), abs=3e-6)


def test_an_outlier_is_the_strangest() -> None:
    rng = np.random.default_rng(1)
    crowd = rng.normal(0, 0.1, (60, 4)) + np.array([[1, 0, 0, 0]]) * rng.choice([-1, 1], (60, 1))
    crowd[17] = [0, 0, 0, 2]
    found = strangeness(embedded(crowd), np.arange(60), np.arange(60))
    assert found.argmax() == 17
    assert 0 <= found.min() <= found.max() <= 2


def test_bad_embeddings_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="all 3 samples show one object"):
        strangeness(embedded(values), np.arange(3), np.zeros(40, np.int64))
    values[8, 2] = np.nan
    with pytest.raises(DataError, match="1 embeddings are not finite"):
        similarity(embedded(values), np.array([0]))
