"""Writing rows: what goes in comes out, what cannot be stored is refused, and the receipt comes last."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sciencessl.errors import DataError, SciencesslError, StoreError
from sciencessl.spec import FieldSpec
from sciencessl.store import format as zpack
from sciencessl.store import writer
from sciencessl.store.reader import Store
from sciencessl.store.seal import read_receipt, seal
from sciencessl.store.verify import verify
from sciencessl.store.writer import PreparedSample, Refusal, array_chunk, create_store, padded_places, write_row

IMAGE = FieldSpec("bytes", ("r", "g", "b"))


def test_bytes_come_back_with_their_columns(tmp_path: Path, make: Any, sample: Any) -> None:
    images = [b"", b"\x00", b"\xff" * 1000, bytes(range(256))]
    samples = [sample(f"s{i}", image=image, width=i) for i, image in enumerate(images)]
    store = make(tmp_path / "s.zarr", [samples])
    stored = dict(zip(store.ids, store.payloads("image", np.arange(4)), strict=True))
    assert stored == {f"s{i}": image for i, image in enumerate(images)}
    assert dict(zip(store.ids, store.column("width").tolist(), strict=True)) == {f"s{i}": i for i in range(4)}


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("shape", [(9,), (3, 4)])
def test_arrays_come_back_in_their_dtype(
    tmp_path: Path, make: Any, dtype: str, channels: int, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(3)
    spec = FieldSpec("array", tuple("abcdef"[:channels]), dtype, spatial_dims=len(shape), shape=shape)
    values = [rng.integers(0, 200, (channels, *shape)).astype(dtype) for _ in range(3)]
    rows = [[PreparedSample(f"s{i}", "train", {"x": value})] for i, value in enumerate(values)]
    store = make(tmp_path / "s.zarr", rows, {"x": spec})
    for found, value in zip(store.payloads("x", [0, 1, 2]), values, strict=True):
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, value)
    assert verify(store.path) == []


def test_an_image_of_zeros_is_stored_like_any_other(tmp_path: Path, make: Any, sample: Any) -> None:
    store = make(tmp_path / "s.zarr", [[sample("dark", image=bytes(40), flux=np.zeros((2, 4, 4), "f4"))]])
    assert all((store.path / zpack.shard_file(name, spec, 0)).exists() for name, spec in store.header.fields.items())
    assert store.payloads("image", [0]) == [bytes(40)]
    assert not store.payloads("flux", [0])[0].any()


def test_an_empty_row_is_committed_with_its_refusals(tmp_path: Path, header: Any) -> None:
    h = header()
    create_store(tmp_path / "s", h, 100)
    receipt = write_row(tmp_path / "s", h, 0, [], [Refusal("x", "corrupt", "no end"), Refusal("y", "corrupt")], "in")
    assert (receipt.samples, receipt.refused, receipt.payload_bytes) == (0, {"corrupt": 2}, 0)
    assert pq.read_table(tmp_path / "s" / zpack.refused_file(0)).to_pydict() == {
        "id": ["x", "y"], "reason": ["corrupt"] * 2, "detail": ["no end", ""],
    }
    assert read_receipt(tmp_path / "s", 0) == receipt


def test_samples_lie_by_split_then_key(tmp_path: Path, make: Any, sample: Any) -> None:
    names = [f"n{i}" for i in range(12)]
    samples = [sample(name, zpack.SPLITS[i % 3]) for i, name in enumerate(names)]
    store = make(tmp_path / "s.zarr", [samples])
    order = sorted(range(12), key=lambda i: (i % 3, zpack.sample_key("images", names[i])))
    assert store.ids == [names[i] for i in order]
    assert [key.tobytes() for key in store.keys(np.arange(12))] == [zpack.sample_key("images", n) for n in store.ids]


VALUES: dict[str, list[Any]] = {
    "ints with missing": [1, None, 2**60],
    "floats with NaN": [0.1, float("nan"), None],
    "flags": [True, None, False],
    "integers beside fractions": [1, 2.5, None],
    "numpy scalars": [np.float32(0.1), np.float32(3), np.float32("nan")],
    "numpy integers": [np.int16(3), np.int16(-4), None],
    "numpy flags": [np.bool_(True), np.bool_(False), None],
    "unsigned": [np.uint64(2**64 - 1), None, np.uint64(1)],
    "text": ["ü", "", None],
    "text with NaN": ["a", float("nan"), "b"],
    "only missing": [None, None, None],
    "dates": [date(2020, 1, 2), None, date(1999, 12, 31)],
    "raw": [b"\x00\xff", None, b""],
    "vectors": [[1.0, 2.0], None, []],
    "numpy vectors": [np.arange(2), np.arange(0), np.arange(3)],
}


@pytest.mark.parametrize("name", list(VALUES))
def test_columns_keep_their_digest_through_parquet(tmp_path: Path, make: Any, sample: Any, name: str) -> None:
    rows = [[sample(f"r{row}s{i}", x=value) for i, value in enumerate(VALUES[name])] for row in range(2)]
    assert verify(make(tmp_path / "s.zarr", rows).path) == []


def test_a_type_that_differs_between_rows_as_numbers_may(tmp_path: Path, make: Any, sample: Any) -> None:
    store = make(tmp_path / "s.zarr", [[sample("a", x=1)], [sample("b", x=2.5)], [sample("c")]])
    np.testing.assert_array_equal(store.column("x"), [1.0, 2.5, np.nan])
    assert verify(store.path) == []


def flux_of(dtype: str, *shape: int) -> dict[str, Any]:
    return {"image": b"x", "flux": np.zeros(shape, dtype)}


WRONG: list[tuple[type[SciencesslError], str, PreparedSample]] = [
    (StoreError, r"'s': field 'flux' holds float32 \(2, 4, 4\), got float64 \(2, 4, 4\)",
     PreparedSample("s", "train", flux_of("f8", 2, 4, 4))),
    (StoreError, r"holds float32 \(2, 4, 4\), got float32 \(4, 4, 2\)",
     PreparedSample("s", "train", flux_of("f4", 4, 4, 2))),
    (StoreError, "holds float32 .*, got list", PreparedSample("s", "train", {"image": b"x", "flux": [1]})),  # type: ignore[dict-item]
    (StoreError, "'image' is stored as bytes, got ndarray",
     PreparedSample("s", "train", {**flux_of("f4", 2, 4, 4), "image": np.zeros(3, "u1")})),
    (StoreError, r"payload for \['image'\], but the store has fields \['flux', 'image'\]",
     PreparedSample("s", "train", {"image": b"x"})),
    (DataError, "split 'dev', expected one of train, val, test", PreparedSample("s", "dev", flux_of("f4", 2, 4, 4))),
    (DataError, "an id is text of at least one character", PreparedSample("", "train", flux_of("f4", 2, 4, 4))),
    (DataError, "valid Unicode", PreparedSample("\ud800", "train", flux_of("f4", 2, 4, 4))),
    (DataError, r"column names \['image.size', 'key'\] for itself",
     PreparedSample("s", "train", flux_of("f4", 2, 4, 4), {"key": 1, "image.size": 2})),
    (DataError, "column 'x' mixes values of types int, str",
     PreparedSample("s", "train", flux_of("f4", 2, 4, 4), {"x": 1})),
    (DataError, r"column 'y' holds whole numbers outside -2\^63 to 2\^63 - 1; give them as text",
     PreparedSample("s", "train", flux_of("f4", 2, 4, 4), {"y": 2**63})),
]


@pytest.mark.parametrize(("kind", "message", "wrong"), WRONG)
def test_what_cannot_be_stored_is_said_and_leaves_no_receipt(
    tmp_path: Path, header: Any, sample: Any, kind: type[SciencesslError], message: str, wrong: PreparedSample
) -> None:
    h = header()
    create_store(tmp_path / "s", h, 100)
    with pytest.raises(kind, match=message):
        write_row(tmp_path / "s", h, 0, [sample("good", x="text"), wrong], [], "in")
    assert read_receipt(tmp_path / "s", 0) is None


def test_a_row_that_is_too_large_says_what_to_do(
    tmp_path: Path, header: Any, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zpack, "ROW_BYTES", 2**20)
    h = header()
    create_store(tmp_path / "s", h, 2**20)
    samples = [sample(f"s{i}", image=bytes(400_000)) for i in range(3)]
    with pytest.raises(StoreError, match=r"row 0: 3 samples take 1 MiB, but a row holds 1 MiB; .* smaller resize_px"):
        write_row(tmp_path / "s", h, 0, samples, [], "in")
    assert write_row(tmp_path / "s", h, 0, samples[:2], [], "in").payload_bytes == 800_000 + 2 * 2 * 4 * 4 * 4


def test_more_samples_than_places_and_rows_outside_the_store_are_refused(
    tmp_path: Path, header: Any, sample: Any
) -> None:
    h = header(places=2)
    create_store(tmp_path / "s", h, 100)
    with pytest.raises(StoreError, match="row 0: 3 samples, but a row of field 'flux' has 2 places"):
        write_row(tmp_path / "s", h, 0, [sample(n) for n in "abc"], [], "in")
    for row in (-1, 1):
        with pytest.raises(StoreError, match=f"row {row}: the store has rows 0 to 0"):
            write_row(tmp_path / "s", h, row, [], [], "in")


def test_a_store_is_made_once_and_open(tmp_path: Path, header: Any) -> None:
    h = header()
    create_store(tmp_path / "s", h, 100)
    with pytest.raises(StoreError, match="is there already"):
        create_store(tmp_path / "s", h, 100)
    with pytest.raises(StoreError, match="hold nothing"):
        create_store(tmp_path / "t", header(rows=0), 100)
    with pytest.raises(StoreError, match="only `seal` may say so"):
        create_store(tmp_path / "t", seal_of(tmp_path / "u", h), 100)


def seal_of(path: Path, h: zpack.StoreHeader) -> zpack.StoreHeader:
    create_store(path, h, 100)
    payload = {"image": b"x", "flux": np.zeros((2, 4, 4), "f4")}
    write_row(path, h, 0, [PreparedSample("s", "train", payload)], [], "in")
    return seal(path, h)


def test_sealed_stores_and_those_of_other_settings_are_not_written(tmp_path: Path, header: Any) -> None:
    h = header()
    seal_of(tmp_path / "s", h)
    with pytest.raises(StoreError, match="is sealed and never edited"):
        write_row(tmp_path / "s", h, 0, [], [], "in")
    create_store(tmp_path / "t", h, 100)
    with pytest.raises(StoreError, match="other fields, rows or settings"):
        write_row(tmp_path / "t", header(settings={"size": 9}), 0, [], [], "in")


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.parametrize("stop", ["rows", "refused", "receipts"])
def test_a_half_written_row_is_written_again_to_the_same_files(
    tmp_path: Path, header: Any, sample: Any, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    h = header()
    good = [sample(f"s{i}", width=i) for i in range(4)]
    for name in ("once", "twice"):
        create_store(tmp_path / name, h, 100)
    write_row(tmp_path / "once", h, 0, good, [], "in")
    write_row(tmp_path / "twice", h, 0, [sample(f"t{i}", image=bytes(999)) for i in range(8)], [], "other")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_atomic", failing_at(stop))
        with pytest.raises(OSError, match="disk full"):
            write_row(tmp_path / "twice", h, 0, good, [], "in")
    assert read_receipt(tmp_path / "twice", 0) is None
    write_row(tmp_path / "twice", h, 0, good, [], "in")
    assert content(tmp_path / "twice") == content(tmp_path / "once")


def failing_at(folder: str) -> Callable[[Path, bytes], None]:
    def write(path: Path, raw: bytes) -> None:
        if path.parent.name == folder:
            raise OSError(28, "disk full")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)

    return write


def test_the_receipt_says_what_was_stored(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header()
    create_store(tmp_path / "s", h, 100)
    receipt = write_row(tmp_path / "s", h, 0, [sample("a", image=b"12345")], [], "in")
    assert json.loads((tmp_path / "s" / "receipts/00000000.json").read_bytes())["samples"] == 1
    assert (receipt.inputs_digest, receipt.config_digest) == ("in", "config")
    assert receipt.payload_bytes == 5 + 2 * 4 * 4 * 4
    for name, expected in receipt.files.items():
        assert zpack.digest((tmp_path / "s" / name).read_bytes()) == expected
    assert set(receipt.files) == {"rows/00000000.parquet", "refused/00000000.parquet"}


def test_rows_of_arrays_are_padded_to_whole_chunks(
    tmp_path: Path, make: Any, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zpack, "ARRAY_CHUNK_BYTES", 300)
    spec = FieldSpec("array", ("g", "r"), "float32", shape=(4, 4))
    assert [array_chunk(places, spec) for places in (1, 2, 5)] == [1, 2, 2]
    assert [padded_places(places, spec) for places in (1, 2, 5)] == [1, 2, 6]
    rows = [[sample(f"{row}-{i}") for i in range(5)] for row in "ab"]
    store = make(tmp_path / "s.zarr", rows)
    given = {s.id: s.payload["flux"] for row in rows for s in row}
    for name, found in zip(store.ids, Store(store.path).payloads("flux", np.arange(10)), strict=True):
        np.testing.assert_array_equal(found, given[name])
