"""A small galaxy store and an exported, untrained encoder: all that evaluation needs, without training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.evaluate.calibration import ReliabilityBin
from sciencessl.evaluate.groups import GroupScore
from sciencessl.evaluate.results import RESULT, Detail, Endpoint, Row, TransferResult
from sciencessl.registry import load_domain
from sciencessl.spec import InputStats
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.tables import write_table
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.train.folder import COST, HeadCard, ModelCard, StoreRecord, read_model, write_head, write_model

SIDE = 40
KINDS = ("elliptical", "edge-on", "spiral")

StoreFactory = Callable[..., Store]
RunFactory = Callable[..., Path]
RowFactory = Callable[..., Row]
TransferFactory = Callable[..., TransferResult]
CostFactory = Callable[..., dict[str, Any]]


def picture(name: str, kind: int, side: int = SIDE) -> bytes:
    """A PNG of a blob whose shape depends on its class."""
    rng = np.random.default_rng(list(name.encode()))
    y, x = np.mgrid[:side, :side] - side / 2 + rng.normal(0, 3, (2, 1, 1))
    width = rng.uniform(6, 10)
    light = np.exp(-((x / width) ** 2 + (y / (width * (1.0, 0.4, 0.65)[kind])) ** 2))
    image = rng.uniform(30, 150) * light[..., None] + rng.uniform(0, 70, (side, side, 3))
    return bytes(cv2.imencode(".png", image.astype(np.uint8))[1])


def names_of(count: int, first: str = "g") -> list[str]:
    return [f"{first}{i:03d}" for i in range(count)]


@pytest.fixture(scope="session")
def make_store() -> StoreFactory:
    """Writes and seals a store of pictures, one class in turn, every third sample in split=test."""

    def build(
        path: Path, names: Sequence[str], domain: str = "galaxy", rows: int = 1, side: int = SIDE,
        splits: Mapping[str, str] | None = None, columns: Mapping[str, Mapping[str, Any]] | None = None,
        classes: Mapping[str, Any] | None = None,
    ) -> Store:
        spec = load_domain(domain)
        header = StoreHeader(domain, "images", spec.fields, rows, len(names), {"side": side}, "plan", "config")
        create_store(path, header, 4_000)
        numbers = {name: int(name[1:]) for name in names}
        samples = [
            PreparedSample(
                name, (splits or {}).get(name, "test" if (i // 3) % 3 == 2 else "train"),
                {spec.primary: picture(name, i % 3, side)}, (columns or {}).get(name, {}),
            )
            for name, i in numbers.items()
        ]
        for row in range(rows):
            write_row(path, header, row, samples[row::rows], [], "inputs")
        seal(path, header)
        values = classes if classes is not None else {name: KINDS[i % 3] for name, i in numbers.items()}
        if values:
            write_table(path, "labels", pa.table({"id": list(values), "class": list(values.values())}))
        return Store(path)

    return build


@pytest.fixture(scope="session")
def make_run() -> RunFactory:
    """Writes a run folder with an untrained encoder."""

    def build(path: Path, store: Store, seed: int = 0, backbone: str = "test_resnet", **changes: Any) -> Path:
        encoder: Any = build_backbone(backbone, 3, seed)
        domain = load_domain(store.header.domain)
        views = asdict(domain.train_options(size=32))
        card = ModelCard(
            domain=domain.name, method="byol", backbone=backbone, field=store.primary,
            channels=store.header.fields[store.primary].channels, features=encoder.num_features,
            stats=InputStats((0.2,) * 3, (0.2,) * 3, (255.0,) * 3, "linear"), views=views, steps=1, images=8, seed=seed,
            stores=(StoreRecord(str(store.path), store.digest),),
        )
        write_model(path, replace(card, **changes), encoder)
        (path / COST).write_text(json.dumps({"images_seen": 8}), encoding="utf-8")
        return path

    return build


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory, make_store: StoreFactory) -> Store:
    """144 galaxies, 96 of them in split=train."""
    return make_store(tmp_path_factory.mktemp("survey") / "survey.zarr", names_of(144))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, survey: Store, make_run: RunFactory) -> Path:
    """An untrained run on the survey."""
    return make_run(tmp_path_factory.mktemp("runs") / "first", survey)


@pytest.fixture
def model(tmp_path: Path, survey: Store, make_run: RunFactory) -> Path:
    """What a transfer would save: an untrained encoder, and a classifier of two classes with random weights."""
    path = make_run(tmp_path / "few" / "models" / "frozen-first", survey)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, read_model(path).features)).astype(np.float32)
    card = HeadCard("morphology", "class", ("elliptical", "spiral"), "frozen", "36", 0, 36, "C=0.01 (fixed)", "a fit")
    write_head(path, card, weight, np.array([0.1, -0.2], np.float32))
    return path


@pytest.fixture(scope="session")
def make_row() -> RowFactory:
    """A row of a few-label table; a random one has no difference."""

    def build(encoder: str = "byol", arm: str = "frozen", budget: str = "50", **changes: Any) -> Row:
        learned = arm != "random"
        values: dict[str, Any] = {
            "n_labels": int(budget) if budget.isdigit() else 2765, "subsets": 10, "encoders": 1 if learned else 5,
            "metric": "balanced_accuracy", "score": 0.61, "low": 0.58, "high": 0.64,
            "difference": 0.08 if learned else None, "difference_low": 0.05 if learned else None,
            "difference_high": 0.11 if learned else None, "trials": 4.5, "saw": "none",
            "metrics": {"auroc": 0.9, "nll": 0.5}, "baseline": "random" if learned else "",
        }
        return Row(encoder, arm, budget, **{**values, **changes})

    return build


@pytest.fixture(scope="session")
def make_cost() -> CostFactory:
    """A run's `cost.json`, of 64 images a step."""

    def build(steps: int = 1000, hours: float = 0.2, device: str = "cpu") -> dict[str, Any]:
        return {"steps": steps, "images_seen": 64 * steps, "device_hours": hours, "device": device,
                "peak_memory_bytes": 2**30, "estimated_operations": 1e9 * steps, "wall_seconds": 3600 * hours}

    return build


