"""NDPA: nanometres from the middle of the glass to pixels of the slide."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.annotations_ndpa import NdpPlace
from sciencessl.errors import DataError, MissingExtraError

PLACE = NdpPlace((10_000, 8_000), (0.25, 0.5), (100_000, -50_000))
SAID = {"openslide.level[0].width": "10000", "openslide.level[0].height": "8000", "openslide.mpp-x": "0.25",
        "openslide.mpp-y": "0.5", "hamamatsu.XOffsetFromSlideCentre": "100000",
        "hamamatsu.YOffsetFromSlideCentre": "-50000"}


def points(*corners: tuple[float, float]) -> str:
    return f"<pointlist>{''.join(f'<point><x>{x}</x><y>{y}</y></point>' for x, y in corners)}</pointlist>"


def view(annotation: str, title: str = "Tumor", unit: str = "nanometers") -> str:
    return (f"<ndpviewstate id='1'><title>{title}</title><details>why</details><coordformat>{unit}</coordformat>"
            f"{annotation}</ndpviewstate>")


AREA = view("<annotation type='freehand'><closed>1</closed>" + points(
    (100_000, -50_000), (350_000, -50_000), (350_000, 450_000)) + "</annotation>")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "S.ndpi.ndpa"


def write(file: Path, *views: str) -> Path:
    file.write_text(f"<?xml version='1.0' encoding='utf-8'?><annotations>{''.join(views)}</annotations>")
    return file


def test_nanometres_become_pixels_by_scale_size_and_offset() -> None:
    # By hand: the middle of the slide, and a place 250 um right and 500 um below it.
    np.testing.assert_allclose(PLACE.pixels(np.array([[100_000, -50_000], [350_000, 450_000]])),
                               [[5000, 4000], [6000, 5000]])


def test_closed_areas_circles_and_pins_are_read_and_others_counted(file: Path) -> None:
    skipped: Counter[str] = Counter()
    line = "<annotation type='freehand'><closed>0</closed>" + points((0, 0), (1, 1), (2, 0)) + "</annotation>"
    rectangle = ("<annotation type='freehand'><specialtype>rectangle</specialtype><closed>1</closed>"
                 + points((0, 0), (9e5, 0), (9e5, 9e5), (0, 9e5)) + "</annotation>")
    found = read_annotations(write(
        file, AREA, view(line), view(rectangle, ""),
        view("<annotation type='circle'><x>100000</x><y>-50000</y><radius>25000</radius></annotation>"),
        view("<annotation type='pin'><x>100000</x><y>-50000</y></annotation>"),
        view("<annotation type='pointer'><x1>0</x1><y1>0</y1><x2>9</x2><y2>9</y2></annotation>"),
    ), PLACE, skipped=skipped)
    assert [(region.class_name, region.kind) for region in found] == [
        ("Tumor", "area"), ("why", "area"), ("Tumor", "area"), ("Tumor", "point")]
    assert found[0].box == (5000, 4000, 6000, 5000)
    assert found[2].box == pytest.approx((4900, 3950, 5100, 4050))
    assert found[3].rings[0].tolist() == [[5000, 4000]]
    assert skipped == {"lines": 1, "annotations of type 'pointer'": 1}


def test_without_a_slide_beside_it_a_file_cannot_be_placed(file: Path) -> None:
    with pytest.raises(DataError, match=r"no slide S\.ndpi lies beside them .* export GeoJSON from QuPath"):
        read_annotations(write(file, AREA))


def opened(monkeypatch: pytest.MonkeyPatch, file: Path, said: dict[str, str] | None) -> None:
    """A slide beside the file of which OpenSlide says this, or that it cannot open it."""
    file.with_suffix("").write_bytes(b"II*")
    module: Any = ModuleType("openslide")

    class OpenSlideError(Exception):
        pass

    class OpenSlide:
        def __init__(self, path: str) -> None:
            if said is None:
                raise OpenSlideError("not a file that OpenSlide can recognize")
            self.properties = said

        def __enter__(self) -> OpenSlide:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    module.OpenSlide, module.OpenSlideError = OpenSlide, OpenSlideError
    monkeypatch.setitem(sys.modules, "openslide", module)


def test_the_slide_beside_it_says_where_it_lies(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    opened(monkeypatch, file, SAID)
    assert read_annotations(write(file, AREA))[0].box == (5000, 4000, 6000, 5000)


def test_a_slide_that_does_not_say_or_cannot_be_opened_is_an_error(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    opened(monkeypatch, file, {name: value for name, value in SAID.items() if "YOffset" not in name})
    with pytest.raises(DataError, match=r"does not say 'hamamatsu.YOffsetFromSlideCentre', which places them"):
        read_annotations(write(file, AREA))
    opened(monkeypatch, file, None)
    with pytest.raises(DataError, match=r"slide .*S\.ndpi, whose annotations are to be read, cannot be opened"):
        read_annotations(file)
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sciencessl\[pathology\]'"):
        read_annotations(file)


@pytest.mark.parametrize(("views", "words"), [
    (view("<annotation type='pin'><x>one</x><y>2</y></annotation>"), "ndpviewstate 0 has a place that is no number"),
    (view("<annotation type='pin'><x>1</x></annotation>"), "no number: .*no <y>"),
    (view("<annotation type='pin'><x>1</x><y>2</y></annotation>", unit="pixels"), "in 'pixels', expected nanometers"),
])
def test_damaged_places_are_an_error_with_the_view(file: Path, views: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_annotations(write(file, views), PLACE)
