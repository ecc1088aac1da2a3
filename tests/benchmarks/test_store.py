"""The benchmark of the store runs whole on a few images, and its alternatives read what ours reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("store")


def test_it_measures_every_ratio_on_a_few_images(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BATCH", 16)
    monkeypatch.setattr(script, "CUTOUTS", 128)
    monkeypatch.setattr(script, "PEERS", ("no_such_package",))
    found = script.measure(tmp_path, 32, 1)
    assert found["absent"] == ["no_such_package"]
    assert found["ratios"].keys() == {"tarfile", "plain_read_crc", "loose_files", "bare_decode"}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert found["absolute"]["cutouts_per_s"].keys() == {"in_order", "shuffled"}
    script.show(found)


def test_photographs_are_as_large_as_ingest_leaves_them(script: ModuleType) -> None:
    sizes = [len(payload) for payload in script.photographs(8)]
    assert 25_000 < np.mean(sizes) < 40_000


def test_a_ratio_above_one_means_that_ours_is_faster(script: ModuleType) -> None:
    seconds = {"ours": [1.0, 2.0, 4.0], "slower": [2.0, 4.0, 8.0], "faster": [0.5, 1.0, 100.0]}
    assert script.compared(seconds, "ours") == {"slower": 2.0, "faster": 0.5}
