"""Tars: equal to what Python's own reader says, and what is left of those that are damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.data_prep.crawl.containers import contents, records
from sciencessl.data_prep.crawl.record import Place
from sciencessl.data_prep.decode import Refused
from tests.data_prep.crawl.shards import SAMPLES, put, raws, read, refusals, tar_bytes

FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PACK: dict[str, Callable[[bytes], bytes]] = {".tar.gz": gzip.compress, ".tbz2": bz2.compress, ".tar.xz": lzma.compress}


def random_members(seed: int) -> list[tuple[str, bytes]]:
    """Names of all lengths and scripts, images and others, of sizes about whole blocks."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(40):
        base = "".join(rng.choice(list("abzé語 -_")) for _ in range(rng.choice([1, 8, 90, 99, 130, 300])))
        folders = "/".join("f" * int(n) for n in rng.integers(1, 40, rng.integers(0, 4)))
        name = f"{folders}/{number}{base}.{rng.choice(['jpg', 'PNG', 'json', 'txt', 'bin', 'webp'])}".lstrip("/")
        found[name] = rng.bytes(int(rng.choice([0, 1, 511, 512, 513, 5000, 70_000])))
    return list(found.items())


@pytest.mark.parametrize("form", FORMS)
def test_images_are_those_of_the_standard_library_byte_by_byte(tmp_path: Path, form: int) -> None:
    for seed in range(3):
        members = random_members(seed)
        if form == tarfile.USTAR_FORMAT:  # which holds no longer names
            members = [(name, raw) for name, raw in members if len(name.encode()) < 99]
        place = put(tmp_path, f"{seed}.tar", tar_bytes(members, form))
        with tarfile.open(place.url) as archive:
            theirs = {
                info.name.rpartition(".")[0]: (info.offset_data, archive.extractfile(info).read())  # type: ignore[union-attr]
                for info in archive if info.name.lower().endswith(("jpg", "png", "webp"))
            }
        assert len(theirs) > 5
        table = contents(place).table
        listed = dict(zip(table["key"].to_pylist(), zip(table["offset"].to_pylist(), table["size"].to_pylist(),
                                                        strict=True), strict=True))
        assert listed == {key: (offset, len(raw)) for key, (offset, raw) in theirs.items()}
        ours = read(place)
        assert {key: record.raw for key, record in ours.items()} == {key: raw for key, (_, raw) in theirs.items()}
        on_disk = Path(place.url).read_bytes()
        for key, record in ours.items():
            if record.raw:
                assert on_disk[record.offset : record.offset + len(record.raw)] == theirs[key][1]


def test_what_is_said_of_an_image_lies_on_either_side_of_it(tmp_path: Path) -> None:
    members = [SAMPLES[1], SAMPLES[0], *SAMPLES[3:6], SAMPLES[2], ("00001.cls", b"7\n")]
    place = put(tmp_path, "a.tar", tar_bytes(members))
    found = read(place)
    assert found["00000"].meta == {"width": 3, "caption": "a cat"}
    assert found["00001"].meta == {"width": 4, "caption": "a dog", "class": "7"}
    assert read(place, ())["00000"].meta == {}
    assert read(place, ["caption"])["00001"].meta == {"caption": "a dog"}


def test_members_far_from_their_image_belong_to_it(tmp_path: Path) -> None:
    # A defect elsewhere: grouping only neighbours loses captions of archives that `tar` made of a folder, in whose
    # order all images may come first.
    place = put(tmp_path, "a.tar", tar_bytes(sorted(SAMPLES, key=lambda member: member[0][-3:])))
    assert [record.meta["caption"] for record in read(place).values()] == ["a cat", "a dog", "a cow"]


def test_a_slice_of_the_list_is_read_alone(tmp_path: Path) -> None:
    place = put(tmp_path, "a.tar", tar_bytes(SAMPLES))
    table = contents(place).table
    assert [record.raw for record in records(place, table.slice(1, 1))] == [SAMPLES[3][1]]
    assert list(records(place, table.slice(1, 0))) == []


def part(place: Place, table: pa.Table) -> list[tuple[str, bytes]]:
    return [(record.key, record.raw) for record in records(place, table)]


def test_parts_are_read_by_several_processes_at_once(tmp_path: Path) -> None:
    members = [(f"{i:05}.jpg", os.urandom(3000)) for i in range(40)]
    place = put(tmp_path, "a.tar", tar_bytes(members))
    table = contents(place).table
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        halves = list(pool.map(part, [place] * 2, [table.slice(0, 25), table.slice(25)]))
    assert [*halves[0], *halves[1]] == [(name[:-4], raw) for name, raw in members]


@pytest.mark.parametrize("suffix", PACK)
def test_a_compressed_tar_gives_the_same_without_offsets(tmp_path: Path, suffix: str) -> None:
    plain = read(put(tmp_path, "a.tar", tar_bytes(SAMPLES)))
    place = put(tmp_path, f"b{suffix}", PACK[suffix](tar_bytes(SAMPLES)))
    packed = read(place)
    assert place.kind == "tgz"
    assert {key: (record.raw, record.meta) for key, record in packed.items()} == {
        key: (record.raw, record.meta) for key, record in plain.items()}
    assert {record.offset for record in packed.values()} == {-1}
    assert [record.key for record in records(place, contents(place).table.slice(2))] == ["00002"]


