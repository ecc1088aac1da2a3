"""GeoParquet: well-known binary made here by hand, and files of another program."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.errors import DataError

RING = ((0.0, 0.0), (10.0, 0.0), (10.0, 8.0), (0.0, 8.0), (0.0, 0.0))
HOLE = ((2.0, 2.0), (4.0, 2.0), (4.0, 4.0), (2.0, 2.0))


def head(kind: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}BI", order == "<", kind)


def polygon(*rings: tuple[tuple[float, ...], ...], order: str = "<", kind: int = 3) -> bytes:
    body = b"".join(struct.pack(f"{order}I", len(ring)) + b"".join(struct.pack(f"{order}{len(corner)}d", *corner)
                                                                  for corner in ring) for ring in rings)
    return head(kind, order) + struct.pack(f"{order}I", len(rings)) + body


def several(kind: int, *parts: bytes) -> bytes:
    return head(kind) + struct.pack("<I", len(parts)) + b"".join(parts)


POINT = head(1) + struct.pack("<2d", 3, 4)
LINE = head(2) + struct.pack("<I4d", 2, 0, 0, 1, 1)


def write(path: Path, shapes: list[bytes | None], column: str = "geometry", **columns: list[str | None]) -> Path:
    table = pa.table({column: pa.array(shapes, pa.binary()), **columns})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps({"primary_column": column})}), path)
    return path


def test_polygons_points_and_collections_are_read_in_both_byte_orders(tmp_path: Path) -> None:
    skipped: Counter[str] = Counter()
    high = tuple((*corner, 7.0) for corner in RING)
    found = read_annotations(write(tmp_path / "a.parquet", [
        polygon(RING, HOLE), polygon(RING, order=">"), polygon(high, kind=1003), polygon(high, kind=3 | 0x80000000),
        several(6, polygon(RING), polygon(HOLE)), POINT, several(4, POINT, POINT), several(7, POINT, LINE), LINE, None,
    ], "shape", class_name=["t"] * 9 + [None]), skipped=skipped)
    assert [(region.kind, len(region.rings)) for region in found] == [
        ("area", 2), ("area", 1), ("area", 1), ("area", 1), ("area", 1), ("area", 1), ("point", 1), ("point", 1),
        ("point", 1), ("point", 1)]
    assert all(region.box == (0, 0, 10, 8) for region in found[:5])
    assert {region.class_name for region in found} == {"t"}
    assert skipped == {"lines": 2, "features without a geometry": 1}


@pytest.mark.parametrize("shape", [polygon(RING)[:-4], b"", b"\x01", head(17), head(3) + struct.pack("<2I", 1, 2**31)])
def test_a_damaged_geometry_is_an_error_with_its_row(tmp_path: Path, shape: bytes) -> None:
    with pytest.raises(DataError, match="row 1 has a damaged geometry"):
        read_annotations(write(tmp_path / "a.parquet", [POINT, shape]))


def test_a_table_without_geometry_and_a_cut_file_are_errors(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0], "y": [2.0]}), tmp_path / "plain.parquet")
    with pytest.raises(DataError, match="has the columns x, y, expected 'geometry' with well-known binary"):
        read_annotations(tmp_path / "plain.parquet")
    raw = write(tmp_path / "a.parquet", [POINT]).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(raw[:-20])
    with pytest.raises(DataError, match="the Parquet cannot be read"):
        read_annotations(tmp_path / "cut.parquet")


def test_nineteen_thousand_nuclei_of_a_real_biopsy_are_read(shared_data: Path) -> None:
    skipped: Counter[str] = Counter()
    folder = shared_data / "pathology" / "histolytics"
    found = read_annotations(folder / "cervix_biopsy_nuclei.parquet", skipped=skipped)
    # The counts of classes are those that pyarrow gives of the column.
    assert Counter(region.class_name for region in found) == {
        "connective": 8177, "inflammatory": 6827, "neoplastic": 3572, "glandular_epithel": 618, "squamous_epithel": 3}
    assert not skipped
