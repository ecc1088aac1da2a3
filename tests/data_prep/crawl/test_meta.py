"""What is said of images becomes plain values, whatever nonsense it is."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from sciencessl.data_prep.crawl.meta import ALL, flattened, read_sidecars, wants


def said(raw: bytes) -> dict[str, Any]:
    return read_sidecars([("json", raw)], ALL)


def test_fields_of_json_are_taken_one_level_deep() -> None:
    fields = {"url": "http://x", "width": 3, "score": 0.5, "nsfw": True, "none": None, "exif": {"a": [1, "é"]},
              "l": [1]}
    assert said(json.dumps(fields).encode()) == {
        "url": "http://x", "width": 3, "score": 0.5, "nsfw": True, "exif": '{"a": [1, "é"]}', "l": "[1]"}


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe{", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"nul"])
def test_json_without_sense_says_nothing(raw: bytes) -> None:
    assert said(raw) == {}


def test_json_that_is_no_object_is_one_field() -> None:
    assert said(b"[1, 2]") == {"json": "[1, 2]"}


def test_values_fit_into_tables() -> None:
    found = said(json.dumps({"big": 2**70, "half": "\ud800", "\udfff": 1}).encode())
    assert found == {"big": str(2**70), "half": "\\ud800", "\\udfff": 1}
    pa.table({name: [value] for name, value in found.items()}).validate(full=True)


def test_captions_and_classes_are_text_and_fields_of_json_come_first() -> None:
    beside = [("txt", b" a cat\n"), ("cls", b"7"), ("json", b'{"class": 3}')]
    assert read_sidecars(beside, ALL) == {"caption": "a cat", "class": 3}
    assert read_sidecars([("txt", b"caf\xe9")], ALL) == {"caption": "caf\\xe9"}


def test_only_what_is_wanted_is_taken_and_read() -> None:
    assert read_sidecars([("json", b'{"a": 1, "b": 2}'), ("txt", b"t")], ["b"]) == {"b": 2}
    assert [wants(suffix, ["caption"]) for suffix in ("json", "txt", "cls")] == [True, True, False]
    assert [wants(suffix, ALL) for suffix in ("json", "txt", "cls")] == [True, True, True]
    assert not any(wants(suffix, []) for suffix in ("json", "txt", "cls"))


def test_columns_of_tables_become_plain_values_and_bytes_are_left_out() -> None:
    row = {"t": dt.date(2020, 1, 2), "d": Decimal("1.5"), "raw": b"x", "s": {"k": 1}, "txt": "c"}
    assert flattened(row, ALL) == {"t": "2020-01-02", "d": "1.5", "s": '{"k": 1}', "caption": "c"}
