"""Seconds and memory of clustering embeddings on disk, against k-means of faiss and scikit-learn in memory.

    python benchmarks/curate.py [--quick] [--json] [--samples N] [--clusters K] [--threads T]

Embeddings of F = 128 numbers are written as `embed` writes them, at two sizes, a quarter and all: memory must not grow
with them but for some bytes a sample. Each arm runs in a process of its own; memory is the most that was resident,
libraries included, and time is processor time of all threads, so that other work beside it decides little.

- `ours`: ten passes of Lloyd's algorithm over all samples, from Parquet, after seeding on a sample.
- `ours_whole`: what `store curate` does: the same, ten rounds on the samples nearest to each centroid, and a level of
  a tenth of the clusters.
- `faiss`: `faiss.Kmeans` in memory, all points, as many passes as ours made, its own seeding.
- `minibatch`: scikit-learn's `MiniBatchKMeans` in memory, batches of 4,096, as many passes over all samples at most.

The ratio is their time over that of `ours`, and beside it their sum of squared distances over ours (above 1: worse).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.curate.hierarchy import PASSES, Hierarchy, hierarchical_kmeans
from sciencessl.curate.lloyd import one_pass
from sciencessl.curate.points import Directions
from sciencessl.evaluate.embedded import EMBEDDING, Embedded

WIDTH, SHARD, KINDS = 128, 16_384, 3000


def lay(folder: Path, samples: int) -> None:
    """Float16 embeddings around directions whose shares fall as rank to the power of -1, in shards."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(KINDS, WIDTH)).astype(np.float32)
    shares = 1 / np.arange(1, KINDS + 1)
    for number, start in enumerate(range(0, samples, SHARD)):
        rows = min(SHARD, samples - start)
        values = centres[rng.choice(KINDS, rows, p=shares / shares.sum())]
        values = (values + rng.normal(size=values.shape)).astype(np.float16)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), WIDTH)
        pq.write_table(pa.table({"id": [f"s{start + i}" for i in range(rows)], EMBEDDING: lists}),
                       folder / f"part-{number:05d}.parquet", compression="zstd")


def read(file: Path) -> np.ndarray:
    """(m, F) embeddings of a shard."""
    column = pq.read_table(file, columns=[EMBEDDING])[EMBEDDING].combine_chunks()
    values: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, WIDTH)
    return values


def opened(folder: Path) -> Directions:
    """The embeddings of a folder, in its own order."""
    parts, first = [], 0
    for file in sorted(folder.glob("part-*.parquet")):
        rows = pq.read_metadata(file).num_rows
        parts.append((partial(read, file), np.arange(first, first + rows)))
        first += rows
    return Directions(Embedded(tuple(parts), first))


def in_memory(folder: Path) -> np.ndarray:
    """(n, F) float32 directions."""
    points = opened(folder)
    values = np.empty((points.samples, WIDTH), np.float32)
    for place, rows in points.blocks():
        values[place] = rows
    return values


def spread(points: Directions, centroids: np.ndarray) -> float:
    """Mean squared distance of all samples to their nearest centroid."""
    return float(one_pass(points, centroids).spread.sum() / points.samples)


def ours(folder: Path, k: int) -> np.ndarray:
    """One level without rounds."""
    return hierarchical_kmeans(opened(folder), (k,), resamplings=0).centroids[0]


def ours_whole(folder: Path, k: int) -> np.ndarray:
    """Two levels as `store curate` makes them."""
    found: Hierarchy = hierarchical_kmeans(opened(folder), (k, k // 10))
    return found.centroids[0]


def by_faiss(folder: Path, k: int) -> np.ndarray:
    """faiss in memory."""
    import faiss

    values = in_memory(folder)
    kmeans = faiss.Kmeans(WIDTH, k, niter=PASSES, seed=0, max_points_per_centroid=len(values))
    kmeans.train(values)
    found: np.ndarray = kmeans.centroids
    return found


def by_minibatch(folder: Path, k: int) -> np.ndarray:
    """scikit-learn's mini-batches in memory."""
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(k, batch_size=4096, max_iter=PASSES, n_init=1, random_state=0).fit(in_memory(folder))
    found: np.ndarray = fitted.cluster_centers_.astype(np.float32)
    return found


ARMS: dict[str, Callable[[Path, int], np.ndarray]] = {
    "ours": ours, "ours_whole": ours_whole, "faiss": by_faiss, "minibatch": by_minibatch,
}


def peak_mb() -> float:
    """Most memory that was resident in this process, MB, on Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def arm(name: str, folder: Path, k: int) -> dict[str, float]:
    """Processor and wall seconds and memory of one arm, here and now."""
    libraries, began, clock = peak_mb(), time.process_time(), time.perf_counter()
    centroids = ARMS[name](folder, k)
    found = {"cpu_s": time.process_time() - began, "wall_s": time.perf_counter() - clock, "libraries_mb": libraries,
             "peak_mb": peak_mb()}
    return {**found, "spread": spread(opened(folder), centroids), "clusters": len(centroids)}


def apart(name: str, folder: Path, k: int, threads: int) -> dict[str, float]:
    """One arm in a fresh process."""
    command = [sys.executable, __file__, "--part", name, str(folder), "--clusters", str(k)]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits})
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(folder: Path, samples: int, k: int, threads: int) -> dict[str, Any]:
    """All numbers: ours at a quarter of the samples, and all arms at all of them."""
    lay(folder / "quarter", samples // 4)
    lay(folder / "all", samples)
    quarter = apart("ours", folder / "quarter", k, threads)
    arms, absent = {}, []
    for name in ARMS:
        try:
            arms[name] = apart(name, folder / "all", k, threads)
        except subprocess.CalledProcessError:
            absent.append(name)
    own = arms["ours"]
    peers = {name: found for name, found in arms.items() if not name.startswith("ours")}
    return {
        "name": "curate",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "ratios": {name: found["cpu_s"] / own["cpu_s"] for name, found in peers.items()}
        | {f"{name}_spread": found["spread"] / own["spread"] for name, found in peers.items()}
        | {f"{name}_memory": found["peak_mb"] / own["peak_mb"] for name, found in peers.items()},
        "absolute": {"samples": samples, "clusters": k, "threads": threads, "ours_quarter": quarter, **arms,
                     "bytes_a_sample": (own["peak_mb"] - quarter["peak_mb"]) * 1e6 / (samples - samples // 4)},
        "absent": absent,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100,000 samples and 200 clusters")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="instead of a million")
    parser.add_argument("--clusters", type=int, default=0, metavar="K", help="instead of a thousand")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="T", help="default: all cores")
    parser.add_argument("--part", nargs=2, metavar=("ARM", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(arm(options.part[0], Path(options.part[1]), options.clusters)))
        return
    samples = options.samples or (100_000 if options.quick else 10**6)
    with tempfile.TemporaryDirectory(prefix="curate-") as folder:
        found = measure(Path(folder), samples, options.clusters or (200 if options.quick else 1000), options.threads)
    if options.json:
        print(json.dumps(found))
        return
    for name, values in found["absolute"].items():
        row = values if isinstance(values, dict) else {"": values}
        print(f"{name:14}", ", ".join(f"{key} {value:,.3f}".strip() for key, value in row.items()))
    print("times ours:", ", ".join(f"{name} {value:.2f}" for name, value in found["ratios"].items()))
    print("absent:", ", ".join(found["absent"]) or "none")


if __name__ == "__main__":
    main()
