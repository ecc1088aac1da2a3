"""Hierarchical k-means: even centroids, odd data, bounded memory, and a stop at any moment."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sciencessl.curate.balance import balanced_counts
from sciencessl.curate.hierarchy import Checkpoint, Hierarchy, hierarchical_kmeans, taken_again
from sciencessl.curate.lloyd import Descent
from sciencessl.curate.points import ArrayPoints, Float32, Int64, on_grid
from sciencessl.errors import ConfigError, RunError
from sciencessl.evaluate.knn import unit_rows


def mixture(n: int, shares: list[float], width: int = 8, noise: float = 0.1, seed: int = 0) -> tuple[Float32, Int64]:
    """Unit vectors around orthogonal directions, and the number of each one's direction."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(shares), n, p=shares)
    rows = np.eye(width)[kind] + noise * rng.normal(size=(n, width))
    return on_grid(unit_rows(rows.astype(np.float32))), kind


def equal(one: Hierarchy, other: Hierarchy) -> bool:
    pairs = [*zip(one.centroids, other.centroids, strict=True), *zip(one.labels, other.labels, strict=True)]
    return all(np.array_equal(a, b) for a, b in pairs)


def test_draws_of_a_skewed_mixture_become_even() -> None:
    shares = [0.8, 0.12, 0.05, 0.02, 0.01]
    rows, kind = mixture(4000, shares)
    found = hierarchical_kmeans(ArrayPoints(rows), (60, 5), passes=5, resamplings=5)
    of_kind = [found.of_points(1)[kind == k] for k in range(5)]
    assert len({int(own[0]) for own in of_kind}) == 5
    assert all((own == own[0]).all() for own in of_kind)
    # A budget that the rarest can give its share of: all come equally often.
    drawn = np.bincount(kind, balanced_counts(found.labels, 100))
    assert drawn == pytest.approx(20)
    # A larger one: the rarest gives all it has, the others share the rest.
    rarest = int((kind == 4).sum())
    drawn = np.bincount(kind, balanced_counts(found.labels, 5 * rarest + 80))
    assert drawn == pytest.approx([rarest + 20] * 4 + [rarest])


def test_taking_points_again_spreads_centroids_evenly() -> None:
    # 95 % of the points on one square, 5 % on another. Centroids of k-means in the plane are as dense as the root of
    # the density (Zador), so the sparse square has a share of 1 / (1 + 19**(1/2)) of them; each round takes the root.
    rng = np.random.default_rng(0)
    rows = rng.random((12_000, 2)).astype(np.float32)
    rows[:, 0] += rng.random(len(rows)) < 0.05

    def share(resamplings: int) -> float:
        found = hierarchical_kmeans(ArrayPoints(rows), (150,), passes=5, resamplings=resamplings)
        return float((found.centroids[0][:, 0] > 1).mean())

    assert share(0) == pytest.approx(1 / (1 + 19**0.5), abs=0.05)
    assert share(1) == pytest.approx(1 / (1 + 19**0.25), abs=0.06)
    assert share(6) == pytest.approx(0.5, abs=0.08)


def test_the_nearest_points_of_each_cluster_are_taken_again() -> None:
    labels = np.array([0, 1, 0, 0, 3, 1, 0], np.int32)
    distances = np.array([3, 1, 1, 1, 9, 0, 2], np.float32)
    assert taken_again(labels, distances, 4, 2).tolist() == [1, 2, 3, 4, 5]
    assert taken_again(labels, distances, 4, 1).tolist() == [2, 4, 5]


def test_clusters_are_numbered_without_gaps_and_all_have_members() -> None:
    rows, _ = mixture(300, [0.9, 0.1])
    found = hierarchical_kmeans(ArrayPoints(rows), (40, 9, 2), passes=3, resamplings=2)
    for centroids, labels in zip(found.centroids, found.labels, strict=True):
        assert np.unique(labels).tolist() == list(range(len(centroids)))
    assert found.of_points(2).shape == (300,)


@pytest.mark.parametrize("copies", [1, 50])
def test_there_are_no_more_clusters_than_different_points(copies: int) -> None:
    rows = np.repeat(mixture(5, [1.0])[0], copies, axis=0)
    found = hierarchical_kmeans(ArrayPoints(rows), (30, 6), passes=4, resamplings=2)
    assert [len(centroids) for centroids in found.centroids] == [5, 5]
    assert np.array_equal(found.centroids[0][found.labels[0]], rows)


def test_copies_of_one_point_are_one_cluster() -> None:
    found = hierarchical_kmeans(ArrayPoints(np.full((40, 3), 0.5, np.float32)), (4, 2), passes=3, resamplings=2)
    assert [own.tolist() for own in found.labels] == [[0] * 40, [0]]
    assert balanced_counts(found.labels, 10) == pytest.approx(0.25)


