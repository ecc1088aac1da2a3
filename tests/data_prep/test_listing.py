"""Finding files: folders, globs, single files, archives; what is skipped, what is refused."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from sciencessl.data_prep.listing import Reader, list_sources, stem
from sciencessl.errors import DataError

Write = Callable[..., Path]


def test_folder_lists_images_and_counts_others(write_images: Write) -> None:
    folder = write_images(["a/1.jpg", "a/2.PNG", "3.jpeg"])
    (folder / "notes.txt").write_text("hello")
    (folder / "a" / ".hidden.jpg").write_text("hello")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "4.jpg").write_text("hello")
    listing = list_sources([folder])
    assert sorted(listing.files) == ["3.jpeg", "a/1.jpg", "a/2.PNG"]
    assert listing.others == 1
    assert not listing.partial


def test_several_sources_share_a_root(write_images: Write) -> None:
    folder = write_images(["a/1.jpg", "b/1.jpg", "c/1.jpg"])
    assert sorted(list_sources([folder / "a", folder / "b"]).files) == ["a/1.jpg", "b/1.jpg"]


def test_glob_and_single_file_are_partial(write_images: Write) -> None:
    folder = write_images(["a/1.jpg", "a/2.jpg", "b/1.jpg"])
    globbed = list_sources([f"{folder}/*/1.jpg"])
    assert sorted(globbed.files) == ["a/1.jpg", "b/1.jpg"]
    assert globbed.partial
    single = list_sources([folder / "a" / "2.jpg"])
    assert sorted(single.files) == ["2.jpg"]
    assert single.partial


def test_glob_that_meets_a_table_does_not_take_its_folder(write_images: Write) -> None:
    folder = write_images(["1.jpg", "sub/2.jpg"])
    (folder / "notes.csv").write_text("a\n1\n")
    assert sorted(list_sources([f"{folder}/*.*"]).files) == ["1.jpg"]
    named = list_sources([folder / "notes.csv"])
    assert sorted(named.files) == ["1.jpg", "sub/2.jpg"]
    assert sorted(named.tables) == ["notes.csv"]


def test_archive_members_carry_size_and_crc(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    raw = encode(0)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("x/1.jpg", raw)
        archive.writestr("x/readme.md", "words")
    listing = list_sources([tmp_path / "set.zip"])
    ref = listing.files["x/1.jpg"]
    assert ref.size == len(raw)
    assert ref.stamp == zlib.crc32(raw)
    assert listing.others == 1


def test_a_reader_pickles_without_what_it_holds_open(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.jpg", encode(1))
    ref, reader = list_sources([tmp_path / "set.zip"]).files["1.jpg"], Reader()
    assert reader.read(ref) == encode(1)
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert copy.read(ref) == encode(1)
    copy.close()


def test_no_images_says_what_was_searched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no images found in .*\.jpg .*\.fits.* found 1 other file"):
        list_sources([tmp_path])


def test_missing_source_empty_glob_and_broken_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; name a folder, a file, a glob"):
        list_sources([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="matches no file"):
        list_sources([f"{tmp_path}/*.jpg"])
    with pytest.raises(DataError, match="no source was given"):
        list_sources([])
    (tmp_path / "bad.zip").write_bytes(b"PK no")
    with pytest.raises(DataError, match="cannot be read as a zip archive"):
        list_sources([tmp_path / "bad.zip"])


def test_links_are_followed_once_and_dangling_ones_listed(write_images: Write, tmp_path: Path) -> None:
    folder = write_images(["1.jpg"])
    write_images(["2.jpg"], folder="elsewhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    (folder / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    listing = list_sources([folder])
    assert sorted(listing.files) == ["1.jpg", "gone.jpg", "linked/2.jpg"]
    assert listing.files["gone.jpg"].size == 0


def test_names_that_are_no_text_are_spelled_out(write_images: Write) -> None:
    folder = write_images(["1.jpg"])
    raw = os.fsencode(folder) + b"/\xff.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    assert sorted(list_sources([folder]).files) == ["1.jpg", "\\udcff.jpg"]


def test_stem_takes_double_suffixes() -> None:
    assert [stem(name) for name in ("a.b.jpg", "x.fits.gz", "y.FITS", "plain")] == ["a.b", "x", "y", "plain"]
