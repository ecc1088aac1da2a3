"""`benchmarks/curate.py`: every arm clusters the same embeddings on disk, and memory does not hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("curate")


@pytest.fixture(scope="module")
def folder(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("curate") / "emb"
    script.lay(path, 3000)
    return path


@pytest.mark.parametrize("name", ["ours", "ours_whole", "faiss", "minibatch"])
def test_every_arm_clusters_all_samples(script: Any, folder: Path, name: str) -> None:
    if name == "faiss":
        pytest.importorskip("faiss")
    centroids = script.ARMS[name](folder, 20)
    assert centroids.shape == (20, script.WIDTH)
    one = script.spread(script.opened(folder), np.zeros((1, script.WIDTH), np.float32))
    assert one == pytest.approx(1, abs=1e-3)  # of unit vectors, from the origin
    assert script.spread(script.opened(folder), centroids) < 0.95


def test_embeddings_are_read_as_they_were_laid(script: Any, folder: Path) -> None:
    values = script.in_memory(folder)
    assert values.shape == (3000, script.WIDTH)
    assert np.linalg.norm(values, axis=1) == pytest.approx(1, abs=1e-5)
