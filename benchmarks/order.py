"""How fast and small an order of N samples is: opened, first batch, and resumed at a random step.

    python benchmarks/order.py [--quick] [--json]

Seconds of processor time (one thread, so they are those of a clock on an idle core) of opening an order, of its first
batch and of a batch at a random step of a fresh order; most memory of the three, from tracemalloc. The weights of a
weighted order are simulated, a tenth of the samples weighing six times the others; the pass over them is timed apart,
because a run makes it once. Named alternatives are torch's samplers, which list every sample, at a size that they can
hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from sciencessl.data.mixture import Mixture, mix_stores
from sciencessl.data.order import Order, SampleOrder
from sciencessl.data.weights import WeightedOrder, Weights, WeightSums, sum_weights, weighted_order

BATCH = 4096
COMPARED = 10**6
"""Samples at which the alternatives are measured: WeightedRandomSampler takes 2**24 at most."""


class SimulatedWeights:
    """N weights that are computed when asked for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, positions: Any) -> np.ndarray:
        mixed = np.asarray(positions).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return np.where(mixed >> np.uint64(32) < np.uint64(2**32 // 10), 3.0, 0.5)


def plain(n: int, _: WeightSums | None) -> Order:
    """Every sample once an epoch."""
    return Order(n, seed=0, batch=BATCH)


def weighted(n: int, sums: WeightSums | None) -> WeightedOrder:
    """Samples by weight; the sums are known."""
    assert sums is not None
    return weighted_order(Weights(SimulatedWeights(n)), 0, BATCH, sums=sums)


def mixed(n: int, _: WeightSums | None) -> Mixture:
    """Two stores, three to one."""
    return mix_stores((n // 2, n - n // 2), (3, 1), seed=0, batch=BATCH)


ORDERS: dict[str, Callable[[int, WeightSums | None], SampleOrder]] = {
    "order": plain, "weighted": weighted, "mixture": mixed,
}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it gave."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def measure(name: str, n: int, sums: WeightSums | None) -> dict[str, float]:
    """Seconds and megabytes of one order."""
    ORDERS[name](n, sums).positions(3)  # first-call costs of NumPy
    opened, order = timed(lambda: ORDERS[name](n, sums))
    first, _ = timed(lambda: order.positions(0))
    step = int(np.random.default_rng(0).integers(10**7))
    resumed, _ = timed(lambda: ORDERS[name](n, sums).positions(step))
    following = [timed(lambda s=s: order.positions(s))[0] for s in range(1, 6)]
    tracemalloc.start()
    ORDERS[name](n, sums).positions(step)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kept = sums.before.nbytes if sums else 0
    return {
        "open_s": opened, "first_batch_s": first, "resume_s": resumed, "next_batch_s": float(np.median(following)),
        "memory_mb": (peak + kept) / 1e6,
    }


def pass_over(n: int) -> tuple[float, WeightSums]:
    """Seconds of the one pass over all weights, and their sums."""
    return timed(lambda: sum_weights(Weights(SimulatedWeights(n))))


def alternatives(n: int) -> dict[str, float]:
    """Seconds until torch's samplers have their first batch."""
    from torch.utils.data import DistributedSampler, WeightedRandomSampler

    values = SimulatedWeights(n)[np.arange(n)]
    shuffled = DistributedSampler(range(n), num_replicas=1, rank=0)  # type: ignore[arg-type, var-annotated]
    drawn = WeightedRandomSampler(values, n)  # type: ignore[arg-type]
    return {
        name: timed(lambda s=s: [number for number, _ in zip(s, range(BATCH), strict=False)])[0]
        for name, s in (("distributed_sampler", shuffled), ("weighted_random_sampler", drawn))
    }


def ratios() -> dict[str, float]:
    """Time to the first batch of torch's samplers over ours, at the same size; the pass over the weights is in ours."""
    theirs = alternatives(COMPARED)
    ours = timed(lambda: plain(COMPARED, None).positions(0))[0]
    pass_s, sums = pass_over(COMPARED)
    ours_weighted = pass_s + timed(lambda: weighted(COMPARED, sums).positions(0))[0]
    return {"distributed_sampler": theirs["distributed_sampler"] / ours,
            "weighted_random_sampler": theirs["weighted_random_sampler"] / ours_weighted}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10 million samples instead of a billion")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    n = 10**7 if options.quick else 10**9
    pass_s, sums = pass_over(n)
    absolute = {name: measure(name, n, sums if name == "weighted" else None) for name in ORDERS}
    found = {
        "name": "order",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "ratios": ratios(),
        "absolute": {"samples": n, "weights_pass_s": pass_s, **absolute},
        "absent": [],
    }
    if options.json:
        print(json.dumps(found))
        return
    print(f"{n:,} samples, batches of {BATCH}; pass over the weights, once a run: {pass_s:.1f} s")
    for name, row in absolute.items():
        print(f"{name:9}", ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print("times faster to the first batch than torch's samplers, at a million:",
          ", ".join(f"{key} {value:.1f}" for key, value in found["ratios"].items()))


if __name__ == "__main__":
    main()
