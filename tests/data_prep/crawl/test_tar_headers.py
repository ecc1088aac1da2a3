"""Headers of tars: numbers, names, pax fields, checksums, and the search for the next one."""

from __future__ import annotations

import io
import struct
import tarfile
import time

import numpy as np
import pytest

from sciencessl.data_prep.crawl.forward import Forward
from sciencessl.data_prep.crawl.tar_headers import BLOCK, Member, members, next_header, number, sound
from tests.data_prep.crawl.shards import SAMPLES, tar_bytes


def source(raw: bytes, window: int = 4096) -> Forward:
    return Forward(lambda start, size: raw[start : start + size], len(raw), window)


def walk(raw: bytes) -> list[Member]:
    return list(members(source(raw), 0))


def signed(header: bytearray, kind: str = "B") -> bytearray:
    """The header with its checksum, of unsigned or signed bytes."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(struct.unpack(f"512{kind}", header))
    return header


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"00000001750\0", 1000), (b"      1750 \0", 1000), (b"1750\0garbage", 1000), (b"\0" * 12, 0), (b" " * 12, 0),
        (b"777777777777", 0o777777777777), (b"\x80" + (9 << 33).to_bytes(11), 9 << 33), (b"12x4\0\0\0\0\0\0\0\0", -1),
        (b"\xff" * 12, -1), (b"-0000000010\0", -8),
    ],
)
def test_numbers_are_octal_or_marked_as_binary(field: bytes, value: int) -> None:
    assert number(field) == value


def test_checksums_of_unsigned_and_of_signed_bytes_hold_and_a_flipped_bit_shows() -> None:
    raw = bytearray(tar_bytes([("\xff\xff.jpg", b"x" * 700), ("b.jpg", b"")]))
    assert [sound([member]) for member in walk(bytes(raw))] == [1, 1]
    raw[:BLOCK] = signed(raw[:BLOCK], "b")
    assert sound(walk(bytes(raw))) == 2
    for place in (0, 100, 130, 150, 265):
        spoiled = bytearray(raw)
        spoiled[place] ^= 2
        assert sound([member._replace(block=bytes(spoiled[:BLOCK])) for member in walk(bytes(raw))]) == 0


def test_a_damaged_header_among_many_is_the_first_that_is_not_sound() -> None:
    batch = walk(tar_bytes([(f"{i}.jpg", b"") for i in range(50)]))
    batch[37] = batch[37]._replace(block=batch[37].block[:-1] + b"x")
    assert sound(batch) == 37


def test_the_search_finds_headers_at_whole_blocks_over_windows() -> None:
    raw = np.random.default_rng(0).bytes(3 * 2**20) + tar_bytes(SAMPLES)
    assert next_header(source(raw), 0) == 3 * 2**20
    assert next_header(source(raw[:-1]), 3 * 2**20 + BLOCK) == 3 * 2**20 + 4 * BLOCK
    assert next_header(source(raw[: 3 * 2**20 + 100]), 0) is None


def test_pax_fields_give_path_and_size_and_leave_others() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("é" * 150 + ".jpg")
        info.size, info.mtime = 3, 1.5
        archive.addfile(info, io.BytesIO(b"abc"))
        archive.addfile(tarfile.TarInfo("next.jpg"))
    first, second = walk(out.getvalue())
    assert (first.name.decode(), first.size, second.name) == ("é" * 150 + ".jpg", 3, b"next.jpg")


def with_pax(fields: bytes) -> bytes:
    header = bytearray(tar_bytes([("pax", fields)])[: BLOCK + (len(fields) + 511) // 512 * 512])
    header[156:157] = b"x"
    header[:BLOCK] = signed(header[:BLOCK])
    return bytes(header) + tar_bytes(SAMPLES)


@pytest.mark.parametrize(
    "fields", [b"xx path=a\n", b"99 path=a\n", b"10 path=ab", b"path=a\n", b"12 size=1e3\n", b"0 path="]
)
def test_pax_fields_without_sense_end_the_walk_and_do_not_hang(fields: bytes) -> None:
    (last,) = walk(with_pax(fields))
    assert last.fault is not None
    assert last.fault.reason == "corrupt"


def test_many_pax_fields_take_no_longer_than_reading_them() -> None:
    record = b"9 path=a\n"
    assert len(record) == 9
    raw = with_pax(record * (2**20 // 9))
    started = time.process_time()
    assert walk(raw)[0].name == b"a"
    assert time.process_time() - started < 5


def test_an_extended_header_that_says_it_is_huge_is_damage() -> None:
    raw = bytearray(with_pax(b"9 path=a\n"))
    raw[124:136] = b"%011o\0" % 2**30
    (last,) = walk(bytes(raw))
    assert last.fault is not None
    assert last.fault.reason == "corrupt"


def test_maps_of_old_sparse_files_are_walked_over() -> None:
    sparse = bytearray(tar_bytes([("hole.jpg", b"d" * 600)])[: 3 * BLOCK])
    sparse[156:157], sparse[482] = b"S", 1
    sparse[:BLOCK] = signed(sparse[:BLOCK])
    more, last = bytearray(BLOCK), bytearray(BLOCK)
    more[504] = 1
    raw = bytes(sparse[:BLOCK] + more + last + sparse[BLOCK:]) + tar_bytes(SAMPLES[:1])
    hole, image = walk(raw)
    assert hole.fault is not None
    assert hole.fault.reason == "unsupported"
    assert (image.name, image.fault) == (b"00000.jpg", None)
