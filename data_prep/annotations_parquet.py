"""GeoParquet: polygons and points as well-known binary in a column. Source: GeoParquet 1.1, OGC 06-103r4."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.data_prep.drawn import Drawn

CLASS_COLUMNS = ("class_name", "classification", "class", "label", "type", "name")
"""Columns that may hold the class; the first that a file has."""
POINT, LINE, POLYGON, MULTI_POINT, MULTI_LINE, MULTI_POLYGON, COLLECTION = range(1, 8)
MANY = (MULTI_POINT, MULTI_LINE, MULTI_POLYGON, COLLECTION)


def read_geoparquet(raw: bytes, drawn: Drawn) -> None:
    """Take the polygons and points of the primary geometry column; the class is in one of `CLASS_COLUMNS`.

    Raises:
        DataError: For a file that is cut, has no geometry column, or a damaged geometry, with its row, from 0.
    """
    try:
        table = pq.read_table(io.BytesIO(raw))
        said = json.loads((table.schema.metadata or {}).get(b"geo", b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise drawn.error("the Parquet", f"cannot be read: {str(error).splitlines()[0]}") from None
    column = said.get("primary_column", "geometry")
    if column not in table.column_names or not pa.types.is_binary(table[column].type):
        raise drawn.error("the table", f"has the columns {', '.join(table.column_names)}, expected {column!r} with "
                          "well-known binary")
    named = next((name for name in CLASS_COLUMNS if name in table.column_names), "")
    classes = table[named].to_pylist() if named else [None] * len(table)
    raters = table["rater"].to_pylist() if "rater" in table.column_names else [None] * len(table)
    for row, (shape, name, rater) in enumerate(zip(table[column].to_pylist(), classes, raters, strict=True)):
        where = f"row {row}"
        if shape is None:
            drawn.skipped["features without a geometry"] += 1
            continue
        try:
            parts = list(_shapes(_Bytes(shape)))
        except (struct.error, ValueError, RecursionError) as error:
            raise drawn.error(where, f"has a damaged geometry: {error}") from None
        for kind, rings in parts:
            if kind == POLYGON:
                drawn.area(rings or [[]], str(name or ""), where, str(rater or ""))
            elif kind == POINT:
                drawn.point(rings[0][0], str(name or ""), where, str(rater or ""))
            else:
                drawn.skipped["lines"] += 1


class _Bytes:
    """Bytes of a geometry, and how many of them were read."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at, self.order = raw, 0, "<"

    def number(self) -> int:
        found: int = struct.unpack_from(f"{self.order}I", self.raw, self.at)[0]
        self.at += 4
        return found

    def places(self, count: int, dimensions: int) -> np.ndarray:
        """(count, 2)."""
        found = np.frombuffer(self.raw, f"{self.order}f8", count * dimensions, self.at).reshape(count, dimensions)
        self.at += found.nbytes
        return found[:, :2].astype(np.float64)

    def head(self) -> tuple[int, int]:
        """Type of the next geometry, and its numbers a corner."""
        self.order = "<" if struct.unpack_from("B", self.raw, self.at)[0] else ">"
        self.at += 1
        code = self.number()
        if code & 0x20000000:  # the extended form of PostGIS has a reference system here
            self.number()
        flagged, plain = code >> 30, code & 0x0FFFFFFF
        dimensions = 2 + (plain // 1000 in (1, 2, 3)) + (plain // 1000 == 3) + flagged.bit_count()
        if plain % 1000 not in range(POINT, COLLECTION + 1):
            raise ValueError(f"type {code}, expected a point, line, polygon or several of them")
        return plain % 1000, dimensions


def _shapes(found: _Bytes) -> Iterator[tuple[int, list[Any]]]:
    """Kind and rings of each simple shape in a geometry."""
    kind, dimensions = found.head()
    if kind in MANY:
        for _ in range(found.number()):
            yield from _shapes(found)
    elif kind == POLYGON:
        yield kind, [found.places(found.number(), dimensions) for _ in range(found.number())]
    else:
        yield kind, [found.places(1 if kind == POINT else found.number(), dimensions)]
