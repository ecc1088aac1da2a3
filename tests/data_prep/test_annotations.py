"""Which reader a file gets, what is refused, and real files of other programs."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.annotations_ndpa import NdpPlace
from sciencessl.errors import DataError

FEATURE = '[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 4]}}]'
LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol"}">' for i in range(10))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_content_decides_and_not_the_name(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "slide.txt"
    path.write_text("\n " + FEATURE if encoding == "utf-8" else FEATURE, encoding=encoding)
    assert read_annotations(path)[0].rings[0].tolist() == [[3, 4]]


def test_xml_in_utf_16_is_read(tmp_path: Path) -> None:
    # ImageScope writes no such files, but editors that people open them in do.
    (tmp_path / "a.xml").write_text('<?xml version="1.0" encoding="utf-16"?><Annotations/>', encoding="utf-16")
    assert read_annotations(tmp_path / "a.xml") == []


@pytest.mark.parametrize(("text", "words"), [
    ("", "begin with b''; known are GeoJSON"),
    ("slide,x,y\n", "begin with b'slid'; known are GeoJSON"),
    ("<html><body/></html>", "have the root <html>, expected one of <ASAP_Annotations>, <Annotations>, <annotations>"),
    ("<Annotations><Annotation>", "are no XML .*the file may be cut"),
    ("<?xml version='1.0' encoding='klingon'?><Annotations/>", "are no XML"),
])
def test_other_files_are_refused_with_what_is_known(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=words):
        read_annotations(tmp_path / "a.xml")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.xml cannot be read: No such file"):
        read_annotations(tmp_path / "nothing.xml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_bomb_of_entities_ends_at_once(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "bomb.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [{LAUGHS}]>'
                    "<Annotations>&l9;</Annotations>", encoding=encoding)
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"entities|no XML"):
        read_annotations(path)
    assert time.perf_counter() - start < 2


def test_an_entity_of_another_file_is_never_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "a.xml"
    path.write_text(f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]><Annotations><Annotation Name="&x;"/>'
                    "</Annotations>")
    with pytest.raises(DataError, match="declare XML entities, which no annotation needs; refused"):
        read_annotations(path)


def test_real_files_of_qupath_darwin_and_ndp_view_are_read(shared_data: Path) -> None:
    folder = shared_data / "pathology" / "annotations"
    qupath = read_annotations(folder / "dlup_qupath05.geojson")
    assert Counter(region.class_name for region in qupath) == {"I": 2, "UT": 1}
    darwin = read_annotations(folder / "dlup_darwin_103S.json")
    assert Counter((region.class_name, region.kind) for region in darwin) == {
        ("ROI (segmentation)", "area"): 1, ("stroma (area)", "area"): 4, ("lymphocyte (cell)", "point"): 5,
        ("tumor (cell)", "area"): 7, ("tumor (area)", "area"): 2}
    skipped: Counter[str] = Counter()
    place = NdpPlace((10_000, 10_000), (0.25, 0.25), (0, 0))
    tumor, pin = read_annotations(folder / "lazyslide_annotations_mixed.ndpa", place, skipped=skipped)
    assert (tumor.class_name, tumor.box) == ("Tumor", (3600, 3000, 4000, 3800))
    assert (pin.class_name, pin.kind) == ("Review here", "point")
    assert skipped == {"lines": 1, "annotations of type 'unknown'": 1}
    with pytest.raises(DataError, match="are no XML"):
        read_annotations(folder / "lazyslide_annotations_malformed.ndpa", place)
