"""Zip archives: stored and deflated, damaged and hostile."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sciencessl.data_prep.crawl.containers import contents, records
from sciencessl.data_prep.decode import Refused
from tests.data_prep.crawl.shards import SAMPLES, Members, put, raws, read, refusals

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def zip_bytes(members: Members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, raw in members:
            archive.writestr(name, raw)
    return out.getvalue()


@pytest.mark.parametrize("method", METHODS)
def test_images_and_what_is_said_of_them_are_those_that_were_written(tmp_path: Path, method: int) -> None:
    place = put(tmp_path, "a.zip", zip_bytes([("deep/é.v1.png", b"png" * 70_000), *SAMPLES], method))
    found = read(place)
    assert {key: record.raw for key, record in found.items()} == {
        "deep/é.v1": b"png" * 70_000, "00000": SAMPLES[0][1], "00001": SAMPLES[3][1], "00002": SAMPLES[6][1]}
    assert found["00001"].meta == {"width": 4, "caption": "a dog"}
    on_disk = Path(place.url).read_bytes()
    for record in found.values():
        stored = on_disk[record.offset : record.offset + len(record.raw)] == record.raw
        assert stored if method == zipfile.ZIP_STORED else record.offset == -1


def test_members_come_in_the_order_in_which_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in SAMPLES:
            archive.writestr(name, raw)
        archive.filelist.reverse()  # only the directory is written in this order
    place = put(tmp_path, "b.zip", path.read_bytes())
    assert contents(place).table["key"].to_pylist() == ["00000", "00001", "00002"]
    assert [record.raw for record in records(place, contents(place).table.slice(1, 1))] == [SAMPLES[3][1]]


def test_folders_and_hidden_members_are_passed_over(tmp_path: Path) -> None:
    members = [("a.jpg/", b""), ("__MACOSX/._b.jpg", b"x"), (".c/d.jpg", b"x"), ("e/f.jpg", b"x"), ("in.zip", b"PK")]
    place = put(tmp_path, "a.zip", zip_bytes(members))
    assert list(raws(place)) == ["e/f"]
    assert contents(place).table.schema.metadata == {b"others": b'{"zip": 1}'}


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    for method in METHODS:
        raw = bytearray(zip_bytes([("a.jpg", noise), ("b.jpg", noise)], method))
        raw[1500] ^= 1
        found = read(put(tmp_path, f"{method}.zip", bytes(raw)))
        assert found["a"].refused is not None
        assert found["a"].refused.reason == "corrupt"
        assert found["b"].raw == noise


def test_encrypted_members_and_other_methods_are_unsupported(tmp_path: Path) -> None:
    raw = bytearray(zip_bytes(SAMPLES[:1]))
    at = raw.index(b"PK\x01\x02")
    raw[at + 8] |= 1
    assert refusals(put(tmp_path, "a.zip", bytes(raw))) == {"a/00000": "unsupported"}
    assert refusals(put(tmp_path, "b.zip", zip_bytes(SAMPLES[:1], zipfile.ZIP_LZMA))) == {"b/00000": "unsupported"}


def lies(raw: bytes, size: int) -> bytes:
    """The archive with another size of its first member in its directory."""
    at = raw.index(b"PK\x01\x02")
    return raw[: at + 24] + size.to_bytes(4, "little") + raw[at + 28 :]


def test_a_bomb_is_refused_by_what_it_declares_or_stopped_where_it_lies(tmp_path: Path) -> None:
    # A defect elsewhere: the whole member is decompressed first and looked at later.
    raw = zip_bytes([("a.jpg", bytes(5_000_000)), ("b.jpg", b"fine")])
    place = put(tmp_path, "a.zip", lies(raw, 2**29 + 1))
    assert refusals(place) == {"a/a": "too-large"}
    assert list(raws(place)) == ["b"]
    place = put(tmp_path, "b.zip", lies(raw, 1000))
    tracemalloc.start()
    found = read(place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["a"].refused is not None
    assert found["a"].refused.reason == "corrupt"
    assert found["b"].raw == b"fine"
    assert peak < 4_000_000


def test_an_archive_without_its_end_or_that_is_none_is_refused_whole(tmp_path: Path) -> None:
    raw = zip_bytes(SAMPLES)
    cases = (("a", raw[:-30], "corrupt"), ("b", b"no zip" * 99, "corrupt"), ("c", b"", "truncated"))
    for name, spoiled, reason in cases:
        with pytest.raises(Refused) as error:
            contents(put(tmp_path, f"{name}.zip", spoiled))
        assert error.value.reason == reason
        assert str(tmp_path) not in error.value.detail


def test_a_directory_that_points_nowhere_gives_refused_images(tmp_path: Path) -> None:
    raw = bytearray(zip_bytes(SAMPLES[:2]))
    at = raw.index(b"PK\x01\x02")
    raw[at + 42 : at + 46] = (3).to_bytes(4, "little")
    record = read(put(tmp_path, "a.zip", bytes(raw)))["00000"]
    assert record.refused is not None
    assert record.refused.reason == "corrupt"


def test_an_archive_that_changed_is_refused_image_by_image(tmp_path: Path) -> None:
    place = put(tmp_path, "a.zip", zip_bytes(SAMPLES))
    table = contents(place).table
    os.utime(place.url, ns=(1, 1))
    assert [record.refused.reason for record in records(place, table) if record.refused] == ["unreadable"] * 3
    assert list(records(place, table.slice(0, 0))) == []
