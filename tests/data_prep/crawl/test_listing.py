"""Finding places: what is one, what is passed over, what cannot be told apart."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.data_prep.crawl.containers import contents, records
from sciencessl.data_prep.crawl.listing import kinds_in, list_places
from sciencessl.data_prep.decode import Refused
from sciencessl.errors import DataError, OutOfReachError
from tests.data_prep.crawl.shards import SAMPLES, raws, tar_bytes


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def names(*sources: str | Path) -> list[str]:
    return [place.name for place in list_places(sources).places]


def test_kinds_follow_from_suffixes_and_others_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a.tar", "b/c.TAR.GZ", "b/d.tgz", "e.zip", "f.parquet", "g.arrow", "h.feather", "i/1.JPG",
         "i/1.json", "i/2.txt", "README.md", "x.tfrecord", "y.tar.zst", ".hidden.tar", ".git/a.jpg", "__MACOSX/a.tar")
    found = list_places([tmp_path])
    assert [(place.name, place.kind) for place in found.places] == [
        ("a.tar", "tar"), ("b/c.TAR.GZ", "tgz"), ("b/d.tgz", "tgz"), ("e.zip", "zip"), ("f.parquet", "parquet"),
        ("g.arrow", "arrow"), ("h.feather", "arrow"), ("i/all.files", "files")]
    assert found.others == {".md": 1, ".tfrecord": 1, ".zst": 1, ".txt": 1}
    assert found.passed_over == "4 other files (.md 1, .tfrecord 1, .txt 1, .zst 1)"
    assert (found.root, found.searched) == (str(tmp_path), str(tmp_path))
    place = found.places[0]
    status = (tmp_path / "a.tar").stat()
    assert (place.url, place.size, place.stamp) == (str(tmp_path / "a.tar"), 1, status.st_mtime_ns)


def test_sources_may_be_files_globs_and_several_folders(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.tar", "a/2.tar", "b/1.tar", "b/3.zip")
    assert names(tmp_path / "a" / "1.tar") == ["1.tar"]
    assert names(f"{tmp_path}/*/1.tar") == ["a/1.tar", "b/1.tar"]
    assert names(tmp_path / "a", tmp_path / "b") == ["a/1.tar", "a/2.tar", "b/1.tar", "b/3.zip"]
    assert names(tmp_path / "a", tmp_path / "b" / "3.zip") == ["a/1.tar", "a/2.tar", "b/3.zip"]
    assert names(tmp_path / "a", tmp_path / "a" / "1.tar") == ["1.tar", "2.tar"]
    assert names(f"file://{tmp_path}/a") == ["1.tar", "2.tar"]


def test_a_store_that_was_written_into_the_folder_is_no_part_of_it(tmp_path: Path) -> None:
    fill(tmp_path, "a.tar", "out.zarr/meta/0.parquet", "b/s.zarr/x.jpg", "out.crawl/lists/00ff.parquet",
         "mine.crawl/1.tar")
    assert names(tmp_path) == ["a.tar", "mine.crawl/1.tar"]


def test_what_lies_behind_links_is_listed_once(tmp_path: Path) -> None:
    fill(tmp_path, "data/1.tar")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "gone.tar").symlink_to(tmp_path / "nothing.tar")
    found = list_places([tmp_path / "data"]).places
    assert [(place.name, place.size) for place in found] == [("1.tar", 1), ("gone.tar", 0)]
    with pytest.raises(Refused) as error:
        contents(found[1])
    assert error.value.reason == "missing-file"
    (record,) = records(found[1], pa.table({"key": ["k"], "at": [0], "size": [0], "sidecars": pa.array([[]], pa.list_(
        pa.struct([("at", pa.int64()), ("size", pa.int64())])))}))
    assert record.refused is not None
    assert record.refused.reason == "missing-file"


def test_metadata_of_img2dataset_is_no_place(tmp_path: Path) -> None:
    said = pa.table({"url": ["http://x"], "key": ["000000000"], "status": ["success"]})
    (tmp_path / "00000.tar").write_bytes(tar_bytes(SAMPLES))
    fill(tmp_path, "00000_stats.json", "00001/000010000.jpg", "00001/000010000.json", "00001_stats.json")
    for name in ("00000", "00001"):
        pq.write_table(said, tmp_path / f"{name}.parquet")
    found = list_places([tmp_path])
    assert [place.name for place in found.places] == ["00000.tar", "00001/all.files"]
    assert found.others == {".json": 2, ".parquet": 2}


def test_a_table_of_images_beside_a_tar_of_its_name_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, "00000.tar")
    pq.write_table(pa.table({"jpg": [b"x"]}), tmp_path / "00000.parquet")
    with pytest.raises(DataError, match=r"00000.tar and 00000.parquet would give images of the same ids, 00000/\.\.\."):
        list_places([tmp_path])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.tar", "a.zip"], "a.zip and a.tar would give"), (["a.tar", "a/1.jpg"], "a.tar and the folder a would give"),
        (["x/a.tar", "x/a/b.zip"], "x/a.tar and the folder x/a would give"), (["a.tar", "a.tgz"], "by a quoted glob"),
    ],
)
def test_an_archive_beside_what_was_unpacked_from_it_is_an_error(tmp_path: Path, files: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        list_places([fill(tmp_path, *files)])


def test_a_large_folder_is_several_places_that_other_folders_do_not_change(tmp_path: Path) -> None:
    fill(tmp_path, *(f"big/{i:05}.jpg" for i in range(1100)))
    before = list_places([tmp_path]).places
    assert len(before) > 2
    assert sum(len(contents(place).table) for place in before) == 1100
    fill(tmp_path, "b.tar", *(f"more/{i}.jpg" for i in range(20)))
    after = {place.name: place for place in list_places([tmp_path]).places}
    assert [after[place.name] for place in before if place.name in after] == [
        place for place in before if place.name.startswith("big/from-")]


def test_catalogues_beside_images_are_no_tables_of_images(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg")
    pq.write_table(pa.table({"file": ["1.jpg"], "class": ["a"]}), tmp_path / "labels.parquet")
    assert kinds_in([tmp_path]) == {"files"}
    fill(tmp_path, "catalogue.parquet", "pack.zip")
    assert kinds_in([tmp_path]) == {"files", "zip"}
    assert list_places([tmp_path]).others == {".parquet": 1}
    pq.write_table(pa.table({"jpg": [b"x"], "png": [b"y"]}), tmp_path / "labels.parquet")
    assert kinds_in([tmp_path]) == {"files", "zip", "parquet"}
    fill(tmp_path, "a/1.tar", "notes.csv")
    assert kinds_in([tmp_path / "a"]) == {"tar"}
    assert kinds_in([tmp_path / "notes.csv"]) == set()
    pq.write_table(pa.table({"url": ["http://x"]}), tmp_path / "urls.parquet")
    assert kinds_in([tmp_path / "urls.parquet"]) == {"parquet"}


def test_nothing_found_says_what_was_searched_and_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path, "a.tfrecord", "b.csv")
    said = (r"no images found in .*\.csv 1, \.tfrecord 1\. TFRecord files are not read; let img2dataset write .*\. "
            "Lists of addresses must be downloaded first")
    with pytest.raises(DataError, match=said):
        list_places([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"found other files: none\. Check the path\."):
        list_places([tmp_path / "empty"])
    with pytest.raises(DataError, match="does not exist; name a folder"):
        list_places([tmp_path / "absent"])
    with pytest.raises(DataError, match="matches no file"):
        list_places([f"{tmp_path}/*.tar"])
    with pytest.raises(DataError, match="no source was given"):
        list_places([])


def test_a_shard_whose_name_is_no_text_is_an_error_that_says_so(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.tar")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only text as names")
    with pytest.raises(DataError, match=r"/\\xff\.tar: the name is no UTF-8 text, .*; rename the file"):
        list_places([tmp_path])


def test_folders_that_cannot_be_listed_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.tar", "b/2.tar")
    scan = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"cannot be listed \(Permission denied\); fix its permissions"):
        list_places([tmp_path])


def test_urls_are_listed_as_folders_are() -> None:
    system = fsspec.filesystem("memory")
    for name in ("crawl/x/00000.tar", "crawl/x/00001.tar", "crawl/y/1.jpg", "crawl/y/1.json", "crawl/.tmp/2.tar",
                 "crawl/notes.md", "other.tar"):
        system.pipe_file(f"/listing/{name}", tar_bytes(SAMPLES))
    found = list_places(["memory://listing/crawl"])
    assert [place.name for place in found.places] == ["x/00000.tar", "x/00001.tar", "y/all.files"]
    assert found.others == {".md": 1}
    assert all(place.size and place.stamp for place in found.places)
    assert names("memory://listing/crawl/x/00000.tar") == ["00000.tar"]
    assert names("memory://listing/crawl/x/*1.tar") == ["00001.tar"]
    assert names("memory://listing/crawl/x", "memory://listing/other.tar") == [
        "crawl/x/00000.tar", "crawl/x/00001.tar", "other.tar"]
    assert raws(found.places[1])["00001"] == SAMPLES[3][1]
    assert raws(found.places[2]) == {"y/1": tar_bytes(SAMPLES)}


def test_urls_that_cannot_be_used_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="memory://listing/absent: there is nothing of that name"):
        list_places(["memory://listing/absent"])
    fill(tmp_path, "a.tar")
    with pytest.raises(DataError, match="cannot go into one store"):
        list_places([tmp_path, "memory://listing"])
    with pytest.raises(DataError, match="from one object store; prepare each"):
        list_places(["s3://a/b", "memory://listing"])
    with pytest.raises(DataError, match="a web server does not list its files; download"):
        list_places(["https://example.org/crawl"])

    def unanswered(*_: object, **__: object) -> object:
        raise ConnectionError("no route")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "find", unanswered)
    with pytest.raises(OutOfReachError, match=r"out of reach \(no route\): check the network"):
        list_places(["memory://listing/crawl"])
