"""What is read directly from a shard is what zarr-python reads, and damage is never taken for pixels."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec

from sciencessl.store.shards import Shards, read_shard

CHUNK, CHUNKS, SIZE = 64, 8, 512


def make(path: Path, shape: tuple[int, ...], chunks: Any, shards: Any, dtype: str) -> zarr.Array[Any]:
    array = zarr.open_group(path, mode="w", zarr_format=3).create_array(
        "a", shape=shape, chunks=chunks, shards=shards, dtype=dtype, fill_value=0,
        serializer=BytesCodec(endian="little"), compressors=[Crc32cCodec()],
    )
    return array.with_config({"write_empty_chunks": True})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Two packed rows, the second one filled by half, and what they hold."""
    path = tmp_path_factory.mktemp("packed")
    array = make(path, (2, SIZE), (1, CHUNK), (1, SIZE), "uint8")
    values = np.random.default_rng(0).integers(0, 256, (2, SIZE)).astype(np.uint8)
    values[1, SIZE // 2 :] = 0
    array[0, :] = values[0]
    array[1, : SIZE // 2] = values[1, : SIZE // 2]
    return path / "a", values


@settings(max_examples=100, deadline=None)
@given(row=st.integers(0, 1), lo=st.integers(0, SIZE), hi=st.integers(0, SIZE))
def test_any_range_of_a_packed_row_is_what_was_written(
    packed: tuple[Path, np.ndarray], row: int, lo: int, hi: int
) -> None:
    path, values = packed
    found = Shards(path, zarr.open_array(path, mode="r"), packed=True).read(row, lo, hi)
    assert found.dtype == np.uint8
    assert np.array_equal(found, values[row, lo:hi])


@pytest.mark.parametrize("dtype", ["uint8", "<f4", "<u2", ">f4"])
@pytest.mark.parametrize("entry", [(), (2, 3)])
def test_arrays_of_any_dtype_are_what_zarr_reads(tmp_path: Path, dtype: str, entry: tuple[int, ...]) -> None:
    array = make(tmp_path, (24, *entry), (4, *entry), (12, *entry), dtype)
    array[...] = (np.random.default_rng(0).random((24, *entry)) * 200).astype(dtype)
    shards = Shards(tmp_path / "a", array)
    assert (shards.entries, shards.per_chunk) == (12, 4)
    for number in (0, 1):
        for lo, hi in ((0, 12), (3, 5), (11, 12), (7, 7)):
            found = shards.read(number, lo, hi)
            assert np.array_equal(found, array[number * 12 + lo : number * 12 + hi])
            assert found.shape == (hi - lo, *entry)


def test_arrays_without_shards_and_far_away_are_left_to_zarr(tmp_path: Path) -> None:
    array = make(tmp_path, (10,), (4,), None, "uint8")
    array[...] = np.arange(10)
    assert Shards(tmp_path / "a", array).read(1, 1, 3).tolist() == [5, 6]
    (tmp_path / "a" / "c" / "1").unlink()
    with pytest.raises(FileNotFoundError, match="c/1 is missing"):
        Shards(tmp_path / "a", array).read(1, 1, 3)


def test_what_was_read_is_the_callers_own(packed: tuple[Path, np.ndarray]) -> None:
    path, values = packed
    shard = path / "c" / "0" / "0"
    first = read_shard(shard, CHUNKS, CHUNK, 0, 100)
    kept = first.copy()
    second = read_shard(shard, CHUNKS, CHUNK, 300, 400)
    assert np.array_equal(first, kept)
    first[:] = 0
    assert np.array_equal(second, values[0, 300:400])


def test_threads_read_at_the_same_time(packed: tuple[Path, np.ndarray]) -> None:
    path, values = packed
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            lo, hi = np.sort(rng.integers(0, SIZE, 2))
            if not np.array_equal(read_shard(path / "c" / "0" / "0", CHUNKS, CHUNK, lo, hi), values[0, lo:hi]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class TestDamage:
    @pytest.fixture
    def shard(self, tmp_path: Path) -> Path:
        array = make(tmp_path, (1, SIZE), (1, CHUNK), (1, SIZE), "uint8")
        array[0, :] = np.arange(SIZE) % 251
        return tmp_path / "a" / "c" / "0" / "0"

    def test_any_flipped_bit_is_found(self, shard: Path) -> None:
        """Every bit of the file belongs to a chunk, its checksum, the index or the checksum of that."""
        whole = shard.read_bytes()
        rng = np.random.default_rng(0)
        for place in rng.choice(len(whole), 60, replace=False).tolist():
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            # As a new file: an index is kept as long as a file stays what it is.
            shard.unlink()
            shard.write_bytes(bytes(damaged))
            with pytest.raises(ValueError, match="checksum"):
                read_shard(shard, CHUNKS, CHUNK, 0, SIZE)

    def test_chunks_that_are_sound_are_read_beside_one_that_is_not(self, shard: Path) -> None:
        damaged = bytearray(shard.read_bytes())
        damaged[CHUNK // 2] ^= 1
        shard.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match="a chunk does not match its checksum"):
            read_shard(shard, CHUNKS, CHUNK, CHUNK - 1, CHUNK)
        assert read_shard(shard, CHUNKS, CHUNK, CHUNK, SIZE).tolist() == (np.arange(CHUNK, SIZE) % 251).tolist()

    @pytest.mark.parametrize("size", [0, 3, 100])
    def test_a_truncated_file_has_no_index(self, shard: Path, size: int) -> None:
        shard.write_bytes(shard.read_bytes()[:size])
        with pytest.raises(ValueError, match="the index of the shard does not match its checksum"):
            read_shard(shard, CHUNKS, CHUNK, 0, 1)

    def test_chunks_of_another_size_are_refused(self, shard: Path) -> None:
        with pytest.raises(ValueError, match="a chunk of 68 bytes, expected 132"):
            read_shard(shard, CHUNKS, 128, 0, 1)

    def test_a_missing_file_says_so(self, shard: Path) -> None:
        shard.unlink()
        with pytest.raises(FileNotFoundError):
            read_shard(shard, CHUNKS, CHUNK, 0, 1)
