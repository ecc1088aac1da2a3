from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec
from sciencessl.store import format as zpack


@dataclass(frozen=True)
class Settings:
    size: int = 4
    bands: tuple[str, ...] = ("g", "r")


def test_the_digest_is_blake2b_of_length_prefixed_parts() -> None:
    parts = (b"ab", b"", b"c")
    joined = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    assert zpack.digest(*parts) == blake2b(joined, digest_size=16).hexdigest()
    assert zpack.digest(b"ab", b"c") != zpack.digest(b"a", b"bc")
    floats = np.arange(6, dtype="f4")
    assert zpack.digest(floats.view("u1").data) == zpack.digest(floats.tobytes())


def test_the_key_of_a_sample_is_fixed_for_ever() -> None:
    expected = blake2b(b"\x06" + bytes(7) + b"images" + b"\x04" + bytes(7) + b"J123", digest_size=16).digest()
    assert zpack.sample_key("images", "J123") == expected
    assert len({zpack.sample_key("images", "a"), zpack.sample_key("tiles", "a"), zpack.sample_key("imagesa", "")}) == 3


@pytest.mark.parametrize(
    ("size", "chunk"),
    [(0, 2**16), (2**16, 2**16), (2**16 + 1, 2**17), (2**21, 2**20), (2**27, 2**21), (2**28, 2**22), (2**30, 2**22)],
)
def test_chunks_of_packed_rows_are_powers_of_two_that_divide_a_row(size: int, chunk: int) -> None:
    assert zpack.chunk_bytes(size) == chunk
    assert zpack.ROW_BYTES % chunk == 0


@pytest.mark.parametrize(("item", "samples"), [(1, 2**21), (2**20, 2), (3 * 2**20, 1), (2**30, 1), (49_152, 64)])
def test_chunks_of_arrays_hold_a_power_of_two_of_samples_below_3_mib(item: int, samples: int) -> None:
    assert zpack.array_chunk_samples(item) == samples
    assert samples == 1 or samples * item <= 3 * 2**20 < 2 * samples * item


def test_file_names_of_a_row() -> None:
    assert zpack.rows_file(123) == "rows/00000123.parquet"
    assert zpack.receipt_file(123) == "receipts/00000123.json"
    assert zpack.refused_file(123) == "refused/00000123.parquet"
    assert zpack.shard_file("image", FieldSpec("bytes", ("r",)), 3) == "fields/image/c/3/0"
    assert zpack.shard_file("flux", FieldSpec("array", ("r",), shape=(4, 4)), 3) == "fields/flux/c/3/0/0/0"
    assert zpack.shard_file("signal", FieldSpec("array", ("r",), shape=(9,)), 3) == "fields/signal/c/3/0/0"


def test_json_is_canonical_for_what_settings_hold() -> None:
    values = {
        "b": np.float32(0.5), "a": np.int64(3), "path": Path("x/y"), "day": date(2020, 1, 2), "raw": b"\x01\xff",
        "set": {"z", "a"}, "data": Settings(), "array": np.arange(2), "flag": np.bool_(True), "ü": None,
    }
    expected = (
        '{"a":3,"array":[0,1],"b":0.5,"data":{"bands":["g","r"],"size":4},"day":"2020-01-02","flag":true,'
        '"path":"x/y","raw":"01ff","set":["a","z"],"ü":null}'
    )
    assert zpack.canonical_json(values).decode() == expected


def test_json_refuses_what_has_no_lasting_text() -> None:
    with pytest.raises(StoreError, match=r"object .* cannot be written to a store"):
        zpack.canonical_json({"a": object()})
    for unordered in ({1: 0, "a": 0}, {(1, 2): 0}, {1, "a"}):
        with pytest.raises(StoreError, match="use text for its keys"):
            zpack.canonical_json(unordered)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_read_back_gives_the_same_bytes(values: Any) -> None:
    assert zpack.canonical_json(zpack.plain(values)) == zpack.canonical_json(values)


def test_a_header_survives_its_attributes(header: Any) -> None:
    h = header(settings={"size": 4, "nested": {"bands": ["g"]}})
    back = zpack.StoreHeader.from_attributes(json.loads(json.dumps(h.to_attributes())), Path("x"))
    assert back == h


def test_settings_that_json_changes_keep_their_digest_when_read_back(header: Any) -> None:
    h = header(settings={"keys": {10: "ten", 9: ("a", Path("b"))}, "f": np.float32(0.5), "nan": float("nan")})
    back = zpack.StoreHeader.from_attributes(json.loads(json.dumps(h.to_attributes())), Path("x"))
    assert back.to_attributes()["self"] == h.to_attributes()["self"]
    assert zpack.manifest_digest(back, ["r"]) == zpack.manifest_digest(h, ["r"])


