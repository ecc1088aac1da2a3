"""The source `images`: one sample or one refusal a file, from disk, archives and FITS."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data.decode import decode
from sciencessl.data_prep.crawl.settings import CrawlSettings
from sciencessl.data_prep.decode import hash_pixels
from sciencessl.data_prep.ingest import images
from sciencessl.data_prep.isolated import close
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Source, Task
from sciencessl.errors import ConfigError
from sciencessl.spec import DomainSpec
from sciencessl.store.writer import PreparedSample, Refusal

Make = Callable[..., DomainSpec]
Write = Callable[..., Path]


def read(source: Source) -> dict[str, PreparedSample | Refusal]:
    return {item.id: item for item in source.read(Task(0, source.inputs))}


def test_sample_carries_what_is_known_of_its_file(make_spec: Make, write_images: Write) -> None:
    folder = write_images(["a/1.jpg", "b/2.png"])
    source = images(make_spec(), [folder], PrepareSettings())
    sample = read(source)["a/1"]
    raw = (folder / "a/1.jpg").read_bytes()
    assert isinstance(sample, PreparedSample)
    assert sample.payload["image"] == raw
    assert dict(sample.columns) == {
        "group": "a/1", "file": "a/1.jpg", "width": 16, "height": 12,
        "content_hash": blake2b(raw, digest_size=16).hexdigest(),
        "pixel_hash": hash_pixels(decode(raw, source.fields["image"])),
    }
    assert source.fingerprint(next(i for i in source.inputs if i.id == "a/1")) == sample.columns["content_hash"]


def test_bad_files_are_refused_one_by_one(make_spec: Make, write_images: Write) -> None:
    folder = write_images(["good.jpg"])
    (folder / "text.jpg").write_text("<html>")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:200])
    (folder / "gone.jpg").symlink_to(folder / "nothing")
    source = images(make_spec(), [folder], PrepareSettings())
    items = read(source)
    assert {name: item.reason for name, item in items.items() if isinstance(item, Refusal)} == {
        "text": "not-an-image", "cut": "truncated", "gone": "missing-file"
    }
    assert source.fingerprint(next(i for i in source.inputs if i.id == "gone")) == ""


def test_huge_files_are_not_read(make_spec: Make, write_images: Write) -> None:
    source = images(make_spec(), [write_images(["1.jpg"])], PrepareSettings())
    huge = replace(source.inputs[0], size=2**40)
    (item,) = source.read(Task(0, [huge]))
    assert isinstance(item, Refusal)
    assert item.reason == "too-large"


def test_archives_give_what_folders_give(make_spec: Make, write_images: Write, tmp_path: Path) -> None:
    folder = write_images(["a/1.jpg", "a/2.png", "b/3.jpg"])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    from_folder = read(images(make_spec(), [folder], PrepareSettings()))
    source = images(make_spec(), [tmp_path / "set.zip"], PrepareSettings())
    assert read(source) == from_folder
    source.close()


def test_damaged_archive_members_are_refused(make_spec: Make, encode: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("1.jpg", encode(1, size=(64, 64)))
        archive.writestr("2.jpg", encode(2))
    raw = bytearray((tmp_path / "set.zip").read_bytes())
    raw[200] ^= 0xFF
    (tmp_path / "set.zip").write_bytes(raw)
    source = images(make_spec(), [tmp_path / "set.zip"], PrepareSettings())
    items = read(source)
    source.close()
    assert [items["1"].reason, type(items["2"])] == ["corrupt", PreparedSample]  # type: ignore[union-attr]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archive_members_that_no_longer_unpack_or_are_gone_are_refused(
    make_spec: Make, encode: Any, tmp_path: Path, method: int
) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("1.jpg", encode(1, size=(64, 64)))
        archive.writestr("2.jpg", encode(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + b"\xff" * 60 + whole[100:])
    source = images(make_spec(), [path], PrepareSettings())
    items = read(source)
    source.close()
    assert [type(items["1"]), type(items["2"])] == [Refusal, PreparedSample]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("2.jpg", encode(2))
    items = read(source)
    source.close()
    assert [items["1"].reason, type(items["2"])] == ["corrupt", PreparedSample]  # type: ignore[union-attr]
    path.write_bytes(b"no archive at all")
    assert {item.reason for item in read(source).values()} == {"corrupt"}  # type: ignore[union-attr]


def test_what_might_never_end_is_refused_unread(make_spec: Make, write_images: Write) -> None:
    folder = write_images(["1.jpg"])
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zeros.jpg").symlink_to("/dev/zero")
    items = read(images(make_spec(), [folder], PrepareSettings()))
    assert isinstance(items.pop("1"), PreparedSample)
    assert [items[name].detail for name in ("pipe", "zeros")] == [  # type: ignore[union-attr]
        f"'{folder}/pipe.jpg' is no regular file", f"'{folder}/zeros.jpg' is no regular file"
    ]


def test_settings_hold_what_changes_pixels_and_splits_only(make_spec: Make, write_images: Write) -> None:
    folder = write_images(["a/1.jpg", "b/2.jpg"])

    def settings(**values: Any) -> Any:
        return images(make_spec(), [folder], PrepareSettings(**values)).settings

    assert settings() == settings(workers=7, verify_inputs=True, overwrite=True)
    for change in ({"resize_px": 8}, {"min_px": 9}, {"jpeg_quality": 90}, {"split_seed": 1}, {"test_fraction": 0.3}):
        assert settings() != settings(**change)


def test_expected_bytes_leave_room_for_formats_that_grow(make_spec: Make, write_images: Write, encode: Any) -> None:
    folder = write_images(["1.jpg"])
    (folder / "2.webp").write_bytes(encode(0, kind="WEBP"))
    entries = {e.id: e for e in images(make_spec(), [folder], PrepareSettings()).inputs}
    assert entries["1"].expected_bytes == entries["1"].size
    assert entries["2"].expected_bytes == 8 * entries["2"].size


def test_stamps_become_arrays(make_spec: Make, tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    values = np.random.default_rng(0).normal(size=(5, 3, 10, 12)).astype(np.float32)
    for i, stamp in enumerate(values):
        fits.PrimaryHDU(stamp).writeto(tmp_path / f"{i}.fits")
    fits.PrimaryHDU(values[0, :, :8]).writeto(tmp_path / "small.fits")
    source = images(make_spec(), [tmp_path], PrepareSettings())
    field = source.fields["image"]
    assert (field.kind, field.dtype, field.channels, field.shape) == ("array", "float32", ("r", "g", "b"), (10, 12))
    assert source.settings == {"group": "", "split": {"seed": 0, "test": 0.2, "val": 0.0}, "keep": [], "min_px": 8}
    items = read(source)
    refused = items.pop("small")
    assert isinstance(refused, Refusal)
    assert refused.reason == "shape"
    for i, stamp in enumerate(values):
        np.testing.assert_array_equal(items[str(i)].payload["image"], stamp)  # type: ignore[union-attr]
    assert {entry.expected_bytes for entry in source.inputs} == {3 * 10 * 12 * 4}
    with pytest.raises(ConfigError, match="FITS stamps are stored as they are"):
        images(make_spec(), [tmp_path], PrepareSettings(resize_px=32))


def test_with_limits_files_are_decoded_in_another_process_to_the_same_samples(
    make_spec: Make, write_images: Write, encode: Any
) -> None:
    folder = write_images([f"{i}.jpg" for i in range(40)])
    (folder / "text.jpg").write_text("<html>")
    (folder / "gone.jpg").symlink_to(folder / "nothing")
    here = images(make_spec(), [folder], PrepareSettings())
    crawl = images(make_spec(), [folder], PrepareSettings(), CrawlSettings())
    assert here.settings == crawl.settings
    inside, outside = (list(source.read(Task(0, source.inputs))) for source in (here, crawl))
    assert inside == outside
    assert [entry.id for entry in here.inputs] == [item.id for item in outside]
    told = [(item.id, item.reason) for item in outside if isinstance(item, Refusal)]
    assert sorted(told) == [("gone", "missing-file"), ("text", "not-an-image")]
    (folder / "slow.webp").write_bytes(encode(size=(1500, 1500), kind="WEBP"))
    source = images(make_spec(), [folder], PrepareSettings(), CrawlSettings(decode_seconds=0.1))
    items = read(source)
    close()
    slow = items.pop("slow")
    assert isinstance(slow, Refusal)
    assert (slow.reason, slow.detail) == ("too-slow", "not done after 0.1 s of processor time")
    assert list(items.values()) == [item for item in inside if item.id != "slow"]
