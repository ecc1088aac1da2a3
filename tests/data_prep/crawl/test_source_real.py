"""Hostile, copied and plain real files as one crawl, by the public path."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sciencessl.data.decode import decode
from sciencessl.preparation import prepare
from sciencessl.store.reader import Store

pytestmark = pytest.mark.real_data
SETTINGS: dict[str, Any] = {"source": "crawl", "test_fraction": 0.0, "resize_px": 256}
NO_IMAGES = {".txt", ".tsv"}


@pytest.fixture(scope="module")
def ingested(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Path]:
    """The hostile files, ingested with two processes and limits."""
    hostile, out = shared_data / "web" / "hostile", tmp_path_factory.mktemp("hostile") / "h.zarr"
    return hostile, prepare("web", [hostile], out, {**SETTINGS, "workers": 2}), out


def refusals(report: Any) -> dict[str, tuple[str, str]]:
    with open(report.refusals_file, newline="", encoding="utf-8") as stream:
        return {row["id"]: (row["reason"], row["detail"]) for row in csv.DictReader(stream)}


def test_each_hostile_file_is_stored_or_listed_and_no_process_is_lost(ingested: tuple[Path, Any, Path]) -> None:
    hostile, report, out = ingested
    files = [path for path in hostile.rglob("*") if path.is_file() and path.suffix.lower() not in NO_IMAGES]
    refused = refusals(report)
    assert len(Store(out)) + len(refused) == len(files)
    assert not {*Store(out).ids} & {*refused}
    assert "crashed" not in Counter(reason for reason, _ in refused.values())
    assert not any("0x" in detail or "/tmp" in detail or str(hostile) in detail for _, detail in refused.values())


def test_a_second_ingest_in_this_process_gives_the_same_digest(
    ingested: tuple[Path, Any, Path], tmp_path: Path
) -> None:
    hostile, report, _ = ingested
    again = prepare("web", [hostile], tmp_path / "again.zarr", {**SETTINGS, "workers": 0})
    assert again.manifest_digest == report.manifest_digest


def test_what_is_stored_decodes_to_the_size_that_its_columns_say(ingested: tuple[Path, Any, Path]) -> None:
    store = Store(ingested[2])
    field = store.header.fields["image"]
    sizes = zip(store.column("height"), store.column("width"), strict=True)
    payloads = store.consecutive("image", 0, len(store))
    for identifier, payload, (height, width) in zip(store.ids, payloads, sizes, strict=True):
        pixels = decode(payload, field)
        assert pixels.shape == (height, width, 3), identifier
        assert min(height, width) <= 256, identifier


def test_photos_that_were_cut_off_are_truncated_wherever_the_cut_is(shared_data: Path, tmp_path: Path) -> None:
    # A defect elsewhere: decoders that return what they have got are taken at their word.
    photos = sorted((shared_data / "web" / "clothing").rglob("*.jpg"))[:20]
    (tmp_path / "c").mkdir()
    for number, path in enumerate(photos):
        raw = path.read_bytes()
        (tmp_path / "c" / f"{number}.jpg").write_bytes(raw[: len(raw) * (number + 4) // 24])
    shutil.copy(photos[0], tmp_path / "c" / "whole.jpg")
    report = prepare("web", [tmp_path / "c"], tmp_path / "s.zarr", {**SETTINGS, "workers": 0, "decode_seconds": 0})
    assert report.refused == {"truncated": 20}
    assert Store(tmp_path / "s.zarr").ids == ["whole"]


def test_orientation_is_applied_before_anything_is_measured(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "web" / "near_duplicates" / "base_images"
    prepare("web", [folder], tmp_path / "s.zarr", {**SETTINGS, "workers": 0, "decode_seconds": 0})
    store = Store(tmp_path / "s.zarr")
    turned = store.ids.index("ukbench09268")
    with Image.open(folder / "ukbench09268.jpg") as image:
        assert image.getexif()[0x0112] == 6
        assert image.size == (640, 480)
    assert (store.column("width")[turned], store.column("height")[turned]) == (256, 341)
    (payload,) = store.payloads("image", [turned])
    assert b"Exif" not in payload
