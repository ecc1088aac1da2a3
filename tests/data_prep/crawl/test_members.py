"""From names to images: keys, sidecars, what comes twice, what is passed over."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from sciencessl.data_prep.crawl.members import MAX_SIDECAR_BYTES, OTHERS, images_of, is_image
from sciencessl.data_prep.crawl.record import Contents, Place

PLACE = Place("x/00000.tar", "", "tar", 0, 0)


def listed(*names: str, first_dot: bool = True, **columns: list[object]) -> Contents:
    """Members of those names, of which `at` is the number."""
    n = len(names)
    table = pa.table({
        "name": pa.array(names, pa.string()), "at": pa.array(range(n), pa.int64()),
        "size": pa.array(columns.get("size", [1] * n), pa.int64()),
        "reason": pa.array(columns.get("reason", [None] * n), pa.string()),
        "detail": pa.array([None] * n, pa.string()),
    })
    return images_of(table, PLACE, first_dot)


def beside(found: Contents) -> dict[str, list[int]]:
    """Key -> numbers of its sidecars."""
    return {row["key"]: [entry["at"] for entry in row["sidecars"]] for row in found.table.to_pylist()}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("1.jpg", "1"), ("a/b.c/1.JPEG", "a/b.c/1"), ("./1.webp", "1"), ("././a/1.avif", "a/1"), ("1.v2.png", "1"),
        ("/abs/1.img", "/abs/1"), ("a\nb.jpg", "a\nb"), ("../1.tiff", "../1"), ("語/é.jp2", "語/é"), (" .bmp", " "),
    ],
)
def test_a_key_is_the_name_up_to_the_first_dot_of_its_last_part(name: str, key: str) -> None:
    assert listed(name).table["key"].to_pylist() == [key]


def test_a_key_may_end_at_the_last_dot_instead() -> None:
    assert listed("a.b/1.v2.png", "1.png", first_dot=False).table["key"].to_pylist() == ["a.b/1.v2", "1"]


@pytest.mark.parametrize(
    "name", [".hidden.jpg", "a/._1.jpg", "jpg", "a.jpg/", "", "a/.jpg", "1.jpg.part", "1.", "1.mp4"]
)
def test_what_is_hidden_or_has_no_suffix_of_an_image_is_no_image(name: str) -> None:
    assert len(listed(name).table) == 0
    assert listed(name).refused == ()
    assert not is_image(name)


def test_several_images_of_a_key_are_called_by_their_whole_names() -> None:
    found = listed("1.jpg", "1.png", "2.jpg", "3.v1.jpg", "3.v2.jpg")
    assert found.table["key"].to_pylist() == ["1.jpg", "1.png", "2", "3.v1.jpg", "3.v2.jpg"]


def test_a_name_that_comes_again_is_refused_and_the_first_stays() -> None:
    found = listed("1.jpg", "2.jpg", "1.jpg", "./1.jpg", "1.JPG")
    assert found.table["at"].to_pylist() == [0, 1, 4]
    assert found.table["key"].to_pylist() == ["1.jpg", "2", "1.JPG"]
    assert [(entry.id, entry.reason) for entry in found.refused] == [("x/00000/1.jpg", "duplicate-id")] * 2


def test_one_file_twice_keeps_the_key_of_one() -> None:
    found = listed("1.jpg", "1.jpg")
    assert found.table["key"].to_pylist() == ["1"]
    assert [entry.id for entry in found.refused] == ["x/00000/1"]


def test_an_image_that_cannot_be_read_is_refused_with_its_reason() -> None:
    found = listed("1.jpg", "2.jpg", "2.json", reason=["unsupported", None, "unsupported"])
    assert found.table["key"].to_pylist() == ["2"]
    assert [(entry.id, entry.reason) for entry in found.refused] == [("x/00000/1", "unsupported")]
    assert beside(found) == {"2": []}


def test_sidecars_belong_to_the_image_of_their_name_or_else_to_all_of_their_key() -> None:
    found = listed("1.json", "1.a.jpg", "1.b.jpg", "1.b.txt", "2.txt", "2.jpg", "2.cls", "9.json", "1.b.json", "3.JSON",
                   "3.png")
    assert beside(found) == {"1.a.jpg": [0], "1.b.jpg": [3, 8], "2": [4, 6], "3": [9]}


def test_the_first_of_two_sidecars_of_one_name_counts_and_none_that_is_huge() -> None:
    found = listed("1.jpg", "1.json", "1.json", "1.txt", size=[1, 1, 1, MAX_SIDECAR_BYTES + 1])
    assert beside(found) == {"1": [1]}


def test_what_is_neither_is_counted_by_suffix() -> None:
    others = listed("1.jpg", "1.mp4", "2.mp4", "3.seg.npy", "README", "1.json").table.schema.metadata[OTHERS]
    assert json.loads(others) == {"mp4": 2, "npy": 1, "": 1}


def test_nothing_gives_nothing() -> None:
    assert len(listed().table) == 0
    assert listed().table.column_names == ["key", "at", "size", "sidecars"]