def test_a_compressed_tar_that_ends_early_keeps_what_came_before(tmp_path: Path) -> None:
    # A defect elsewhere: the standard library loses what it had decompressed when it meets the damage.
    noise = np.random.default_rng(0)
    raw = gzip.compress(tar_bytes([(f"{i}.jpg", noise.bytes(100_000)) for i in range(20)]))
    place = put(tmp_path, "a.tgz", raw[: len(raw) // 2])
    assert list(raws(place)) == [str(i) for i in range(len(raws(place)))]
    assert 8 <= len(raws(place)) <= 10
    assert "truncated" in refusals(place).values()
    spoiled = bytearray(raw)
    spoiled[len(raw) // 2 :] = bytes(len(raw) - len(raw) // 2)
    place = put(tmp_path, "b.tgz", bytes(spoiled))
    assert 8 <= len(raws(place)) <= 10
    assert {"corrupt", "truncated"} & set(refusals(place).values())


def test_what_is_not_compressed_as_its_name_says_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="compressed neither by gzip") as error:
        contents(put(tmp_path, "a.tar.gz", tar_bytes(SAMPLES)))
    assert error.value.reason == "corrupt"
    with pytest.raises(Refused, match="its name should say so"):
        contents(put(tmp_path, "b.tar", gzip.compress(tar_bytes([("a.jpg", os.urandom(5000))]))))


def test_an_empty_tar_holds_nothing_and_an_empty_file_is_truncated(tmp_path: Path) -> None:
    place = put(tmp_path, "a.tar", tar_bytes([]))
    assert (len(contents(place).table), contents(place).refused, read(place)) == (0, (), {})
    for name in ("b.tar", "c.tgz"):
        with pytest.raises(Refused, match="the file is empty") as error:
            contents(put(tmp_path, name, b""))
        assert error.value.reason == "truncated"


def test_a_file_that_is_no_tar_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="it is no tar"):
        contents(put(tmp_path, "a.tar", b"<html>404</html>" * 1000))


def test_a_tar_without_end_blocks_is_whole(tmp_path: Path) -> None:
    raw = tar_bytes(SAMPLES)
    place = put(tmp_path, "a.tar", raw[: len(raw.rstrip(b"\0")) + 511 & ~511])
    assert len(raws(place)) == 3
    assert refusals(place) == {}


@pytest.mark.parametrize(
    ("cut", "left", "refused"),
    [
        (300, 0, {"a/#0": "truncated"}), (512, 0, {"a/00000": "truncated"}), (1535, 1, {}), (1536, 1, {}),
        (1511, 0, {"a/00000": "truncated"}), (1536 + 100, 1, {"a/#1536": "truncated"}),
        (2048, 1, {"a/#1536": "truncated"}), (2050, 1, {}), (2560, 1, {}), (2560 + 300, 1, {"a/#2560": "truncated"}),
        (3500, 1, {"a/00001": "truncated"}),
    ],
)
def test_a_cut_is_refused_and_everything_before_is_kept(
    tmp_path: Path, cut: int, left: int, refused: dict[str, str]
) -> None:
    # A defect elsewhere: downloads that a full disk stopped leave tars that end in a member, which ends training later.
    members = [("00000.jpg", b"x" * 1000), ("00000.json", b"{}"), ("00001.jpg", b"y" * 1000)]
    place = put(tmp_path, "a.tar", tar_bytes(members)[:cut])
    assert len(raws(place)) == left
    assert refusals(place) == refused


def test_a_size_that_nothing_has_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("00001.jpg")
    info.size = 2**62
    header = info.tobuf(tarfile.GNU_FORMAT)
    place = put(tmp_path, "a.tar", tar_bytes(SAMPLES[:1])[: 512 * 4] + header + tar_bytes(SAMPLES[6:]))
    assert list(raws(place)) == ["00000"]
    assert refusals(place) == {"a/00001": "truncated"}


def test_an_image_above_the_limit_is_refused_and_walked_over(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big.jpg")
    info.size = 2**29 + 1
    path = tmp_path / "a.tar"
    with path.open("wb") as stream:  # a sparse file: no disk is filled
        stream.write(info.tobuf())
        stream.seek(512 + 2**29 + 512)
        stream.write(tar_bytes(SAMPLES))
    place = put(tmp_path, "b.tar", tar_bytes([]))
    place = Place("a.tar", str(path), "tar", path.stat().st_size, path.stat().st_mtime_ns)
    assert refusals(place) == {"a/big": "too-large"}
    assert list(raws(place)) == ["00000", "00001", "00002"]


def test_links_are_refused_and_folders_passed_over(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in (("hard.jpg", tarfile.LNKTYPE), ("soft.png", tarfile.SYMTYPE), ("folder", tarfile.DIRTYPE),
                           ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "other.jpg", 0
            archive.addfile(info)
        info = tarfile.TarInfo("last.jpg")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"last"))
    place = put(tmp_path, "a.tar", out.getvalue())
    assert raws(place) == {"last": b"last"}
    assert refusals(place) == {"a/hard": "unsupported", "a/soft": "unsupported"}


def test_a_damaged_middle_costs_what_it_covers(tmp_path: Path) -> None:
    # A defect elsewhere: one damaged header ends the archive, and nobody is told what was in the rest.
    raw = bytearray(tar_bytes(SAMPLES))
    second = 512 * (4 + 2 + 2)
    assert raw[second : second + 9] == b"00001.jpg"
    raw[second + 124] = ord("z")
    place = put(tmp_path, "a.tar", bytes(raw))
    found = read(place)
    assert list(found) == ["00000", "00002"]
    assert found["00002"].meta == {"width": 5, "caption": "a cow"}
    (refusal,) = contents(place).refused
    assert (refusal.id, refusal.reason) == (f"a/#{second}", "corrupt")
    assert refusal.detail == "a damaged header; 2048 bytes until the next one are not read"


def test_a_damaged_first_header_does_not_cost_the_rest(tmp_path: Path) -> None:
    raw = bytearray(tar_bytes(SAMPLES))
    raw[:100] = b"\xff" * 100
    place = put(tmp_path, "a.tar", bytes(raw))
    assert list(raws(place)) == ["00001", "00002"]
    assert refusals(place) == {"a/#0": "corrupt"}


def test_joined_tars_are_read_to_the_end_of_the_last(tmp_path: Path) -> None:
    # A defect elsewhere: readers stop at the end of the first, without a word.
    place = put(tmp_path, "a.tar", tar_bytes(SAMPLES[:3]) + bytes(3 * 2**20) + tar_bytes(SAMPLES[3:]))
    assert list(raws(place)) == ["00000", "00001", "00002"]
    assert refusals(place) == {}


def test_an_image_of_no_bytes_is_listed_and_refused(tmp_path: Path) -> None:
    record = read(put(tmp_path, "a.tar", tar_bytes([("0.jpg", b""), SAMPLES[0]])))["0"]
    assert (record.raw, record.offset) == (b"", -1)
    assert record.refused is not None
    assert (record.refused.reason, record.refused.detail) == ("truncated", "the file is empty")


def test_names_that_are_no_text_become_some(tmp_path: Path) -> None:
    raw = tar_bytes([("XX.jpg", b"1"), ("Y.jpg", b"2")])
    header = bytearray(raw[:512])
    header[:2] = b"\xff\xfe"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    assert raws(put(tmp_path, "a.tar", bytes(header) + raw[512:])) == {"\\xff\\xfe": b"1", "Y": b"2"}


@pytest.mark.parametrize("how", ["longer", "touched", "gone", "pipe"])
def test_a_tar_that_changed_since_it_was_listed_is_refused_image_by_image(tmp_path: Path, how: str) -> None:
    place = put(tmp_path, "a.tar", tar_bytes(SAMPLES))
    table = contents(place).table
    path = Path(place.url)
    if how == "longer":
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(place.stamp, place.stamp))
    elif how == "touched":
        os.utime(path, ns=(place.stamp + 1, place.stamp + 1))
    else:
        path.unlink()
        if how == "pipe":
            os.mkfifo(path)  # opening it would wait for a writer
    found = list(records(place, table))
    assert [record.key for record in found] == ["00000", "00001", "00002"]
    reasons = {record.refused.reason for record in found if record.refused}
    assert reasons == {"missing-file" if how == "gone" else "unreadable"}
    if how != "pipe":
        with pytest.raises(Refused):
            contents(place)
    assert all(str(tmp_path) not in record.refused.detail for record in found if record.refused)


def test_members_that_moved_within_a_tar_of_the_same_size_and_time_are_noticed(tmp_path: Path) -> None:
    place = put(tmp_path, "a.tar", tar_bytes(SAMPLES[:3] + SAMPLES[3:6]))
    table = contents(place).table
    raw = tar_bytes(SAMPLES[3:6] + SAMPLES[:3])
    assert len(raw) == place.size
    Path(place.url).write_bytes(raw)
    os.utime(place.url, ns=(place.stamp, place.stamp))
    assert [record.refused.reason for record in records(place, table) if record.refused] == ["unreadable"] * 2


def test_a_list_keeps_no_object_for_each_image(tmp_path: Path) -> None:
    # A defect elsewhere: lists of names grow the memory of each process that looks at them.
    place = put(tmp_path, "a.tar", tar_bytes([(f"{i:09}.{s}", b"") for i in range(4000) for s in ("jpg", "json")]))
    contents(place)
    tracemalloc.start()
    found = contents(place)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(found.table) == 4000
    assert kept < 20 * 4000  # one string alone takes 58 bytes


def test_reading_needs_no_more_memory_for_more_images(tmp_path: Path) -> None:
    place = put(tmp_path, "a.tar", tar_bytes([(f"{i}.jpg", bytes(200_000)) for i in range(100)]))
    table = contents(place).table
    tracemalloc.start()
    assert sum(len(record.raw) for record in records(place, table)) == 20_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 2**20
