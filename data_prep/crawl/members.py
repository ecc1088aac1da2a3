"""From the names of an archive's members, or of a folder's files, to images and what lies beside each.

Members that share a name up to the first dot of its last part are one sample, as WebDataset has it: `a/01.jpg`,
`a/01.json`, `a/01.txt`. Names are columns here: an archive of a million members makes no million objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.crawl.record import Contents, Place, Record, sample_id
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.listing import IMAGE_SUFFIXES
from sciencessl.store.writer import Refusal

CLOSED = (
    "blp", "cur", "dds", "emf", "eps", "flc", "fli", "heic", "heif", "icns", "ico", "im", "jxl", "jxr", "msp", "pcd",
    "pcx", "psd", "qoi", "ras", "sgi", "spider", "svg", "tga", "wmf", "xbm", "xpm",
)
"""Suffixes of images of formats that are not opened: each is refused by name rather than passed over."""
IMAGES = (*(suffix[1:] for suffix in IMAGE_SUFFIXES), "dib", "img", "mpo", *CLOSED)
"""Suffixes of images, without the dot, in lower case; some writers of shards call an image of any kind `img`."""
SIDECARS = ("json", "txt", "cls")
"""Suffixes of what is said of an image: fields, a caption, a class."""
MAX_SIDECAR_BYTES = 16 * 2**20
"""Larger ones are left alone."""
AT_ONCE = 1024
"""Rows of a list that are Python objects at once."""
OTHERS = b"others"
# Whole name up to its last dot; its beginning up to the first dot of the last part; what follows the last dot. Names
# that begin with a dot are hidden, such as `._01.jpg`, which macOS puts beside `01.jpg`.
_PARTS = r"(?s)^(?:\./)*(?P<stem>(?P<shared>(?:.*/)?[^/.]+)(?:\.[^/]*)?)\.(?P<suffix>[^/.]+)$"


def images_of(members: pa.Table, place: Place, first_dot: bool) -> Contents:
    """The images among members, each with its sidecars.

    An image alone under its key is called by it; of several, each is called by its whole name. A sidecar belongs to the
    image of the same name up to the last dot, or else to all images of its key.

    Args:
        members: In the order in which they lie there: `name` (text), `size` (bytes), `reason` and `detail` (text, null
            where it can be read), and columns of the kind's own that say where the bytes are.
        place: Where they are.
        first_dot: Whether the key ends at the first dot of the last part of a name, or at its last dot.

    Returns:
        `key`, the columns of `members` other than `name`, `reason` and `detail`, and `sidecars`: a list of structs of
        the same columns and `suffix`. What is refused: images that cannot be read, and those whose name came before.
        The metadata `others` of the table's schema counts further members by suffix, as JSON.
    """
    own = [name for name in members.column_names if name not in ("name", "reason", "detail")]
    named = _taken_apart(members, first_dot)
    is_image = pc.is_in(named["suffix"], pa.array(IMAGES))
    is_sidecar = pc.is_in(named["suffix"], pa.array(SIDECARS))
    images = _called(named.filter(is_image))
    good = pc.and_(images["first"], pc.is_null(images["reason"]))
    refused = tuple(_refusals(images.filter(pc.invert(good)), place))
    images, sidecars = images.filter(good), _usable(named.filter(is_sidecar))
    table = images.select(["key", *own]).append_column("sidecars", _beside(images, sidecars, [*own, "suffix"]))
    others = named.filter(pc.invert(pc.or_(is_image, is_sidecar)))["suffix"]
    return Contents(table.replace_schema_metadata({OTHERS: json.dumps(_counts(others))}), refused)


def is_image(name: str) -> bool:
    """Whether a member is an image by its name."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return suffix.lower() in IMAGES and bool(stem) and not stem.startswith(".")


def rows_of(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows of a list as dictionaries, some at a time."""
    for batch in rows.to_batches(max_chunksize=AT_ONCE):
        yield from batch.to_pylist()


def span(rows: pa.Table, header: int) -> tuple[int, int]:
    """Where the first header of rows begins, that many bytes before its content, and where the last content ends: of
    columns `at` and `size`, sidecars too."""
    beside = pc.list_flatten(rows["sidecars"])
    at = [rows["at"], pc.struct_field(beside, "at")]
    ends = [pc.add(at[0], rows["size"]), pc.add(at[1], pc.struct_field(beside, "size"))]
    first = min(pc.min(some).as_py() for some in at if len(some))
    return first - header, max(pc.max(some).as_py() for some in ends if len(some))


def refused_rows(rows: pa.Table, refused: Refused) -> Iterator[Record]:
    """The records of rows whose place cannot be read."""
    for key in rows["key"].to_pylist():
        yield Record(key, b"", refused=refused)


def _taken_apart(members: pa.Table, first_dot: bool) -> pa.Table:
    parts = pc.extract_regex(members["name"].combine_chunks(), _PARTS)
    stems, shared, suffixes = (pc.struct_field(parts, part) for part in ("stem", "shared", "suffix"))
    named = members.drop_columns(["name"]).append_column("stem", stems)
    named = named.append_column("shared", shared if first_dot else stems)
    named = named.append_column("name", pc.binary_join_element_wise(stems, suffixes, "."))
    return named.append_column("suffix", pc.fill_null(pc.utf8_lower(suffixes), ""))


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Equal numbers for equal text."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices)


def first_of(column: pa.ChunkedArray) -> np.ndarray:
    """Of text, (n,) whether it did not come before."""
    codes = _codes(column)
    first = np.zeros(len(codes), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first


def _called(images: pa.Table) -> pa.Table:
    """With `key`, and `first`: whether the name did not come before."""
    shared, first = _codes(images["shared"]), first_of(images["name"])
    alone = np.bincount(shared[first], minlength=1)[shared] == 1
    key = pc.if_else(pa.array(alone), images["shared"], images["name"])
    return images.append_column("key", key).append_column("first", pa.array(first))


def _refusals(images: pa.Table, place: Place) -> Iterator[Refusal]:
    for row in images.select(["key", "first", "reason", "detail"]).to_pylist():
        name = sample_id(place, row["key"])
        if row["first"]:
            yield Refusal(name, row["reason"], row["detail"])
        else:
            yield Refusal(name, "duplicate-id", "another image of this name comes before it")


def _usable(sidecars: pa.Table) -> pa.Table:
    """Those that can be read, the first of each name."""
    small = pc.less_equal(sidecars["size"], MAX_SIDECAR_BYTES)
    sidecars = sidecars.filter(pc.and_(small, pc.is_null(sidecars["reason"])))
    return sidecars.filter(pa.array(first_of(sidecars["name"])))


def _beside(images: pa.Table, sidecars: pa.Table, columns: Sequence[str]) -> pa.ListArray:
    """For each image, the sidecars of its own name, or else those of its key."""
    stems = sidecars["stem"].combine_chunks().dictionary_encode()
    codes = np.asarray(stems.indices)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(stems.dictionary))
    first = np.concatenate([[0], np.cumsum(counts)])
    own, shared = (pc.index_in(images[name], stems.dictionary) for name in ("stem", "shared"))
    which = np.asarray(pc.fill_null(pc.coalesce(own, shared), -1).combine_chunks())
    lengths = np.append(counts, 0)[which]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.repeat(first[which] - offsets[:-1], lengths) + np.arange(offsets[-1])
    taken = sidecars.select(columns).take(pa.array(order[flat]))
    structs = pa.StructArray.from_arrays([column.combine_chunks() for column in taken.columns], names=list(columns))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)


def _counts(suffixes: pa.ChunkedArray) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in suffixes.value_counts().to_pylist()}
