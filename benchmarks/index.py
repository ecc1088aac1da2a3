"""How much memory and time a store of N samples takes to seal, to open and to look samples up in.

    python benchmarks/index.py [--quick] [--json] [--samples N]

The store is real but for its variety: sidecars and receipts of all rows, ids and keys of all samples, and in each row
the same payloads of a few bytes, which are one file under many names. Sealing and reading happen in processes of their
own; memory is the most that was resident in them, libraries included. Sealing is measured at an eighth of the samples
too: what it holds must not grow with them. The named alternative is an index that is read whole.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from sciencessl.spec import FieldSpec
from sciencessl.store import format as zpack
from sciencessl.store.files import parquet_bytes
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row

BATCH = 4096
RUN = 1024
REPEATS = 5


def lay(path: Path, samples: int) -> zpack.StoreHeader:
    """An unsealed store of that many samples, rounded up to whole rows; returns its header."""
    rows = -(-samples // zpack.ROW_SAMPLES)
    header = zpack.StoreHeader("galaxy", "images", {"image": FieldSpec("bytes", ("r",))}, rows, zpack.ROW_SAMPLES, {},
                               "plan", "config")
    create_store(path, header, 16 * zpack.ROW_SAMPLES)
    rng = np.random.default_rng(0)
    payloads = [rng.bytes(int(size)) for size in rng.integers(1, 16, zpack.ROW_SAMPLES)]
    splits = np.where(np.arange(len(payloads)) < 0.8 * len(payloads), "train", "test")
    first = [PreparedSample(f"s{i}", splits[i], {"image": raw}) for i, raw in enumerate(payloads)]
    receipt = write_row(path, header, 0, first, [], "inputs")
    table = pq.read_table(path / zpack.rows_file(0))
    for row in range(1, rows):
        _copy_row(path, header, row, receipt, table, rng)
    return header


def _copy_row(
    path: Path, header: zpack.StoreHeader, row: int, receipt: zpack.Receipt, table: pa.Table, rng: np.random.Generator
) -> None:
    """Commit a row with the payloads of the first, and ids and keys of its own."""
    n = table.num_rows
    keys = np.sort(rng.integers(0, 2**64, n, dtype=np.uint64)).astype(">u8")
    raw = np.stack([keys, rng.integers(0, 2**64, n, dtype=np.uint64)], axis=1).astype(">u8").tobytes()
    own = {
        "id": pa.array([f"s{i}" for i in range(row * n, (row + 1) * n)], pa.string()),
        "key": pa.Array.from_buffers(pa.binary(16), n, [None, pa.py_buffer(raw)]),
    }
    for name, values in own.items():
        table = table.set_column(table.column_names.index(name), name, values)
    spec = header.fields["image"]
    shards = [path / zpack.shard_file("image", spec, number) for number in (0, row)]
    shards[1].parent.mkdir()
    os.link(*shards)
    files = {zpack.rows_file(row): parquet_bytes(table),
             zpack.refused_file(row): (path / zpack.refused_file(0)).read_bytes()}
    for name, content in files.items():
        (path / name).write_bytes(content)
    known = {**receipt.__dict__, "row": row, "files": {name: zpack.digest(content) for name, content in files.items()}}
    (path / zpack.receipt_file(row)).write_bytes(zpack.Receipt(**known).to_bytes())


def peak_mb() -> float:
    """Most memory that was resident in this process, MB."""
    try:
        status = Path("/proc/self/status").read_text()
        # Not `ru_maxrss`, which on Linux holds what the process that started this one had resident.
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call on the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def read_whole(path: Path) -> dict[str, float]:
    """The alternative: all of the index in memory."""
    began = time.perf_counter()
    names = ("key", "image.offset", "row_first", "split_first")
    kept = [np.asarray(zarr.open_array(path / "index" / name, mode="r")[...]) for name in names]
    kept[0][np.random.default_rng(0).integers(0, len(kept[0]), BATCH)]
    return {"first_batch_s": time.perf_counter() - began, "peak_mb": peak_mb()}


def read_lazily(path: Path) -> dict[str, float]:
    """Seconds and memory of a fresh reader, which then goes on for `REPEATS` batches and runs of each kind."""
    libraries = peak_mb()
    began = time.perf_counter()
    store = Store(path)
    train = store.split("train")
    opened = time.perf_counter() - began
    rng = np.random.default_rng(0)

    def batch(size: int) -> np.ndarray:
        return train.to_store(rng.integers(0, len(train), size))

    def run() -> None:
        first = int(rng.integers(len(store) - RUN))
        store.keys(np.arange(first, first + RUN))
        store.consecutive("image", first, first + RUN)

    first_batch = opened + timed(lambda: store.keys(batch(BATCH)))
    # 256, because windows of payloads, not the index, take most of the time.
    kinds: dict[str, tuple[int, Callable[[], Any]]] = {
        "random_key_us": (BATCH, lambda: store.keys(batch(BATCH))),
        "random_payload_us": (256, lambda: store.payloads("image", batch(256))),
        "run_us": (RUN, run),
    }
    each = {name: float(np.median([timed(work) for _ in range(REPEATS)])) / size * 1e6
            for name, (size, work) in kinds.items()}
    return {"open_s": opened, "first_batch_s": first_batch, **each, "libraries_mb": libraries, "peak_mb": peak_mb()}


def sealed(path: Path) -> dict[str, float]:
    """Seconds and memory of sealing."""
    header = zpack.StoreHeader.from_attributes(dict(zarr.open_group(path, mode="r").attrs), path)
    return {"seconds": timed(lambda: seal(path, header)), "peak_mb": peak_mb()}


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {"seal": sealed, "read": read_lazily, "whole": read_whole}


def apart(part: str, path: Path) -> dict[str, float]:
    """One of `PARTS` in a fresh process."""
    command = [sys.executable, __file__, "--part", part, str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(folder: Path, samples: int) -> dict[str, Any]:
    """All numbers of stores of that many samples, and of an eighth of them."""
    small, large = folder / "eighth.zarr", folder / "all.zarr"
    lay(small, samples // 8)
    laid = timed(lambda: lay(large, samples))
    eighth, whole = apart("seal", small), apart("seal", large)
    read, alternative = apart("read", large), apart("whole", large)
    return {
        "name": "index",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "ratios": {
            "whole_index_first_batch": alternative["first_batch_s"] / read["first_batch_s"],
            "whole_index_memory": alternative["peak_mb"] / read["peak_mb"],
        },
        "absolute": {"samples": samples, "lay_s": laid, "seal_eighth": eighth, "seal": whole, "read": read,
                     "read_whole": alternative,
                     "index_files": sum(file.is_file() for file in (large / "index").rglob("*"))},
        "absent": [],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a million samples instead of 20 million")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--samples", type=int, metavar="N", help="another number of samples")
    parser.add_argument("--part", nargs=2, metavar=("PART", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part[0]](Path(options.part[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        found = measure(Path(folder), options.samples or (10**6 if options.quick else 2 * 10**7))
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found['absolute'].pop('samples'):,} samples")
    for name, values in found["absolute"].items():
        row = values if isinstance(values, dict) else {"": values}
        print(f"{name:12}", ", ".join(f"{key} {value:,.3f}".strip() for key, value in row.items()))
    print("times over an index that is read whole:", ", ".join(f"{k} {v:.1f}" for k, v in found["ratios"].items()))


if __name__ == "__main__":
    main()
