"""The synthetic H&E tiles on disk: catalogue and files agree, and colour belongs to the patient."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sciencessl.domains.pathology.synthetic import CLASSES, TILE, synthetic_tiles
from sciencessl.errors import ConfigError

N = 121


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_tiles(tmp_path_factory.mktemp("tiles"), np.random.default_rng(3), N)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "catalogue.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_catalogue_and_files(folder: Path, rows: list[dict[str, str]]) -> None:
    assert list(rows[0]) == ["id", "file", "class", "patient", "slide", "mpp"]
    assert len({row["id"] for row in rows}) == N
    assert {row["file"] for row in rows} == {f"tiles/{path.name}" for path in (folder / "tiles").iterdir()}
    for row in rows:
        image = Image.open(folder / row["file"])
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (TILE, TILE))
        assert np.asarray(image).std() > 10


def test_classes_are_balanced(rows: list[dict[str, str]]) -> None:
    counts = Counter(row["class"] for row in rows)
    assert set(counts) == set(CLASSES)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_tiles_belong_to_slides_and_slides_to_patients(rows: list[dict[str, str]]) -> None:
    patients_of_slide: dict[str, set[str]] = {}
    slides_of_patient: dict[str, set[str]] = {}
    mpp_of_patient: dict[str, set[str]] = {}
    for row in rows:
        patients_of_slide.setdefault(row["slide"], set()).add(row["patient"])
        slides_of_patient.setdefault(row["patient"], set()).add(row["slide"])
        mpp_of_patient.setdefault(row["patient"], set()).add(row["mpp"])
        assert 0.4 < float(row["mpp"]) < 0.6
    assert all(len(patients) == 1 for patients in patients_of_slide.values())
    assert all(len(mpp) == 1 for mpp in mpp_of_patient.values())
    assert {len(slides) for slides in slides_of_patient.values()} == {1, 2}
    assert Counter(row["slide"] for row in rows).most_common()[0][1] == 10


def test_colour_says_who_more_than_what(folder: Path, rows: list[dict[str, str]]) -> None:
    colour = np.stack([np.asarray(Image.open(folder / row["file"])).mean(axis=(0, 1)) for row in rows])

    def explained(column: str) -> float:
        names = np.array([row[column] for row in rows])
        means = np.stack([colour[names == name].mean(axis=0) for name in names])
        return float(means.var(axis=0).sum() / colour.var(axis=0).sum())

    assert explained("patient") > 0.6
    assert explained("class") < 0.25


def test_same_generator_writes_same_bytes(tmp_path: Path) -> None:
    def written(name: str, seed: int) -> list[bytes]:
        folder = synthetic_tiles(tmp_path / name, np.random.default_rng(seed), 6)
        return [path.read_bytes() for path in sorted(folder.rglob("*.*"))]

    assert written("a", 1) == written("b", 1) != written("c", 2)


def test_one_tile_and_none(tmp_path: Path) -> None:
    assert len(list((synthetic_tiles(tmp_path, np.random.default_rng(0), 1) / "tiles").iterdir())) == 1
    with pytest.raises(ConfigError, match="n must be 1 or more, got 0"):
        synthetic_tiles(tmp_path, np.random.default_rng(0), 0)
