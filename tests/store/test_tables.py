"""Tables beside the pixels: whole or absent, checked before they are written and again when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.errors import DataError, StoreError
from sciencessl.spec import LabelSchema, Question
from sciencessl.store import tables
from sciencessl.store.tables import (
    current_digest,
    list_tables,
    read_table,
    table_files,
    to_numpy,
    write_table,
)

SCHEMA = LabelSchema("gz", (Question("smooth", ("yes", "no")), Question("bar", ("strong", "none"), ("smooth_no",))))
LABELS = pa.table({"id": ["a", "b"], "class": ["x", None]})


def files(store: Path) -> dict[str, int]:
    return {str(f.relative_to(store)): f.stat().st_mtime_ns for f in store.rglob("*") if f.is_file()}


def test_a_table_comes_back_with_all_that_was_said_of_it(tmp_path: Path) -> None:
    votes = pa.table({"id": ["a"], "smooth_yes": [3], "smooth_no": [1.5], "other": ["t"]})
    written = write_table(tmp_path, "votes", votes, SCHEMA, {"other": ["smooth_yes"]}, "by volunteers")
    found = read_table(tmp_path, "votes")
    assert found == written
    assert found.data.equals(votes)
    assert (found.columns, found.schema, found.note) == (["smooth_yes", "smooth_no", "other"], SCHEMA, "by volunteers")
    assert found.derived_from == {"other": ("smooth_yes",)}
    assert found.digest == current_digest(tmp_path, "votes")
    assert set(files(tmp_path)) == table_files(tmp_path, "votes")
    assert list_tables(tmp_path) == ["votes"]


def test_the_same_content_again_touches_no_file(tmp_path: Path) -> None:
    first = write_table(tmp_path, "t", LABELS, note="n")
    before = files(tmp_path)
    assert write_table(tmp_path, "t", LABELS, note="n") == first
    assert files(tmp_path) == before


@pytest.mark.parametrize("change", [
    {"data": pa.table({"id": ["a", "b"], "class": ["x", "y"]})}, {"note": "other"}, {"derived_from": {"class": ["v"]}},
])
def test_any_change_replaces_the_table_and_its_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    first = write_table(tmp_path, "t", LABELS, note="n")
    second = write_table(tmp_path, "t", **{"data": LABELS, "note": "n", **change})
    assert second.digest != first.digest
    assert set(files(tmp_path)) == table_files(tmp_path, "t")


def test_a_table_replaced_while_it_is_read_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path, "t", LABELS, note="old")
    parsed = tables._parsed
    replaced = []

    def slow(folder: Path, raw: bytes) -> dict[str, Any]:
        described = parsed(folder, raw)
        if not replaced:
            replaced.append(True)
            write_table(tmp_path, "t", LABELS.slice(1), note="new")
        return described

    monkeypatch.setattr(tables, "_parsed", slow)
    found = read_table(tmp_path, "t")
    assert (found.note, found.data["id"].to_pylist()) == ("new", ["b"])


@pytest.mark.parametrize("stop", [".parquet", ".json"])
def test_a_replacement_that_was_killed_leaves_the_old_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    first = write_table(tmp_path, "t", LABELS)
    write = tables.write_atomic

    def killed(path: Path, raw: bytes) -> None:
        if path.suffix == stop:
            raise OSError("killed")
        write(path, raw)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_atomic", killed)
        with pytest.raises(OSError, match="killed"):
            write_table(tmp_path, "t", LABELS.slice(1))
    assert read_table(tmp_path, "t") == first
    write_table(tmp_path, "t", LABELS)
    assert set(files(tmp_path)) == table_files(tmp_path, "t")


def test_a_damaged_table_is_refused_and_may_be_written_again(tmp_path: Path) -> None:
    first = write_table(tmp_path, "t", LABELS)
    for name in sorted(table_files(tmp_path, "t")):
        raw = (tmp_path / name).read_bytes()
        for position in range(0, len(raw), 7):
            changed = bytearray(raw)
            changed[position] ^= 1 << position % 8
            (tmp_path / name).write_bytes(bytes(changed))
            with pytest.raises(StoreError, match="write the table again"):
                read_table(tmp_path, "t")
        assert write_table(tmp_path, "t", LABELS) == first
    next((tmp_path / "tables/t").glob("*.parquet")).unlink()
    with pytest.raises(StoreError, match="lacks its data; write the table again"):
        read_table(tmp_path, "t")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    write_table(tmp_path, "labels", LABELS)
    with pytest.raises(StoreError, match=r"no table named 'label'. Did you mean 'labels'"):
        read_table(tmp_path, "label")


@pytest.mark.parametrize(("data", "message"), [
    ({"x": [1]}, r"has columns \['x'\] but no 'id'"),
    ({"id": [1]}, "'id' is of type int64, expected text"),
    ({"id": ["a", "a"]}, "ids repeat or are empty"),
    ({"id": ["a", None]}, "ids repeat or are empty"),
])
def test_tables_that_cannot_be_joined_are_refused(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_table(tmp_path, "t", pa.table(data))
    assert not files(tmp_path)


def test_repeated_columns_and_bad_names_are_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], names=["id", "x", "x"])
    with pytest.raises(DataError, match="repeats a column name"):
        write_table(tmp_path, "t", twice)
    for name in ("", "a/b", "..", "a b", "a.b"):
        with pytest.raises(DataError, match="use letters, digits, '-' and '_'"):
            write_table(tmp_path, name, LABELS)
    assert write_table(tmp_path, "gz-dr5_v2", LABELS).name == "gz-dr5_v2"


@pytest.mark.parametrize(("votes", "message"), [
    ([1.0, -2.0, float("nan")], r"column 'smooth_no': 2 vote counts are negative or NaN, the first -2.0 at id 'b'"),
    ([None, 0.0, float("nan")], r"1 vote counts are negative or NaN, the first nan at id 'c'.*leave unasked"),
    ([float("inf"), None, 0.0], r"the first inf at id 'a'"),
    (["many", "2", "3"], "column 'smooth_no': vote counts are numbers from 0"),
])
def test_votes_that_are_no_counts_are_refused(tmp_path: Path, votes: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_table(tmp_path, "votes", pa.table({"id": list("abc"), "smooth_no": votes}), SCHEMA)


def test_votes_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 4 answer columns of schema 'gz', such as 'smooth_yes'"):
        write_table(tmp_path, "votes", LABELS, SCHEMA)


def test_counts_and_columns_follow_the_ids_asked_for(tmp_path: Path) -> None:
    votes = pa.table({"id": ["c", "a", "stranger"], "smooth_yes": [3, None, 9], "bar_none": [0.5, 2.0, 9.0]})
    table = write_table(tmp_path, "votes", votes, SCHEMA)
    found = table.counts(["a", "b", "c"], SCHEMA.columns)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 0, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0.5]])
    np.testing.assert_array_equal(table.aligned("bar_none", ["a", "b", "c"]), [2, np.nan, 0.5])
    np.testing.assert_array_equal(table.aligned("smooth_yes", ["c", "c"]), [3, 3])


def test_missing_integers_are_never_rounded() -> None:
    assert to_numpy(pa.chunked_array([[1, None]])).dtype == np.float64
    assert to_numpy(pa.chunked_array([[2**53 + 1, None]])).tolist() == [2**53 + 1, None]
    assert to_numpy(pa.chunked_array([[2**53 + 1]])).tolist() == [2**53 + 1]
