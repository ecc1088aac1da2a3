"""A synthetic crawl is what its truth says: copies are copies, clusters have their sizes, and nothing else is there."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from sciencessl.domains.web.synthetic import synthetic_photos
from sciencessl.domains.web.synthetic_copies import COPIES, FORMS, ORIENTATIONS
from sciencessl.domains.web.synthetic_crawl import CLUSTERS, COLUMNS, TRUTH, cluster_sizes, synthetic_crawl
from sciencessl.domains.web.synthetic_hostile import hostile_files
from sciencessl.errors import ConfigError

N, PER_SHARD = 60, 30


class Crawl(NamedTuple):
    """A crawl, its truth by id, the files of its images by id, and the photos that it leaks."""

    folder: Path
    truth: dict[str, dict[str, str]]
    raw: dict[str, bytes]
    leaked: dict[str, Path]

    def of_kind(self, kind: str) -> list[dict[str, str]]:
        return [row for row in self.truth.values() if row["kind"] == kind]

    def original(self, row: dict[str, str]) -> bytes:
        name = row["duplicate_of"]
        return self.leaked[name].read_bytes() if name in self.leaked else self.raw[name]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    tmp = tmp_path_factory.mktemp("crawl")
    photos = synthetic_photos(tmp / "labelled", np.random.default_rng(5), 20)
    leaked = sorted(photos.glob("test/*/*.jpg"))[:2]
    folder = synthetic_crawl(tmp / "crawl", np.random.default_rng(4), N, PER_SHARD, leaked)
    with (folder / TRUTH).open(newline="") as file:
        truth = {row["id"]: row for row in csv.DictReader(file)}
    members = {f"{path.stem}/{name.removesuffix('.jpg')}": raw for path in folder.glob("*.tar")
               for name, raw in files_of(path).items() if name.endswith(".jpg")}
    return Crawl(folder, truth, members, {path.name: path for path in leaked})


def files_of(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {member.name: read.read() for member in opened if (read := opened.extractfile(member))}


def upright(raw: bytes) -> Image.Image:
    with Image.open(io.BytesIO(raw)) as image:
        image.load()
        return ImageOps.exif_transpose(image).convert("RGB")


def small(image: Image.Image) -> np.ndarray:
    """A picture at 32 x 32 px in grey, contrast and brightness aside."""
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), float)
    flat: np.ndarray = (pixels - pixels.mean()) / pixels.std()
    return flat


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(small(a) - small(b)).mean())


def test_every_image_of_the_tars_has_its_row_of_truth(crawl: Crawl) -> None:
    assert set(crawl.truth) == set(crawl.raw)
    assert all(tuple(row) == COLUMNS and row["id"] == f"{row['shard']}/{row['key']}" for row in crawl.truth.values())
    assert len(crawl.of_kind("photo")) == N
    extra = [*FORMS, *(f"rotated-{turned}" for turned in ORIENTATIONS), *hostile_files()]
    assert Counter(row["kind"] for row in crawl.truth.values()) == Counter(
        {"photo": N, "leaked": 2, **Counter(extra), **{kind: 3 if i == 0 else 2 for i, kind in enumerate(COPIES)}})


def test_clusters_are_skewed_as_was_said(crawl: Crawl) -> None:
    # 1, 0.3536, 0.1925 and 0.125 of 1.671, worked by hand.
    assert cluster_sizes(1000) == (598, 212, 115, 75)
    assert cluster_sizes(4) == (1, 1, 1, 1)
    assert Counter(row["cluster"] for row in crawl.of_kind("photo")) == dict(
        zip(CLUSTERS, cluster_sizes(N), strict=True))
    copies = [row for kind in COPIES for row in crawl.of_kind(kind)]
    assert all(row["cluster"] == crawl.truth[row["duplicate_of"]]["cluster"] for row in copies)


def test_few_photos_have_most_of_the_copies(crawl: Crawl) -> None:
    copied = Counter(row["duplicate_of"] for kind in COPIES for row in crawl.of_kind(kind))
    assert copied.total() == N // 4
    assert copied.most_common(1)[0][1] >= 4
    assert sum(times for _, times in copied.most_common(N // 10)) > N / 8


def test_photos_have_sizes_of_the_web(crawl: Crawl) -> None:
    sizes = [upright(crawl.raw[row["id"]]).size for row in crawl.of_kind("photo")]
    assert all(72 <= min(size) <= max(size) <= 400 for size in sizes)
    assert len(set(sizes)) > N // 2


def test_copies_lie_in_other_shards_and_originals_are_no_copies(crawl: Crawl) -> None:
    for row in crawl.truth.values():
        if row["duplicate_of"] and row["kind"] != "leaked":
            original = crawl.truth[row["duplicate_of"]]
            assert original["shard"] != row["shard"]
            assert original["kind"] in ("photo", "rotated-1")
            assert not original["duplicate_of"]


def test_exact_copies_have_the_same_bytes_and_no_others_have(crawl: Crawl) -> None:
    assert all(crawl.raw[row["id"]] == crawl.original(row) for row in crawl.of_kind("exact"))
    assert len(set(crawl.raw.values())) == len(crawl.raw) - len(crawl.of_kind("exact"))


@pytest.mark.parametrize("kind", ["pixels-png", "pixels-metadata"])
def test_pixel_copies_are_other_files_with_the_same_pixels(crawl: Crawl, kind: str) -> None:
    for row in crawl.of_kind(kind):
        raw, original = crawl.raw[row["id"]], crawl.original(row)
        assert raw != original
        assert raw.startswith(b"\x89PNG" if kind == "pixels-png" else b"\xff\xd8")
        assert upright(raw).tobytes() == upright(original).tobytes()


@pytest.mark.parametrize("kind", [*(name for name in COPIES if name.startswith("near")), "leaked",
                                  *(f"rotated-{turned}" for turned in ORIENTATIONS if turned != 1)])
def test_near_copies_show_nearly_the_same(crawl: Crawl, kind: str) -> None:
    rows = crawl.of_kind(kind)
    assert rows
    for row in rows:
        image, original = upright(crawl.raw[row["id"]]), upright(crawl.original(row))
        assert difference(image, original) < 0.12
        assert image.tobytes() != original.tobytes() or kind in ("rotated-0", "rotated-9")
        assert (image.size == original.size) == (kind not in ("near-resized", "leaked"))


def test_photos_that_are_no_copies_differ(crawl: Crawl) -> None:
    photos = np.array([small(upright(crawl.raw[row["id"]])) for row in crawl.of_kind("photo")])
    between = np.abs(photos[:, None] - photos[None]).mean(axis=(2, 3))
    assert between[~np.eye(N, dtype=bool)].min() > 0.3


def test_rotated_photos_need_their_exif(crawl: Crawl) -> None:
    """Without it, they are other pictures: who ignores it has eight photos in the place of one."""
    original = upright(crawl.raw[crawl.of_kind("rotated-1")[0]["id"]])
    for turned in range(2, 9):
        raw = crawl.raw[crawl.of_kind(f"rotated-{turned}")[0]["id"]]
        lying = Image.open(io.BytesIO(raw))
        assert lying.getexif()[0x0112] == turned
        assert (lying.size == original.size) == (turned < 5)
        assert difference(lying, original) > 0.3


def test_shards_are_as_img2dataset_writes_them(crawl: Crawl) -> None:
    shards = sorted(crawl.folder.glob("*.tar"))
    assert [path.stem for path in shards] == [f"{number:05d}" for number in range(len(shards))]
    assert len(shards) == -(-len(crawl.truth) // PER_SHARD) > 2
    failed = 0
    for path in shards:
        names = list(files_of(path))
        keys = list(dict.fromkeys(name.partition(".")[0] for name in names))
        assert names == [f"{key}.{suffix}" for key in keys for suffix in ("jpg", "json", "txt")]
        assert all(key.startswith(path.stem) and len(key) == 9 for key in keys)
        rows = pq.read_table(path.with_suffix(".parquet")).to_pylist()
        assert [row["key"] for row in rows if row["status"] == "success"] == keys
        failed += len(rows) - len(keys)
        stats = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
        assert (stats["count"], stats["successes"]) == (len(rows), len(keys))
        assert stats["failed_to_download"] == len(rows) - len(keys)
    assert failed


def test_metadata_are_those_of_the_image(crawl: Crawl) -> None:
    for path in crawl.folder.glob("*.tar"):
        files = files_of(path)
        table = {row["key"]: row for row in pq.read_table(path.with_suffix(".parquet")).to_pylist()}
        for key in {name.partition(".")[0] for name in files}:
            told = json.loads(files[f"{key}.json"])
            assert told == table[key]
            assert told["sha256"] == hashlib.sha256(files[f"{key}.jpg"]).hexdigest()
            assert told["caption"] == files[f"{key}.txt"].decode()
            assert ("GPS" in told["exif"]) == (crawl.truth[f"{path.stem}/{key}"]["kind"] == "gps.jpg")


def test_same_generator_writes_same_bytes(tmp_path: Path) -> None:
    def written(name: str, seed: int) -> dict[str, bytes]:
        folder = synthetic_crawl(tmp_path / name, np.random.default_rng(seed), 4, 20)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = written("a", 1)
    assert len(first) == 1 + 3 * 3
    assert first == written("b", 1)
    assert all(raw != first[name] for name, raw in written("c", 2).items() if name.endswith("tar"))


def test_one_shard_holds_copies_too(tmp_path: Path) -> None:
    folder = synthetic_crawl(tmp_path, np.random.default_rng(0), 4, extras=False)
    assert sorted(path.name for path in folder.iterdir()) == ["00000.parquet", "00000.tar", "00000_stats.json", TRUTH]
    assert len(files_of(folder / "00000.tar")) == 3 * 5


@pytest.mark.parametrize(("n", "per_shard"), [(3, 100), (10, 0), (10, 9001)])
def test_wrong_sizes_are_named(tmp_path: Path, n: int, per_shard: int) -> None:
    with pytest.raises(ConfigError, match=rf"n must be 4 or more and per_shard 1 to 9000, got {n} and {per_shard}"):
        synthetic_crawl(tmp_path, np.random.default_rng(0), n, per_shard)
