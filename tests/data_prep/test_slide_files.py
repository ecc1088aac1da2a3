"""Which slide a file is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciencessl.data_prep.slide_files import slide_files
from sciencessl.errors import ConfigError, DataError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("[]")
    return folder


@pytest.mark.parametrize("name", ["A.geojson", "A_annotations.geojson", "A.ome.json", "A.ndpi.ndpa", "A.svs.xml",
                                  "A-regions.xml", "deep/er/A.GEOJSON", "A nuclei.parquet", "A_mask.geojson"])
def test_files_named_after_a_slide_are_its_own(tmp_path: Path, name: str) -> None:
    (found,), said = slide_files(touch(tmp_path, name), ["A", "B"])
    assert (found.slide, found.rater, found.mask) == ("A", "", "")
    assert found.path == tmp_path / name
    assert said == []


def test_the_longest_name_of_a_slide_wins(tmp_path: Path) -> None:
    # A defect elsewhere: matching by prefix gives the annotations of A_2 to slide A.
    found, said = slide_files(touch(tmp_path, "A.xml", "A_2.xml", "A_3.xml", "AB.xml"), ["A", "A_2"])
    assert [(file.path.name, file.slide) for file in found] == [("A.xml", "A"), ("A_2.xml", "A_2")]
    assert said == ["2 files are of no slide of the store: 'AB.xml' (Did you mean 'A'?), "
                    "'A_3.xml' (Did you mean 'A'?)"]


def test_names_that_no_file_can_have_are_written_as_our_masks_write_them(tmp_path: Path) -> None:
    found, _ = slide_files(touch(tmp_path, "case%2F1.geojson", "50%25 off.geojson"), ["case/1", "50% off"])
    assert [file.slide for file in found] == ["50% off", "case/1"]


def test_raters_are_in_the_name_or_in_the_folder(tmp_path: Path) -> None:
    folder = touch(tmp_path, "A_ann.geojson", "A_annotations_bob.geojson", "cid/A.geojson", "A.xml")
    found, _ = slide_files(folder, ["A"], raters=True)
    assert [file.rater for file in found] == ["", "ann", "bob", "cid"]


def test_masks_are_told_by_their_names(tmp_path: Path) -> None:
    folder = touch(tmp_path, "A_inst_mask.npz", "A_type_mask.npz", "A.png", "A_instances.tif", "B_types.geojson")
    found, said = slide_files(folder, ["A", "B"], masks=True)
    assert sorted((file.path.name, file.mask) for file in found) == [
        ("A_inst_mask.npz", "inst"), ("A_instances.tif", "inst"), ("A_type_mask.npz", "type")]
    assert said[0].startswith("2 files are of no slide")
    with pytest.raises(ConfigError, match="holds no annotation file"):
        slide_files(touch(tmp_path / "only", "A_inst.npz"), ["A"])


def test_one_file_may_be_given_alone(tmp_path: Path) -> None:
    (found,), _ = slide_files(touch(tmp_path, "A.xml") / "A.xml", ["A"])
    assert found.slide == "A"


def test_hidden_files_and_others_are_passed_over(tmp_path: Path) -> None:
    found, said = slide_files(touch(tmp_path, "A.xml", "._A.xml", "A.svs", "notes.txt"), ["A"])
    assert len(found) == 1
    assert said == []


def test_no_file_of_any_slide_is_an_error_with_the_closest_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 1 annotation files .* 'case_007\.xml' "
                                        r"\(Did you mean 'case_07'\?\)\. The store has 'case_07'\. .* --by-file"):
        slide_files(touch(tmp_path, "case_007.xml"), ["case_07"])
    with pytest.raises(ConfigError, match="does not exist; expected an annotation file, or a folder"):
        slide_files(tmp_path / "nowhere", ["A"])


def test_a_table_says_which_slide_a_file_is_of(tmp_path: Path) -> None:
    touch(tmp_path, "x.xml", "y.xml", "z.xml")
    table = tmp_path / "files.csv"
    table.write_text("file,slide,rater\nx.xml,A,ann\ny.xml,A,bob\nz.xml,C,\n")
    found, said = slide_files(tmp_path, ["A"], by_file=str(table))
    assert [(file.path.name, file.slide, file.rater) for file in found] == [
        ("x.xml", "A", "ann"), ("y.xml", "A", "bob")]
    assert said == ["1 files are of no slide of the store: 'z.xml'"]


@pytest.mark.parametrize(("text", "words"), [("name,slide\nx.xml,A\n", "has the columns name, slide; expected `file`"),
                                             ("file,slide\nq.xml,A\n", r"there is no file .*q\.xml")])
def test_a_table_with_other_columns_or_files_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "files.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        slide_files(tmp_path, ["A"], by_file=str(tmp_path / "files.csv"))
