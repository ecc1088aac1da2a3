"""`show`: a sheet of the right samples with the right words, and one sentence for what cannot be shown."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from sciencessl.errors import ConfigError, StoreError
from sciencessl.spec import FieldSpec
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.show import TILE, _captions, show
from sciencessl.store.tables import write_table
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.views.sheet import GAP


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve grey images, the number of a sample being its brightness over ten; the last two are test samples."""
    path = tmp_path_factory.mktemp("show") / "grey.zarr"
    header = StoreHeader("web", "images", {"image": FieldSpec("bytes", ("r", "g", "b"))}, 1, 12, {}, "plan", "config")
    create_store(path, header, 20_000)
    samples = []
    for number in range(12):
        image = cv2.imencode(".png", np.full((9, 9, 3), 10 * number, np.uint8))[1].tobytes()
        split = "test" if number >= 10 else "train"
        samples.append(PreparedSample(f"s{number}", split, {"image": image}, {"width": number / 3}))
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    write_table(path, "labels", pa.table({"id": ["s0", "s1"], "class": ["<dark>", "grey"]}))
    return path


def greys(path: Path, columns: int, count: int) -> list[int]:
    """The brightness of each tile, as numbers of samples."""
    sheet = cv2.imread(str(path))
    assert sheet is not None
    height = (sheet.shape[0] - GAP) // -(-count // columns)
    corners = [(GAP + n // columns * height, GAP + n % columns * (TILE + GAP)) for n in range(count)]
    return [int(sheet[top + TILE // 2, left + TILE // 2, 0]) for top, left in corners]


def test_every_sample_is_shown_once_when_all_fit(store: Path, tmp_path: Path) -> None:
    found = show(store, tmp_path / "new" / "sheet.png", n=100)
    assert found == tmp_path / "new" / "sheet.png"
    assert sorted(greys(found, 4, 12)) == [10 * number for number in range(12)]


def test_the_seed_decides_and_the_split_narrows(store: Path, tmp_path: Path) -> None:
    first, again, other = (show(store, tmp_path / f"{i}.png", n=4, seed=seed) for i, seed in enumerate((1, 1, 2)))
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert sorted(greys(show(store, tmp_path / "test.png", split="test"), 2, 2)) == [100, 110]


def test_conditions_choose_what_is_shown(store: Path, tmp_path: Path) -> None:
    sheet = show(store, tmp_path / "a.png", where=["width<0.5", "class=grey", "width>=3.6"])
    assert sorted(greys(sheet, 2, 3)) == [0, 10, 110]
    with pytest.raises(StoreError, match="no samples in split=test with width<1 or width>9: there is nothing to show"):
        show(store, tmp_path / "c.png", where=["width<1", "width>9"], split="test")
    with pytest.raises(ConfigError, match="'width' is no condition"):
        show(store, tmp_path / "c.png", where=["width"])


def test_captions_carry_id_and_value(store: Path, tmp_path: Path) -> None:
    opened = Store(store)
    where = np.array([opened.ids.index(name) for name in ("s0", "s1", "s7")])
    assert _captions(opened, where, None) == ["s0", "s1", "s7"]
    assert _captions(opened, where, "class") == ["s0\n<dark>", "s1\ngrey", "s7\n-"]
    assert _captions(opened, where, "width") == ["s0\n0", "s1\n0.3333", "s7\n2.333"]
    assert show(store, tmp_path / "a.png", column="class").stat().st_size > 0


def test_what_cannot_be_shown_is_said(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    with pytest.raises(StoreError, match=r"no column 'clas'\. Did you mean 'class'"):
        show(store, out, column="clas")
    with pytest.raises(StoreError, match="no samples in split=val"):
        show(store, out, split="val")
    with pytest.raises(StoreError, match="no split 'tets'"):
        show(store, out, split="tets")
    with pytest.raises(ConfigError, match="n is 0"):
        show(store, out, n=0)
    assert not out.exists()
