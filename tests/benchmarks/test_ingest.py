"""The benchmark of ingest runs whole on a few photos, and every way makes the same photos of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from sciencessl.data_prep import isolated


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("ingest")


def test_it_measures_every_way_and_names_what_is_absent(script: ModuleType, tmp_path: Path) -> None:
    found = script.measure(script.synthetic_photos(3), tmp_path, 1)
    assert found["ratios"].keys() == {"bare", "bare_pillow"}
    assert all(value > 0 for value in found["ratios"].values())
    assert found["absent"] == ["img2dataset: no --img2dataset was given"]
    found["rates"] = script.measure_rates(script.synthetic_photos(3), tmp_path, 200)
    assert all(found["rates"][name] > 0 for name in ("tarfile", "listed", "loaded"))
    script.show(found)
    assert isolated._kept.get(os.getpid()) is None


def test_a_peer_that_does_not_start_is_absent(script: ModuleType, tmp_path: Path) -> None:
    tar = script.write_tar(tmp_path / "p.tar", script.synthetic_photos(1))
    with pytest.raises(ImportError, match="does not start"), script.img2dataset(Path(sys.executable), tar):
        pass


def test_every_way_makes_the_photo_that_we_store(script: ModuleType) -> None:
    (raw,) = script.synthetic_photos(1)
    full = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    expected = cv2.resize(full, (341, 256), interpolation=cv2.INTER_AREA).astype(float)
    for way in (script.bare, script.bare_pillow):
        made = cv2.imdecode(np.frombuffer(way(raw), np.uint8), cv2.IMREAD_COLOR)
        assert made.shape == (256, 341, 3)
        assert np.abs(made - expected).mean() < 3, way.__name__


def test_two_workers_are_compared_without_start_up(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {("many", 1): 12.0, ("many", 2): 8.0, ("few", 1): 2.0, ("few", 2): 3.0}
    monkeypatch.setattr(script, "prepare_seconds", lambda tar, out, workers: seconds[tar.stem, workers])
    assert script.measure_wall(script.synthetic_photos(2), tmp_path, 2, 2)["two_processes"] == 2.0


def test_memory_is_taken_after_a_fifth_and_after_all(script: ModuleType, tmp_path: Path) -> None:
    found = script.measure_memory(tmp_path, 400)
    assert 0.5 < found["memory_flat"] <= 1
    assert 20 < found["decoder_mb_after_80"] <= found["decoder_mb_after_400"] < 300
