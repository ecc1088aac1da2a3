"""Annotations as XML: ASAP, Aperio ImageScope, HALO."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.regions import Region, rasterise
from sciencessl.errors import DataError

ASAP = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations>
 <Annotation Name="A 0" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
  <Coordinate Order="1" X="10,0" Y="0"/></Coordinates></Annotation>
</Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#ff0000"/></AnnotationGroups>
</ASAP_Annotations>"""


def coordinates(*corners: tuple[float, float]) -> str:
    tags = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
    return f"<Coordinates>{tags}</Coordinates>"


def asap(*annotations: tuple[str, str, str]) -> str:
    inner = "".join(f'<Annotation Name="A" Type="{kind}" PartOfGroup="{group}">{places}</Annotation>'
                    for kind, group, places in annotations)
    return f"<ASAP_Annotations><Annotations>{inner}</Annotations><AnnotationGroups/></ASAP_Annotations>"


def read(tmp_path: Path, text: str, skipped: Counter[str] | None = None) -> list[Region]:
    (tmp_path / "slide.xml").write_text(text)
    return read_annotations(tmp_path / "slide.xml", skipped=skipped)


def test_asap_polygons_rectangles_splines_and_dots_are_read(tmp_path: Path) -> None:
    skipped: Counter[str] = Counter()
    square = coordinates((0, 0), (10, 0), (10, 8), (0, 8))
    found = read(tmp_path, asap(
        ("Polygon", "Tumor", square), ("Rectangle", "Tumor", square),
        ("Rectangle", "None", coordinates((1, 2), (4, 6))), ("Spline", "Stroma", square),
        ("Dot", "Mitosis", coordinates((5, 6))),
        ("PointSet", "Mitosis", coordinates((1, 2), (3, 4))), ("Measurement", "None", coordinates((0, 0), (1, 1))),
    ), skipped)
    assert [(region.class_name, region.kind) for region in found] == [
        ("Tumor", "area"), ("Tumor", "area"), ("", "area"), ("Stroma", "area"), ("Mitosis", "point"),
        ("Mitosis", "point"), ("Mitosis", "point")]
    assert found[2].box == (1, 2, 4, 6)
    assert skipped == {"annotations of type 'Measurement'": 1}


def test_asap_corners_come_in_their_order(tmp_path: Path) -> None:
    tags = "".join(f'<Coordinate Order="{order}" X="{x}" Y="{y}"/>'
                   for order, x, y in ((2, 10, 10), (0, 0, 0), (3, 0, 10), (1, 10, 0)))
    (region,) = read(tmp_path, asap(("Polygon", "Tumor", f"<Coordinates>{tags}</Coordinates>")))
    assert rasterise([region], (10, 10), (1, 1)).all()


def test_an_asap_corner_without_numbers_is_an_error_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotation 0 \('A 0'\) has a corner that is no pair of numbers: .*10,0"):
        read(tmp_path, ASAP)


def region(
    *corners: tuple[float, float], kind: str = "0", negative: str = "0", text: str = "", tag: str = "Vertex"
) -> str:
    tags = "".join(f'<{tag} X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    return f'<Region Type="{kind}" NegativeROA="{negative}" Text="{text}"><Vertices>{tags}</Vertices></Region>'


def aperio(*regions: str, name: str = "Tumor", attributes: str = "") -> str:
    return (f'<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="{name}">{attributes}'
            f"<Regions><RegionAttributeHeaders/>{''.join(regions)}</Regions></Annotation></Annotations>")


SQUARE = ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0))


def test_aperio_regions_have_the_class_of_their_layer(tmp_path: Path) -> None:
    skipped: Counter[str] = Counter()
    found = read(tmp_path, aperio(
        region(*SQUARE), region((1, 2), (4, 6), kind="1"), region((10, 20), (50, 40), kind="2"),
        region((0, 0), (1, 1), kind="3"), region((0, 0), (1, 1), kind="4")), skipped)
    assert [found.class_name for found in found] == ["Tumor"] * 3
    assert found[1].box == (1, 2, 4, 6)
    assert found[2].box == pytest.approx((10, 20, 50, 40))
    assert skipped == {"regions of type '3'": 1, "regions of type '4'": 1}


@pytest.mark.parametrize(("name", "attributes", "text", "expected"), [
    ("Tumor", '<Attributes><Attribute Name="Description" Value="Stroma"/></Attributes>', "t", "Tumor"),
    ("", '<Attributes><Attribute Name="x" Value=""/><Attribute Name="D" Value="Stroma"/></Attributes>', "t", "Stroma"),
    ("", "<Attributes/>", "Necrosis", "Necrosis"),
    ("", "", "", ""),
])
def test_a_layer_without_a_name_has_that_of_an_attribute_or_of_the_region(
    tmp_path: Path, name: str, attributes: str, text: str, expected: str
) -> None:
    (found,) = read(tmp_path, aperio(region(*SQUARE, text=text), name=name, attributes=attributes))
    assert found.class_name == expected


def test_negative_regions_are_holes_of_what_is_around_them(tmp_path: Path) -> None:
    # A defect elsewhere: negative regions read as regions of the class that they are cut from.
    skipped: Counter[str] = Counter()
    hole = region((2, 2), (5, 2), (5, 5), (2, 5), negative="1")
    outside = region((50, 50), (60, 50), (60, 60), negative="1")
    moved = region(*((x + 20, y) for x, y in SQUARE))
    found = read(tmp_path, aperio(hole, region(*SQUARE), moved, outside), skipped)
    assert [len(each.rings) for each in found] == [2, 1]
    assert rasterise(found, (10, 40), (1, 1)).sum() == 100 - 9 + 100
    assert skipped == {"negative regions outside every region of their layer": 1}


def test_halo_files_are_read_alike(tmp_path: Path) -> None:
    found = read(tmp_path, aperio(region(*SQUARE, kind="Polygon", tag="V"),
                                  region((0, 0), (1, 1), kind="Ruler", tag="V")))
    assert [each.box for each in found] == [(0, 0, 10, 10)]


def test_an_aperio_corner_without_numbers_is_an_error_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"layer 0, region 1 has a corner that is no pair of numbers: .*no X"):
        read(tmp_path, aperio(region(*SQUARE), '<Region><Vertices><Vertex Y="1"/></Vertices></Region>'))
