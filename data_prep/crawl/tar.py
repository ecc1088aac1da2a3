"""Images in tars, as WebDataset and img2dataset write them: listed by their headers, read in one forward pass.

Python's own `tarfile` makes an object of each member, and ends at the first damaged one. Kind `tgz` is a tar that is
compressed as a whole: reading a part of it reads all that lies before.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow as pa

from sciencessl.data_prep.crawl.forward import PACKED, WINDOW, Forward, decompressed, opened
from sciencessl.data_prep.crawl.members import images_of, is_image, refused_rows, rows_of, span
from sciencessl.data_prep.crawl.meta import read_sidecars, wants
from sciencessl.data_prep.crawl.record import Contents, Place, Record, sample_id
from sciencessl.data_prep.crawl.tar_headers import BLOCK, ENDS, Member, members, next_header, sound
from sciencessl.data_prep.decode import Refused
from sciencessl.store.writer import Refusal

LISTING_WINDOW = 4096
"""Bytes asked of a disk at once while headers are read: what is said of an image often lies that near."""
AT_ONCE = 4096
"""Members whose checksums are taken at once."""
MEMBERS = pa.schema([
    ("name", pa.string()), ("at", pa.int64()), ("size", pa.int64()), ("check", pa.uint32()), ("reason", pa.string()),
    ("detail", pa.string()),
])
"""`at` is where the content begins, in the tar that a compressed one holds; `check` the CRC-32 of the header block."""
MOVED = "another file lies where it was listed; run the same command again to list it anew"


def contents(place: Place) -> Contents:
    """Its images in the order of the tar: `key`, `offset` (-1 in a compressed tar), `size`, and for us `at`, `check`
    and `sidecars`.

    Where a header is damaged, the next one that is sound is searched for; the bytes between are refused.

    Raises:
        Refused: When it is no tar, or nothing of it can be read.
    """
    with _opened(place, 0, None, LISTING_WINDOW) as source:
        batches, refused = _walk(source, place)
    found = images_of(pa.Table.from_batches(batches, MEMBERS), place, first_dot=True)
    at = found.table["at"]
    offset = at if place.kind == "tar" else pa.nulls(len(at), pa.int64()).fill_null(-1)
    return Contents(found.table.add_column(1, "offset", offset), (*found.refused, *refused))


def records(place: Place, rows: pa.Table, wanted: Sequence[str]) -> Iterator[Record]:
    """Images of consecutive rows, whose headers are still where they were listed. In a compressed tar, what is said of
    an image is read where it follows the image before it, as every writer of shards has it."""
    if not len(rows):
        return
    try:
        with _opened(place, *span(rows, BLOCK), WINDOW) as source:
            for row in rows_of(rows):
                yield _record(source, row, wanted)
    except Refused as refused:
        yield from refused_rows(rows, refused)


@contextmanager
def _opened(place: Place, start: int, stop: int | None, window: int) -> Iterator[Forward]:
    if place.kind == "tar":
        with opened(place, start, stop, window) as source:
            yield source
    else:
        with opened(place) as source:
            yield decompressed(source)


def _walk(source: Forward, place: Place) -> tuple[list[pa.RecordBatch], list[Refusal]]:
    """Raises Refused where there is not one header."""
    batches: list[pa.RecordBatch] = []
    refused: list[Refusal] = []
    at: int | None = 0
    while at is not None:
        walk, at = members(source, at), None
        while batch := list(islice(walk, AT_ONCE)):
            good = sound(batch)
            if good:
                batches.append(_batch(batch[:good]))
            if good < len(batch):
                at = _damaged(source, place, batch[good], refused)
                break
            refused += _cut(batch[-1], place)
    if source.fault is not None:
        if not batches:
            raise source.fault
        refused.append(Refusal(_place_in(place, batches[-1]["at"][-1].as_py()), source.fault.reason,
                               f"after this {source.fault.detail}"))
    return batches, refused


def _batch(batch: Sequence[Member]) -> pa.RecordBatch:
    faults = [member.fault for member in batch]
    columns: dict[str, list[Any]] = {
        "name": [member.name.decode("utf-8", "backslashreplace") for member in batch],
        "at": [member.data for member in batch], "size": [member.size for member in batch],
        "check": [zlib.crc32(member.block) for member in batch],
        "reason": [fault and fault.reason for fault in faults], "detail": [fault and fault.detail for fault in faults],
    }
    return pa.RecordBatch.from_pydict(columns, MEMBERS)


def _cut(last: Member, place: Place) -> Iterator[Refusal]:
    """What was cut off by the end of the archive and is no image: images are refused by their names."""
    if last.fault is not None and last.fault.reason in ENDS and not is_image(last.name.decode("utf-8", "replace")):
        yield Refusal(_place_in(place, last.data - BLOCK), last.fault.reason, last.fault.detail)


def _damaged(source: Forward, place: Place, bad: Member, refused: list[Refusal]) -> int | None:
    """Where it goes on after a damaged header; what lies between is refused.

    Raises:
        Refused: When that header is the first, and there is no other.
    """
    header = bad.data - BLOCK
    after = next_header(source, bad.data)
    if after is None and header == 0:
        packed = source.read(0, 6).startswith(tuple(PACKED))
        said = "it is compressed; its name should say so, as in .tar.gz" if packed else "it is no tar"
        raise Refused("corrupt", said)
    until = "nothing after it is read" if after is None else f"{after - header} bytes until the next one are not read"
    refused.append(Refusal(_place_in(place, header), "corrupt", f"a damaged header; {until}"))
    return after


def _place_in(place: Place, at: int) -> str:
    return sample_id(place, f"#{at}")


def _record(source: Forward, row: dict[str, Any], wanted: Sequence[str]) -> Record:
    """What is said of an image may lie on either side of it: all is read in the order in which it lies."""
    beside = [entry for entry in row["sidecars"] if wants(entry["suffix"], wanted)]
    raw: bytes | Refused = b""
    said: list[tuple[str, bytes]] = []
    for entry in sorted([row, *beside], key=lambda entry: entry["at"]):
        got = _content(source, entry)
        if entry is row:
            raw = got
        elif isinstance(got, bytes):
            said.append((entry["suffix"], got))
    if isinstance(raw, Refused):
        return Record(row["key"], b"", refused=raw)
    return Record(row["key"], raw, read_sidecars(said, wanted), row["offset"])


def _content(source: Forward, entry: dict[str, Any]) -> bytes | Refused:
    at, size = entry["at"], entry["size"]
    header = source.read(at - BLOCK, BLOCK)
    if zlib.crc32(header) != entry["check"]:
        return source.fault or Refused("unreadable", MOVED)
    raw = source.read(at, size)
    if len(raw) < size:
        return source.fault or Refused("truncated", "the archive ends before this member does")
    return raw or Refused("truncated", "the file is empty")
