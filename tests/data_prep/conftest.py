"""Small data sets on disk and a domain without a field of science."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sciencessl.spec import DomainSpec, FieldSpec, LabelSchema, Question

SCHEMA = LabelSchema(
    "rings",
    (
        Question("shape-r1", ("smooth", "disc")),
        Question("ring-r1", ("yes", "no"), ("shape-r1_disc",)),
    ),
    aliases={"t01_smooth": "shape-r1_smooth", "t01_disc": "shape-r1_disc"},
)


@pytest.fixture
def make_spec() -> Callable[..., DomainSpec]:
    """A domain with one RGB field; keyword arguments replace its parts."""

    def make(**parts: Any) -> DomainSpec:
        values: dict[str, Any] = {
            "name": "toy", "title": "toy", "fields": {"image": FieldSpec("bytes", ("r", "g", "b"))},
            "views": lambda _: (None, None), "display": lambda sample: sample.fields["image"],
            "synthetic": lambda folder, rng, n: folder, "sources": {"images": "sciencessl.data_prep.ingest:images"},
            "train_options": object, "prepare_options": object, "labels": {"rings": SCHEMA},
        }
        return DomainSpec(**{**values, **parts})

    return make


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """(seed, size, format, mode) -> an encoded image of noise."""

    def make(seed: int = 0, size: tuple[int, int] = (16, 12), kind: str = "JPEG", mode: str = "RGB") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, kind)
        return out.getvalue()

    return make


@pytest.fixture
def write_images(tmp_path: Path, encode: Callable[..., bytes]) -> Callable[[Sequence[str]], Path]:
    """Names -> a folder with one small image of noise for each."""

    def write(names: Sequence[str], folder: str = "data") -> Path:
        for seed, name in enumerate(names):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(seed, kind="PNG" if name.endswith(".png") else "JPEG"))
        return tmp_path / folder

    return write


@pytest.fixture
def write_csv() -> Callable[[Path, Sequence[Mapping[str, Any]]], Path]:
    """A path and rows -> a CSV with the columns of the first row."""

    def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def galaxies(
    write_images: Callable[..., Path], write_csv: Callable[..., Path]
) -> Callable[..., tuple[Path, list[dict[str, Any]]]]:
    """n -> a folder of n images with a catalogue: 18-digit objid, file, class, mag, votes; keywords change columns."""

    def make(n: int = 20, **columns: Callable[[int], Any]) -> tuple[Path, list[dict[str, Any]]]:
        rows = [
            {
                "objid": 587722952767439450 + i, "file": f"images/{i}.jpg", "class": ("spiral", "elliptical")[i % 2],
                "mag": 14.5 + i, "shape-r1_smooth": i, "shape-r1_disc": 3 * i,
                **{name.replace("__", "-"): value(i) for name, value in columns.items()},
            }
            for i in range(n)
        ]
        folder = write_images([f"images/{i}.jpg" for i in range(n)])
        write_csv(folder / "catalogue.csv", rows)
        return folder, rows

    return make


DEADLY = """
import os, signal
from dataclasses import dataclass, replace
from pathlib import Path
from sciencessl.data_prep.ingest import images
from sciencessl.data_prep.source import Task

@dataclass(frozen=True)
class Deadly:
    inner: object

    def read(self, task):
        for entry in task.inputs:
            path = Path(entry.handle.path)
            if path.name == "kills.jpg":
                os.kill(os.getpid(), signal.SIGSEGV)
            once = path.with_name("already")
            if path.name == "once.jpg" and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield from self.inner(Task(task.row, (entry,)))

def make(spec, sources, settings, options=None, out=None):
    source = images(spec, sources, settings)
    return replace(source, read=Deadly(source.read).read)
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A source of images of which `once.jpg` ends the first process that reads it, and `kills.jpg` each."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "deadly_source.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    return "deadly_source:make"
