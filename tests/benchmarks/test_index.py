"""`benchmarks/index.py`: a real index, sealed and read in bounded memory; 20 million samples within 1 GB."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.store import index as store_index
from sciencessl.store import repeated
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "index.py"


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("index")


def measured(*options: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--json", *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def test_memory_grows_neither_in_sealing_nor_in_reading(
    tmp_path: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SHARD", 2**15), ("KEPT_BYTES", 2**19), ("TOGETHER", 4)):
        monkeypatch.setattr(store_index, name, value)
    monkeypatch.setattr(repeated, "BUCKET", 2**16)
    peaks = []
    for samples in (60_000, 300_000):
        header = script.lay(tmp_path / f"{samples}.zarr", samples)
        tracemalloc.start()
        seal(tmp_path / f"{samples}.zarr", header)
        sealing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        store = Store(tmp_path / f"{samples}.zarr")
        train = store.split("train")
        assert len(store) == 8192 * header.rows >= samples
        rng = np.random.default_rng(0)
        for _ in range(2):
            store.keys(train.to_store(rng.integers(0, len(train), 256)))
            first = int(rng.integers(len(store) - 1024))
            assert len(store.keys(np.arange(first, first + 1024))) == 1024
            assert len(store.consecutive("image", first, first + 1024)) == 1024
        peaks.append((sealing, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    # The index of the larger store takes 7.3 MB, 5.4 MB more than that of the smaller.
    for smaller, larger in zip(*peaks, strict=True):
        assert larger < smaller + 2**20


@pytest.mark.slow
def test_twenty_million_samples_are_read_within_a_gigabyte() -> None:
    found = measured()["absolute"]
    assert found["samples"] == 2 * 10**7
    assert found["read"]["peak_mb"] < 1000
    assert found["seal"]["peak_mb"] < 1000
    assert found["seal"]["peak_mb"] < found["seal_eighth"]["peak_mb"] + 50
