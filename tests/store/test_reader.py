"""Reading: any order, across windows, with columns in place, and with damage confined to its row."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec
from sciencessl.store import format as zpack
from sciencessl.store import reader
from sciencessl.store.header import read_header
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.split import SplitIndex
from sciencessl.store.tables import write_table
from sciencessl.store.verify import verify
from sciencessl.store.writer import PreparedSample, create_store


def expected_payloads(rows: list[list[PreparedSample]], field: str) -> dict[str, Any]:
    return {s.id: s.payload[field] for row in rows for s in row}


@pytest.mark.parametrize("cache", [1, 150, 10_000])
def test_payloads_in_any_order_through_small_windows(
    tmp_path: Path, make: Any, sample: Any, monkeypatch: pytest.MonkeyPatch, cache: int
) -> None:
    monkeypatch.setattr(reader, "WINDOW_BYTES", 64)
    monkeypatch.setattr(reader, "CACHE_BYTES", cache)
    monkeypatch.setattr(zpack, "ARRAY_CHUNK_BYTES", 256)
    rng = np.random.default_rng(5)
    sizes = [[0, 64, 1, 63, 200, 0, 128], [], [65, 3, 0]]
    rows = [[sample(f"{r}-{i}", image=rng.bytes(n)) for i, n in enumerate(row)] for r, row in enumerate(sizes)]
    store = make(tmp_path / "s.zarr", rows)
    images, fluxes = expected_payloads(rows, "image"), expected_payloads(rows, "flux")
    for _ in range(20):
        index = rng.integers(0, len(store), 7)
        assert store.payloads("image", index) == [images[store.ids[i]] for i in index]
        np.testing.assert_array_equal(store.payloads("flux", index), [fluxes[store.ids[i]] for i in index])
        windows = store._own.windows
        assert windows.nbytes <= cache or len(windows) == 1
    assert store.payloads("image", []) == []


def test_a_window_is_read_once_while_it_is_kept(survey: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int, int]] = []
    read = Store.read_window

    def counted(self: Store, *window: Any) -> np.ndarray:
        seen.append(window)
        return read(self, *window)

    monkeypatch.setattr(Store, "read_window", counted)
    for index in ([0, 6, 3], [5, 1], [0]):
        survey.payloads("image", index)
    assert sorted(row for _, row, _, _ in seen) == [0, 2]


@pytest.mark.parametrize("field", ["image", "flux"])
def test_consecutive_samples_are_one_exact_read_of_each_row(
    tmp_path: Path, make: Any, sample: Any, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setattr(zpack, "ARRAY_CHUNK_BYTES", 256)
    rng = np.random.default_rng(6)
    sizes = [[0, 0], [], [64, 1, 0, 63, 200, 0], [3], [65, 0]]
    rows = [[sample(f"{r}-{i}", image=rng.bytes(n)) for i, n in enumerate(row)] for r, row in enumerate(sizes)]
    store = make(tmp_path / "s.zarr", rows)
    wanted = [expected_payloads(rows, field)[name] for name in store.ids]
    bounds = np.cumsum([0, *map(len, rows)])
    seen: list[tuple[str, int, int, int]] = []
    read = Store.read_window
    monkeypatch.setattr(Store, "read_window", lambda self, *window: (seen.append(window), read(self, *window))[1])
    for first in range(len(store) + 1):
        for stop in range(first, len(store) + 1):
            seen.clear()
            found = store.consecutive(field, first, stop)
            assert [np.asarray(a).tobytes() for a in found] == [np.asarray(b).tobytes() for b in wanted[first:stop]]
            expected = []
            for row in range(len(rows)):
                lo, hi = (int(np.clip(edge, bounds[row], bounds[row + 1])) for edge in (first, stop))
                before, inside = wanted[bounds[row] : lo], wanted[lo:hi]
                if field == "flux" and inside:
                    expected.append((field, row, len(before), len(before) + len(inside)))
                elif field == "image" and sum(map(len, inside)):
                    start = sum(map(len, before))
                    expected.append((field, row, start, start + sum(map(len, inside))))
            assert seen == expected
    assert store._own.windows.nbytes == 0


def test_the_caller_may_change_what_it_was_given(survey: Store) -> None:
    first = survey.payloads("flux", [0])[0]
    kept = np.array(first)
    first[...] = 0
    np.testing.assert_array_equal(survey.payloads("flux", [0])[0], kept)
    survey.consecutive("flux", 0, 4)[0][...] = 0
    np.testing.assert_array_equal(survey.consecutive("flux", 0, 4)[0], kept)


def test_what_the_store_lacks_is_said(survey: Store) -> None:
    with pytest.raises(StoreError, match=r"no field named 'imag'. Did you mean 'image'"):
        survey.payloads("imag", [0])
    for index in (-1, 7):
        for ask in (partial(survey.payloads, "image"), survey.keys):
            with pytest.raises(StoreError, match="sample index outside 0 to 6"):
                ask(np.array([index]))
    for first, stop in ((-1, 2), (5, 8), (3, 2)):
        with pytest.raises(StoreError, match=f"samples {first} to {stop}, expected a range within 0 to 7"):
            survey.consecutive("image", first, stop)
    with pytest.raises(StoreError, match=r"no field named 'imag'"):
        survey.consecutive("imag", 0, 1)
    with pytest.raises(StoreError, match="no split 'dev': a store has train, val, test"):
        survey.split("dev")
    with pytest.raises(StoreError, match=r"has no column 'widht'. Did you mean 'width'"):
        survey.column("widht")


@pytest.mark.parametrize("index", [np.array([True, False, True]), [0.0, 1.7], ["a0"]])
def test_samples_are_asked_for_by_whole_numbers(survey: Store, index: Any) -> None:
    for ask in (survey.keys, partial(survey.payloads, "image")):
        with pytest.raises(StoreError, match=r"expected whole numbers; of a mask, give np\.flatnonzero\(mask\)"):
            ask(index)
    assert survey.payloads("image", []) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=8))
def test_a_split_is_its_ranges_written_out(ranges: list[tuple[int, int]]) -> None:
    gaps, sizes = np.array(ranges).T
    first = np.cumsum(gaps + np.concatenate([[0], sizes[:-1]]))
    written = [i for a, n in zip(first, sizes, strict=True) for i in range(a, a + n)]
    index = SplitIndex(first, first + sizes)
    assert len(index) == len(written)
    assert index.all().tolist() == written
    backwards = np.arange(len(written))[::-1]
    assert index.to_store(backwards).tolist() == written[::-1]
    for outside in (-1, len(written)):
        with pytest.raises(StoreError, match=f"has {len(written)} samples"):
            index.to_store(np.array([outside]))


def test_splits_of_a_store(survey: Store) -> None:
    wanted = survey.column("split")
    for code, name in enumerate(zpack.SPLITS):
        assert survey.split(name).all().tolist() == np.flatnonzero(wanted == name).tolist()
        assert (survey.split_codes() == code).tolist() == (wanted == name).tolist()
    assert survey.split("train").to_store(np.array([[0], [2]])).shape == (2, 1)


def test_row_columns_and_tables_line_up_with_the_samples(survey: Store) -> None:
    width = {**{f"a{i}": i for i in range(4)}, **{f"c{i}": 10 + i for i in range(3)}}
    assert survey.column("width").tolist() == [width[name] for name in survey.ids]
    known = {"c0": "spiral", "a1": "smooth"}
    assert survey.column("class").tolist() == [known.get(name) for name in survey.ids]
    assert survey.column("id").tolist() == survey.ids
    assert survey.columns() == {"id": "rows", "split": "rows", "width": "rows", "group": "rows", "class": "labels"}
    assert survey.derived_from() == {"class": ("votes",)}


def test_a_column_that_some_rows_lack_is_missing_there(tmp_path: Path, make: Any, sample: Any) -> None:
    store = make(tmp_path / "s.zarr", [[sample("a", n=1, big=2**60 + 1, t="x")], [sample("b")]])
    np.testing.assert_array_equal(store.column("n"), [1.0, np.nan])
    assert store.column("big").tolist() == [2**60 + 1, None]
    assert store.column("t").tolist() == ["x", None]


def test_tables_hide_row_columns_and_earlier_tables(survey: Store) -> None:
    write_table(survey.path, "zz", pa.table({"id": survey.ids, "width": np.arange(7) * 0.5, "class": ["z"] * 7}))
    assert survey.columns()["width"] == "zz"
    assert survey.column("width").tolist() == [0.5 * i for i in range(7)]
    assert survey.column("class").tolist() == ["z"] * 7


def test_a_replaced_table_is_seen_by_an_open_store(survey: Store) -> None:
    before = survey.table_digests()
    assert survey.table("labels") is survey.table("labels")
    write_table(survey.path, "labels", pa.table({"id": ["c1"], "class": ["edge-on"]}))
    assert survey.table_digests() != before
    assert survey.column("class")[survey.ids.index("c1")] == "edge-on"
    with pytest.raises(StoreError, match=r"no table named 'label'. Did you mean 'labels'"):
        survey.table("label")


def test_refusals_and_keys(survey: Store) -> None:
    assert survey.refusals().to_pylist() == [{"id": "b0", "reason": "corrupt", "detail": "no end of image"}]
    assert survey.keys(np.array([6]))[0].tobytes() == zpack.sample_key("images", survey.ids[6])
    assert (len(survey), survey.primary, survey.tables) == (7, "image", ["labels"])


def test_a_store_travels_without_what_it_has_read(survey: Store) -> None:
    before = survey.payloads("image", range(7))
    assert survey.ids
    raw = pickle.dumps(survey)
    there = pickle.loads(raw)
    assert set(there.__dict__) == {"path", "header", "_opened", "_tables"}
    assert there._opened is None
    assert len(raw) == len(pickle.dumps(Store(survey.path)))
    assert there.payloads("image", range(7)) == before
    assert there.digest == survey.digest


def test_a_fork_opens_anew_and_waits_for_no_lock_of_its_parent(survey: Store) -> None:
    joined = JoinedStores([survey])
    images, keys = joined.payloads("image", range(7)), joined.keys(np.arange(7)).tolist()
    survey.payloads("flux", [0])
    mine = survey._own
    # As if other threads were reading at that moment: in the child nobody would ever free these.
    with mine.windows._lock, mine.index._kept._lock:
        child = os.fork()
        if not child:
            signal.alarm(60)
            try:
                sound = (joined.payloads("image", range(7)) == images and joined.keys(np.arange(7)).tolist() == keys
                         and joined.consecutive("image", 0, 7) == images and survey._own is not mine)
                os._exit(0 if sound else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert survey._own is mine
    assert joined.payloads("image", range(7)) == images


def test_what_a_loader_calls_reads_no_column_of_all_samples(survey: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("read what is as long as the store")

    for name in ("row_tables", "split_codes", "column", "columns"):
        monkeypatch.setattr(Store, name, refused)
    store = Store(survey.path)
    train = store.split("train")
    assert len(store) == 7
    found = train.to_store(np.array([2, 0]))
    assert len(store.keys(found)) == len(store.payloads("image", found)) == len(store.consecutive("flux", 1, 3)) == 2
    assert not {"rows", "ids"} & set(store.__dict__)


def test_what_is_no_store_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for name, reason in (("gone", "there is nothing of that name"), ("empty", "it has no zarr.json")):
        with pytest.raises(StoreError) as caught:
            read_header(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} is no store: {reason}. Make one with `sciencessl prepare`."
    with pytest.raises(StoreError, match="is no store") as caught:
        Store(str(tmp_path / "file"))
    assert "PosixPath" not in str(caught.value)
    (tmp_path / "empty" / "zarr.json").write_bytes(b'{"zarr_format": 3, ')
    with pytest.raises(StoreError, match=r"empty is no store, or its zarr\.json is damaged: Expecting"):
        Store(tmp_path / "empty")


def test_other_zarr_and_unsealed_stores_are_refused(tmp_path: Path, header: Any) -> None:
    zarr.create_group(tmp_path / "group", zarr_format=3)
    zarr.create_array(tmp_path / "array", shape=(2,), dtype="u1")
    create_store(tmp_path / "open", header(), 100)
    with pytest.raises(StoreError, match="group is a Zarr group but no zpack/1 store"):
        Store(tmp_path / "group")
    with pytest.raises(StoreError, match="array is no store"):
        Store(tmp_path / "array")
    with pytest.raises(StoreError, match=r"open was never sealed.*Run the same `sciencessl prepare` again"):
        Store(tmp_path / "open")
    assert not read_header(tmp_path / "open").sealed


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[3] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("field", ["image", "flux"])
@pytest.mark.parametrize(("harm", "message"), [(flip, "is damaged"), (Path.unlink, "is missing")])
def test_damage_stays_in_its_row(survey: Store, field: str, harm: Callable[[Path], None], message: str) -> None:
    whole = survey.payloads(field, range(7))
    harm(survey.path / zpack.shard_file(field, survey.header.fields[field], 0))
    store = Store(survey.path)
    with pytest.raises(StoreError, match=rf"row 0 of field '{field}' {message}.*sciencessl store verify"):
        store.payloads(field, [5, 2])
    for found, expected in zip(store.payloads(field, [6, 4, 5]), [whole[6], whole[4], whole[5]], strict=True):
        np.testing.assert_array_equal(found, expected)
    other = "flux" if field == "image" else "image"
    assert len(store.payloads(other, range(7))) == 7


@pytest.mark.parametrize(("name", "change"), [
    ("fields/flux", {"shape": [12, 2, 4, 0]}),
    ("fields/flux", {"data_type": "int32"}),
    ("fields/image", {"shape": [9, zpack.ROW_BYTES]}),
    ("index/row_first", {"shape": [3]}),
    ("index/split_first", {"shape": [3, 3]}),
    ("index/key", {"shape": [6, 16]}),
    ("index/image.offset", {"shape": [9]}),
])
def test_an_array_whose_shape_or_dtype_was_changed_is_refused(
    survey: Store, name: str, change: dict[str, Any]
) -> None:
    file = survey.path / name / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    store = Store(survey.path)
    with pytest.raises(StoreError, match=rf"{name} is \(.*, expected \(.*store verify"):
        _ = store.payloads("image", [0]), store.payloads("flux", [0]), store.split("train"), store.keys(np.arange(7))


def test_a_damaged_sidecar_names_its_row_and_leaves_the_pixels_readable(survey: Store) -> None:
    whole = survey.payloads("image", range(7))
    flip(survey.path / zpack.rows_file(2))
    store = Store(survey.path)
    with pytest.raises(StoreError, match=r"row 2 is damaged: rows/00000002.parquet"):
        store.column("width")
    assert store.payloads("image", range(7)) == whole


def test_reading_needs_no_right_to_write_and_changes_nothing(survey: Store) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in survey.path.rglob("*")}

    everything = [survey.path, *survey.path.rglob("*")]
    before = state()
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        store = Store(survey.path)
        assert len(store.payloads("image", range(7))) == len(store.payloads("flux", range(7))) == 7
        assert store.column("class")[store.ids.index("a1")] == "smooth"
        assert verify(survey.path) == []
    finally:
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert state() == before


def test_a_damaged_index_names_itself(survey: Store) -> None:
    flip(next(f for f in (survey.path / "index" / "row_first").rglob("*") if f.name == "0"))
    with pytest.raises(StoreError, match=r"index/row_first is damaged .*store verify"):
        len(Store(survey.path))
    shutil.rmtree(survey.path / "index" / "row_first")
    with pytest.raises(StoreError, match="index/row_first cannot be opened"):
        len(Store(survey.path))


def test_a_row_read_as_bytes_or_places(tmp_path: Path, make: Any) -> None:
    spec = FieldSpec("bytes", ("v",))
    store = make(tmp_path / "s.zarr", [[PreparedSample("a", "train", {"image": b"abcdef"})]], {"image": spec})
    assert store.read_window("image", 0, 1, 4).tobytes() == b"bcd"
    assert store.read_window("image", 0, 2, 2).size == 0
