from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from sciencessl.store.files import (
    flush_to_disk,
    parquet_bytes,
    read_parquet,
    remove_leftovers,
    visible_files,
    write_atomic,
)

ROOT = Path(__file__).parents[2]


def test_a_file_is_written_with_its_folder_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"a long first content")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_flushing_leaves_the_bytes_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"12345")
    flush_to_disk(tmp_path / "shard")
    assert (tmp_path / "shard").read_bytes() == b"12345"


def test_equal_tables_give_equal_parquet_bytes_that_read_back() -> None:
    table = pa.table({"id": ["a", "b"], "x": [1, None]})
    assert parquet_bytes(table) == parquet_bytes(pa.table({"id": ["a", "b"], "x": [1, None]}))
    assert read_parquet(parquet_bytes(table)).equals(table)


def test_tables_in_memory_are_read_without_threads_which_abort_a_process_that_ends() -> None:
    sources = [path for folder in ("sciencessl/store", "data_prep") for path in (ROOT / folder).rglob("*.py")]
    told = {path.name: path.read_text() for path in sources if "read_table(pa.BufferReader" in path.read_text()}
    assert list(told) == ["files.py"]
    assert told["files.py"].count("read_table(") == told["files.py"].count("use_threads=False)") == 1


def test_hidden_files_and_other_folders_are_not_listed(tmp_path: Path) -> None:
    for name in ("rows/0.parquet", "rows/.DS_Store", "fields/image/c/0/0", "notes.txt"):
        write_atomic(tmp_path / name, b"")
    assert sorted(visible_files(tmp_path, ["rows", "fields", "absent"])) == ["fields/image/c/0/0", "rows/0.parquet"]


def test_only_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in ("rows/.0.parquet.ab12.tmp", "fields/image/c/0/0.ab12.partial", "zarr.ab12.partial", "rows/0.parquet",
                 "tables/labels/.table.json.ab12.tmp", "rows/.DS_Store"):
        write_atomic(tmp_path / name, b"x")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".DS_Store", "0.parquet"]
