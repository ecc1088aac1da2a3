"""Search, passes and seeding against independent code, and what must not matter to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sciencessl.curate import lloyd
from sciencessl.curate.lloyd import Descent, Pass, Search, assign, descend, one_pass, refill, seeds
from sciencessl.curate.points import ArrayPoints, Float32, on_grid
from sciencessl.evaluate.knn import unit_rows


def directions(n: int, width: int, seed: int = 0) -> Float32:
    return on_grid(unit_rows(np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)))


def test_search_finds_the_nearest_of_all_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, centroids = directions(50, 7), directions(23, 7, 1)
    monkeypatch.setattr(lloyd, "TILE", (8, 5))
    distance, number = Search(centroids)(rows)
    every = ((rows[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)
    assert number.tolist() == every.argmin(axis=1).tolist()
    assert distance == pytest.approx(every.min(axis=1), abs=1e-6)


def test_of_equal_centroids_the_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lloyd, "TILE", (2, 2))
    rows = directions(3, 4)
    assert Search(rows[[1, 0, 0, 2, 2]])(rows)[1].tolist() == [1, 0, 3]


def test_a_pass_is_a_step_of_lloyd() -> None:
    rows = directions(400, 5)
    found = one_pass(ArrayPoints(rows, block=64), rows[:6])
    every = ((rows[:, None].astype(np.float64) - rows[:6]) ** 2).sum(axis=2)
    label = every.argmin(axis=1)
    for k in range(6):
        assert found.counts[k] == (label == k).sum()
        assert found.means[k] == pytest.approx(rows[label == k].mean(axis=0), abs=1e-6)
        assert found.spread[k] == pytest.approx(every[label == k, k].sum(), abs=1e-4)
    labels, distances = np.empty(400, np.int32), np.empty(400, np.float32)
    assert assign(ArrayPoints(rows), rows[:6], labels, distances).tolist() == found.counts.tolist()
    assert labels.tolist() == label.tolist()


def test_it_comes_down_as_far_as_scikit_learn_from_the_same_start() -> None:
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(0)
    rows = on_grid((rng.normal(size=(8, 3))[rng.integers(0, 8, 500)] + 0.2 * rng.normal(size=(500, 3))) / 4)
    theirs = KMeans(8, init=rows[:8], n_init=1, max_iter=100, tol=0).fit(rows)
    ours = descend(ArrayPoints(rows), Descent(rows[:8]), 100)
    assert ours.settled
    assert ours.total == pytest.approx(theirs.inertia_, rel=2e-3)


@dataclass(frozen=True)
class Shuffled(ArrayPoints):
    """The same points in blocks of another order."""

    def blocks(self):  # type: ignore[no-untyped-def]
        places = np.random.default_rng(self.block).permutation(self.samples)
        for start in range(0, self.samples, self.block):
            own = places[start : start + self.block]
            yield own, self.values[own]


def test_blocks_and_their_order_change_no_bit() -> None:
    rows = directions(3000, 16)
    whole = descend(ArrayPoints(rows, 3000), Descent(rows[:20]), 5)
    for points in (ArrayPoints(rows, 17), ArrayPoints(rows, 512), Shuffled(rows, 100)):
        other = descend(points, Descent(rows[:20]), 5)
        assert np.array_equal(other.centroids, whole.centroids)
        assert (other.total, other.passes) == (whole.total, whole.passes)


def test_an_empty_cluster_takes_half_of_the_one_with_most_spread() -> None:
    means = np.array([[0.5, 0.5], [0, 0], [-0.5, 0]], np.float32)
    found = refill(Pass(np.array([8, 0, 100]), np.array([0.16, 0, 0.1]), means))
    # The root of 0.16 / 8 / 2 is 0.1, and a tenth of it is the step, each way.
    assert found == pytest.approx(np.array([[0.51, 0.49], [0.49, 0.51], [-0.5, 0]]), abs=1e-6)
    one_place = refill(Pass(np.array([8, 0]), np.zeros(2), means[:2]))
    assert np.array_equal(one_place, means[:2])  # copies of one point have no halves


def test_empty_clusters_are_filled_on_the_way() -> None:
    rows = directions(500, 4)
    # All but one start far from all points.
    start = np.concatenate([rows[:1], np.full((9, 4), 5, np.float32)])
    found = descend(ArrayPoints(rows), Descent(start), 30)
    labels, distances = np.empty(500, np.int32), np.empty(500, np.float32)
    assert assign(ArrayPoints(rows), found.centroids, labels, distances).min() > 0


def test_seeds_are_different_points_while_there_are_any() -> None:
    rows = np.repeat(directions(12, 6), [100, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], axis=0)
    for k, expected in ((5, 5), (12, 12), (40, 12)):
        found = seeds(rows, k, np.random.default_rng(k))
        assert len(np.unique(found, axis=0)) == len(found) == expected


def test_seeding_in_rounds_is_as_good_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = directions(1500, 3)

    def left(k: int) -> float:
        return float(np.mean([Search(seeds(rows, k, np.random.default_rng(s)))(rows)[0].mean() for s in range(3)]))

    rounds = left(256)
    monkeypatch.setattr(lloyd, "ROUNDS", 256)
    assert rounds == pytest.approx(left(256), rel=0.05)
    at_random = np.mean([Search(rows[np.random.default_rng(s).choice(1500, 256, False)])(rows)[0].mean()
                         for s in range(3)])
    assert rounds < 0.9 * at_random
