"""Windows over files, objects and compressed streams: equal bytes, bounded reading ahead, nothing left behind."""

from __future__ import annotations

import datetime as dt
import gzip
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from sciencessl.data_prep.crawl import forward
from sciencessl.data_prep.crawl.containers import contents, records
from sciencessl.data_prep.crawl.forward import BLOCK, CHANGED, Forward, decompressed, opened, seekable, stamp_of
from sciencessl.data_prep.crawl.listing import list_places
from sciencessl.data_prep.crawl.record import Place
from sciencessl.data_prep.decode import Refused
from sciencessl.errors import OutOfReachError
from tests.data_prep.crawl.shards import place_of, put, tar_bytes

NOISE = np.random.default_rng(0).bytes(3 * BLOCK + 12_345)
SYSTEM = fsspec.get_filesystem_class("memory")


@pytest.fixture
def remote() -> Iterator[Place]:
    """Noise of more than three blocks, as an object."""
    fsspec.filesystem("memory").pipe_file("/forward/noise.tar", NOISE)
    yield place_of("memory://forward/noise.tar")
    fsspec.filesystem("memory").rm("/forward", recursive=True)


def spans(seed: int) -> list[tuple[int, int]]:
    """Places to read from, mostly forward, some of them back, some over the end."""
    rng = np.random.default_rng(seed)
    found, at = [], 0
    for _ in range(60):
        at = max(0, at + int(rng.integers(-300_000, 900_000)))
        found.append((at, int(rng.choice([1, 512, 100_000, 2_000_000]))))
    return found


def test_any_window_over_a_file_gives_its_bytes(tmp_path: Path) -> None:
    place = put(tmp_path, "noise.tar", NOISE)
    for window in (1, 4096, 2**20):
        with opened(place, window=window) as source:
            assert all(source.read(at, size) == NOISE[at : at + size] for at, size in spans(window))
            assert source.fault is None
            assert [source.reaches(at) for at in (0, len(NOISE), len(NOISE) + 1)] == [True, True, False]


@pytest.mark.parametrize(("start", "stop"), [(0, None), (1_000_000, 6_000_000), (BLOCK, BLOCK + 1)])
def test_blocks_of_an_object_give_its_bytes_wherever_reading_was_to_begin(
    remote: Place, start: int, stop: int | None
) -> None:
    with opened(remote, start, stop) as source:
        for at, size in spans(3):
            whole = NOISE[at : at + size]
            assert source.read(at, size) in ([whole] if stop is None else [whole, whole[: max(stop - at, 0)]])


def test_an_object_is_a_file_for_libraries_too(remote: Place) -> None:
    with seekable(remote) as stream:
        assert stream.seek(-5, 2) == len(NOISE) - 5
        assert stream.read() == NOISE[-5:]
        stream.seek(3)
        assert (stream.read(4), stream.tell()) == (NOISE[3:7], 7)


