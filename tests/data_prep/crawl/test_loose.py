"""Groups of loose files: how they are dealt, and what is read of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sciencessl.data_prep.crawl.containers import contents, records
from sciencessl.data_prep.crawl.listing import list_places
from sciencessl.data_prep.crawl.loose import GROUP, Grouped
from sciencessl.data_prep.crawl.record import Place
from tests.data_prep.crawl.shards import put, read


def dealt(names: list[str]) -> dict[str, list[str]]:
    return Grouped(names).groups(names)


def sizes(groups: dict[str, list[str]]) -> list[int]:
    return [len(names) for names in groups.values()]


MANY = [f"big/{i:09}.jpg" for i in range(5000)]
FEW = [f"small/{a}/{b}/{i}.png" for a in "xy" for b in "pq" for i in range(20)]


def test_every_image_is_in_one_group_that_is_not_too_large() -> None:
    groups = dealt([*MANY, *FEW])
    assert sorted(name for names in groups.values() for name in names) == sorted([*MANY, *FEW])
    assert max(sizes(groups)) <= GROUP
    assert groups["small/all.files"] == sorted(FEW)
    # One name in 256 begins a run: 5,000 names give 20 or so.
    assert 10 <= sum(name.startswith("big/from-") for name in groups) <= 40


def test_groups_do_not_depend_on_the_order_of_names() -> None:
    assert dealt([*MANY, *FEW]) == dealt([*FEW, *reversed(MANY)])


def test_files_that_are_added_change_the_group_that_they_fall_into_and_no_other() -> None:
    before = dealt([*MANY, *FEW])
    for added in (["big/000002500a.jpg"], [f"other/{i}.jpg" for i in range(900)], ["small/x/p/new.jpg"], ["top.jpg"]):
        after = dealt([*MANY, *FEW, *added])
        changed = [name for name, members in before.items() if after.get(name) != members]
        assert len(changed) <= (1 if added[0].startswith(("big", "small")) else 0)


def test_files_of_one_name_stay_together() -> None:
    names = [f"{i:05}.{suffix}" for i in range(2000) for suffix in ("jpg", "json", "png", "txt")]
    group_of = {name: group for group, members in dealt(names).items() for name in members}
    for i in range(2000):
        assert len({group_of[f"{i:05}.{suffix}"] for suffix in ("jpg", "json", "png", "txt")}) == 1
    assert len(set(group_of.values())) > 3


def test_what_is_said_of_no_image_is_alone() -> None:
    found = Grouped(["a.jpg", "a.json", "b.json", "c/a.txt"])
    assert found.lone == {"b.json", "c/a.txt"}


def group(folder: Path) -> Place:
    (place,) = list_places([folder]).places
    return place


def test_images_carry_what_lies_beside_them(tmp_path: Path) -> None:
    for name, raw in (("a/1.jpg", b"one"), ("a/1.json", b'{"w": 1}'), ("a/1.txt", b"cat"), ("a/2.jpg", b"two"),
                      ("a/2.json", b"{"), ("b.png", b"three")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(raw)
    place, other = list_places([tmp_path]).places
    assert (place.name, place.kind, place.size) == ("a/all.files", "files", 3 + 8 + 3 + 3 + 1)
    found = {**read(place), **read(other)}
    assert {key: (record.raw, record.meta, record.offset) for key, record in found.items()} == {
        "a/1": (b"one", {"w": 1, "caption": "cat"}, 0), "a/2": (b"two", {}, 0), "b": (b"three", {}, 0)}
    assert [record.raw for record in records(place, contents(place).table.slice(1, 1), ())] == [b"two"]


def test_the_stamp_changes_with_any_file(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        put(tmp_path, name, b"x")
    before = group(tmp_path)
    assert group(tmp_path) == before
    os.utime(tmp_path / "2.jpg", ns=(5, 5))
    assert group(tmp_path).stamp != before.stamp


def test_a_file_that_is_gone_changed_empty_or_no_file_is_refused_and_the_rest_read(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "3.jpg", "5.jpg"):
        put(tmp_path, name, b"image")
    put(tmp_path, "4.jpg", b"")
    (tmp_path / "6.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "7.jpg").symlink_to(tmp_path / "1.jpg")
    os.mkfifo(tmp_path / "8.jpg")
    place = group(tmp_path)
    (tmp_path / "2.jpg").unlink()
    (tmp_path / "3.jpg").write_bytes(b"another")
    found = read(place)
    assert {key: record.refused.reason for key, record in found.items() if record.refused} == {
        "2": "missing-file", "3": "unreadable", "4": "truncated", "6": "missing-file", "8": "unreadable"}
    assert {key for key, record in found.items() if record.raw == b"image"} == {"1", "5", "7"}


def test_names_that_are_no_text_are_read_all_the_same(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"image")
    except OSError:
        pytest.skip("this file system takes only text as names")
    assert {key: record.raw for key, record in read(group(tmp_path)).items()} == {"\\xff": b"image"}


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", b"image")
    with (tmp_path / "2.jpg").open("wb") as stream:
        stream.truncate(2**29 + 1)
    assert [(entry.id, entry.reason) for entry in contents(group(tmp_path)).refused] == [("2", "too-large")]


def test_a_group_that_does_not_say_its_files_cannot_be_listed() -> None:
    with pytest.raises(ValueError, match="take it from list_places"):
        contents(Place("all.files", "/x", "files", 0, 0))
