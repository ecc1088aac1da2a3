"""Painted label images -> a table: what is taken, refused and told."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.mask_labels import read_mask_labels
from sciencessl.data_prep.slide_labels import SlideLabels
from sciencessl.errors import DataError

IDS = ["s1_0", "s2_0", "s1_4"]
BOXES = np.array([[0.0, 0, 4, 4], [0, 0, 4, 4], [4, 0, 4, 4]])


def _read(folder: Path) -> SlideLabels:
    return read_mask_labels(folder, "mask", IDS, ["s1", "s2", "s1"], BOXES, [4, 4, 4], ["1=nucleus"])


def test_rows_come_in_the_order_of_the_store_and_a_tile_s_own_image_goes_before(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "s1.png"), np.ones((4, 8), np.uint8))
    cv2.imwrite(str(tmp_path / "s1_4.png"), np.zeros((4, 4), np.uint8))
    found = _read(tmp_path)
    assert found.data["id"].to_pylist() == ["s1_0", "s1_4"]
    means = [cv2.imdecode(np.frombuffer(raw, np.uint8), -1).mean() for raw in found.data["mask"].to_pylist()]
    assert means == [1, 0]
    assert found.said == ("2 label images, 1 of samples and 1 of slides",)
    assert found.note.startswith("label images painted (files ")


def test_files_that_cannot_be_read_are_refused_and_the_others_taken(tmp_path: Path) -> None:
    (tmp_path / "s2_0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="not one of the label images of"):
        _read(tmp_path)
    cv2.imwrite(str(tmp_path / "s1_0.png"), np.zeros((4, 4), np.uint8))
    found = _read(tmp_path)
    assert (found.with_value, [file.file for file in found.refused]) == (1, ["s2_0.png"])
