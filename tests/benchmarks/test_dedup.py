"""`benchmarks/dedup.py`: every planted pair is found, faster than by the alternative."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "dedup.py"


def test_all_planted_pairs_are_found_in_memory_and_through_files() -> None:
    pytest.importorskip("faiss")
    command = [sys.executable, str(SCRIPT), "--json", "--hashes", "50000"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    for part in ("fifth", "whole", "through_files"):
        assert found["absolute"][part]["planted_found"] == 1
    assert found["absolute"]["whole"]["pairs"] >= 200
    assert found["ratios"]["faiss_flat"] > 5
    assert not found["absent"]


@pytest.mark.slow
def test_five_million_hashes_take_less_than_three_minutes_and_two_gigabytes() -> None:
    command = [sys.executable, str(SCRIPT), "--part", "search", "5000000"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert found["planted_found"] == 1
    assert found["processor_s"] < 180
    assert found["peak_mb"] < 2000
