"""Loose image files, in groups that stay as they are when files are added elsewhere.

A folder with no more than `GROUP` images, its sub-folders included, is one group. Of a larger one, the files that lie
in it directly are sorted by name and cut into runs; where, the names themselves say. The folder of all sources does not
count as one, so that its sub-folders stay apart. Source: ours; cuts as in content-defined chunking.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from sciencessl.data_prep.crawl.forward import CHANGED, open_file, refusal_of
from sciencessl.data_prep.crawl.members import images_of, is_image, rows_of
from sciencessl.data_prep.crawl.meta import read_sidecars, wants
from sciencessl.data_prep.crawl.record import FILES, Contents, Place, Record
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.listing import MAX_FILE_BYTES
from sciencessl.store.remote import client, is_remote, object_path, reached, read_each

GROUP = 512
"""Most images of a group."""
CUT_ONE_IN = 256
"""A run ends before one name in that many."""
WHOLE, RUN = "all", "from-"
LISTED = pa.schema([("file", pa.binary()), ("name", pa.string()), ("size", pa.int64()), ("stamp", pa.int64())])
"""`file` is the name below the folder as the file system spells it, `name` the same as text."""


class Grouped:
    """Image files and what lies beside them, dealt to groups.

    Attributes:
        lone: Files beside which there is no image of their name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Args:
            names: Relative names of images, and of what may be said of them.
        """
        stems: dict[str, None] = {_stem(name): None for name in sorted(names) if is_image(name)}
        self._group_of = dict(_grouped(list(stems)))
        self.lone = {name for name in names if _stem(name) not in self._group_of}

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Name of each group -> its files, in order of names."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            if (group := self._group_of.get(_stem(name))) is not None:
                found[group].append(name)
        return found


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _above(folder: str) -> Iterator[str]:
    """A folder and all that it lies in below the root; the root for itself."""
    yield folder
    while folder := posixpath.dirname(folder):
        yield folder


def _grouped(stems: Sequence[str]) -> Iterator[tuple[str, str]]:
    inside = Counter(posixpath.dirname(stem) for stem in stems)
    total: Counter[str] = Counter()
    for folder, count in inside.items():
        for above in _above(folder):
            total[above] += count
    whole = {folder: next(reversed([up for up in _above(folder) if total[up] <= GROUP]), None) for folder in inside}
    name, length, last = "", GROUP, None
    for stem in sorted(stems, key=posixpath.split):
        folder, base = posixpath.split(stem)
        if (top := whole[folder]) is not None:
            yield stem, posixpath.join(top, f"{WHOLE}.{FILES}")
            continue
        if folder != last or length == GROUP or _cuts(base):
            name, length, last = posixpath.join(folder, f"{RUN}{base}.{FILES}"), 0, folder
        length += 1
        yield stem, name


def _cuts(base: str) -> bool:
    return int.from_bytes(blake2b(base.encode(), digest_size=4).digest()) % CUT_ONE_IN == 0


def group_place(name: str, root: str, files: pa.Table) -> Place:
    """A group of files, with a stamp of all their names, sizes and times."""
    state = blake2b(digest_size=8)
    for column in ("name", "size", "stamp"):
        state.update(repr(files[column].to_pylist()).encode())
    size = sum(files["size"].to_pylist())
    return Place(name, root, FILES, size, int.from_bytes(state.digest()) >> 1, files)


def contents(place: Place) -> Contents:
    """Images of the group: `key` is the path below the sources without suffix, `offset` 0, `size`; and for us `file`,
    `stamp` and `sidecars`. Nothing is read from the disk.

    Raises:
        ValueError: When the place does not say its files.
    """
    if place.files is None:
        raise ValueError(f"{place.name} does not say its files; take it from list_places.")
    large = [size > MAX_FILE_BYTES for size in place.files["size"].to_pylist()]
    told = f"more than {MAX_FILE_BYTES} bytes are not read"
    members = place.files.append_column("offset", pa.array([0] * len(large), pa.int64()))
    for name, text in (("reason", "too-large"), ("detail", told)):
        members = members.append_column(name, pa.array([text if some else None for some in large], pa.string()))
    return images_of(members, place, first_dot=False)


def records(place: Place, rows: pa.Table, wanted: Sequence[str]) -> Iterator[Record]:
    """Images of consecutive rows; one that has changed since it was listed is refused."""
    root = object_path(place.url) if is_remote(place.url) else Path(place.url)
    yield from read_each(root, partial(_record, root, wanted), rows_of(rows))


def _record(root: Path, wanted: Sequence[str], row: Mapping[str, Any]) -> Record:
    try:
        raw = _read(root, row)
    except Refused as refused:
        return Record(row["key"], b"", refused=refused)
    beside = (entry for entry in row["sidecars"] if wants(entry["suffix"], wanted))
    said = [(entry["suffix"], _read_or_none(root, entry)) for entry in beside]
    return Record(row["key"], raw, read_sidecars(said, wanted), 0)


def _read_or_none(root: Path, entry: Mapping[str, Any]) -> bytes:
    try:
        return _read(root, entry)
    except Refused:
        return b""


def _read(root: Path, entry: Mapping[str, Any]) -> bytes:
    if is_remote(root):
        raw = _read_remote(root, entry["file"].decode())
    else:
        try:
            with open(open_file(root / os.fsdecode(entry["file"]), entry["size"], entry["stamp"]), "rb") as stream:
                raw = stream.read(entry["size"] + 1)
        except OSError as error:
            raise refusal_of(error) from error
    if len(raw) != entry["size"]:
        raise Refused("unreadable", CHANGED)
    if not raw:
        raise Refused("truncated", "the file is empty")
    return raw


def _read_remote(root: Path, name: str) -> bytes:
    try:
        with reached(root):
            system, folder = client(root)
            return bytes(system.cat_file(posixpath.join(folder, name)))
    except FileNotFoundError as error:
        raise refusal_of(error) from error
