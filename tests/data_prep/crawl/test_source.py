"""The source `crawl`: from tars, tables and loose files to a store, through the public path."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sciencessl.data.decode import decode
from sciencessl.data_prep.split import assign_split
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.preparation import estimate_text, prepare, report_text
from sciencessl.store.in_place import Reference
from sciencessl.store.reader import Store
from sciencessl.store.verify import verify

HERE = {"workers": 0, "decode_seconds": 0, "test_fraction": 0.0}
"""Everything in this process, which is faster for a few images."""


def photo(seed: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG", **options: Any) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    raw = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(raw, kind, **options)
    return raw.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shard(path: Path, first: int, count: int, **said: Any) -> Path:
    """A tar as img2dataset writes it: images with JSON beside them."""
    members = {}
    for n in range(first, first + count):
        members[f"{n:06d}.jpg"] = photo(n)
        told = {"url": f"https://h{n % 3}.example/{n}", "width": 10 + n, "host": f"h{n % 3}", **said}
        members[f"{n:06d}.json"] = json.dumps(told).encode()
    return write_tar(path, members)


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    shard(tmp_path / "crawl" / "00000.tar", 0, 50)
    shard(tmp_path / "crawl" / "00001.tar", 50, 40)
    return tmp_path / "crawl"


def columns(store: Store, *names: str) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(store.column(each)[i] for each in names) for i, name in enumerate(store.ids)}


def test_tars_become_a_store_with_what_comes_with_the_images(crawl: Path, tmp_path: Path) -> None:
    settings = {**HERE, "keep": ("url",), "resize_px": 20}
    report = prepare("web", [crawl], tmp_path / "s.zarr", settings)
    store = Store(tmp_path / "s.zarr")
    assert report.n_samples == len(store) == 90
    assert sorted(store.ids) == [f"0000{n // 50}/{n:06d}" for n in range(90)]
    assert store.header.source == "crawl"
    assert verify(store.path) == []
    known = columns(store, "url", "shard", "source_width", "source_height", "width", "height", "split")
    assert known["00001/000070"] == ("https://h1.example/70", "00001.tar", 40, 30, 27, 20, "train")
    (payload,) = store.payloads("image", [store.ids.index("00000/000007")])
    with Image.open(io.BytesIO(photo(7))) as original:
        expected = np.asarray(original.resize((27, 20), Image.Resampling.BOX), np.float64)
    pixels = decode(payload, store.header.fields["image"])
    # Brightness: chroma is halved twice, in the source and in the store.
    assert np.abs(pixels.mean(axis=2) - expected.mean(axis=2)).mean() < 4


def test_a_second_call_does_nothing_and_a_changed_tar_is_told(crawl: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    first = prepare("web", [crawl], out, HERE)
    lists = {path: path.stat().st_mtime_ns for path in (tmp_path / "s.crawl" / "lists").iterdir()}
    again = prepare("web", [crawl], out, HERE)
    assert again.nothing_to_do
    assert again.manifest_digest == first.manifest_digest
    assert lists == {path: path.stat().st_mtime_ns for path in (tmp_path / "s.crawl" / "lists").iterdir()}
    os.utime(crawl / "00001.tar", ns=(1, 1))
    with pytest.raises(StoreError, match="another size or modification time"):
        prepare("web", [crawl], out, HERE)
    assert prepare("web", [crawl], out, {**HERE, "verify_inputs": True}).nothing_to_do
    shard(crawl / "00001.tar", 51, 40)
    with pytest.raises(StoreError):
        prepare("web", [crawl], out, {**HERE, "verify_inputs": True})


def test_digests_do_not_depend_on_who_prepares(crawl: Path, tmp_path: Path) -> None:
    here = prepare("web", [crawl], tmp_path / "a.zarr", HERE)
    there = prepare("web", [crawl], tmp_path / "b.zarr", {"workers": 2, "test_fraction": 0.0})
    assert here.manifest_digest == there.manifest_digest
    assert there.rows_written == here.rows_written >= 3


def test_bad_images_are_rows_and_the_others_stay(tmp_path: Path) -> None:
    members = {f"{n}.jpg": photo(n) for n in range(6)}
    members |= {"cut.jpg": photo(7)[:300], "page.jpg": b"<html>404</html>", "empty.jpg": b"",
                "tiny.png": photo(8, (4, 4), "PNG"), "wide.jpg": photo(9, (300, 10)), "flat.png": _flat()}
    write_tar(tmp_path / "c" / "a.tar", members)
    settings = {**HERE, "max_aspect": 10.0, "max_one_colour": 0.9}
    report = prepare("web", [tmp_path / "c"], tmp_path / "s.zarr", settings)
    assert report.n_samples == 6
    with open(report.refusals_file, newline="") as stream:
        found = {row["id"]: row["reason"] for row in csv.DictReader(stream)}
    assert found == {"a/cut": "truncated", "a/page": "not-an-image", "a/empty": "truncated", "a/tiny": "too-small",
                     "a/wide": "too-long", "a/flat": "filtered:one-colour"}


def _flat() -> bytes:
    raw = io.BytesIO()
    Image.new("RGB", (30, 30), (10, 200, 30)).save(raw, "PNG")
    return raw.getvalue()


def test_a_place_that_cannot_be_read_is_a_row_too(crawl: Path, tmp_path: Path) -> None:
    (crawl / "00002.tar").write_bytes(b"no tar at all, though it is called one" * 40)
    report = prepare("web", [crawl], tmp_path / "s.zarr", HERE)
    assert report.n_samples == 90
    with open(report.refusals_file, newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["id"].startswith("00002")
    with open(tmp_path / "s.crawl" / "places.csv", newline="") as stream:
        places = {row["place"]: row for row in csv.DictReader(stream)}
    assert places["00000.tar"]["images"] == "50"
    assert places["00002.tar"]["first_refusal"]


def test_a_tar_that_vanishes_or_changes_between_listing_and_reading_is_refused_image_by_image(
    crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sciencessl.data_prep import engine

    plan = engine._plan

    def planned(*arguments: Any) -> Any:
        found = plan(*arguments)
        (crawl / "00001.tar").unlink()
        return found

    monkeypatch.setattr(engine, "_plan", planned)
    report = prepare("web", [crawl], tmp_path / "s.zarr", HERE)
    assert report.n_samples == 50
    assert sum(report.refused.values()) == 40


def test_groups_splits_and_classes_come_with_the_images(crawl: Path, tmp_path: Path) -> None:
    settings = {**HERE, "test_fraction": 0.4, "group": "host", "label": ("host",), "keep": ("all",)}
    report = prepare("web", [crawl], tmp_path / "g.zarr", settings)
    store = Store(tmp_path / "g.zarr")
    assert "splits: drawn by 'host', so that images of one value stay together" in report.guessed
    for identifier, (host, group, split) in columns(store, "host", "group", "split").items():
        assert group == host == f"h{int(identifier[-6:]) % 3}"
        assert split == assign_split(host, 0, 0.4, 0.0)
    members: dict[str, bytes] = {}
    for n in range(8):
        members |= {f"{n}.jpg": photo(n), f"{n}.cls": str(n % 2).encode(),
                    f"{n}.json": json.dumps({"part": "training" if n else "validation"}).encode()}
    members |= {"9.jpg": photo(9), "9.json": b'{"part": "elsewhere"}'}
    write_tar(tmp_path / "w" / "x.tar", members)
    report = prepare("web", [tmp_path / "w"], tmp_path / "w.zarr", {**HERE, "split": "part"})
    store = Store(tmp_path / "w.zarr")
    assert {name[2:]: pair for name, pair in columns(store, "class", "split").items()} == {
        str(n): (str(n % 2), "train" if n else "val") for n in range(8)}
    assert report.refused == {"no-split": 1}


def test_columns_have_one_type_whatever_later_records_hold(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for n, score in enumerate([0.5, 1, "high", None, 2.5]):
        members |= {f"{n}.jpg": photo(n), f"{n}.json": json.dumps({"score": score}).encode()}
    members |= {"5.jpg": photo(5), "5.json": b"{broken"}
    write_tar(tmp_path / "c" / "a.tar", dict(list(members.items())[:4]))
    write_tar(tmp_path / "c" / "b.tar", dict(list(members.items())[4:]))
    store_path = tmp_path / "s.zarr"
    prepare("web", [tmp_path / "c"], store_path, {**HERE, "keep": ("score",)})
    store = Store(store_path)
    assert {name: value[0] for name, value in columns(store, "score").items()} == {
        "a/0": "0.5", "a/1": "1", "b/2": "high", "b/3": None, "b/4": "2.5", "b/5": None}


def test_parquet_and_loose_files_beside_tars(crawl: Path, tmp_path: Path) -> None:
    photos = [photo(100 + n) for n in range(5)]
    images = pa.table({"id": [f"p{n}" for n in range(5)], "jpg": photos, "lang": ["en"] * 5})
    pq.write_table(images, crawl / "more.parquet")
    (crawl / "loose").mkdir()
    for n in range(3):
        (crawl / "loose" / f"{n}.png").write_bytes(photo(200 + n, kind="PNG"))
    report = prepare("web", [crawl], tmp_path / "s.zarr", {**HERE, "keep": ("lang",)})
    store = Store(tmp_path / "s.zarr")
    assert report.n_samples == 98
    assert {"more/p3", "loose/1"} <= {*store.ids}
    assert columns(store, "lang")["more/p3"] == ("en",)
    assert columns(store, "lang")["loose/1"] == (None,)


def test_index_only_refers_to_bytes_that_may_stay_and_stores_the_others(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    members = {"a.jpg": photo(1), "b.png": photo(2, kind="PNG"), "turned.jpg": photo(3, exif=exif),
               "grey16.png": _grey16(), "cut.jpg": photo(4)[:200]}
    write_tar(tmp_path / "c" / "x.tar", members)
    (tmp_path / "c" / "loose").mkdir()
    (tmp_path / "c" / "loose" / "l.jpg").write_bytes(photo(5))
    out = tmp_path / "s.zarr"
    report = prepare("web", [tmp_path / "c"], out, {**HERE, "index_only": True})
    assert report.refused == {"truncated": 1}
    store = Store(out)
    held = dict(zip(store.ids, store.consecutive("image", 0, len(store), as_stored=True), strict=True))
    kept = {name: Reference.unpack(payload) for name, payload in held.items()}
    assert {name for name, reference in kept.items() if reference is not None} == {"x/a", "x/b", "loose/l"}
    assert kept["loose/l"].file == "loose/l.jpg"
    given = dict(zip(store.ids, store.payloads("image", range(len(store))), strict=True))
    assert given["x/a"] == members["a.jpg"]
    assert given["x/b"] == members["b.png"]
    assert given["loose/l"] == photo(5)
    assert decode(given["x/turned"], store.header.fields["image"]).shape == (40, 30, 3)
    plain = prepare("web", [tmp_path / "c"], tmp_path / "p.zarr", HERE)
    assert plain.n_samples == report.n_samples
    same = Store(tmp_path / "p.zarr")
    assert columns(same, "pixel_hash") == columns(store, "pixel_hash")
    with pytest.raises(ConfigError, match="--index-only leaves images as they lie, and --resize-px makes smaller ones"):
        prepare("web", [tmp_path / "c"], tmp_path / "t.zarr", {**HERE, "index_only": True, "resize_px": 16})


def _grey16() -> bytes:
    raw = io.BytesIO()
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70).save(raw, "PNG")
    return raw.getvalue()


def test_a_dry_run_tells_what_is_there_and_what_a_core_does(crawl: Path, tmp_path: Path) -> None:
    found = prepare("web", [crawl], tmp_path / "s.zarr", HERE, dry_run=True)
    text = estimate_text(found)
    assert "crawl: 90 images in 2 places (2 tar), 0.00 GiB" in text
    assert "would store 90 samples in" in text
    assert "samples a second" in text
    assert not (tmp_path / "s.zarr").exists()


def test_appending_takes_new_tars_and_leaves_known_ones(crawl: Path, tmp_path: Path) -> None:
    write_tar(crawl / "bad.tar", {"a.jpg": photo(1), "b.jpg": b"no image"})
    prepare("web", [crawl], tmp_path / "s.zarr", HERE)
    shard(crawl / "00002.tar", 90, 20)
    report = prepare("web", [crawl], tmp_path / "t.zarr", {**HERE, "append_to": str(tmp_path / "s.zarr")})
    assert report.n_samples == 111
    assert any("inputs are there already" in said for said in report.guessed)
    assert "111 samples" in report_text(report)


@pytest.mark.parametrize(("settings", "words"), [
    ({"catalogue": "x.csv"}, "prepare setting catalogue is of catalogues, which the source `crawl` does not read"),
    ({"stratify": True}, "prepare setting stratify is of catalogues"),
    ({"keep": ("colour",)}, "nothing called 'colour' comes with the first 90 images; with them come: host, url, width"),
    ({"group": "site"}, "nothing called 'site' comes with"),
    ({"keep": ("width",)}, "--keep width: every store has a column of that name"),
])
def test_settings_that_do_not_fit_say_so(crawl: Path, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare("web", [crawl], tmp_path / "s.zarr", {**HERE, **settings})


def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "c" / "a.tar", {"readme.md": b"# hello"})
    with pytest.raises(DataError, match=r"no image found in 1 places of .*: they are empty. Tars, zips"):
        prepare("web", [tmp_path / "c"], tmp_path / "s.zarr", HERE)


def test_loose_photos_alone_stay_with_the_source_images(tmp_path: Path) -> None:
    for n in range(4):
        path = tmp_path / "c" / "train" / ("cat" if n % 2 else "dog") / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(n))
    prepare("web", [tmp_path / "c"], tmp_path / "s.zarr", {"workers": 0, "decode_seconds": 0})
    store = Store(tmp_path / "s.zarr")
    assert store.header.source == "images"
    assert "labels" in store.tables
    prepare("web", [tmp_path / "c"], tmp_path / "t.zarr", {**HERE, "source": "crawl"})
    assert {*Store(tmp_path / "t.zarr").ids} == {"train/dog/0", "train/cat/1", "train/dog/2", "train/cat/3"}


def test_what_is_appended_keeps_the_columns_of_the_store(tmp_path: Path) -> None:
    stores = []
    for name, number in (("a", "0.5"), ("b", "7")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            pixels = np.random.default_rng(len(stores)).integers(0, 255, (32, 32, 3)).astype(np.uint8)
            raw = io.BytesIO()
            Image.fromarray(pixels).save(raw, "PNG")
            for member, content in (("1.png", raw.getvalue()), ("1.json", f'{{"n": {number}}}'.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        stores.append(tmp_path / f"{name}.zarr")
        prepare("web", [tmp_path / f"{name}.tar"], stores[-1], {
            "workers": 0, "decode_seconds": 0, "test_fraction": 0.0, "keep": ("n",),
            "append_to": str(stores[0]) if name == "b" else ""})
    assert sorted(Store(stores[1]).column("n").tolist()) == [0.5, 7.0]