def slow_object(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each request begins, of a store that answers."""
    asked: list[int] = []
    answer = SYSTEM.cat_file

    def counted(self: object, path: str, start: int | None = None, end: int | None = None) -> bytes:
        asked.append(start or 0)
        return bytes(answer(self, path, start=start, end=end))

    monkeypatch.setattr(SYSTEM, "cat_file", counted)
    return asked


def test_no_more_is_read_ahead_than_some_blocks_and_no_thread_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    # A defect elsewhere: readers that run ahead of who is slow fill the memory, and leave their threads behind.
    members = [(f"{i:03}.jpg", bytes([i]) * 1_000_000) for i in range(80)]
    fsspec.filesystem("memory").pipe_file("/ahead/a.tar", tar_bytes(members))
    place = place_of("memory://ahead/a.tar")
    table = contents(place).table
    before = set(threading.enumerate())
    asked = slow_object(monkeypatch)
    reading = records(place, table, ())
    for number in range(10):
        assert next(reading).raw == members[number][1]
        time.sleep(0.01)
        at = table["at"][number].as_py() + 1_000_000
        assert max(asked) <= at + (forward.AHEAD + 1) * BLOCK
    assert 4 <= len(asked) <= 8
    reading.close()
    assert set(threading.enumerate()) <= before
    assert [record.raw[:1] for record in records(place, table.slice(70))] == [bytes([i]) for i in range(70, 80)]
    assert set(threading.enumerate()) <= before
    assert min(asked[8:]) >= table["at"][70].as_py() - 512
    fsspec.filesystem("memory").rm("/ahead", recursive=True)


def test_a_store_that_stops_answering_ends_reading_with_one_sentence(
    remote: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    answer = SYSTEM.cat_file

    def failing(self: object, path: str, start: int = 0, end: int | None = None) -> bytes:
        if start >= BLOCK:
            raise ConnectionResetError("reset by peer")
        return bytes(answer(self, path, start=start, end=end))

    monkeypatch.setattr(SYSTEM, "cat_file", failing)
    said = r"noise.tar is out of reach \(reset by peer\): check the network"
    with opened(remote) as source:
        assert source.read(0, 100) == NOISE[:100]
        with pytest.raises(OutOfReachError, match=said):
            source.read(BLOCK, 100)
    assert set(threading.enumerate()) <= before


def test_an_object_that_was_replaced_or_is_gone_is_refused(remote: Place) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/forward/noise.tar", NOISE)
    with pytest.raises(Refused, match=CHANGED[:40]), opened(remote):
        pass
    system.rm("/forward/noise.tar")
    with pytest.raises(Refused, match="no longer where it was listed") as error, seekable(remote):
        pass
    assert error.value.reason == "missing-file"
    system.pipe_file("/forward/noise.tar", b"")


def test_a_stamp_follows_what_the_store_tells() -> None:
    assert stamp_of({"size": 3, "ETag": '"a"'}) != stamp_of({"size": 3, "ETag": '"b"'})
    assert stamp_of({"size": 3, "ETag": '"a"'}) != stamp_of({"size": 4, "ETag": '"a"'})
    assert stamp_of({"size": 3, "ETag": '"a"', "LastModified": 1}) == stamp_of({"size": 3, "ETag": '"a"'})
    assert stamp_of({"size": 3}) == 0
    date = dt.datetime(2026, 11, 28, 9, 56, 56, 352523, dt.UTC)
    assert stamp_of({"created": date}) == stamp_of({"created": date.timestamp()})
    assert 0 <= stamp_of({"ETag": "x"}) < 2**63


def packed(raw: bytes) -> Forward:
    return decompressed(Forward(lambda start, size: raw[start : start + size], len(raw), 4096))


def test_a_stream_gives_its_bytes_forward_and_none_back() -> None:
    plain = NOISE[:3_000_000]
    source = packed(gzip.compress(plain[:1_000_000], 1) + gzip.compress(plain[1_000_000:], 1))
    assert source.read(100, 50) == plain[100:150]
    assert source.read(1_500_000, 1_200_000) == plain[1_500_000:2_700_000]
    assert source.read(2_000_000, 5) == plain[2_000_000:2_000_005]
    assert source.read(100, 5) == b""
    assert source.reaches(3_000_000)
    assert not source.reaches(3_000_001)
    assert source.fault is None


def test_what_came_before_damage_is_read_and_the_damage_told() -> None:
    raw = gzip.compress(NOISE[:1_000_000], 1)
    source = packed(raw[:500_000])
    got = source.read(0, 900_000)
    assert 450_000 < len(got) <= 500_000
    assert got == NOISE[: len(got)]
    assert source.read(len(got), 10) == b""
    assert source.fault is not None
    assert source.fault.reason == "truncated"


def test_places_behind_urls_of_this_machine_are_local(tmp_path: Path) -> None:
    put(tmp_path, "a.tar", tar_bytes([("1.jpg", b"one")]))
    (place,) = list_places([f"file://{tmp_path}/a.tar"]).places
    assert place.url == str(tmp_path / "a.tar")
