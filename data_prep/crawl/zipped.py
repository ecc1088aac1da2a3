"""Images in zip archives: listed by the central directory, read by their own headers in one forward pass.

Reading needs no directory, so a part of an archive of a million members opens in no time.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from sciencessl.data_prep.crawl.forward import Forward, opened, seekable
from sciencessl.data_prep.crawl.members import images_of, refused_rows, rows_of, span
from sciencessl.data_prep.crawl.meta import read_sidecars, wants
from sciencessl.data_prep.crawl.record import Contents, Place, Record
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.listing import MAX_FILE_BYTES, is_hidden
from sciencessl.errors import SciencesslError
from sciencessl.store.remote import is_remote

HEADER = struct.Struct("<4s22xHH")
"""Of a member: signature, then lengths of its name and of its extra field, which stand before its bytes."""
SIGNATURE = b"PK\x03\x04"
ENCRYPTED = 1
MEMBERS = pa.schema([
    ("name", pa.string()), ("at", pa.int64()), ("size", pa.int64()), ("packed", pa.int64()), ("stored", pa.bool_()),
    ("crc", pa.uint32()), ("reason", pa.string()), ("detail", pa.string()),
])
"""`at` is where the member's header begins, `packed` its bytes in the archive, `stored` whether they are the file's."""


def contents(place: Place) -> Contents:
    """Its images in the order in which they lie: `key` (the name without suffix), `offset` (-1 where it is compressed,
    or behind a URL), `size`, and for us `at`, `packed`, `stored`, `crc` and `sidecars`.

    Raises:
        Refused: When it is no zip archive.
    """
    try:
        with seekable(place) as stream, zipfile.ZipFile(stream) as archive:
            members = sorted((info for info in archive.infolist() if not info.is_dir()), key=_at)
    except (Refused, SciencesslError):
        raise
    except Exception as error:  # hostile archives raise anything from KeyError to struct.error
        raise Refused("corrupt", "its directory cannot be read; it is no zip archive, or its end is missing") from error
    rows = [_member(info) for info in members if not any(map(is_hidden, info.filename.split("/")))]
    table = pa.Table.from_pylist([dict(zip(MEMBERS.names, row, strict=True)) for row in rows], MEMBERS)
    found = images_of(table, place, first_dot=False)
    return Contents(found.table.add_column(1, "offset", pa.array(_offsets(place, found.table), pa.int64())),
                    found.refused)


def _at(info: zipfile.ZipInfo) -> int:
    return info.header_offset


def _member(info: zipfile.ZipInfo) -> tuple[Any, ...]:
    fault = None
    if info.flag_bits & ENCRYPTED:
        fault = "unsupported", "it is encrypted"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fault = "unsupported", f"compression method {info.compress_type}; stored and deflated members are read"
    elif max(info.file_size, info.compress_size) > MAX_FILE_BYTES:
        fault = "too-large", f"{info.file_size} bytes, at most {MAX_FILE_BYTES} are read"
    return (info.filename.encode("utf-8", "backslashreplace").decode(), info.header_offset, info.file_size,
            info.compress_size, info.compress_type == zipfile.ZIP_STORED, info.CRC, *(fault or (None, None)))


def _offsets(place: Place, table: pa.Table) -> list[int]:
    """Where stored bytes begin, which only the header of each member says: one small read each, not over a network."""
    if is_remote(place.url):
        return [-1] * len(table)
    with opened(place, window=HEADER.size) as source:
        return [_begin(source, at) if stored else -1
                for at, stored in zip(table["at"].to_pylist(), table["stored"].to_pylist(), strict=True)]


def _begin(source: Forward, at: int) -> int:
    header = source.read(at, HEADER.size)
    if len(header) < HEADER.size:
        return -1
    signature, name, extra = HEADER.unpack(header)
    return at + HEADER.size + name + extra if signature == SIGNATURE else -1


def records(place: Place, rows: pa.Table, wanted: Sequence[str]) -> Iterator[Record]:
    """Images of consecutive rows, each checked by the CRC-32 of the archive."""
    if not len(rows):
        return
    try:
        with opened(place, *span(rows, 0)) as source:
            for row in rows_of(rows):
                yield _record(source, row, wanted)
    except Refused as refused:
        yield from refused_rows(rows, refused)


def _record(source: Forward, row: dict[str, Any], wanted: Sequence[str]) -> Record:
    raw = _content(source, row)
    if isinstance(raw, Refused):
        return Record(row["key"], b"", refused=raw)
    beside = ((entry["suffix"], _content(source, entry)) for entry in row["sidecars"] if wants(entry["suffix"], wanted))
    said = [(suffix, got) for suffix, got in beside if isinstance(got, bytes)]
    return Record(row["key"], raw, read_sidecars(said, wanted), row["offset"])


def _content(source: Forward, entry: dict[str, Any]) -> bytes | Refused:
    begin = _begin(source, entry["at"])
    if begin < 0:
        return source.fault or Refused("corrupt", "the header of the member is damaged")
    raw = source.read(begin, entry["packed"])
    if len(raw) < entry["packed"]:
        return source.fault or Refused("truncated", "the archive ends before this member does")
    try:
        # One byte more than it should be shows that it is more; no bomb gets further.
        raw = raw if entry["stored"] else zlib.decompressobj(-15).decompress(raw, entry["size"] + 1)
    except zlib.error:
        return Refused("corrupt", "what is compressed is damaged")
    if len(raw) != entry["size"] or zlib.crc32(raw) != entry["crc"]:
        return Refused("corrupt", "its checksum in the archive differs")
    return raw or Refused("truncated", "the file is empty")
