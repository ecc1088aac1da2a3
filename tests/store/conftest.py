"""Small stores for the tests of `sciencessl.store`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.spec import FieldSpec
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.tables import write_table
from sciencessl.store.writer import PreparedSample, Refusal, create_store, write_row

IMAGE = FieldSpec("bytes", ("r", "g", "b"))
FLUX = FieldSpec("array", ("g", "r"), "float32", shape=(4, 4), primary=False)

HeaderFactory = Callable[..., StoreHeader]
SampleFactory = Callable[..., PreparedSample]
StoreFactory = Callable[..., Store]


@pytest.fixture(scope="session")
def header() -> HeaderFactory:
    def build(
        fields: Mapping[str, FieldSpec] | None = None, rows: int = 1, places: int = 8, settings: Any = None
    ) -> StoreHeader:
        chosen = {"image": IMAGE, "flux": FLUX} if fields is None else fields
        return StoreHeader("galaxy", "images", chosen, rows, places, settings or {"size": 4}, "plan", "config")

    return build


@pytest.fixture(scope="session")
def sample() -> SampleFactory:
    def build(
        name: str, split: str = "train", image: bytes | None = None, flux: np.ndarray | None = None, **columns: Any
    ) -> PreparedSample:
        rng = np.random.default_rng(list(name.encode()))
        size = int(rng.integers(10, 60))
        payload = {
            "image": rng.bytes(size) if image is None else image,
            "flux": rng.normal(size=(2, 4, 4)).astype("f4") if flux is None else flux,
        }
        return PreparedSample(name, split, payload, columns)

    return build


@pytest.fixture(scope="session")
def make(header: HeaderFactory) -> StoreFactory:
    """Write rows of samples, seal, open."""

    def build(
        path: Path,
        rows: Sequence[Sequence[PreparedSample]],
        fields: Mapping[str, FieldSpec] | None = None,
        refused: Mapping[int, Sequence[Refusal]] | None = None,
        **settings: Any,
    ) -> Store:
        h = header(fields, len(rows), max(1, *(len(row) for row in rows)), settings)
        create_store(path, h, 2_000)
        for number, samples in enumerate(rows):
            write_row(path, h, number, samples, (refused or {}).get(number, []), "inputs")
        seal(path, h)
        return Store(path)

    return build


@pytest.fixture(scope="session")
def content() -> Callable[[Store], dict[str, object]]:
    """Id -> columns and payloads of each sample that is not withdrawn, wherever it lies."""

    def read(store: Store) -> dict[str, object]:
        index = store.present.all()
        payloads = {name: store.payloads(name, index) for name in store.header.fields}
        own = [name for name in store.rows.column_names if not name.endswith((".offset", ".size"))]
        return {
            row["id"]: (row, {name: v[at] if isinstance(v[at], bytes) else v[at].tobytes()  # type: ignore[union-attr]
                              for name, v in payloads.items()})
            for at, row in enumerate(store.rows.select(own).take(pa.array(index)).to_pylist())
        }

    return read


KILLED = """
import os, pathlib, signal, sys
left = int(sys.argv[1])
def deadly(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
os.link, pathlib.Path.replace = deadly(os.link), deadly(pathlib.Path.replace)
"""
Killed = Callable[[int, str], int]


@pytest.fixture(scope="session")
def killed() -> Killed:
    """Run Python code in a process that is killed when it gives a file its final name for the n-th time; its status."""

    def run(after: int, code: str) -> int:
        return subprocess.run([sys.executable, "-c", KILLED + code, str(after)], check=False).returncode

    return run


@pytest.fixture
def survey(tmp_path: Path, make: StoreFactory, sample: SampleFactory) -> Store:
    """Three rows (4, 0 and 3 samples), two fields, a refusal and a table."""
    splits = ("train", "test", "val", "train")
    rows = [
        [sample(f"a{i}", splits[i], width=i, group=f"g{i % 2}") for i in range(4)],
        [],
        [sample(f"c{i}", splits[i], width=10 + i, group="h") for i in range(3)],
    ]
    store = make(tmp_path / "survey.zarr", rows, refused={1: [Refusal("b0", "corrupt", "no end of image")]})
    write_table(
        store.path, "labels", pa.table({"id": ["c0", "a1"], "class": ["spiral", "smooth"]}),
        derived_from={"class": ["votes"]}, note="by hand",
    )
    return store