def test_blocks_change_nothing_and_seeds_do() -> None:
    rows, _ = mixture(2000, [0.6, 0.3, 0.1], noise=0.4)

    def run(block: int, seed: int = 3) -> Hierarchy:
        return hierarchical_kmeans(ArrayPoints(rows, block), (30, 6), seed, passes=3, resamplings=2)

    whole = run(2000)
    assert equal(run(37), whole)
    assert not equal(run(2000, seed=4), whole)


class Stopped(Exception):
    """A kill, in this test."""


class Stopping(Checkpoint):
    """Ends the process, as it were, after so many steps that were kept."""

    left = 0

    def keep(self, level: int, taken: int, at: Descent) -> None:
        super().keep(level, taken, at)
        self._count()

    def finish(self, level: int, centroids: Float32, labels: np.ndarray) -> None:
        super().finish(level, centroids, labels)
        self._count()

    def _count(self) -> None:
        Stopping.left -= 1
        if Stopping.left == 0:
            raise Stopped


def test_a_call_that_was_stopped_anywhere_ends_as_one_that_was_not(tmp_path: Path) -> None:
    rows, _ = mixture(5000, [0.7, 0.3], width=3, noise=0.5)

    def run(kept: Checkpoint | None) -> Hierarchy:
        return hierarchical_kmeans(ArrayPoints(rows), (12, 3), 1, passes=3, resamplings=2, kept=kept)

    whole, stops = run(None), 0
    Stopping.left = 1
    for number in range(1, 30):
        kept = Stopping(tmp_path / str(number), {"of": "test"})
        kept.claim(overwrite=False)
        Stopping.left = number
        try:
            run(kept)
            break
        except Stopped:
            stops += 1
        Stopping.left = 10**6
        assert equal(run(kept), whole)
    assert stops >= 8  # passes and rounds of both levels, and their ends


def test_what_was_kept_and_is_damaged_is_made_again(tmp_path: Path) -> None:
    rows, _ = mixture(200, [0.7, 0.3])
    kept = Checkpoint(tmp_path / "out", {"of": "test"})
    kept.claim(overwrite=False)
    first = hierarchical_kmeans(ArrayPoints(rows), (12, 3), passes=2, resamplings=1, kept=kept)
    for file in ("level-1.npz", "running.npz"):
        (tmp_path / "out" / file).write_bytes(b"PK torn")
    (tmp_path / "out" / "level-2.npz").write_bytes(b"")
    assert equal(hierarchical_kmeans(ArrayPoints(rows), (12, 3), passes=2, resamplings=1, kept=kept), first)


def test_a_folder_belongs_to_what_was_asked(tmp_path: Path) -> None:
    one, other = (Checkpoint(tmp_path / "out", {"seed": seed}) for seed in (0, 1))
    one.claim(overwrite=False)
    one.finish(0, np.zeros((1, 2), np.float32), np.zeros(3, np.int32))
    one.claim(overwrite=False)
    assert one.finished(0) is not None
    with pytest.raises(RunError, match=r"holds clusters of other embeddings, levels or seed; .*--overwrite"):
        other.claim(overwrite=False)
    other.claim(overwrite=True)
    assert other.finished(0) is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(RunError, match="not empty and holds no clusters"):
        Checkpoint(tmp_path / "mine", {}).claim(overwrite=True)


@dataclass(frozen=True)
class Drawn:
    """Points that are drawn when they are read: none is kept."""

    samples: int
    width: int = 64

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        for start in range(0, self.samples, 1000):
            rows = np.random.default_rng(start).normal(size=(1000, self.width)).astype(np.float32)
            yield np.arange(start, start + 1000), on_grid(unit_rows(rows))

    def pick(self, places: Int64) -> Float32:
        return np.concatenate([rows[np.isin(place, places)] for place, rows in self.blocks()])


def test_memory_grows_by_some_bytes_a_point() -> None:
    peaks = []
    for samples in (5_000, 20_000):
        tracemalloc.start()
        hierarchical_kmeans(Drawn(samples), (20, 5), passes=1, resamplings=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The points themselves are 256 bytes each; labels, distances and the order of what is taken again are 40.
    assert (peaks[1] - peaks[0]) / 15_000 < 48


@pytest.mark.parametrize("levels", [(), (0,), (10, 10), (10, 20), (5, -1)])
def test_levels_that_make_no_hierarchy_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="each fewer than the one before"):
        hierarchical_kmeans(ArrayPoints(np.zeros((3, 2), np.float32)), levels)


def test_without_points_there_is_nothing_to_cluster() -> None:
    with pytest.raises(ConfigError, match="no points"):
        hierarchical_kmeans(ArrayPoints(np.zeros((0, 2), np.float32)), (2,))
