"""What is drawn on slides comes to lie beside the pixels of their tiles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, StoreError
from sciencessl.evaluate.dense_masks import count_pixels, value_names
from sciencessl.evaluate.tasks import load_task
from sciencessl.store.drawn_labels import drawn_text, label_drawn
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side
from sciencessl.train.labels import find_labels
from sciencessl.transfer_task import TransferTask
from tests.data_prep.test_slide_labels import geojson


@pytest.fixture
def slides(tmp_path: Path, make: Callable[..., Store], sample: Callable[..., object]) -> Store:
    """Two slides of two tiles of 100 px, dealt over two rows."""
    def tile(slide: str, x: float) -> object:
        return sample(f"{slide}_{x:.0f}", slide=slide, x_px=x, y_px=0.0, field_px_x=100.0, field_px_y=100.0, mpp=0.5)

    return make(tmp_path / "slides.zarr", [[tile("B", 0), tile("A", 100)], [tile("A", 0), tile("B", 100)]])


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    folder = tmp_path / "drawn"
    folder.mkdir()
    geojson(folder, "A.geojson", ("Tumor", (0, 0, 100, 75)), ("Stroma", (100, 0, 200, 100)))
    geojson(folder, "B.geojson", ("Stroma", (0, 0, 20, 100)))
    return folder


def test_regions_become_columns_of_the_store(slides: Store, drawn: Path) -> None:
    found = label_drawn(slides.path, drawn, "regions", note="by hand")
    assert (found.name, found.labelled, found.with_value, found.unchanged) == ("region", 4, 2, False)
    assert slides.ids == ["B_0", "A_100", "A_0", "B_100"]
    assert slides.column("region").tolist() == [None, "Stroma", "Tumor", None]
    assert slides.column("area_Stroma") == pytest.approx([0.2, 1, 0, 0], abs=0.01)
    assert slides.table("region").note.startswith("by hand; regions drawn on 2 slides (files ")
    text = drawn_text(found)
    assert "4 tiles have a row, and 2 of them a label" in text
    assert label_drawn(slides.path, drawn, "regions", note="by hand").unchanged


def test_cells_become_counts_of_one_question(slides: Store, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    geojson(folder, "A_nuclei.geojson", ("tumor", (5, 5)), ("tumor", (105, 5)), ("immune", (106, 5)))
    label_drawn(slides.path, folder, "cells")
    table = slides.table("cells")
    assert table.questions == ["cells"]
    assert table.schema is not None
    assert table.counts(slides.ids, table.schema.columns).tolist() == [[0, 0], [1, 1], [0, 1], [0, 0]]


def test_counts_of_cells_train_the_label_term_and_are_a_task(
    tmp_path: Path, make: Callable[..., Store], sample: Callable[..., object]
) -> None:
    place = {"y_px": 0.0, "field_px_x": 100.0, "field_px_y": 100.0}
    splits = ("train", "train", "test", "test")
    store = make(tmp_path / "s.zarr", [[sample(f"t{i}", split, slide="A", x_px=100.0 * i, **place)
                                        for i, split in enumerate(splits)]])
    geojson(tmp_path, "A.geojson", ("tumor", (5, 5)), ("immune", (6, 6)), ("immune", (250, 5)),
            ("tumor", (350, 9)))
    label_drawn(store.path, tmp_path / "A.geojson", "cells")
    (found,) = find_labels(JoinedStores([store]), ["cells"])
    assert found.columns == ("cells_immune", "cells_tumor")
    assert found.values.tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]  # of split=train alone
    task = load_task(store, TransferTask("composition", kind="counts", columns=found.columns))
    assert (task.train_ids.tolist(), task.test_ids.tolist()) == (["t0"], ["t2", "t3"])


def test_edited_masks_come_back_as_a_table_of_their_own(slides: Store, drawn: Path) -> None:
    label_drawn(slides.path, drawn, "regions")
    geojson(drawn.parent / "masks", "A.geojson", ("Tissue", (0, 0, 150, 100)))
    found = label_drawn(slides.path, drawn.parent / "masks", "regions", "tissue_edited")
    assert found.columns == ("area_Tissue", "tissue_edited")
    assert slides.column("region").tolist() == [None, "Stroma", "Tumor", None]  # nothing is hidden
    assert slides.column("tissue_edited").tolist() == [None, "Tissue", "Tissue", None]


def test_another_table_of_the_name_is_kept_and_hidden_columns_are_told(slides: Store, drawn: Path) -> None:
    label_drawn(slides.path, drawn, "regions")
    with pytest.raises(StoreError, match="has another table 'region'"):
        label_drawn(slides.path, drawn, "regions", rule="any")
    found = label_drawn(slides.path, drawn, "regions", "any_region", rule="any")
    assert "column 'area_Tumor' is hidden by that of table 'region'" in found.said
    assert label_drawn(slides.path, drawn, "regions", rule="any", overwrite=True).with_value == 3


def test_stores_that_are_not_made_of_slides_say_what_is_missing(survey: Store, slides: Store, drawn: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no column 'slide'\. .* from slides, whose tiles have slide, x_px"):
        label_drawn(survey.path, drawn, "regions")
    with pytest.raises(ConfigError, match=r"--name mpp: the rows of .* have a column of that name"):
        label_drawn(slides.path, drawn, "regions", "mpp")
    with pytest.raises(ConfigError, match="written by `sciencessl store remove`"):
        label_drawn(slides.path, drawn, "regions", "removals")


def test_the_command_line_labels_and_says_what_was_refused(
    slides: Store, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["store", "label", str(slides.path), str(drawn), "--from", "regions", "--rule", "any"]
    assert cli.run(call) == 0
    assert "table 'region' of" in capsys.readouterr().out
    (drawn / "B.xml").write_text("<ASAP_Annotations>")
    assert cli.run([*call, "--json", "--overwrite", "--classes", "Stroma", "Tumor=cancer"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["refused"][0]["file"] == "B.xml"
    assert told["columns"] == ["area_Stroma", "area_cancer", "region"]


@pytest.mark.parametrize(("flags", "words"), [
    (["--from", "regions", "--id", "x"], "--id is for tables and --from zooniverse, and means nothing for --from"),
    (["--from", "cells", "--rule", "any"], "--rule is for --from regions, and means nothing for --from cells"),
    (["--raters"], "--raters is for --from regions, and means nothing for a table"),
    (["--from", "zooniverse", "--classes", "a"], "--classes is for --from regions|cells|masks, and means nothing"),
    (["--questions", "q.yaml"], "--questions is for --from zooniverse, and means nothing for a table"),
])
def test_flags_of_another_kind_of_label_are_refused(
    slides: Store, drawn: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert cli.run(["store", "label", str(slides.path), str(drawn), *flags]) != 0
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def sized(tmp_path: Path, make: Callable[..., Store], sample: Callable[..., object]) -> Store:
    """Two tiles of 100 px of a slide, stored with 20 px."""
    tiles = [sample(f"A_{x:.0f}", slide="A", x_px=x, y_px=0.0, field_px_x=100.0, field_px_y=100.0, width=20)
             for x in (0.0, 100.0)]
    return make(tmp_path / "sized.zarr", [tiles])


def test_regions_become_label_images_that_a_task_can_read(
    sized: Store, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["store", "label", str(sized.path), str(drawn), "--from", "regions", "--masks"]
    assert cli.run(call) != 0
    assert "--masks needs --classes" in capsys.readouterr().err
    assert cli.run([*call, "--classes", "Tumor=tumour", "Stroma"]) == 0
    assert value_names(sized, "mask") == ("background", "tumour", "Stroma")
    task = TransferTask("t", "mask", kind="dense")
    counted = count_pixels(task, Side(sized, np.arange(2), "all"))
    assert counted.classes[:3] == ("background", "tumour", "Stroma")
    by_id = dict(zip(sized.ids, counted.pixels[:, :3].tolist(), strict=True))
    assert by_id == {"A_0": [100, 300, 0], "A_100": [0, 0, 400]}
    assert cli.run(["store", "info", str(sized.path)]) == 0
    assert "mask" in capsys.readouterr().out


def test_label_images_of_samples_need_no_slides(survey: Store, tmp_path: Path) -> None:
    folder = tmp_path / "painted"
    folder.mkdir()
    cv2.imwrite(str(folder / f"{survey.ids[0]}.png"), np.ones((8, 8), np.uint8))
    found = label_drawn(survey.path, folder, "masks", classes=("0=background", "1=nucleus"))
    assert (found.name, found.labelled) == ("mask", 1)
    assert value_names(survey, "mask") == ("background", "nucleus")


def test_label_images_need_the_size_of_tiles(slides: Store, drawn: Path) -> None:
    with pytest.raises(ConfigError, match="has no column 'width', the pixels along a side of a tile"):
        label_drawn(slides.path, drawn, "regions", classes=("Tumor",), masks=True)