def test_attributes_of_others_and_changed_ones_are_refused(header: Any) -> None:
    attributes = header().to_attributes()
    with pytest.raises(StoreError, match=r"x is a Zarr group but no zpack/1 store.*sciencessl prepare"):
        zpack.StoreHeader.from_attributes({"title": "other"}, Path("x"))
    with pytest.raises(StoreError, match="format 'zpack/9', expected 'zpack/1'"):
        zpack.StoreHeader.from_attributes({**attributes, "format": "zpack/9"}, Path("x"))
    for name, value in (("rows", 2), ("sealed", True), ("domain", "web"), ("self", "0"), ("more", 1)):
        with pytest.raises(StoreError, match="does not match its own digest"):
            zpack.StoreHeader.from_attributes({**attributes, name: value}, Path("x"))


@pytest.fixture
def receipt() -> zpack.Receipt:
    return zpack.Receipt(1, "in", "config", "row", 5, {"corrupt": 2, "ü": 1}, 99, {"rows/1": "d"})


def test_a_receipt_survives_its_bytes(receipt: zpack.Receipt) -> None:
    assert zpack.Receipt.from_bytes(receipt.to_bytes(), "receipts/1") == receipt


def test_every_flipped_bit_of_a_receipt_is_refused(receipt: zpack.Receipt) -> None:
    raw = receipt.to_bytes()
    for position in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[position] ^= 1 << bit
            with pytest.raises(StoreError, match="receipts/1"):
                zpack.Receipt.from_bytes(bytes(changed), "receipts/1")


@pytest.mark.parametrize("raw", [b"", b"[1]", b"3", b"null", b"{}", b"\xff"])
def test_what_is_no_receipt_is_refused(raw: bytes) -> None:
    with pytest.raises(StoreError, match=r"receipts/1 is not a receipt .*: the file was changed or damaged"):
        zpack.Receipt.from_bytes(raw, "receipts/1")


def test_the_manifest_covers_content_and_nothing_else(header: Any) -> None:
    h = header(rows=2)
    base = zpack.manifest_digest(h, ["a", "b"])
    assert zpack.manifest_digest(replace(h, sealed=True, manifest_digest="m", plan_digest="other"), ["a", "b"]) == base
    others = [
        zpack.manifest_digest(h, ["b", "a"]),
        zpack.manifest_digest(h, ["a", "c"]),
        zpack.manifest_digest(replace(h, settings={"size": 5}), ["a", "b"]),
        zpack.manifest_digest(replace(h, source="tiles"), ["a", "b"]),
        zpack.manifest_digest(replace(h, domain="web"), ["a", "b"]),
        zpack.manifest_digest(replace(h, fields={"image": h.fields["image"]}), ["a", "b"]),
    ]
    assert len({base, *others}) == 7


FIELDS = {"image": FieldSpec("bytes", ("r",))}


def digest_of(column: list[Any], **more: Any) -> str:
    ids = [str(i) for i in range(len(column))]
    values = {"id": ids, "split": ["train"] * len(ids), "x": pa.array(column), **more}
    return zpack.row_digest(pa.table(values), {"image": [b"p"] * len(ids)}, FIELDS)


def test_the_row_digest_is_the_documented_one() -> None:
    table = pa.table({"id": ["s"], "split": ["val"], "x": [1.5], "image.offset": [0], "image.size": [2], "key": [b"k"]})
    described = b'{"columns":{"x":1.5},"id":"s","split":"val"}'
    one = zpack.digest(described, b"image", b"pq")
    assert zpack.row_digest(table, {"image": [b"pq"]}, FIELDS) == zpack.digest(one.encode())


def test_a_missing_value_is_no_value_and_nan_is_one() -> None:
    assert digest_of([None, None]) == digest_of([None, None], y=pa.array([None, None], pa.float64()))
    assert len({digest_of([1.0, None]), digest_of([1.0, float("nan")]), digest_of([1.0, 0.0])}) == 3


def test_the_row_digest_sees_bytes_and_arrays_alike() -> None:
    table = pa.table({"id": ["s"], "split": ["val"]})
    flux = np.arange(12, dtype=">i2").reshape(3, 4)[:, ::2]
    whole = zpack.row_digest(table, {"flux": [flux]}, FIELDS)
    assert whole == zpack.row_digest(table, {"flux": [flux.tobytes()]}, FIELDS)


def test_columns_with_a_dot_belong_to_the_user_unless_the_format_made_them() -> None:
    names = ["id", "key", "split", "image.offset", "image.size", "petro.size", "flux.offset"]
    assert zpack.user_columns(names, FIELDS) == ["petro.size", "flux.offset"]
