"""A store of slides and features of its tiles in which one tile of a slide says what the slide is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table

WIDTH = 8
TASK = """
column: diagnosis
kind: bag
classes: {normal: normal, tumour: tumour}
ordered: true
budgets: [20, all]
"""


def slide_store(
    make_store: Any, path: Path, slides: int = 64, tiles: int | Sequence[int] = 24,
    diagnosis: Mapping[str, Any] | None = None, placed: bool = False,
) -> Store:
    """Slides of patients with two each, every other patient with a tumour and every fourth pair in split=test; the
    tiles of slides are interleaved. `diagnosis` changes the label of tiles by id; `placed`
    says where tiles lie, four in a row."""
    counts = [tiles] * slides if isinstance(tiles, int) else list(tiles)
    places = sorted((place, slide) for slide, count in enumerate(counts) for place in range(count))
    slide_of = {f"t{i:04d}": slide for i, (_, slide) in enumerate(places)}
    columns: dict[str, dict[str, Any]] = {
        name: {"slide": f"s{slide:03d}", "group": f"p{slide // 2:03d}"} for name, slide in slide_of.items()
    }
    if placed:
        for (place, _), row in zip(places, columns.values(), strict=True):
            row |= {"x_px": 1000.0 + 64 * (place % 4), "y_px": 64.0 * (place // 4), "field_px_x": 64.0,
                    "field_px_y": 64.0}
    splits = {name: "test" if slide // 4 % 4 == 3 else "train" for name, slide in slide_of.items()}
    store = make_store(path, list(slide_of), domain="pathology", side=8, splits=splits, columns=columns, classes={})
    labels = {name: ("normal", "tumour")[slide // 2 % 2] for name, slide in slide_of.items()} | dict(diagnosis or {})
    write_table(path, "diagnoses", pa.table({"id": list(labels), "diagnosis": list(labels.values())}))
    return Store(store.path)


def needle_features(store: Store, path: Path, strength: float = 5.0) -> Path:
    """Noise, and in the first feature of one tile of each slide with a tumour a peak, which the mean over the slide
    dilutes to what noise does too."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(store.ids), WIDTH)).astype(np.float32)
    slides, diagnosis = store.column("slide"), store.column("diagnosis")
    for slide in np.unique(slides.astype(str)):
        rows = np.flatnonzero(slides == slide)
        if diagnosis[rows[0]] == "tumour":
            values[rows[0], 0] += strength
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), WIDTH)
    pq.write_table(pa.table({"id": list(store.ids), "features": lists}), path)
    return path


def task_file(folder: Path, text: str = TASK) -> Path:
    path = folder / "diagnosis.yaml"
    path.write_text(text, encoding="utf-8")
    return path
