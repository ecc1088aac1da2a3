"""Repeated keys: those that a count in memory finds, through files of any number."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciencessl.store import repeated
from sciencessl.store.repeated import RepeatedKeys, heads


def keys(values: list[int]) -> np.ndarray:
    """Heads spread over all files; the rest of a key does not matter."""
    spread = np.array(values, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.stack([spread, np.arange(len(values), dtype=np.uint64)], axis=1).astype(">u8").view(np.uint8)


@given(st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=6), st.sampled_from([1, 3, 8, 1000]),
       st.sampled_from([1, 4, 16]))
def test_what_comes_twice_is_found(rows: list[list[int]], bucket: int, files: int) -> None:
    every = [value for row in rows for value in row]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(repeated, "BUCKET", bucket)
        patch.setattr(repeated, "MOST_FILES", files)
        with RepeatedKeys(Path(folder) / "s", len(every)) as spill:
            for row in rows:
                spill.add(keys(row))
            assert len(list((Path(folder) / "s").iterdir())) <= files
            found = spill.found()
        assert not (Path(folder) / "s").exists()
    twice = [value for value, count in Counter(every).items() if count > 1]
    assert sorted(found.tolist()) == sorted(heads(keys(twice)).tolist())


def test_the_search_stops_where_most_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "MOST_REPEATED", 10)
    with RepeatedKeys(tmp_path / "s", 100) as spill:
        spill.add(keys(list(range(50)) * 2))
        assert len(spill.found()) == 10


def test_files_of_a_killed_process_do_not_count_and_go(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "000").write_bytes(bytes(64))
    with RepeatedKeys(tmp_path / "s", 4) as spill:
        spill.add(keys([1, 2]))
        assert spill.found().size == 0
    assert not (tmp_path / "s").exists()


def test_the_head_of_a_key_is_its_first_bytes_as_a_number() -> None:
    key = np.array([[0, 0, 0, 0, 0, 0, 1, 2, *[255] * 8]], np.uint8)
    assert heads(key).tolist() == [258]
