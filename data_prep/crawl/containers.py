"""All kinds of places behind two functions: what a place holds, and its images one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from sciencessl.data_prep.crawl import loose, tables, tar, zipped
from sciencessl.data_prep.crawl.record import FILES, Container, Contents, Place, Record

KINDS: dict[str, Container] = {
    "tar": tar, "tgz": tar, "zip": zipped, "parquet": tables, "arrow": tables, FILES: loose,
}
"""Kind of a place -> the module that reads it."""


def contents(place: Place) -> Contents:
    """What a place holds, found without reading an image.

    Returns:
        A table with `key`, `offset`, `size` and columns of its kind, and what of it cannot be read.

    Raises:
        Refused: When nothing of it can be read.
        DataError: When columns do not say which of them holds the images.
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    return KINDS[place.kind].contents(place)


def records(place: Place, rows: pa.Table, wanted: Sequence[str] = ("all",)) -> Iterator[Record]:
    """Images of consecutive rows of a place's table, in order, each with what is said of it; see `Container.records`.

    Args:
        place: As it was listed.
        rows: A slice of `Contents.table`.
        wanted: Names of fields that will be used; `("all",)` for every one.

    Raises:
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    return KINDS[place.kind].records(place, rows, wanted)
