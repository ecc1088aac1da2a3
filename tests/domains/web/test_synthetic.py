"""The synthetic crawl on disk: folders, sizes, balance, and files that are no images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from sciencessl.domains.web.synthetic import CLASSES, SPLITS, synthetic_photos
from sciencessl.errors import ConfigError

N = 82
BROKEN = {"truncated.jpg", "error-page.jpg", "empty.jpg"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_photos(tmp_path_factory.mktemp("photos"), np.random.default_rng(8), N)


def good(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*/*/*.jpg")) if path.name not in BROKEN]


def test_good_photos_are_readable_and_differ_in_shape(folder: Path) -> None:
    sizes, modes = set(), set()
    for path in good(folder):
        with Image.open(path) as image:
            image.load()
            assert 70 <= min(image.size) <= max(image.size) <= 280
            assert max(image.size) / min(image.size) < 2.1
            sizes.add(image.size)
            modes.add(image.mode)
    assert len(good(folder)) == N
    assert len({path.name for path in good(folder)}) == N
    assert len(sizes) > N // 2
    assert modes == {"RGB", "L"}


def test_classes_and_splits_are_balanced(folder: Path) -> None:
    counts = {(s, c): sum(1 for p in good(folder) if p.parts[-3:-1] == (s, c)) for s in SPLITS for c in CLASSES}
    per_class = [sum(counts[split, name] for split in SPLITS) for name in CLASSES]
    assert sum(per_class) == N
    assert max(per_class) - min(per_class) <= 1
    for name in CLASSES:
        assert counts["test", name] == counts["val", name] == 3
        assert counts["train", name] >= 14


def test_broken_files_are_refused_by_a_decoder(folder: Path) -> None:
    broken = {path.name: path for path in folder.glob("*/*/*.jpg") if path.name in BROKEN}
    assert set(broken) == BROKEN
    assert {path.parts[-3] for path in broken.values()} == {"train"}
    for name in ("error-page.jpg", "empty.jpg"):
        with pytest.raises(UnidentifiedImageError):
            Image.open(broken[name])
    with Image.open(broken["truncated.jpg"]) as image, pytest.raises(OSError, match="truncated"):
        image.load()


def test_same_generator_writes_same_bytes(tmp_path: Path) -> None:
    def written(name: str, seed: int) -> list[bytes]:
        folder = synthetic_photos(tmp_path / name, np.random.default_rng(seed), 6)
        return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]

    assert written("a", 1) == written("b", 1) != written("c", 2)


def test_few_photos_and_none(tmp_path: Path) -> None:
    folder = synthetic_photos(tmp_path / "four", np.random.default_rng(0), 16)
    for split in SPLITS:
        assert {path.parts[-2] for path in good(folder) if path.parts[-3] == split} == set(CLASSES)
    with pytest.raises(ConfigError, match="n must be 1 or more, got 0"):
        synthetic_photos(tmp_path, np.random.default_rng(0), 0)
