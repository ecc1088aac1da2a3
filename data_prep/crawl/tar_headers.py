"""The headers of a tar, one after the other: ustar, GNU long names and pax headers (POSIX.1-1988, POSIX.1-2001)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sciencessl.data_prep.crawl.forward import Forward
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.listing import MAX_FILE_BYTES

BLOCK = 512
MAX_EXTENDED_BYTES = 2**20
"""Most bytes of one long name, or of the pax fields of one member."""
SEARCHED = 2**20
"""Bytes that are searched at once for a header, or for the end of zeros."""
_ZEROS = bytes(BLOCK)
_REGULAR, _WITHOUT_CONTENT, _EXTENDED = b"0\x007", b"123456", b"LKxXg"
_LONG_NAME, _SPARSE = b"LS"
_KINDS = {b"1"[0]: "a link to another member", b"2"[0]: "a link to another file", _SPARSE: "a sparse file"}
_SUM = slice(148, 156)
_DIGITS = 8 ** np.arange(5, -1, -1)
ENDS = ("corrupt", "truncated")
"""Reasons of members after which no header can be found by walking."""


class Member(NamedTuple):
    """A header and what follows it.

    Attributes:
        name: Of whatever encoding.
        data: Where its content begins; its last header block lies before that.
        size: Bytes of the content.
        block: That header block.
        fault: Why it cannot be read.
    """

    name: bytes
    data: int
    size: int
    block: bytes
    fault: Refused | None = None


@dataclass
class _Told:
    """What headers of their own say of the next member."""

    name: bytes = b""
    size: int = -1
    sparse: bool = False

    def take(self, kind: int, raw: bytes) -> None:
        """Raises ValueError for fields without sense."""
        if kind == _LONG_NAME:
            self.name = raw.split(b"\0", 1)[0]
        elif kind in b"xX" and (b"path=" in raw or b"size=" in raw or b"GNU.sparse" in raw):
            fields = dict(_pax_fields(raw))
            self.name = fields.get(b"GNU.sparse.name", fields.get(b"path", self.name))
            self.size = int(fields.get(b"size", self.size))
            self.sparse = self.sparse or any(name.startswith(b"GNU.sparse") for name in fields)


def members(source: Forward, at: int) -> Iterator[Member]:
    """Members from a position on. One with a fault of `ENDS` comes last: a header without sense, or one whose content
    the end of the file cuts off.

    Checksums are left to `sound`, which takes many at a time. Archives that were joined are read to the end of the
    last, as by `tar --ignore-zeros`.
    """
    told: _Told | None = None
    while len(block := source.read(at, BLOCK)) == BLOCK:
        start = at + BLOCK
        if not block[0] and block == _ZEROS:
            at, told = _past_zeros(source, start), None
            continue
        size = number(block[124:136])
        if block[156] in _EXTENDED:
            told = told or _Told()
            fault = _take(source, told, block[156], start, size)
            if fault:
                yield Member(told.name, start, 0, block, fault)
                return
        else:
            member = _member(source, block, start, size, told)
            yield member
            if member.fault is not None and member.fault.reason in ENDS:
                return
            start, size, told = member.data, member.size, None
        at = start + (size + 511 & ~511)
    if told or block.strip(b"\0"):
        fault = Refused("truncated", "the archive ends in a header")
        yield Member(told.name if told else b"", at + BLOCK, 0, block, fault)


def _take(source: Forward, told: _Told, kind: int, start: int, size: int) -> Refused | None:
    if not 0 <= size <= MAX_EXTENDED_BYTES:
        return Refused("corrupt", "a name or its fields are too long")
    raw = source.read(start, size)
    if len(raw) < size:
        return Refused("truncated", "the archive ends in a header")
    try:
        told.take(kind, raw)
    except ValueError:
        return Refused("corrupt", "pax fields make no sense")
    return None


def _member(source: Forward, block: bytes, start: int, size: int, told: _Told | None) -> Member:
    kind, name, fault = block[156], b"", None
    if told is not None:
        name, size = told.name, told.size if told.size >= 0 else size
    name = name or _name(block)
    if size < 0:
        return Member(name, start, 0, block, Refused("corrupt", "its size is no number"))
    if kind not in _REGULAR or size > MAX_FILE_BYTES or (told is not None and told.sparse):
        fault = _fault(kind, size, told is not None and told.sparse)
        start = _past_map(source, block, start) if kind == _SPARSE else start
    if kind in _WITHOUT_CONTENT or (not kind and name.endswith(b"/")):
        size = 0
    if not source.reaches(start + size):
        fault = Refused("truncated", "the archive ends before this member does")
    return Member(name, start, size, block, fault)


def _fault(kind: int, size: int, sparse: bool) -> Refused:
    if kind in _REGULAR and not sparse:
        return Refused("too-large", f"{size} bytes, at most {MAX_FILE_BYTES} are read")
    what = _KINDS[_SPARSE] if sparse else _KINDS.get(kind, "no regular file")
    return Refused("unsupported", f"the member is {what}; its bytes are not in it")


def _name(block: bytes) -> bytes:
    end = block.find(0, 0, 100)
    name = block[: 100 if end < 0 else end]
    if block[345] and block.startswith(b"ustar\0", 257):
        return block[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def number(field: bytes) -> int:
    """A number field of a header, octal or, where it is marked so, binary; -1 where it is none."""
    try:
        return int(field.rstrip(b"\0"), 8)  # nearly all
    except ValueError:
        pass
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _pax_fields(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """`LENGTH NAME=VALUE` and a line feed, again and again."""
    at = 0
    while at < len(raw) and raw[at]:
        space = raw.index(b" ", at, at + 20)
        stop = at + int(raw[at:space])
        if not space < stop <= len(raw) or raw[stop - 1] != 10:
            raise ValueError("a pax field does not end where it says")
        name, _, value = raw[space + 1 : stop - 1].partition(b"=")
        yield name, value
        at = stop


def _past_map(source: Forward, block: bytes, start: int) -> int:
    """Old GNU sparse files have their map in blocks of its own, each of which says whether another follows."""
    more = block[482]
    while more and len(extra := source.read(start, BLOCK)) == BLOCK:
        more, start = extra[504], start + BLOCK
    return start


def _past_zeros(source: Forward, at: int) -> int:
    while raw := source.read(at, SEARCHED):
        if rest := raw.lstrip(b"\0"):
            return at + (len(raw) - len(rest)) // BLOCK * BLOCK
        at += len(raw)
    return at


def sound(batch: Sequence[Member]) -> int:
    """How many members from the first on have headers whose checksums hold, and are no `corrupt` ones."""
    blocks = b"".join(member.block.ljust(BLOCK, b"\0") for member in batch)
    good = _checked(np.frombuffer(blocks, np.uint8).reshape(-1, BLOCK))
    last = batch[-1].fault
    if last is not None and last.reason in ENDS and (last.reason == "corrupt" or len(batch[-1].block) < BLOCK):
        good[-1] = last.reason == "truncated"
    return len(good) if good.all() else int(np.argmin(good))


def _checked(blocks: np.ndarray) -> np.ndarray:
    """(n, 512) bytes -> (n,) whether each is a header with the right checksum.

    The sum of all bytes, those of the sum itself taken as spaces; some old writers summed signed bytes.
    """
    digits = blocks[:, 148:154].astype(np.int64) - 48
    said = digits @ _DIGITS
    for odd in np.flatnonzero(((digits < 0) | (digits > 7)).any(axis=1)):
        said[odd] = number(blocks[odd, _SUM].tobytes())
    spaces = 8 * 32 - blocks[:, _SUM].sum(axis=1, dtype=np.int64)
    good = said == blocks.sum(axis=1, dtype=np.int64) + spaces
    for bad in np.flatnonzero(~good):
        signed = blocks[bad].view(np.int8).astype(np.int64)
        good[bad] = said[bad] == signed.sum() - signed[_SUM].sum() + 256
    return np.asarray(good)


def next_header(source: Forward, at: int) -> int | None:
    """Where the next header lies that has a right checksum, at a distance of whole blocks; None where there is none."""
    while raw := source.read(at, SEARCHED):
        blocks = np.frombuffer(raw, np.uint8, len(raw) // BLOCK * BLOCK).reshape(-1, BLOCK)
        likely = np.flatnonzero((blocks[:, 257:262] == np.frombuffer(b"ustar", np.uint8)).all(axis=1))
        good = likely[_checked(blocks[likely])]
        if len(good):
            return at + int(good[0]) * BLOCK
        if len(raw) < SEARCHED:
            return None
        at += SEARCHED
    return None