@pytest.fixture
def make_transfer(tmp_path: Path, make_row: RowFactory) -> TransferFactory:
    """Writes the folder of a transfer, `tmp_path/NAME`, as `transfer` would; without rows given it has one."""

    def build(name: str = "few", **changes: Any) -> TransferResult:
        values: dict[str, Any] = {
            "out": tmp_path / name, "task": "morphology", "unit": "object", "classes": ("edge-on", "spiral"),
            "n_pool": 2765, "n_test": 735, "resolution": 0.042, "marks": {}, "rows": (make_row(),), "cost": {},
            "dropped": {}, "seconds": 1.0, "fits": 1, "store": "digest",
        }
        result = TransferResult(**{**values, **changes})
        result.out.mkdir(exist_ok=True)
        (result.out / RESULT).write_text(json.dumps(result.to_json(), allow_nan=False), encoding="utf-8")
        return result

    return build


SIZES = (20, 60, 200, 2853)
LEVELS = {"byol": 0.62, "hybrid": 0.70, "scratch": 0.45, "random": 0.50}
CURVES = (("byol", "frozen"), ("byol", "linear"), ("hybrid", "frozen"), ("hybrid", "finetune"), ("scratch", "scratch"),
          ("random", "random"))
CLASSES = ("edge-on", "elliptical", "merger", "spiral")


def curve_rows(encoder: str, arm: str) -> tuple[Row, ...]:
    """A curve that rises with the labels: three pretraining seeds, five random encoders, or subsets from scratch."""
    rng = np.random.default_rng([len(encoder), len(arm)])
    encoders = {"scratch": 1, "random": 5}.get(arm, 3)
    rows = []
    for size in SIZES:
        subsets = 1 if size == SIZES[-1] else 4
        score = LEVELS[encoder] + 0.08 * math.log10(size / 20) + {"linear": -0.03, "finetune": 0.06}.get(arm, 0.0)
        each = tuple((score + rng.normal(0, 0.015, encoders if encoders > 1 else subsets)).tolist())
        gap = None if arm == "random" else score - LEVELS["random"] - 0.08 * math.log10(size / 20)
        ends = (None, None) if gap is None else (gap - 0.06, gap + 0.06)
        parts = {"pretraining": 6e-5, "subsets": 1e-5, "units": 3e-5, "interactions": 0.0} if encoders > 1 else {}
        rows.append(Row(
            encoder, arm, "all" if subsets == 1 else f"{size // 4}/class", size, subsets, encoders,
            "balanced_accuracy", score, score - 0.04, score + 0.04, gap, *ends, 4.0, "none",
            metrics={"accuracy": score + 0.02, "nll": 0.9}, baseline="" if gap is None else "random",
            seeds=encoders, each=each, parts=parts,
        ))
    return tuple(rows)


def a_detail(encoder: str, arm: str) -> Detail:
    bins = tuple(ReliabilityBin(65, c, c - 0.06, c - 0.15, c + 0.04) for c in (0.35, 0.5, 0.62, 0.74, 0.85, 0.95))
    confusion = ((30.0, 2.0, 0.0, 8.0), (1.5, 210.5, 3.0, 5.0), (4.0, 6.0, 11.0, 9.0), (3.0, 0.3, 6.7, 290.0))
    groups = (
        GroupScore("below 17.5", 210, 205, 0.74, 0.69, 0.79),
        GroupScore("17.5 and above", 372, 360, 0.58, 0.53, 0.63, worst=True),
        GroupScore("missing", 8, 3, 0.55, None, None, note="3 of 4 classes occur; 3 units of 3 classes: too few"),
    )
    return Detail(encoder, arm, "all", 1.37, bins, 0.061, confusion, groups)


@pytest.fixture
def full_result(tmp_path: Path) -> TransferResult:
    """A table with everything in it: two methods of three seeds, all arms but kNN, endpoints and details."""
    return TransferResult(
        out=tmp_path, task="morphology", unit="object", classes=CLASSES, n_pool=2853, n_test=590, resolution=0.041,
        marks={"byol": "Neither test samples nor related labels were seen."},
        rows=tuple(row for curve in CURVES for row in curve_rows(*curve)), cost={}, dropped={}, seconds=1.0, fits=4,
        endpoints=(
            Endpoint("hybrid", "byol", True, 20, 2853, 0.08, 0.02, 0.14, 0.01, 0.01, "frozen", "frozen", 3,
                     (0.05, 0.08, 0.11)),
            Endpoint("byol", "random", False, 20, 2853, 0.12, 0.07, 0.17, 0.001, 0.002, seeds=3,
                     each=(0.10, 0.12, 0.14)),
            Endpoint("hybrid", "scratch", False, 20, 2853, 0.01, -0.05, 0.07, 0.7, 0.7, "finetune", "scratch", 3,
                     (-0.03, 0.01, 0.05)),
        ),
        details=tuple(a_detail(*curve) for curve in CURVES[:4]), by="mag", tested="telescope = B",
        members={"byol": ("byol-1", "byol-2", "byol-3"), "hybrid": ("hybrid-1", "hybrid-2", "hybrid-3")},
    )
