"""Pictures and manifest as uploaders take them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.evaluate.subject_set import MANIFEST, encoded_bytes, file_names, write_manifest, write_pictures


def test_ids_of_any_kind_become_names_of_files_that_differ() -> None:
    ids = ["g1", "G1", "a/b", "a_b", "a b", "../x", "J1234+56", "é" * 300, "x" * 300]
    names = file_names(ids)
    assert names[0] == "g1.png"
    assert len({name.casefold() for name in names}) == len(ids)
    assert all(name.endswith(".png") and len(name) < 120 and not set(name) & set("/\\ ") for name in names)
    assert not any(name.startswith((".", "-")) for name in names[:-2])
    assert file_names(ids) == names


def test_pictures_are_square_of_the_size_asked_for_and_written_once(tmp_path: Path, make_store: Any) -> None:
    store = make_store(tmp_path / "s.zarr", ["g000", "g001"], side=40)
    assert write_pictures(store, np.arange(2), tmp_path / "o", 212) == (2, 0)
    path = tmp_path / "o" / "subjects" / f"{store.ids[0]}.png"
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape == (212, 212, 3)
    assert encoded_bytes(store, 0, 212) == pytest.approx(path.stat().st_size, rel=0.01)
    before = path.stat().st_mtime_ns
    (tmp_path / "o" / "subjects" / f"{store.ids[1]}.png").unlink()
    assert write_pictures(store, np.arange(2), tmp_path / "o", 212)[0] == 1
    assert path.stat().st_mtime_ns == before


def test_a_manifest_names_each_file_and_has_no_empty_cell(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, ["a,1", 'b"2'], {"ra": [1.5, None], "#score": [np.float32(0.125), np.float32(0)]})
    assert path == tmp_path / MANIFEST
    rows = list(csv.reader(path.open(newline="")))
    assert rows[0] == ["subject_id", "filename", "ra", "#score"]
    assert [row[0] for row in rows[1:]] == ["a,1", 'b"2']
    assert [row[1] for row in rows[1:]] == file_names(["a,1", 'b"2'])
    assert [row[2:] for row in rows[1:]] == [["1.5", "0.125"], ["-", "0"]]
