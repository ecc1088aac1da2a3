"""Bright discs on noise: tiles with a label image, whose classes a network learns to tell in seconds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from sciencessl.registry import load_domain
from sciencessl.spec import InputStats
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.tables import write_table
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.train.folder import ModelCard

SIDE = 48
NAMES = ("background", "disc")


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def disc(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A tile, and 1 where its disc is."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE]
    middle, radius = rng.uniform(15, SIDE - 15, 2), rng.uniform(9, 15)
    inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    image = rng.uniform(0, 90, (SIDE, SIDE, 3)) + inside[..., None] * rng.uniform(90, 160)
    return image.clip(0, 255).astype(np.uint8), inside.astype(np.uint8)


def mask_table(path: Path, masks: dict[str, bytes | None], names: tuple[str, ...] = NAMES) -> None:
    """Label images as `store label` writes them."""
    metadata = {b"classes": json.dumps(names).encode()} if names else None
    schema = pa.schema([pa.field("id", pa.string()), pa.field("mask", pa.binary(), metadata=metadata)])
    write_table(path, "mask", pa.table([list(masks), pa.array(masks.values(), pa.binary())], schema=schema))


def disc_store(path: Path, count: int = 24) -> Store:
    """Tiles of which every third is in split=test; three of a patient."""
    spec = load_domain("pathology")
    header = StoreHeader("pathology", "images", spec.fields, 1, count, {"side": SIDE}, "plan", "config")
    create_store(path, header, 4_000)
    drawn = {f"g{i:03d}": disc(i) for i in range(count)}
    splits = ("train", "train", "test")
    samples = [
        PreparedSample(name, splits[i // 3 % 3], {spec.primary: png(image)}, {"group": f"p{i // 3}"})
        for i, (name, (image, _)) in enumerate(drawn.items())
    ]
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    mask_table(path, {name: png(mask) for name, (_, mask) in drawn.items()})
    return Store(path)


def disc_card(backbone: str = "test_resnet", features: int = 96) -> ModelCard:
    """Of an encoder that sees the tiles at their own side."""
    domain = load_domain("pathology")
    views = asdict(domain.train_options(size=SIDE, brightness=0.1, contrast=0.1))
    return ModelCard(
        domain="pathology", method="byol", backbone=backbone, field=domain.primary, channels=("r", "g", "b"),
        features=features, stats=InputStats((0.3,) * 3, (0.2,) * 3, (255.0,) * 3, "linear"),
        views=views, steps=1, images=8, seed=0, stores=(),
    )
