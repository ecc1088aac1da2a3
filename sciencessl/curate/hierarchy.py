"""Hierarchical k-means with resampling: clusters of points, clusters of their centroids, and so on.

Centroids of k-means are denser where points are, though less so: in d dimensions as density to the power d / (d + 2),
where k is large (Zador 1982). Clustering again what lies nearest to each centroid, as many points of each, starts from
that flatter density, so that after some rounds centroids lie evenly over whatever the points cover; so do those of the
next level. Source: Vo et al. (2024, arXiv:2405.15613), algorithm and argument as recalled from the text. Ours: seeding
and the first passes on a sample, how many points are taken again, all that makes it run out of core and resume.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sciencessl.curate.lloyd import SAMPLE, Descent, assign, descend, seeds
from sciencessl.curate.points import ArrayPoints, Float32, Int64, Points
from sciencessl.errors import ConfigError, RunError
from sciencessl.monitor.throughput import Progress
from sciencessl.plain import plain
from sciencessl.store.files import atomic_stream, write_atomic

Int32 = npt.NDArray[np.int32]

PASSES, RESAMPLINGS = 10, 10
"""Passes over all points of a level, after those over a sample of them; and times that its points are taken again
(Vo et al. resample ten times, as recalled; they make fifty passes, without the sample)."""

LEAST_SAMPLE = 4096
"""Points that centroids are sought among at least."""


@dataclass(frozen=True)
class Hierarchy:
    """Clusters of n points, and clusters of clusters.

    Attributes:
        centroids: Of each level, from the lowest: (k, F) float32.
        labels: Of each level: (n,) cluster of each point, then (k1,) cluster of each cluster of the level below...
            Every cluster has a member.
    """

    centroids: tuple[Float32, ...]
    labels: tuple[Int32, ...]

    def of_points(self, level: int) -> Int32:
        """(n,) cluster of each point at a level, 0 the lowest."""
        found = self.labels[0]
        for own in self.labels[1 : level + 1]:
            found = own[found]
        return found


@dataclass(frozen=True)
class Checkpoint:
    """A folder with finished levels and the state of the one that is being clustered.

    Attributes:
        folder: Made if it is needed.
        card: All that the clusters depend on, as JSON values.
    """

    folder: Path
    card: Mapping[str, Any]

    def claim(self, overwrite: bool) -> None:
        """Make the folder that of this card; what is in it stays where it is the same.

        Raises:
            RunError: When it holds clusters of something else, without `overwrite`, or other files.
        """
        path = self.folder / "clusters.json"
        same = path.is_file() and _read_json(path) == plain(dict(self.card))
        if same:
            return
        if path.is_file() and not overwrite:
            raise RunError(f"{self.folder} holds clusters of other embeddings, levels or seed; choose another --out or "
                           "pass --overwrite.")
        if not path.is_file() and self.folder.exists() and (self.folder.is_file() or any(self.folder.iterdir())):
            raise RunError(f"{self.folder} is not empty and holds no clusters; choose another --out.")
        for stale in self.folder.glob("*.npz"):
            stale.unlink()
        write_atomic(path, json.dumps(plain(dict(self.card)), indent=1).encode())

    def finished(self, level: int) -> tuple[Float32, Int32] | None:
        """Centroids and labels of a level that is done."""
        found = _load(self.folder / f"level-{level + 1}.npz")
        return None if found is None else (found["centroids"], found["labels"])

    def finish(self, level: int, centroids: Float32, labels: Int32) -> None:
        """Keep a level that is done."""
        _save(self.folder / f"level-{level + 1}.npz", centroids=centroids, labels=labels)

    def running(self, level: int) -> tuple[int, Descent] | None:
        """How often the points of a level were taken again, and where the clustering of that round stands."""
        found = _load(self.folder / "running.npz")
        if found is None or int(found["level"]) != level:
            return None
        at = Descent(found["centroids"], int(found["passes"]), float(found["total"]), bool(found["settled"]))
        return int(found["taken"]), at

    def keep(self, level: int, taken: int, at: Descent) -> None:
        """Keep where a level stands."""
        _save(self.folder / "running.npz", level=level, taken=taken, centroids=at.centroids, passes=at.passes,
              total=at.total, settled=at.settled)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _save(path: Path, **arrays: Any) -> None:
    with atomic_stream(path) as stream:
        np.savez(stream, **arrays)


def _load(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path) as found:
            return dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or damaged: it is made again
        return None


def hierarchical_kmeans(
    points: Points, levels: Sequence[int], seed: int = 0, passes: int = PASSES, resamplings: int = RESAMPLINGS,
    kept: Checkpoint | None = None,
) -> Hierarchy:
    """Cluster points, then centroids, level after level.

    Memory is a block, some `SAMPLE` points for each centroid twice over, and 8 bytes a point. A level costs
    2 n k F (passes + resamplings) floating-point operations where n are its points; the first counts.

    Args:
        points: n of F numbers. Lengths of about 1 are assumed where differences count as none (`lloyd.SAME`).
        levels: Clusters of each level, from the lowest, each fewer than before; a level has no more clusters than
            there are different points.
        seed: Of samples and seeding.
        passes: Most passes of Lloyd's algorithm over all points of a level.
        resamplings: Times that the points nearest to each centroid are clustered again.
        kept: Where to keep what is done, and go on from; it must have been claimed.

    Raises:
        ConfigError: For levels that are not positive and falling, or without points.
        DataError: When a point is not finite, as the points say.
    """
    check_levels(levels)
    if not points.samples:
        raise ConfigError("there are no points to cluster.")
    centroids, labels = list[Float32](), list[Int32]()
    below = points
    for level, k in enumerate(levels):
        done = kept.finished(level) if kept else None
        if done is None:
            title = f"level {level + 1} of {len(levels)}, {min(k, below.samples):,} clusters"
            run = _Level(below, level, min(k, below.samples), seed, passes, resamplings, kept, title)
            done = run.clusters()
            if kept:
                kept.finish(level, *done)
        centroids.append(done[0])
        labels.append(done[1])
        below = ArrayPoints(done[0])
    return Hierarchy(tuple(centroids), tuple(labels))


def check_levels(levels: Sequence[int]) -> None:
    """Refuse levels that make no hierarchy.

    Raises:
        ConfigError: As it says.
    """
    falling = all(lower > upper for lower, upper in pairwise(levels))
    if not levels or min(levels) < 1 or not falling:
        raise ConfigError(f"--levels {' '.join(map(str, levels))}: expected numbers of clusters from the lowest level "
                          "up, each fewer than the one before and 1 or more, such as 1000 100 10.")


def taken_again(labels: Int32, distances: Float32, k: int, each: int) -> Int64:
    """Positions, ascending, of the `each` points nearest to their centroid in each of k clusters; all of smaller ones.

    Args:
        labels: (n,) clusters.
        distances: (n,) to the own centroid; of equal ones the lower position goes first.
        k: Clusters.
        each: Points of each.
    """
    order = np.lexsort((distances, labels))
    first = np.searchsorted(labels[order], np.arange(k))
    rank = np.arange(len(order)) - first[labels[order]]
    return np.sort(order[rank < each])


@dataclass(frozen=True)
class _Level:
    """The clustering of one level; attributes as the arguments of `hierarchical_kmeans`."""

    points: Points
    level: int
    k: int
    seed: int
    passes: int
    resamplings: int
    kept: Checkpoint | None
    title: str

    def clusters(self) -> tuple[Float32, Int32]:
        """(k', F) centroids and (n,) labels, clusters without a point left out."""
        n = self.points.samples
        labels, distances = np.empty(n, np.int32), np.empty(n, np.float32)
        meter = _Meter(n, self.passes + self.resamplings + 1, self.title)
        taken, at = (self.kept.running(self.level) if self.kept else None) or (0, Descent(self._start(self.points, 0)))
        if not taken:
            at = descend(self.points, at, self.passes, lambda at: self._keep(0, at), meter.at(at.passes))
        for again in range(taken + 1, self.resamplings + 1):
            assign(self.points, at.centroids, labels, distances, meter.at(self.passes + again - 1))
            few = taken_again(labels, distances, len(at.centroids), self._each)
            own = ArrayPoints(self.points.pick(few))
            at = descend(own, Descent(self._start(own, again)), self.passes)
            self._keep(again, at)
        counts = assign(self.points, at.centroids, labels, distances, meter.at(self.passes + self.resamplings))
        meter.close()
        some = np.flatnonzero(counts)
        number = np.cumsum(counts > 0, dtype=np.int32) - 1
        return at.centroids[some], number[labels]

    @property
    def _each(self) -> int:
        """Points of each cluster that are taken again: half of what an even cluster has, at most `SAMPLE`."""
        return min(SAMPLE, math.ceil(self.points.samples / self.k / 2))

    def _keep(self, taken: int, at: Descent) -> None:
        if self.kept:
            self.kept.keep(self.level, taken, at)

    def _start(self, points: Points, again: int) -> Float32:
        """Centroids of a sample of the points, from which all of them are looked at."""
        rng = np.random.default_rng([self.seed, self.level, again])
        n, size = points.samples, max(SAMPLE * self.k, LEAST_SAMPLE)
        if n <= size:
            return seeds(points.pick(np.arange(n)), self.k, rng)
        rows = points.pick(np.sort(rng.choice(n, size, replace=False)))
        return descend(ArrayPoints(rows), Descent(seeds(rows, self.k, rng)), self.passes).centroids


class _Meter:
    """One progress bar over all passes of a level."""

    def __init__(self, samples: int, passes: int, title: str) -> None:
        self._samples = samples
        self._bar = Progress(samples * passes, unit="sample", title=title)

    def at(self, number: int) -> Callable[[int], None]:
        """What to tell the samples of a pass to, the first of which is the number-th; further ones follow it."""
        before, last = number * self._samples, 0

        def advance(done: int) -> None:
            nonlocal before, last
            before += self._samples if done <= last else 0
            last = done
            self._bar.update(before + done)

        return advance

    def close(self) -> None:
        self._bar.close()
