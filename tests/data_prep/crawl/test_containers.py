"""The layouts that img2dataset and WebDataset write, through the two functions, on a disk and behind URLs."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.data_prep.crawl.containers import KINDS, contents, records
from sciencessl.data_prep.crawl.listing import list_places
from sciencessl.data_prep.crawl.record import SUFFIXES, Record, sample_id
from sciencessl.store.files import parquet_bytes
from sciencessl.store.remote import client, object_path
from tests.data_prep.crawl.shards import tar_bytes

KEYS = [f"{number:09}" for number in (0, 1, 3)]
RAWS = {key: np.random.default_rng(int(key)).bytes(700 + 600 * int(key)) for key in KEYS}


def said(key: str) -> dict[str, object]:
    """The metadata of an image, as img2dataset's documentation lists them."""
    return {"caption": f"image {key}", "url": f"http://x/{key}", "key": key, "status": "success", "error_message": None,
            "width": 3, "height": 4, "original_width": 6, "original_height": 8, "exif": "{}", "sha256": "00" * 32}


def metadata() -> pa.Table:
    """One row for each address, those that failed among them."""
    failed = {**dict.fromkeys(said(KEYS[0])), "key": "000000002", "status": "failed_to_download"}
    return pa.Table.from_pylist([said(KEYS[0]), said(KEYS[1]), failed, said(KEYS[2])])


def beside(folder: Path) -> None:
    pq.write_table(metadata(), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text('{"count": 4, "successes": 3}')


def webdataset(folder: Path) -> None:
    """`output_format="webdataset"`."""
    members = [(f"{key}.{suffix}", raw) for key in KEYS for suffix, raw in (
        ("jpg", RAWS[key]), ("txt", f"image {key}".encode()), ("json", json.dumps(said(key), indent=4).encode()))]
    (folder / "00000.tar").write_bytes(tar_bytes(members))
    beside(folder)


def files(folder: Path) -> None:
    """`output_format="files"`."""
    (folder / "00000").mkdir()
    for key in KEYS:
        (folder / "00000" / f"{key}.jpg").write_bytes(RAWS[key])
        (folder / "00000" / f"{key}.txt").write_text(f"image {key}")
        (folder / "00000" / f"{key}.json").write_text(json.dumps(said(key), indent=4))
    beside(folder)


def parquet(folder: Path) -> None:
    """`output_format="parquet"`: a row for each address, whose bytes may be missing."""
    rows = metadata().rename_columns({"caption": "txt"})
    images = pa.array([RAWS.get(key) for key in rows["key"].to_pylist()], pa.binary())
    pq.write_table(rows.append_column("jpg", images), folder / "00000.parquet", row_group_size=2)
    (folder / "00000_stats.json").write_text("{}")


def zipped(folder: Path) -> None:
    """Not img2dataset's: its folder, in an archive."""
    with zipfile.ZipFile(folder / "00000.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for key in KEYS:
            archive.writestr(f"{key}.jpg", RAWS[key])
            archive.writestr(f"{key}.json", json.dumps(said(key)))


def packed(folder: Path) -> None:
    """Not img2dataset's: its shard, compressed."""
    webdataset(folder)
    with tarfile.open(folder / "00000.tgz", "w:gz") as archive, tarfile.open(folder / "00000.tar") as plain:
        for info in plain:
            archive.addfile(info, plain.extractfile(info))
    (folder / "00000.tar").unlink()


LAYOUTS = (webdataset, files, parquet, zipped, packed)


@pytest.fixture(params=["disk", "memory"])
def copied(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    """Where a folder is read from: as it is, or from a copy behind a URL."""
    url = str(request.param)
    yield lambda folder: str(folder) if url == "disk" else upload(folder, "memory://containers")
    if url == "memory" and fsspec.filesystem("memory").exists("/containers"):
        fsspec.filesystem("memory").rm("/containers", recursive=True)


def upload(folder: Path, url: str) -> str:
    system, root = client(object_path(url))
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes())
    return url


def everything(source: str) -> dict[str, Record]:
    """Id -> record of all places."""
    return {sample_id(place, record.key): record
            for place in list_places([source]).places for record in records(place, contents(place).table)}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_images_and_words_from_a_disk_and_a_url(
    tmp_path: Path, layout: Callable[[Path], None], copied: Callable[[Path], str]
) -> None:
    layout(tmp_path)
    found = everything(copied(tmp_path))
    refused = {name: record.refused.reason for name, record in found.items() if record.refused}
    assert refused == ({"00000/000000002": "missing-file"} if layout is parquet else {})
    assert {name: record.raw for name, record in found.items() if name not in refused} == {
        f"00000/{key}": raw for key, raw in RAWS.items()}
    for key in KEYS:
        assert found[f"00000/{key}"].meta == {name: value for name, value in said(key).items() if value is not None}


def test_a_shard_of_the_webdataset_convention_with_any_images(tmp_path: Path) -> None:
    members = [(f"train/{key}.{suffix}", raw) for key in "ab" for suffix, raw in (
        ("cls", b"3"), ("input.png", b"in" + key.encode()), ("target.png", b"out"), ("seg.npy", b"array"))]
    (tmp_path / "s-000.tar").write_bytes(tar_bytes(members, tarfile.PAX_FORMAT))
    found = everything(str(tmp_path))
    assert list(found) == [f"s-000/train/{key}.{name}.png" for key in "ab" for name in ("input", "target")]
    assert {record.meta["class"] for record in found.values()} == {"3"}


def test_shards_and_lists_are_read_from_s3(tmp_path: Path, s3: str) -> None:
    webdataset(tmp_path)
    url = upload(tmp_path, f"{s3}/crawl")
    (place,) = list_places([url]).places
    assert (place.name, place.url, place.size) == ("00000.tar", "s3://bucket/crawl/00000.tar",
                                                   (tmp_path / "00000.tar").stat().st_size)
    assert place == list_places([f"{s3}/crawl/*.tar"]).places[0]
    table = contents(place).table
    assert [record.raw for record in records(place, table.slice(1))] == [RAWS[key] for key in KEYS[1:]]
    upload(tmp_path, url)  # the same bytes again are the same object
    assert all(record.refused is None for record in records(place, table))


def plain(found: Iterable[Record]) -> list[tuple[object, ...]]:
    return [(record.key, record.raw, record.meta, record.offset, str(record.refused)) for record in found]


def test_lists_survive_being_kept_as_parquet(tmp_path: Path) -> None:
    for layout in (webdataset, zipped, parquet):
        folder = tmp_path / layout.__name__
        folder.mkdir()
        layout(folder)
        for place in list_places([folder]).places:
            kept = pq.read_table(io.BytesIO(parquet_bytes(contents(place).table)))
            assert plain(records(place, kept)) == plain(records(place, contents(place).table))


def test_every_kind_has_a_reader() -> None:
    assert set(KINDS) == {*SUFFIXES.values(), "files"}
