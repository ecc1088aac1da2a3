from __future__ import annotations

from pathlib import Path

import numpy as np

from sciencessl.evaluate.cache import read_arrays, write_arrays


def test_arrays_come_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a" / "x.npz", one=np.arange(3), two=np.ones((2, 2), np.float32))
    found = read_arrays(tmp_path / "a" / "x.npz")
    assert found is not None
    assert found["one"].tolist() == [0, 1, 2]
    assert found["two"].dtype == np.float32
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.npz"]


def test_missing_torn_and_changed_files_read_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    assert read_arrays(path) is None
    write_arrays(path, one=np.arange(1000))
    whole = path.read_bytes()
    for cut in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_arrays(path) is None, cut
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(bytes(flipped))
    assert read_arrays(path) is None
