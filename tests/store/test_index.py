"""The index: written row by row, read in pieces, equal to the arrays it is made of; damage is confined to its piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from sciencessl.errors import StoreError
from sciencessl.store import index as module
from sciencessl.store.format import StoreHeader
from sciencessl.store.index import Index, IndexWriter, RowIndex, row_index
from sciencessl.store.shards import Shards

OFFSET = "image.offset"


def sidecar(splits: list[str], sizes: list[int]) -> pa.Table:
    starts = np.cumsum([0, *sizes])[:-1].astype("u8")
    return pa.table({
        "id": pa.array([""] * len(splits), pa.string()), "split": pa.array(splits, pa.string()),
        "key": pa.array([bytes([i] * 16) for i in range(len(splits))], pa.binary(16)),
        "image.offset": starts, "image.size": pa.array(sizes, pa.uint64()),
    })


def random_rows(counts: list[int], seed: int = 0) -> list[RowIndex]:
    rng = np.random.default_rng(seed)
    return [
        RowIndex(np.array([0, n // 2, n // 2, n]),
                 {"key": rng.integers(0, 256, (n, 16), np.uint8),
                  OFFSET: np.cumsum([0, *rng.integers(0, 9, n)]).astype(np.uint64)})
        for n in counts
    ]


def write(path: Path, header: StoreHeader, rows: list[RowIndex], samples: int | None = None) -> Index:
    counts = [len(row.long["key"]) for row in rows]
    writer = IndexWriter(zarr.create_group(path), header, sum(counts) if samples is None else samples)
    for row in rows:
        writer.add(row)
    writer.close()
    return opened(path)


def opened(path: Path) -> Index:
    return Index(path, lambda name: Shards(path / name, zarr.open_array(path / name, mode="r")))


def whole(rows: list[RowIndex], name: str) -> np.ndarray:
    return np.concatenate([row.long[name] for row in rows])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def patch(**values: int) -> None:
        for name, value in {"PIECE": 8, "SHARD": 32, **values}.items():
            monkeypatch.setattr(module, name, value)

    return patch


def test_a_row_adds_its_keys_its_splits_and_where_its_bytes_lie(header: Any) -> None:
    tables = [sidecar(["train", "train", "test"], [5, 0, 7]), sidecar([], []), sidecar(["val"], [9])]
    found = [row_index(table, header()) for table in tables]
    assert [row.splits.tolist() for row in found] == [[0, 2, 2, 3], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert [row.long[OFFSET].tolist() for row in found] == [[0, 5, 5, 12], [0], [0, 9]]
    assert [row.long["key"].tolist() for row in found] == [[[0] * 16, [1] * 16, [2] * 16], [], [[0] * 16]]


def test_arrays_of_one_entry_a_row_of_a_worked_example(tmp_path: Path, header: Any) -> None:
    tables = [sidecar(["train", "train", "test"], [5, 0, 7]), sidecar([], []), sidecar(["val"], [9])]
    index = write(tmp_path / "s", header(rows=3), [row_index(table, header()) for table in tables])
    assert index.whole("row_first").tolist() == [0, 3, 3, 4]
    assert index.whole("split_first").tolist() == [[0, 2, 2, 3], [3, 3, 3, 3], [3, 3, 4, 4]]
    assert index.take(OFFSET, np.arange(7)).tolist() == [0, 5, 5, 12, 0, 0, 9]


@pytest.mark.parametrize("kept", [1, 300, 10_000])
@pytest.mark.parametrize("counts", [[1], [0, 3], [40, 0, 25, 31], [32], [64, 1], [7] * 20])
def test_what_is_read_is_what_was_written(
    tmp_path: Path, header: Any, small: Callable[..., None], counts: list[int], kept: int
) -> None:
    small(KEPT_BYTES=kept, TOGETHER=3)
    rows = random_rows(counts)
    index = write(tmp_path / "s", header(rows=len(counts)), rows)
    rng = np.random.default_rng(1)
    for name in ("key", OFFSET):
        expected = whole(rows, name)
        plain = np.asarray(zarr.open_array(tmp_path / "s" / "index" / name, mode="r")[...])
        np.testing.assert_array_equal(plain, expected, strict=True)
        for size in (0, 1, 5, 60):
            places = rng.integers(0, len(expected), size)
            np.testing.assert_array_equal(index.take(name, places), expected[places], strict=True)
        np.testing.assert_array_equal(index.take(name, np.arange(len(expected))), expected, strict=True)
        square = rng.integers(0, len(expected), (2, 3))
        np.testing.assert_array_equal(index.take(name, square), expected[square], strict=True)
        with pytest.raises(StoreError, match=f"index/{name} has {len(expected)} entries, none at 0 to {len(expected)}"):
            index.take(name, np.array([0, len(expected)]))
    assert index._kept.nbytes <= kept or len(index._kept) == 1


def test_a_run_is_one_read_and_what_is_kept_none(
    tmp_path: Path, header: Any, small: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small(TOGETHER=3)
    index = write(tmp_path / "s", header(rows=1), random_rows([320]))
    calls: list[tuple[int, int]] = []
    read = Index._read
    monkeypatch.setattr(Index, "_read", lambda self, *what: (calls.append(what[1:]), read(self, *what))[1])
    index.take("key", np.arange(3, 20))
    assert calls == [(0, 24)]
    index.take("key", np.arange(24)[::-1])
    assert len(calls) == 1
    index.take("key", np.array([100, 21, 110, 99, 30, 39, 120]))
    assert calls[1:] == [(24, 40), (96, 112), (120, 128)]
    index.take("key", np.arange(160, 193))
    assert calls[4:] == [(160, 184), (184, 200)]


def test_files_are_few_and_all_there_even_where_all_is_zero(
    tmp_path: Path, header: Any, small: Callable[..., None]
) -> None:
    small()
    rows = [RowIndex(np.array([0, 100, 100, 100]), {"key": np.zeros((100, 16), np.uint8),
                                                    OFFSET: np.zeros(101, np.uint64)})]
    write(tmp_path / "s", header(), rows)
    for name in ("key", OFFSET):
        found = [f for f in (tmp_path / "s" / "index" / name / "c").rglob("*") if f.is_file()]
        assert len(found) == 4


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))


def test_a_damaged_piece_is_refused_and_the_others_are_readable(
    tmp_path: Path, header: Any, small: Callable[..., None]
) -> None:
    small(KEPT_BYTES=1)
    rows = random_rows([100])
    write(tmp_path / "s", header(), rows)
    flip(tmp_path / "s/index/key/c/1/0", (8 * 16 + 4) + 3)
    index, expected = opened(tmp_path / "s"), whole(rows, "key")
    bad = set(range(40, 48))
    for place in range(100):
        if place in bad:
            with pytest.raises(StoreError, match=r"index/key is damaged .*checksum.*store verify"):
                index.take("key", np.array([place]))
        else:
            np.testing.assert_array_equal(index.take("key", np.array([place])), expected[[place]])
    with pytest.raises(StoreError, match=r"index/key is damaged"):
        index.take("key", np.array([0, 41, 99]))


def test_a_missing_file_never_reads_as_zeros(tmp_path: Path, header: Any, small: Callable[..., None]) -> None:
    small(KEPT_BYTES=1)
    write(tmp_path / "s", header(), random_rows([100]))
    (tmp_path / "s/index/key/c/1/0").unlink()
    index = opened(tmp_path / "s")
    for places in ([33], [0, 40, 99], range(20, 50)):
        with pytest.raises(StoreError, match=r"index/key/c/1/0 is missing.*store verify"):
            index.take("key", np.array(places))
    assert index.take("key", np.array([31, 64])).shape == (2, 16)


@pytest.mark.parametrize("said", [9, 11])
def test_a_row_more_or_less_than_was_said_is_refused(tmp_path: Path, header: Any, said: int) -> None:
    with pytest.raises(StoreError, match=rf"index/key: the receipts say {said} entries, the sidecars 10"):
        write(tmp_path / "s", header(), random_rows([10]), said)


def test_an_index_of_the_former_layout_is_read_too(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (100, 16), np.uint8)
    group = zarr.create_group(tmp_path / "s")
    array = group.create_array("index/key", shape=values.shape, chunks=(30, 16), dtype="u1",
                               serializer=BytesCodec(), compressors=[Crc32cCodec()])
    array[...] = values
    places = np.random.default_rng(1).integers(0, 100, 50)
    np.testing.assert_array_equal(opened(tmp_path / "s").take("key", places), values[places])
    (tmp_path / "s/index/key/c/2/0").unlink()
    with pytest.raises(StoreError, match="index/key/c/2/0 is missing"):
        opened(tmp_path / "s").take("key", np.array([61]))
