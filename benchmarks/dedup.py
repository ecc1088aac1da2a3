"""How long it takes to find all pairs of 64-bit hashes within 3 bits, and how much memory.

    python benchmarks/dedup.py [--quick] [--json] [--hashes N]

Hashes are drawn at random, and pairs are planted at each distance from 0 to 3: all must come back. Each run is a
process of its own on one core; memory is the most that was resident in it, libraries included. Named alternatives: an
exact search by faiss (`IndexBinaryMultiHash`, four tables of 16 bits, and `IndexBinaryFlat`) for the neighbours of some
of the hashes, times how many times more there are; and the same search through files, a fifth of the hashes in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.store.hamming import IN_MEMORY, near_pairs

RADIUS = 3
ASKED = 2000
"""Hashes whose neighbours the alternatives look for."""
SHARE = 1000
"""One hash of so many has a planted neighbour at each distance."""


def planted(n: int) -> tuple[np.ndarray, int]:
    """(n,) uint64 hashes, and how many pairs of them are within the radius by design."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**64, n, dtype=np.uint64)
    each = n // SHARE
    for distance in range(RADIUS + 1):
        bits = np.argsort(rng.random((each, 64)), axis=1)[:, :distance].astype(np.uint64)
        flips = np.bitwise_or.reduce(np.uint64(1) << bits, axis=1) if distance else np.zeros(each, np.uint64)
        first = distance * each
        hashes[n // 2 + first : n // 2 + first + each] = hashes[first : first + each] ^ flips
    return hashes, (RADIUS + 1) * each


def peak_mb() -> float:
    """Most memory that was resident in this process, MB."""
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    except FileNotFoundError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def search(n: int, in_memory: int = IN_MEMORY) -> dict[str, float]:
    """Seconds on the clock and of the processor, memory, and the share of planted pairs that were found."""
    hashes, pairs = planted(n)
    each = pairs // (RADIUS + 1)
    began, used = time.perf_counter(), time.process_time()
    found = [np.stack([one, other]) for one, other, _ in near_pairs(hashes, RADIUS, in_memory=in_memory)]
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    one, other = np.concatenate(found, axis=1)
    is_planted = (other - one == n // 2) & (one < (RADIUS + 1) * each)
    return {"seconds": seconds, "processor_s": processor, "peak_mb": peak_mb(), "pairs": len(one),
            "planted_found": float(is_planted.sum() / pairs)}


def alternative(n: int, kind: str) -> dict[str, float]:
    """Seconds of the processor in which faiss would look for the neighbours of all hashes, from `ASKED` of them."""
    import faiss

    faiss.omp_set_num_threads(1)
    hashes, _ = planted(n)
    codes = hashes.view(np.uint8).reshape(-1, 8)
    index = faiss.IndexBinaryFlat(64) if kind == "flat" else faiss.IndexBinaryMultiHash(64, 4, 16)
    began = time.process_time()
    index.add(codes)
    built = time.process_time() - began
    began = time.process_time()
    index.range_search(codes[:ASKED], RADIUS + 1)  # below, not up to
    return {"processor_s": built + (time.process_time() - began) * n / ASKED, "peak_mb": peak_mb()}


def apart(*part: object) -> dict[str, float]:
    """One part in a fresh process on one thread."""
    command = [sys.executable, __file__, "--part", *map(str, part)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(n: int) -> dict[str, Any]:
    """All numbers for n hashes, and for a fifth of them."""
    fifth, whole, files = apart("search", n // 5), apart("search", n), apart("search", n, n // 5)
    absent, others = [], {}
    for kind in ("multi-hash", "flat"):
        try:
            others[kind] = apart("faiss", n, kind)
        except subprocess.CalledProcessError:
            absent.append(f"faiss {kind}")
    return {
        "name": "dedup",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "ratios": {
            **{f"faiss_{kind.replace('-', '_')}": other["processor_s"] / whole["processor_s"]
               for kind, other in others.items()},
            # 1 where time grows with the number of hashes, 5 where it grows with its square.
            "growth_per_hash": whole["processor_s"] / fifth["processor_s"] / 5,
            "through_files": whole["processor_s"] / files["processor_s"],
        },
        "absolute": {"hashes": n, "fifth": fifth, "whole": whole, "through_files": files, **others},
        "absent": absent,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a million hashes instead of five")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--hashes", type=int, metavar="N", help="another number of hashes")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, n, *more = options.part
        print(json.dumps(search(int(n), *map(int, more)) if name == "search" else alternative(int(n), more[0])))
        return
    found = measure(options.hashes or (10**6 if options.quick else 5 * 10**6))
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found['absolute'].pop('hashes'):,} hashes, all pairs within {RADIUS} bits, one core")
    for name, values in found["absolute"].items():
        print(f"{name:14}", ", ".join(f"{key} {value:,.2f}" for key, value in values.items()))
    print("ratios:", ", ".join(f"{name} {value:.2f}" for name, value in found["ratios"].items()))
    for name in found["absent"]:
        print(f"absent: {name}")


if __name__ == "__main__":
    main()
