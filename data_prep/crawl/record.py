"""What reading a crawl gives: places that hold images, runs of images in them, and one image after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from sciencessl.data_prep.decode import Refused
from sciencessl.store.writer import Refusal

SUFFIXES = {
    ".tar": "tar", ".tar.gz": "tgz", ".tgz": "tgz", ".tar.bz2": "tgz", ".tbz2": "tgz", ".tbz": "tgz", ".tar.xz": "tgz",
    ".txz": "tgz", ".zip": "zip", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
}
"""How names of places end -> their kind. Groups of loose files are of kind `files`."""
_ENDINGS = tuple(SUFFIXES)
FILES = "files"


@dataclass(frozen=True, slots=True)
class Place:
    """A file that holds images, or a group of loose image files.

    Attributes:
        name: Path relative to what all sources share, with `/`. Ids start with it, rows say it; it names no machine.
        url: Absolute path, or URL of an object store.
        kind: Who reads it: a name of `containers.KINDS`.
        size: Bytes of the file.
        stamp: Changes when the file changes: modification time in ns, or a digest of what the object store tells.
        files: Of a group, whose `url` is the folder that all sources share: `name` (below it), `size` and `stamp` of
            each file. `contents` needs it and `records` does not.
    """

    name: str
    url: str
    kind: str
    size: int
    stamp: int
    files: pa.Table | None = field(default=None, compare=False, repr=False)


def stem_of(name: str) -> str:
    """The name of a place without its suffix; that of any other file as it is."""
    low = name.lower()
    if not low.endswith(_ENDINGS):
        return name
    return name[: -max(len(suffix) for suffix in _ENDINGS if low.endswith(suffix))]


def sample_id(place: Place, key: str) -> str:
    """The id of an image: where it lies, then its key. Keys of loose files say both."""
    return key if place.kind == FILES else f"{stem_of(place.name)}/{key}"


@dataclass(frozen=True)
class Contents:
    """What a place holds, found without reading an image.

    Attributes:
        table: One row an image in the order in which it lies there: `key` (text, unique in the place), `offset` and
            `size` in bytes where the image's bytes lie in the file as they are (-1 where they do not), and what else
            the kind needs to read it.
        refused: What cannot be read, such as the end of a tar that was cut off. Ids as samples have them.
    """

    table: pa.Table
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One image as it lies there.

    Attributes:
        key: As in `Contents.table`.
        raw: The bytes of its file; empty where it cannot be read.
        meta: What comes with it: members of JSON, `txt` (caption), `cls`, or columns of the table.
        offset: Where `raw` begins in the place, as it is; -1 where it does not lie there as it is.
        refused: Why there are no bytes.
    """

    key: str
    raw: bytes
    meta: Mapping[str, Any] = field(default_factory=dict)
    offset: int = -1
    refused: Refused | None = None


class Container(Protocol):
    """A kind of place. Modules have these two functions."""

    def contents(self, place: Place) -> Contents:
        """What the place holds.

        Raises:
            Refused: Where nothing of it can be read.
        """

    def records(self, place: Place, rows: pa.Table, wanted: Sequence[str]) -> Iterator[Record]:
        """The images of consecutive rows of `Contents.table`, in order, one record each: one that cannot be read says
        why. Holds one image at a time and reads no more ahead than a bounded buffer, so who is slow holds it up.

        Args:
            place: As it was when its contents were listed; a file that has changed is refused.
            rows: A slice of the table.
            wanted: Names of `meta` that will be used; others need not be read. `("all",)` wants every one.
        """


@dataclass(frozen=True)
class Part:
    """Consecutive images of one place: the handle of an `Input`.

    Attributes:
        place: Where they lie.
        listed: File beside the store with the place's `Contents.table`.
        first: Row of the first.
        stop: Row after the last.
    """

    place: Place
    listed: str
    first: int
    stop: int
