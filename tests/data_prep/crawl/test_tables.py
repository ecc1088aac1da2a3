"""Parquet and Arrow tables of image bytes: columns, keys, batches, damage."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.data_prep.crawl.containers import contents, records
from sciencessl.data_prep.crawl.record import Place
from sciencessl.data_prep.crawl.tables import has_images
from sciencessl.data_prep.decode import Refused
from sciencessl.errors import DataError
from tests.data_prep.crawl.shards import place_of, put, raws, read, refusals

BYTES = [b"first" * 9, b"second", None, b"", b"fifth"]
TABLE = pa.table({
    "key": ["k0", "k1", "k2", "k3", "k4"], "jpg": pa.array(BYTES, pa.binary()), "txt": ["a", "b", "c", "d", None],
    "width": [1, 2, 3, 4, 5], "when": pa.array([dt.datetime(2020, 1, 1)] * 5), "tags": [["x"], [], None, ["y"], ["z"]],
    "sha": pa.array([b"s"] * 5, pa.binary(1)),
})


def write(path: Path, table: pa.Table, rows: int = 2) -> Place:
    """A table in groups of so many rows; `.arrow` is a stream and `.feather` a file."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows)
    else:
        new = pa.ipc.new_stream if path.suffix == ".arrow" else pa.ipc.new_file
        with new(str(path), table.schema) as stream:
            stream.write_table(table, max_chunksize=rows)
    return place_of(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather", "a.ipc"])
def test_rows_are_images_and_other_columns_what_is_said_of_them(tmp_path: Path, name: str) -> None:
    place = write(tmp_path / name, TABLE)
    listed = contents(place)
    assert listed.table.select(["key", "offset", "group", "row"]).to_pydict() == {
        "key": ["k0", "k1", "k2", "k3", "k4"], "offset": [-1] * 5, "group": [0, 0, 1, 1, 2], "row": [0, 1, 0, 1, 0]}
    assert all(size > 0 for size in listed.table["size"].to_pylist())
    found = read(place)
    assert [record.raw for record in found.values()] == [raw or b"" for raw in BYTES]
    assert found["k0"].meta == {"key": "k0", "caption": "a", "width": 1, "when": "2020-01-01 00:00:00", "tags": '["x"]'}
    refused = {key: record.refused.reason for key, record in found.items() if record.refused}
    assert refused == {"k2": "missing-file", "k3": "truncated"}
    assert read(place, ["caption"])["k1"].meta == {"caption": "b"}
    assert read(place, [])["k1"].meta == {}


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_parts_of_a_table_are_read_alone(tmp_path: Path, name: str) -> None:
    table = pa.table({"image": pa.array([bytes([i]) * (i + 1) for i in range(100)], pa.binary())})
    place = write(tmp_path / name, table, rows=30)
    listed = contents(place).table
    found = [record for first in (0, 7, 45) for record in records(place, listed.slice(first, 38 if first else 7))]
    assert [(record.key, record.raw) for record in found[:7]] == [(str(i), bytes([i]) * (i + 1)) for i in range(7)]
    assert [record.key for record in found[7:45]] == [str(i) for i in range(7, 45)]
    assert [record.raw for record in found[45:]] == [bytes([i]) * (i + 1) for i in range(45, 83)]


def test_images_of_hugging_face_are_structs(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"one", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None],
                      pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for name in ("a.parquet", "b.arrow"):
        place = write(tmp_path / name, pa.table({"image": images, "label": [3, 4, 5]}))
        found = read(place)
        assert (found["0"].raw, found["0"].meta) == (b"one", {"label": 3})
        assert [record.refused.reason for record in found.values() if record.refused] == ["missing-file"] * 2


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view()])
def test_bytes_of_other_layouts_are_images_too(tmp_path: Path, kind: pa.DataType) -> None:
    assert raws(write(tmp_path / "a.feather", pa.table({"x": pa.array([b"1"], kind)}))) == {"0": b"1"}


def test_the_only_column_of_bytes_holds_the_images_and_a_known_name_comes_first(tmp_path: Path) -> None:
    two = pa.table({"mask": [b"m"], "image": [b"i"]})
    assert raws(write(tmp_path / "a.parquet", two)) == {"0": b"i"}
    assert raws(write(tmp_path / "b.parquet", two.select(["mask"]))) == {"0": b"m"}


def test_two_columns_that_may_hold_images_are_an_error_that_names_them(tmp_path: Path) -> None:
    for name, columns in (("a", ["left", "right"]), ("b", ["jpg", "png"])):
        place = write(tmp_path / f"{name}.parquet", pa.table({column: [b"x"] for column in columns}))
        said = f"^{name}.parquet: columns {columns[0]} and {columns[1]} hold bytes.*rename"
        with pytest.raises(DataError, match=said):
            contents(place)


