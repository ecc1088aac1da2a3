"""Lists of places: made once, kept beside the store, cut into parts that leave nothing out."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from sciencessl.data_prep.crawl import indexing
from sciencessl.data_prep.crawl.indexing import CrawlIds, all_parts, list_contents, rows_of
from sciencessl.data_prep.crawl.listing import list_places
from sciencessl.errors import StoreError


def write(path: Path, sizes: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{number:05d}.jpg")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))


def listed(folder: Path) -> list[indexing.Listed]:
    return list_contents(list_places([folder / "c"]).places, folder / "s.crawl", 0)


@pytest.mark.parametrize(("images", "most", "size"), [(7, 3, 10**9), (100, 1000, 350), (1, 5, 1), (64, 64, 10**9)])
def test_parts_hold_every_image_once_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, most: int, size: int
) -> None:
    monkeypatch.setattr(indexing, "PART_IMAGES", most)
    monkeypatch.setattr(indexing, "LEAST_IMAGES", most)
    monkeypatch.setattr(indexing, "PART_BYTES", size)
    write(tmp_path / "c" / "a.tar", [100] * images)
    parts = list(all_parts(listed(tmp_path)))
    assert [part.first for part, _ in parts] == [0, *(part.stop for part, _ in parts[:-1])]
    assert parts[-1][0].stop == images
    assert all(part.stop - part.first <= most for part, _ in parts)
    assert all(total <= max(size, 100) for _, total in parts)
    assert sum(total for _, total in parts) == 100 * images
    names = [name for part, _ in parts for name in CrawlIds(part)]
    assert names == [f"a/{number:05d}" for number in range(images)]


def test_ids_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "c" / "a.tar", [10] * 5)
    ((part, _),) = all_parts(listed(tmp_path))
    ids = pickle.loads(pickle.dumps(CrawlIds(part)))
    assert (len(ids), ids[0], ids[-1], ids[1:3]) == (5, "a/00000", "a/00004", ["a/00001", "a/00002"])
    with pytest.raises(IndexError):
        ids[5]


def test_a_place_is_listed_again_when_it_changes_and_not_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write(tmp_path / "c" / f"{name}.tar", [10] * 3)
    assert [entry.images for entry in listed(tmp_path)] == [3, 3]
    seen: list[str] = []
    contents = indexing.contents
    monkeypatch.setattr(indexing, "contents", lambda place: seen.append(place.name) or contents(place))
    assert listed(tmp_path)[0].bytes == 30
    assert seen == []
    write(tmp_path / "c" / "b.tar", [10] * 4)
    os.utime(tmp_path / "c" / "b.tar", ns=(1, 1))
    assert [entry.images for entry in listed(tmp_path)] == [3, 4]
    assert seen == ["b.tar"]


def test_a_damaged_list_is_made_anew_and_one_that_is_gone_is_told(tmp_path: Path) -> None:
    write(tmp_path / "c" / "a.tar", [10] * 3)
    (entry,) = listed(tmp_path)
    entry.path.write_bytes(entry.path.read_bytes()[:40])
    (again,) = listed(tmp_path)
    ((part, _),) = all_parts([again])
    entry.path.unlink()
    indexing._list.cache_clear()
    with pytest.raises(StoreError, match=r"cannot be read .*run the same `sciencessl prepare` again"):
        rows_of(part)


def test_a_place_that_cannot_be_read_has_a_refusal_and_no_parts(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "bad.tar").write_bytes(b"x" * 3000)
    (entry,) = listed(tmp_path)
    assert entry.images == 0
    assert len(entry.refused) >= 1
    assert list(all_parts([entry])) == []
    assert "bad.tar,tar,0,0," in (tmp_path / "s.crawl" / "places.csv").read_text()
