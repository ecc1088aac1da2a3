"""What comes with images: one type a column, whatever later records hold."""

from __future__ import annotations

import pytest

from sciencessl.data_prep.crawl.kept import column_types, fit


def test_the_narrowest_type_that_holds_what_was_seen() -> None:
    seen = [{"n": 3, "x": 1, "t": "a", "b": True, "mixed": True, "big": 2**63}, {"n": None, "x": 0.5, "mixed": 1}]
    assert column_types(seen, ["n", "x", "t", "b", "mixed", "big", "absent"]) == {
        "n": "int", "x": "float", "t": "text", "b": "bool", "mixed": "text", "big": "text", "absent": "text",
    }


def test_all_takes_every_name_that_was_seen_and_those_asked_for() -> None:
    assert list(column_types([{"b": 1}, {"a": 1}], ["url", "all"])) == ["url", "a", "b"]


@pytest.mark.parametrize(("value", "kind", "kept"), [
    (None, "text", None), ("é", "text", "é"), (3, "text", "3"), ({"a": [1]}, "text", '{"a": [1]}'),
    ("\ud800", "text", "\\ud800"),
    (3, "int", 3), (2**63, "int", None), (True, "int", None), ("3", "int", None), (1.5, "int", None),
    (3, "float", 3.0), (1.5, "float", 1.5), (float("nan"), "float", None), (10**400, "float", None),
    ("x", "float", None), (True, "float", None),
    (True, "bool", True), (1, "bool", None),
])
def test_what_does_not_fit_is_missing(value: object, kind: str, kept: object) -> None:
    found = fit(value, kind)
    assert found == kept
    assert type(found) is type(kept)