def test_a_table_of_addresses_says_what_to_do(tmp_path: Path) -> None:
    place = write(tmp_path / "a.parquet", pa.table({"url": ["http://x"], "caption": ["c"]}))
    assert not has_images(place)
    with pytest.raises(Refused, match="columns url, caption holds bytes; addresses must be downloaded first") as error:
        contents(place)
    assert error.value.reason == "unsupported"


def test_keys_may_be_numbers_or_missing_or_come_twice(tmp_path: Path) -> None:
    place = write(tmp_path / "a.parquet", pa.table({"id": [7, None, 7, 9], "image": [b"a", b"b", b"c", b"d"]}))
    assert raws(place) == {"7": b"a", "1": b"b", "9": b"d"}
    (refusal,) = contents(place).refused
    assert (refusal.id, refusal.reason, refusal.detail) == ("a/7", "duplicate-id", "a row before it has the same id")


def test_keys_that_are_no_text_become_some(tmp_path: Path) -> None:
    offsets = np.array([0, 1, 3], np.int32).tobytes()
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(offsets), pa.py_buffer(b"\xffok"))
    place = write(tmp_path / "a.parquet", pa.table({"key": bad, "image": [b"a", b"b"], "note": bad}))
    found = read(place)
    assert {key: record.meta.get("note") for key, record in found.items()} == {"\\xff": None, "ok": "ok"}


def test_an_empty_table_holds_nothing(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow", "a.feather"):
        place = write(tmp_path / name, TABLE.slice(0, 0))
        assert (len(contents(place).table), read(place)) == (0, {})
        Path(place.url).unlink()


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_what_is_no_table_or_is_cut_is_refused_whole(tmp_path: Path, name: str) -> None:
    whole = Path(write(tmp_path / name, TABLE).url).read_bytes()
    for raw in (b"", b"<html>" * 50, whole[: len(whole) // 3]):
        place = put(tmp_path, name, raw)
        with pytest.raises(Refused) as error:
            contents(place)
        assert error.value.reason in ("corrupt", "truncated")
        assert str(tmp_path) not in error.value.detail


def test_a_damaged_group_costs_its_own_rows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    table = pa.table({"jpg": pa.array([noise.bytes(2000) for _ in range(6)], pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, compression="zstd", write_page_checksum=True,
                   use_dictionary=False)
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    chunk = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0)
    raw[chunk.data_page_offset + chunk.total_compressed_size - 1000] ^= 1
    found = read(put(tmp_path, "a.parquet", bytes(raw)))
    reasons = [record.refused.reason if record.refused else None for record in found.values()]
    assert reasons == [None, None, "corrupt", "corrupt", None, None]


def test_values_that_reach_out_of_an_arrow_file_are_refused(tmp_path: Path) -> None:
    # A defect elsewhere: lengths of a file from a stranger are believed, and the process that reads it crashes.
    offsets = np.array([0, 3, 7], np.int32).tobytes()
    for name in ("a.feather", "a.arrow"):
        path = Path(write(tmp_path / name, pa.table({"image": [b"abc", b"defg"]})).url)
        raw = path.read_bytes()
        assert raw.count(offsets) == 1
        place = put(tmp_path, name, raw.replace(offsets, np.array([0, 3, 2**31 - 1], np.int32).tobytes()))
        with pytest.raises(Refused) as error:
            contents(place)
        assert error.value.reason == "corrupt"


def test_a_table_that_changed_is_refused_row_by_row(tmp_path: Path) -> None:
    place = write(tmp_path / "a.parquet", TABLE)
    listed = contents(place).table
    os.utime(place.url, ns=(1, 1))
    assert [record.refused.reason for record in records(place, listed) if record.refused] == ["unreadable"] * 5
    assert refusals(write(tmp_path / "a.parquet", TABLE)) == {}


def test_a_row_group_is_read_page_by_page(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    rows = [noise.bytes(200_000) for _ in range(150)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": pa.array(rows, pa.binary())}), path, write_batch_size=4, use_dictionary=False,
                   write_statistics=False)
    place, pool, most = place_of(path), pa.default_memory_pool(), 0
    assert contents(place).table["group"].to_pylist() == [0] * 150
    before = pool.bytes_allocated()
    for record, raw in zip(records(place, contents(place).table), rows, strict=True):
        assert record.raw == raw
        most = max(most, pool.bytes_allocated() - before)
    assert most < 20_000_000
