"""Annotation files -> a table of labels: what is taken, refused and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.slide_labels import SlideLabels, read_slide_labels
from sciencessl.errors import ConfigError, DataError
from tests.data_prep.test_region_areas import grid
from tests.data_prep.test_regions import square

SLIDES = ["B"] * 4 + ["A"] * 4
IDS = [f"{slide}_{place}" for place, slide in enumerate(SLIDES)]
BOXES = np.concatenate([grid(2, 2, 100)] * 2)


def geojson(folder: Path, name: str, *shapes: tuple[str, Any]) -> None:
    """A file of areas (x0, y0, x1, y1) and points (x, y) with their classes."""
    features = []
    for class_name, place in shapes:
        area = len(place) == 4
        geometry = {"type": "Polygon", "coordinates": [square(*place).tolist()]} if area else \
            {"type": "Point", "coordinates": list(place)}
        said = {"classification": {"name": class_name}}
        features.append({"type": "Feature", "geometry": geometry, "properties": said})
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(features))


def read(folder: Path, origin: str = "regions", name: str = "region", **options: Any) -> SlideLabels:
    return read_slide_labels(origin, folder, name, IDS, SLIDES, BOXES, options)


def test_areas_and_classes_come_in_the_order_of_the_store(tmp_path: Path) -> None:
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 100, 75)), ("Tissue", (0, 0, 200, 200)))
    geojson(tmp_path, "B.geojson", ("Tumor", (100, 100, 200, 200)))
    found = read(tmp_path)
    assert found.schema is None
    assert found.data.to_pydict() == {
        "id": IDS, "area_Tumor": [0, 0, 0, 1, 0.75, 0, 0, 0], "area_Tissue": [0, 0, 0, 0, 1, 1, 1, 1],
        "region": [None, None, None, "Tumor", "Tissue", "Tissue", "Tissue", "Tissue"]}
    assert found.with_value == 5
    assert found.said == ("2 files of 2 slides: 1 Tissue, 2 Tumor",
                          "where classes overlap, the earlier goes before: Tumor, Tissue (--classes says otherwise)")
    assert found.note.startswith("regions drawn on 2 slides (files ")
    assert found.note.endswith("), class by majority of at least 0.5")
    assert "geojson" not in found.note  # the names of files may be those of patients


def test_slides_without_a_file_have_no_rows_and_are_told(tmp_path: Path) -> None:
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 100, 75)))
    found = read(tmp_path)
    assert found.data["id"].to_pylist() == IDS[4:]
    assert "1 slides have no file, such as 'B': their tiles have no row in the table" in found.said


def test_classes_are_chosen_renamed_and_ordered(tmp_path: Path) -> None:
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 60, 100)), ("DCIS", (40, 0, 100, 100)),
            ("Tissue", (0, 0, 200, 200)))
    found = read(tmp_path, classes=("Tumor=cancer", "DCIS=cancer"), rule="any")
    assert found.data.column_names == ["id", "area_cancer", "region"]
    assert found.data["area_cancer"].to_pylist() == [1, 0, 0, 0]  # what both cover counts once
    assert found.data["region"].to_pylist() == ["cancer", None, None, None]
    assert "left out, as --classes does not name them: 1 Tissue" in found.said


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 60, 100)), ("Cell", (5, 5)), ("Tumor", (3, 3, 3, 9)))
    assert "left out, as they cannot be used: 1 areas of fewer than three corners, 1 points, which cover nothing " \
           "(--from cells counts them)" in read(tmp_path).said


def test_regions_beyond_the_tiles_are_told(tmp_path: Path) -> None:
    # A defect elsewhere: annotations at another scale, or of another slide, label nothing, and nobody says so.
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 800, 600)), ("Tumor", (200, 0, 900, 90)), ("Tumor", (-9, -9, 0, 9)))
    said = "regions lie beyond the tiles of their slide; corners are to be pixels of level 0"
    assert f"2 of 3 {said}" in read(tmp_path).said
    (tmp_path / "A.geojson").unlink()
    geojson(tmp_path, "B.geojson", ("Tumor", (800, 0, 900, 90)))
    found = read(tmp_path)
    assert f"1 of 1 {said}" in found.said
    assert found.with_value == 0
    assert any(sentence.startswith("no tile has a class: regions cover too little") for sentence in found.said)


def test_a_damaged_file_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 100, 75)))
    (tmp_path / "B.xml").write_text("<Annotations>")
    found = read(tmp_path)
    assert found.data["id"].to_pylist() == IDS[4:]
    assert [(file.file, file.reason) for file in found.refused] == [("B.xml", "damaged")]
    (tmp_path / "A.geojson").write_text("{")
    with pytest.raises(DataError, match=r"not one of the 2 files of .* can be used\. annotations .* are no JSON"):
        read(tmp_path)


def test_files_without_regions_are_an_error_that_says_what_they_hold(tmp_path: Path) -> None:
    geojson(tmp_path, "A.geojson", ("Tumor", (3, 3, 3, 9)))
    with pytest.raises(DataError, match="hold no region or cell that can be used: 1 areas of fewer than three"):
        read(tmp_path)
    (tmp_path / "B.geojson").write_text("")
    with pytest.raises(DataError, match=r"the 1 files of .* corners\. 1 more cannot be read: annotations .*B\.geo"):
        read(tmp_path)


def test_several_files_of_a_slide_are_taken_together_or_make_votes(tmp_path: Path) -> None:
    geojson(tmp_path, "A_ann.geojson", ("Tumor", (0, 0, 200, 100)))
    geojson(tmp_path, "bob/A.geojson", ("Tumor", (0, 0, 100, 100)), ("Stroma", (100, 0, 200, 100)))
    votes = read(tmp_path, raters=True)
    assert votes.schema is not None
    assert votes.data.to_pydict() == {"id": IDS[4:], "region_Stroma": [0, 1, 0, 0], "region_Tumor": [2, 1, 0, 0]}
    assert votes.schema.columns == ("region_Stroma", "region_Tumor")
    assert "2 raters: ann, bob" in votes.said
    (tmp_path / "A_ann.geojson").rename(tmp_path / "A_regions.geojson")
    together = read(tmp_path)
    assert together.data["area_Tumor"].to_pylist() == [1, 1, 0, 0]
    assert any("1 slides have several files, such as 'A'" in sentence for sentence in together.said)


def test_a_rater_named_in_the_file_goes_before_its_name(tmp_path: Path) -> None:
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square(0, 0, 100, 100).tolist()]},
                 "properties": {"classification": name, "rater": rater}}
                for name, rater in (("a", "ann"), ("b", "bob"), ("a", "cid"))]
    (tmp_path / "A.geojson").write_text(json.dumps(features))
    assert read(tmp_path, raters=True).data["region_a"].to_pylist() == [2, 0, 0, 0]


def test_cells_are_counted_by_their_centre(tmp_path: Path) -> None:
    geojson(tmp_path, "A.geojson", ("tumor", (90, 90, 108, 108)), ("immune", (99.9, 5)), ("immune", (100, 5)),
            ("other", (5, 5)), ("immune", (999, 5)))
    found = read(tmp_path, "cells", "cells", classes=("tumor", "immune"))
    assert "1 of 4 cells lie in no tile" in found.said
    assert found.schema is not None
    assert found.schema.columns == ("cells_tumor", "cells_immune")
    assert found.data.to_pydict() == {"id": IDS[4:], "cells_tumor": [1, 0, 0, 0], "cells_immune": [1, 1, 0, 0]}
    assert found.with_value == 2


def test_masks_of_instances_and_types_are_counted(tmp_path: Path) -> None:
    instances, types = np.zeros((200, 200), np.uint16), np.zeros((200, 200), np.uint8)
    instances[10:20, 10:20], types[10:20, 10:20] = 1, 1
    instances[10:20, 150:160], types[10:20, 150:160] = 2, 2
    for kind, mask in (("inst", instances), ("type", types)):
        cv2.imwrite(str(tmp_path / f"A_{kind}_mask.png"), mask)
    found = read(tmp_path, "cells", "cells", classes=("2=immune", "1=tumor"))
    assert found.data.to_pydict() == {"id": IDS[4:], "cells_immune": [0, 1, 0, 0], "cells_tumor": [1, 0, 0, 0]}


def test_a_mask_alone_or_of_another_size_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "A_inst.png"), np.ones((50, 50), np.uint8))
    geojson(tmp_path, "B.geojson", ("a", (5, 5)), ("b", (5, 5)))
    found = read(tmp_path, "cells", "cells")
    assert "needs one of types" in found.refused[0].detail
    assert found.data["id"].to_pylist() == IDS[:4]
    cv2.imwrite(str(tmp_path / "A_type.png"), np.ones((50, 50), np.uint8))
    refused = read(tmp_path, "cells", "cells").refused[0].detail
    assert "has 50 x 50 pixels, and tiles of its slide reach to 150, 150" in refused


@pytest.mark.parametrize(("origin", "options", "words"), [
    ("region", {}, r"--from: no kind of annotation named 'region'\. Did you mean 'regions'\?"),
    ("regions", {"rule": "most"}, "--rule: no rule named 'most'"),
    ("regions", {"least": -0.1}, "--min-fraction -0.1: a share of the tile is from 0 to 1"),
    ("regions", {"classes": ("Tumour",)}, r"--classes Tumour: no file has that class\. Did you mean 'Tumor'\?"),
    ("regions", {"classes": ("Tumor=",)}, "--classes Tumor=: expected NAME or NAME=OURS"),
    ("regions", {"classes": ("Tumor", "Tumor=x")}, "--classes Tumor=x: expected NAME or NAME=OURS, each NAME once"),
    ("cells", {"raters": True}, "--rule, --min-fraction and --raters are for regions"),
])
def test_settings_that_make_no_sense_are_errors(
    tmp_path: Path, origin: str, options: dict[str, Any], words: str
) -> None:
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 100, 75)))
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, origin, **options)


def test_the_same_files_in_any_order_give_the_same_note(tmp_path: Path) -> None:
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 100, 75)))
    geojson(tmp_path, "B.geojson", ("Tumor", (0, 0, 50, 75)))
    before = read(tmp_path).note
    for old, new in (("A", "x"), ("B", "A"), ("x", "B")):
        (tmp_path / f"{old}.geojson").rename(tmp_path / f"{new}.geojson")
    assert read(tmp_path).note == before
    geojson(tmp_path, "A.geojson", ("Tumor", (0, 0, 100, 76)))
    assert read(tmp_path).note != before
